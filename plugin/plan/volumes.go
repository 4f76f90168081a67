package plan

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

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
		where, ok := m.place(key)
		if !ok {
			continue
		}
		line, err := inv.claimLine(ctx, c, users[key])
		if err != nil {
			return err
		}
		line.Group = where.group
		line.Workload = m.workload(users[key], key)
		d.Volumes = append(d.Volumes, line)
	}
	for _, p := range pods {
		where, ok := m.place(p.ref)
		if !ok || p.finished {
			continue
		}
		for _, v := range p.volumes {
			if v.claim != "" {
				key := v1alpha1.Ref{Kind: "PersistentVolumeClaim", Namespace: p.ref.Namespace, Name: v.claim}
				if inv.claims[key] == nil {
					d.Volumes = append(d.Volumes, v1alpha1.VolumeLine{
						Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: p.ref.Namespace, Name: v.claim}, Group: where.group, Volume: v.name, VolumeKind: v.kind,
						Pod: p.ref.Name, Outcome: v1alpha1.OutcomeMissing, Reason: "pod " + p.ref.Name + " mounts a claim that does not exist",
					})
				}
				continue
			}
			line, err := inv.podVolumeLine(ctx, p, v)
			if err != nil {
				return err
			}
			line.Group = where.group
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
	r, err := inv.ruling(ctx, volumeFacts(line, c.modes), user, c.ref)
	if err != nil {
		line.Outcome, line.Reason = v1alpha1.OutcomeUndecided, err.Error()
		return line, nil
	}
	switch {
	case r.method == v1alpha1.MethodSkip:
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, r.name+" says Skip"
	case c.ofPod && r.method == v1alpha1.MethodAuto:
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "an ephemeral volume is gone with its pod and is saved only where a rule says Snapshot or Stream"
	case c.phase == "Pending":
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "the claim is Pending: it has no volume yet, and so no data"
	case c.phase == "Lost":
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, "the claim is Lost: its volume is gone"
	case r.method == v1alpha1.MethodStream:
		inv.noSnapshot[keyOf(&line)] = r.name + " says Stream"
		inv.streamClaim(&line, c, user, r)
	default:
		var class, reason string
		line.Driver, class, reason = inv.snapshotOf(c, r.rule)
		switch {
		case reason == "":
			line.Outcome, line.Method, line.Cut, line.SnapshotClass = v1alpha1.OutcomeInclude, v1alpha1.MethodSnapshot, cutSnapshot, class
			line.Reason = fmt.Sprintf("%s: a snapshot by driver %s with class %s", r.name, line.Driver, class)
			inv.wantedGroupClass[keyOf(&line)] = r.rule.GroupSnapshotClass
			if line.VolumeMode == "Block" && inv.r.Policy.Spec.Mover.Transport != v1alpha1.TransportStream {
				how, err := inv.howMuch(ctx, line.Driver)
				if err != nil {
					return line, err
				}
				line.Reason += "; " + how
			}
		case r.method == v1alpha1.MethodSnapshot:
			line.Outcome, line.Reason = v1alpha1.OutcomeFailed, r.name+" says Snapshot, but "+reason
		default:
			inv.noSnapshot[keyOf(&line)] = reason
			inv.streamClaim(&line, c, user, r)
			if !strings.Contains(line.Reason, reason) {
				line.Reason += "; no snapshot: " + reason
			}
		}
	}
	return line, nil
}

// streamClaim is the verdict over a claim that is read while its workload
// runs.
func (inv *inventory) streamClaim(line *v1alpha1.VolumeLine, c *claim, user *pod, r ruling) {
	block := line.VolumeMode == "Block"
	inUse := user != nil && user.running
	outcome, how := v1alpha1.OutcomeInclude, ""
	switch {
	case line.Container != "":
		how = fmt.Sprintf("read through container %s of pod %s at %s", line.Container, line.Pod, line.MountPath)
	case inv.r.Image == "" && block:
		outcome, how = v1alpha1.OutcomeFailed, "a device is read by a pod of ours, and "+noImage
	case inv.r.Image == "":
		outcome, how = v1alpha1.OutcomeFailed, "no running container shows the whole of it, and "+noImage
	case inUse && slices.Contains(c.modes, "ReadWriteOncePod"):
		outcome, how = v1alpha1.OutcomeFailed, fmt.Sprintf("its access mode ReadWriteOncePod keeps a pod of ours out while pod %s runs", user.ref.Name)
	case block && inUse && r.method == v1alpha1.MethodAuto:
		outcome = v1alpha1.OutcomeFailed
		how = fmt.Sprintf("pod %s has the device open, and it would be read while it changes (stop the pod, use a class whose driver makes snapshots, or let a volume rule say Stream)", user.ref.Name)
	case block && inUse:
		how = "a helper pod on the same node reads the device"
		line.Warnings = append(line.Warnings, fmt.Sprintf("pod %s has the device open: what is read may be of several moments", user.ref.Name))
	case block:
		how = "no running pod uses the device, so a helper pod reads it"
	default:
		how = "no running container shows the whole of it, so a helper pod reads it"
	}
	line.Outcome, line.Reason = outcome, r.name+": "+how
	if outcome == v1alpha1.OutcomeInclude {
		line.Method, line.Cut = v1alpha1.MethodStream, cutLive
	}
}

// podVolumeLine is the verdict over a volume that belongs to a pod alone.
func (inv *inventory) podVolumeLine(ctx context.Context, p *pod, v podVolume) (v1alpha1.VolumeLine, error) {
	line := v1alpha1.VolumeLine{Ref: p.ref, Volume: v.name, VolumeKind: v.kind, Pod: p.ref.Name, Node: p.node}
	switch v.kind {
	case "configMap", "secret", "projected", "downwardAPI", "image":
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "never volume data: the kubelet fills a "+v.kind+" volume from objects"
		if v.kind == "image" {
			line.Reason = "never volume data: the kubelet fills an image volume from a registry"
		}
		return line, nil
	}
	line.Container, line.MountPath, _ = p.mounted(v.name)
	facts := volumeFacts(line, nil)
	facts["source"] = v.source[v.kind]
	r, err := inv.ruling(ctx, facts, p, p.ref)
	if err != nil {
		line.Outcome, line.Reason = v1alpha1.OutcomeUndecided, err.Error()
		return line, nil
	}
	switch {
	case r.method == v1alpha1.MethodSkip:
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, r.name+" says Skip"
	case v.kind == "hostPath" && (r.method == v1alpha1.MethodAuto || r.rule.Match == ""):
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, "a hostPath is a part of its node and is saved only where a rule with a match says Stream"
	case r.method == v1alpha1.MethodAuto:
		line.Outcome, line.Reason = v1alpha1.OutcomeSkipped, v.kind+" is saved only where a rule says Stream"
	case r.method == v1alpha1.MethodSnapshot:
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, fmt.Sprintf("%s says Snapshot, but only claims have snapshots, and this is of type %s; use Stream", r.name, v.kind)
	case v.noFolder() != "":
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, fmt.Sprintf("%s says Stream, but a hostPath of type %s is no folder, and only folders are saved", r.name, v.noFolder())
	case !p.running:
		line.Outcome, line.Reason = v1alpha1.OutcomeFailed, "its pod is not running, so there is no path to the data"
	case line.Container == "" && inv.r.Image == "":
		line.Outcome = v1alpha1.OutcomeFailed
		line.Reason = r.name + ": no container shows the whole of it, and " + noImage
	case line.Container == "":
		warning, err := kube.RoomForEphemeral(p.ref.Name, p.ephemeral)
		if err != nil {
			line.Outcome, line.Reason = v1alpha1.OutcomeFailed, r.name+": no container shows the whole of it, and "+err.Error()
			break
		}
		if warning != "" {
			line.Warnings = append(line.Warnings, warning)
		}
		line.Outcome, line.Method, line.Cut = v1alpha1.OutcomeInclude, v1alpha1.MethodStream, cutLive
		line.Reason = r.name + ": no container shows the whole of it, so an ephemeral container reads it"
	default:
		line.Outcome, line.Method, line.Cut = v1alpha1.OutcomeInclude, v1alpha1.MethodStream, cutLive
		line.Reason = fmt.Sprintf("%s: read through container %s at %s", r.name, line.Container, line.MountPath)
	}
	return line, nil
}

// noFolder is the type of a hostPath that says that it is something else than a
// folder.
func (v podVolume) noFolder() string {
	path, _ := v.source["hostPath"].(map[string]any)
	switch kind, _ := path["type"].(string); kind {
	case "File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice":
		return kind
	}
	return ""
}

// ruling is what the volume rules say about one volume.
type ruling struct {
	method string
	// name stands in reasons; rule is empty where none matched.
	name string
	rule v1alpha1.VolumeRule
}

// ruling finds the volume rule that decides. The pod and the object are read
// again where a rule looks into them: keeping them would cost memory for every
// pod of the cluster.
func (inv *inventory) ruling(ctx context.Context, facts map[string]any, p *pod, self v1alpha1.Ref) (ruling, error) {
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
		return ruling{method: v1alpha1.MethodStream, name: "expression error"}, nil
	case err != nil:
		return ruling{}, err
	case index < 0:
		return ruling{method: v1alpha1.MethodAuto, name: "default rule"}, nil
	}
	return ruling{method: method, name: fmt.Sprintf("volume rule %d", index+1), rule: inv.r.Policy.Spec.Volumes[index]}, nil
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
