package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// ask has the server judge each object that would be created, as patiently as
// it is asked to create it.
func (p *Plan) ask(ctx context.Context) error {
	if err := p.askNamespaces(ctx); err != nil {
		return err
	}
	var created []*item
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeCreate {
			continue
		}
		created = append(created, i)
		if p.standIns == nil && i.kind.Namespaced && !p.liveNamespaces[i.ref.Namespace] {
			var err error
			if p.standIns, err = p.findStandIns(ctx); err != nil {
				return err
			}
		}
	}
	if err := p.eachSaved(ctx, created, p.request.Workers, p.askAbout); err != nil {
		return err
	}
	// Only now: which objects are to be created is what others were judged by.
	for _, i := range p.items {
		if errors.Is(i.refusal, errUnknown) {
			i.settle(v1alpha1.OutcomeUndecided, "%s", i.refusal)
		} else if i.refusal != nil {
			i.settle(v1alpha1.OutcomeFailed, "the server would refuse it: %s", i.refusal)
		}
	}
	p.foretell()
	return nil
}

// askNamespaces asks for the namespaces of which the backup knows nothing.
func (p *Plan) askNamespaces(ctx context.Context) error {
	return p.eachMissingNamespace(ctx, kube.WriteOptions{DryRun: true})
}

// foretell has what waits for something that would fail fail as well, as it
// will.
func (p *Plan) foretell() {
	lost := func(claims bool) {
		for _, v := range p.volumes {
			planned := v.line.Outcome == v1alpha1.OutcomeCreate || v.line.Outcome == v1alpha1.OutcomeApply
			if planned && v.owner.holdsClaim() == claims && v.owner.line.Outcome == v1alpha1.OutcomeFailed {
				v.settle(v1alpha1.OutcomeFailed, "%s would not be there: %s", v.owner.ref, v.owner.line.Reason)
				v.owner.unfilled = true
			}
		}
	}
	lost(true)
	for _, wave := range p.waves {
		for _, ref := range wave {
			i := p.bySaved[ref.Key()]
			if i.line.Outcome != v1alpha1.OutcomeCreate && i.line.Outcome != v1alpha1.OutcomeApply && i.line.Outcome != v1alpha1.OutcomeUndecided {
				continue
			}
			if why := p.blocked(i); why != "" {
				i.settle(v1alpha1.OutcomeFailed, "would not be created: %s", why)
				if i.holdsClaim() {
					lost(true)
				}
			}
		}
	}
	lost(false)
}

func (p *Plan) askAbout(ctx context.Context, i *item, o *object.Object) error {
	if i.custom {
		if _, err := p.request.Target.FindKind(ctx, i.kind.GVK.Group, i.kind.GVK.Version, i.kind.GVK.Kind); err != nil {
			i.line.Reason += "; not asked of the server: its definition is not there yet"
			return nil
		}
	}
	d, _, err := p.prepare(ctx, i, o)
	if err != nil {
		return err
	}
	if i.kind.Namespaced && !p.liveNamespaces[i.ref.Namespace] {
		return p.askElsewhere(ctx, i, d)
	}
	raw, err := d.Encode()
	if err != nil {
		return err
	}
	var why string
	if i.refusal, why, err = p.judged(ctx, i, i.ref.Namespace, raw); why != "" {
		i.line.Reason += "; not asked of the server: " + why
	}
	return err
}

// judged has the server judge an object in a namespace. It returns a refusal,
// or why the server's answer says nothing about the object, or neither.
func (p *Plan) judged(ctx context.Context, i *item, namespace string, raw []byte) (refusal error, noVerdict string, err error) {
	for n := 1; ; n++ {
		var warnings []string
		_, refusal = p.request.Target.Create(ctx, *i.kind, namespace, raw, kube.WriteOptions{DryRun: true, Warn: func(w string) { warnings = append(warnings, w) }})
		if ctx.Err() != nil {
			return nil, "", context.Cause(ctx)
		}
		// That its name is taken is said last, after everything else was found good.
		if refusal == nil || apierrors.IsAlreadyExists(refusal) {
			for _, w := range warnings {
				// Another namespace may have another level of Pod Security.
				if namespace == i.ref.Namespace || !strings.Contains(w, "PodSecurity") {
					i.warn("%s", w)
				}
			}
			return nil, "", nil
		}
		if why := p.noVerdict(i, refusal); why != "" {
			return nil, why, nil
		}
		if namespace != i.ref.Namespace && ofTheNamespace(refusal) || !p.again(n, refusal) {
			return refusal, "", nil
		}
		if err := wait(ctx, n); err != nil {
			return nil, "", err
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
