package ui

import (
	v1 "encoding/json"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"io"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	"sigs.k8s.io/yaml"
)

// Document writes a plan or a report. Formats are table, wide, json and yaml.
func Document(w io.Writer, d *v1alpha1.Document, format string) error {
	switch format {
	case "json", "yaml":
		return Value(w, whole(d), format)
	case "table", "wide":
		t := &text{wide: format == "wide"}
		if d.Kind == "Plan" {
			t.plan(d)
		} else {
			t.report(d)
		}
		return t.flush(w)
	}
	return fmt.Errorf("output format %q: want table, wide, json or yaml", format)
}

// Value writes anything as indented JSON, or as YAML with the same fields.
func Value(w io.Writer, v any, format string) error {
	if format == "yaml" {
		raw, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("write yaml: %w", err)
		}
		_, err = w.Write(raw)
		return err
	}
	// Written as it is made: a document may have a line for each of very many
	// objects.
	if err := json.MarshalWrite(w, v, v1.DefaultOptionsV1(), jsontext.EscapeForHTML(false), jsontext.WithIndent("  ")); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// whole has lists, if empty ones, wherever a reader of the document expects
// them.
func whole(d *v1alpha1.Document) *v1alpha1.Document {
	out := *d
	out.Groups = make([]v1alpha1.GroupLine, len(d.Groups))
	for i, g := range d.Groups {
		g.Workloads, g.Edges = orEmpty(g.Workloads), orEmpty(g.Edges)
		out.Groups[i] = g
	}
	out.Objects, out.Volumes = orEmpty(d.Objects), orEmpty(d.Volumes)
	return &out
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
