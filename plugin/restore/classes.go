package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// checkClasses sees to it that every storage class that the restore asks for
// is there.
func (p *Plan) checkClasses(ctx context.Context) error {
	wanted := len(p.rules.StorageClasses) > 0
	for _, i := range p.items {
		wanted = wanted || i.line.Outcome == v1alpha1.OutcomeCreate && len(i.classes) > 0
	}
	if !wanted {
		return nil
	}
	k, err := p.request.Target.FindKind(ctx, "storage.k8s.io", "", "StorageClass")
	if err != nil {
		return fmt.Errorf("look for storage classes: %w", err)
	}
	have := map[string]bool{}
	hasDefault := false
	_, err = p.request.Target.List(ctx, k, kube.ListOptions{}, func(o *object.Object) error {
		have[o.Ref.Name] = true
		for _, key := range [...]string{"storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"} {
			hasDefault = hasDefault || o.Annotations[key] == "true"
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for storage classes: %w", err)
	}
	var names []string
	for name := range have {
		names = append(names, name)
	}
	slices.Sort(names)
	hint := fmt.Sprintf("(the target has: %s; hint: map it with --map-storage-class)", strings.Join(names, ", "))
	if len(names) == 0 {
		hint = "(the target has none)"
	}
	for _, i := range p.items {
		if i.saved.Kind == "StorageClass" && i.line.Outcome == v1alpha1.OutcomeCreate {
			have[i.ref.Name] = true
		}
	}
	for from, to := range p.rules.StorageClasses {
		if !have[to] {
			return fmt.Errorf("storage class %s, which %s is mapped to, is not in the target %s", to, from, hint)
		}
	}
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeCreate {
			continue
		}
		for _, c := range i.classes {
			problem := ""
			switch {
			case c.Class == nil && !hasDefault:
				problem = "it names no storage class, and the target has no default one"
			case c.Class != nil && *c.Class != "" && !have[*c.Class]:
				problem = fmt.Sprintf("storage class %s is not in the target", *c.Class)
			}
			switch {
			case problem == "":
			case i.newVolume:
				return fmt.Errorf("%s: %s %s", i.ref, problem, hint)
			default:
				i.warn("%s: %s; claims that it makes will wait", c.Path, problem)
			}
		}
	}
	return nil
}
