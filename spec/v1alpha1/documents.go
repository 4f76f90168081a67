package v1alpha1

import (
	"fmt"
	"slices"
	"strings"
)

// Documents is what was decoded: every policy, remote and recipe, in the order
// in which they were read, defaults applied.
type Documents struct {
	Policies []*BackupPolicy
	Remotes  []*BackupRemote
	Recipes  []*BackupRecipe
	Rewrites []*RewriteSet
	// Foreign counts the documents of other API groups that were passed over.
	Foreign int
}

// Merge joins what was decoded from several files. The same name twice is an
// error that names both places.
func Merge(all ...*Documents) (*Documents, error) {
	merged := &Documents{}
	for _, d := range all {
		merged.Policies = append(merged.Policies, d.Policies...)
		merged.Remotes = append(merged.Remotes, d.Remotes...)
		merged.Recipes = append(merged.Recipes, d.Recipes...)
		merged.Rewrites = append(merged.Rewrites, d.Rewrites...)
		merged.Foreign += d.Foreign
	}
	return merged, JoinFieldErrors(merged.duplicates())
}

func (d *Documents) duplicates() []*FieldError {
	first := map[string]Position{}
	var faults []*FieldError
	check := func(kind, name string, at Position) {
		key := kind + " " + name
		if before, ok := first[key]; ok {
			faults = append(faults, &FieldError{Position: at, Path: "metadata.name",
				Message: fmt.Sprintf("%s is defined twice, the first time at %s", key, before)})
			return
		}
		first[key] = at
	}
	for _, p := range d.Policies {
		check(policyKind, qualified(p.Namespace, p.Name), p.At("metadata.name"))
	}
	for _, r := range d.Remotes {
		check(remoteKind, qualified(r.Namespace, r.Name), r.At("metadata.name"))
	}
	for _, r := range d.Recipes {
		check(recipeKind, qualified(r.Namespace, r.Name), r.At("metadata.name"))
	}
	for _, r := range d.Rewrites {
		check(rewriteKind, qualified(r.Namespace, r.Name), r.At("metadata.name"))
	}
	return faults
}

// Resolve is Policy followed by RemoteOf.
func (d *Documents) Resolve(policyName string) (*BackupPolicy, *BackupRemote, error) {
	policy, err := d.Policy(policyName)
	if err != nil {
		return nil, nil, err
	}
	remote, err := d.RemoteOf(policy)
	if err != nil {
		return nil, nil, err
	}
	return policy, remote, nil
}

// RemoteOf is the remote that a policy names, once all that it names are
// there. It is nil where the policy names none, since a flag may.
func (d *Documents) RemoteOf(policy *BackupPolicy) (*BackupRemote, error) {
	var faults []*FieldError
	find := func(path, name string) *BackupRemote {
		r, err := d.remote(policy.Namespace, name)
		if err != nil {
			faults = append(faults, &FieldError{Position: policy.At(path), Path: path, Message: err.Error()})
		}
		return r
	}
	var remote *BackupRemote
	if policy.Spec.Remote.Name != "" {
		remote = find("spec.remote.name", policy.Spec.Remote.Name)
	}
	for i, c := range policy.Spec.Copies {
		find(fmt.Sprintf("spec.copies[%d].remote.name", i), c.Remote.Name)
	}
	return remote, JoinFieldErrors(faults)
}

// Policy is the policy of that name, given as name or namespace/name. An empty
// name means the only one.
func (d *Documents) Policy(name string) (*BackupPolicy, error) {
	var found []*BackupPolicy
	var names []string
	for _, p := range d.Policies {
		q := qualified(p.Namespace, p.Name)
		names = append(names, q)
		if name == "" || name == q || name == p.Name {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(d.Policies) == 0:
		return nil, Usagef("no %s among the documents%s; give one with -f FILE, DIR, URL or git::URL, or with -k DIR", policyKind, d.foreign())
	case len(found) == 0:
		return nil, Usagef("no %s named %q among the documents; %s", policyKind, name, didYouMean(name, names))
	}
	places := make([]string, len(found))
	for i, p := range found {
		places[i] = fmt.Sprintf("%s (%s)", qualified(p.Namespace, p.Name), p.At(""))
	}
	return nil, Usagef("several policies to choose from: %s; name one with --policy", strings.Join(places, ", "))
}

// Remote is the remote of that name, given as name or namespace/name. An empty
// name means the only one.
func (d *Documents) Remote(name string) (*BackupRemote, error) {
	if name == "" {
		return d.onlyRemote()
	}
	namespace := ""
	if ns, n, ok := strings.Cut(name, "/"); ok {
		namespace, name = ns, n
	}
	r, err := d.remote(namespace, name)
	if err != nil {
		return nil, &UsageError{Err: err}
	}
	return r, nil
}

func (d *Documents) onlyRemote() (*BackupRemote, error) {
	switch len(d.Remotes) {
	case 0:
		return nil, Usagef("no %s among the documents%s; add one or give --remote", remoteKind, d.foreign())
	case 1:
		return d.Remotes[0], nil
	}
	places := make([]string, len(d.Remotes))
	for i, r := range d.Remotes {
		places[i] = fmt.Sprintf("%s (%s)", qualified(r.Namespace, r.Name), r.At(""))
	}
	return nil, Usagef("several remotes to choose from: %s; name one with --remote", strings.Join(places, ", "))
}

// remote prefers a remote of the namespace to one without a namespace. From
// no namespace, any single remote of that name will do.
func (d *Documents) remote(namespace, name string) (*BackupRemote, error) {
	var found []*BackupRemote
	var names []string
	for _, r := range d.Remotes {
		names = append(names, r.Name)
		switch {
		case r.Name != name:
		case r.Namespace == namespace:
			return r, nil
		case namespace == "" || r.Namespace == "":
			found = append(found, r)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("several remotes are named %q; say which as namespace/name with --remote", name)
	case len(names) == 0:
		return nil, fmt.Errorf("no %s among the documents%s, so %q names nothing; add one or give --remote", remoteKind, d.foreign(), name)
	case slices.Contains(names, name):
		return nil, fmt.Errorf("the %s %q is in another namespace than %q", remoteKind, name, namespace)
	}
	return nil, fmt.Errorf("no %s named %q among the documents; %s", remoteKind, name, didYouMean(name, names))
}

func (d *Documents) foreign() string {
	switch d.Foreign {
	case 0:
		return ""
	case 1:
		return " (1 document of another API group was passed over)"
	}
	return fmt.Sprintf(" (%d documents of other API groups were passed over)", d.Foreign)
}

func qualified(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}
