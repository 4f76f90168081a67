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
	annotationRefresh = "argocd.argoproj.io/refresh"

	// noticed bounds the wait for Argo CD to see that it is paused, and
	// finished that for a sync that is under way.
	noticed  = 20 * time.Second
	finished = 5 * time.Minute
)

// pause is the content of AnnotationPaused.
type pause struct {
	Owner string `json:"owner"`
	Since string `json:"since"`
	// Was is the field before; absent where there was none. Bare says that
	// there was no syncPolicy at all.
	Was  json.RawMessage `json:"was,omitempty"`
	Bare bool            `json:"bare,omitempty"`
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

// Paused is what was paused, by one process.
type Paused struct {
	c    *kube.Cluster
	apps []*Application
}

// Pause keeps Argo CD from changing anything because of the applications, in
// their order, which is the one of Owners. owner is written down on each. On
// an error what was paused so far is still in the result, and has to be
// resumed. warn is told what a person should know and what stops nothing.
func Pause(ctx context.Context, c *kube.Cluster, apps []*Application, owner string, warn func(string)) (*Paused, error) {
	p := &Paused{c: c}
	for _, a := range apps {
		if a.automated && a.paused == "" {
			if err := a.pause(ctx, c, owner); err != nil {
				return p, fmt.Errorf("pause %s of Argo CD: %w", a.Ref, err)
			}
			p.apps = append(p.apps, a)
		}
		if a.set {
			continue
		}
		if err := a.settle(ctx, c); err != nil {
			if ctx.Err() != nil {
				return p, context.Cause(ctx)
			}
			warn(fmt.Sprintf("%s of Argo CD: %s", a.Ref, err))
		}
	}
	return p, nil
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

func (a *Application) pause(ctx context.Context, c *kube.Cluster, owner string) error {
	name, value := a.field()
	return a.change(ctx, c, func(o *object.Object, policy map[string]json.RawMessage) (map[string]any, map[string]json.RawMessage, error) {
		if o.Annotations[AnnotationPaused] != "" {
			return nil, nil, errors.New("it is paused already")
		}
		note, err := json.Marshal(pause{Owner: owner, Since: time.Now().UTC().Format(time.RFC3339), Was: policy[name], Bare: policy == nil})
		if err != nil {
			return nil, nil, err
		}
		return map[string]any{AnnotationPaused: string(note)}, map[string]json.RawMessage{name: value}, nil
	})
}

func (a *Application) resume(ctx context.Context, c *kube.Cluster) error {
	name, paused := a.field()
	return a.change(ctx, c, func(o *object.Object, policy map[string]json.RawMessage) (map[string]any, map[string]json.RawMessage, error) {
		var before pause
		note := o.Annotations[AnnotationPaused]
		if note == "" {
			return nil, nil, nil
		}
		if err := json.Unmarshal([]byte(note), &before); err != nil {
			return nil, nil, fmt.Errorf("its annotation %s cannot be read: %w", AnnotationPaused, err)
		}
		value := policy[name]
		if isNull(value) && isNull(paused) || bytes.Equal(bytes.TrimSpace(value), paused) {
			// Nobody has changed it since: what was is right again.
			value = before.Was
		}
		if value == nil {
			value = json.RawMessage("null")
		}
		delete(policy, name)
		if before.Bare && isNull(value) && len(policy) == 0 {
			return map[string]any{AnnotationPaused: nil}, nil, nil
		}
		return map[string]any{AnnotationPaused: nil}, map[string]json.RawMessage{name: value}, nil
	})
}

func isNull(v json.RawMessage) bool { return v == nil || string(bytes.TrimSpace(v)) == "null" }

// change reads it, has decide say what to set of its annotations and its
// syncPolicy, where nil takes the whole of that away, and sets that, again
// where it was changed in between. It is a patch of one field and one
// annotation, which leaves everything else, whoever owns it, as it is. That it
// is gone is no error.
func (a *Application) change(ctx context.Context, c *kube.Cluster,
	decide func(*object.Object, map[string]json.RawMessage) (annotations map[string]any, policy map[string]json.RawMessage, err error)) error {
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
		}
		if err := json.Unmarshal(o.Raw, &content); err != nil {
			return err
		}
		annotations, policy, err := decide(o, content.Spec.SyncPolicy)
		if err != nil || annotations == nil {
			return err
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"resourceVersion": o.Version, "annotations": annotations},
			"spec":     map[string]any{"syncPolicy": policy},
		})
		if err != nil {
			return err
		}
		_, err = c.Patch(ctx, a.kind, a.Ref.Namespace, a.Ref.Name, types.MergePatchType, patch, kube.WriteOptions{})
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}

// settle waits until Argo CD has seen the Application as it is now, and has
// ended what it had begun before. An error is a sentence about why that is not
// known.
func (a *Application) settle(ctx context.Context, c *kube.Cluster) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{annotationRefresh: "normal"}}})
	if err != nil {
		return err
	}
	if _, err := c.Patch(ctx, a.kind, a.Ref.Namespace, a.Ref.Name, types.MergePatchType, patch, kube.WriteOptions{}); err != nil {
		return fmt.Errorf("ask it to look: %w", err)
	}
	err = a.await(ctx, c, noticed, func(o *object.Object) (bool, error) {
		return o == nil || o.Annotations[annotationRefresh] == "", nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("its controller did not look at it within %s: it does not run, or is busy", noticed)
	}
	if err != nil {
		return err
	}
	err = a.await(ctx, c, finished, func(o *object.Object) (bool, error) {
		if o == nil {
			return true, nil
		}
		content, err := o.Content()
		if err != nil {
			return false, err
		}
		defer o.Release()
		phase, _ := section(section(content, "status"), "operationState")["phase"].(string)
		return content["operation"] == nil && phase != "Running" && phase != "Terminating", nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("a sync of it did not end within %s", finished)
	}
	return err
}

func (a *Application) await(ctx context.Context, c *kube.Cluster, patience time.Duration, cond func(*object.Object) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.WaitFor(ctx, a.kind, a.Ref.Namespace, a.Ref.Name, cond)
}
