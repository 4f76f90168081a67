package v1alpha1

// DrillReport is what drill prints with -o json.
type DrillReport struct {
	APIVersion string `json:"apiVersion"`
	// Kind is DrillReport.
	Kind     string `json:"kind"`
	Result   Result `json:"result"`
	ExitCode int    `json:"exitCode"`
	Error    string `json:"error,omitempty"`
	// Passed says that every check passed.
	Passed      bool     `json:"passed"`
	Backup      string   `json:"backup"`
	ToolVersion string   `json:"toolVersion,omitempty"`
	Policy      string   `json:"policy,omitempty"`
	Cluster     *Cluster `json:"cluster,omitempty"`
	Target      *Cluster `json:"target,omitempty"`
	Remote      string   `json:"remote,omitempty"`
	// Checks are the restore, the assertions and the probes.
	Checks []DrillCheck `json:"checks"`
	// Namespaces says where each namespace of the backup went.
	Namespaces map[string]string `json:"namespaces,omitempty"`
	// LeftOut says what of the backup was not restored, and why.
	LeftOut []string `json:"leftOut,omitempty"`
	// Restore is the report of the restore.
	Restore *Document `json:"restore,omitempty"`
	// Left is what could not be removed.
	Left     []string `json:"left,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Started  string   `json:"started,omitempty"`
	Seconds  float64  `json:"seconds,omitempty"`
}

// The kinds of checks.
const (
	CheckRestore   = "Restore"
	CheckAssertion = "Assertion"
	CheckProbe     = "Probe"
)

// DrillCheck is one thing that a drill looked at.
type DrillCheck struct {
	// Check is Restore, Assertion or Probe.
	Check  string `json:"check"`
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	// Reason says why it did not pass.
	Reason string `json:"reason,omitempty"`
	// Seen are the values that it was decided by, as far as that helps.
	Seen []string `json:"seen,omitempty"`
	// Expression is that of an assertion.
	Expression string `json:"expression,omitempty"`
	// Pod, by its namespace in the backup, Command, Code and Output are those of
	// a probe.
	Pod     string   `json:"pod,omitempty"`
	Command []string `json:"command,omitempty"`
	Code    *int     `json:"code,omitempty"`
	Output  string   `json:"output,omitempty"`
}

// DrillVerdict is what is kept of a drill in the repository.
type DrillVerdict struct {
	Backup string `json:"backup"`
	// At is when the drill began, RFC 3339.
	At     string `json:"at"`
	Passed bool   `json:"passed"`
	// Failed are the names of the checks that did not pass.
	Failed      []string `json:"failed,omitempty"`
	Seconds     float64  `json:"seconds"`
	Cluster     string   `json:"cluster,omitempty"`
	ToolVersion string   `json:"toolVersion,omitempty"`
}
