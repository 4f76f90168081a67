package object

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	kjson "sigs.k8s.io/json"
)

// slow is the identity as a full decoder reads it.
type slow struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		DeletionTimestamp string            `json:"deletionTimestamp"`
		Labels            map[string]string `json:"labels"`
		Annotations       map[string]string `json:"annotations"`
		OwnerReferences   []Owner           `json:"ownerReferences"`
	} `json:"metadata"`
}

func compare(t *testing.T, raw []byte) {
	t.Helper()
	var want slow
	strict, wantErr := kjson.UnmarshalStrict(raw, &want)
	for _, e := range strict {
		if strings.Contains(e.Error(), "duplicate field") {
			return // which one counts is not ours to decide
		}
	}
	got, err := Parse(raw)
	if wantErr != nil {
		// The scanner does not look at types below metadata's known fields
		// and the reference does not look at fewer, so both must refuse.
		if err == nil {
			t.Fatalf("accepted %q, which a full decoder refuses: %v", raw, wantErr)
		}
		return
	}
	if want.APIVersion == "" || want.Kind == "" || want.Metadata.Name == "" {
		if err == nil {
			t.Fatalf("accepted %q, which lacks its identity", raw)
		}
		return
	}
	if err != nil {
		t.Fatalf("refused %q: %v", raw, err)
	}
	m := want.Metadata
	group, version := SplitAPIVersion(want.APIVersion)
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"group", got.Ref.Group, group}, {"version", got.Ref.Version, version}, {"kind", got.Ref.Kind, want.Kind},
		{"name", got.Ref.Name, m.Name}, {"namespace", got.Ref.Namespace, m.Namespace}, {"uid", got.UID, m.UID},
		{"resourceVersion", got.Version, m.ResourceVersion}, {"labels", got.Labels, m.Labels},
		{"annotations", got.Annotations, m.Annotations}, {"owners", got.Owners, m.OwnerReferences},
		{"deleting", got.Deleting, m.DeletionTimestamp != ""},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Fatalf("%s of %q: %#v, want %#v", c.name, raw, c.got, c.want)
		}
	}
	if !bytes.Equal(got.Raw, raw) {
		t.Fatalf("raw bytes changed: %q, want %q", got.Raw, raw)
	}
}

var samples = []string{
	`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","labels":{"x":"y"},"annotations":{"k":"{\"a\":[\"}\"]}"}},"data":{"brace":"}]\\\"{","tab":"\t\u0009"}}`,
	`{"kind":"Pod","metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"2","controller":true,"blockOwnerDeletion":true},null],"name":"p","deletionTimestamp":"2024-01-01T00:00:00Z"},"apiVersion":"v1"}`,
	"{ \"apiVersion\" : \"g.example/v2\" ,\n\t\"kind\": \"Odd\", \"metadata\": {\"name\":\"\\u00e5\\ud83d\\ude00\", \"labels\": null, \"annotations\": {}, \"namespace\": null}, \"spec\": [1,-0,0.5,1e9,1E-7,-12.25e+3,true,false,null,{},[]], \"big\": 9007199254740993 } \n",
	`{"apiVersion":"v1","kind":"K","met\u0061data":{"name":"escaped"}}`,
	`{"apiVersion":"v1","kind":"K","Metadata":{"name":"case"}}`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x","labels":{"a":1}}}`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":5}}`,
	`{"apiVersion":"v1","kind":"K","metadata":null}`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"}}trailing`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},}`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},"n":01}`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},"n":1.}`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},"n":-}`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},"s":"\x"}`,
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},"s":"\u12g4"}`,
	"{\"apiVersion\":\"v1\",\"kind\":\"K\",\"metadata\":{\"name\":\"x\"},\"s\":\"\n\"}",
	"{\"apiVersion\":\"v1\",\"kind\":\"K\",\"metadata\":{\"name\":\"x\xff\"}}",
	`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},"s":nul}`,
	`[]`, `null`, `"x"`, ``, ` `, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{}`,
}

func TestParseReadsWhatAFullDecoderReads(t *testing.T) {
	for _, raw := range samples {
		compare(t, []byte(raw))
	}
	// Every way to cut a good object short is an error, never a shorter object.
	for n := range len(samples[0]) {
		if _, err := Parse([]byte(samples[0][:n])); err == nil {
			t.Fatalf("accepted an object cut at byte %d", n)
		}
	}
	if _, err := Parse([]byte(`{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},"deep":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "}")); err == nil {
		t.Fatal("accepted an object nested 20,000 deep")
	}
}

func FuzzParse(f *testing.F) {
	for _, raw := range samples {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { compare(t, raw) })
}

// randomValue makes JSON values whose strings hold everything that could fool
// a scanner: braces, quotes, escapes, line separators, astral characters.
func randomValue(r *rand.Rand, depth int) any {
	words := []string{"", "}", "]}", `"`, `\`, `\\"`, "\u2028", "å", "😀", "<&>", "\x00\x1f", "a:b,c", `{"items":[`, "null"}
	switch n := r.IntN(9); {
	case n < 3 || depth == 0:
		return words[r.IntN(len(words))] + words[r.IntN(len(words))]
	case n == 3:
		return r.Int64() - r.Int64()
	case n == 4:
		return r.Float64() * 1e6
	case n == 5:
		return []any{true, false, nil}[r.IntN(3)]
	case n == 6:
		a := make([]any, r.IntN(4))
		for i := range a {
			a[i] = randomValue(r, depth-1)
		}
		return a
	default:
		m := map[string]any{}
		for range r.IntN(4) {
			m[words[r.IntN(len(words))]] = randomValue(r, depth-1)
		}
		return m
	}
}

func TestListIsSlicedIntoItsItems(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var items []map[string]any
		for i := range r.IntN(6) {
			item := map[string]any{
				"metadata": map[string]any{"name": fmt.Sprintf("n%d", i), "uid": fmt.Sprint(i), "annotations": map[string]string{"a": `}],"items":[{`}},
				"data":     randomValue(r, 4), "items": randomValue(r, 2),
			}
			if round%3 == 1 {
				item["apiVersion"], item["kind"] = "other.example/v1", "Other"
			}
			if round%3 == 2 {
				item["kind"] = "Thing"
			}
			items = append(items, item)
		}
		list := map[string]any{"kind": "ThingList", "apiVersion": "g.example/v1", "items": items,
			"metadata": map[string]any{"continue": "tok\"en", "resourceVersion": "42", "remainingItemCount": 9}, "aside": randomValue(r, 3)}
		var data []byte
		var err error
		if round%2 == 0 {
			data, err = json.Marshal(list)
		} else {
			data, err = json.MarshalIndent(list, " ", "\t")
		}
		if err != nil {
			t.Fatal(err)
		}

		var got []*Object
		meta, err := ParseList(data, "g.example/v1", "Thing", func(o *Object) error { got = append(got, o); return nil })
		if err != nil {
			t.Fatalf("%v in %s", err, data)
		}
		if meta != (ListMeta{Continue: `tok"en`, Version: "42", Remaining: 9}) {
			t.Fatalf("list metadata %+v", meta)
		}
		var want struct{ Items []json.RawMessage }
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		for i := range data {
			data[i] = 'x' // the items must not lean on the page's buffer
		}
		if len(got) != len(want.Items) {
			t.Fatalf("%d items, want %d", len(got), len(want.Items))
		}
		for i, o := range got {
			var a, b map[string]any
			if err := json.Unmarshal(o.Raw, &a); err != nil {
				t.Fatalf("item is not JSON: %v in %s", err, o.Raw)
			}
			if err := json.Unmarshal(want.Items[i], &b); err != nil {
				t.Fatal(err)
			}
			wantKind, wantVersion := "Thing", "g.example/v1"
			if round%3 == 1 {
				wantKind, wantVersion = "Other", "other.example/v1"
			}
			if a["kind"] != wantKind || a["apiVersion"] != wantVersion || o.Ref.Kind != wantKind || o.Ref.Name != fmt.Sprintf("n%d", i) {
				t.Fatalf("identity %v of %s", o.Ref, o.Raw)
			}
			delete(a, "kind")
			delete(a, "apiVersion")
			delete(b, "kind")
			delete(b, "apiVersion")
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("item %s, want %s", o.Raw, want.Items[i])
			}
			// All but what was put in front is the server's bytes.
			if !bytes.HasSuffix(o.Raw, want.Items[i][1:]) {
				t.Fatalf("bytes changed: %s, want %s", o.Raw, want.Items[i])
			}
		}
	}
}

func TestListThatIsCutOrIsNoList(t *testing.T) {
	good := `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`
	ignore := func(*Object) error { return nil }
	for n := range len(good) {
		if _, err := ParseList([]byte(good[:n]), "v1", "ConfigMap", ignore); err == nil {
			t.Fatalf("accepted a list cut at byte %d", n)
		}
	}
	for _, bad := range []string{
		`{"kind":"Status","message":"no"}`, `<html>`, `[]`, good + "x",
		`{"items":[{"metadata":{}}]}`, `{"items":[1]}`, `{"items":{}}`,
	} {
		if _, err := ParseList([]byte(bad), "v1", "ConfigMap", ignore); err == nil {
			t.Fatalf("accepted %s", bad)
		}
	}
	for _, empty := range []string{`{"items":null}`, `{"items":[]}`, "{\"metadata\":{\"continue\":null,\"remainingItemCount\":null},\"items\" : [ ] }\n"} {
		if _, err := ParseList([]byte(empty), "v1", "ConfigMap", ignore); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	raw := []byte(samples[0])
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseWithAFullDecoder(b *testing.B) {
	raw := []byte(samples[0])
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		var s slow
		if err := json.Unmarshal(raw, &s); err != nil {
			b.Fatal(err)
		}
	}
}
