package restore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
)

// A server judges nothing that goes into a namespace that is not there. It is
// asked for the same object in one that is, where the same webhooks and policies
// look at it: what they and its validation say there they say here. Where no
// namespace is like that, nobody can know, and the plan says so.

// standIns are the namespaces that may stand in for one that is to come, and
// what tells them apart.
type standIns struct {
	spaces []space
	gates  []gate
	// coming are the labels that the namespaces to come will have.
	coming map[string]labels.Set
	// why there are none.
	why string
}

type space struct {
	name   string
	labels labels.Set
}

// gate is a webhook or policy of the target that looks at what is created.
type gate struct {
	name   string
	scopes []scope // it looks at what is in all of them
	// local says that its expressions look at the namespace themselves.
	local bool
}

type scope struct {
	namespaces, objects labels.Selector
	rules, except       []admission.NamedRuleWithOperations
	exact               bool
}

var errUnknown = errors.New("whether the server takes it is unknown until its namespace exists")

const (
	nameLabel = "kubernetes.io/metadata.name"
	// tried bounds in how many namespaces one object is asked for.
	tried = 4
)

// findStandIns looks at what decides which namespaces can stand in for those
// that the plan makes.
func (p *Plan) findStandIns(ctx context.Context) (*standIns, error) {
	s := &standIns{coming: map[string]labels.Set{}}
	for _, i := range p.items {
		if ns := i.ref.Namespace; i.kind.Namespaced && !p.liveNamespaces[ns] && s.coming[ns] == nil {
			var err error
			if s.coming[ns], err = p.labelsToBe(ctx, ns); err != nil {
				return nil, err
			}
		}
	}
	err := s.findSpaces(ctx, p.request.Target)
	if err == nil {
		s.gates, err = gatesOf(ctx, p.request.Target)
	}
	if _, _, denied := kube.Denied(err); denied {
		s.why = "what would look at it may not be listed: " + err.Error()
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for what admits objects in the target: %w", err)
	}
	return s, nil
}

// labelsToBe are those that a namespace will have.
func (p *Plan) labelsToBe(ctx context.Context, name string) (labels.Set, error) {
	set := labels.Set{}
	if i := p.namespaceItem(name); i != nil {
		saved, err := p.request.Repository.Object(ctx, *p.request.Record, i.saved)
		if err != nil {
			return nil, err
		}
		d, _, err := p.draft(ctx, i, saved)
		if err != nil {
			return nil, err
		}
		if _, err := p.rules.Apply(d); err != nil {
			return nil, err
		}
		set = labelsOf(d)
	}
	set[nameLabel] = name
	return set, nil
}

func labelsOf(d *rewrite.Draft) labels.Set {
	set := labels.Set{}
	for key, value := range section(section(d.Content, "metadata"), "labels") {
		set[key] = fmt.Sprint(value)
	}
	return set
}

// findSpaces finds the namespaces in which nothing but admission that is the same
// everywhere decides: no quota, and no range.
func (s *standIns) findSpaces(ctx context.Context, c *kube.Cluster) error {
	limited := map[string]bool{}
	for _, kind := range []string{"LimitRange", "ResourceQuota"} {
		k, err := c.FindKind(ctx, "", "v1", kind)
		if err != nil {
			return err
		}
		if _, err := c.List(ctx, k, kube.ListOptions{}, func(o *object.Object) error {
			limited[o.Ref.Namespace] = true
			return nil
		}); err != nil {
			return err
		}
	}
	k, err := c.FindKind(ctx, "", "v1", "Namespace")
	if err != nil {
		return err
	}
	_, err = c.List(ctx, k, kube.ListOptions{}, func(o *object.Object) error {
		// The system's own are often left out by what looks at all others.
		if !o.Deleting && !limited[o.Ref.Name] && !strings.HasPrefix(o.Ref.Name, "kube-") {
			s.spaces = append(s.spaces, space{o.Ref.Name, labels.Set(o.Labels)})
		}
		return nil
	})
	return err
}

// gatesOf lists the webhooks and policies of a cluster.
func gatesOf(ctx context.Context, c *kube.Cluster) (gates []gate, err error) {
	api, all := c.Typed().AdmissionregistrationV1(), metav1.ListOptions{}
	for _, list := range []func() error{
		func() error {
			found, err := api.ValidatingWebhookConfigurations().List(ctx, all)
			for _, c := range found.Items {
				for _, w := range c.Webhooks {
					gates = append(gates, webhook(w.Name, w.NamespaceSelector, w.ObjectSelector, w.Rules, w.MatchPolicy, w.MatchConditions))
				}
			}
			return err
		},
		func() error {
			found, err := api.MutatingWebhookConfigurations().List(ctx, all)
			for _, c := range found.Items {
				for _, w := range c.Webhooks {
					gates = append(gates, webhook(w.Name, w.NamespaceSelector, w.ObjectSelector, w.Rules, w.MatchPolicy, w.MatchConditions))
				}
			}
			return err
		},
		func() error {
			bound, err := api.ValidatingAdmissionPolicyBindings().List(ctx, all)
			if err != nil {
				return err
			}
			found, err := api.ValidatingAdmissionPolicies().List(ctx, all)
			for _, p := range found.Items {
				for _, b := range bound.Items {
					if b.Spec.PolicyName == p.Name && slices.Contains(b.Spec.ValidationActions, admission.Deny) {
						gates = append(gates, policy(p.Name, p.Spec.MatchConstraints, b.Spec.MatchResources, p.Spec.ParamKind, b.Spec.ParamRef,
							p.Spec.Validations, p.Spec.Variables, p.Spec.MatchConditions))
					}
				}
			}
			return err
		},
		func() error {
			bound, err := api.MutatingAdmissionPolicyBindings().List(ctx, all)
			if err != nil {
				return err
			}
			found, err := api.MutatingAdmissionPolicies().List(ctx, all)
			for _, p := range found.Items {
				for _, b := range bound.Items {
					if b.Spec.PolicyName == p.Name {
						gates = append(gates, policy(p.Name, p.Spec.MatchConstraints, b.Spec.MatchResources, p.Spec.ParamKind, b.Spec.ParamRef,
							p.Spec.Mutations, p.Spec.Variables, p.Spec.MatchConditions))
					}
				}
			}
			return err
		},
	} {
		if err := list(); err != nil && !apierrors.IsNotFound(err) { // an older cluster has no such policies
			return nil, err
		}
	}
	return gates, nil
}

func webhook(name string, namespaces, objects *metav1.LabelSelector, rules []admission.RuleWithOperations, match *admission.MatchPolicyType, conditions []admission.MatchCondition) gate {
	s := scopeOf(namespaces, objects, match)
	for _, r := range rules {
		s.rules = append(s.rules, admission.NamedRuleWithOperations{RuleWithOperations: r})
	}
	return gate{name: "webhook " + name, scopes: []scope{s}, local: mentionsNamespace(conditions)}
}

func policy(name string, match, bound *admission.MatchResources, params *admission.ParamKind, param *admission.ParamRef, expressions ...any) gate {
	g := gate{name: "policy " + name, local: mentionsNamespace(expressions...)}
	for _, m := range []*admission.MatchResources{match, bound} {
		if m == nil {
			continue
		}
		s := scopeOf(m.NamespaceSelector, m.ObjectSelector, m.MatchPolicy)
		s.rules, s.except = m.ResourceRules, m.ExcludeResourceRules
		g.scopes = append(g.scopes, s)
	}
	// Parameters without a namespace of their own are those of the object's.
	g.local = g.local || params != nil && param != nil && param.Namespace == ""
	return g
}

func scopeOf(namespaces, objects *metav1.LabelSelector, match *admission.MatchPolicyType) scope {
	selector := func(s *metav1.LabelSelector) labels.Selector {
		parsed, err := metav1.LabelSelectorAsSelector(s)
		if s == nil || err != nil {
			return labels.Everything()
		}
		return parsed
	}
	return scope{namespaces: selector(namespaces), objects: selector(objects), exact: match != nil && *match == admission.Exact}
}

// mentionsNamespace says whether expressions may look at the namespace of an
// object.
func mentionsNamespace(expressions ...any) bool {
	raw, err := json.Marshal(expressions)
	return err != nil || strings.Contains(string(raw), "namespace")
}

// about says whether a gate looks at the creation of an object, whatever its
// namespace.
func (g gate) about(i *item, own labels.Set) bool {
	for _, s := range g.scopes {
		covered := func(r admission.NamedRuleWithOperations) bool { return s.covers(r, i) }
		if !s.objects.Matches(own) || len(s.rules) > 0 && !slices.ContainsFunc(s.rules, covered) || slices.ContainsFunc(s.except, covered) {
			return false
		}
	}
	return true
}

func (s scope) covers(r admission.NamedRuleWithOperations, i *item) bool {
	has := func(list []string, names ...string) bool {
		return slices.ContainsFunc(list, func(in string) bool { return slices.Contains(names, in) })
	}
	operation := slices.Contains(r.Operations, admission.Create) || slices.Contains(r.Operations, admission.OperationAll)
	// A rule may name the same kind by a group that it had before.
	group := !s.exact || has(r.APIGroups, "*", i.kind.GVK.Group)
	return operation && group && has(r.Resources, "*", "*/*", i.kind.Resource) && (len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, i.ref.Name))
}

// looks says whether a gate looks into a namespace with such labels.
func (g gate) looks(at labels.Set) bool {
	return !slices.ContainsFunc(g.scopes, func(s scope) bool { return !s.namespaces.Matches(at) })
}

// unlike says what would judge an object otherwise in a namespace than in the
// one that it is meant for, or nothing.
func (s *standIns) unlike(i *item, own labels.Set, there space) string {
	here := s.coming[i.ref.Namespace]
	for _, g := range s.gates {
		if !g.about(i, own) {
			continue
		}
		looks := g.looks(here)
		if looks != g.looks(there.labels) || looks && g.local {
			return g.name
		}
	}
	const enforce = "pod-security.kubernetes.io/enforce"
	if i.kind.GVK.Group == "" && i.kind.GVK.Kind == "Pod" && (here[enforce] != there.labels[enforce] || here[enforce+"-version"] != there.labels[enforce+"-version"]) {
		return "Pod Security admission at the level " + cmp.Or(here[enforce], "that is the default")
	}
	return ""
}

// nearest are the spaces, the one that an object was saved in first, then those
// with the most equal labels.
func (s *standIns) nearest(i *item) []space {
	here := s.coming[i.ref.Namespace]
	distance := func(at space) int {
		n := 0
		for key, value := range here {
			if at.labels[key] != value {
				n++
			}
		}
		for key := range at.labels {
			if _, both := here[key]; !both {
				n++
			}
		}
		switch at.name {
		case i.saved.Namespace:
			return -1
		case "default":
			return 2*n + 1 // some policies let nothing into it
		}
		return 2 * n
	}
	ordered := slices.Clone(s.spaces)
	slices.SortStableFunc(ordered, func(a, b space) int { return cmp.Or(distance(a)-distance(b), strings.Compare(a.name, b.name)) })
	return ordered
}

// askElsewhere has the server judge an object whose namespace is not there in
// one that stands in for it. What it refuses there is asked for in a second one
// too, where there is one.
func (p *Plan) askElsewhere(ctx context.Context, i *item, d *rewrite.Draft) error {
	own, reason, asked := labelsOf(d), p.standIns.why, 0
	refusedIn := ""
	for _, at := range p.standIns.nearest(i) {
		if asked == tried || p.standIns.why != "" {
			break
		}
		if gate := p.standIns.unlike(i, own, at); gate != "" {
			reason = cmp.Or(reason, gate+" would judge it there, and in no namespace that is there as in that one")
			continue
		}
		asked++
		section(d.Content, "metadata")["namespace"] = at.name
		raw, err := d.Encode()
		if err != nil {
			return err
		}
		refusal, why, err := p.judged(ctx, i, at.name, raw)
		switch {
		case err != nil:
			return err
		case why != "":
			i.line.Reason += "; not asked of the server: " + why
			return nil
		case ofTheNamespace(refusal):
			reason = refusal.Error()
		case refusal == nil && refusedIn == "":
			i.line.Reason += "; asked of the server in namespace " + at.name + ", because its own is not there yet"
			return nil
		case refusal == nil:
			i.refusal = fmt.Errorf("%w: the server would refuse it in namespace %s and not in %s", errUnknown, refusedIn, at.name)
			return nil
		case refusedIn != "":
			return nil
		default:
			refusedIn = at.name
			i.refusal = fmt.Errorf("asked in namespace %s, because its own is not there yet: %w", at.name, refusal)
		}
	}
	if i.refusal == nil {
		i.refusal = fmt.Errorf("%w: %s", errUnknown, cmp.Or(reason, "no other namespace can stand in for it"))
	}
	return nil
}

// ofTheNamespace says whether a refusal is about the namespace that was asked in
// and not about the object.
func ofTheNamespace(refusal error) bool {
	if _, _, denied := kube.Denied(refusal); denied {
		return true
	}
	return apierrors.HasStatusCause(refusal, "NamespaceTerminating") || refusal != nil && (strings.Contains(refusal.Error(), "exceeded quota") ||
		strings.Contains(refusal.Error(), "failed quota") || apierrors.IsNotFound(refusal) && strings.Contains(refusal.Error(), "namespaces "))
}
