package kube

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// group describes one group of a fake server: its versions in the server's
// order, each with resource=Kind words; a version that is "!" is stale.
type group struct {
	name     string
	versions []string
	has      map[string][]string
	down     map[string]bool
}

var manyGroups = []group{
	{name: "", versions: []string{"v1"}, has: map[string][]string{"v1": {"pods=Pod", "pods/exec=PodExecOptions", "pods/status=Pod", "events=Event", "bindings=Binding"}}},
	{name: "apps", versions: []string{"v1"}, has: map[string][]string{"v1": {"deployments=Deployment", "deployments/scale=Scale", "deployments/status=Deployment"}}},
	{name: "autoscaling", versions: []string{"v2", "v1"}, has: map[string][]string{"v2": {"horizontalpodautoscalers=HorizontalPodAutoscaler"}, "v1": {"horizontalpodautoscalers=HorizontalPodAutoscaler", "oldthings=OldThing"}}},
	{name: "extensions", versions: []string{"v1beta1"}, has: map[string][]string{"v1beta1": {"ingresses=Ingress", "deployments=Deployment", "replicasets=ReplicaSet"}}},
	{name: "networking.k8s.io", versions: []string{"v1"}, has: map[string][]string{"v1": {"ingresses=Ingress"}}},
	{name: "events.k8s.io", versions: []string{"v1"}, has: map[string][]string{"v1": {"events=Event"}}},
	{name: "tide.example", versions: []string{"v2", "v1"}, has: map[string][]string{"v1": {"waves=Wave"}}, down: map[string]bool{"v2": true}},
	{name: "dead.example", versions: []string{"v1"}, down: map[string]bool{"v1": true}},
}

func resources(words []string) []metav1.APIResource {
	var all []metav1.APIResource
	for _, w := range words {
		name, kind, _ := strings.Cut(w, "=")
		all = append(all, metav1.APIResource{Name: name, Kind: kind, Namespaced: true, Verbs: metav1.Verbs{"get", "list", "create"}})
	}
	return all
}

// serve answers discovery in the aggregated form or in the older one, where a
// group that is down answers 503.
func serve(groups []group, aggregated bool, extra http.HandlerFunc) http.Handler {
	send := func(w http.ResponseWriter, kind string, v any) {
		w.Header().Set("Content-Type", kind)
		json.NewEncoder(w).Encode(v)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.Trim(r.URL.Path, "/")
		switch {
		case aggregated && (path == "api" || path == "apis"):
			var list apidiscovery.APIGroupDiscoveryList
			for _, g := range groups {
				if (g.name == "") != (path == "api") {
					continue
				}
				item := apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
				for _, v := range g.versions {
					version := apidiscovery.APIVersionDiscovery{Version: v, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
					if g.down[v] {
						version.Freshness = apidiscovery.DiscoveryFreshnessStale
					}
					for _, res := range resources(g.has[v]) {
						responseKind := &metav1.GroupVersionKind{Group: g.name, Version: v, Kind: res.Kind}
						if parent, sub, ok := strings.Cut(res.Name, "/"); ok {
							for i := range version.Resources {
								if version.Resources[i].Resource == parent {
									version.Resources[i].Subresources = append(version.Resources[i].Subresources, apidiscovery.APISubresourceDiscovery{Subresource: sub, ResponseKind: responseKind})
								}
							}
							continue
						}
						version.Resources = append(version.Resources, apidiscovery.APIResourceDiscovery{
							Resource: res.Name, ResponseKind: responseKind, Scope: apidiscovery.ScopeNamespace, Verbs: res.Verbs,
						})
					}
					item.Versions = append(item.Versions, version)
				}
				list.Items = append(list.Items, item)
			}
			send(w, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", list)
		case path == "api":
			send(w, "application/json", metav1.APIVersions{Versions: []string{"v1"}})
		case path == "apis":
			var list metav1.APIGroupList
			for _, g := range groups {
				if g.name == "" {
					continue
				}
				item := metav1.APIGroup{Name: g.name}
				for _, v := range g.versions {
					item.Versions = append(item.Versions, metav1.GroupVersionForDiscovery{GroupVersion: g.name + "/" + v, Version: v})
				}
				item.PreferredVersion = item.Versions[0]
				list.Groups = append(list.Groups, item)
			}
			send(w, "application/json", list)
		default:
			for _, g := range groups {
				for _, v := range g.versions {
					at := "apis/" + g.name + "/" + v
					if g.name == "" {
						at = "api/" + v
					}
					if path != at {
						continue
					}
					if g.down[v] {
						refuse(w, 503, metav1.StatusReasonServiceUnavailable, "no endpoints", "")
						return
					}
					send(w, "application/json", metav1.APIResourceList{GroupVersion: strings.Trim(g.name+"/"+v, "/"), APIResources: resources(g.has[v])})
					return
				}
			}
			extra(w, r)
		}
	})
}

func TestKindsOncePerObjectAndTheDeadByName(t *testing.T) {
	for name, aggregated := range map[string]bool{"aggregated": true, "older": false} {
		t.Run(name, func(t *testing.T) {
			c := against(t, serve(manyGroups, aggregated, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/apiservices/v1.dead.example") {
					json.NewEncoder(w).Encode(map[string]any{"status": map[string]any{"conditions": []map[string]string{{"type": "Available", "status": "False", "reason": "MissingEndpoints", "message": "at 10.0.0.1:51234"}}}})
					return
				}
				refuse(w, 404, metav1.StatusReasonNotFound, "no", "")
			}))
			kinds, unread, err := c.Kinds(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, k := range kinds {
				got = append(got, k.GVK.GroupVersion().String()+" "+k.Resource)
			}
			want := []string{"v1 bindings", "v1 events", "v1 pods", "apps/v1 deployments", "autoscaling/v2 horizontalpodautoscalers", "autoscaling/v1 oldthings",
				"extensions/v1beta1 replicasets", "networking.k8s.io/v1 ingresses", "tide.example/v1 waves"}
			if strings.Join(got, ",") != strings.Join(want, ",") {
				t.Errorf("kinds\n%v, want\n%v", got, want)
			}
			if len(unread) != 2 || unread[0].Group != "dead.example" || unread[1].Group != "tide.example" || unread[1].Version != "v2" {
				t.Fatalf("unread %+v", unread)
			}
			if !strings.Contains(unread[0].Reason, "MissingEndpoints") || strings.Contains(unread[0].Reason, "51234") || unread[1].Reason == "" {
				t.Errorf("reasons %q, %q: they must be true, and the same each time", unread[0].Reason, unread[1].Reason)
			}
			pod, err := c.FindKind(t.Context(), "", "", "Pod")
			if err != nil || !pod.Has("exec") || !pod.Has("status") || pod.Has("scale") || !pod.Can("list") || pod.Can("watch") {
				t.Errorf("%+v, %v", pod, err)
			}
		})
	}
}

func TestFindKindAtAnyServedVersion(t *testing.T) {
	c := against(t, serve(manyGroups, true, http.NotFound))
	ctx := t.Context()
	if k, err := c.FindKind(ctx, "autoscaling", "v1", "HorizontalPodAutoscaler"); err != nil || k.GVK.Version != "v1" {
		t.Errorf("%v, %v", k, err)
	}
	if k, err := c.FindKind(ctx, "autoscaling", "", "HorizontalPodAutoscaler"); err != nil || k.GVK.Version != "v2" {
		t.Errorf("%v, %v", k, err)
	}
	if k, err := c.FindResource(ctx, "events.k8s.io", "", "events"); err != nil || k.GVK.Kind != "Event" {
		t.Errorf("%v, %v", k, err)
	}
	for _, x := range []struct{ group, version, kind, says string }{
		{"autoscaling", "v2beta2", "HorizontalPodAutoscaler", "served: v1, v2"},
		{"nowhere.example", "v1", "Ghost", "CustomResourceDefinition"},
		{"dead.example", "v1", "Ghost", "does not answer"},
	} {
		_, err := c.FindKind(ctx, x.group, x.version, x.kind)
		var missing *NotServedError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%v, want %q", err, x.says)
		}
	}
}

func TestKindsThatAppearLater(t *testing.T) {
	var asked atomic.Int32
	early, late := serve(manyGroups[:1], true, http.NotFound), serve(append(manyGroups[:1:1], group{name: "new.example", versions: []string{"v1"}, has: map[string][]string{"v1": {"buds=Bud"}}}), true, http.NotFound)
	c := against(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 6 {
			late.ServeHTTP(w, r)
			return
		}
		early.ServeHTTP(w, r)
	}))
	c.stall = 10 * time.Second
	if _, err := c.FindKind(t.Context(), "new.example", "v1", "Bud"); err == nil {
		t.Fatal("found too early")
	}
	before := asked.Load()
	if _, err := c.FindKind(t.Context(), "new.example", "v1", "Bud"); err == nil || asked.Load() != before {
		t.Fatal("each miss asked the server again")
	}
	if k, err := c.WaitKind(t.Context(), "new.example", "v1", "Bud"); err != nil || k.Resource != "buds" {
		t.Fatalf("%v, %v", k, err)
	}
}
