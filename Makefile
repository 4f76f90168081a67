# The Go command may be pinned to a local toolchain; this is the project's.
export GOTOOLCHAIN = go1.27.3
export CGO_ENABLED = 0

K8S_VERSION = k8s.io/component-base/version
KUBE_LDFLAGS = -s -w -X $(K8S_VERSION).gitVersion=v1.37.2 -X $(K8S_VERSION).gitMajor=1 -X $(K8S_VERSION).gitMinor=37

.PHONY: build cluster cluster-down clean

build: ## bin/kubectl-backup
	go build -trimpath -ldflags "-s -w" -o bin/kubectl-backup ./cmd/kubectl-backup

# A whole Kubernetes from source. The first build takes a quarter of an hour
# on two cores; then the build cache holds it.
bin/kube: integration/go.mod integration/go.sum integration/cmd/kube/main.go
	@echo "building the Kubernetes program bin/kube (the first time about 15 minutes on two cores)"
	cd integration && go build -ldflags "$(KUBE_LDFLAGS)" -o ../bin/kube ./cmd/kube
	@touch bin/kube

cluster: bin/kube ## two Kubernetes clusters, contexts src and dst in .cluster/kubeconfig
	cd integration && go run ./cmd/cluster up

cluster-down: ## end what cluster started
	cd integration && go run ./cmd/cluster down

clean: cluster-down ## remove what was built and what ran
	rm -rf bin .bench .cluster
