package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the expected files anew")

// current is what a server of 1.37 serves, as far as the tests need it.
var current = map[string]bool{
	"v1": true, "apps/v1": true, "batch/v1": true, "autoscaling/v1": true, "autoscaling/v2": true, "policy/v1": true,
	"networking.k8s.io/v1": true, "rbac.authorization.k8s.io/v1": true, "scheduling.k8s.io/v1": true, "storage.k8s.io/v1": true,
	"node.k8s.io/v1": true, "flowcontrol.apiserver.k8s.io/v1": true, "discovery.k8s.io/v1": true, "certificates.k8s.io/v1": true,
	"apiextensions.k8s.io/v1": true, "admissionregistration.k8s.io/v1": true, "apiregistration.k8s.io/v1": true,
	"resource.k8s.io/v1": true, "snapshot.storage.k8s.io/v1": true, "coordination.k8s.io/v1": true, "events.k8s.io/v1": true,
}

func servedNow(gvk schema.GroupVersionKind) bool {
	gone := gvk.Kind == "PodSecurityPolicy" || gvk.Kind == "Ingress" && gvk.Group != "networking.k8s.io"
	return current[gvk.GroupVersion().String()] && !gone
}

// outcome is what the expected files hold for one object.
type outcome struct {
	Object any      `json:"object,omitempty"`
	Notes  []string `json:"notes,omitempty"`
	Error  string   `json:"error,omitempty"`
}

func decodeAll(t *testing.T, path string) []map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for _, part := range strings.Split(string(data), "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(part))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fromJSON(t, raw))
	}
	return out
}

func fromJSON(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var content map[string]any
	if err := decoder.Decode(&content); err != nil {
		t.Fatal(err)
	}
	return content
}

func TestObjectsBecomeWhatIsServed(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(inputs) < 8 {
		t.Fatalf("%v, %v", inputs, err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			var got []outcome
			for _, content := range decodeAll(t, input) {
				from := kindOf(content)
				notes, err := Object(content, servedNow)
				if err != nil {
					var refused *Error
					if !errors.As(err, &refused) || refused.Reason == "" {
						t.Errorf("%s: %v is no reason", from, err)
					}
					got = append(got, outcome{Error: err.Error()})
					continue
				}
				fits(t, content)
				got = append(got, outcome{Object: content, Notes: notes})
			}
			text, err := yaml.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(input, ".yaml") + ".expected"
			if *update {
				if err := os.WriteFile(golden, text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, text) {
				t.Errorf("got\n%s\nwant\n%s", text, want)
			}
		})
	}
}

// fits checks that a converted object has no field that its new version does
// not have, and that it is served.
func fits(t *testing.T, content map[string]any) {
	t.Helper()
	gvk := kindOf(content)
	if !servedNow(gvk) {
		t.Errorf("%s is not served", gvk)
	}
	typed, err := legacyscheme.Scheme.New(gvk)
	if err != nil {
		return // of an API that the scheme does not have
	}
	raw, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	strict, err := kjson.UnmarshalStrict(raw, typed)
	if err != nil || len(strict) > 0 {
		t.Errorf("%s: %v, %v", gvk, err, strict)
	}
}

func TestWhatIsServedIsLeftAlone(t *testing.T) {
	content := fromJSON(t, []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","ownerReferences":[{"apiVersion":"extensions/v1beta1","kind":"Deployment","name":"b"},{"apiVersion":"x.example.org/v1","kind":"Gauge","name":"g"}]},"spec":{"n":9007199254740993,"f":1.0}}`))
	if _, err := Object(content, servedNow); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"f":1.0`, `9007199254740993`, `{"apiVersion":"apps/v1","kind":"Deployment","name":"b"}`, `"x.example.org/v1"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is lost in %s", want, raw)
		}
	}
}

// A target that is older than the source gets the versions that it has, where
// the shape is the same.
func TestTheServedVersionIsChosen(t *testing.T) {
	only := func(versions ...string) Served {
		return func(gvk schema.GroupVersionKind) bool {
			for _, v := range versions {
				if gvk.GroupVersion().String() == v {
					return true
				}
			}
			return false
		}
	}
	for _, c := range []struct {
		from, kind string
		served     Served
		want       string
	}{
		{"batch/v1", "CronJob", only("batch/v1beta1"), "batch/v1beta1"},
		{"autoscaling/v2beta1", "HorizontalPodAutoscaler", only("autoscaling/v2beta2"), "autoscaling/v2beta2"},
		{"flowcontrol.apiserver.k8s.io/v1alpha1", "FlowSchema", only("flowcontrol.apiserver.k8s.io/v1beta3", "flowcontrol.apiserver.k8s.io/v1beta2"), "flowcontrol.apiserver.k8s.io/v1beta3"},
		{"traefik.containo.us/v1alpha1", "Middleware", only("traefik.io/v1alpha1"), "traefik.io/v1alpha1"},
		{"gateway.networking.k8s.io/v1beta1", "HTTPRoute", only("gateway.networking.k8s.io/v1"), "gateway.networking.k8s.io/v1"},
		{"networking.k8s.io/v1beta1", "Ingress", only("apps/v1"), ""},
		{"measures.example.org/v1", "Gauge", only("measures.example.org/v2"), ""},
	} {
		got, err := Target(gvk(c.from, c.kind), c.served)
		if (err != nil) != (c.want == "") || c.want != "" && got.GroupVersion().String() != c.want {
			t.Errorf("%s %s became %s, %v; want %s", c.from, c.kind, got, err, c.want)
		}
	}
}
