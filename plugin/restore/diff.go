package restore

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/argocd"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Difference is one object that the target has otherwise than the backup would
// have it, or not at all. Both sides are JSON without what a server assigns,
// the values of Secrets masked.
type Difference struct {
	Ref v1alpha1.Ref
	// Want is what a restore would make, Live what is there; nil where nothing is.
	Want, Live []byte
}

// Diff compares a backup with the target, writing nothing. each is called with
// the differences as they are found. The document is the plan of a restore: a
// line says Create where the object is missing, Conflict where it differs. The
// data of volumes is not compared.
func Diff(ctx context.Context, r Request, each func(Difference) error) (*v1alpha1.Document, error) {
	r.comparing = true
	p, err := Compute(ctx, r)
	if err != nil {
		return nil, err
	}
	lacking := map[v1alpha1.Ref]bool{}
	for _, i := range p.items {
		switch i.line.Outcome {
		case v1alpha1.OutcomeCreate, v1alpha1.OutcomeApply, v1alpha1.OutcomeConflict:
			lacking[i.saved.Key()] = true
		}
	}
	err = p.request.Repository.ObjectsOf(ctx, *p.request.Record, func(r v1alpha1.Ref) bool { return lacking[r] }, func(o *object.Object) error {
		i := p.bySaved[o.Ref.Key()]
		var live *object.Object
		if i.liveUID != "" {
			var err error
			live, err = p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("read %s of the target: %w", i.ref, err)
			}
		}
		d, fields, err := p.compare(ctx, i, o, live)
		switch {
		case err != nil:
			return err
		case !d.Differs:
			i.settle(v1alpha1.OutcomeUnchanged, "the target equals it but for notation")
			return nil
		case live != nil && i.line.Outcome == v1alpha1.OutcomeConflict:
			i.settle(v1alpha1.OutcomeConflict, "the target holds something else by that name%s", listed(fields))
		}
		return each(Difference{Ref: i.ref, Want: d.Want, Live: d.Live})
	})
	if err != nil {
		return nil, err
	}
	d := p.Document()
	d.Kind = "DiffReport"
	return d, nil
}

// shownFields bounds how many fields a reason names.
const shownFields = 5

// compare compares what would be written with what is there, which may be nil.
func (p *Plan) compare(ctx context.Context, i *item, saved, live *object.Object) (argocd.Difference, []string, error) {
	want, _, err := p.draft(ctx, i, saved)
	if err != nil {
		return argocd.Difference{}, nil, err
	}
	if _, err := p.rules.Apply(want); err != nil {
		return argocd.Difference{}, nil, err
	}
	wanted, err := p.bare(i, want)
	if err != nil {
		return argocd.Difference{}, nil, err
	}
	if live == nil {
		d, err := argocd.Compare(ctx, wanted, nil)
		return d, nil, err
	}
	have, err := rewrite.Decode(live)
	if err != nil {
		return argocd.Difference{}, nil, err
	}
	there, err := p.bare(i, have)
	if err != nil {
		return argocd.Difference{}, nil, err
	}
	d, err := argocd.Compare(ctx, wanted, there)
	return d, rewrite.Differences(want.Content, have.Content, shownFields), err
}

// bare is a draft without what does not count in a comparison.
func (p *Plan) bare(i *item, d *rewrite.Draft) ([]byte, error) {
	rewrite.Clean(d, p.cleanOptions(i, true))
	dropMarks(d)
	delete(section(d.Content, "metadata"), "ownerReferences")
	return d.Encode()
}
