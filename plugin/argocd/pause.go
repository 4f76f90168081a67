package argocd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// AnnotationPaused stands on what is paused, and says who did it and what the
// field that was changed had been: all that is needed to resume it, by anybody,
// after whatever happened to us.
const AnnotationPaused = "kubectl-backup.io/paused"

const (
	// annotationRefresh is taken away by the controller when it has looked at
	// the Application as it is then.
	annotationRefresh = "argocd.argoproj.io/refresh"

	// noticed bounds the wait for Argo CD to see that it is paused, and
	// finished that for a sync that is under way. What is steady for a while is
	// taken back by nobody.
	noticed  = 20 * time.Second
	finished = 5 * time.Minute
	steady   = 2 * time.Second
)

// pause is the content of AnnotationPaused.
type pause struct {
	Owner string `json:"owner"`
	Since string `json:"since"`
	// Was is the field before; absent where there was none. Bare says that
	// there was no syncPolicy at all.
	Was  json.RawMessage `json:"was,omitempty"`
	Bare bool            `json:"bare,omitempty"`
	// Sync is the operation that was ended while it waited to be tried again.
	Sync json.RawMessage `json:"sync,omitempty"`
}

// noteOf reads the annotation of a pause; there is none where noted is false.
func noteOf(o *object.Object) (by pause, noted bool, err error) {
	note := o.Annotations[AnnotationPaused]
	if note == "" {
		return by, false, nil
	}
	if err := json.Unmarshal([]byte(note), &by); err != nil {
		return by, true, fmt.Errorf("its annotation %s cannot be read: %w", AnnotationPaused, err)
	}
	return by, true, nil
}

// pausedSync is what keeps an ApplicationSet from changing its Applications.
const pausedSync = "create-only"

// field is what is changed by a pause: an Application's automatic sync is
// taken away, an ApplicationSet may no longer change what it made.
func (a *Application) field() (name string, paused json.RawMessage) {
	if a.set {
		return "applicationsSync", json.RawMessage(`"` + pausedSync + `"`)
	}
	return "automated", json.RawMessage("null")
}

// isPaused says whether the field is as a pause leaves it.
func (a *Application) isPaused(policy map[string]json.RawMessage) bool {
	name, paused := a.field()
	value := policy[name]
	return isNull(value) && isNull(paused) || bytes.Equal(bytes.TrimSpace(value), paused)
}

// Paused is what was paused, by one process.
type Paused struct {
	c    *kube.Cluster
	apps []*Application
}

// Pause keeps Argo CD from changing anything because of the applications, in
// their order, which is the one of Owners. owner is written down on each. What
// is paused by another is taken over where gone says that this one is no more,
// else it is an error: it would be resumed too early. On an error what was
// paused so far is still in the result, and has to be resumed. warn is told
// what a person should know and what stops nothing.
func Pause(ctx context.Context, c *kube.Cluster, apps []*Application, owner string, gone func(owner string) bool, warn func(string)) (*Paused, error) {
	p := &Paused{c: c}
	above := false
	for _, a := range apps {
		if a.Pausable() {
			if err := a.pause(ctx, c, owner, gone); err != nil {
				return p, fmt.Errorf("pause %s of Argo CD: %w", a.Ref, err)
			}
			p.apps = append(p.apps, a)
		}
		if a.set {
			above = true
			continue
		}
		if err := a.settle(ctx, c); err != nil {
			if ctx.Err() != nil {
				return p, context.Cause(ctx)
			}
			warn(fmt.Sprintf("%s of Argo CD: %s", a.Ref, err))
		}
	}
	if above {
		return p, p.hold(ctx, owner, gone)
	}
	return p, nil
}

// hold sees to it that what is paused stays so. The controller of
// ApplicationSets does not say what it has seen; asked to look, it would write
// the whole set anew. It takes a pause back when it notices it: once, where it
// was at work with the set as it had been, or again and again, where the set
// has no say.
func (p *Paused) hold(ctx context.Context, owner string, gone func(string) bool) error {
	for last := range 2 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(steady):
		}
		taken := false
		for _, a := range p.apps {
			held, err := a.held(ctx, p.c)
			switch {
			case err != nil:
				return fmt.Errorf("pause %s of Argo CD: %w", a.Ref, err)
			case held:
			case last == 1:
				return fmt.Errorf("pause %s of Argo CD: somebody gives it back its policy at once (hint: where that is an ApplicationSet, its controller has to allow applicationsSync of its own: --enable-policy-override)", a.Ref)
			default:
				taken = true
				if err := errors.Join(a.pause(ctx, p.c, owner, gone), a.settle(ctx, p.c)); err != nil {
					return fmt.Errorf("pause %s of Argo CD: %w", a.Ref, err)
				}
			}
		}
		if !taken {
			return nil
		}
	}
	return nil
}

// Resume gives back what Pause took, the lowest first. It tries all of them,
// whatever becomes of one, and returns the errors of those that failed.
func (p *Paused) Resume(ctx context.Context) map[v1alpha1.Ref]error {
	failed := map[v1alpha1.Ref]error{}
	for _, a := range slices.Backward(p.apps) {
		if err := a.resume(ctx, p.c); err != nil {
			failed[a.Ref] = err
		}
	}
	p.apps = nil
	return failed
}

// Refs are those that are paused, the highest first.
func (p *Paused) Refs() []v1alpha1.Ref {
	out := make([]v1alpha1.Ref, 0, len(p.apps))
	for _, a := range p.apps {
		out = append(out, a.Ref)
	}
	return out
}

// Pausable says whether Argo CD changes anything by itself because of it.
func (a *Application) Pausable() bool { return a.automated || a.paused != "" }

// LeftPaused finds what is paused by owners for which gone says so.
func LeftPaused(ctx context.Context, c *kube.Cluster, gone func(owner string) bool) (*Paused, error) {
	all, err := applications(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &Paused{c: c}
	levels := map[*Application]bool{}
	for _, a := range all {
		if a.paused == "" {
			continue
		}
		var by pause
		// What cannot be read was not written by us, and is nobody's.
		if err := json.Unmarshal([]byte(a.paused), &by); err == nil && gone(by.Owner) {
			p.apps = append(p.apps, a)
			levels[a] = true
		}
	}
	raise(all, levels)
	slices.SortFunc(p.apps, func(a, b *Application) int { return b.level - a.level })
	return p, nil
}

func (a *Application) pause(ctx context.Context, c *kube.Cluster, owner string, gone func(string) bool) error {
	name, value := a.field()
	return a.change(ctx, c, func(now state) (map[string]any, error) {
		before := pause{Was: now.policy[name], Bare: now.policy == nil}
		by, noted, err := noteOf(now.Object)
		if err != nil {
			return nil, err
		}
		if noted {
			if by.Owner != owner && !gone(by.Owner) {
				return nil, fmt.Errorf("it is paused since %s by a restore that may still work (hint: kubectl backup argocd resume --all, where it does not)", by.Since)
			}
			if a.isPaused(now.policy) {
				before = by
			}
		}
		before.Owner, before.Since = owner, time.Now().UTC().Format(time.RFC3339)
		note, err := json.Marshal(before)
		if err != nil {
			return nil, err
		}
		return map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{AnnotationPaused: string(note)}},
			"spec":     map[string]any{"syncPolicy": map[string]any{name: value}},
		}, nil
	})
}

func (a *Application) resume(ctx context.Context, c *kube.Cluster) error {
	name, _ := a.field()
	return a.change(ctx, c, func(now state) (map[string]any, error) {
		before, noted, err := noteOf(now.Object)
		if err != nil || !noted {
			return nil, err
		}
		patch := map[string]any{"metadata": map[string]any{"annotations": map[string]any{AnnotationPaused: nil}}}
		if before.Sync != nil && now.operation == nil {
			patch["operation"] = before.Sync
		}
		if !a.isPaused(now.policy) {
			return patch, nil // somebody has changed it since: theirs stays
		}
		delete(now.policy, name)
		switch {
		case before.Bare && len(now.policy) == 0:
			patch["spec"] = map[string]any{"syncPolicy": nil}
		case before.Was == nil:
			patch["spec"] = map[string]any{"syncPolicy": map[string]any{name: nil}}
		default:
			patch["spec"] = map[string]any{"syncPolicy": map[string]any{name: before.Was}}
		}
		return patch, nil
	})
}

// held says whether it is still paused.
func (a *Application) held(ctx context.Context, c *kube.Cluster) (held bool, err error) {
	held = true // where it is gone
	err = a.change(ctx, c, func(now state) (map[string]any, error) {
		held = now.Annotations[AnnotationPaused] != "" && a.isPaused(now.policy)
		return nil, nil
	})
	return held, err
}

func isNull(v json.RawMessage) bool { return v == nil || string(bytes.TrimSpace(v)) == "null" }

// state is what a change is decided by.
type state struct {
	*object.Object
	policy    map[string]json.RawMessage // nil where there is no syncPolicy
	operation json.RawMessage            // the sync that is under way
	waits     bool                       // it failed, and is to be tried again
}

// change reads it, has decide say how to patch it, if at all, and does that,
// again where it was changed in between. A merge patch leaves everything else,
// whoever owns it, as it is. That it is gone is no error.
func (a *Application) change(ctx context.Context, c *kube.Cluster, decide func(state) (patch map[string]any, err error)) error {
	for {
		o, err := c.Get(ctx, a.kind, a.Ref.Namespace, a.Ref.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		var content struct {
			Spec struct {
				SyncPolicy map[string]json.RawMessage `json:"syncPolicy"`
			} `json:"spec"`
			Operation json.RawMessage `json:"operation"`
			Status    struct {
				OperationState struct {
					Phase      string `json:"phase"`
					FinishedAt string `json:"finishedAt"`
				} `json:"operationState"`
			} `json:"status"`
		}
		if err := json.Unmarshal(o.Raw, &content); err != nil {
			return err
		}
		last := content.Status.OperationState
		patch, err := decide(state{o, content.Spec.SyncPolicy, content.Operation, last.Phase == "Running" && last.FinishedAt != ""})
		if err != nil || patch == nil {
			return err
		}
		meta, _ := patch["metadata"].(map[string]any)
		if meta == nil {
			meta = map[string]any{}
			patch["metadata"] = meta
		}
		meta["resourceVersion"] = o.Version
		raw, err := json.Marshal(patch)
		if err != nil {
			return err
		}
		_, err = c.Patch(ctx, a.kind, a.Ref.Namespace, a.Ref.Name, types.MergePatchType, raw, kube.WriteOptions{})
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}

// settle waits until Argo CD has seen it as it is now, and has ended what it
// had begun before. An error is a sentence about why that is not known.
func (a *Application) settle(ctx context.Context, c *kube.Cluster) error {
	if err := a.look(ctx, c); err != nil {
		return err
	}
	if err := a.endRetries(ctx, c); err != nil {
		return fmt.Errorf("end a sync that waits to be tried again: %w", err)
	}
	err := a.await(ctx, c, finished, func(o *object.Object) (bool, error) {
		if o == nil {
			return true, nil
		}
		content, err := o.Content()
		if err != nil {
			return false, err
		}
		defer o.Release()
		last := section(section(content, "status"), "operationState")
		phase, _ := last["phase"].(string)
		if at, _ := last["finishedAt"].(string); phase == "Running" && at != "" {
			return false, a.endRetries(ctx, c) // it has failed while it was waited for
		}
		return content["operation"] == nil && phase != "Running" && phase != "Terminating", nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("a sync of it did not end within %s", finished)
	}
	return err
}

// look has the controller look at it, and waits until that is done.
func (a *Application) look(ctx context.Context, c *kube.Cluster) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{annotationRefresh: "normal"}}})
	if err != nil {
		return err
	}
	if _, err := c.Patch(ctx, a.kind, a.Ref.Namespace, a.Ref.Name, types.MergePatchType, patch, kube.WriteOptions{}); err != nil {
		return fmt.Errorf("ask for a look at it: %w", err)
	}
	err = a.await(ctx, c, noticed, func(o *object.Object) (bool, error) {
		return o == nil || o.Annotations[annotationRefresh] == "", nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("its controller did not look at it within %s: it does not run, or is busy", noticed)
	}
	return err
}

// endRetries ends a sync that has failed and waits for its next try, which may
// be minutes away and would come into the middle of what it is paused for. It
// is noted, and begun anew when it is resumed.
func (a *Application) endRetries(ctx context.Context, c *kube.Cluster) error {
	return a.change(ctx, c, func(now state) (map[string]any, error) {
		if !now.waits {
			return nil, nil
		}
		patch := map[string]any{"status": map[string]any{"operationState": map[string]any{"phase": "Terminating"}}}
		if by, noted, err := noteOf(now.Object); noted && err == nil {
			by.Sync = now.operation
			raw, err := json.Marshal(by)
			if err != nil {
				return nil, err
			}
			patch["metadata"] = map[string]any{"annotations": map[string]any{AnnotationPaused: string(raw)}}
		}
		return patch, nil
	})
}

func (a *Application) await(ctx context.Context, c *kube.Cluster, patience time.Duration, cond func(*object.Object) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.WaitFor(ctx, a.kind, a.Ref.Namespace, a.Ref.Name, cond)
}
