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

// find is key without making new numbers.
func (b *Builder) find(group, kind, namespace, name string) (int32, bool) {
	if group != "" {
		kind = kind + "." + group
	}
	k, ok := b.names.ids[kind]
	ns, ok2 := b.names.ids[namespace]
	n, ok3 := b.names.ids[name]
	if !ok || !ok2 || !ok3 {
		return 0, false
	}
	i, ok := b.index[nodeKey{k, ns, n}]
	return i, ok
}

func (b *Builder) keep(o *object.Object, f *findings) {
	r := o.Ref
	key := b.names.key(r.Group, r.Kind, r.Namespace, r.Name)
	if _, seen := b.index[key]; seen {
		return
	}
	id := int32(len(b.refs))
	b.index[key] = id
	b.refs = append(b.refs, v1alpha1.Ref{Group: b.names.text(r.Group), Version: b.names.text(r.Version),
		Kind: b.names.text(r.Kind), Namespace: b.names.text(r.Namespace), Name: b.names.text(r.Name)})
	b.uids = append(b.uids, o.UID)
	for _, x := range f.refs {
		b.pending = append(b.pending, pending{from: id, to: b.names.key(x.to.Group, x.to.Kind, x.to.Namespace, x.to.Name),
			row: uint16(x.row), flags: x.flags, field: b.names.id(x.field), uid: x.uid, either: x.either && x.to.Namespace != ""})
	}
	for _, s := range f.selectors {
		b.selectors = append(b.selectors, pendingSelector{from: id, row: uint16(s.row), labels: s.labels, match: s.match, field: b.names.id(s.field)})
	}
	for _, h := range f.hosts {
		b.hosts = append(b.hosts, pendingHost{from: id, host: b.names.id(h.host), field: b.names.id(h.field)})
	}
	if f.param != nil {
		f.param.from, f.param.field = id, b.names.id("spec.paramRef.name")
		b.params = append(b.params, *f.param)
	}
	if f.workload != nil {
		b.workloads[id] = f.workload
	}
	if f.crd != nil {
		b.crds[*f.crd] = id
	}
	if f.policy != nil {
		b.policies[id] = *f.policy
	}
	if f.alias != "" {
		b.aliases = append(b.aliases, pendingHost{from: id, host: b.names.id(f.alias), field: b.names.id("spec.externalName")})
	}
	if f.api != "" {
		b.apis[f.api] = id
	}
	if r.Group == groupRBAC && r.Kind == "ClusterRole" {
		b.roles[id] = o.Labels
	}
}
