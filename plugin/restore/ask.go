package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// ask has the server judge each object that would be created, as patiently as
// it is asked to create it.
func (p *Plan) ask(ctx context.Context) error {
	want := map[v1alpha1.Ref]bool{}
	for _, i := range p.items {
		if i.line.Outcome == v1alpha1.OutcomeCreate {
			want[i.saved.Key()] = true
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(p.request.Workers)
	err := p.request.Repository.ObjectsOf(gctx, *p.request.Record, func(r v1alpha1.Ref) bool { return want[r] }, func(o *object.Object) error {
		i := p.bySaved[o.Ref.Key()]
		group.Go(func() error { return p.askAbout(gctx, i, o) })
		return nil
	})
	if err := errors.Join(err, group.Wait()); err != nil {
		return err
	}
	// Only now: which objects are to be created is what others were judged by.
	for _, i := range p.items {
		if i.refusal != nil {
			i.settle(v1alpha1.OutcomeFailed, "the server would refuse it: %s", i.refusal)
		}
	}
	return nil
}

func (p *Plan) askAbout(ctx context.Context, i *item, o *object.Object) error {
	switch {
	case i.kind.Namespaced && !p.liveNamespaces[i.ref.Namespace]:
		i.line.Reason += "; not asked of the server: its namespace is not there yet"
		return nil
	case i.custom:
		if _, err := p.request.Target.FindKind(ctx, i.kind.GVK.Group, i.kind.GVK.Version, i.kind.GVK.Kind); err != nil {
			i.line.Reason += "; not asked of the server: its definition is not there yet"
			return nil
		}
	}
	d, _, err := p.prepare(ctx, i, o)
	if err != nil {
		return err
	}
	raw, err := d.Encode()
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		var warnings []string
		_, err = p.request.Target.Create(ctx, *i.kind, i.ref.Namespace, raw, kube.WriteOptions{DryRun: true, Warn: func(w string) { warnings = append(warnings, w) }})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			for _, w := range warnings {
				i.warn("%s", w)
			}
			return nil
		}
		if why := p.noVerdict(i, err); why != "" {
			i.line.Reason += "; not asked of the server: " + why
			return nil
		}
		if n == attempts || !transient(err) {
			i.refusal = err
			return nil
		}
		if err := wait(ctx, n); err != nil {
			return err
		}
	}
}

// noVerdict says why a refusal says nothing about the object: what it lacks is
// restored before it, or a webhook cannot be asked without effect.
func (p *Plan) noVerdict(i *item, refusal error) string {
	text := refusal.Error()
	if cannotDryRun(refusal) {
		return "a webhook does not support it"
	}
	if !strings.Contains(text, "not found") && !strings.Contains(text, "was found") {
		return ""
	}
	for _, e := range p.graph.EdgesFrom(i.saved) {
		if needs := p.bySaved[e.To.Key()]; needs != nil && needs.line.Outcome == v1alpha1.OutcomeCreate && strings.Contains(text, needs.ref.Name) {
			return fmt.Sprintf("%s is not there yet", needs.ref)
		}
	}
	return ""
}
