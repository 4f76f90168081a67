package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// The pods of a StatefulSet have names and claims of their own, so each gets
// back what its namesake had. The set is created without replicas. Its pods
// are made here, by their names but without its labels, and filled; then the
// set is scaled, and finds the names taken; then the pods are given its labels,
// and it adopts them. With the labels first it would delete them, having no
// replicas; with the scaling first and no pods it would make its own.

// restoreStatefulSet creates a set whose pods' own volumes get data.
func (p *Plan) restoreStatefulSet(ctx context.Context, i *item, d *rewrite.Draft, before original, held []*volumeItem, replicas json.Number) error {
	spec := section(d.Content, "spec")
	spec["replicas"] = json.Number("0")
	// While it is held back, no claim may go with its pods or with itself.
	const retention = "persistentVolumeClaimRetentionPolicy"
	retain, retained := spec[retention]
	spec[retention] = map[string]any{"whenDeleted": "Retain", "whenScaled": "Retain"}
	created, err := p.create(ctx, i, d, before.managers)
	if err != nil || created == nil {
		failAll(held, "%s was not created", i.ref)
		return err
	}
	pods, fillErr := p.fillSetPods(ctx, i, d, held, replicas)
	if ctx.Err() != nil {
		fillErr = context.Cause(ctx)
	}
	if fillErr != nil {
		failAll(held, "its data could not be put in place before its pod started: %s", fillErr)
	}
	restoring, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	as := kube.WriteOptions{FieldManager: before.managers.Creator}
	_, err = p.patchAs(restoring, *i.kind, i.ref, map[string]any{"spec": map[string]any{"replicas": replicas}}, as)
	if err != nil {
		return fmt.Errorf("created, but could not be set to %s replicas again: %w", replicas, err)
	}
	for _, pod := range pods {
		if err := p.handOver(restoring, i, pod); err != nil {
			i.warn("pod %s was not handed over: %s", pod.ref.Name, err)
		}
	}
	if !retained {
		return p.letGo(ctx, i, before, nil)
	}
	return p.letGo(ctx, i, before, map[string]any{retention: retain})
}

// setPod is a pod that is made for a set and not yet its own.
type setPod struct {
	ref       v1alpha1.Ref
	uid       string
	container string
	labels    map[string]any
}

// fillSetPods makes the pods that have data and fills them. Those that it
// returns wait to be handed over.
func (p *Plan) fillSetPods(ctx context.Context, i *item, d *rewrite.Draft, held []*volumeItem, replicas json.Number) ([]setPod, error) {
	settling, cancel := context.WithTimeoutCause(ctx, settleTime, errors.New("its controller did not act in time"))
	defer cancel()
	revision := ""
	err := p.request.Target.WaitFor(settling, *i.kind, i.ref.Namespace, i.ref.Name, func(o *object.Object) (bool, error) {
		if o == nil {
			return false, errors.New("it was deleted")
		}
		content, err := o.Content()
		revision, _ = section(content, "status")["updateRevision"].(string)
		return revision != "", err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for its revision: %w", err)
	}
	count, err := replicas.Int64()
	if err != nil {
		return nil, err
	}
	var pods []setPod
	for _, volumes := range byPod(held) {
		name := volumes[0].pod
		ordinal, err := strconv.ParseInt(strings.TrimPrefix(name, i.saved.Name+"-"), 10, 64)
		if first := firstOrdinal(d); err != nil || ordinal < first || ordinal >= first+count {
			failAll(volumes, "%s has no pod %s here", i.ref, name)
			continue
		}
		// The set may have another name here.
		pod, err := p.makeSetPod(settling, i, d, fmt.Sprintf("%s-%d", i.ref.Name, ordinal), ordinal, revision, volumes)
		if err != nil {
			failAll(volumes, "its pod could not be made: %s", err)
			continue
		}
		p.fillPod(ctx, pod.ref, pod.container, volumes)
		pods = append(pods, pod)
	}
	return pods, nil
}

func firstOrdinal(d *rewrite.Draft) int64 {
	n, _ := section(section(d.Content, "spec"), "ordinals")["start"].(json.Number)
	first, err := n.Int64()
	if err != nil {
		return 0
	}
	return first
}

// makeSetPod makes the pod that the set would make, held by one more container
// and without the set's labels.
func (p *Plan) makeSetPod(ctx context.Context, i *item, d *rewrite.Draft, name string, ordinal int64, revision string, volumes []*volumeItem) (setPod, error) {
	spec := section(d.Content, "spec")
	template, err := copyOf(section(spec, "template"))
	if err != nil {
		return setPod{}, err
	}
	meta, pod := section(template, "metadata"), section(template, "spec")
	annotations := maps.Clone(section(meta, "annotations"))
	if annotations == nil {
		annotations = map[string]any{}
	}
	annotations[mover.AnnotationOwner] = mover.Owner()
	labels := maps.Clone(section(meta, "labels"))
	labels["statefulset.kubernetes.io/pod-name"] = name
	labels["apps.kubernetes.io/pod-index"] = strconv.FormatInt(ordinal, 10)
	labels["controller-revision-hash"] = revision

	filler := p.holder(volumes)
	others, _ := pod["initContainers"].([]any)
	pod["initContainers"] = append([]any{filler}, others...)
	pod["hostname"] = name
	if service, _ := spec["serviceName"].(string); service != "" {
		pod["subdomain"] = service
	}
	templates, _ := spec["volumeClaimTemplates"].([]any)
	claimed := map[string]any{}
	for _, t := range templates {
		m, _ := t.(map[string]any)
		volume, _ := section(m, "metadata")["name"].(string)
		claimed[volume] = map[string]any{"name": volume, "persistentVolumeClaim": map[string]any{"claimName": volume + "-" + name}}
	}
	all := []any{state()}
	list, _ := pod["volumes"].([]any)
	for _, v := range list {
		m, _ := v.(map[string]any)
		if volume, _ := m["name"].(string); claimed[volume] == nil {
			all = append(all, v)
		}
	}
	for _, v := range claimed {
		all = append(all, v)
	}
	pod["volumes"] = all
	raw, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "spec": pod,
		"metadata": map[string]any{
			"name": name, "namespace": i.ref.Namespace, "annotations": annotations,
			"labels": map[string]any{kube.LabelTemporary: "true", kube.LabelRun: p.request.Record.ID},
		},
	})
	if err != nil {
		return setPod{}, err
	}
	pods, err := p.request.Target.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return setPod{}, err
	}
	made, err := p.request.Target.Create(ctx, pods, i.ref.Namespace, raw, kube.WriteOptions{})
	if err != nil {
		return setPod{}, err
	}
	return setPod{ref: made.Ref, uid: made.UID, container: filler.Name, labels: labels}, nil
}

// handOver gives a pod the labels by which its set adopts it. It has to be
// filled and released: it goes on by itself.
func (p *Plan) handOver(ctx context.Context, i *item, pod setPod) error {
	pods, err := p.request.Target.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return err
	}
	labels := maps.Clone(pod.labels)
	labels[kube.LabelTemporary], labels[kube.LabelRun] = nil, nil
	_, err = p.patchAs(ctx, pods, pod.ref, map[string]any{"metadata": map[string]any{
		"labels": labels, "annotations": map[string]any{mover.AnnotationOwner: nil},
	}}, kube.WriteOptions{})
	if err == nil {
		return nil
	}
	// A pod that the set cannot have stands in its way.
	return errors.Join(err, p.request.Target.DeletePod(ctx, pod.ref.Namespace, pod.ref.Name, pod.uid))
}

func copyOf(m map[string]any) (map[string]any, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	return out, json.Unmarshal(raw, &out)
}
