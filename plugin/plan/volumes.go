package plan

import (
	"cmp"
	"context"
	"fmt"
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
	running    bool
	finished   bool
	volumes    []podVolume
	containers []podContainer
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
	capacity int64
	modes    []string
	ofPod    bool // made from an ephemeral volume of a pod, and gone with it
}

func readPod(o *object.Object) (*pod, error) {
	content, err := o.Content()
	if err != nil {
		return nil, err
	}
	defer o.Release()
	p := &pod{ref: o.Ref}
	p.node, _, _ = unstructured.NestedString(content, "spec", "nodeName")
	phase, _, _ := unstructured.NestedString(content, "status", "phase")
	p.running = phase == "Running" && !o.Deleting
	p.finished = phase == "Succeeded" || phase == "Failed"
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
		if !strings.HasPrefix(volume.name, "kube-api-access-") {
			p.volumes = append(p.volumes, volume)
		}
	}
	started := map[string]bool{}
	for _, s := range mapsAt(content, "status", "containerStatuses") {
		name, _ := s["name"].(string)
		_, started[name], _ = unstructured.NestedMap(s, "state", "running")
	}
	for _, c := range mapsAt(content, "spec", "containers") {
		container := podContainer{}
		container.name, _ = c["name"].(string)
		container.running = started[container.name]
		for _, m := range mapsAt(c, "volumeMounts") {
			mount := podMount{}
			mount.volume, _ = m["name"].(string)
			mount.path, _ = m["mountPath"].(string)
			sub, _ := m["subPath"].(string)
			expr, _ := m["subPathExpr"].(string)
			mount.partial = sub != "" || expr != ""
			container.mounts = append(container.mounts, mount)
		}
		p.containers = append(p.containers, container)
	}
	return p, nil
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
	defer o.Release()
	c := &claim{ref: o.Ref}
	c.class, _, _ = unstructured.NestedString(content, "spec", "storageClassName")
	c.mode, _, _ = unstructured.NestedString(content, "spec", "volumeMode")
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

// volumes gives every volume of every group one line with a verdict.
func (inv *inventory) volumes(ctx context.Context, d *v1alpha1.Document, m *membership) error {
	users := map[v1alpha1.Ref][]*pod{} // claim key -> pods that mount it
	pods := make([]*pod, 0, len(inv.pods))
	for _, p := range inv.pods {
		pods = append(pods, p)
		for _, v := range p.volumes {
			if v.claim != "" && !p.finished {
				key := v1alpha1.Ref{Kind: "PersistentVolumeClaim", Namespace: p.ref.Namespace, Name: v.claim}
				users[key] = append(users[key], p)
			}
		}
	}
	for _, list := range users {
		slices.SortFunc(list, func(a, b *pod) int {
			// Running first: data is read through a running pod.
			return cmp.Or(-cmp.Compare(boolInt(a.running), boolInt(b.running)), a.ref.Compare(b.ref))
		})
	}
	for key, c := range inv.claims {
		group, ok := m.group[key]
		if !ok {
			continue
		}
		line, err := inv.claimLine(ctx, c, users[key])
		if err != nil {
			return err
		}
		line.Group = group
		line.Workload = m.workload(users[key], key)
		d.Volumes = append(d.Volumes, line)
	}
	for _, p := range pods {
		group, ok := m.group[p.ref.Key()]
		if !ok || p.finished {
			continue
		}
		for _, v := range p.volumes {
			if v.claim != "" {
				key := v1alpha1.Ref{Kind: "PersistentVolumeClaim", Namespace: p.ref.Namespace, Name: v.claim}
				if inv.claims[key] == nil {
					d.Volumes = append(d.Volumes, v1alpha1.VolumeLine{
						Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: p.ref.Namespace, Name: v.claim}, Group: group, Volume: v.name, VolumeKind: v.kind,
						Pod: p.ref.Name, Outcome: v1alpha1.OutcomeMissing, Reason: "pod " + p.ref.Name + " mounts a claim that does not exist",
					})
				}
				continue
			}
			line, err := inv.podVolumeLine(ctx, p, v)
			if err != nil {
				return err
			}
			line.Group = group
			line.Workload = m.workload([]*pod{p}, p.ref.Key())
			d.Volumes = append(d.Volumes, line)
		}
	}
	return nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// claimLine is the verdict over one claim.
func (inv *inventory) claimLine(ctx context.Context, c *claim, users []*pod) (v1alpha1.VolumeLine, error) {
	line := v1alpha1.VolumeLine{
		Ref: c.ref, VolumeKind: "persistentVolumeClaim", StorageClass: c.class, VolumeMode: cmp.Or(c.mode, "Filesystem"), Capacity: c.capacity,
	}
	var user *pod
	for _, p := range users {
		for _, v := range p.volumes {
			if v.claim != c.ref.Name || v.kind != "persistentVolumeClaim" && v.kind != "ephemeral" {
				continue
			}
			if user == nil {
				user, line.Volume, line.VolumeKind = p, v.name, v.kind
				line.Pod, line.Node = p.ref.Name, p.node
			}
			if name, path, ok := p.mounted(v.name); ok && line.Container == "" {
				user, line.Volume = p, v.name
				line.Pod, line.Node, line.Container, line.MountPath = p.ref.Name, p.node, name, path
			}
		}
	}
	method, rule, err := inv.method(ctx, volumeFacts(line, c.modes), user, c.ref)
	if err != nil {
		line.Outcome, line.Reason = v1alpha1.OutcomeUndecided, err.Error()
		return line, nil
	}
	switch {
	case method == "Skip":
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, rule+" says Skip"
	case method == "Snapshot":
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, rule+" says Snapshot, which this version does not do; use Stream or Auto"
	case c.ofPod && method == "Auto":
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "an ephemeral volume is gone with its pod and is saved only where a rule says Stream"
	case c.phase == "Pending":
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "the claim is Pending: it has no volume yet, and so no data"
	case line.VolumeMode == "Block":
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, "volumeMode Block cannot be read as files; exclude it with a volume rule that says Skip"
	case c.phase == "Lost":
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, "the claim is Lost: its volume is gone"
	case line.Container != "":
		line.Outcome, line.Method = v1alpha1.OutcomeInclude, "Stream"
		line.Reason = fmt.Sprintf("%s: read through container %s of pod %s at %s", rule, line.Container, line.Pod, line.MountPath)
	default:
		line.Outcome, line.Method = v1alpha1.OutcomeInclude, "Stream"
		line.Reason = rule + ": no running container shows the whole of it, so a helper pod reads it"
	}
	return line, nil
}

// podVolumeLine is the verdict over a volume that belongs to a pod alone.
func (inv *inventory) podVolumeLine(ctx context.Context, p *pod, v podVolume) (v1alpha1.VolumeLine, error) {
	line := v1alpha1.VolumeLine{Ref: p.ref, Volume: v.name, VolumeKind: v.kind, Pod: p.ref.Name, Node: p.node}
	switch v.kind {
	case "configMap", "secret", "projected", "downwardAPI", "image":
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "never volume data: the kubelet fills a "+v.kind+" volume from objects"
		return line, nil
	}
	line.Container, line.MountPath, _ = p.mounted(v.name)
	facts := volumeFacts(line, nil)
	facts["source"] = v.source[v.kind]
	method, rule, err := inv.method(ctx, facts, p, p.ref)
	if err != nil {
		line.Outcome, line.Reason = v1alpha1.OutcomeUndecided, err.Error()
		return line, nil
	}
	switch {
	case method == "Skip":
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, rule+" says Skip"
	case method == "Auto":
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, v.kind+" is saved only where a rule says Stream"
	case v.kind != "emptyDir":
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, fmt.Sprintf("%s says %s, but this version does not capture %s volumes", rule, method, v.kind)
	case method == "Snapshot":
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, rule+" says Snapshot, but an emptyDir has no snapshots; use Stream"
	case !p.running:
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, "its pod is not running, so there is no path to the data"
	case line.Container == "":
		line.Outcome, line.Method = v1alpha1.OutcomeInclude, "Stream"
		line.Reason = rule + ": no container shows the whole of it, so an ephemeral container reads it"
	default:
		line.Outcome, line.Method = v1alpha1.OutcomeInclude, "Stream"
		line.Reason = fmt.Sprintf("%s: read through container %s at %s", rule, line.Container, line.MountPath)
	}
	return line, nil
}

// method finds the volume rule that decides; rule is its name in reasons. The
// pod and the object are read again where a rule looks into them: keeping them
// would cost memory for every pod of the cluster.
func (inv *inventory) method(ctx context.Context, facts map[string]any, p *pod, self v1alpha1.Ref) (method, rule string, err error) {
	content := func(ref v1alpha1.Ref) func() (map[string]any, error) {
		return func() (map[string]any, error) {
			o, err := inv.get(ctx, ref)
			if o == nil || err != nil {
				return nil, err
			}
			return o.Content()
		}
	}
	var podContent func() (map[string]any, error)
	if p != nil {
		podContent = content(p.ref)
	}
	index, method, err := inv.sel.Volume(ctx, facts, podContent, content(self))
	switch {
	case err != nil && inv.r.Policy.Spec.OnExpressionError == v1alpha1.OnErrorInclude:
		inv.warn("%v; the volume is saved all the same", err)
		return v1alpha1.MethodStream, "expression error", nil
	case err != nil:
		return "", "", err
	case index < 0:
		return "Auto", "default rule", nil
	}
	return method, fmt.Sprintf("volume rule %d", index+1), nil
}

// volumeFacts is the variable that volume rules see.
func volumeFacts(l v1alpha1.VolumeLine, accessModes []string) map[string]any {
	name := l.Volume
	claimName := ""
	if l.Ref.Kind == "PersistentVolumeClaim" {
		claimName = l.Ref.Name
	}
	modes := make([]any, 0, len(accessModes))
	for _, m := range accessModes {
		modes = append(modes, m)
	}
	return map[string]any{
		"name": name, "kind": l.VolumeKind, "claim": claimName, "namespace": l.Ref.Namespace,
		"storageClass": l.StorageClass, "mode": l.VolumeMode, "capacity": l.Capacity, "accessModes": modes,
		"container": l.Container, "mountPath": l.MountPath,
	}
}
