package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// listers is how many kinds are listed at once, getters how many single
	// objects are fetched at once.
	listers = 6
	getters = 12
	// rounds bounds the search for dependencies of dependencies.
	rounds = 32
)

// structural are the kinds that can relate to a selected object without being
// named by it: through a label selector, a subject, an owner reference or a
// claim. They have to be listed; every other kind is fetched by name when
// something refers to it, which spares both time and rights.
var structural = map[schema.GroupKind]bool{
	{Kind: "Namespace"}: true, {Kind: "Pod"}: true, {Kind: "Service"}: true, {Kind: "PersistentVolumeClaim"}: true,
	{Kind: "ReplicationController"}:                                                 true,
	{Group: "apps", Kind: "Deployment"}:                                             true,
	{Group: "apps", Kind: "StatefulSet"}:                                            true,
	{Group: "apps", Kind: "DaemonSet"}:                                              true,
	{Group: "apps", Kind: "ReplicaSet"}:                                             true,
	{Group: "batch", Kind: "Job"}:                                                   true,
	{Group: "batch", Kind: "CronJob"}:                                               true,
	{Group: "policy", Kind: "PodDisruptionBudget"}:                                  true,
	{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}:                         true,
	{Group: "networking.k8s.io", Kind: "Ingress"}:                                   true,
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:                             true,
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:                       true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:                true,
	{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute"}:                         true,
	{Group: "gateway.networking.k8s.io", Kind: "GRPCRoute"}:                         true,
	{Group: "gateway.networking.k8s.io", Kind: "TLSRoute"}:                          true,
	{Group: "gateway.networking.k8s.io", Kind: "TCPRoute"}:                          true,
	{Group: "gateway.networking.k8s.io", Kind: "UDPRoute"}:                          true,
	{Group: "gateway.networking.k8s.io", Kind: "BackendTLSPolicy"}:                  true,
	{Group: "gateway.networking.k8s.io", Kind: "ReferenceGrant"}:                    true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}: true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:   true,
}

// inventory is what one pass over the cluster leaves: small facts per object,
// never their contents.
type inventory struct {
	r       Request
	sel     *selector.Selector
	recipes []*v1alpha1.BackupRecipe // of the hooks
	builder *graph.Builder
	kinds   map[schema.GroupKind]kube.Kind
	listed  map[schema.GroupKind]bool

	mu         sync.Mutex
	namespaces map[string]*object.Object
	marks      []mark // by the builder's numbers
	warned     map[v1alpha1.Ref][]string
	matched    map[string]int
	undecided  []v1alpha1.ObjectLine
	absent     map[v1alpha1.Ref]string // referred to, and why it is not here
	made       map[v1alpha1.Ref]string // not selected, and made by the cluster itself
	unread     []v1alpha1.UnreadKind
	denied     []error // kinds that the policy names and that may not be listed
	warnings   []string
	pods       map[v1alpha1.Ref]*pod
	claims     map[v1alpha1.Ref]*claim
	disks      map[string]*disk      // PersistentVolumes by name
	byHand     map[v1alpha1.Ref]bool // Services without a selector
	classes    snapshotClasses
	partial    bool

	noSnapshot       map[volumeKey]string // why not
	wantedGroupClass map[volumeKey]string // by the rule that decided
}

// mark is what is remembered of every object. It is small, since all of them
// are in memory.
type mark struct {
	entry    string // that selected it
	selected bool
	kept     bool // handed over, or about to be
}

// mark is for an object that the builder has; inv.mu is held.
func (inv *inventory) mark(key v1alpha1.Ref) *mark {
	n, ok := inv.builder.Number(key)
	if !ok {
		return &mark{}
	}
	if n >= len(inv.marks) {
		inv.marks = append(inv.marks, make([]mark, n+1-len(inv.marks))...)
	}
	return &inv.marks[n]
}

// selected are the objects that an entry of the policy selects.
func (inv *inventory) selected() []v1alpha1.Ref {
	var refs []v1alpha1.Ref
	for n, m := range inv.marks {
		if m.selected {
			refs = append(refs, inv.builder.Ref(n))
		}
	}
	return refs
}

func newInventory(r Request, sel *selector.Selector) *inventory {
	return &inventory{
		r: r, sel: sel,
		builder:    graph.NewBuilder(graph.Options{DeclaredEdges: r.Policy.Spec.Grouping.Edges}),
		kinds:      map[schema.GroupKind]kube.Kind{},
		listed:     map[schema.GroupKind]bool{},
		namespaces: map[string]*object.Object{},
		warned:     map[v1alpha1.Ref][]string{},
		matched:    map[string]int{},
		absent:     map[v1alpha1.Ref]string{},
		made:       map[v1alpha1.Ref]string{},
		pods:       map[v1alpha1.Ref]*pod{},
		claims:     map[v1alpha1.Ref]*claim{},
		disks:      map[string]*disk{},
		byHand:     map[v1alpha1.Ref]bool{},

		noSnapshot:       map[volumeKey]string{},
		wantedGroupClass: map[volumeKey]string{},
	}
}

// read lists the kinds that matter, several at once.
func (inv *inventory) read(ctx context.Context) error {
	kinds, unread, err := inv.r.Cluster.Kinds(ctx)
	if err != nil {
		return fmt.Errorf("discover kinds: %w", err)
	}
	for _, k := range kinds {
		inv.kinds[k.GVK.GroupKind()] = k
	}
	for _, u := range unread {
		if inv.excludesGroup(u.Group) {
			continue
		}
		if inv.namesGroup(u.Group) {
			return fmt.Errorf("policy %s selects from the API group %s/%s, which cannot be read: %s\nhint: mend it, or leave it out with exclude: [{kinds: [\"*.%s\"]}]",
				PolicyName(inv.r.Policy), u.Group, u.Version, u.Reason, u.Group)
		}
		inv.unread = append(inv.unread, u)
		inv.partial = inv.partial || inv.selectsEveryKind()
	}
	inv.warnOfKinds()
	if err := inv.readNamespaces(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(listers)
	for gk, k := range inv.kinds {
		if gk == (schema.GroupKind{Kind: "Namespace"}) || !k.Can("list") {
			continue
		}
		wanted, labels := inv.sel.Query(gk.Group, gk.Kind)
		needed := structural[gk] && inv.r.Policy.Spec.Dependencies != "Ignore" || gk.Kind == "Pod" && gk.Group == "" || gk.Kind == "PersistentVolumeClaim"
		if !wanted && !needed {
			continue
		}
		if inv.r.Policy.Namespace != "" && !k.Namespaced {
			continue // fetched by name when something refers to it
		}
		if needed {
			labels = "" // it may relate to what is selected whatever its labels
		}
		if labels == "" {
			inv.listed[gk] = true
		}
		group.Go(func() error { return inv.list(ctx, k, labels, wanted || needed) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return inv.refused()
}

// refused is an error where a kind that the policy asks for by name may not be
// read: all of them, in an order that is always the same.
func (inv *inventory) refused() error {
	slices.SortFunc(inv.denied, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if err := errors.Join(inv.denied...); err != nil {
		return fmt.Errorf("policy %s selects what may not be read: %w", PolicyName(inv.r.Policy), err)
	}
	return nil
}

// warnOfKinds names the kinds that the policy asks for and that this cluster
// does not serve: misspelt, or not installed here.
func (inv *inventory) warnOfKinds() {
	var served []string
	for gk := range inv.kinds {
		served = append(served, gk.Kind)
	}
	slices.Sort(served)
	for i, e := range inv.r.Policy.Spec.Select {
		if e.Optional {
			continue
		}
		for _, name := range e.Kinds {
			kind, group, qualified := strings.Cut(name, ".")
			if group == v1alpha1.CoreGroup {
				group = ""
			}
			found, elsewhere := kind == "*", false
			for gk := range inv.kinds {
				elsewhere = elsewhere || gk.Kind == kind
				found = found || gk.Kind == kind && (!qualified || gk.Group == group)
			}
			if found {
				continue
			}
			hint := ""
			if elsewhere {
				hint = fmt.Sprintf("; it serves %s in another API group", kind)
			} else if near := v1alpha1.Nearest(kind, served); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			inv.warn("select entry %q: this cluster serves no kind %s%s", entryName(e, i), name, hint)
		}
	}
}

// entryName is what reports call an entry of select.
func entryName(e v1alpha1.SelectEntry, index int) string {
	return cmp.Or(e.Name, fmt.Sprintf("select[%d]", index))
}

// readNamespaces comes first, since expressions look at an object's namespace.
func (inv *inventory) readNamespaces(ctx context.Context) error {
	k, ok := inv.kinds[schema.GroupKind{Kind: "Namespace"}]
	if !ok {
		return errors.New("the server does not serve namespaces")
	}
	if ns := inv.r.Policy.Namespace; ns != "" {
		o, err := inv.r.Cluster.Get(ctx, k, "", ns)
		switch {
		case apierrors.IsForbidden(err):
			inv.warnings = append(inv.warnings, fmt.Sprintf("namespace %s cannot be read, so it is not saved and namespaceObject is null: %v", ns, err))
			return nil
		case apierrors.IsNotFound(err):
			return fmt.Errorf("policy %s: namespace %s does not exist in this cluster", PolicyName(inv.r.Policy), ns)
		case err != nil:
			return err
		}
		return inv.visit(ctx, o)
	}
	inv.listed[k.GVK.GroupKind()] = true
	return inv.list(ctx, k, "", true)
}

// list reads one kind. needed says that the plan lacks something where it may
// not be read.
func (inv *inventory) list(ctx context.Context, k kube.Kind, labels string, needed bool) error {
	return inv.each(ctx, k, kube.ListOptions{Namespace: inv.scope(k), LabelSelector: labels}, needed, func(o *object.Object) error {
		return inv.visit(ctx, o)
	})
}

// each is list, with whatever options and for whatever purpose.
func (inv *inventory) each(ctx context.Context, k kube.Kind, options kube.ListOptions, needed bool, visit func(*object.Object) error) error {
	result, err := inv.r.Cluster.List(ctx, k, options, visit)
	if err == nil {
		if !result.Consistent {
			inv.warn("the list of %s was not a snapshot: its continue token expired, so an object that changed meanwhile may be missing or old", k.GVK.GroupKind())
		}
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if apierrors.IsForbidden(err) && inv.sel.Names(k.GVK.Group, k.GVK.Kind) {
		inv.denied = append(inv.denied, err)
		return nil
	}
	if !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) && !apierrors.IsServiceUnavailable(err) && !apierrors.IsResourceExpired(err) {
		return fmt.Errorf("list %s: %w", k.GVK.GroupKind(), err)
	}
	inv.unread = append(inv.unread, v1alpha1.UnreadKind{Group: k.GVK.Group, Version: k.GVK.Version, Kind: k.GVK.Kind, Reason: err.Error()})
	inv.partial = inv.partial || needed
	return nil
}

// scope is the namespace that a list is limited to.
func (inv *inventory) scope(k kube.Kind) string {
	if k.Namespaced {
		return inv.r.Policy.Namespace
	}
	return ""
}

// visit takes in one object from a list.
func (inv *inventory) visit(ctx context.Context, o *object.Object) error {
	key := o.Ref.Key()
	if key.Kind == "Namespace" && key.Group == "" {
		inv.mu.Lock()
		inv.namespaces[o.Ref.Name] = o
		inv.mu.Unlock()
	}
	decision := inv.sel.Select(ctx, o, inv.namespaceOf(o))
	keep := decision.Selected // with an error too, where the policy includes what fails
	if err := inv.remember(ctx, o); err != nil {
		return err
	}
	inv.mu.Lock()
	switch {
	case keep:
		*inv.mark(key) = mark{entry: decision.Entry, selected: true, kept: true}
		for _, name := range decision.Entries {
			inv.matched[name]++
		}
		if decision.Err != nil {
			inv.warned[key] = append(inv.warned[key], decision.Err.Error())
		}
	case decision.Err != nil:
		inv.undecided = append(inv.undecided, v1alpha1.ObjectLine{Ref: o.Ref, Outcome: v1alpha1.OutcomeUndecided, Reason: decision.Err.Error()})
	}
	inv.mu.Unlock()
	if !keep {
		inv.noteMade(o)
	} else if inv.r.Keep != nil {
		return inv.r.Keep(ctx, o)
	}
	return nil
}

// noteMade remembers an object that nobody selected and that the cluster made
// by itself: it is not saved even where something refers to it. What a
// controller owns is not meant: that is left to its owner by name.
func (inv *inventory) noteMade(o *object.Object) bool {
	reason, made := object.MadeByCluster(o)
	if _, owned := o.Controller(); !made || owned {
		return false
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.made[o.Ref.Key()] = reason
	return true
}

// remember notes what later steps need to know of an object: its references,
// and for pods, claims and their volumes what they are.
func (inv *inventory) remember(ctx context.Context, o *object.Object) error {
	var p *pod
	var c *claim
	var d *disk
	var bare bool
	var err error
	if o.Ref.Group == "" {
		switch o.Ref.Kind {
		case "Pod":
			if p, err = readPod(o); err == nil {
				p.hooks = inv.matchHooks(ctx, o)
			}
		case "PersistentVolumeClaim":
			c, err = readClaim(o)
		case "PersistentVolume":
			d, err = readDisk(o)
		case "Service":
			bare, err = selectsNothing(o)
		}
	}
	if err != nil {
		return err
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	switch {
	case p != nil:
		inv.pods[o.Ref.Key()] = p
	case c != nil:
		inv.claims[o.Ref.Key()] = c
	case d != nil:
		inv.disks[o.Ref.Name] = d
	case bare:
		inv.byHand[o.Ref.Key()] = true
	}
	err = inv.builder.Add(o)
	if p != nil || c != nil || d != nil {
		o.Release()
	}
	return err
}

func (inv *inventory) namespaceOf(o *object.Object) *object.Object {
	if o.Ref.Namespace == "" {
		return nil
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.namespaces[o.Ref.Namespace]
}

func (inv *inventory) warn(format string, args ...any) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.warnings = append(inv.warnings, fmt.Sprintf(format, args...))
}

// selectsEveryKind says whether some entry has no kinds, so that a group that
// cannot be read may hold something it selects.
func (inv *inventory) selectsEveryKind() bool {
	for _, e := range inv.r.Policy.Spec.Select {
		if len(e.Kinds) == 0 {
			return true
		}
		for _, k := range e.Kinds {
			if k == "*" {
				return true
			}
		}
	}
	return false
}

func (inv *inventory) namesGroup(group string) bool {
	return anyKind(inv.r.Policy.Spec.Select, func(k string) bool {
		_, of, qualified := strings.Cut(k, ".")
		return qualified && of == group
	})
}

func (inv *inventory) excludesGroup(group string) bool {
	for _, e := range inv.r.Policy.Spec.Exclude {
		if e.Expression == "" && e.LabelSelector == nil && len(e.Namespaces) == 0 && anyKind([]v1alpha1.SelectEntry{e}, func(k string) bool { return k == "*."+group }) {
			return true
		}
	}
	return false
}

func anyKind(entries []v1alpha1.SelectEntry, match func(string) bool) bool {
	for _, e := range entries {
		for _, k := range e.Kinds {
			if match(k) {
				return true
			}
		}
	}
	return false
}
