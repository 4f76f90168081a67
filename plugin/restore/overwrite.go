package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// The data of a claim that exists is replaced only where the request says so.
// What uses the claim is scaled to zero before, and back when the data is
// whole: never does a workload see half of it. Where it does not become whole,
// the workload stays at zero, and labels say so to whoever resumes the restore.

// scaled is a workload that has no replicas while data of its claims is
// replaced.
type scaled struct {
	kind kube.Kind
	live *object.Object
}

// scalable are the kinds that are scaled down, owners before owned.
var scalable = []string{"Deployment", "StatefulSet", "ReplicaSet"}

// claimUsers says what uses claims of one namespace.
type claimUsers struct {
	workloads map[string][]*scaled // by claim
	pods      map[string][]string  // pods that nothing can scale down, by claim
	// condemned are the claims that their set deletes when it is scaled down.
	condemned map[string]string
}

// usersIn finds what uses the claims of a namespace, once.
func (p *Plan) usersIn(ctx context.Context, namespace string) (*claimUsers, error) {
	if u := p.users[namespace]; u != nil {
		return u, nil
	}
	u := &claimUsers{map[string][]*scaled{}, map[string][]string{}, map[string]string{}}
	known := map[string]bool{} // UIDs of workloads, and of what they own
	for _, kind := range scalable {
		k, err := p.request.Target.FindKind(ctx, "apps", "v1", kind)
		if err != nil {
			return nil, err
		}
		_, err = p.request.Target.List(ctx, k, kube.ListOptions{Namespace: namespace}, func(o *object.Object) error {
			defer o.Release()
			if owner, owned := o.Controller(); owned {
				known[o.UID] = known[owner.UID]
				return nil
			}
			known[o.UID] = true
			return u.add(k, o)
		})
		if err != nil {
			return nil, fmt.Errorf("look for what uses the claims of namespace %s: %w", namespace, err)
		}
	}
	pods, err := p.request.Target.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return nil, err
	}
	_, err = p.request.Target.List(ctx, pods, kube.ListOptions{Namespace: namespace}, func(o *object.Object) error {
		defer o.Release()
		owner, _ := o.Controller()
		content, err := o.Content()
		if err != nil || known[owner.UID] || o.Labels[kube.LabelTemporary] == "true" || finished(content) {
			return err
		}
		for _, claim := range claimsOf(section(content, "spec")) {
			u.pods[claim] = append(u.pods[claim], o.Ref.Name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for what uses the claims of namespace %s: %w", namespace, err)
	}
	p.users[namespace] = u
	return u, nil
}

func finished(pod map[string]any) bool {
	phase := section(pod, "status")["phase"]
	return phase == "Succeeded" || phase == "Failed"
}

// add notes which claims a workload's pods use.
func (u *claimUsers) add(k kube.Kind, o *object.Object) error {
	content, err := o.Content()
	if err != nil {
		return err
	}
	spec := section(content, "spec")
	w := &scaled{kind: k, live: o}
	for _, claim := range claimsOf(section(section(spec, "template"), "spec")) {
		u.workloads[claim] = append(u.workloads[claim], w)
	}
	templates, _ := spec["volumeClaimTemplates"].([]any)
	if len(templates) == 0 {
		return nil
	}
	count, _ := spec["replicas"].(int64)
	if n, err := strconv.ParseInt(o.Labels[labelScaledFrom], 10, 64); err == nil {
		count = n
	}
	first, _ := section(spec, "ordinals")["start"].(int64)
	policy, _ := section(spec, "persistentVolumeClaimRetentionPolicy")["whenScaled"].(string)
	for _, t := range templates {
		m, _ := t.(map[string]any)
		volume, _ := section(m, "metadata")["name"].(string)
		for n := first; n < first+count; n++ {
			claim := fmt.Sprintf("%s-%s-%d", volume, o.Ref.Name, n)
			u.workloads[claim] = append(u.workloads[claim], w)
			if policy == "Delete" {
				u.condemned[claim] = o.Ref.Name
			}
		}
	}
	return nil
}

func claimsOf(podSpec map[string]any) (claims []string) {
	volumes, _ := podSpec["volumes"].([]any)
	for _, v := range volumes {
		m, _ := v.(map[string]any)
		if name, _ := section(m, "persistentVolumeClaim")["claimName"].(string); name != "" {
			claims = append(claims, name)
		}
	}
	return claims
}

// planOverwrite decides whether the data of a claim that exists can be replaced.
func (p *Plan) planOverwrite(ctx context.Context, v *volumeItem) error {
	keep := func(format string, args ...any) error {
		v.settle(v1alpha1.OutcomeConflict, "not restored: the claim exists, and what is in it is left alone: "+format, args...)
		return nil
	}
	live, err := p.request.Target.Get(ctx, *v.owner.kind, v.owner.ref.Namespace, v.owner.ref.Name)
	if err != nil {
		return err
	}
	content, err := live.Content()
	if err != nil {
		return err
	}
	if mode, _ := section(content, "spec")["volumeMode"].(string); (mode == "Block") != (v.line.VolumeMode == "Block") {
		return keep("it is of volume mode %s there", mode)
	}
	users, err := p.usersIn(ctx, live.Ref.Namespace)
	if err != nil {
		return err
	}
	if pods := users.pods[live.Ref.Name]; len(pods) > 0 {
		return keep("pod %s uses it and belongs to nothing that can be scaled down: end it first", shortened(pods))
	}
	if set := users.condemned[live.Ref.Name]; set != "" {
		return keep("StatefulSet %s deletes it when it is scaled down (persistentVolumeClaimRetentionPolicy)", set)
	}
	v.users = users.workloads[live.Ref.Name]
	var names []string
	for _, w := range v.users {
		names = append(names, w.live.Ref.Kind+" "+w.live.Ref.Name)
	}
	meanwhile := ""
	if len(names) > 0 {
		meanwhile = "; meanwhile " + shortened(names) + " would have no replicas"
	}
	v.settle(v1alpha1.OutcomeApply, "the claim exists: what is in it would be replaced%s", meanwhile)
	return nil
}

// findScaled finds the workloads that an ended restore left without replicas.
func (p *Plan) findScaled(ctx context.Context) error {
	var mu sync.Mutex
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, kind := range scalable {
		k, err := p.request.Target.FindKind(ctx, "apps", "v1", kind)
		if err != nil {
			return err
		}
		for ns := range p.liveNamespaces {
			group.Go(func() error {
				_, err := p.request.Target.List(gctx, k, kube.ListOptions{Namespace: ns, LabelSelector: labelScaledFrom}, func(o *object.Object) error {
					p.foundInterrupted(interrupted{what: o.Ref.String() + ", without replicas"})
					mu.Lock()
					defer mu.Unlock()
					p.scaled[o.UID] = &scaled{kind: k, live: o}
					return nil
				})
				if _, _, denied := kube.Denied(err); denied {
					return nil // then no earlier restore of ours has scaled any
				}
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("look for what an earlier restore left without replicas: %w", err)
	}
	return nil
}

// overwriteVolumes replaces the data of claims that exist.
func (p *Plan) overwriteVolumes(ctx context.Context) error {
	var volumes []*volumeItem
	for _, v := range p.volumes {
		if v.line.Outcome == v1alpha1.OutcomeApply {
			volumes = append(volumes, v)
			for _, w := range v.users {
				p.scaled[w.live.UID] = w
			}
		}
	}
	if len(volumes) == 0 {
		return nil
	}
	for _, w := range p.scaled {
		if err := p.scaleDown(ctx, w); err != nil {
			return fmt.Errorf("scale %s down: %w", w.live.Ref, err)
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(p.request.Parallel)
	for _, v := range volumes {
		group.Go(func() error {
			touched, err := p.overwrite(gctx, v)
			if gctx.Err() != nil {
				err = context.Cause(gctx)
			}
			if err == nil {
				return nil
			}
			if !touched {
				v.settle(v1alpha1.OutcomeFailed, "not restored, and what is in the claim is as it was: %s", err)
				return gctx.Err()
			}
			v.settle(v1alpha1.OutcomeFailed, "half replaced, so what uses it stays without replicas (hint: --resume tries it again): %s", err)
			v.owner.unfilled = true
			return gctx.Err()
		})
	}
	return group.Wait()
}

// overwrite replaces the data of one claim. touched says whether that was begun.
func (p *Plan) overwrite(ctx context.Context, v *volumeItem) (touched bool, err error) {
	touched = v.owner.overwriting
	if err := p.awaitUnused(ctx, v.owner.ref); err != nil {
		return touched, err
	}
	mark := map[string]any{"metadata": map[string]any{"labels": map[string]any{labelOverwriting: p.request.Record.ID}}}
	if _, err := p.change(ctx, *v.owner.kind, v.owner.ref, mark); err != nil {
		return touched, fmt.Errorf("mark the claim: %w", err)
	}
	if err := p.putData(ctx, v); err != nil {
		return true, err
	}
	done, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if _, err := p.change(done, *v.owner.kind, v.owner.ref, without(labelOverwriting)); err != nil {
		return true, fmt.Errorf("its data is in place, but the label %s stays on the claim: %w", labelOverwriting, err)
	}
	if v.line.Outcome == v1alpha1.OutcomeRestored {
		v.line.Reason = "what was in the claim is replaced" + strings.TrimPrefix(v.line.Reason, "its data is in place")
	}
	return true, nil
}

// awaitUnused waits until no pod has a claim mounted.
func (p *Plan) awaitUnused(ctx context.Context, claim v1alpha1.Ref) error {
	waiting, cancel := context.WithTimeoutCause(ctx, removal, errors.New("its pods did not end in time"))
	defer cancel()
	for n := 1; ; n++ {
		user, err := p.userOf(waiting, claim)
		if err != nil || user == "" {
			return err
		}
		if err := wait(waiting, min(n, 4)); err != nil {
			return fmt.Errorf("claim %s%s: %w", claim.Name, user, err)
		}
	}
}

// scaleDown takes a workload its replicas, and writes down how many it had.
// One that has such a note already is not asked again how many it has.
func (p *Plan) scaleDown(ctx context.Context, w *scaled) error {
	live, err := p.request.Target.Get(ctx, w.kind, w.live.Ref.Namespace, w.live.Ref.Name)
	if apierrors.IsNotFound(err) || err == nil && live.UID != w.live.UID {
		return nil // its pods go with it
	}
	if err != nil {
		return err
	}
	content, err := live.Content()
	if err != nil {
		return err
	}
	replicas, _ := section(content, "spec")["replicas"].(int64)
	change := map[string]any{"spec": map[string]any{"replicas": 0}}
	if live.Labels[labelScaledFrom] == "" {
		change["metadata"] = map[string]any{"labels": map[string]any{labelScaledFrom: strconv.FormatInt(replicas, 10)}}
	}
	_, err = p.change(ctx, w.kind, live.Ref, change)
	return err
}

// scaleBack gives the workloads their replicas back, but for those whose data
// is not whole.
func (p *Plan) scaleBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	for uid, w := range p.scaled {
		delete(p.scaled, uid) // once is enough
		if err := p.scaleUp(ctx, w); err != nil {
			p.warnings = append(p.warnings, fmt.Sprintf("%s stays without replicas (hint: --resume tries it again): %s", w.live.Ref, err))
		}
	}
}

func (p *Plan) scaleUp(ctx context.Context, w *scaled) error {
	live, err := p.request.Target.Get(ctx, w.kind, w.live.Ref.Namespace, w.live.Ref.Name)
	if apierrors.IsNotFound(err) || err == nil && live.Labels[labelScaledFrom] == "" {
		return nil // it was made anew, or somebody else has seen to it
	}
	if err != nil {
		return err
	}
	if half, err := p.halfReplaced(ctx, live); err != nil || half != "" {
		return errors.Join(err, fmt.Errorf("the data of claim %s is half replaced", half))
	}
	content, err := live.Content()
	if err != nil {
		return err
	}
	change := without(labelScaledFrom)
	if now, _ := section(content, "spec")["replicas"].(int64); now == 0 {
		replicas, err := strconv.Atoi(live.Labels[labelScaledFrom])
		if err != nil {
			return fmt.Errorf("its label %s is not a number: %w", labelScaledFrom, err)
		}
		change["spec"] = map[string]any{"replicas": replicas}
	}
	_, err = p.change(ctx, w.kind, live.Ref, change)
	return err
}

// halfReplaced names a claim of a workload whose data is not whole, whoever
// left it so.
func (p *Plan) halfReplaced(ctx context.Context, w *object.Object) (claim string, err error) {
	claims, err := p.request.Target.FindKind(ctx, "", "v1", "PersistentVolumeClaim")
	if err != nil {
		return "", err
	}
	users, err := p.usersIn(ctx, w.Ref.Namespace)
	if err != nil {
		return "", err
	}
	_, err = p.request.Target.List(ctx, claims, kube.ListOptions{Namespace: w.Ref.Namespace, LabelSelector: labelOverwriting}, func(o *object.Object) error {
		if slices.ContainsFunc(users.workloads[o.Ref.Name], func(u *scaled) bool { return u.live.UID == w.UID }) {
			claim = o.Ref.Name
		}
		return nil
	})
	return claim, err
}

// change changes an object that is not ours, and leaves the owners of its
// fields what they are.
func (p *Plan) change(ctx context.Context, k kube.Kind, ref v1alpha1.Ref, change map[string]any) (*object.Object, error) {
	before, err := p.request.Target.Get(ctx, k, ref.Namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	owners, err := withOthers(nil, before)
	if err != nil {
		return nil, err
	}
	meta := section(change, "metadata")
	if meta == nil {
		meta = map[string]any{}
		change["metadata"] = meta
	}
	meta["uid"] = before.UID
	changed, err := p.patchAs(ctx, k, ref, change, kube.WriteOptions{})
	if err != nil {
		return nil, err
	}
	target := &item{kind: &k, ref: ref}
	if err := p.putManagers(ctx, target, changed, rewrite.Managers{Entries: owners}); err != nil {
		return nil, fmt.Errorf("put back the owners of its fields: %w", err)
	}
	return changed, nil
}

// toScale are the workloads that are scaled, for whoever must not scale
// them meanwhile.
func (p *Plan) toScale() (out []*object.Object) {
	for _, v := range p.volumes {
		if v.line.Outcome != v1alpha1.OutcomeApply {
			continue
		}
		for _, w := range v.users {
			if !slices.Contains(out, w.live) {
				out = append(out, w.live)
			}
		}
	}
	return out
}
