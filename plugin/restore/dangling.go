package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// naming is a place where an object names another one that it needs.
type naming struct {
	by   *item
	path string
	// vital says that what names it is deleted where it is not there: the token
	// of an account.
	vital bool
}

// mostNamings bounds how many places are kept that name one object.
const mostNamings = 10

// eachNeed visits what an object needs by name.
func eachNeed(d *rewrite.Draft, visit func(graph.Reference) error) error {
	return graph.References(d.Content, func(r graph.Reference) error {
		optional, _ := r.Holder()[r.Row.OptionalField].(bool)
		if optional || r.Row.Optional || r.Row.Loose || r.Row.Unordered || r.To.Kind == "" || madeByItself(r.To) {
			return nil
		}
		return visit(r)
	})
}

var errNeeds = errors.New("it needs something else")

// needsOthers says whether an object, as it was saved, needs something by name
// that is not in the backup or not wanted of it: of most objects nothing has to
// be noted.
func (p *Plan) needsOthers(d *rewrite.Draft) (bool, error) {
	err := eachNeed(d, func(r graph.Reference) error {
		if p.request.Filter == nil && p.isSaved(r.To.Key()) {
			return nil
		}
		return errNeeds
	})
	if errors.Is(err, errNeeds) {
		return true, nil
	}
	return false, err
}

// isSaved says whether an object is in the backup, or comes back with its owner.
func (p *Plan) isSaved(key v1alpha1.Ref) bool {
	line, ok := p.savedLine(key)
	return ok && (line.Outcome == v1alpha1.OutcomeSaved || line.Outcome == v1alpha1.OutcomeLeftToOwner)
}

// noteNamed notes what an object needs by name, as it will be.
func (p *Plan) noteNamed(i *item, d *rewrite.Draft) error {
	return eachNeed(d, func(r graph.Reference) error {
		vital := i.saved.Group == "" && i.saved.Kind == "Secret" && d.Content["type"] == "kubernetes.io/service-account-token"
		if at := p.named[r.To.Key()]; vital || len(at) < mostNamings {
			p.named[r.To.Key()] = append(at, naming{i, r.Path, vital})
		}
		return nil
	})
}

// madeByItself says whether a cluster has something without anybody making it,
// or whether it is looked for elsewhere.
func madeByItself(r v1alpha1.Ref) bool {
	switch {
	case r.Group == "" && r.Kind == "ServiceAccount":
		return r.Name == "default"
	case r.Group == "" && r.Kind == "ConfigMap":
		return r.Name == "kube-root-ca.crt"
	case r.Group == "storage.k8s.io" && r.Kind == "StorageClass":
		return true // see checkClasses
	}
	return false
}

// findDangling warns of what objects need by name and what will not be there.
func (p *Plan) findDangling(ctx context.Context) error {
	for _, i := range p.items {
		switch i.line.Outcome {
		case v1alpha1.OutcomeCreate, v1alpha1.OutcomeApply, v1alpha1.OutcomeUnchanged, v1alpha1.OutcomeConflict, v1alpha1.OutcomeLeftToOwner:
			delete(p.named, i.ref.Key())
		}
	}
	var mu sync.Mutex
	dangling := map[*item][]string{}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for to, places := range p.named {
		places = slices.DeleteFunc(places, func(n naming) bool {
			return n.by.line.Outcome != v1alpha1.OutcomeCreate && n.by.line.Outcome != v1alpha1.OutcomeApply
		})
		if len(places) == 0 {
			continue
		}
		group.Go(func() error {
			there, err := p.isThere(gctx, to)
			if err != nil || there {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, n := range places {
				if n.vital {
					n.by.settle(v1alpha1.OutcomeFailed, "%s is not in the target and does not come with it: its token would be deleted at once", to)
					continue
				}
				dangling[n.by] = append(dangling[n.by], fmt.Sprintf("%s names %s, which is not in the target and does not come with it", n.path, to))
			}
			return nil
		})
	}
	p.named = nil
	if err := group.Wait(); err != nil {
		return fmt.Errorf("look for what objects need: %w", err)
	}
	for i, said := range dangling {
		slices.Sort(said)
		i.line.Warnings = append(i.line.Warnings, said...)
	}
	return nil
}

// isThere says whether the target has an object, or whether nobody can know.
func (p *Plan) isThere(ctx context.Context, r v1alpha1.Ref) (bool, error) {
	k, err := p.request.Target.FindKind(ctx, r.Group, "", r.Kind)
	if errors.As(err, new(*kube.NotServedError)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if k.Namespaced && !p.liveNamespaces[r.Namespace] {
		return false, nil
	}
	if !k.Namespaced {
		r.Namespace = ""
	}
	_, err = p.request.Target.Get(ctx, k, r.Namespace, r.Name)
	if _, _, denied := kube.Denied(err); denied {
		return true, nil
	}
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return true, err
}
