package cluster

import (
	"context"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/integration/provisioner"
)

// storageClasses differ between the clusters, so that a restore from one to
// the other has to map them. The first of each is the default and waits for
// a pod; the second provisions at once.
var storageClasses = map[string][2]string{
	"src": {"fast", "slow"},
	"dst": {"premium", "archive"},
}

func (c *Cluster) createStorageClasses(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	reclaim := corev1.PersistentVolumeReclaimDelete
	for i, mode := range []storagev1.VolumeBindingMode{storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate} {
		class := &storagev1.StorageClass{
			ObjectMeta:        metav1.ObjectMeta{Name: storageClasses[c.Name][i]},
			Provisioner:       provisioner.Name,
			ReclaimPolicy:     &reclaim,
			VolumeBindingMode: &mode,
		}
		if i == 0 {
			class.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
		}
		if _, err := client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (c *Cluster) startProvisioner() error {
	return c.start("provisioner", filepath.Join(c.root, "bin", "cluster"), "provisioner",
		"--kubeconfig", c.kubeconfig("provisioner"), "--dir", c.paths.volumes, "--node", nodeName)
}
