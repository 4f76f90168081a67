package restore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// item is one object of the backup on its way into the target. Its content is
// not kept: it is read again when it is written.
type item struct {
	saved  v1alpha1.Ref
	ref    v1alpha1.Ref // what it is called in the target
	uid    string       // where it was saved
	owners []object.Owner
	kind   kube.Kind

	line v1alpha1.ObjectLine
	// digest is that of the content to be, without what a server assigns.
	digest [sha256.Size]byte
	// shared says what the rules change of a definition, of which there can be
	// only one, and plain is its digest without the rules.
	shared string
	plain  [sha256.Size]byte
	// subjects is the list of a role binding whose subjects a rule changed.
	subjects []any
	// claimRef is the claim of a PersistentVolume, and volume the volume of a
	// claim, by the names where they were saved.
	claimRef v1alpha1.Ref
	volume   string
	classes  []rewrite.ClaimSpec

	// convertedTo is set where the version at which it was saved is not served.
	convertedTo schema.GroupVersionKind
	custom      bool // defined by a CustomResourceDefinition of the backup
	keepStatus  bool
	hasStatus   bool
	newVolume   bool // a claim that gets a volume made for it here
	controlled  bool // a built-in controller makes it from its owner
	spare       bool // a namespace that was not asked for, used only if needed

	// trackingID and instance are Argo CD's marks, where they are kept.
	trackingID, instance string

	// liveUID is the object's UID in the target, once it is there.
	liveUID string
	// refusal is what the server said to a dry run.
	refusal error
	// made says that this restore created it.
	made bool
	// unfilled says that a claim's data is not in place.
	unfilled bool
	// before is what a claim had, for when it is filled.
	before original

	// action is what is done with it, where something is.
	action action
	// differs says that the target holds something else by its name, and fields
	// in what; ours that this program owns fields of it there.
	differs bool
	fields  []string
	ours    bool
	// liveOwners are the UIDs of its owners in the target.
	liveOwners []string
	// filled says that its data is in place and that a label on it says so.
	filled bool
	// held says of a workload that a restore was ended while it held it back.
	held bool
	// overwriting says of a claim that a restore was ended while it replaced its
	// data.
	overwriting bool
}

func (i *item) settle(o v1alpha1.Outcome, format string, args ...any) {
	i.line.Outcome, i.line.Reason = o, fmt.Sprintf(format, args...)
}

func (i *item) warn(format string, args ...any) {
	i.line.Warnings = append(i.line.Warnings, fmt.Sprintf(format, args...))
}

// Plan is what a restore would do, computed without writing anything.
type Plan struct {
	request Request
	rules   rewrite.Rules
	target  v1alpha1.Cluster
	saved   *v1alpha1.Document // the report of the run that made the backup

	items   []*item
	bySaved map[v1alpha1.Ref]*item // by Ref.Key
	byUID   map[string]*item
	graph   *graph.Graph
	waves   [][]v1alpha1.Ref // saved refs
	defined map[kindKey]kube.Kind
	volumes []*volumeItem
	// applications are Argo CD's, the highest first.
	applications []*application
	jobs         jobs

	// missingNamespaces are needed and neither here nor in the backup.
	missingNamespaces []string
	liveNamespaces    map[string]bool
	mentions          []string
	warnings          []string
	droppedStatus     map[string]int
	// scaled are the workloads that have no replicas for a while, by UID, and
	// users what uses the claims of a namespace.
	scaled map[string]*scaled
	users  map[string]*claimUsers
	// interrupted is what an ended restore left half done.
	interrupted []interrupted
}

type kindKey struct{ group, version, kind string }

// Compute works out what a restore would do to every object and volume. An
// error means that the restore must not begin.
func Compute(ctx context.Context, r Request) (*Plan, error) {
	if err := r.defaults(); err != nil {
		return nil, err
	}
	rules, err := r.rules()
	if err != nil {
		return nil, err
	}
	p := &Plan{
		request: r, rules: rules, bySaved: map[v1alpha1.Ref]*item{}, byUID: map[string]*item{},
		defined: map[kindKey]kube.Kind{}, liveNamespaces: map[string]bool{}, droppedStatus: map[string]int{},
		scaled: map[string]*scaled{}, users: map[string]*claimUsers{},
	}
	if p.target, err = r.Target.Identity(ctx); err != nil {
		return nil, fmt.Errorf("identify target cluster: %w", err)
	}
	if err := r.Target.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("read what the target serves: %w", err)
	}
	if p.saved, err = r.Repository.Document(ctx, *r.Record); err != nil {
		return nil, err
	}
	if err := r.Repository.Check(ctx, *r.Record); err != nil {
		return nil, err
	}
	if err := p.learnTracking(ctx); err != nil {
		return nil, err
	}
	if err := p.read(ctx); err != nil {
		return nil, err
	}
	if len(p.items) == 0 {
		return nil, fmt.Errorf("nothing in backup %s matches, so there is nothing to restore", r.Record.ID)
	}
	p.leaveToOwners()
	p.leaveOldVolumes()
	if err := p.checkNames(); err != nil {
		return nil, err
	}
	if err := p.lookUp(ctx); err != nil {
		return nil, err
	}
	if err := p.findScaled(ctx); err != nil {
		return nil, err
	}
	p.finishLater()
	if err := p.resolveConflicts(ctx); err != nil {
		return nil, err
	}
	if err := p.planVolumes(ctx); err != nil {
		return nil, err
	}
	if err := p.checkClasses(ctx); err != nil {
		return nil, err
	}
	if err := p.checkReferences(ctx); err != nil {
		return nil, err
	}
	p.order()
	if err := p.findApplications(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// order gives each object that is to be written its wave.
func (p *Plan) order() {
	var refs []v1alpha1.Ref
	for _, i := range p.items {
		if i.line.Outcome == v1alpha1.OutcomeCreate || i.line.Outcome == v1alpha1.OutcomeApply {
			refs = append(refs, i.saved)
		}
	}
	p.waves, _ = p.graph.Waves(refs)
	for n, wave := range p.waves {
		for _, ref := range wave {
			p.bySaved[ref.Key()].line.Wave = n
		}
	}
}

// read takes every object of the backup in hand once, and keeps what decides
// about it.
func (p *Plan) read(ctx context.Context) error {
	volumesOf := map[string]bool{} // PersistentVolumes that move along with their claims
	err := p.request.Repository.ObjectsOf(ctx, *p.request.Record, func(ref v1alpha1.Ref) bool {
		return ref.Kind == "CustomResourceDefinition" || ref.Group == "" && ref.Kind == "PersistentVolume"
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
		i := &item{saved: o.Ref, uid: o.UID, owners: o.Owners, spare: !wanted}
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
		if o.Ref.Kind == "PersistentVolumeClaim" {
			// A claim comes before the set that owns it: its data has to be in
			// place first. The set takes it over again.
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

func section(m map[string]any, key string) map[string]any {
	child, _ := m[key].(map[string]any)
	return child
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
	if problem == nil {
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
	if why := ended(i, d.Content); why != "" {
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
		i.shared = changed(changes)
		plain, _, err := p.draft(ctx, i, o)
		if err != nil {
			return err
		}
		rewrite.Clean(plain, p.cleanOptions(i, true))
		if i.plain, err = digest(plain); err != nil {
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
		i.claimRef = v1alpha1.Ref{Kind: "PersistentVolumeClaim"}
		i.claimRef.Name, _ = ref["name"].(string)
		i.claimRef.Namespace, _ = ref["namespace"].(string)
	case o.Ref.Group == "rbac.authorization.k8s.io":
		if slices.ContainsFunc(changes, func(c rewrite.Change) bool { return strings.HasPrefix(c.Field, "subjects") }) {
			i.subjects, _ = d.Content["subjects"].([]any)
		}
	}
	if i.newVolume || graph.IsWorkload(o.Ref) {
		i.classes = rewrite.ClaimSpecs(d)
	}
	if i.hasStatus && !i.keepStatus && i.custom && !p.request.RestoreStatus && !i.spare {
		p.droppedStatus[kindName(i.saved)]++
	}
	i.trackingID, i.instance = marksOf(d)
	i.line.Warnings = append(i.line.Warnings, rewrite.Clean(d, p.cleanOptions(i, true))...)
	i.digest, err = digest(d)
	if err != nil || i.line.Outcome == v1alpha1.OutcomeFailed {
		return err
	}
	i.settle(v1alpha1.OutcomeCreate, "%s", summary(changes))
	if !i.convertedTo.Empty() {
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

// defines says whether an object makes an API: a copy of it under another name
// would be another API.
func defines(r v1alpha1.Ref) bool {
	return r.Kind == "CustomResourceDefinition" || r.Kind == "APIService"
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

// cleanOptions are those that an object is cleaned with: for comparison what
// binds a claim to its volume never counts.
func (p *Plan) cleanOptions(i *item, compare bool) rewrite.CleanOptions {
	keepNodePorts := p.request.KeepNodePorts
	if said := p.rules.KeepsNodePorts(); said != nil {
		keepNodePorts = *said
	}
	return rewrite.CleanOptions{
		KeepNodePorts: keepNodePorts, KeepStatus: i.keepStatus,
		NewVolume: i.newVolume || compare && i.saved.Group == "" && i.saved.Kind == "PersistentVolumeClaim",
	}
}

// digest stands for what a cleaned draft says. Owners do not count: their UIDs
// differ between clusters.
func digest(d *rewrite.Draft) ([sha256.Size]byte, error) {
	delete(section(d.Content, "metadata"), "ownerReferences")
	raw, err := d.Encode()
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(raw), nil
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
	}
	return ""
}

// leaveToOwners leaves what a controller makes to it, where its owner comes
// back. Where it does not, the object is restored for itself.
func (p *Plan) leaveToOwners() {
	var back func(i *item, depth int) bool
	back = func(i *item, depth int) bool {
		if i.line.Outcome == v1alpha1.OutcomeCreate && i.controlled && depth < 8 {
			owner := p.controllerOf(i)
			switch {
			case owner == nil:
			case back(owner, depth+1):
				i.settle(v1alpha1.OutcomeLeftToOwner, "%s makes it again", owner.ref)
			case owner.line.Outcome == v1alpha1.OutcomeSkipped:
				i.settle(v1alpha1.OutcomeSkipped, "it belongs to %s, which is left out: %s", owner.ref, owner.line.Reason)
			}
		}
		return i.line.Outcome == v1alpha1.OutcomeCreate || i.line.Outcome == v1alpha1.OutcomeLeftToOwner
	}
	for _, i := range p.items {
		back(i, 0)
	}
}

func (p *Plan) controllerOf(i *item) *item {
	for _, o := range i.owners {
		if o.Controller {
			return p.byUID[o.UID]
		}
	}
	return nil
}

// leaveOldVolumes leaves out the volumes whose claims get new ones, and the
// claims that a pod makes for itself.
func (p *Plan) leaveOldVolumes() {
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeCreate {
			continue
		}
		switch {
		case i.claimRef.Name != "":
			if claim := p.bySaved[i.claimRef.Key()]; claim != nil && claim.newVolume {
				i.settle(v1alpha1.OutcomeSkipped, "%s gets a new volume here", claim.ref)
			}
		case i.saved.Kind == "PersistentVolumeClaim" && i.saved.Group == "":
			if owner := p.controllerOf(i); owner != nil && owner.saved.Kind == "Pod" &&
				(owner.line.Outcome == v1alpha1.OutcomeLeftToOwner || owner.line.Outcome == v1alpha1.OutcomeCreate) {
				i.settle(v1alpha1.OutcomeLeftToOwner, "%s makes it for itself", owner.ref)
			}
		}
	}
}

// checkNames refuses a map that sends two objects to one name.
func (p *Plan) checkNames() error {
	seen := map[v1alpha1.Ref]*item{}
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeCreate {
			continue
		}
		other := seen[i.ref.Key()]
		if other == nil {
			seen[i.ref.Key()] = i
			continue
		}
		if i.saved.Group == "" && i.saved.Kind == "Namespace" {
			i.settle(v1alpha1.OutcomeSkipped, "namespaces %s and %s go to the same one; the labels are those of the first", other.saved.Name, i.saved.Name)
			continue
		}
		return fmt.Errorf("%s and %s of the backup would both become %s (hint: map one of the namespaces to another name)", other.saved, i.saved, i.ref)
	}
	return nil
}
