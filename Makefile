# Start with "make demo" or "make test"; "make" alone lists the targets.
#
# Whatever a target needs is made first, and only where it is missing or older
# than what it is made of. Debian's packages, where they are missing, are
# installed by the program that starts the clusters.

# The Go command fetches this version by itself where it is another one.
export GOTOOLCHAIN := go1.27.3
export CGO_ENABLED := 0

VERSION     ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo v0.1.0-dev+$$(git rev-parse --short HEAD 2>/dev/null || echo unknown))
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
LDFLAGS     := -s -w -X github.com/kubectl-backup/kubectl-backup/plugin.version=$(VERSION)

# Clients cannot parse the version of a Kubernetes program that has none.
KUBE_VERSION := k8s.io/component-base/version
KUBE_LDFLAGS := -s -w -X $(KUBE_VERSION).gitVersion=v1.37.2 -X $(KUBE_VERSION).gitMajor=1 -X $(KUBE_VERSION).gitMinor=37

SOURCES     := go.mod go.sum $(shell find cmd plugin spec -name '*.go' -not -name '*_test.go' -not -path '*/testdata/*')
MODULES     := integration/go.mod integration/go.sum
DRIVING     := bin/csi-provisioner bin/csi-snapshotter bin/snapshot-controller
SIDECARS    := $(DRIVING) bin/csi-snapshot-metadata

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One recipe at a time: two cores are the usual machine, and Go uses them all.
.NOTPARALLEL:
.PHONY: help demo test bench build tools unit lint cluster cluster-down e2e release clean machine

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## the main job on two real clusters; KEEP=1 leaves them; CONTEXT=name: in two namespaces of an existing one
ifdef CONTEXT
	@$(MAKE) --no-print-directory build
	@cd integration && go run ./demo --context '$(CONTEXT)' $(if $(IMAGE_POSTGRES),--image-postgres '$(IMAGE_POSTGRES)') $(if $(IMAGE_BUSYBOX),--image-busybox '$(IMAGE_BUSYBOX)') $(if $(IMAGE_MOVER),--image-mover '$(IMAGE_MOVER)') $(if $(KEEP),--keep)
else
	@$(MAKE) --no-print-directory machine build bin/kube
	@cd integration && go run ./demo $(if $(KEEP),--keep)
endif

test: machine ## everything: build, lint, unit tests, then the end-to-end tests on two real clusters
	@echo '==> 1/4 build: the plugin and the programs that the tests need'
	@$(MAKE) --no-print-directory build tools
	@echo '==> 2/4 lint: gofmt, vet, staticcheck, imports'
	@$(MAKE) --no-print-directory lint
	@echo '==> 3/4 unit: tests without a cluster'
	@$(MAKE) --no-print-directory unit
	@echo '==> 4/4 e2e: tests on two real clusters, which are ended afterwards'
	@trap '$(MAKE) --no-print-directory cluster-down' EXIT; trap 'exit 130' INT TERM; \
		$(MAKE) --no-print-directory cluster && $(MAKE) --no-print-directory e2e

bench: machine build bin/kube bin/kopia bin/restic ## measure against client-go, kopia and restic: a table, and .bench/results.json
	cd integration && go run ./bench

build: bin/kubectl-backup bin/kubectl_complete-backup ## bin/kubectl-backup, and its completion for kubectl

# The Go command leaves a program alone that is as it should be; touch tells
# make so.
bin/kubectl-backup: $(SOURCES)
	go build -ldflags '$(LDFLAGS)' -o $@ ./cmd/kubectl-backup
	@touch $@

# kubectl asks a program of this name what comes next on the command line.
bin/kubectl_complete-backup: Makefile
	@mkdir -p bin
	@printf '#!/bin/sh\nexec kubectl-backup __complete "$$@"\n' >$@
	@chmod +x $@

tools: bin/kube $(SIDECARS) bin/rclone bin/kopia bin/toxiproxy bin/argocd ## what the tests use: Kubernetes, CSI's sidecars, Argo CD, rclone and kopia, from source

bin/kube: $(MODULES) $(wildcard integration/cmd/kube/*.go)
	@echo 'building Kubernetes: about 15 minutes on two cores the first time'
	cd integration && go build -ldflags '$(KUBE_LDFLAGS)' -o ../$@ ./cmd/kube
	@ln -sf kube bin/kubectl
	@touch $@

$(DRIVING) &: integration/csi/sidecars/go.mod integration/csi/sidecars/go.sum
	cd integration/csi/sidecars && go build -ldflags '-s -w' -o ../../../bin/ \
		github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner \
		github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter \
		github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller
	@touch $(DRIVING)

# A module of its own: it does not build with what the others resolve.
bin/csi-snapshot-metadata: integration/csi/metadata/go.mod integration/csi/metadata/go.sum
	cd integration/csi/metadata && go build -ldflags '-s -w' -o ../../../$@ github.com/kubernetes-csi/external-snapshot-metadata/cmd/csi-snapshot-metadata
	@touch $@

bin/rclone: $(MODULES) $(wildcard integration/cmd/rclone/*.go)
	cd integration && go build -ldflags '-s -w' -o ../$@ ./cmd/rclone
	@touch $@

bin/kopia: $(MODULES)
	cd integration && go build -ldflags '-s -w' -o ../$@ github.com/kopia/kopia
	@touch $@

# A module of its own: only the benchmark compares with it.
bin/restic: integration/bench/restic/go.mod integration/bench/restic/go.sum
	cd integration/bench/restic && go build -ldflags '-s -w' -o ../../../$@ github.com/restic/restic/cmd/restic
	@touch $@

# A module of its own: what it needs is older than what the others resolve.
bin/toxiproxy: integration/toxiproxy/go.mod integration/toxiproxy/go.sum
	cd integration/toxiproxy && go build -ldflags '-s -w' -o ../../$@ github.com/Shopify/toxiproxy/v2/cmd/server
	@touch $@

# A module of its own: it brings a great deal that nothing else needs.
bin/argocd: integration/argocd/go.mod integration/argocd/go.sum integration/argocd/main.go
	@echo 'building Argo CD: about 10 minutes on two cores the first time'
	cd integration/argocd && go build -ldflags '-s -w' -o ../../$@ .
	@touch $@

unit: ## tests that need no cluster
	go test ./...

# Without the few lines that link Kubernetes: both tools would look into all of
# it first.
LINTED = $$(go list ./... | grep -v /cmd/kube)
lint: ## gofmt, vet, staticcheck, the import table
	@unformatted=$$(gofmt -l cmd plugin spec integration); \
		if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...
	cd integration && go vet $(LINTED) && go run $(STATICCHECK) $(LINTED)
	go test -run 'TestImports' ./plugin

cluster: machine build bin/kube $(SIDECARS) ## start the clusters src and dst: .cluster/kubeconfig
	cd integration && go run ./cmd/cluster up

cluster-down: ## end the clusters, and remove all that they left
	@cd integration && for dir in ../.cluster*; do \
		if [ -d "$$dir" ]; then go run ./cmd/cluster down --dir "$$dir" || exit 1; fi; done

e2e: ## the end-to-end tests on PAIRS=2 pairs of clusters, which are started where they do not run; RUN=pattern: only some
	cd integration && go test -p 1 -timeout 30m $$(go list ./... | grep -v /integration/e2e)
	cd integration && go run ./cmd/e2e $(if $(PAIRS),--pairs $(PAIRS)) $(if $(RUN),--run '$(RUN)')

# What krew installs. Movers run in pods, so their program is the one for linux.
RELEASE := linux_amd64 linux_arm64 darwin_amd64 darwin_arm64
release: ## archives for each platform and krew's manifest, in dist/
	@rm -rf dist && mkdir -p dist
	@set -e; for platform in $(RELEASE); do \
		echo "dist/kubectl-backup_$$platform.tar.gz"; \
		GOOS=$${platform%_*} GOARCH=$${platform#*_} go build -trimpath -ldflags '$(LDFLAGS)' -o dist/$$platform/kubectl-backup ./cmd/kubectl-backup; \
		cp LICENSE dist/$$platform/; \
		tar -C dist/$$platform --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$$(git log -1 --format=%ct) -cf - kubectl-backup LICENSE | gzip -n >dist/kubectl-backup_$$platform.tar.gz; \
		rm -r dist/$$platform; \
	done
	@cd dist && sha256sum *.tar.gz >SHA256SUMS
	@awk -v version='$(VERSION)' ' \
		NR == FNR { sum[$$2] = $$1; next } \
		{ gsub(/v0\.0\.0/, version) } \
		/uri:/ { n = split($$2, part, "/"); archive = part[n] } \
		/sha256:/ { sub(/"0+"/, sum[archive]) } \
		{ print }' dist/SHA256SUMS krew/backup.yaml >dist/backup.yaml

clean: cluster-down ## end the clusters and remove what was built
	rm -rf bin dist .bench .cluster*

# What runs nodes needs root and Debian's packages: said before anything is
# built for a quarter of an hour.
machine:
	@[ "$$(uname -s)" = Linux ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { \
		echo 'This needs root on a Debian-like Linux: it starts real Kubernetes nodes. A virtual machine or a privileged container will do.' >&2; \
		echo 'With an existing cluster instead: make demo CONTEXT=name (see the README); tests without a cluster: make unit.' >&2; exit 1; }
	@command -v go >/dev/null || { echo 'Go is missing: any version from 1.21 on will do, it fetches $(GOTOOLCHAIN) by itself (https://go.dev/dl).' >&2; exit 1; }
