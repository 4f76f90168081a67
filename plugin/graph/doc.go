// Package graph knows which Kubernetes object needs which: it finds the
// references inside objects, makes typed edges of them, and answers what else
// has to come along (Closure), what must share one point in time (Groups) and
// in which order things can be brought back (Waves).
//
// There is one table of reference fields, Table. The graph reads it to find
// edges, References walks the same table so that a rewriter can change the
// names in place, and a policy may add rows for its own resources.
//
// An edge is one of three:
//
//   - strong: both ends must share a point in time. A strong edge joins
//     workloads into one group. Those are calls by Service name, a writable
//     claim used by two workloads, a declared edge, a common part-of label,
//     and a controller with what it controls.
//   - weak: the object brings along what it refers to, but never another
//     workload. Rows marked Reverse also work backwards: a RoleBinding comes
//     along with its ServiceAccount, a Service with the pods it selects.
//   - loose: the reference is known, so that it can be rewritten and shown,
//     but it brings nothing along (a NetworkPolicy that mentions a namespace).
//
// The package is pure: it does no I/O, talks to no cluster, decides about no
// policy and never prints or keeps the content of an object. It does not read
// the pods, ReplicaSets and Jobs that a built-in controller stamps out of a
// template: the template says the same.
package graph
