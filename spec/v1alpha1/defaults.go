package v1alpha1

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What holds where a document does not say.
const (
	// DefaultParallel is how many volumes travel at once.
	DefaultParallel = 2
	// DefaultRetries is how often a mover that ended early is started again.
	DefaultRetries = 3
	// DefaultMoverTimeout is how long one volume may take.
	DefaultMoverTimeout = 24 * time.Hour
	// DefaultRequestRetries is how often a request to a remote that failed for
	// a passing reason is made again.
	DefaultRequestRetries = 10
	// DefaultTTL is how long a pod holds at most.
	DefaultTTL = 30 * time.Second
	// DefaultFreezeTimeout bounds the way into a freeze.
	DefaultFreezeTimeout = 10 * time.Second
)

// Defaults fills in what a policy leaves out. Decode has done it already.
func (p *BackupPolicy) Defaults() {
	s := &p.Spec
	nameEntries("select", s.Select)
	nameEntries("exclude", s.Exclude)
	s.OnExpressionError = orDefault(s.OnExpressionError, OnErrorReport)
	s.Dependencies = orDefault(s.Dependencies, DependenciesInclude)
	s.Grouping.By = orDefault(s.Grouping.By, GroupByDependencies)
	s.Consistency.Mode = orDefault(s.Consistency.Mode, ConsistencyGroup)
	for i := range s.Consistency.Hooks {
		s.Consistency.Hooks[i].defaults()
	}
	nameHooks(s.Consistency.Hooks)
	if s.Mover.Parallel == 0 {
		s.Mover.Parallel = DefaultParallel
	}
	s.Mover.Transport = orDefault(s.Mover.Transport, TransportAuto)
	if s.Mover.Retries == nil {
		retries := DefaultRetries
		s.Mover.Retries = &retries
	}
	s.Mover.Timeout = orDuration(s.Mover.Timeout, DefaultMoverTimeout)
}

// defaults leaves the times of a hook with a recipe to the recipe.
func (h *Hook) defaults() {
	h.Scope = orDefault(h.Scope, ScopePod)
	h.OnFailure = orDefault(h.OnFailure, OnFailureAbort)
	if h.Recipe == "" {
		h.TTL = orDuration(h.TTL, DefaultTTL)
		h.Timeout = orDuration(h.Timeout, DefaultFreezeTimeout)
	}
}

// nameHooks gives the hooks without a name their recipe's, and where that is
// taken or there is none, one that says where they stand.
func nameHooks(hooks []Hook) {
	taken := map[string]bool{"": true}
	for _, h := range hooks {
		taken[h.Name] = true
	}
	for i := range hooks {
		if hooks[i].Name == "" {
			hooks[i].Name = hooks[i].Recipe
			if taken[hooks[i].Name] {
				hooks[i].Name = fmt.Sprintf("hooks[%d]", i)
			}
			taken[hooks[i].Name] = true
		}
	}
}

// Defaults fills in what a recipe leaves out. Decode has done it already.
func (r *BackupRecipe) Defaults() {
	r.Spec.TTL = orDuration(r.Spec.TTL, DefaultTTL)
	r.Spec.Timeout = orDuration(r.Spec.Timeout, DefaultFreezeTimeout)
}

func orDuration(d *metav1.Duration, def time.Duration) *metav1.Duration {
	if d == nil {
		return &metav1.Duration{Duration: def}
	}
	return d
}

// nameEntries gives the entries without a name one that says where they
// stand, so that every line of a report can name its entry.
func nameEntries(list string, entries []SelectEntry) {
	for i := range entries {
		entries[i].Name = orDefault(entries[i].Name, fmt.Sprintf("%s[%d]", list, i))
	}
}
