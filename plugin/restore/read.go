package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// read takes every object of the backup in hand once, and keeps what decides
// about it.
func (p *Plan) read(ctx context.Context) error {
	volumesOf := map[string]bool{} // PersistentVolumes that move along with their claims
	err := p.request.Repository.ObjectsOf(ctx, *p.request.Record, func(ref v1alpha1.Ref) bool {
		return isDefinition(ref) || ref.Group == "" && ref.Kind == "PersistentVolume"
	}, func(o *object.Object) error {
		wanted, err := p.wanted(o)
		if err != nil || !wanted {
			return err
		}
		if o.Ref.Kind == "PersistentVolume" {
			volumesOf[o.Ref.Name] = !provisioned(o)
			return nil
		}
		return p.define(o)
	})
	if err != nil {
		return err
	}
	if err := p.learn(ctx); err != nil {
		return err
	}
	filled := map[v1alpha1.Ref]bool{}
	for _, v := range p.saved.Volumes {
		if v.Snapshot != "" && v.Ref.Kind == "PersistentVolumeClaim" {
			filled[v.Ref.Key()] = true
		}
	}
	used := map[string]bool{}
	builder := graph.NewBuilder(graph.Options{})
	err = p.request.Repository.ObjectsOf(ctx, *p.request.Record, nil, func(o *object.Object) error {
		wanted, err := p.wanted(o)
		if err != nil {
			return err
		}
		if !wanted && !(o.Ref.Group == "" && o.Ref.Kind == "Namespace") {
			return nil
		}
		i := &item{kind: noKind, saved: o.Ref, uid: o.UID, owners: o.Owners, spare: !wanted}
		if err := p.inspect(ctx, i, o, filled[o.Ref.Key()], volumesOf, used); err != nil {
			return err
		}
		p.bySaved[o.Ref.Key()] = i
		if o.UID != "" {
			p.byUID[o.UID] = i
		}
		if i.spare {
			return builder.Add(o)
		}
		p.items = append(p.items, i)
		if i.holdsClaim() {
			// A claim comes before what owns it: its data has to be in place
			// first. See giveOwners.
			bare := *o
			bare.Owners = nil
			o = &bare
		}
		return builder.Add(o)
	})
	if err != nil {
		return err
	}
	if p.graph, err = builder.Build(); err != nil {
		return err
	}
	for _, rule := range p.rules.Names() {
		if !used[rule] {
			p.warnings = append(p.warnings, rule+" matches nothing in the backup")
		}
	}
	if images := p.rules.UnmatchedImages(); len(images) > 0 {
		p.warnings = append(p.warnings, "images that no map is about: "+strings.Join(images, ", "))
	}
	return nil
}

func (p *Plan) wanted(o *object.Object) (bool, error) {
	if p.request.Filter == nil {
		return true, nil
	}
	ok, err := p.request.Filter(o)
	if err != nil {
		return false, fmt.Errorf("filter %s: %w", o.Ref, err)
	}
	return ok, nil
}

// define notes what a definition in the backup will make the target serve.
func (p *Plan) define(o *object.Object) error {
	content, err := o.Content()
	if err != nil {
		return err
	}
	defer o.Release()
	spec := section(content, "spec")
	names := section(spec, "names")
	group, _ := spec["group"].(string)
	kind, _ := names["kind"].(string)
	plural, _ := names["plural"].(string)
	versions, _ := spec["versions"].([]any)
	if only, _ := spec["version"].(string); len(versions) == 0 && only != "" { // of an old definition
		versions = []any{map[string]any{"name": only, "served": true}}
	}
	for _, v := range versions {
		version, _ := v.(map[string]any)
		name, _ := version["name"].(string)
		if served, _ := version["served"].(bool); !served {
			continue
		}
		k := kube.Kind{Resource: plural, Namespaced: spec["scope"] == "Namespaced", Verbs: []string{"create", "get", "list"}}
		k.GVK.Group, k.GVK.Version, k.GVK.Kind = group, name, kind
		subresources := section(version, "subresources")
		if subresources == nil {
			subresources = section(spec, "subresources")
		}
		if _, ok := subresources["status"]; ok {
			k.Subresources = []string{"status"}
		}
		p.defined[kindKey{group, name, kind}] = k
	}
	return nil
}

// inspect decides about one object as far as it alone can tell.
func (p *Plan) inspect(ctx context.Context, i *item, o *object.Object, filled bool, volumes, used map[string]bool) error {
	i.line.Ref = o.Ref
	reason, generated := object.MadeByCluster(o)
	if generated {
		// Whether an owner brings it back depends on whether the owner comes
		// back, so that is decided later.
		bare := *o
		bare.Owners = nil
		if bareReason, alone := object.MadeByCluster(&bare); alone {
			reason = bareReason
		} else {
			i.controlled, generated = true, false
		}
	}
	defer o.Release()
	i.ref = o.Ref
	unserved, err := p.findKind(ctx, i, o.Ref)
	if err != nil {
		return err
	}
	d, notes, problem := p.draft(ctx, i, o)
	var result rewrite.Result
	needy := false
	if problem == nil {
		if needy, err = p.needsOthers(d); err != nil {
			return err
		}
		_, i.hasStatus = d.Content["status"]
		result, problem = p.rules.Apply(d)
	}
	if problem != nil {
		i.line.Ref.Namespace = p.rules.Namespace(i.ref.Namespace)
		if generated {
			i.settle(v1alpha1.OutcomeSkipped, "%s", reason)
		} else {
			i.settle(v1alpha1.OutcomeFailed, "%s", reasonOf(problem))
		}
		return nil
	}
	changes, mentions := result.Changes, result.Mentions
	i.ref = d.NewRef()
	if i.ref.Kind != i.saved.Kind {
		// A profile made another kind of it.
		if unserved, err = p.findKind(ctx, i, i.ref); err != nil {
			return err
		}
	}
	i.line.Ref = i.ref
	if generated {
		i.settle(v1alpha1.OutcomeSkipped, "%s", reason)
		return nil
	}
	if why := cmp.Or(ended(i, d.Content), ofAMoment(i.saved, d.Content)); why != "" {
		i.settle(v1alpha1.OutcomeSkipped, "%s", why)
		return nil
	}
	if o.Ref.Group == "" && o.Ref.Kind == "PersistentVolume" && provisioned(o) {
		i.settle(v1alpha1.OutcomeSkipped, "it was provisioned for its claim, which gets a new one; deleting a copy could delete the disk of the first")
		return nil
	}
	if to, ok := p.mappedAway(o.Ref); ok {
		i.settle(v1alpha1.OutcomeSkipped, "what names it is mapped to %s %s", o.Ref.Kind, to)
		return nil
	}
	if unserved != "" {
		i.settle(v1alpha1.OutcomeFailed, "%s", unserved)
	}
	for _, rule := range result.Matched {
		used[rule] = true
	}
	i.line.Warnings = append(append(i.line.Warnings, notes...), result.Warnings...)
	if !i.spare {
		for _, m := range mentions {
			p.mentions = append(p.mentions, i.ref.String()+": "+m)
		}
	}
	if defines(o.Ref) && len(changes) > 0 {
		plain, _, err := p.draft(ctx, i, o)
		if err != nil {
			return err
		}
		rewrite.Clean(plain, p.cleanOptions(i, true))
		i.shared = &sharedDefinition{changes: changed(changes)}
		if i.shared.plain, err = digest(plain); err != nil {
			return err
		}
	}
	spec := section(d.Content, "spec")
	switch {
	case o.Ref.Group == "" && o.Ref.Kind == "PersistentVolumeClaim":
		i.volume, _ = spec["volumeName"].(string)
		i.newVolume = filled || i.volume == "" || !volumes[i.volume]
	case o.Ref.Group == "" && o.Ref.Kind == "PersistentVolume":
		ref := section(sectionOf(o, "spec"), "claimRef") // by the names where it was saved
		i.claimRef = &v1alpha1.Ref{Kind: "PersistentVolumeClaim"}
		i.claimRef.Name, _ = ref["name"].(string)
		i.claimRef.Namespace, _ = ref["namespace"].(string)
		i.disk = diskOf(spec)
	case o.Ref.Group == "rbac.authorization.k8s.io":
		if slices.ContainsFunc(changes, func(c rewrite.Change) bool { return strings.HasPrefix(c.Field, "subjects") }) {
			subjects, _ := d.Content["subjects"].([]any)
			i.binding = &binding{subjects, d.Content["roleRef"]}
		}
	}
	if i.holdsClaim() || graph.IsWorkload(o.Ref) {
		i.classes = rewrite.ClaimSpecs(d)
	}
	if i.hasStatus && !i.keepStatus && !graph.Builtin(i.saved.Group) && !p.request.RestoreStatus && !i.spare {
		p.droppedStatus[kindName(i.saved)]++
	}
	i.trackingID, i.instance = marksOf(d)
	i.line.Warnings = append(i.line.Warnings, rewrite.Clean(d, p.cleanOptions(i, true))...)
	if needy && !i.spare {
		if err := p.noteNamed(i, d); err != nil {
			return err
		}
	}
	i.digest, err = digest(d)
	if err != nil || i.line.Outcome == v1alpha1.OutcomeFailed {
		return err
	}
	i.settle(v1alpha1.OutcomeCreate, "%s", summary(changes))
	if i.convertedTo != nil {
		from := schema.GroupVersion{Group: i.saved.Group, Version: i.saved.Version}
		i.settle(v1alpha1.OutcomeCreate, "converted from %s to %s; %s", from, i.convertedTo.GroupVersion(), i.line.Reason)
	}
	return nil
}

func sectionOf(o *object.Object, key string) map[string]any {
	content, err := o.Content()
	if err != nil {
		return nil
	}
	return section(content, key)
}

func kindName(r v1alpha1.Ref) string {
	if r.Group == "" {
		return r.Kind
	}
	return r.Kind + "." + r.Group
}

// provisioned says whether a PersistentVolume was made for a claim, and not by
// hand.
func provisioned(o *object.Object) bool {
	return o.Annotations["pv.kubernetes.io/provisioned-by"] != ""
}

// summary says what the rules change, shortly.
func summary(changes []rewrite.Change) string {
	if len(changes) == 0 {
		return "not in the target"
	}
	return "not in the target; changed: " + changed(changes)
}

func changed(changes []rewrite.Change) string {
	var parts []string
	for n, c := range changes {
		if n == 4 {
			parts = append(parts, fmt.Sprintf("and %d more", len(changes)-n))
			break
		}
		parts = append(parts, c.String())
	}
	return strings.Join(parts, ", ")
}

// eachSaved reads the objects of items and deals with several at once.
func (p *Plan) eachSaved(ctx context.Context, items []*item, parallel int, do func(context.Context, *item, *object.Object) error) error {
	if len(items) == 0 {
		return nil
	}
	want := make(map[v1alpha1.Ref]bool, len(items))
	for _, i := range items {
		want[i.saved.Key()] = true
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	err := p.request.Repository.ObjectsOf(ctx, *p.request.Record, func(r v1alpha1.Ref) bool { return want[r] }, func(o *object.Object) error {
		group.Go(func() error { return do(ctx, p.bySaved[o.Ref.Key()], o) })
		return nil
	})
	return errors.Join(err, group.Wait())
}

// ended says why an object that did its work must not do it again.
func ended(i *item, content map[string]any) string {
	status := section(content, "status")
	switch {
	case i.saved.Group == "" && i.saved.Kind == "Pod":
		labels := section(section(content, "metadata"), "labels")
		if labels[kube.LabelTemporary] == "true" {
			return "a backup run made it for itself"
		}
		if phase, _ := status["phase"].(string); !i.controlled && (phase == "Succeeded" || phase == "Failed") {
			return "it had ended (" + phase + "); starting it again would repeat its work"
		}
	case i.saved.Group == "batch" && i.saved.Kind == "Job":
		conditions, _ := status["conditions"].([]any)
		for _, c := range conditions {
			m, _ := c.(map[string]any)
			if t, _ := m["type"].(string); m["status"] == "True" && (t == "Complete" || t == "Failed") {
				return "it had ended (" + t + "); starting it again would repeat its work"
			}
		}
	case i.saved.Group == "certificates.k8s.io" && i.saved.Kind == "CertificateSigningRequest":
		conditions, _ := status["conditions"].([]any)
		if len(conditions) > 0 {
			return "it had been answered; made again it would be another request, in your name"
		}
	}
	return ""
}

// ofAMoment says why a snapshot that was taken of a volume cannot come back: a
// new one would hold what the volume holds by then. One that a person made for a
// snapshot that exists is another thing.
func ofAMoment(r v1alpha1.Ref, content map[string]any) string {
	source := section(section(content, "spec"), "source")
	switch {
	case r.Group != "snapshot.storage.k8s.io" && r.Group != "groupsnapshot.storage.k8s.io":
	case source["persistentVolumeClaimName"] != nil, source["selector"] != nil:
		return "it was taken of what its claims held then; made again it would hold what they hold now"
	case source["volumeHandle"] != nil, source["volumeHandles"] != nil:
		return "it was made for its snapshot; a copy would have another one taken of the disk"
	}
	return ""
}
