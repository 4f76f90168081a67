// Package provisioner is a dynamic provisioner for one node: a claim gets a
// directory there, as a local persistent volume, and the directory is removed
// when the volume is released and its class says Delete. It follows the
// protocol that CSI's external-provisioner follows, so that claims, volumes
// and their phases look as they do elsewhere.
//
// It does not enforce a size, and takes no snapshots: a claim with a data
// source is refused, never given an empty volume.
package provisioner

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
)

// Name is the provisioner's name in storage classes.
const Name = "directory.kubectl-backup.io"

// Annotations of the protocol between the scheduler, the controller manager
// and provisioners.
const (
	annotationProvisioner   = "volume.kubernetes.io/storage-provisioner"
	annotationSelectedNode  = "volume.kubernetes.io/selected-node"
	annotationProvisionedBy = "pv.kubernetes.io/provisioned-by"
)

type provisioner struct {
	client  kubernetes.Interface
	dir     string
	node    string
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	events  record.EventRecorder
}

// key names what has to be looked at.
type key struct {
	claim           bool
	namespace, name string
}

// Run provisions volumes as directories below dir until the context ends.
func Run(ctx context.Context, client kubernetes.Interface, dir, node string) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})

	factory := informers.NewSharedInformerFactory(client, 10*time.Minute)
	claims, volumes := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().PersistentVolumes()
	p := &provisioner{
		client: client, dir: dir, node: node,
		claims: claims.Lister(), volumes: volumes.Lister(), classes: factory.Storage().V1().StorageClasses().Lister(),
		events: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: Name}),
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](100*time.Millisecond, 30*time.Second))
	for _, source := range []cache.SharedIndexInformer{claims.Informer(), volumes.Informer()} {
		if _, err := source.AddEventHandler(handler(queue)); err != nil {
			return err
		}
	}
	factory.StartWithContext(ctx)
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("the list of %s could not be read: %w", kind, context.Cause(ctx))
		}
	}
	go func() {
		<-ctx.Done()
		queue.ShutDown()
	}()
	slog.Info("provisioning", "directory", dir)
	// One after the other: making a directory takes no time.
	for {
		k, down := queue.Get()
		if down {
			factory.Shutdown()
			return nil
		}
		if err := p.handle(ctx, k); err != nil {
			slog.Error("will be tried again", "namespace", k.namespace, "name", k.name, "error", err)
			queue.AddRateLimited(k)
		} else {
			queue.Forget(k)
		}
		queue.Done(k)
	}
}

func handler(queue workqueue.TypedRateLimitingInterface[key]) cache.ResourceEventHandler {
	add := func(object any) {
		switch o := object.(type) {
		case *corev1.PersistentVolumeClaim:
			queue.Add(key{claim: true, namespace: o.Namespace, name: o.Name})
		case *corev1.PersistentVolume:
			queue.Add(key{name: o.Name})
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, object any) { add(object) }}
}

func (p *provisioner) handle(ctx context.Context, k key) error {
	if k.claim {
		claim, err := p.claims.PersistentVolumeClaims(k.namespace).Get(k.name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return p.provision(ctx, claim)
	}
	volume, err := p.volumes.Get(k.name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.reclaim(ctx, volume)
}

// provision makes a volume for a claim that waits for one of ours. It may be
// called any number of times for the same claim: the volume's name follows
// from the claim.
func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Annotations[annotationProvisioner] != Name || claim.Spec.StorageClassName == nil {
		return nil
	}
	class, err := p.classes.Get(*claim.Spec.StorageClassName)
	if err != nil {
		return err
	}
	node := claim.Annotations[annotationSelectedNode]
	if class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer && node == "" {
		return nil
	}
	if node != "" && node != p.node {
		return nil
	}
	if reason := refusal(claim); reason != "" {
		p.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", reason)
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.dir, name)
	if err := os.Mkdir(path, 0o777); err != nil && !os.IsExist(err) {
		return err
	}
	// Whatever the umask is: a pod of any user may write.
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, p.volume(name, path, claim, class), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	slog.Info("provisioned", "volume", name, "claim", claim.Namespace+"/"+claim.Name)
	p.events.Event(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume "+name)
	return nil
}

// refusal says what of a claim a directory cannot give, or "".
func refusal(claim *corev1.PersistentVolumeClaim) string {
	switch {
	case claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return "a directory cannot be a block volume"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "volumes are not made from data sources"
	case claim.Spec.Selector != nil:
		return "a claim with a selector takes existing volumes only"
	}
	return ""
}

func (p *provisioner) volume(name, path string, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *corev1.PersistentVolume {
	mode := corev1.PersistentVolumeFilesystem
	reclaim := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{annotationProvisionedBy: Name}},
		Spec: corev1.PersistentVolumeSpec{
			// The size asked for. A directory has none of its own.
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: sizeOf(claim)},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: reclaim,
			StorageClassName:              class.Name,
			VolumeMode:                    &mode,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{p.node},
				}},
			}}}},
		},
	}
}

func sizeOf(claim *corev1.PersistentVolumeClaim) resource.Quantity {
	return claim.Spec.Resources.Requests[corev1.ResourceStorage]
}

// reclaim removes a released volume of ours with its directory. The path
// stands in an object that a user may have written, so only a directory of
// the volume's own name, directly below ours, is removed.
func (p *provisioner) reclaim(ctx context.Context, volume *corev1.PersistentVolume) error {
	if volume.Status.Phase != corev1.VolumeReleased || volume.Annotations[annotationProvisionedBy] != Name ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || volume.DeletionTimestamp != nil {
		return nil
	}
	path := filepath.Join(p.dir, volume.Name)
	if volume.Spec.Local == nil || volume.Spec.Local.Path != path {
		p.events.Event(volume, corev1.EventTypeWarning, "VolumeFailedDelete", "the volume is not at "+path)
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &volume.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return err
	}
	slog.Info("removed", "volume", volume.Name)
	return nil
}
