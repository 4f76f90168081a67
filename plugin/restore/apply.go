package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// established bounds the wait for a new definition to be served.
const established = time.Minute

// execute does what the plan says.
func (p *Plan) execute(ctx context.Context) error {
	if err := mover.Sweep(ctx, p.request.Target, mover.Search{}); err != nil {
		p.warnings = append(p.warnings, "what an earlier run left behind could not be removed: "+err.Error())
	}
	if err := p.makeNamespaces(ctx); err != nil {
		return err
	}
	defer p.scaleBack(ctx) // also what waits for the end of a restore that fails
	if err := p.overwriteVolumes(ctx); err != nil {
		return err
	}
	if err := p.awaitEarlier(ctx); err != nil {
		return err
	}
	for _, wave := range p.waves {
		if err := p.awaitAnswers(ctx, wave); err != nil {
			return err
		}
		if err := p.writeWave(ctx, wave); err != nil {
			return err
		}
		if err := p.awaitDefinitions(ctx, wave); err != nil {
			return err
		}
		if err := p.fillClaims(ctx, wave); err != nil {
			return err
		}
	}
	if err := p.giveOwners(ctx); err != nil {
		return err
	}
	if err := p.finishFilled(ctx); err != nil {
		return err
	}
	p.scaleBack(ctx)
	return p.waitHealthy(ctx)
}

// makeNamespaces makes the namespaces of which the backup knows nothing.
func (p *Plan) makeNamespaces(ctx context.Context) error {
	return p.eachMissingNamespace(ctx, kube.WriteOptions{})
}

// eachMissingNamespace makes those namespaces, or asks whether they can be made,
// and notes of which they cannot: what goes into them fails.
func (p *Plan) eachMissingNamespace(ctx context.Context, o kube.WriteOptions) error {
	k, err := p.request.Target.FindKind(ctx, "", "v1", "Namespace")
	if err != nil {
		return err
	}
	for _, name := range p.missingNamespaces {
		raw, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}})
		if err != nil {
			return err
		}
		for n := 1; ; n++ {
			_, err = p.request.Target.Create(ctx, k, "", raw, o)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err == nil || apierrors.IsAlreadyExists(err) {
				break
			}
			if !p.again(n, err) {
				p.unmadeNamespaces[name] = fmt.Sprintf("namespace %s could not be made: %s", name, err)
				break
			}
			if err := wait(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeWave writes the objects of one wave, in parallel. What becomes of one
// is in its line; the error is that of the whole restore.
func (p *Plan) writeWave(ctx context.Context, wave []v1alpha1.Ref) error {
	in := make(map[v1alpha1.Ref]bool, len(wave))
	for _, r := range wave {
		in[r.Key()] = true
	}
	group, gctx := errgroup.WithContext(ctx)
	work := make(chan *object.Object, p.request.Workers)
	for range min(p.request.Workers, len(wave)) {
		group.Go(func() error {
			for o := range work {
				i := p.bySaved[o.Ref.Key()]
				if err := p.restore(gctx, i, o); err != nil {
					if gctx.Err() != nil {
						return context.Cause(gctx)
					}
					i.settle(v1alpha1.OutcomeFailed, "%s", err)
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(work)
		return p.request.Repository.ObjectsOf(gctx, *p.request.Record, func(r v1alpha1.Ref) bool { return in[r] }, func(o *object.Object) error {
			select {
			case work <- o:
				return nil
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		})
	})
	return group.Wait()
}

// restore brings one object back and settles its line. An error is the reason
// why it failed.
func (p *Plan) restore(ctx context.Context, i *item, o *object.Object) error {
	if why := p.blocked(i); why != "" {
		i.settle(v1alpha1.OutcomeFailed, "not created: %s", why)
		return nil
	}
	if i.custom {
		k, err := p.request.Target.FindKind(ctx, i.kind.GVK.Group, i.kind.GVK.Version, i.kind.GVK.Kind)
		if err != nil {
			return err
		}
		i.kind = &k
		i.keepStatus = !k.Has("status")
	}
	switch i.action {
	case actSubjects:
		return p.addSubjects(ctx, i)
	case actApply:
		return p.restoreApplied(ctx, i, o)
	case actRecreate:
		if err := p.remove(ctx, i); err != nil {
			return err
		}
		if i.held {
			if err := p.removeHeldPods(ctx, i); err != nil {
				return err
			}
		}
	}
	d, before, err := p.prepare(ctx, i, o)
	if err != nil {
		return err
	}
	if p.putsStatus(i, before) {
		// Until it has its status it must not look finished: see ownsFields.
		before.managers.Creator = ""
	}
	switch i.action {
	case actFinish:
		return p.restoreFinished(ctx, i, before)
	case actFilled:
		i.before, i.filled = &before, true
		return nil
	case actDraft:
		return p.replaceDraft(ctx, i, d, before)
	}
	if p.toFill(i) {
		return p.createUnfilled(ctx, i, d, before)
	}
	if held := p.held(i); held != nil {
		return p.restoreHeld(ctx, i, d, before, held)
	}
	if volume, was := p.released[i]; was {
		if err := p.free(ctx, volume); err != nil {
			return fmt.Errorf("free its volume %s: %w", i.volume, err)
		}
	}
	created, err := p.create(ctx, i, d, before.managers)
	if err != nil || created == nil {
		return err
	}
	p.finishObject(ctx, i, created, before)
	if i.action == actRecreate && i.line.Outcome == v1alpha1.OutcomeRestored {
		i.settle(v1alpha1.OutcomeRestored, "deleted and created again%s", listed(i.fields))
	}
	return nil
}

// free takes from a volume that was released what it waits for: the claim that
// is gone, by its UID.
func (p *Plan) free(ctx context.Context, volume v1alpha1.Ref) error {
	k, err := p.request.Target.FindKind(ctx, "", "v1", "PersistentVolume")
	if err != nil {
		return err
	}
	live, err := p.request.Target.Get(ctx, k, "", volume.Name)
	if err != nil || sectionOf(live, "status")["phase"] != "Released" {
		return err
	}
	_, err = p.change(ctx, k, volume, map[string]any{
		"metadata": map[string]any{"resourceVersion": live.Version}, "spec": map[string]any{"claimRef": map[string]any{"uid": nil, "resourceVersion": nil}},
	})
	return err
}

// replaceDraft puts an object in place of the one that the cluster made itself.
func (p *Plan) replaceDraft(ctx context.Context, i *item, d *rewrite.Draft, before original) error {
	live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
	if err != nil {
		return err
	}
	made, err := p.replace(ctx, i, d.Content, live, kube.WriteOptions{FieldManager: before.managers.Creator})
	if err != nil {
		return err
	}
	p.finishObject(ctx, i, made, before)
	return nil
}

// putsStatus says whether an object's status is written after it. That of
// Kubernetes' own kinds tells of the other cluster: where a pod ran, which
// address a Service got, how far a Job was.
func (p *Plan) putsStatus(i *item, before original) bool {
	return p.request.RestoreStatus && before.status != nil && i.kind.Has("status") && !graph.Builtin(i.kind.GVK.Group)
}

// finishObject puts back what a creation cannot carry: owners of fields and,
// where asked for, status.
func (p *Plan) finishObject(ctx context.Context, i *item, created *object.Object, before original) {
	if p.putsStatus(i, before) {
		live, err := p.putStatus(ctx, i, before)
		if err == nil {
			created = live
			before.managers.Entries, err = withOthers(before.managers.Entries, live)
		}
		if err != nil {
			i.settle(v1alpha1.OutcomeIncomplete, "created, but its status could not be put back: %s", err)
			return
		}
	}
	if before.managers.Creator == "" {
		if err := p.putManagers(ctx, i, created, before.managers); err != nil {
			i.warn("the owners of its fields could not be put back: %s", err)
		}
	}
	i.settle(v1alpha1.OutcomeRestored, "created")
}

// blocked says what an object waits for in vain.
func (p *Plan) blocked(i *item) string {
	if i.kind.Namespaced {
		if ns := p.namespaceItem(i.ref.Namespace); ns != nil && ns.line.Outcome == v1alpha1.OutcomeFailed {
			return "its namespace could not be made"
		}
		if why := p.unmadeNamespaces[i.ref.Namespace]; why != "" {
			return why
		}
	}
	if i.custom {
		definition := p.bySaved[v1alpha1.Ref{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition", Name: i.kind.Resource + "." + i.kind.GVK.Group}]
		if definition != nil && definition.line.Outcome == v1alpha1.OutcomeFailed && definition.liveUID == "" {
			return "its definition could not be made"
		}
	}
	if !graph.IsWorkload(i.saved) {
		return ""
	}
	for _, e := range p.graph.EdgesFrom(i.saved) {
		if claim := p.bySaved[e.To.Key()]; e.Type == graph.TypeClaims && claim != nil && claim.unfilled {
			return "the data of its claim " + claim.ref.Name + " is not in place, and it would start without"
		}
	}
	return ""
}

func (p *Plan) namespaceItem(name string) *item {
	for saved, to := range p.rules.Namespaces {
		if to == name {
			if i := p.bySaved[v1alpha1.Ref{Kind: "Namespace", Name: saved}]; i != nil && !i.spare {
				return i
			}
		}
	}
	return p.bySaved[v1alpha1.Ref{Kind: "Namespace", Name: name}]
}

// original is what an object had and is not sent with its creation.
type original struct {
	managers rewrite.Managers
	status   any
	// statusManager owned status, where somebody did.
	statusManager string
}

// prepare makes of a saved object the one to be created.
func (p *Plan) prepare(ctx context.Context, i *item, o *object.Object) (*rewrite.Draft, original, error) {
	d, _, err := p.draft(ctx, i, o)
	if err != nil {
		return nil, original{}, err
	}
	before := original{managers: rewrite.ManagersOf(d, i.keepStatus), status: d.Content["status"], statusManager: rewrite.StatusManager(d)}
	if _, err := p.rules.Apply(d); err != nil {
		return nil, original{}, err
	}
	rewrite.Clean(d, p.cleanOptions(i, false))
	p.repoint(ctx, i, d)
	return d, before, nil
}

// repoint gives owner references the UIDs that the owners have here, and drops
// those whose owners are not here: a stale one has the garbage collector
// delete the object.
func (p *Plan) repoint(ctx context.Context, i *item, d *rewrite.Draft) {
	meta := section(d.Content, "metadata")
	list, _ := meta["ownerReferences"].([]any)
	if list == nil {
		return
	}
	var kept []any
	for _, e := range list {
		ref, _ := e.(map[string]any)
		uid, _ := ref["uid"].(string)
		if slices.Contains(i.laterOwners, uid) {
			continue // see giveOwners
		}
		owner := p.byUID[uid]
		if owner == nil && p.owners[uid] && !i.moved() {
			kept = append(kept, ref)
			continue
		}
		if owner == nil || owner.liveUID == "" || owner.ref.Namespace != "" && owner.ref.Namespace != i.ref.Namespace {
			if owner == nil || !p.request.dry() || owner.line.Outcome != v1alpha1.OutcomeCreate {
				i.warn("its owner %v %v is not restored, so it has none now", ref["kind"], ref["name"])
			}
			continue
		}
		ref["uid"], ref["name"] = owner.liveUID, owner.ref.Name
		apiVersion, _ := ref["apiVersion"].(string)
		kind, _ := ref["kind"].(string)
		if !p.served(ctx)(schema.FromAPIVersionAndKind(apiVersion, kind)) {
			ref["apiVersion"], ref["kind"] = owner.kind.GVK.ToAPIVersionAndKind()
		}
		kept = append(kept, ref)
	}
	if len(kept) == 0 {
		delete(meta, "ownerReferences")
		return
	}
	meta["ownerReferences"] = kept
}

// awaitDefinitions waits until the kinds that a wave defined are served.
func (p *Plan) awaitDefinitions(ctx context.Context, wave []v1alpha1.Ref) error {
	ctx, cancel := context.WithTimeoutCause(ctx, established, errors.New("its definition was not established in time"))
	defer cancel()
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(p.request.Workers)
	made := false
	for _, ref := range wave {
		i := p.bySaved[ref.Key()]
		if !isDefinition(i.saved) || i.liveUID == "" {
			continue
		}
		made = true
		group.Go(func() error {
			err := p.request.Target.WaitFor(ctx, *i.kind, "", i.ref.Name, isEstablished)
			if err != nil {
				mu.Lock()
				i.settle(v1alpha1.OutcomeFailed, "created, but not established: %s", err)
				mu.Unlock()
			}
			return nil
		})
	}
	if !made {
		return nil
	}
	if err := group.Wait(); err != nil {
		return err
	}
	// Which kinds are served shows a moment later; the objects of a kind that
	// never is are failed one by one.
	for key := range p.defined {
		if _, err := p.request.Target.WaitKind(ctx, key.group, key.version, key.kind); err != nil && ctx.Err() != nil {
			break
		}
	}
	return nil
}

func isEstablished(o *object.Object) (bool, error) {
	if o == nil {
		return false, nil
	}
	content, err := o.Content()
	if err != nil {
		return false, err
	}
	conditions, _ := section(content, "status")["conditions"].([]any)
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		switch {
		case m["type"] == "Established" && m["status"] == "True":
			return true, nil
		case m["type"] == "NamesAccepted" && m["status"] == "False":
			return false, fmt.Errorf("its names were refused: %v", m["message"])
		}
	}
	return false, nil
}
