package graph

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// PartOfLabel joins the workloads of one namespace that carry the same value.
const PartOfLabel = "app.kubernetes.io/part-of"

// Options configure a Builder.
type Options struct {
	// DeclaredEdges are a policy's own, strong.
	DeclaredEdges []v1alpha1.DeclaredEdge
	// ExtraRows are the reference fields of custom resources.
	ExtraRows []Row
}

// Builder collects what objects refer to. Add may be called from several
// goroutines and in any order of objects.
type Builder struct {
	lookup   *Lookup
	err      error // of the extra rows, told by Build
	declared []v1alpha1.DeclaredEdge
	scanners sync.Pool

	mu sync.Mutex
	contents
}

// contents is what is kept of the objects.
type contents struct {
	names     interner
	refs      []v1alpha1.Ref
	uids      []string
	index     map[nodeKey]int32
	pending   []pending
	selectors []pendingSelector
	hosts     []pendingHost
	aliases   []pendingHost // Services of type ExternalName
	params    []pendingParam
	workloads map[int32]*workload
	roles     map[int32]map[string]string // labels of ClusterRoles
	policies  map[int32]groupKind         // the kind of an admission policy's parameters
	crds      map[groupKind]int32
	apis      map[string]int32 // group/version to its APIService, where it has a Service
}

// workload is what is kept of an object with a pod template.
type workload struct {
	pods      map[string]string // labels of its pods
	labels    map[string]string // its own
	templates []string          // a StatefulSet's claim templates
	stamped   bool              // a built-in controller makes it
}

type nodeKey struct{ kind, namespace, name uint32 }

// pending is a reference whose target may not have been seen yet.
type pending struct {
	from   int32
	to     nodeKey
	row    uint16
	flags  edgeFlags
	field  uint32
	uid    string // an owner's
	either bool   // the target may also have no namespace
}

type pendingSelector struct {
	from   int32
	row    uint16
	labels map[string]string
	match  labels.Selector
	field  uint32
}

type pendingHost struct {
	from        int32
	host, field uint32
}

type pendingParam struct {
	from                    int32
	policy, namespace, name string
	row                     uint16
	field                   uint32
}

// NewBuilder starts a graph. A mistake in the options is told by Build.
func NewBuilder(o Options) *Builder {
	b := &Builder{declared: o.DeclaredEdges, contents: contents{
		names: interner{ids: map[string]uint32{}}, index: map[nodeKey]int32{},
		workloads: map[int32]*workload{}, roles: map[int32]map[string]string{}, policies: map[int32]groupKind{},
		crds: map[groupKind]int32{}, apis: map[string]int32{},
	}}
	b.scanners.New = func() any { return new(scanner) }
	if len(o.ExtraRows) == 0 {
		b.lookup, b.err = tableLookup()
	} else {
		b.lookup, b.err = NewLookup(o.ExtraRows...)
	}
	return b
}

// findings are what one object refers to, before anything is kept of it.
type findings struct {
	refs      []foundRef
	selectors []foundSelector
	hosts     []foundHost
	param     *pendingParam
	workload  *workload
	crd       *groupKind
	policy    *groupKind
	alias     string
	api       string
}

type foundRef struct {
	to     v1alpha1.Ref
	row    int
	flags  edgeFlags
	field  string
	uid    string
	either bool
}

type foundSelector struct {
	row    int
	labels map[string]string
	match  labels.Selector
	field  string
}

type foundHost struct{ host, field string }

// Add takes in one object. It keeps its identity, labels where something may
// select it, and names; no content. An object seen before is passed over. An
// object that cannot be read is a node without edges, and an error.
func (b *Builder) Add(o *object.Object) error {
	if b.err != nil {
		return b.err
	}
	f, err := b.read(o)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep(o, f)
	return err
}

// Number is the number under which an object was added, at whatever version:
// how many were added before it.
func (b *Builder) Number(r v1alpha1.Ref) (int, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.names.find(b.index, r)
	return int(n), ok
}

// Ref is the object that was added under a number.
func (b *Builder) Ref(number int) v1alpha1.Ref {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refs[number]
}

// Len is how many objects were added.
func (b *Builder) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.refs)
}

func (b *Builder) read(o *object.Object) (*findings, error) {
	f := &findings{}
	gk := groupKind{o.Ref.Group, o.Ref.Kind}
	for _, w := range o.Owners {
		group, _ := object.SplitAPIVersion(w.APIVersion)
		// The node a static pod runs on is written as its owner.
		if group == "" && w.Kind == "Node" {
			continue
		}
		r := foundRef{to: v1alpha1.Ref{Group: group, Kind: w.Kind, Namespace: o.Ref.Namespace, Name: w.Name},
			row: rowOwner, uid: w.UID, field: "metadata.ownerReferences", either: true}
		if w.Controller {
			r.flags = flagController
		}
		f.refs = append(f.refs, r)
	}
	k := b.lookup.kinds[gk]
	if k != nil {
		b.readHeader(o, k, f)
	}
	switch gk {
	case groupKind{"", "ConfigMap"}:
		b.scanData(o.Raw, false, f)
	case groupKind{"", "Secret"}:
		b.scanData(o.Raw, true, f)
	}
	template, isWorkload := podTemplates[gk]
	if isWorkload {
		f.workload = &workload{labels: o.Labels, stamped: stampedOut(o)}
	}
	if k == nil || len(k.content.kids) == 0 || isWorkload && f.workload.stamped {
		return f, nil
	}
	content, err := o.Content()
	if err != nil {
		return f, fmt.Errorf("find references: %w", err)
	}
	err = b.readContent(o, content, k, f)
	readSpecial(gk, content, o.Ref.Namespace, f)
	if isWorkload {
		readTemplate(content, template, o.Ref.Namespace, f)
	}
	return f, err
}

// stampedOut says that a built-in controller made the object from a template
// that the graph reads by itself.
func stampedOut(o *object.Object) bool {
	c, ok := o.Controller()
	if !ok {
		return false
	}
	switch o.Ref.Kind + " " + c.Kind + " " + c.APIVersion {
	case "Pod ReplicaSet apps/v1", "Pod StatefulSet apps/v1", "Pod DaemonSet apps/v1", "Pod ReplicationController v1",
		"Pod Job batch/v1", "ReplicaSet Deployment apps/v1", "Job CronJob batch/v1":
		return true
	}
	return false
}

func (b *Builder) readHeader(o *object.Object, k *kindPaths, f *findings) {
	for _, h := range k.header {
		value, row := o.Ref.Name, &b.lookup.rows[h.row]
		switch {
		case h.annotation != "":
			value = o.Annotations[h.annotation]
		case h.label != "":
			value = o.Labels[h.label]
		}
		if to, ok := target(row, hit{value: value}, o.Ref.Namespace); ok {
			f.refs = append(f.refs, foundRef{to: to, row: h.row, field: row.Path, flags: rowFlags(row)})
		}
	}
}

func (b *Builder) scanData(raw []byte, encoded bool, f *findings) {
	s := b.scanners.Get().(*scanner)
	defer b.scanners.Put(s)
	s.eachData(raw, encoded, func(key, value []byte) {
		name := string(key)
		hostsIn(value, name, true, func(host []byte) { f.host(host, "data["+name+"]") })
	})
}

// host keeps the first place of each host.
func (f *findings) host(host []byte, field string) {
	if len(f.hosts) < 64 {
		for _, h := range f.hosts {
			if h.host == string(host) {
				return
			}
		}
	}
	f.hosts = append(f.hosts, foundHost{string(host), field})
}

func (b *Builder) readContent(o *object.Object, content map[string]any, k *kindPaths, f *findings) error {
	w := walker{visit: func(w *walker, h hit) error {
		row := &b.lookup.rows[h.row]
		if row.Match != ByName {
			s, err := readSelector(row, h)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", o.Ref, w.path(), err)
			}
			if s != nil {
				s.row, s.field = h.row, w.path()
				f.selectors = append(f.selectors, *s)
			}
			return nil
		}
		to, ok := target(row, h, o.Ref.Namespace)
		if !ok {
			return nil
		}
		if row.Type == TypeParameters && row.KindField == "" && row.ToKind == "" {
			policy, _, _ := unstructuredString(content, "spec", "policyName")
			ns, _ := h.fields["namespace"].(string)
			f.param = &pendingParam{policy: policy, namespace: ns, name: to.Name, row: uint16(h.row)}
			return nil
		}
		r := foundRef{to: to, row: h.row, field: w.path(), flags: rowFlags(row), either: row.KindField != ""}
		if row.OptionalField != "" && h.fields[row.OptionalField] == true {
			r.flags |= flagOptional
		}
		if row.ReadOnlyField != "" && h.fields[row.ReadOnlyField] == true {
			r.flags &^= flagStrong
		}
		f.refs = append(f.refs, r)
		return nil
	}}
	return w.walk(content, k.content)
}

func unstructuredString(m map[string]any, path ...string) (string, map[string]any, bool) {
	for _, p := range path[:len(path)-1] {
		m, _ = m[p].(map[string]any)
	}
	s, ok := m[path[len(path)-1]].(string)
	return s, m, ok
}

func readSelector(row *Row, h hit) (*foundSelector, error) {
	fields, ok := h.value.(map[string]any)
	if !ok {
		return nil, nil
	}
	if row.Match == ByLabels {
		if len(fields) == 0 { // a Service without a selector selects nothing
			return nil, nil
		}
		want := make(map[string]string, len(fields))
		for k, v := range fields {
			want[k], _ = v.(string)
		}
		return &foundSelector{labels: want}, nil
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("read selector: %w", err)
	}
	var s metav1.LabelSelector
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("read selector: %w", err)
	}
	match, err := metav1.LabelSelectorAsSelector(&s)
	if err != nil {
		return nil, fmt.Errorf("read selector: %w", err)
	}
	return &foundSelector{labels: s.MatchLabels, match: match}, nil
}

// readSpecial takes what no row can say: what an object is to others.
func readSpecial(gk groupKind, content map[string]any, namespace string, f *findings) {
	spec, _ := content["spec"].(map[string]any)
	switch {
	case gk.group == groupRBAC:
		readUsers(content, f)
	case gk == groupKind{groupGateway, "ReferenceGrant"}:
		// What names nothing is about all there is of a kind in its namespace.
		for i, to := range mapsIn(spec, "to") {
			if to["name"] == nil {
				f.refs = append(f.refs, foundRef{to: v1alpha1.Ref{Kind: "Namespace", Name: namespace},
					row: rowGrantsAll, flags: flagOptional, field: fmt.Sprintf("spec.to[%d]", i)})
			}
		}
	case gk.group == groupExtensions && gk.kind == "CustomResourceDefinition":
		group, _, _ := unstructuredString(spec, "group")
		kind, _, _ := unstructuredString(spec, "names", "kind")
		f.crd = &groupKind{group, kind}
	case gk.group == groupAPIService && gk.kind == "APIService":
		if _, ok := spec["service"].(map[string]any); ok {
			group, _, _ := unstructuredString(spec, "group")
			version, _, _ := unstructuredString(spec, "version")
			f.api = group + "/" + version
		}
	case gk.group == groupAdmission && strings.HasSuffix(gk.kind, "AdmissionPolicy"):
		if kind, param, ok := unstructuredString(spec, "paramKind", "kind"); ok {
			apiVersion, _ := param["apiVersion"].(string)
			group, _ := object.SplitAPIVersion(apiVersion)
			f.policy = &groupKind{group, kind}
		}
	case gk == groupKind{"", "Service"}:
		if spec["type"] == "ExternalName" {
			f.alias, _ = spec["externalName"].(string)
		}
	case gk == groupKind{"apps", "StatefulSet"}:
		templates, _ := spec["volumeClaimTemplates"].([]any)
		for _, t := range templates {
			m, _ := t.(map[string]any)
			if name, _, ok := unstructuredString(m, "metadata", "name"); ok {
				f.workload.templates = append(f.workload.templates, name)
			}
		}
	}
}

// AccountUser begins the name that a service account has as a user, before its
// namespace, a colon and its name; AccountGroup that of the group of all of a
// namespace.
const (
	AccountUser  = "system:serviceaccount:"
	AccountGroup = "system:serviceaccounts:"
)

// readUsers takes the subjects of a binding that are service accounts by the
// names that they have as users, or all of those of a namespace.
func readUsers(content map[string]any, f *findings) {
	for i, s := range mapsIn(content, "subjects") {
		name, _ := s["name"].(string)
		var to v1alpha1.Ref
		if account, ok := strings.CutPrefix(name, AccountUser); ok && s["kind"] == "User" {
			to.Kind = "ServiceAccount"
			to.Namespace, to.Name, _ = strings.Cut(account, ":")
		} else if ns, ok := strings.CutPrefix(name, AccountGroup); ok && s["kind"] == "Group" {
			to.Kind, to.Name = "Namespace", ns
		} else {
			continue
		}
		f.refs = append(f.refs, foundRef{to: to, row: rowBindsUser, flags: flagOptional, field: fmt.Sprintf("subjects[%d].name", i)})
	}
}

// mapsIn gives the maps of a list.
func mapsIn(m map[string]any, key string) []map[string]any {
	list, _ := m[key].([]any)
	out := make([]map[string]any, len(list))
	for i, e := range list {
		out[i], _ = e.(map[string]any)
	}
	return out
}

// readTemplate takes a pod template's labels, its implied service account,
// and the hosts in its containers.
func readTemplate(content map[string]any, at, namespace string, f *findings) {
	template := content
	prefix := "spec"
	if at != "" {
		prefix = at + ".spec"
		for p := range strings.SplitSeq(at, ".") {
			template, _ = template[p].(map[string]any)
		}
	}
	metadata, _ := template["metadata"].(map[string]any)
	pods, _ := metadata["labels"].(map[string]any)
	f.workload.pods = make(map[string]string, len(pods))
	for k, v := range pods {
		f.workload.pods[k], _ = v.(string)
	}
	spec, _ := template["spec"].(map[string]any)
	if spec["serviceAccountName"] == nil && spec["serviceAccount"] == nil {
		f.refs = append(f.refs, foundRef{to: v1alpha1.Ref{Kind: "ServiceAccount", Namespace: namespace, Name: "default"},
			row: rowDefaultAccount, flags: flagOptional, field: prefix + ".serviceAccountName"})
	}
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		containers, _ := spec[list].([]any)
		for i, c := range containers {
			container, _ := c.(map[string]any)
			readContainer(container, prefix+"."+list+"["+strconv.Itoa(i)+"]", f)
		}
	}
}

func readContainer(container map[string]any, path string, f *findings) {
	env, _ := container["env"].([]any)
	for _, e := range env {
		m, _ := e.(map[string]any)
		name, _ := m["name"].(string)
		value, _ := m["value"].(string)
		hostsIn([]byte(value), name, true, func(host []byte) { f.host(host, path+".env["+name+"]") })
	}
	for _, list := range []string{"command", "args"} {
		words, _ := container[list].([]any)
		flag := ""
		for i, w := range words {
			word, _ := w.(string)
			hostsIn([]byte(word), flag, namesHost(flag) || flag == "-h" || flag == "-H",
				func(host []byte) { f.host(host, path+"."+list+"["+strconv.Itoa(i)+"]") })
			flag = ""
			if strings.HasPrefix(word, "-") {
				flag = word
			}
		}
	}
}
