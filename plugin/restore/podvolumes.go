package restore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// A volume that lives and dies with its pod can be filled only once its pod is
// there, and has to be before the pod's containers start. So the pods are made
// with one more container that runs first, waits to be used and then ends.
//
// Deployment: it is created without replicas and paused; its ReplicaSet is
// given the container; then it is scaled, its pods are filled, and the
// ReplicaSet and the Deployment are put back. A paused Deployment scales and
// does not roll, and a ReplicaSet does not replace pods when its template
// changes, so the pods stay.
//
// StatefulSet: see statefulset.go.
//
// Where no such way is known, the data comes through an ephemeral container,
// after the start, and the report says so.

// settleTime bounds the wait for a controller to act.
const settleTime = 2 * time.Minute

// held are the volumes that have to be filled in the pods of a workload.
func (p *Plan) held(i *item) []*volumeItem {
	var out []*volumeItem
	for _, v := range p.volumes {
		if v.owner == i && v.line.Outcome == v1alpha1.OutcomeCreate && v.pod != "" {
			out = append(out, v)
		}
	}
	return out
}

// restoreHeld creates a workload and puts the data of its pods' own volumes in
// place.
func (p *Plan) restoreHeld(ctx context.Context, i *item, d *rewrite.Draft, before original, held []*volumeItem) error {
	setLabel(d, labelHeld, p.request.Record.ID)
	spec := section(d.Content, "spec")
	replicas, _ := spec["replicas"].(json.Number)
	if i.saved.Group == "apps" && replicas != "" && replicas != "0" && !sharesProcesses(spec) {
		switch i.saved.Kind {
		case "Deployment":
			return p.restoreDeployment(ctx, i, d, before, held, replicas)
		case "StatefulSet":
			if p.haveClaims(i, spec, held) {
				return p.restoreStatefulSet(ctx, i, d, before, held, replicas)
			}
		}
	}
	created, err := p.create(ctx, i, d, before.managers)
	if err != nil || created == nil {
		failAll(held, "%s was not created", i.ref)
		return err
	}
	if replicas == "0" {
		for _, v := range held {
			v.settle(v1alpha1.OutcomeSkipped, "%s has no replicas, so there is no pod to put it into", i.ref)
		}
	} else if err := p.fillRunning(ctx, i, held, sharesProcesses(spec)); err != nil {
		return err
	}
	return p.letGo(ctx, i, before, nil)
}

// letGo makes of a workload that was held back one that is not. One whose
// restore is being ended keeps its label, so that it can be resumed.
func (p *Plan) letGo(ctx context.Context, i *item, before original, spec map[string]any) error {
	letting, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	change := map[string]any{}
	if ctx.Err() == nil {
		change = p.nowFilled(labelHeld)
	}
	if spec != nil {
		change["spec"] = spec
	}
	if _, err := p.patchAs(letting, *i.kind, i.ref, change, kube.WriteOptions{FieldManager: before.managers.Creator}); err != nil {
		return fmt.Errorf("created, but could not be let go (hint: --resume makes it anew): %w", err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	i.before, i.filled = &before, true
	return nil
}

// haveClaims says whether all claims of the pods with data are restored: a pod
// cannot wait for a claim that its set would only make with it.
func (p *Plan) haveClaims(i *item, spec map[string]any, held []*volumeItem) bool {
	templates, _ := spec["volumeClaimTemplates"].([]any)
	for _, v := range held {
		for _, t := range templates {
			m, _ := t.(map[string]any)
			name, _ := section(m, "metadata")["name"].(string)
			claim := p.bySaved[v1alpha1.Ref{Kind: "PersistentVolumeClaim", Namespace: i.saved.Namespace, Name: name + "-" + v.pod}]
			if claim == nil || claim.liveUID == "" {
				return false
			}
		}
	}
	return true
}

// sharesProcesses says whether the first process of a container is that of the
// whole pod: a mover there could not be ended by itself.
func sharesProcesses(spec map[string]any) bool {
	if template := section(spec, "template"); template != nil {
		spec = section(template, "spec")
	}
	shared, _ := spec["shareProcessNamespace"].(bool)
	return shared
}

func failAll(held []*volumeItem, format string, args ...any) {
	for _, v := range held {
		if v.line.Outcome == v1alpha1.OutcomeCreate {
			v.settle(v1alpha1.OutcomeFailed, format, args...)
		}
	}
}

// byPod groups volumes by the pod that they were saved from, in a stable order.
func byPod(held []*volumeItem) [][]*volumeItem {
	sorted := slices.Clone(held)
	slices.SortFunc(sorted, func(a, b *volumeItem) int {
		return cmp.Or(strings.Compare(a.pod, b.pod), strings.Compare(a.line.Volume, b.line.Volume))
	})
	var out [][]*volumeItem
	for n, v := range sorted {
		if n == 0 || v.pod != sorted[n-1].pod {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], v)
	}
	return out
}

// stateVolume is one more volume of a pod that is held: in it the holding
// container remembers that it was released, for when the node starts again and
// with it all containers of the pod.
const (
	stateVolume = "kubectl-backup-state"
	stateRoot   = "/state"
	stateFile   = stateRoot + "/filled"
)

// holder is the container that holds a pod until its volumes are filled.
func (p *Plan) holder(held []*volumeItem) corev1.Container {
	c := p.filler(held)
	c.Command = append(c.Command, "--once", stateFile)
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: stateVolume, MountPath: stateRoot})
	return c
}

func state() corev1.Volume {
	return corev1.Volume{Name: stateVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}

// filler is a container that waits until volumes are filled through it.
func (p *Plan) filler(held []*volumeItem) corev1.Container {
	root, no := int64(0), false
	c := corev1.Container{
		Name: mover.Name(), Image: p.request.Image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command:         []string{mover.Program, "mover", "wait"},
		SecurityContext: cmp.Or(p.request.Transport.Mover.SecurityContext, &corev1.SecurityContext{RunAsUser: &root, RunAsNonRoot: &no}),
	}
	mounted := map[string]bool{}
	for _, v := range held {
		if !mounted[v.line.Volume] {
			mounted[v.line.Volume] = true
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.line.Volume, MountPath: rootOf(v)})
		}
	}
	return c
}

func rootOf(v *volumeItem) string { return mover.Root + "/" + v.line.Volume }

func (p *Plan) restoreDeployment(ctx context.Context, i *item, d *rewrite.Draft, before original, held []*volumeItem, replicas json.Number) (err error) {
	spec := section(d.Content, "spec")
	paused, hadPaused := spec["paused"]
	spec["replicas"] = json.Number("0")
	delete(spec, "paused")
	created, err := p.create(ctx, i, d, before.managers)
	if err != nil || created == nil {
		failAll(held, "%s was not created", i.ref)
		return err
	}
	as := kube.WriteOptions{FieldManager: before.managers.Creator}
	if !hadPaused {
		paused = nil
	}
	// Whatever happens, the Deployment ends as it was saved.
	held = slices.Clone(held)
	fillErr := p.fillDeployment(ctx, i, created, held, replicas, as)
	if ctx.Err() != nil {
		fillErr = context.Cause(ctx)
	}
	if fillErr != nil {
		failAll(held, "its data could not be put in place before its pod started: %s", fillErr)
	}
	return p.letGo(ctx, i, before, map[string]any{"paused": paused, "replicas": replicas})
}

// fillDeployment brings up the pods of a Deployment that was created without
// replicas, and fills them before their containers start. Its ReplicaSet is as
// it was when it returns.
func (p *Plan) fillDeployment(ctx context.Context, i *item, created *object.Object, held []*volumeItem, replicas json.Number, as kube.WriteOptions) error {
	settling, cancel := context.WithTimeoutCause(ctx, settleTime, errors.New("its controller did not act in time"))
	defer cancel()
	sets, err := p.request.Target.FindKind(ctx, "apps", "v1", "ReplicaSet")
	if err != nil {
		return err
	}
	owned, err := p.ownedBy(settling, sets, i.ref.Namespace, created.UID, 1)
	if err != nil {
		return fmt.Errorf("wait for its ReplicaSet: %w", err)
	}
	set := owned[0]
	live, err := p.patchAs(settling, *i.kind, i.ref, map[string]any{"spec": map[string]any{"paused": true}}, as)
	if err != nil {
		return fmt.Errorf("pause it: %w", err)
	}
	if err := p.observed(settling, i, live); err != nil {
		return fmt.Errorf("wait for it to be paused: %w", err)
	}
	content, err := set.Content()
	if err != nil {
		return err
	}
	pod := section(section(section(content, "spec"), "template"), "spec")
	containers, _ := pod["initContainers"].([]any)
	volumes, _ := pod["volumes"].([]any)
	filler := p.holder(held)
	template := func(initContainers, volumes []any) map[string]any {
		lists := map[string]any{"initContainers": initContainers, "volumes": volumes}
		for k, l := range lists {
			if l.([]any) == nil {
				lists[k] = nil // an absent list is taken out, not emptied
			}
		}
		return map[string]any{"spec": map[string]any{"template": map[string]any{"spec": lists}}}
	}
	if _, err := p.patchAs(settling, sets, set.Ref, template(append([]any{filler}, containers...), append([]any{state()}, volumes...)), kube.WriteOptions{}); err != nil {
		return fmt.Errorf("hold its pods: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
		defer cancel()
		if _, err := p.patchAs(ctx, sets, set.Ref, template(containers, volumes), kube.WriteOptions{}); err != nil {
			i.warn("its ReplicaSet %s keeps a container that waits for data: %s", set.Ref.Name, err)
		}
	}()
	if _, err := p.patchAs(settling, *i.kind, i.ref, map[string]any{"spec": map[string]any{"replicas": replicas}}, as); err != nil {
		return fmt.Errorf("scale it: %w", err)
	}
	count, err := replicas.Int64()
	if err != nil {
		return err
	}
	pods, err := p.podsOf(settling, i.ref.Namespace, set.UID, int(count))
	if err != nil {
		return fmt.Errorf("wait for its pods: %w", err)
	}
	groups := byPod(held)
	for n, pod := range pods {
		var volumes []*volumeItem
		if n < len(groups) {
			volumes = groups[n]
		}
		p.fillPod(ctx, pod.Ref, filler.Name, volumes)
	}
	for n := len(pods); n < len(groups); n++ {
		for _, v := range groups[n] {
			v.settle(v1alpha1.OutcomeFailed, "%s has fewer pods here than it had: there is none to put it into", i.ref)
		}
	}
	return nil
}

// fillPod fills the volumes of one pod that waits for it, and lets it go on.
func (p *Plan) fillPod(ctx context.Context, pod v1alpha1.Ref, container string, volumes []*volumeItem) {
	waiting, cancel := context.WithTimeoutCause(ctx, settleTime, errors.New("the pod did not come up in time"))
	defer cancel()
	where := kube.ExecOptions{Namespace: pod.Namespace, Pod: pod.Name, Container: container}
	if err := p.awaitFiller(waiting, pod, container); err != nil {
		failAll(volumes, "its data could not be put in place: %s", err)
		return
	}
	for _, v := range volumes {
		if err := p.receive(ctx, v, methodInit, where, "--root", rootOf(v), "--extra", "remove"); err != nil {
			v.settle(v1alpha1.OutcomeFailed, "its data could not be put in place: %s", err)
		}
		v.line.Pod = pod.Name
	}
	p.release(ctx, where)
}

// release ends the waiting container. One that cannot be reached ends by
// itself after a while.
func (p *Plan) release(ctx context.Context, where kube.ExecOptions) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	where.Command = []string{mover.Program, "mover", "stop"}
	where.Stdin, where.Stdout, where.Stderr = nil, io.Discard, io.Discard
	// The connection may well end before the exit status comes: it is the
	// container that ends.
	_ = p.request.Target.Exec(ctx, where)
}

// awaitFiller waits until the holding container of a pod runs.
func (p *Plan) awaitFiller(ctx context.Context, ref v1alpha1.Ref, container string) error {
	k, err := p.request.Target.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return err
	}
	return p.request.Target.WaitFor(ctx, k, ref.Namespace, ref.Name, func(o *object.Object) (bool, error) {
		if o == nil {
			return false, errors.New("its pod was deleted")
		}
		var pod corev1.Pod
		if err := json.Unmarshal(o.Raw, &pod); err != nil {
			return false, err
		}
		for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses) {
			switch {
			case s.Name != container:
			case s.State.Running != nil:
				return true, nil
			case s.State.Terminated != nil:
				return false, fmt.Errorf("the container that waits for the data ended: %s", s.State.Terminated.Message)
			case s.State.Waiting != nil && (s.State.Waiting.Reason == "ImagePullBackOff" || s.State.Waiting.Reason == "InvalidImageName"):
				return false, fmt.Errorf("image %s cannot be pulled: %s", s.Image, s.State.Waiting.Message)
			}
		}
		return false, nil
	})
}

// fillRunning puts data into volumes of pods that run already. With shared
// processes the container that was added is left to end by itself.
func (p *Plan) fillRunning(ctx context.Context, i *item, held []*volumeItem, shared bool) error {
	groups := byPod(held)
	waiting, cancel := context.WithTimeoutCause(ctx, settleTime, errors.New("its pods did not come up in time"))
	defer cancel()
	pods := []*object.Object{{Ref: i.ref}}
	if i.saved.Kind != "Pod" {
		var err error
		if pods, err = p.podsOf(waiting, i.ref.Namespace, i.liveUID, len(groups)); err != nil {
			failAll(held, "its data could not be put in place: %s", err)
			return nil
		}
	}
	for n, volumes := range groups {
		pod := pods[n].Ref
		for _, v := range volumes {
			if err := p.fillEphemeral(waiting, pod, v, shared); err != nil {
				v.settle(v1alpha1.OutcomeFailed, "its data could not be put in place: %s", err)
				continue
			}
			v.line.Pod = pod.Name
			v.line.Warnings = append(v.line.Warnings, "its data came after the pod's containers had started: restart them if they read it only then")
		}
	}
	return nil
}

func (p *Plan) fillEphemeral(ctx context.Context, pod v1alpha1.Ref, v *volumeItem, shared bool) error {
	if err := p.request.Target.WaitPodStarted(ctx, pod.Namespace, pod.Name); err != nil {
		return err
	}
	c := p.filler([]*volumeItem{v})
	err := p.request.Target.AddEphemeralContainer(ctx, pod.Namespace, pod.Name, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon(c)})
	if err != nil {
		return err
	}
	where := kube.ExecOptions{Namespace: pod.Namespace, Pod: pod.Name, Container: c.Name}
	if !shared {
		defer p.release(ctx, where)
	}
	return p.receive(ctx, v, methodEphemeral, where, "--root", rootOf(v), "--extra", "remove")
}

// podsOf waits until a controller has made a number of pods.
func (p *Plan) podsOf(ctx context.Context, namespace, uid string, count int) ([]*object.Object, error) {
	k, err := p.request.Target.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return nil, err
	}
	return p.ownedBy(ctx, k, namespace, uid, count)
}

// ownedBy waits until there are at least count objects that an owner controls,
// and returns them by name.
func (p *Plan) ownedBy(ctx context.Context, k kube.Kind, namespace, uid string, count int) ([]*object.Object, error) {
	for n := 1; ; n++ {
		var found []*object.Object
		_, err := p.request.Target.List(ctx, k, kube.ListOptions{Namespace: namespace}, func(o *object.Object) error {
			if c, ok := o.Controller(); ok && c.UID == uid && !o.Deleting {
				found = append(found, o)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(found) >= count {
			slices.SortFunc(found, func(a, b *object.Object) int { return a.Ref.Compare(b.Ref) })
			return found, nil
		}
		if err := wait(ctx, min(n, 4)); err != nil {
			return nil, fmt.Errorf("%d of %d %s are there: %w", len(found), count, k, err)
		}
	}
}

// observed waits until the controller has seen a version of a workload.
func (p *Plan) observed(ctx context.Context, i *item, live *object.Object) error {
	generation := func(o *object.Object, section1, key string) (int64, error) {
		content, err := o.Content()
		if err != nil {
			return 0, err
		}
		n, _ := section(content, section1)[key].(int64)
		return n, nil
	}
	want, err := generation(live, "metadata", "generation")
	if err != nil {
		return err
	}
	return p.request.Target.WaitFor(ctx, *i.kind, i.ref.Namespace, i.ref.Name, func(o *object.Object) (bool, error) {
		if o == nil {
			return false, errors.New("it was deleted")
		}
		have, err := generation(o, "status", "observedGeneration")
		return have >= want, err
	})
}

func (p *Plan) patchAs(ctx context.Context, k kube.Kind, ref v1alpha1.Ref, change map[string]any, o kube.WriteOptions) (*object.Object, error) {
	patch, err := json.Marshal(change)
	if err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		made, err := p.request.Target.Patch(ctx, k, ref.Namespace, ref.Name, types.MergePatchType, patch, o)
		if err == nil || n == attempts || !transient(err) {
			return made, err
		}
		if err := wait(ctx, n); err != nil {
			return nil, err
		}
	}
}
