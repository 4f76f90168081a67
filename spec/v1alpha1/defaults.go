package v1alpha1

import "fmt"

// DefaultParallel is how many volumes travel at once where a policy does not
// say.
const DefaultParallel = 2

// Defaults fills in what a policy leaves out. Decode has done it already.
func (p *BackupPolicy) Defaults() {
	s := &p.Spec
	nameEntries("select", s.Select)
	nameEntries("exclude", s.Exclude)
	s.OnExpressionError = orDefault(s.OnExpressionError, OnErrorReport)
	s.Dependencies = orDefault(s.Dependencies, DependenciesInclude)
	s.Grouping.By = orDefault(s.Grouping.By, GroupByDependencies)
	s.Consistency.Mode = orDefault(s.Consistency.Mode, ConsistencyGroup)
	if s.Mover.Parallel == 0 {
		s.Mover.Parallel = DefaultParallel
	}
}

// nameEntries gives the entries without a name one that says where they
// stand, so that every line of a report can name its entry.
func nameEntries(list string, entries []SelectEntry) {
	for i := range entries {
		entries[i].Name = orDefault(entries[i].Name, fmt.Sprintf("%s[%d]", list, i))
	}
}
