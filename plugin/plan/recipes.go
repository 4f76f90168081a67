package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/recipes"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Recipes are what the hooks of a policy run, in their order, nil for those
// with commands of their own. user are the recipes among the documents; one of
// them comes before a built-in one of its name, and one of the policy's
// namespace before one without. The error is a UsageError with the place of
// every name, of a recipe or of a parameter, that there is not.
func Recipes(policy *v1alpha1.BackupPolicy, user []*v1alpha1.BackupRecipe) ([]*v1alpha1.BackupRecipe, error) {
	var faults []*v1alpha1.FieldError
	refuse := func(path, hint, format string, args ...any) {
		faults = append(faults, &v1alpha1.FieldError{Position: policy.At(path), Path: path, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	out := make([]*v1alpha1.BackupRecipe, len(policy.Spec.Consistency.Hooks))
	for i, h := range policy.Spec.Consistency.Hooks {
		path := fmt.Sprintf("spec.consistency.hooks[%d]", i)
		if h.Recipe == "" {
			continue
		}
		recipe, known := recipeOf(policy.Namespace, h.Recipe, user)
		if recipe == nil {
			refuse(path+".recipe", didYouMean(h.Recipe, known), "no recipe %q", h.Recipe)
			continue
		}
		out[i] = recipe
		has := slices.Sorted(maps.Keys(recipe.Spec.Parameters))
		for _, name := range slices.Sorted(maps.Keys(h.Parameters)) {
			if !slices.Contains(has, name) {
				refuse(path+".parameters."+name, didYouMean(name, has), "recipe %s has no parameter %q", h.Recipe, name)
			}
		}
	}
	return out, v1alpha1.JoinFieldErrors(faults)
}

// recipeOf finds a recipe; known are the names that there are.
func recipeOf(namespace, name string, user []*v1alpha1.BackupRecipe) (found *v1alpha1.BackupRecipe, known []string) {
	for _, r := range user {
		if r.Namespace != "" && r.Namespace != namespace {
			continue
		}
		known = append(known, r.Name)
		if r.Name == name && (found == nil || r.Namespace != "") {
			found = r
		}
	}
	if found == nil {
		found, _ = recipes.Get(name)
	}
	return found, append(known, recipes.Names()...)
}

func didYouMean(word string, known []string) string {
	if near := v1alpha1.Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(known) == 0 {
		return "it has none"
	}
	return "known are " + strings.Join(known, ", ")
}
