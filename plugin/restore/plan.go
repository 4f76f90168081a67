package restore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	kind   *kube.Kind // one for all of a kind; empty where the target has none

	line v1alpha1.ObjectLine
	// digest is that of the content to be, without what a server assigns.
	digest  [sha256.Size]byte
	shared  *sharedDefinition
	binding *binding
	// claimRef is the claim of a PersistentVolume, and volume the volume of a
	// claim, by the names where they were saved; disk is what a PersistentVolume
	// leads to, see diskOf.
	claimRef *v1alpha1.Ref
	volume   string
	disk     string
	classes  []rewrite.ClaimSpec

	// convertedTo is set where the version at which it was saved is not served.
	convertedTo *schema.GroupVersionKind
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
	// refusal is what the server said to a dry run, or errUnknown.
	refusal error
	// made says that this restore created it.
	made bool
	// madeBy makes a claim for itself: a pod, or a workload by its pods.
	madeBy *item
	// unfilled says that a claim's data is not in place.
	unfilled bool
	// before is what a claim had, for when it is filled.
	before *original

	// action is what is done with it, where something is.
	action action
	// differs says that the target holds something else by its name, and fields
	// in what; ours that this program owns fields of it there.
	differs bool
	fields  []string
	ours    bool
	// liveOwners are the UIDs of its owners in the target.
	liveOwners []string
	// laterOwners are the UIDs, where they were saved, of owners that are made
	// after it.
	laterOwners []string
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
	saved   *v1alpha1.Document // the report of the run that made the backup, see takeLines
	// leftToOwners are the lines of what the run left to its owners.
	leftToOwners []v1alpha1.ObjectLine

	items   []*item
	bySaved map[v1alpha1.Ref]*item // by Ref.Key
	byUID   map[string]*item
	graph   *graph.Graph
	waves   [][]v1alpha1.Ref // saved refs
	defined map[kindKey]kube.Kind
	kinds   map[kindKey]*kube.Kind // see kindOf
	volumes []*volumeItem
	// owners are the UIDs of owners that are in the target and that the restore
	// does not bring.
	owners map[string]bool
	// applications are Argo CD's, the highest first.
	applications []*application
	jobs         jobs

	// missingNamespaces are needed and neither here nor in the backup, and
	// unmadeNamespaces says of some why they could not be made.
	missingNamespaces []string
	unmadeNamespaces  map[string]string
	liveNamespaces    map[string]bool
	mentions          []string
	// named are the places that name an object, by what they name.
	named map[v1alpha1.Ref][]naming
	// deadWebhooks are those that did not answer for as long as one object was
	// tried: no other waits for them.
	deadWebhooks sync.Map
	// takes are the objects that go with a definition that is deleted, by UID,
	// and released the volumes of claims that others by their names had.
	takes    map[*item]map[string]*item
	released map[*item]v1alpha1.Ref
	// stuck says that something that was deleted was not gone in time.
	stuck         atomic.Bool
	warnings      []string
	droppedStatus map[string]int
	// scaled are the workloads that have no replicas for a while, by UID, and
	// users what uses the claims of a namespace.
	scaled map[string]*scaled
	users  map[string]*claimUsers
	// standIns are asked for by a dry run.
	standIns *standIns
	// interrupted is what an ended restore left half done.
	interrupted struct {
		sync.Mutex
		list []interrupted
	}
}

type kindKey struct{ group, version, kind string }

// binding is what a role binding says whose subjects a rule changed.
type binding struct {
	subjects []any
	role     any
}

// sharedDefinition says what the rules change of a definition, of which there
// can be only one, and has its digest without the rules.
type sharedDefinition struct {
	changes string
	plain   [sha256.Size]byte
}

var noKind = &kube.Kind{}

// kindOf is one copy of a kind for all items of it: there may be very many.
func (p *Plan) kindOf(k kube.Kind) *kube.Kind {
	key := kindKey{k.GVK.Group, k.GVK.Version, k.GVK.Kind}
	if p.kinds[key] == nil {
		p.kinds[key] = &k
	}
	return p.kinds[key]
}

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
		defined: map[kindKey]kube.Kind{}, kinds: map[kindKey]*kube.Kind{}, liveNamespaces: map[string]bool{}, droppedStatus: map[string]int{},
		scaled: map[string]*scaled{}, users: map[string]*claimUsers{}, unmadeNamespaces: map[string]string{},
		named: map[v1alpha1.Ref][]naming{}, takes: map[*item]map[string]*item{}, released: map[*item]v1alpha1.Ref{},
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
	slices.SortFunc(p.saved.Objects, func(a, b v1alpha1.ObjectLine) int { return a.Ref.Compare(b.Ref) })
	if err := r.Repository.Check(ctx, *r.Record); err != nil {
		return nil, err
	}
	if err := p.learnTracking(ctx); err != nil {
		return nil, err
	}
	if err := p.read(ctx); err != nil {
		return nil, err
	}
	p.takeLines()
	if len(p.items) == 0 {
		return nil, fmt.Errorf("nothing in backup %s matches, so there is nothing to restore", r.Record.ID)
	}
	if err := p.findOwners(ctx); err != nil {
		return nil, err
	}
	p.leaveToOwners()
	p.leaveOldVolumes()
	if err := p.checkNames(); err != nil {
		return nil, err
	}
	if err := p.lookUp(ctx); err != nil {
		return nil, err
	}
	if err := p.leaveTakenVolumes(ctx); err != nil {
		return nil, err
	}
	if err := p.leaveTakenDisks(ctx); err != nil {
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
	if err := p.findDangling(ctx); err != nil {
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
	p.findLaterOwners()
}

func section(m map[string]any, key string) map[string]any {
	child, _ := m[key].(map[string]any)
	return child
}

func isDefinition(r v1alpha1.Ref) bool {
	return r.Group == "apiextensions.k8s.io" && r.Kind == "CustomResourceDefinition"
}

// defines says whether an object makes an API: a copy of it under another name
// would be another API.
func defines(r v1alpha1.Ref) bool {
	return isDefinition(r) || r.Group == "apiregistration.k8s.io" && r.Kind == "APIService"
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

// leaveToOwners leaves what a controller makes to it, where its owner comes
// back. Where it does not, the object is restored for itself.
func (p *Plan) leaveToOwners() {
	var back func(i *item, depth int) bool
	back = func(i *item, depth int) bool {
		if i.line.Outcome == v1alpha1.OutcomeCreate && i.controlled && depth < 8 {
			owner := p.controllerOf(i)
			switch {
			case owner == nil:
				for _, o := range i.owners {
					if o.Controller && p.owners[o.UID] && !i.moved() {
						i.settle(v1alpha1.OutcomeLeftToOwner, "%s %s, which is there, makes it again", o.Kind, o.Name)
					}
				}
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
		case i.claimRef != nil && i.claimRef.Name != "":
			if claim := p.bySaved[i.claimRef.Key()]; claim != nil && claim.newVolume {
				i.settle(v1alpha1.OutcomeSkipped, "%s gets a new volume here", claim.ref)
			}
		case i.holdsClaim():
			p.leaveToPod(i)
		}
	}
}

// leaveToPod leaves out a claim that a pod had made for itself, from an
// ephemeral volume: no other pod starts with it, not even one of the same name.
// Where the pod comes back, by itself or by its workload, it makes a new one.
// Where it does not, the claim is worth restoring for its data alone.
func (p *Plan) leaveToPod(i *item) {
	n := slices.IndexFunc(i.owners, func(o object.Owner) bool { return o.Controller && o.Kind == "Pod" })
	if n < 0 {
		return
	}
	pod := i.owners[n]
	owner, data := p.byUID[pod.UID], false
	for _, v := range p.saved.Volumes {
		if v.Ref.Key() != i.saved.Key() {
			continue
		}
		data = v.Snapshot != ""
		if owner == nil && v.Workload != nil {
			owner = p.bySaved[v.Workload.Key()]
		}
	}
	switch {
	case owner != nil && (owner.line.Outcome == v1alpha1.OutcomeLeftToOwner || owner.line.Outcome == v1alpha1.OutcomeCreate):
		i.madeBy = owner
		i.settle(v1alpha1.OutcomeLeftToOwner, "%s makes it for itself", owner.ref)
	case !data:
		i.settle(v1alpha1.OutcomeSkipped, "Pod %s had made it for itself, and the backup has none of its data", pod.Name)
	}
}

// leaveTakenVolumes has claims get new volumes whose own is here and belongs to
// another claim: that of the original, beside which a copy is made. One that
// belonged to the claim itself, before that was deleted, is given back to it.
func (p *Plan) leaveTakenVolumes(ctx context.Context) error {
	k, err := p.request.Target.FindKind(ctx, "", "v1", "PersistentVolume")
	if err != nil {
		return err
	}
	for _, i := range p.items {
		if !i.holdsClaim() || i.newVolume || i.line.Outcome != v1alpha1.OutcomeCreate {
			continue
		}
		live, err := p.request.Target.Get(ctx, k, "", i.volume)
		if apierrors.IsNotFound(err) {
			continue
		}
		if _, _, denied := kube.Denied(err); denied {
			continue // then the claim waits for it
		}
		if err != nil {
			return fmt.Errorf("look for the volume of %s: %w", i.ref, err)
		}
		ref := section(sectionOf(live, "spec"), "claimRef")
		if ref == nil {
			continue
		}
		if ref["name"] == i.ref.Name && ref["namespace"] == i.ref.Namespace {
			if sectionOf(live, "status")["phase"] == "Released" {
				i.line.Reason += "; its volume " + i.volume + " is here, and would be free for it again"
				p.released[i] = live.Ref
			}
			continue
		}
		i.newVolume = true
		i.warn("its volume %s belongs to claim %v/%v here, and it gets a new one", i.volume, ref["namespace"], ref["name"])
		if volume := p.bySaved[v1alpha1.Ref{Kind: "PersistentVolume", Name: i.volume}]; volume != nil {
			volume.differs = false
			volume.settle(v1alpha1.OutcomeSkipped, "it belongs to claim %v/%v here; %s gets a new volume", ref["namespace"], ref["name"], i.ref)
		}
	}
	return nil
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
