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
	if !wanted || p.request.comparing {
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
	free, err := p.freeVolume(ctx)
	if err != nil {
		return err
	}
	for _, i := range p.items {
		if i.saved.Group == "storage.k8s.io" && i.saved.Kind == "StorageClass" && i.line.Outcome == v1alpha1.OutcomeCreate {
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
			case c.Class != nil && *c.Class == "" && i.newVolume && i.volume != "" && !free:
				problem = "it asks for no storage class, its volume does not come with it, and there is no volume here that it could get (hint: set spec.storageClassName by a rule)"
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

// freeVolume says whether the target has a volume without a class that a claim
// without one could get. It is only looked for where one asks for it.
func (p *Plan) freeVolume(ctx context.Context) (free bool, err error) {
	if !slices.ContainsFunc(p.items, func(i *item) bool {
		return i.line.Outcome == v1alpha1.OutcomeCreate && i.newVolume && i.volume != "" && len(i.classes) == 1 && i.classes[0].Class != nil && *i.classes[0].Class == ""
	}) {
		return false, nil
	}
	k, err := p.request.Target.FindKind(ctx, "", "v1", "PersistentVolume")
	if err != nil {
		return false, err
	}
	_, err = p.request.Target.List(ctx, k, kube.ListOptions{}, func(o *object.Object) error {
		content, err := o.Content()
		if err != nil {
			return err
		}
		spec := section(content, "spec")
		class, _ := spec["storageClassName"].(string)
		free = free || class == "" && spec["claimRef"] == nil && section(content, "status")["phase"] == "Available"
		return nil
	})
	if _, _, denied := kube.Denied(err); denied {
		return true, nil
	}
	return free, err
}
