package v1alpha1

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Validate checks what can be checked without compiling expressions and
// without knowing the kinds that rules name. Its error is a UsageError that
// lists every fault.
func (r *RewriteSet) Validate() error { return JoinFieldErrors(r.faults()) }

func (r *RewriteSet) faults() []*FieldError {
	c := &rewriteChecks{checks: checks{at: r.At}, spec: r.Spec}
	c.metadata(r.ObjectMeta)
	c.maps()
	c.images()
	c.hosts()
	c.nodeLabels()
	c.services()
	c.places()
	c.profiles()
	if n := r.Spec.Names; n != nil {
		if n.Prefix == "" && n.Suffix == "" {
			c.refuse("spec.names", "write prefix or suffix", "renames nothing")
		}
		if name := n.Prefix + "a" + n.Suffix; validation.IsDNS1123Subdomain(name) != nil {
			c.refuse("spec.names", "", "names such as %q are not allowed", name)
		}
		c.match("spec.names.match", n.Match)
	}
	c.oneOf("spec.tracking", r.Spec.Tracking, TrackingAuto, TrackingKeep, TrackingDrop)
	c.rules()
	c.overlaps()
	return c.faults
}

type rewriteChecks struct {
	checks
	spec    RewriteSetSpec
	touches []touch
}

// touch is one field that a rule, or one of the maps, may change.
type touch struct {
	what, path string // what changes it, and where that stands
	field      FieldPath
	match      RewriteMatch
	priority   int
	typed      bool
}

func ruleLabel(name string, index int) string {
	if name != "" {
		return name
	}
	return fmt.Sprintf("rules[%d]", index)
}

func keyPath(path, key string) string {
	if plainKey(key) {
		return path + "." + key
	}
	return fmt.Sprintf("%s[%q]", path, key)
}

// named checks one map of names. Where distinct is set, two names must not
// become one.
func (c *rewriteChecks) named(path string, m map[string]string, distinct bool) {
	by := map[string]string{}
	for _, from := range slices.Sorted(maps.Keys(m)) {
		to, at := m[from], keyPath(path, from)
		switch {
		case to == "":
			c.refuse(at, "", "%q is mapped to nothing", from)
			continue
		case from == "":
			c.refuse(at, "", "nothing is mapped to %q", to)
			continue
		}
		if before, ok := by[to]; ok && distinct {
			c.refuse(at, "", "%q and %q (%s) are both mapped to %q", from, before, c.at(keyPath(path, before)), to)
		}
		by[to] = from
		if next, chained := m[to]; chained && next != to && from != to {
			c.chain(at, keyPath(path, to), from, to, next)
		}
	}
}

// chain refuses a map whose result another map, or the same, changes again.
func (c *rewriteChecks) chain(at, other, from, to, next string) {
	if c.spec.Once {
		return
	}
	c.refuse(at, "write once: true where the set is never applied to its own result",
		"%q becomes %q, which becomes %q (%s): applied twice, the set would do more than once", from, to, next, c.at(other))
}

func (c *rewriteChecks) maps() {
	c.named("spec.namespaces", c.spec.Namespaces, true)
	for from, to := range c.spec.Namespaces {
		at := keyPath("spec.namespaces", from)
		for _, name := range []string{from, to} {
			if name != "" {
				c.namespace(at, name)
			}
		}
	}
	c.named("spec.storageClasses", c.spec.StorageClasses, false)
	kinds := map[string]int{}
	for i, r := range c.spec.References {
		path := fmt.Sprintf("spec.references[%d]", i)
		c.kind(path+".kind", r.Kind)
		switch kind, _, _ := strings.Cut(r.Kind, "."); kind {
		case "*":
			c.refuse(path+".kind", "", "one kind is named")
		case "Namespace":
			c.refuse(path+".kind", "write spec.namespaces", "namespaces have a map of their own")
		case "StorageClass":
			c.refuse(path+".kind", "write spec.storageClasses", "storage classes have a map of their own")
		}
		if before, twice := kinds[r.Kind]; twice {
			c.refuse(path+".kind", "", "%s is also mapped at %s", r.Kind, c.at(fmt.Sprintf("spec.references[%d].kind", before)))
		}
		kinds[r.Kind] = i
		if len(r.Names) == 0 {
			c.refuse(path+".names", "", "maps nothing")
		}
		c.named(path+".names", r.Names, false)
	}
}

func (c *rewriteChecks) images() {
	from, to := map[string]int{}, map[string]int{}
	for i, m := range c.spec.Images {
		path := fmt.Sprintf("spec.images[%d]", i)
		ok := true
		for field, prefix := range map[string]string{"from": m.From, "to": m.To} {
			if why := imagePrefixFault(prefix); why != "" {
				c.refuse(path+"."+field, "write a registry, with a path or without: docker.io, registry.example.org:5000/team", "%q %s", prefix, why)
				ok = false
			}
		}
		if !ok {
			continue
		}
		if before, twice := from[m.From]; twice {
			c.refuse(path+".from", "", "%q is also mapped at %s", m.From, c.at(fmt.Sprintf("spec.images[%d].from", before)))
		}
		if before, twice := to[m.To]; twice {
			c.refuse(path+".to", "add a path to one of them", "%q and %q (%s) are both mapped to %q", m.From, c.spec.Images[before].From, c.at(fmt.Sprintf("spec.images[%d].to", before)), m.To)
		}
		from[m.From], to[m.To] = i, i
	}
	for i, m := range c.spec.Images {
		for j, next := range c.spec.Images {
			if next.From != "" && within(m.To, next.From) && m.To != m.From {
				c.chain(fmt.Sprintf("spec.images[%d].to", i), fmt.Sprintf("spec.images[%d].from", j), m.From, m.To, next.To)
			}
		}
	}
}

// within says whether an image's path is prefix or lies below it.
func within(image, prefix string) bool {
	return image == prefix || strings.HasPrefix(image, prefix+"/")
}

var imagePrefix = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)

func imagePrefixFault(s string) string {
	registry, _, _ := strings.Cut(s, "/")
	switch {
	case s == "":
		return "is empty"
	case strings.Contains(s, "@") || strings.LastIndexByte(s, ':') > len(registry):
		return "has a tag or digest, which always stays"
	case !imagePrefix.MatchString(s):
		return "is not a registry and path"
	case !strings.ContainsAny(registry, ".:") && registry != "localhost":
		return "does not begin with a registry"
	}
	return ""
}

func (c *rewriteChecks) hosts() {
	from, to := map[string]int{}, map[string]int{}
	for i, h := range c.spec.Hosts {
		path := fmt.Sprintf("spec.hosts[%d]", i)
		set := 0
		for _, s := range []string{h.From, h.Suffix, h.Regex} {
			if s != "" {
				set++
			}
		}
		if set != 1 {
			c.refuse(path, "", "exactly one of from, suffix and regex is written")
			continue
		}
		switch {
		case h.From != "":
			for field, host := range map[string]string{"from": h.From, "to": h.To} {
				name := strings.TrimPrefix(host, "*.")
				if problems := validation.IsDNS1123Subdomain(name); problems != nil {
					c.refuse(path+"."+field, "", "%q is not a host: %s", host, problems[0])
				}
			}
			if before, twice := to[h.To]; twice {
				c.refuse(path+".to", "", "%q and %q (%s) are both mapped to %q", h.From, c.spec.Hosts[before].From, c.at(fmt.Sprintf("spec.hosts[%d].to", before)), h.To)
			}
			to[h.To] = i
		case h.Suffix != "":
			for field, s := range map[string]string{"suffix": h.Suffix, "to": h.To} {
				if problems := validation.IsDNS1123Subdomain(strings.TrimPrefix(s, ".")); problems != nil || !strings.HasPrefix(s, ".") {
					c.refuse(path+"."+field, "", "%q is not the end of host names: write .example.org", s)
				}
			}
		default:
			c.regex(path+".regex", h.Regex)
		}
		key := h.From + " " + h.Suffix + " " + h.Regex
		if before, twice := from[key]; twice {
			c.refuse(path, "", "%q is also mapped at %s", strings.TrimSpace(key), c.at(fmt.Sprintf("spec.hosts[%d]", before)))
		}
		from[key] = i
	}
	for i, h := range c.spec.Hosts {
		for j, next := range c.spec.Hosts {
			if h.From != "" && h.To == next.From && h.From != h.To && next.From != next.To {
				c.chain(fmt.Sprintf("spec.hosts[%d].to", i), fmt.Sprintf("spec.hosts[%d].from", j), h.From, h.To, next.To)
			}
		}
	}
}

func (c *checks) regex(path, expression string) {
	if expression == "" {
		c.refuse(path, "", "is required")
	} else if _, err := regexp.Compile(expression); err != nil {
		c.refuse(path, "", "not a regular expression: %v", err)
	}
}

func (c *rewriteChecks) nodeLabels() {
	keys := map[string]int{}
	for i, l := range c.spec.NodeLabels {
		path := fmt.Sprintf("spec.nodeLabels[%d]", i)
		for field, key := range map[string]string{"key": l.Key, "toKey": l.ToKey} {
			if problems := validation.IsQualifiedName(key); problems != nil && (key != "" || field == "key") {
				c.refuse(path+"."+field, "", "%q is not a label: %s", key, problems[0])
			}
		}
		switch changes := l.ToKey != "" || len(l.Values) > 0; {
		case l.Drop && changes:
			c.refuse(path, "", "drop takes it away; toKey and values would have no effect")
		case !l.Drop && !changes:
			c.refuse(path, "write toKey, values or drop", "changes nothing")
		}
		if before, twice := keys[l.Key]; twice {
			c.refuse(path+".key", "", "%q is also mapped at %s", l.Key, c.at(fmt.Sprintf("spec.nodeLabels[%d].key", before)))
		}
		keys[l.Key] = i
		c.named(path+".values", l.Values, false)
	}
	for i, l := range c.spec.NodeLabels {
		// What becomes of the values is seen when they are mapped.
		if j, chained := keys[l.ToKey]; chained && l.ToKey != "" && l.ToKey != l.Key && c.spec.NodeLabels[j].ToKey != "" {
			c.chain(fmt.Sprintf("spec.nodeLabels[%d].toKey", i), fmt.Sprintf("spec.nodeLabels[%d].key", j), l.Key, l.ToKey, c.spec.NodeLabels[j].ToKey)
		}
	}
}

func (c *rewriteChecks) services() {
	s := c.spec.Services
	if s == nil {
		return
	}
	types := []string{"ClusterIP", "NodePort", "LoadBalancer"}
	for from, to := range s.Types {
		at := keyPath("spec.services.types", from)
		c.oneOf(at, from, types...)
		c.oneOf(at, to, types...)
	}
	c.named("spec.services.types", s.Types, false)
	c.oneOf("spec.services.nodePorts", s.NodePorts, NodePortsKeep, NodePortsClear)
}

func (c *rewriteChecks) places() {
	for i, t := range c.spec.Text {
		c.oneOf(fmt.Sprintf("spec.text[%d]", i), t, TextEnv, TextArgs, TextConfigMaps, TextSecrets, TextAnnotations)
	}
	for i, f := range c.spec.Fields {
		path := fmt.Sprintf("spec.fields[%d]", i)
		if len(f.Kinds) == 0 {
			c.refuse(path+".kinds", "", "names no kind")
		}
		for j, k := range f.Kinds {
			c.kind(fmt.Sprintf("%s.kinds[%d]", path, j), k)
		}
		c.required(path+".holds", f.Holds)
		c.oneOf(path+".holds", f.Holds, HoldsImage, HoldsHost, HoldsNamespace, HoldsStorageClass, HoldsText)
		c.touch(touch{what: fmt.Sprintf("fields[%d]", i), path: path + ".path", match: RewriteMatch{Kinds: f.Kinds}, typed: true}, f.Path)
	}
}

func (c *rewriteChecks) profiles() {
	from := map[string]int{}
	for i, p := range c.spec.Profiles {
		path := fmt.Sprintf("spec.profiles[%d]", i)
		platforms := []string{PlatformAWS, PlatformAzure, PlatformGoogle, PlatformOpenShift, PlatformGeneric}
		c.required(path+".from", p.From)
		c.oneOf(path+".from", p.From, platforms...)
		c.oneOf(path+".to", p.To, platforms...)
		switch {
		case p.From == PlatformGeneric:
			c.refuse(path+".from", "", "there is nothing of its own on a generic platform")
		case p.From == p.To && p.From != PlatformOpenShift && p.From != "":
			c.refuse(path+".to", "", "it is the same platform")
		}
		if before, twice := from[p.From]; twice {
			c.refuse(path+".from", "", "%s is also mapped at %s", p.From, c.at(fmt.Sprintf("spec.profiles[%d].from", before)))
		}
		from[p.From] = i
	}
}

func (c *rewriteChecks) match(path string, m RewriteMatch) {
	for i, k := range m.Kinds {
		c.kind(fmt.Sprintf("%s.kinds[%d]", path, i), k)
	}
	for i, ns := range m.Namespaces {
		c.namespace(fmt.Sprintf("%s.namespaces[%d]", path, i), ns)
	}
	c.labelSelector(path+".labelSelector", m.LabelSelector)
	if m.Expression != "" && strings.TrimSpace(m.Expression) == "" {
		c.refuse(path+".expression", "", "is blank")
	}
}

func (c *rewriteChecks) rules() {
	names := map[string]int{}
	for i, r := range c.spec.Rules {
		path := fmt.Sprintf("spec.rules[%d]", i)
		if before, twice := names[r.Name]; twice && r.Name != "" {
			c.refuse(path+".name", "reports tell rules apart by name", "%q is also the name of the rule at %s", r.Name, c.at(fmt.Sprintf("spec.rules[%d].name", before)))
		}
		names[r.Name] = i
		c.match(path+".match", r.Match)
		if len(r.Remove)+len(r.Set)+len(r.Replace)+len(r.JSONPatch)+len(r.MergePatch)+len(r.StrategicMergePatch) == 0 {
			c.refuse(path, "write set, remove, replace, jsonPatch, mergePatch or strategicMergePatch", "changes nothing")
		}
		by := touch{what: r.Label(i), match: r.Match, priority: r.Priority}
		at := func(format string, args ...any) touch {
			t := by
			t.path = path + fmt.Sprintf(format, args...)
			return t
		}
		for j, field := range r.Remove {
			c.touch(at(".remove[%d]", j), field)
		}
		for j, s := range r.Set {
			c.touch(at(".set[%d].path", j), s.Path)
			if (len(s.Value) == 0) == (s.Expression == "") {
				c.refuse(fmt.Sprintf("%s.set[%d]", path, j), "", "exactly one of value and expression is written")
			}
		}
		for j, s := range r.Replace {
			c.touch(at(".replace[%d].path", j), s.Path)
			c.regex(fmt.Sprintf("%s.replace[%d].regex", path, j), s.Regex)
		}
		c.jsonPatch(at(".jsonPatch"), r.JSONPatch)
		c.mergePatch(at(".mergePatch"), r.MergePatch, false)
		c.mergePatch(at(".strategicMergePatch"), r.StrategicMergePatch, true)
	}
}

// touch notes a field that something changes, and refuses those that nothing
// may change.
func (c *rewriteChecks) touch(t touch, path string) {
	field, err := ParseFieldPath(path)
	if err != nil {
		c.refuse(t.path, "", "%q is not a path: %v", path, err)
		return
	}
	t.field = field
	c.add(t)
}

func (c *rewriteChecks) add(t touch) {
	if why, hint := untouchable(t.field); why != "" {
		c.refuse(t.path, hint, "%s must not be changed: %s", t.field, why)
		return
	}
	c.touches = append(c.touches, t)
}

func untouchable(p FieldPath) (why, hint string) {
	if len(p) == 0 {
		return "it is the whole object", "name single fields"
	}
	if p[0].List {
		return "an object is not a list", ""
	}
	switch p[0].Key {
	case "apiVersion", "kind":
		return "it says what the object is", ""
	case "metadata":
		if len(p) == 1 {
			return "the object's identity is in it", "name single fields"
		}
		switch p[1].Key {
		case "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "managedFields":
			return "the server assigns it", ""
		case "name", "generateName":
			return "references to it would not follow", "write spec.names"
		case "namespace":
			return "references to it would not follow", "write spec.namespaces"
		}
	}
	return "", ""
}

func (c *rewriteChecks) jsonPatch(t touch, raw json.RawMessage) {
	if len(raw) == 0 {
		return
	}
	var operations []struct {
		Op    string          `json:"op"`
		Path  *string         `json:"path"`
		From  *string         `json:"from"`
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(raw, &operations); err != nil {
		c.refuse(t.path, "", "not a JSON patch, which is a list of operations: %v", err)
		return
	}
	for i, o := range operations {
		what := fmt.Sprintf("operation %d", i)
		switch o.Op {
		case "add", "replace", "remove", "test":
		case "move", "copy":
			if o.From == nil {
				c.refuse(t.path, "", "%s: %s needs from", what, o.Op)
			}
		default:
			c.refuse(t.path, didYouMean(o.Op, []string{"add", "replace", "remove", "move", "copy", "test"}), "%s: unknown op %q", what, o.Op)
		}
		for _, pointer := range []*string{o.Path, o.From} {
			switch {
			case pointer == nil:
			case *pointer != "" && !strings.HasPrefix(*pointer, "/"):
				c.refuse(t.path, "", "%s: %q does not begin with /", what, *pointer)
			case o.Op == "test" || o.Op == "copy" && pointer == o.From:
			default:
				t.field = pointerPath(*pointer)
				c.add(t)
			}
		}
		if o.Path == nil {
			c.refuse(t.path, "", "%s: path is required", what)
		}
	}
}

// pointerPath is a JSON pointer as a path.
func pointerPath(pointer string) FieldPath {
	var p FieldPath
	for _, token := range strings.Split(pointer, "/")[1:] {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		step := PathStep{Key: token}
		if token == "-" {
			step = PathStep{List: true, Index: -1}
		} else if n := 0; len(token) > 0 && strings.Trim(token, "0123456789") == "" {
			fmt.Sscan(token, &n)
			step = PathStep{List: true, Index: n}
		}
		p = append(p, step)
	}
	return p
}

func (c *rewriteChecks) mergePatch(t touch, raw json.RawMessage, strategic bool) {
	if len(raw) == 0 {
		return
	}
	var patch map[string]any
	if err := json.Unmarshal(raw, &patch); err != nil || patch == nil {
		c.refuse(t.path, "", "a merge patch is a map of fields")
		return
	}
	c.patched(t, patch, nil, strategic)
}

// patched notes each field that a patch changes.
func (c *rewriteChecks) patched(t touch, patch any, at FieldPath, strategic bool) {
	leaf := func() {
		t.field = slices.Clone(at)
		c.add(t)
	}
	switch v := patch.(type) {
	case map[string]any:
		if len(v) == 0 {
			leaf()
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if strategic && strings.HasPrefix(key, "$") {
				continue
			}
			c.patched(t, v[key], append(slices.Clone(at), PathStep{Key: key}), strategic)
		}
	case []any:
		if !strategic || len(v) == 0 {
			leaf()
			return
		}
		for _, element := range v {
			step := PathStep{List: true, Index: -1}
			m, isMap := element.(map[string]any)
			if !isMap {
				leaf()
				return
			}
			if name, ok := m["name"].(string); ok {
				step.FilterKey, step.FilterValue = "name", name
				m = maps.Clone(m)
				delete(m, "name")
			}
			c.patched(t, m, append(slices.Clone(at), step), strategic)
		}
	default:
		leaf()
	}
}

// overlaps refuses two rules that change one field of one object with equal
// priority, naming both places.
func (c *rewriteChecks) overlaps() {
	c.typedFields()
	for i, a := range c.touches {
		for _, b := range c.touches[:i] {
			if a.what == b.what || a.priority != b.priority || a.typed && b.typed || !a.field.Overlaps(b.field) || !a.match.meets(b.match) {
				continue
			}
			if a.typed {
				a, b = b, a
			}
			c.refuse(a.path, "give one of them a higher priority; it has the last word",
				"%s and %s (%s) both change %s", a.what, b.what, c.at(b.path), a.field)
		}
	}
}

// typedFields are those that the maps change in well-known kinds.
func (c *rewriteChecks) typedFields() {
	s := c.spec
	add := func(section string, kinds []string, paths ...string) {
		for _, path := range paths {
			if field, err := ParseFieldPath(path); err == nil {
				c.touches = append(c.touches, touch{what: "spec." + section, path: "spec." + section, field: field, match: RewriteMatch{Kinds: kinds}, typed: true})
			}
		}
	}
	if len(s.StorageClasses) > 0 {
		add("storageClasses", []string{"PersistentVolumeClaim.core", "PersistentVolume.core"}, "spec.storageClassName")
		add("storageClasses", []string{"StatefulSet.apps"}, "spec.volumeClaimTemplates[].spec.storageClassName")
	}
	if len(s.Images) > 0 {
		for prefix, kinds := range map[string][]string{
			"spec":                                {"Pod.core"},
			"template.spec":                       {"PodTemplate.core"},
			"spec.template.spec":                  {"Deployment.apps", "StatefulSet.apps", "DaemonSet.apps", "ReplicaSet.apps", "Job.batch", "ReplicationController.core"},
			"spec.jobTemplate.spec.template.spec": {"CronJob.batch"},
		} {
			add("images", kinds, prefix+".containers[].image", prefix+".initContainers[].image")
		}
	}
	if len(s.Hosts) > 0 {
		add("hosts", []string{"Ingress.networking.k8s.io"}, "spec.rules[].host", "spec.tls[].hosts[]")
		add("hosts", []string{"HTTPRoute.gateway.networking.k8s.io", "GRPCRoute.gateway.networking.k8s.io", "TLSRoute.gateway.networking.k8s.io"}, "spec.hostnames[]")
		add("hosts", []string{"Gateway.gateway.networking.k8s.io"}, "spec.listeners[].hostname")
	}
	if s.Services != nil && len(s.Services.Types) > 0 {
		add("services", []string{"Service.core"}, "spec.type")
	}
}

// meets says whether an object may be matched by both.
func (m RewriteMatch) meets(o RewriteMatch) bool {
	disjoint := func(a, b []string) bool {
		return len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
	}
	if disjoint(m.Namespaces, o.Namespaces) || disjoint(m.Names, o.Names) {
		return false
	}
	if m.LabelSelector != nil && o.LabelSelector != nil && contradict(m.LabelSelector, o.LabelSelector) {
		return false
	}
	return len(m.Kinds) == 0 || len(o.Kinds) == 0 || slices.ContainsFunc(m.Kinds, func(a string) bool {
		return slices.ContainsFunc(o.Kinds, func(b string) bool { return kindsMeet(a, b) })
	})
}

func contradict(a, b *metav1.LabelSelector) bool {
	for key, value := range a.MatchLabels {
		if other, ok := b.MatchLabels[key]; ok && other != value {
			return true
		}
	}
	return false
}

func kindsMeet(a, b string) bool {
	kindA, groupA, hasA := strings.Cut(a, ".")
	kindB, groupB, hasB := strings.Cut(b, ".")
	return (kindA == "*" || kindB == "*" || kindA == kindB) && (!hasA || !hasB || groupA == groupB)
}
