package plugin

import (
	"errors"

	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// cluster connects to the cluster that the kubeconfig flags name.
func (e *env) cluster() (*kube.Cluster, error) { return connect(e.kube) }

// clusterAt connects to the cluster of another context of the same
// kubeconfig; an empty context means the flags' own.
func (e *env) clusterAt(context string) (*kube.Cluster, error) {
	if context == "" {
		return e.cluster()
	}
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig = e.kube.KubeConfig
	flags.Context = &context
	flags.Timeout = e.kube.Timeout
	return connect(flags)
}

func connect(flags *genericclioptions.ConfigFlags) (*kube.Cluster, error) {
	loader := flags.ToRawKubeConfigLoader()
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, usagef("kubeconfig: %w", err)
	}
	context := raw.CurrentContext
	if flags.Context != nil && *flags.Context != "" {
		context = *flags.Context
		if _, ok := raw.Contexts[context]; !ok {
			return nil, usagef("kubeconfig has no context %q\nhint: kubectl config get-contexts lists them", context)
		}
	}
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, usagef("kubeconfig: %w", err)
	}
	return kube.New(config, context)
}

// namespace is the namespace given with -n, or empty.
func (e *env) namespace() string {
	if e.kube.Namespace == nil {
		return ""
	}
	return *e.kube.Namespace
}

// checkRemote looks at a remote without opening it.
func checkRemote(r *v1alpha1.BackupRemote) error { return placed(remote.Check(r.Spec), r) }

// placed gives an error over a field of a remote the place where that stands.
func placed(err error, r *v1alpha1.BackupRemote) error {
	var fault *v1alpha1.FieldError
	if errors.As(err, &fault) && fault.Position == (v1alpha1.Position{}) {
		fault.Position = r.At(fault.Path)
	}
	return err
}
