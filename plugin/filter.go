package plugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
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
	if len(o.kinds) > 0 && !slices.ContainsFunc(o.kinds, func(k string) bool {
		kind, group, qualified := strings.Cut(k, ".")
		return strings.EqualFold(kind, r.Kind) && (!qualified || group == r.Group)
	}) {
		return false, nil
	}
	if len(o.names) > 0 && !slices.Contains(o.names, r.Name) {
		return false, nil
	}
	if len(o.namespaces) > 0 && !slices.Contains(o.namespaces, r.Namespace) && !(r.Group == "" && r.Kind == "Namespace" && slices.Contains(o.namespaces, r.Name)) {
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

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}
