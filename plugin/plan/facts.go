package plan

import (
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// pod is what a plan keeps of a pod.
type pod struct {
	ref        v1alpha1.Ref
	node       string
	phase      string
	running    bool
	finished   bool
	volumes    []podVolume
	containers []podContainer
	ephemeral  int // how many ephemeral containers it has, ended ones too
	// container is the one that kubectl would choose.
	container string
	hooks     []hookMatch // of the policy's hooks, those that match or fail
}

type podVolume struct {
	name   string
	kind   string // the key in spec.volumes[]: persistentVolumeClaim, emptyDir, ...
	claim  string
	source map[string]any
}

type podContainer struct {
	name    string
	running bool
	mounts  []podMount
}

type podMount struct {
	volume, path string
	partial      bool // subPath: it shows a part of the volume
}

// claim is what a plan keeps of a claim.
type claim struct {
	ref      v1alpha1.Ref
	class    string
	mode     string
	phase    string
	volume   string // name of its PersistentVolume
	capacity int64
	modes    []string
	ofPod    bool // made from an ephemeral volume of a pod, and gone with it
}

// disk is what a plan keeps of a PersistentVolume: its CSI driver, or what it
// is instead.
type disk struct{ driver, source string }

func readPod(o *object.Object) (*pod, error) {
	content, err := o.Content()
	if err != nil {
		return nil, err
	}
	p := &pod{ref: o.Ref}
	p.node, _, _ = unstructured.NestedString(content, "spec", "nodeName")
	p.phase, _, _ = unstructured.NestedString(content, "status", "phase")
	p.running = p.phase == "Running" && !o.Deleting
	p.finished = p.phase == "Succeeded" || p.phase == "Failed"
	for _, v := range mapsAt(content, "spec", "volumes") {
		volume := podVolume{source: v}
		volume.name, _ = v["name"].(string)
		for key, source := range v {
			if key == "name" {
				continue
			}
			volume.kind = key
			if key == "persistentVolumeClaim" {
				if m, ok := source.(map[string]any); ok {
					volume.claim, _ = m["claimName"].(string)
				}
			} else if key == "ephemeral" {
				volume.claim = o.Ref.Name + "-" + volume.name
			}
		}
		// What each pod gets to talk to the API server, unless it is somebody's
		// who likes the name.
		if volume.kind != "projected" || !strings.HasPrefix(volume.name, "kube-api-access-") {
			p.volumes = append(p.volumes, volume)
		}
	}
	started := map[string]bool{}
	for _, list := range []string{"containerStatuses", "initContainerStatuses"} {
		for _, s := range mapsAt(content, "status", list) {
			name, _ := s["name"].(string)
			_, started[name], _ = unstructured.NestedMap(s, "state", "running")
		}
	}
	for _, c := range mapsAt(content, "spec", "containers") {
		p.containers = append(p.containers, readContainer(c, started))
	}
	if len(p.containers) > 0 {
		p.container = p.containers[0].name
	}
	if named := o.Annotations["kubectl.kubernetes.io/default-container"]; p.find(named) != nil {
		p.container = named
	}
	p.ephemeral = len(mapsAt(content, "spec", "ephemeralContainers"))
	for _, c := range mapsAt(content, "spec", "initContainers") {
		if c["restartPolicy"] == "Always" { // it runs beside the others
			p.containers = append(p.containers, readContainer(c, started))
		}
	}
	return p, nil
}

func readContainer(c map[string]any, started map[string]bool) podContainer {
	container := podContainer{}
	container.name, _ = c["name"].(string)
	container.running = started[container.name]
	for _, m := range mapsAt(c, "volumeMounts") {
		mount := podMount{}
		mount.volume, _ = m["name"].(string)
		at, _ := m["mountPath"].(string)
		mount.path = path.Join("/", at) // as the kubelet takes it
		sub, _ := m["subPath"].(string)
		expr, _ := m["subPathExpr"].(string)
		mount.partial = sub != "" || expr != ""
		container.mounts = append(container.mounts, mount)
	}
	return container
}

func (p *pod) find(container string) *podContainer {
	i := slices.IndexFunc(p.containers, func(c podContainer) bool { return c.name == container })
	if i < 0 {
		return nil
	}
	return &p.containers[i]
}

// mounted finds a running container that shows the whole of a volume.
func (p *pod) mounted(volume string) (container, path string, ok bool) {
	if !p.running {
		return "", "", false
	}
	for _, c := range p.containers {
		for _, m := range c.mounts {
			if c.running && m.volume == volume && !m.partial {
				return c.name, m.path, true
			}
		}
	}
	return "", "", false
}

func readClaim(o *object.Object) (*claim, error) {
	content, err := o.Content()
	if err != nil {
		return nil, err
	}
	c := &claim{ref: o.Ref}
	c.class, _, _ = unstructured.NestedString(content, "spec", "storageClassName")
	c.mode, _, _ = unstructured.NestedString(content, "spec", "volumeMode")
	c.volume, _, _ = unstructured.NestedString(content, "spec", "volumeName")
	c.phase, _, _ = unstructured.NestedString(content, "status", "phase")
	c.modes, _, _ = unstructured.NestedStringSlice(content, "spec", "accessModes")
	text, _, _ := unstructured.NestedString(content, "status", "capacity", "storage")
	if q, err := resource.ParseQuantity(text); err == nil {
		c.capacity = q.Value()
	}
	owner, owned := o.Controller()
	c.ofPod = owned && owner.Kind == "Pod"
	return c, nil
}

// selectsNothing says whether a Service leads to addresses that a person wrote.
func selectsNothing(o *object.Object) (bool, error) {
	content, err := o.Content()
	if err != nil {
		return false, err
	}
	selector, _, _ := unstructured.NestedMap(content, "spec", "selector")
	kind, _, _ := unstructured.NestedString(content, "spec", "type")
	return len(selector) == 0 && kind != "ExternalName", nil
}

// diskSources are the keys under which a PersistentVolume says what it is.
var diskSources = []string{"hostPath", "local", "nfs", "iscsi", "fc", "flexVolume", "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder",
	"flocker", "gcePersistentDisk", "glusterfs", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume"}

func readDisk(o *object.Object) (*disk, error) {
	content, err := o.Content()
	if err != nil {
		return nil, err
	}
	d := &disk{}
	if d.driver, _, _ = unstructured.NestedString(content, "spec", "csi", "driver"); d.driver != "" {
		return d, nil
	}
	spec, _, _ := unstructured.NestedFieldNoCopy(content, "spec")
	fields, _ := spec.(map[string]any)
	for _, source := range diskSources {
		if _, is := fields[source]; is {
			d.source = source
		}
	}
	return d, nil
}

func mapsAt(m map[string]any, path ...string) []map[string]any {
	list, _, _ := unstructured.NestedFieldNoCopy(m, path...)
	items, _ := list.([]any)
	out := make([]map[string]any, 0, len(items))
	for _, i := range items {
		if item, ok := i.(map[string]any); ok {
			out = append(out, item)
		}
	}
	return out
}
