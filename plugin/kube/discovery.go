package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Kind is one kind of object, at one version, as the server serves it.
type Kind struct {
	GVK          schema.GroupVersionKind
	Resource     string // plural, lower case
	Namespaced   bool
	Verbs        []string
	Subresources []string // status, scale, exec ...
	ShortNames   []string
	Categories   []string
}

// String names a kind as kubectl does: deployments.apps.
func (k Kind) String() string {
	if k.GVK.Group == "" {
		return k.Resource
	}
	return k.Resource + "." + k.GVK.Group
}

// Can says whether the server offers a verb for the kind at all.
func (k Kind) Can(verb string) bool { return slices.Contains(k.Verbs, verb) }

// Has says whether the kind has a subresource.
func (k Kind) Has(subresource string) bool { return slices.Contains(k.Subresources, subresource) }

// Kinds that are needed before discovery, or without it.
var (
	namespaces  = Kind{GVK: schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, Resource: "namespaces"}
	pods        = Kind{GVK: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, Resource: "pods", Namespaced: true}
	apiServices = Kind{GVK: schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"}, Resource: "apiservices"}
)

// views are resources that show the objects of another group a second time,
// with the same UIDs. The second view counts only where the first is missing.
var views = map[schema.GroupResource]schema.GroupResource{
	{Group: "events.k8s.io", Resource: "events"}:                           {Resource: "events"},
	{Group: "extensions", Resource: "ingresses"}:                           {Group: "networking.k8s.io", Resource: "ingresses"},
	{Group: "extensions", Resource: "networkpolicies"}:                     {Group: "networking.k8s.io", Resource: "networkpolicies"},
	{Group: "extensions", Resource: "deployments"}:                         {Group: "apps", Resource: "deployments"},
	{Group: "extensions", Resource: "daemonsets"}:                          {Group: "apps", Resource: "daemonsets"},
	{Group: "extensions", Resource: "replicasets"}:                         {Group: "apps", Resource: "replicasets"},
	{Group: "project.openshift.io", Resource: "projects"}:                  {Resource: "namespaces"},
	{Group: "authorization.openshift.io", Resource: "roles"}:               {Group: "rbac.authorization.k8s.io", Resource: "roles"},
	{Group: "authorization.openshift.io", Resource: "rolebindings"}:        {Group: "rbac.authorization.k8s.io", Resource: "rolebindings"},
	{Group: "authorization.openshift.io", Resource: "clusterroles"}:        {Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
	{Group: "authorization.openshift.io", Resource: "clusterrolebindings"}: {Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
}

// served is one reading of what the server serves.
type served struct {
	all       map[schema.GroupVersionKind]Kind
	preferred []Kind // one version per kind, sorted
	unread    []v1alpha1.UnreadKind
}

// NotServedError says that the cluster does not know a kind at that version.
type NotServedError struct {
	GVK    schema.GroupVersionKind
	Served []string // the versions at which it knows the kind
	Reason string   // why its group could not be read, where that is the cause
}

func (e *NotServedError) Error() string {
	name := e.GVK.GroupVersion().String() + " " + e.GVK.Kind
	switch {
	case len(e.Served) > 0:
		return fmt.Sprintf("%s is not served here (served: %s)", name, strings.Join(e.Served, ", "))
	case e.Reason != "":
		return fmt.Sprintf("%s is not known here: %s", name, e.Reason)
	default:
		return fmt.Sprintf("%s is not served here (is its CustomResourceDefinition missing?)", name)
	}
}

// Kinds lists every kind that the server serves, each at one version, the
// preferred one, sorted by group and kind. Objects that two groups serve are
// listed once. A group version that could not be read is no error here: it is
// in the second list, with the reason.
//
// The answer is remembered: see Refresh.
func (c *Cluster) Kinds(ctx context.Context) ([]Kind, []v1alpha1.UnreadKind, error) {
	s, err := c.known(ctx)
	if err != nil {
		return nil, nil, err
	}
	return slices.Clone(s.preferred), slices.Clone(s.unread), nil
}

// FindKind finds a kind at a version, preferred or not. Without a version it is
// the preferred one. The error is a *NotServedError where the server answered.
func (c *Cluster) FindKind(ctx context.Context, group, version, kind string) (Kind, error) {
	s, err := c.known(ctx)
	if err != nil {
		return Kind{}, err
	}
	gvk := schema.GroupVersionKind{Group: group, Version: version, Kind: kind}
	if k, ok := s.all[gvk]; ok {
		return k, nil
	}
	missing := &NotServedError{GVK: gvk}
	if version == "" {
		for _, k := range s.preferred {
			if k.GVK.Group == group && k.GVK.Kind == kind {
				return k, nil
			}
		}
		// A second view is in nobody's preferred list, and can be asked for.
		missing.GVK.Version = "any version"
	}
	for other := range s.all {
		if other.Group == group && other.Kind == kind {
			if version == "" {
				return s.all[other], nil
			}
			missing.Served = append(missing.Served, other.Version)
		}
	}
	sort.Strings(missing.Served)
	for _, u := range s.unread {
		if u.Group == group && (version == "" || u.Version == version) {
			missing.Reason = u.Reason
		}
	}
	return Kind{}, missing
}

// FindResource finds a kind by its plural name, at a version or, without one,
// at the preferred version.
func (c *Cluster) FindResource(ctx context.Context, group, version, resource string) (Kind, error) {
	s, err := c.known(ctx)
	if err != nil {
		return Kind{}, err
	}
	for _, k := range s.preferred {
		if k.GVK.Group == group && k.Resource == resource && (version == "" || k.GVK.Version == version) {
			return k, nil
		}
	}
	for _, k := range s.all {
		if k.GVK.Group == group && k.Resource == resource && (version == "" || k.GVK.Version == version) {
			return k, nil
		}
	}
	return Kind{}, fmt.Errorf("resource %s is not served here", schema.GroupVersionResource{Group: group, Version: version, Resource: resource}.GroupResource())
}

// WaitKind reads discovery again and again until the kind is served: a new
// CustomResourceDefinition takes a moment to show.
func (c *Cluster) WaitKind(ctx context.Context, group, version, kind string) (Kind, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		k, err := c.FindKind(ctx, group, version, kind)
		if err == nil {
			return k, nil
		}
		if ended := sleep(ctx, wait); ended != nil {
			return Kind{}, fmt.Errorf("wait for %s %s: %w (%w)", schema.GroupVersion{Group: group, Version: version}, kind, ended, err)
		}
		if err := c.Refresh(ctx); err != nil {
			return Kind{}, err
		}
	}
}

func (c *Cluster) known(ctx context.Context) (*served, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.served == nil {
		s, err := c.discover(ctx)
		if err != nil {
			return nil, err
		}
		c.served = s
	}
	return c.served, nil
}

// Refresh reads what is served anew. Kinds come and go with their
// CustomResourceDefinitions.
func (c *Cluster) Refresh(ctx context.Context) error {
	s, err := c.discover(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.served = s
	c.mu.Unlock()
	return nil
}

// discover asks for everything at once (aggregated discovery), or group by
// group where the server is too old for that.
func (c *Cluster) discover(ctx context.Context) (*served, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, c.stall, errStalled)
	defer cancel()
	groups, lists, err := c.discovery.ServerGroupsAndResourcesWithContext(bounded)
	failed, partial := discovery.GroupDiscoveryFailedErrorGroups(err)
	if err != nil && !partial {
		if cause := context.Cause(bounded); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("ask %s what it serves: %w (is it up, and is this the right context?)", c.server(), err)
	}
	s := &served{all: map[schema.GroupVersionKind]Kind{}}
	byVersion := map[string][]Kind{}
	for _, list := range lists {
		for _, k := range kindsOf(list) {
			byVersion[list.GroupVersion] = append(byVersion[list.GroupVersion], k)
			s.all[k.GVK] = k
		}
	}
	s.preferred = prefer(groups, byVersion)
	for gv, why := range failed {
		s.unread = append(s.unread, v1alpha1.UnreadKind{Group: gv.Group, Version: gv.Version, Reason: c.whyUnread(ctx, gv, why)})
	}
	sort.Slice(s.unread, func(i, j int) bool {
		a, b := s.unread[i], s.unread[j]
		return a.Group < b.Group || a.Group == b.Group && a.Version < b.Version
	})
	return s, nil
}

// kindsOf folds the subresources of a list into their resources.
func kindsOf(list *metav1.APIResourceList) []Kind {
	gv, err := schema.ParseGroupVersion(list.GroupVersion)
	if err != nil {
		return nil
	}
	var kinds []Kind
	index := map[string]int{}
	for _, r := range list.APIResources {
		if r.Kind == "" || strings.Contains(r.Name, "/") {
			continue
		}
		index[r.Name] = len(kinds)
		kinds = append(kinds, Kind{
			GVK: gv.WithKind(r.Kind), Resource: r.Name, Namespaced: r.Namespaced,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		})
	}
	for _, r := range list.APIResources {
		if parent, sub, ok := strings.Cut(r.Name, "/"); ok {
			if i, ok := index[parent]; ok {
				kinds[i].Subresources = append(kinds[i].Subresources, sub)
			}
		}
	}
	return kinds
}

// prefer takes one version of each kind: that of the group's preferred version,
// and else of the first version that has it, in the server's order.
func prefer(groups []*metav1.APIGroup, byVersion map[string][]Kind) []Kind {
	chosen := map[schema.GroupResource]Kind{}
	for _, g := range groups {
		versions := []string{g.PreferredVersion.GroupVersion}
		for _, v := range g.Versions {
			versions = append(versions, v.GroupVersion)
		}
		for _, v := range versions {
			for _, k := range byVersion[v] {
				at := schema.GroupResource{Group: k.GVK.Group, Resource: k.Resource}
				if _, ok := chosen[at]; !ok {
					chosen[at] = k
				}
			}
		}
	}
	var kinds []Kind
	for at, k := range chosen {
		if first, ok := views[at]; ok {
			if _, ok := chosen[first]; ok {
				continue
			}
		}
		kinds = append(kinds, k)
	}
	sort.Slice(kinds, func(i, j int) bool {
		a, b := kinds[i], kinds[j]
		if a.GVK.Group != b.GVK.Group {
			return a.GVK.Group < b.GVK.Group
		}
		if a.GVK.Kind != b.GVK.Kind {
			return a.GVK.Kind < b.GVK.Kind
		}
		return a.Resource < b.Resource
	})
	return kinds
}

// whyUnread gives a reason that is true and that is the same at each asking,
// so that a plan made twice is the same plan. The registration of the group
// knows more than discovery says.
func (c *Cluster) whyUnread(ctx context.Context, gv schema.GroupVersion, why error) string {
	name := gv.Version + "." + gv.Group
	reason := "its discovery failed"
	if errors.As(why, new(discovery.StaleGroupVersionError)) {
		reason = "its API server does not answer (discovery is stale)"
	}
	body, err := c.read(ctx, request{verb: "get", method: http.MethodGet, kind: apiServices, name: name})
	if err != nil {
		return reason
	}
	if condition, ok := conditionOf(body, "Available"); ok && condition.Status != "True" && condition.Reason != "" {
		return fmt.Sprintf("its API server does not answer: APIService %s is not available: %s", name, condition.Reason)
	}
	return reason
}
