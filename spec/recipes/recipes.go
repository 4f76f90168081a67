// Package recipes holds the recipes that come with the program: how stores of
// well-known kinds are made quiet. Each is a BackupRecipe document that could
// as well be a user's own, and says at its top what it guarantees.
//
// The package runs nothing; plugin/freeze does.
package recipes

import (
	"embed"
	"fmt"
	"path"
	"sync"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

//go:embed *.yaml
var documents embed.FS

// All are the recipes in the order of their names. They are not to be changed.
func All() []*v1alpha1.BackupRecipe { return all() }

var all = sync.OnceValue(func() []*v1alpha1.BackupRecipe {
	var all []*v1alpha1.BackupRecipe
	for _, name := range files() {
		r, err := decode(name)
		if err == nil { // a test decodes each
			all = append(all, r)
		}
	}
	return all
})

// Get finds a recipe by name.
func Get(name string) (*v1alpha1.BackupRecipe, bool) {
	for _, r := range All() {
		if r.Name == name {
			return r, true
		}
	}
	return nil, false
}

// Names are the names of all recipes, in order.
func Names() []string {
	var names []string
	for _, r := range All() {
		names = append(names, r.Name)
	}
	return names
}

func files() []string {
	entries, _ := documents.ReadDir(".") // it is part of the program
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// decode reads one document, which has the name of its file.
func decode(file string) (*v1alpha1.BackupRecipe, error) {
	data, err := documents.ReadFile(file)
	if err != nil {
		return nil, err
	}
	docs, err := v1alpha1.Decode("recipes/"+file, data)
	if err != nil {
		return nil, err
	}
	if len(docs.Recipes) != 1 || docs.Recipes[0].Name+".yaml" != path.Base(file) {
		return nil, fmt.Errorf("recipes/%s: expected one recipe of that name", file)
	}
	return docs.Recipes[0], nil
}
