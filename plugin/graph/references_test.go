package graph

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	"github.com/stretchr/testify/require"
)

// holding makes an object in which a row's field, and the fields beside it,
// are set.
func holding(t testing.TB, r Row, kind, namespace string, value any, beside map[string]any) map[string]any {
	t.Helper()
	tokens, err := parsePath(r.Path)
	require.NoError(t, err)
	version := "v1"
	if r.Group != "" {
		version = r.Group + "/v1"
	}
	metadata := map[string]any{"name": "from"}
	if namespace != "" {
		metadata["namespace"] = namespace
	}
	root := map[string]any{"apiVersion": version, "kind": kind, "metadata": metadata}
	var set func(holder map[string]any, tokens []pathToken)
	set = func(holder map[string]any, tokens []pathToken) {
		key, rest := tokens[0].key, tokens[1:]
		switch {
		case len(rest) == 0:
			holder[key] = value
			for k, v := range beside {
				holder[k] = v
			}
		case rest[0].each && len(rest) == 1:
			holder[key] = []any{"other", value}
		case rest[0].each:
			el := map[string]any{}
			if f := rest[0].filterKey; f != "" {
				el[f] = rest[0].filterValue
			}
			holder[key] = []any{map[string]any{}, el}
			set(el, rest[1:])
		default:
			next, ok := holder[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				holder[key] = next
			}
			set(next, rest)
		}
	}
	set(root, tokens)
	return root
}

func parsed(t testing.TB, o map[string]any) *object.Object {
	t.Helper()
	raw, err := json.Marshal(o)
	require.NoError(t, err)
	x, err := object.Parse(raw)
	require.NoError(t, err)
	return x
}

// Each row of the table is found by References, can be changed in place
// through it, and makes an edge to an object that exists.
func TestEachRowIsFoundAndRewritten(t *testing.T) {
	for _, r := range Table {
		if r.Match != ByName {
			continue
		}
		kind := r.Kind
		if kind == "*" {
			kind, r.Group = "Lease", "coordination.k8s.io"
		}
		t.Run(fmt.Sprintf("%s %s", kind, r.Path), func(t *testing.T) {
			to := v1alpha1.Ref{Group: r.ToGroup, Kind: r.ToKind, Namespace: "here", Name: "target"}
			beside := map[string]any{}
			if r.KindField != "" {
				if to.Kind == "" || to.Group == groupRBAC {
					to.Group, to.Kind = "things.example.com", "Thing"
				}
				beside[r.KindField] = to.Kind
			}
			if r.GroupField != "" {
				beside[r.GroupField] = to.Group
				if r.GroupField == "apiVersion" {
					beside[r.GroupField] = strings.TrimPrefix(to.Group+"/v1", "/")
				}
			}
			if r.NamespaceField != "" {
				beside[r.NamespaceField] = "there"
				to.Namespace = "there"
			}
			if r.Cluster {
				to.Namespace = ""
			}
			switch r.Path {
			case "metadata.namespace":
				to.Name = "here"
			case "metadata.name":
				to.Name = "from"
			}
			o := holding(t, r, kind, "here", to.Name, beside)
			before := parsed(t, o)
			found := 0
			require.NoError(t, References(o, func(f Reference) error {
				if f.Row.Path != r.Path || f.To.Name == "other" {
					return nil
				}
				found++
				require.Equal(t, to, f.To)
				require.NotContains(t, f.Path, "[]")
				f.SetName("renamed")
				require.Equal(t, r.NamespaceField != "", f.SetNamespace("moved"))
				return nil
			}))
			require.Equal(t, 1, found)
			after := map[string]any{}
			for k, v := range beside {
				after[k] = v
			}
			if r.NamespaceField != "" {
				after[r.NamespaceField] = "moved"
			}
			require.Equal(t, holding(t, r, kind, "here", "renamed", after), o)

			if to.Kind == "" || kind == "Lease" {
				return // known only from a policy; taken from the header
			}
			b := NewBuilder(Options{})
			require.NoError(t, b.Add(before))
			g, err := b.Build()
			require.NoError(t, err)
			_, mayDangle := beside[r.OptionalField]
			require.Equal(t, !r.Optional && !r.Loose && !mayDangle, len(g.Missing()) == 1, "missing: %v", shorts(g.Missing()))
			version := "v1"
			if to.Group != "" {
				version = to.Group + "/v1"
			}
			meta := map[string]any{"name": to.Name}
			if to.Namespace != "" {
				meta["namespace"] = to.Namespace
			}
			require.NoError(t, b.Add(parsed(t, map[string]any{"apiVersion": version, "kind": to.Kind, "metadata": meta})))
			g, err = b.Build()
			require.NoError(t, err)
			require.Empty(t, g.Missing())
			var edges []v1alpha1.EdgeLine
			for _, e := range g.EdgesFrom(before.Ref) {
				if e.Type != TypeNamespace && e.Type != TypeServiceAccount || e.Type == r.Type {
					edges = append(edges, e)
				}
			}
			require.Len(t, edges, 1, "%v", shorts(edges))
			require.Equal(t, to.Key(), edges[0].To.Key())
			require.Equal(t, r.Type, edges[0].Type)
			require.Equal(t, r.Strong, edges[0].Strong)
		})
	}
}

func TestOptionalReferencesMayDangle(t *testing.T) {
	for _, r := range Table {
		if r.OptionalField == "" {
			continue
		}
		for value, missing := range map[any]int{true: 0, false: 1} {
			o := parsed(t, holding(t, r, r.Kind, "here", "gone", map[string]any{r.OptionalField: value}))
			b := NewBuilder(Options{})
			require.NoError(t, b.Add(o))
			g, err := b.Build()
			require.NoError(t, err)
			require.Len(t, g.Missing(), missing, "%s %s", r.Kind, r.Path)
			var unseen []string
			for _, e := range g.Closure([]v1alpha1.Ref{o.Ref}, Include).Unseen {
				unseen = append(unseen, e.To.Name)
			}
			require.Contains(t, unseen, "gone", "a caller can still look for it")
		}
	}
}

func TestReferencesOfUnknownKinds(t *testing.T) {
	o := map[string]any{"apiVersion": "wood.example.com/v1", "kind": "Shelf", "metadata": map[string]any{"namespace": "n", "name": "s",
		"ownerReferences": []any{map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}},
		"spec": map[string]any{"secretRef": map[string]any{"name": "k"}, "boards": []any{map[string]any{"from": "m", "ns": "q"}, map[string]any{"from": nil}, 7}}}
	row := Row{Group: "wood.example.com", Kind: "Shelf", Path: "spec.boards[].from", ToKind: "ConfigMap", NamespaceField: "ns", Type: TypeUsesSecret, Reverse: true}
	for _, extra := range [][]Row{nil, {row}} {
		l, err := NewLookup(extra...)
		require.NoError(t, err)
		var got []string
		require.NoError(t, l.References(o, func(r Reference) error {
			got = append(got, r.Path+" "+r.To.String())
			return nil
		}))
		want := []string{"metadata.namespace Namespace n", "metadata.ownerReferences[0].name Deployment.apps n/d"}
		if extra != nil {
			want = append(want, "spec.boards[0].from ConfigMap q/m")
		}
		require.Equal(t, want, got)
	}
}

func TestBadRowsAreNamed(t *testing.T) {
	good := Row{Group: "g", Kind: "K", Path: "a.b", ToKind: "T", Type: "t"}
	for name, change := range map[string]func(*Row){
		`path is empty`:     func(r *Row) { r.Path = "" },
		`"a..b"`:            func(r *Row) { r.Path = "a..b" },
		`"a.b."`:            func(r *Row) { r.Path = "a.b." },
		`[x]`:               func(r *Row) { r.Path = "a[x].b" },
		`does not end in ]`: func(r *Row) { r.Path = "a[" },
		`edge type`:         func(r *Row) { r.Type = "" },
		`kind that refers`:  func(r *Row) { r.Kind = "" },
		`strong or loose`:   func(r *Row) { r.Strong, r.Loose = true, true },
		`a selector needs`:  func(r *Row) { r.Match, r.ToKind = ByLabels, "" },
	} {
		bad := good
		change(&bad)
		_, err := NewLookup(good, bad)
		require.ErrorContains(t, err, name)
		require.ErrorContains(t, err, "reference row 1")
		g, err := NewBuilder(Options{ExtraRows: []Row{bad}}).Build()
		require.ErrorContains(t, err, name)
		require.Empty(t, g.Nodes())
	}
}
