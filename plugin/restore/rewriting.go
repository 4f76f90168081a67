package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/convert"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// rules are the maps of the request alone, or with its RewriteSet. A map of the
// request that says otherwise than the set is refused.
func (r *Request) rules() (rewrite.Rules, error) {
	if r.Rewrite == nil {
		return rewrite.Rules{Namespaces: r.Namespaces, StorageClasses: r.StorageClasses}, nil
	}
	set := *r.Rewrite
	var err error
	merge := func(what string, own map[string]string, more map[string]string) map[string]string {
		merged := maps.Clone(own)
		if merged == nil {
			merged = map[string]string{}
		}
		for from, to := range more {
			if before, twice := merged[from]; twice && before != to {
				err = errors.Join(err, v1alpha1.Usagef("%s %s is mapped to %s by a flag and to %s by the RewriteSet %s", what, from, to, before, set.Name))
			}
			merged[from] = to
		}
		return merged
	}
	set.Spec.Namespaces = merge("namespace", set.Spec.Namespaces, r.Namespaces)
	set.Spec.StorageClasses = merge("storage class", set.Spec.StorageClasses, r.StorageClasses)
	if err != nil {
		return rewrite.Rules{}, err
	}
	return rewrite.Compile(&set)
}

// learn shows the rules every object that goes along, where they follow names.
func (p *Plan) learn(ctx context.Context) error {
	if !p.rules.NeedsLearning() {
		return nil
	}
	return p.request.Repository.ObjectsOf(ctx, *p.request.Record, nil, func(o *object.Object) error {
		wanted, err := p.wanted(o)
		if err != nil || !wanted {
			return err
		}
		return p.rules.Learn(o)
	})
}

// draft is a saved object at the version that the target serves.
func (p *Plan) draft(ctx context.Context, i *item, o *object.Object) (*rewrite.Draft, []string, error) {
	d, err := rewrite.Decode(o)
	if err != nil || i.convertedTo == nil {
		return d, nil, err
	}
	notes, err := convert.Object(d.Content, p.served(ctx))
	if err != nil {
		return nil, nil, err
	}
	d.Ref.Group, d.Ref.Version = i.convertedTo.Group, i.convertedTo.Version
	return d, notes, nil
}

// served says what the target serves, and what definitions of the backup will
// make it serve.
func (p *Plan) served(ctx context.Context) convert.Served {
	return func(gvk schema.GroupVersionKind) bool {
		if _, defined := p.defined[kindKey{gvk.Group, gvk.Version, gvk.Kind}]; defined {
			return true
		}
		_, err := p.request.Target.FindKind(ctx, gvk.Group, gvk.Version, gvk.Kind)
		return err == nil
	}
}

// findKind finds how the target serves an object's kind: at its version, else
// at one that it can be converted to. ref is what it is called now. A reason
// says why it cannot be restored.
func (p *Plan) findKind(ctx context.Context, i *item, ref v1alpha1.Ref) (reason string, err error) {
	key := kindKey{ref.Group, ref.Version, ref.Kind}
	defined, custom := p.defined[key]
	k, err := p.request.Target.FindKind(ctx, key.group, key.version, key.kind)
	var missing *kube.NotServedError
	switch {
	case err == nil:
	case !errors.As(err, &missing):
		return "", fmt.Errorf("find kind of %s: %w", i.saved, err)
	case custom:
		k = defined
	default:
		to, convertErr := convert.Target(schema.GroupVersionKind{Group: key.group, Version: key.version, Kind: key.kind}, p.served(ctx))
		if convertErr != nil {
			return fmt.Sprintf("version not served here: %s; %s", missing, reasonOf(convertErr)), nil
		}
		if k, err = p.request.Target.FindKind(ctx, to.Group, to.Version, to.Kind); err != nil {
			d, ok := p.defined[kindKey{to.Group, to.Version, to.Kind}]
			if !ok {
				return "", fmt.Errorf("find kind of %s: %w", i.saved, err)
			}
			k, custom = d, true
		}
		i.convertedTo = &to
	}
	if !k.Can("create") {
		return fmt.Sprintf("the target does not let anybody create %s", k), nil
	}
	i.kind, i.custom = p.kindOf(k), custom
	i.keepStatus = !k.Has("status")
	return "", nil
}

func reasonOf(err error) string {
	var refused *convert.Error
	if errors.As(err, &refused) {
		return "it cannot be converted: " + refused.Reason
	}
	return err.Error()
}

// mappedAway says to what an object's users are mapped, where the object itself
// is one that a map replaces by one of the target's.
func (p *Plan) mappedAway(r v1alpha1.Ref) (to string, yes bool) {
	if r.Group == "storage.k8s.io" && r.Kind == "StorageClass" {
		to, yes = p.rules.StorageClasses[r.Name]
	} else if r.Namespace == "" {
		to, yes = p.rules.Reference(r.Group, r.Kind, r.Name)
	}
	return to, yes && to != r.Name
}

// checkReferences sees to it that the objects that references are mapped to
// are in the target, or will be.
func (p *Plan) checkReferences(ctx context.Context) error {
	var lacking []string
	for _, m := range p.rules.References() {
		here := slices.ContainsFunc(p.items, func(i *item) bool {
			return i.line.Outcome == v1alpha1.OutcomeCreate && m.Is(i.ref.Group, i.ref.Kind) && i.ref.Name == m.To
		})
		if here {
			continue
		}
		kind, group, _ := strings.Cut(m.Kind, ".")
		k, err := p.kindNamed(ctx, group, kind)
		if err != nil {
			lacking = append(lacking, fmt.Sprintf("%s %s, which %s is mapped to: %s", kind, m.To, m.From, err))
			continue
		}
		if _, err := p.request.Target.Get(ctx, k, "", m.To); apierrors.IsNotFound(err) {
			lacking = append(lacking, fmt.Sprintf("%s %s, which %s is mapped to, is not in the target", kind, m.To, m.From))
		} else if err != nil {
			return fmt.Errorf("look for %s %s: %w", kind, m.To, err)
		}
	}
	if len(lacking) > 0 && !p.request.comparing {
		return fmt.Errorf("%s (hint: correct spec.references of the RewriteSet)", strings.Join(lacking, "; "))
	}
	return nil
}

// kindNamed finds a kind by its name alone where the set names no group.
func (p *Plan) kindNamed(ctx context.Context, group, kind string) (kube.Kind, error) {
	if group != "" {
		return p.request.Target.FindKind(ctx, strings.TrimPrefix(group, v1alpha1.CoreGroup), "", kind)
	}
	kinds, _, err := p.request.Target.Kinds(ctx)
	if err != nil {
		return kube.Kind{}, err
	}
	for _, k := range kinds {
		if k.GVK.Kind == kind && !k.Namespaced {
			return k, nil
		}
	}
	return kube.Kind{}, fmt.Errorf("no kind %s is served here", kind)
}
