package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/argocd"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// resumeWithin is how long giving Argo CD's Applications back their policy may
// take after a restore has ended, however it ended.
const resumeWithin = time.Minute

// application is one of Argo CD's that is paused while the restore works.
type application struct {
	*argocd.Application
	line v1alpha1.ApplicationLine
}

// marksOf takes from a draft by what Argo CD knows whose it is: copies have
// lost these marks.
func marksOf(d *rewrite.Draft) (trackingID, instance string) {
	meta := section(d.Content, "metadata")
	trackingID, _ = section(meta, "annotations")[argocd.AnnotationTracking].(string)
	instance, _ = section(meta, "labels")[argocd.LabelInstance].(string)
	return trackingID, instance
}

func (i *item) managed() argocd.Managed {
	return argocd.Managed{Ref: i.ref, TrackingID: i.trackingID, Instance: i.instance}
}

// learnTracking finds out by what labels Argo CD would take copies for its own.
func (p *Plan) learnTracking(ctx context.Context) error {
	names, err := argocd.LabelTracked(ctx, p.request.Target)
	if denied := new(kube.DeniedError); errors.As(err, &denied) {
		return nil // findApplications says so
	}
	p.rules.LabelTracked = names
	return err
}

// findApplications finds what of Argo CD would work against the restore: it
// would take back, or remove, what it did not put there itself.
func (p *Plan) findApplications(ctx context.Context) error {
	var managed []argocd.Managed
	var written []*item
	for _, i := range p.items {
		if i.line.Outcome == v1alpha1.OutcomeCreate || i.line.Outcome == v1alpha1.OutcomeApply {
			written = append(written, i)
			managed = append(managed, i.managed())
		}
	}
	for _, o := range p.toScale() {
		managed = append(managed, argocd.Managed{Ref: o.Ref, TrackingID: o.Annotations[argocd.AnnotationTracking], Instance: o.Labels[argocd.LabelInstance]})
	}
	// Data go in before their workload comes, or while it is held, which Argo
	// CD would not wait for.
	for _, v := range p.volumes {
		if v.line.Outcome != v1alpha1.OutcomeCreate || v.user == (v1alpha1.Ref{}) {
			continue
		}
		user := argocd.Managed{Ref: v.user}
		user.Ref.Namespace = p.rules.Namespace(v.user.Namespace)
		if i := p.bySaved[v.user]; i != nil {
			user = i.managed()
		}
		managed = append(managed, user)
	}
	owners, err := argocd.Owners(ctx, p.request.Target, managed)
	if denied := new(kube.DeniedError); errors.As(err, &denied) {
		p.warnings = append(p.warnings, fmt.Sprintf("whether Argo CD manages what is restored is not known, and nothing of it is paused: %s", denied))
		return nil
	}
	if err != nil {
		return err
	}
	for _, a := range owners {
		for _, i := range written {
			if a.Prunes(i.managed()) {
				i.warn("%s of Argo CD does not have it in Git, and would prune it when the restore is done (hint: commit it there first, or take the annotation %s off it by a rule)", a.Ref, argocd.AnnotationTracking)
			}
		}
		if a.Pausable() {
			p.applications = append(p.applications, &application{a, v1alpha1.ApplicationLine{
				Ref: a.Ref, Outcome: v1alpha1.OutcomePaused, Reason: "it changes by itself what is restored, so it is paused until that is done"}})
		}
	}
	return nil
}

// paused does work while Argo CD leaves it alone, and resumes Argo CD whatever
// became of the work: what it paused itself, and what earlier restores did that
// are gone.
func (p *Plan) paused(ctx context.Context, work func() error) (err error) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeWithin)
		defer cancel()
		if problem := p.resumeOthers(ctx); problem != nil {
			p.warnings = append(p.warnings, problem.Error())
		}
	}()
	if len(p.applications) == 0 {
		return work()
	}
	apps := make([]*argocd.Application, 0, len(p.applications))
	lines := make(map[v1alpha1.Ref]*v1alpha1.ApplicationLine, len(p.applications))
	for _, a := range p.applications {
		apps, lines[a.Ref] = append(apps, a.Application), &a.line
		a.line.Outcome, a.line.Reason = v1alpha1.OutcomeSkipped, "it was not paused: the restore ended before"
	}
	warn := func(w string) { p.warnings = append(p.warnings, w) }
	pause, err := argocd.Pause(ctx, p.request.Target, apps, mover.Owner(), mover.Gone, warn)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeWithin)
		defer cancel()
		refs := pause.Refs()
		failed := pause.Resume(ctx)
		for _, ref := range refs {
			line := lines[ref]
			if problem := failed[ref]; problem != nil {
				line.Outcome, line.Reason = v1alpha1.OutcomePaused, "it could not be resumed: "+problem.Error()
				err = errors.Join(err, fmt.Errorf("resume %s of Argo CD: %w (hint: kubectl backup argocd resume does it)", ref, problem))
			} else {
				line.Outcome, line.Reason = v1alpha1.OutcomeResumed, "it was paused while the restore worked, and has its former policy"
			}
		}
	}()
	if err != nil {
		return err
	}
	return work()
}

func (p *Plan) resumeOthers(ctx context.Context) error {
	left, err := argocd.LeftPaused(ctx, p.request.Target, mover.Gone)
	if denied := new(kube.DeniedError); errors.As(err, &denied) {
		return nil // then no earlier restore of ours has paused any
	}
	if err != nil {
		return fmt.Errorf("look for what earlier restores left paused of Argo CD: %w", err)
	}
	for ref, problem := range left.Resume(ctx) {
		err = errors.Join(err, fmt.Errorf("an earlier restore left %s of Argo CD paused, and it could not be resumed: %w", ref, problem))
	}
	return err
}
