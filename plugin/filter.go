package plugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// objectFilter picks objects out of a backup; its parts are AND-ed.
type objectFilter struct {
	expression string
	selector   string
	kinds      []string
	namespaces []string
	names      []string

	filter *selector.Filter
	labels labels.Selector
	// found are the values of flags that an object was found for.
	found map[string]bool
}

func (o *objectFilter) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.expression, "filter", "", "CEL expression over object and ref (group, version, kind, namespace, name)")
	f.StringVarP(&o.selector, "selector", "l", "", "label selector")
	f.StringSliceVar(&o.kinds, "kinds", nil, "kinds: Kind or Kind.group")
	f.StringSliceVar(&o.namespaces, "namespaces", nil, "namespaces that the objects were in")
	f.StringSliceVar(&o.names, "names", nil, "names of objects")
}

// Complete compiles the expression and parses the selector.
func (o *objectFilter) Complete() error {
	if o.expression != "" {
		f, err := selector.CompileFilter(o.expression, map[string]*selector.Type{"object": cel.DynType, "ref": cel.MapType(cel.StringType, cel.StringType)})
		if err != nil {
			return usagef("--filter: %w", err)
		}
		o.filter = f
	}
	parsed, err := labels.Parse(o.selector)
	if err != nil {
		return usagef("--selector: %w", err)
	}
	o.labels = parsed
	return nil
}

// active says whether anything is left out.
func (o *objectFilter) active() bool {
	return o.expression != "" || o.selector != "" || len(o.kinds)+len(o.namespaces)+len(o.names) > 0
}

// Match says whether the filter lets an object through. An expression that
// fails on an object is an error and never a silent no.
func (o *objectFilter) Match(ctx context.Context, ob *object.Object) (bool, error) {
	r := ob.Ref
	kind := o.has("--kinds", o.kinds, func(k string) bool {
		kind, group, qualified := strings.Cut(k, ".")
		if group == v1alpha1.CoreGroup {
			group = ""
		}
		return strings.EqualFold(kind, r.Kind) && (!qualified || group == r.Group)
	})
	name := o.has("--names", o.names, func(n string) bool { return n == r.Name })
	namespace := o.has("--namespaces", o.namespaces, func(n string) bool {
		return n == r.Namespace || r.Group == "" && r.Kind == "Namespace" && n == r.Name
	})
	if !kind || !name || !namespace {
		return false, nil
	}
	if !o.labels.Matches(labels.Set(ob.Labels)) {
		return false, nil
	}
	if o.filter == nil {
		return true, nil
	}
	content, err := ob.Content()
	if err != nil {
		return false, err
	}
	ok, err := o.filter.Match(ctx, map[string]any{
		"object": content,
		"ref":    map[string]string{"group": r.Group, "version": r.Version, "kind": r.Kind, "namespace": r.Namespace, "name": r.Name},
	})
	if err != nil {
		return false, fmt.Errorf("--filter on %s: %w", r, err)
	}
	return ok, nil
}

// has says whether one of a flag's values fits, where the flag has any, and
// remembers which do.
func (o *objectFilter) has(flag string, values []string, fits func(string) bool) bool {
	has := len(values) == 0
	for _, v := range values {
		if fits(v) {
			if o.found == nil {
				o.found = map[string]bool{}
			}
			o.found[flag+" "+v], has = true, true
		}
	}
	return has
}

// unmatched are warnings: what of the flags no object of the backup was found
// for is misspelt, or not there.
func (o *objectFilter) unmatched() []string {
	var out []string
	for _, f := range []struct {
		flag   string
		values []string
	}{{"--kinds", o.kinds}, {"--names", o.names}, {"--namespaces", o.namespaces}} {
		for _, v := range f.values {
			if !o.found[f.flag+" "+v] {
				out = append(out, f.flag+" "+v+" matches nothing in the backup")
			}
		}
	}
	return out
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}
