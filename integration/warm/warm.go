package warm

import (
	_ "github.com/google/go-containerregistry/pkg/v1/tarball"
	_ "github.com/google/go-containerregistry/pkg/v1/mutate"
	_ "github.com/google/go-containerregistry/pkg/v1/empty"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/stretchr/testify/require"
	_ "github.com/kubectl-backup/kubectl-backup/plugin/warm"
	_ "github.com/kopia/kopia/cli"
	_ "k8s.io/client-go/kubernetes"
	_ "golang.org/x/sys/unix"
	_ "sigs.k8s.io/yaml"
)
