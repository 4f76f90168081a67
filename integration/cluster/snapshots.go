package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-backup/kubectl-backup/integration/csi"
)

// snapshotClasses are the classes of volumes that can be snapshots. A
// VolumeSnapshotClass and a VolumeGroupSnapshotClass are called the same.
// Volumes are made at once: the one node can reach all of them. Those of a
// second class, whose name ends in lateClass, wait for a pod, as many clouds'
// do.
var snapshotClasses = map[string]string{"src": "snap", "dst": "snap-premium"}

const lateClass = "-late"

// sidecarModule is the directory of the module that most sidecars are of, and
// metadataModule of that of one; sidecars are their programs.
const (
	sidecarModule  = "integration/csi/sidecars"
	metadataModule = "integration/csi/metadata"
)

var sidecars = []struct{ name, module, source string }{
	{"csi-provisioner", sidecarModule, "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner"},
	{"csi-snapshotter", sidecarModule, "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter"},
	{"snapshot-controller", sidecarModule, "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller"},
	{metadataService, metadataModule, "github.com/kubernetes-csi/external-snapshot-metadata/cmd/csi-snapshot-metadata"},
}

// snapshotProcesses are the driver and what drives it.
var snapshotProcesses = func() []string {
	names := []string{"csi-driver"}
	for _, s := range sidecars {
		names = append(names, s.name)
	}
	return names
}()

// SnapshotClass is the name of the cluster's classes for volumes, snapshots
// and group snapshots of the driver csi.Name. With "-late" behind it, it is
// that of a class for volumes that are made when a pod uses them.
func (c *Cluster) SnapshotClass() string { return snapshotClasses[c.Name] }

// SetSnapshotKnobs makes the CSI driver slow, unwilling or wrong, from the
// next call on; the zero value makes it well-behaved again.
func (c *Cluster) SetSnapshotKnobs(k csi.Knobs) error {
	return csi.SetKnobs(c.paths.csi, k)
}

// StopSnapshots ends the CSI driver and what drives it as a crash does.
// Volumes that pods use stay usable.
func (c *Cluster) StopSnapshots(ctx context.Context) error {
	if err := c.reloadState(); err != nil {
		return err
	}
	for _, name := range snapshotProcesses {
		if err := c.kill(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// StartSnapshots starts them again.
func (c *Cluster) StartSnapshots() error {
	if err := c.reloadState(); err != nil {
		return err
	}
	return c.startSnapshots()
}

func (c *Cluster) startSnapshots() error {
	socket := filepath.Join(c.paths.run, "csi.sock")
	bin := func(name string) string { return filepath.Join(c.root, "bin", name) }
	kubeconfig := "--kubeconfig=" + c.kubeconfig("snapshots")
	// What failed is tried again soon, and never later than a test waits.
	common := []string{kubeconfig, "--retry-interval-start=200ms", "--retry-interval-max=5s", "--kube-api-qps=100", "--kube-api-burst=200", "--v=2"}
	// A call may take as long as a knob says.
	sidecar := append([]string{"--csi-address=" + socket, "--timeout=2m"}, common...)
	// A deletion that meets a creation on its way is noticed only when all is
	// looked at anew, which happens every quarter of an hour otherwise.
	const anew = "--resync-period=10s"
	for _, args := range [][]string{
		{bin("cluster"), "csi-driver", "--dir", c.paths.csi, "--socket", socket, "--registration", filepath.Join(c.paths.kubelet, "plugins_registry", "snap.sock"), "--node", nodeName},
		append([]string{bin("csi-provisioner"), "--default-fstype=ext4", "--worker-threads=10"}, sidecar...),
		append([]string{bin("csi-snapshotter"), anew}, sidecar...),
		append([]string{bin("snapshot-controller"), anew}, common...),
		c.metadataServiceArgs(socket),
	} {
		name := filepath.Base(args[0])
		if name == "cluster" {
			name = "csi-driver"
		}
		if p := c.process(name); p != nil && p.alive() {
			continue
		}
		if err := c.start(name, args...); err != nil {
			return err
		}
	}
	return nil
}

// createSnapshotAPI makes the kinds of snapshots known and creates the
// driver's classes. The kinds' definitions come with the module of their
// controllers.
func (c *Cluster) createSnapshotAPI(ctx context.Context) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	files, err := snapshotDefinitions(ctx, c.root)
	if err != nil {
		return err
	}
	var names []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(b, &o.Object); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		names = append(names, o.GetName())
		if err := createNew(ctx, client, definitions, o); err != nil {
			return err
		}
	}
	for _, name := range names {
		err := WaitFor(ctx, time.Minute, name+" is served", func(ctx context.Context) error {
			o, err := client.Resource(definitions).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
			if err != nil {
				return err
			}
			for _, condition := range conditions {
				if m, ok := condition.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
					return nil
				}
			}
			return fmt.Errorf("it is not established")
		})
		if err != nil {
			return err
		}
	}
	if err := c.createMetadataService(ctx, client); err != nil {
		return err
	}
	return c.createSnapshotClasses(ctx, client)
}

func newObject(apiVersion, kind, name string, fields map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: fields}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetName(name)
	return o
}

func (c *Cluster) createSnapshotClasses(ctx context.Context, client dynamic.Interface) error {
	name := c.SnapshotClass()
	driver := newObject("storage.k8s.io/v1", "CSIDriver", csi.Name, map[string]any{"spec": map[string]any{
		"attachRequired": false, "podInfoOnMount": false, "fsGroupPolicy": "File", "volumeLifecycleModes": []any{"Persistent"},
	}})
	storage := func(name, mode string) *unstructured.Unstructured {
		return newObject("storage.k8s.io/v1", "StorageClass", name, map[string]any{
			"provisioner": csi.Name, "reclaimPolicy": "Delete", "volumeBindingMode": mode,
			"parameters": map[string]any{"csi.storage.k8s.io/fstype": "ext4"},
		})
	}
	snapshots := newObject("snapshot.storage.k8s.io/v1", "VolumeSnapshotClass", name, map[string]any{"driver": csi.Name, "deletionPolicy": "Delete"})
	snapshots.SetAnnotations(map[string]string{"snapshot.storage.kubernetes.io/is-default-class": "true"})
	groups := newObject("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshotClass", name, map[string]any{"driver": csi.Name, "deletionPolicy": "Delete"})
	groups.SetAnnotations(map[string]string{"groupsnapshot.storage.kubernetes.io/is-default-class": "true"})
	return createAll(ctx, client, []newResource{
		{"csidrivers", driver},
		{"storageclasses", storage(name, "Immediate")},
		{"storageclasses", storage(name+lateClass, "WaitForFirstConsumer")},
		{"volumesnapshotclasses", snapshots},
		{"volumegroupsnapshotclasses", groups},
	})
}

// newResource is an object that is to be made, and the plural of its kind.
type newResource struct {
	resource string
	object   *unstructured.Unstructured
}

func createAll(ctx context.Context, client dynamic.Interface, all []newResource) error {
	for _, o := range all {
		if err := createNew(ctx, client, o.object.GroupVersionKind().GroupVersion().WithResource(o.resource), o.object); err != nil {
			return err
		}
	}
	return nil
}

func createNew(ctx context.Context, client dynamic.Interface, resource schema.GroupVersionResource, o *unstructured.Unstructured) error {
	_, err := client.Resource(resource).Namespace(o.GetNamespace()).Create(ctx, o, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// snapshotDefinitions are the files with the definitions of the kinds of
// snapshots, of group snapshots and of the services that list their blocks, in
// the cache of Go's modules.
func snapshotDefinitions(ctx context.Context, root string) (all []string, err error) {
	for _, of := range []struct{ in, module, files string }{
		{sidecarModule, "github.com/kubernetes-csi/external-snapshotter/client/v8", "*snapshot.storage.k8s.io_*.yaml"},
		{metadataModule, "github.com/kubernetes-csi/external-snapshot-metadata/client", "cbt.storage.k8s.io_*.yaml"},
	} {
		out, err := goCommand(ctx, filepath.Join(root, of.in), "mod", "download", "-json", of.module)
		if err != nil {
			return nil, err
		}
		var module struct{ Dir string }
		if err := json.Unmarshal(out, &module); err != nil {
			return nil, err
		}
		files, err := filepath.Glob(filepath.Join(module.Dir, "config", "crd", of.files))
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("no definitions of kinds in %s", module.Dir)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	return all, nil
}

// buildSidecars makes the sidecars that are missing: their sources are pinned,
// they do not change under them.
func buildSidecars(ctx context.Context, root string, log io.Writer) error {
	for _, s := range sidecars {
		target := filepath.Join(root, "bin", s.name)
		if exists(target) {
			continue
		}
		fmt.Fprintf(log, "building %s (the first time some minutes on two cores)\n", s.name)
		if _, err := goCommand(ctx, filepath.Join(root, s.module), "build", "-ldflags", "-s -w", "-o", target, s.source); err != nil {
			return err
		}
	}
	return nil
}

// driverRegistered tells whether the kubelet knows the CSI driver.
func driverRegistered(ctx context.Context, client kubernetes.Interface) error {
	node, err := client.StorageV1().CSINodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, d := range node.Spec.Drivers {
		if d.Name == csi.Name {
			return nil
		}
	}
	return fmt.Errorf("the kubelet does not know the CSI driver %s yet", csi.Name)
}
