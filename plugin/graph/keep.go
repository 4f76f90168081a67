package graph

import (
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// interner keeps each string once and gives it a number, so that what is kept
// of an object is small.
type interner struct {
	ids   map[string]uint32
	texts []string
}

func (n *interner) id(s string) uint32 {
	id, ok := n.ids[s]
	if !ok {
		id = uint32(len(n.texts))
		n.ids[s] = id
		n.texts = append(n.texts, s)
	}
	return id
}

// text is the kept copy of s.
func (n *interner) text(s string) string { return n.texts[n.id(s)] }

func (n *interner) key(group, kind, namespace, name string) nodeKey {
	if group != "" {
		kind = kind + "." + group
	}
	return nodeKey{n.id(kind), n.id(namespace), n.id(name)}
}

func (c *contents) find(group, kind, namespace, name string) (int32, bool) {
	return c.names.find(c.index, v1alpha1.Ref{Group: group, Kind: kind, Namespace: namespace, Name: name})
}

// find looks a ref up without making new numbers.
func (n *interner) find(index map[nodeKey]int32, r v1alpha1.Ref) (int32, bool) {
	kind := r.Kind
	if r.Group != "" {
		kind = kind + "." + r.Group
	}
	k, ok := n.ids[kind]
	ns, ok2 := n.ids[r.Namespace]
	name, ok3 := n.ids[r.Name]
	if !ok || !ok2 || !ok3 {
		return 0, false
	}
	i, ok := index[nodeKey{k, ns, name}]
	return i, ok
}

func (c *contents) keep(o *object.Object, f *findings) {
	r := o.Ref
	key := c.names.key(r.Group, r.Kind, r.Namespace, r.Name)
	if _, seen := c.index[key]; seen {
		return
	}
	id := int32(len(c.refs))
	c.index[key] = id
	c.refs = append(c.refs, v1alpha1.Ref{Group: c.names.text(r.Group), Version: c.names.text(r.Version),
		Kind: c.names.text(r.Kind), Namespace: c.names.text(r.Namespace), Name: c.names.text(r.Name)})
	c.uids = append(c.uids, o.UID)
	for _, x := range f.refs {
		c.pending = append(c.pending, pending{from: id, to: c.names.key(x.to.Group, x.to.Kind, x.to.Namespace, x.to.Name),
			row: uint16(x.row), flags: x.flags, field: c.names.id(x.field), uid: x.uid, either: x.either && x.to.Namespace != ""})
	}
	for _, s := range f.selectors {
		c.selectors = append(c.selectors, pendingSelector{from: id, row: uint16(s.row), labels: s.labels, match: s.match, field: c.names.id(s.field)})
	}
	for _, h := range f.hosts {
		c.hosts = append(c.hosts, pendingHost{from: id, host: c.names.id(h.host), field: c.names.id(h.field)})
	}
	if f.param != nil {
		f.param.from, f.param.field = id, c.names.id("spec.paramRef.name")
		c.params = append(c.params, *f.param)
	}
	if f.workload != nil {
		c.workloads[id] = f.workload
	}
	if f.crd != nil {
		c.crds[*f.crd] = id
	}
	if f.policy != nil {
		c.policies[id] = *f.policy
	}
	if f.alias != "" {
		c.aliases = append(c.aliases, pendingHost{from: id, host: c.names.id(f.alias), field: c.names.id("spec.externalName")})
	}
	if f.api != "" {
		c.apis[f.api] = id
	}
	if r.Group == groupRBAC && r.Kind == "ClusterRole" {
		c.roles[id] = o.Labels
	}
}
