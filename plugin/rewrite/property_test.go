package rewrite

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Without rules not one byte of a stream changes, whatever its notation, and
// an object keeps every value, numbers by their digits.
func TestNoRulesChangeNothing(t *testing.T) {
	rules, err := Compile(&v1alpha1.RewriteSet{ObjectMeta: named("nothing")})
	if err != nil {
		t.Fatal(err)
	}
	streams := [][]byte{
		[]byte("# only a comment\n"), []byte(""), []byte("---\n---\n"),
		[]byte("apiVersion: v1\nkind: ConfigMap\nmetadata:\n    name: a   # odd notation\ndata: {n: 010, f: '1e3', t: \"\\t\"}"),
		[]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}]}`),
		[]byte("apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n"),
		[]byte("- not\n- an object\n"), []byte("apiVersion: v1\nkind: Kustomization\n"),
	}
	for _, folder := range goldenCases(t) {
		streams = append(streams, read(t, filepath.Join(folder, "input.yaml")), read(t, filepath.Join(folder, "expected.yaml")))
	}
	for _, stream := range streams {
		out, report := rewritten(t, rules, stream)
		if !bytes.Equal(out, stream) {
			t.Errorf("became\n%s\nfrom\n%s", out, stream)
		}
		for _, o := range report.Objects {
			if len(o.Changes) > 0 || o.Error != "" {
				t.Errorf("%+v", o)
			}
		}
	}
	raw := []byte(`{"apiVersion":"x.example.org/v1","kind":"Gauge","metadata":{"name":"a","namespace":"b","annotations":{},"labels":null},"spec":{"big":123456789012345678901234567890,"one":1.0,"exp":1e3,"text":"010","none":null,"empty":{},"list":[]}}`)
	o, err := object.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Decode(o)
	if err != nil {
		t.Fatal(err)
	}
	before, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rules.Apply(d); err != nil {
		t.Fatal(err)
	}
	if after, err := d.Encode(); err != nil || !bytes.Equal(before, after) {
		t.Errorf("%s, %v", after, err)
	}
}

// Any sets that may stand together, on any objects: what they made of them once
// they leave alone when they come by again.
func TestAnyRulesTwiceAreOnce(t *testing.T) {
	folders := goldenCases(t)
	random := rand.New(rand.NewPCG(7, 11))
	tried, refused := 0, 0
	for range 80 {
		set := &v1alpha1.RewriteSet{ObjectMeta: named("any")}
		for range 1 + random.IntN(4) {
			documents, err := v1alpha1.Decode("rules", read(t, filepath.Join(folders[random.IntN(len(folders))], "rules.yaml")))
			if err != nil {
				t.Fatal(err)
			}
			together(&set.Spec, documents.Rewrites[0].Spec)
		}
		if _, err := Compile(set); err != nil {
			refused++
			continue
		}
		tried++
		compiled := func() Rules {
			r, err := Compile(set)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		input := read(t, filepath.Join(folders[random.IntN(len(folders))], "input.yaml"))
		once, report := rewritten(t, compiled(), input)
		if report.Result != v1alpha1.ResultComplete {
			continue
		}
		if twice, again := rewritten(t, compiled(), once); !bytes.Equal(once, twice) {
			t.Fatalf("%+v\nonce\n%s\ntwice\n%s\n%+v", set.Spec, once, twice, again.Objects)
		}
	}
	if tried < 30 {
		t.Fatalf("only %d sets were tried, %d were refused", tried, refused)
	}
}

// together adds what one spec says to another.
func together(into *v1alpha1.RewriteSetSpec, more v1alpha1.RewriteSetSpec) {
	add := func(a *map[string]string, b map[string]string) {
		if *a == nil {
			*a = map[string]string{}
		}
		maps.Copy(*a, b)
	}
	add(&into.Namespaces, more.Namespaces)
	add(&into.StorageClasses, more.StorageClasses)
	into.Images = append(into.Images, more.Images...)
	into.Hosts = append(into.Hosts, more.Hosts...)
	into.NodeLabels = append(into.NodeLabels, more.NodeLabels...)
	into.References = append(into.References, more.References...)
	into.Text = append(into.Text, more.Text...)
	into.Fields = append(into.Fields, more.Fields...)
	into.Profiles = append(into.Profiles, more.Profiles...)
	into.Rules = append(into.Rules, more.Rules...)
	if more.Names != nil {
		into.Names = more.Names
	}
	if more.Services != nil {
		into.Services = more.Services
	}
}
