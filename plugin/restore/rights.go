package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	authorization "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// right is one that the plan needs; a subresource stands behind a slash.
type right struct{ verb, group, resource, namespace string }

// needed are the rights without which the plan could not be carried out.
func (p *Plan) needed() map[right]bool {
	out := map[right]bool{}
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeCreate && i.line.Outcome != v1alpha1.OutcomeApply {
			continue
		}
		verbs := []string{"patch"}
		switch i.action {
		case actCreate:
			verbs = []string{"create"}
		case actRecreate:
			verbs = []string{"create", "delete"}
		case actDraft:
			verbs = []string{"update"}
		}
		if _, was := p.released[i]; was {
			out[right{verb: "patch", resource: resourceVolumes}] = true
		}
		for _, verb := range verbs {
			out[right{verb, i.kind.GVK.Group, i.kind.Resource, i.ref.Namespace}] = true
		}
	}
	if len(p.missingNamespaces) > 0 {
		out[right{verb: "create", resource: "namespaces"}] = true
	}
	for _, v := range p.volumes {
		if v.line.Outcome == v1alpha1.OutcomeCreate && p.forbidden() != "" {
			out[right{"create", "", "pods", v.line.Ref.Namespace}] = true
			out[right{"create", "", "pods/exec", v.line.Ref.Namespace}] = true
		}
	}
	return out
}

// lackingRights says which rights the plan needs and the caller does not have,
// in order. A right in the whole cluster is asked for first, so that many
// namespaces cost nothing.
func (p *Plan) lackingRights(ctx context.Context) ([]*kube.DeniedError, error) {
	byResource := map[right][]string{}
	for r := range p.needed() {
		wide := r
		wide.namespace = ""
		byResource[wide] = append(byResource[wide], r.namespace)
	}
	var mu sync.Mutex
	var lacking []*kube.DeniedError
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for wide, namespaces := range byResource {
		group.Go(func() error {
			ok, err := p.allowed(ctx, wide)
			if err != nil || ok {
				return err
			}
			for _, ns := range namespaces {
				r := wide
				r.namespace = ns
				if ns != "" {
					if ok, err = p.allowed(ctx, r); err != nil {
						return err
					}
				}
				if !ok {
					mu.Lock()
					lacking = append(lacking, &kube.DeniedError{Verb: r.verb, Group: r.group, Resource: r.resource, Namespace: r.namespace})
					mu.Unlock()
				}
			}
			return nil
		})
	}
	err := group.Wait()
	slices.SortFunc(lacking, func(a, b *kube.DeniedError) int { return strings.Compare(a.Error(), b.Error()) })
	return lacking, err
}

func (p *Plan) allowed(ctx context.Context, r right) (bool, error) {
	resource, sub, _ := strings.Cut(r.resource, "/")
	review := &authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorization.ResourceAttributes{Verb: r.verb, Group: r.group, Resource: resource, Subresource: sub, Namespace: r.namespace}}}
	answer, err := p.request.Target.Typed().AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if _, _, denied := kube.Denied(err); denied {
		return true, nil // nobody may ask here: the server says it at the write
	}
	if err != nil {
		return false, fmt.Errorf("ask what you may do in the target: %w", err)
	}
	return answer.Status.Allowed, nil
}
