// Package v1alpha1 holds the documents of kubectl-backup: the policies and
// remotes that people write, and the reports that the program prints.
//
// It decodes them strictly and checks what can be checked without a cluster.
// It does not compile expressions (plugin/selector) and does not know where a
// document came from (plugin/source).
package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// APIVersion is the only version there is.
const APIVersion = "kubectl-backup.io/v1alpha1"

// BackupPolicy says what to protect, how, where to and how long.
type BackupPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              BackupPolicySpec `json:"spec"`

	positions positions
}

// BackupPolicySpec is the spec of a BackupPolicy.
type BackupPolicySpec struct {
	// Select lists what is protected. Entries are OR-ed, fields of one AND-ed.
	Select []SelectEntry `json:"select"`
	// Exclude lists what is not, whatever Select says.
	Exclude []SelectEntry `json:"exclude,omitempty"`
	// OnExpressionError says what becomes of an object that an expression
	// fails on: Report (default: the object is named and the run is partial)
	// or Include (saved, with a warning).
	OnExpressionError string `json:"onExpressionError,omitempty"`
	// Dependencies is Include (default), Report or Ignore.
	Dependencies string       `json:"dependencies,omitempty"`
	Grouping     Grouping     `json:"grouping,omitempty"`
	Consistency  Consistency  `json:"consistency,omitempty"`
	Volumes      []VolumeRule `json:"volumes,omitempty"`
	Mover        Mover        `json:"mover,omitempty"`
	Triggers     []Trigger    `json:"triggers,omitempty"`
	Retention    *Retention   `json:"retention,omitempty"`
	Remote       RemoteRef    `json:"remote,omitempty"`
	Copies       []Copy       `json:"copies,omitempty"`
	Drill        *Drill       `json:"drill,omitempty"`
}

// MaySnapshot says whether any volume can come to a method that takes snapshots.
func (s *BackupPolicySpec) MaySnapshot() bool {
	for _, r := range s.Volumes {
		if r.Method == MethodAuto || r.Method == MethodSnapshot {
			return true
		}
		if r.Match == "" {
			return false // no rule after it is looked at
		}
	}
	return true
}

// SelectEntry matches objects by kind, namespace, labels and expression.
type SelectEntry struct {
	// Name appears in reports.
	Name string `json:"name,omitempty"`
	// Kinds are Kind, Kind.group, *.group or *, where the group "core" is the
	// group without a name. Empty means every kind that a person may write.
	Kinds         []string              `json:"kinds,omitempty"`
	Namespaces    []string              `json:"namespaces,omitempty"`
	LabelSelector *metav1.LabelSelector `json:"labelSelector,omitempty"`
	// Expression is CEL over object, namespaceObject, labels, annotations and
	// variables; it must be boolean.
	Expression string `json:"expression,omitempty"`
	// Optional says that matching nothing is fine.
	Optional bool `json:"optional,omitempty"`
}

// Grouping says what shares a point in time.
type Grouping struct {
	// By is Dependencies (default), Namespace, Label, Expression or None.
	By         string         `json:"by,omitempty"`
	Label      string         `json:"label,omitempty"`
	Expression string         `json:"expression,omitempty"`
	Edges      []DeclaredEdge `json:"edges,omitempty"`
}

// DeclaredEdge joins two objects that nothing in them joins: From needs To.
type DeclaredEdge struct {
	From EdgeEnd `json:"from"`
	To   EdgeEnd `json:"to"`
}

// EdgeEnd names one end. An empty Namespace means the other end's, or any.
type EdgeEnd struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Consistency says how the volumes of a group become one point in time.
type Consistency struct {
	// Mode is Group (default), Workload or None.
	Mode  string `json:"mode,omitempty"`
	Hooks []Hook `json:"hooks,omitempty"`
}

// Hook makes matching pods quiet while their group is cut: by a recipe, or by
// a command before and one after.
type Hook struct {
	// Name appears in reports; empty means the recipe, or where it stands.
	Name string `json:"name,omitempty"`
	// Recipe is a built-in one or the name of a BackupRecipe. Either Recipe or
	// Before and After are set.
	Recipe string `json:"recipe,omitempty"`
	// Before and After are commands with their arguments. After runs exactly
	// once for each Before that was begun, also where that failed.
	Before []string `json:"before,omitempty"`
	After  []string `json:"after,omitempty"`
	// Scope is Pod (default: each matching pod, held while its group is cut),
	// Group (one matching pod of each group) or Backup (one matching pod for
	// all groups).
	Scope string `json:"scope,omitempty"`
	// Match is CEL over object (the pod), namespaceObject, labels, annotations
	// and variables; empty matches every pod of the group.
	Match string `json:"match,omitempty"`
	// Container is where it runs; empty means the recipe's choice, else the
	// pod's default container.
	Container string `json:"container,omitempty"`
	// TTL is how long the pod holds at most, whatever becomes of this program.
	TTL *metav1.Duration `json:"ttl,omitempty"`
	// Timeout bounds the way into the freeze.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// OnFailure is Abort (default: the group is not captured) or Continue
	// (captured, with a line that says what was not quiet).
	OnFailure string `json:"onFailure,omitempty"`
	// Parameters are given to the recipe. They are not for secrets.
	Parameters map[string]string `json:"parameters,omitempty"`
}

// VolumeRule decides about the volumes it matches; the first match wins.
type VolumeRule struct {
	// Match is CEL over volume, pod and object (the claim, or the pod where
	// there is none); empty matches all.
	Match string `json:"match,omitempty"`
	// Method is Auto, Snapshot, Stream or Skip.
	Method string `json:"method"`
	// SnapshotClass and GroupSnapshotClass name the classes to use; empty
	// means the driver's default.
	SnapshotClass      string `json:"snapshotClass,omitempty"`
	GroupSnapshotClass string `json:"groupSnapshotClass,omitempty"`
}

// Mover configures the containers that carry bytes.
type Mover struct {
	// Image holds the kubectl-backup program. Empty means the one that this
	// program was built with.
	Image string `json:"image,omitempty"`
	// Parallel is how many volumes travel at once; 0 means 2.
	Parallel int `json:"parallel,omitempty"`
	// PerNode is how many of them on one node; 0 means no limit but Parallel.
	PerNode int `json:"perNode,omitempty"`
	// Transport is Auto (default), Job (movers write to the remote themselves)
	// or Stream (bytes come through the API server and this program).
	Transport string `json:"transport,omitempty"`
	// Retries is how often a mover that ended early is started again; it goes
	// on where the last one stopped. Absent means 3.
	Retries *int `json:"retries,omitempty"`
	// Timeout is how long one volume may take; absent means 24 hours.
	Timeout            *metav1.Duration             `json:"timeout,omitempty"`
	ServiceAccountName string                       `json:"serviceAccountName,omitempty"`
	Resources          *corev1.ResourceRequirements `json:"resources,omitempty"`
	NodeSelector       map[string]string            `json:"nodeSelector,omitempty"`
	Tolerations        []corev1.Toleration          `json:"tolerations,omitempty"`
	// SecurityContext replaces the mover container's own, which may read and
	// write files of every owner and nothing else.
	SecurityContext *corev1.SecurityContext `json:"securityContext,omitempty"`
}

// Trigger starts a run: by the clock or by an event.
type Trigger struct {
	Schedule string `json:"schedule,omitempty"`
	TimeZone string `json:"timeZone,omitempty"`
	// Event is PodReady or PodTerminating. It is not called on, which many
	// YAML parsers read as true.
	Event string `json:"event,omitempty"`
}

// Retention counts how many backups are kept of each age.
type Retention struct {
	Last    int `json:"last,omitempty"`
	Hourly  int `json:"hourly,omitempty"`
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
	Yearly  int `json:"yearly,omitempty"`
}

// RemoteRef names a BackupRemote.
type RemoteRef struct {
	Name string `json:"name"`
}

// Copy is a second remote with a retention of its own.
type Copy struct {
	Remote    RemoteRef  `json:"remote"`
	Retention *Retention `json:"retention,omitempty"`
}

// Drill restores into scratch namespaces and checks the result.
type Drill struct {
	Schedule string `json:"schedule,omitempty"`
	TimeZone string `json:"timeZone,omitempty"`
	// Assert lists CEL over objects (the live ones) and namespaces (from saved
	// to scratch names), with healthy(object). What fails is no pass.
	Assert []string     `json:"assert,omitempty"`
	Probes []DrillProbe `json:"probes,omitempty"`
}

// DrillProbe is a command that runs in restored pods.
type DrillProbe struct {
	// Name appears in reports.
	Name string `json:"name"`
	// Match is CEL over labels and object, the pod's; it runs in every pod that
	// matches, and none is a failure.
	Match string `json:"match"`
	// Container is where it runs; empty means the pod's default.
	Container string   `json:"container,omitempty"`
	Command   []string `json:"command"`
	// Timeout bounds one command; absent means a minute.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// ExitCode is the one that is expected.
	ExitCode int `json:"exitCode,omitempty"`
	// Expect is about what it writes to stdout; absent means anything.
	Expect *DrillExpect `json:"expect,omitempty"`
}

// DrillExpect is exactly one of its fields. Line ends at the end of the output
// do not count.
type DrillExpect struct {
	// Text is the whole output.
	Text *string `json:"text,omitempty"`
	// Regex matches somewhere in it.
	Regex string `json:"regex,omitempty"`
	// Expression is CEL over stdout and exitCode; it must be boolean.
	Expression string `json:"expression,omitempty"`
}

// BackupRemote is a place that any rclone backend can reach, and the key that
// its repository is encrypted with.
type BackupRemote struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              BackupRemoteSpec `json:"spec"`

	positions positions
}

// BackupRemoteSpec is the spec of a BackupRemote.
type BackupRemoteSpec struct {
	// Path is remote:path in rclone's notation, or a plain local path.
	Path string `json:"path"`
	// Config holds rclone remotes by name, each a map of rclone's options.
	Config map[string]map[string]string `json:"config,omitempty"`
	// ConfigSecretRef names a Secret with an rclone.conf.
	ConfigSecretRef *SecretKeyRef `json:"configSecretRef,omitempty"`
	// PasswordFrom says where the repository's key comes from.
	PasswordFrom *PasswordSource `json:"passwordFrom,omitempty"`
	Limits       RemoteLimits    `json:"limits,omitempty"`
}

// RemoteLimits bound what one run asks of a remote.
type RemoteLimits struct {
	// Movers is how many volumes travel to or from it at once; 0 means no
	// limit but the policy's.
	Movers int `json:"movers,omitempty"`
	// Bandwidth is in rclone's notation, as in 10M for 10 MiB/s, for each
	// process that writes; empty means no limit.
	Bandwidth string `json:"bandwidth,omitempty"`
	// RequestsPerSecond bounds each process; 0 means no limit.
	RequestsPerSecond float64 `json:"requestsPerSecond,omitempty"`
	// Retries is how often a request that failed for a passing reason is made
	// again; absent means 10.
	Retries *int `json:"retries,omitempty"`
}

// BackupRecipe says how a kind of store is made quiet and let go again.
type BackupRecipe struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              BackupRecipeSpec `json:"spec"`

	positions positions
}

// BackupRecipeSpec is either Session, or Freeze and Thaw. All are scripts for
// the container's sh, and see the parameters as environment variables.
type BackupRecipeSpec struct {
	// Description is one sentence for reports and help.
	Description string `json:"description,omitempty"`
	// Requires lists the commands that the container must have.
	Requires []string `json:"requires,omitempty"`
	// Prepare runs before anything of the group is made quiet, for what takes
	// long and stops nobody, such as a checkpoint.
	Prepare string `json:"prepare,omitempty"`
	// Freeze ends with success when the store is quiet; Thaw lets it go, and
	// must succeed also where Freeze failed half way.
	Freeze string `json:"freeze,omitempty"`
	Thaw   string `json:"thaw,omitempty"`
	// Session makes the store quiet, writes the line "frozen" to file
	// descriptor 3, waits for the end of its input, and lets go. It is for
	// stores whose lock lasts as long as a connection.
	Session string `json:"session,omitempty"`
	// Container is the name of the container it runs in, where a hook does
	// not say.
	Container  string            `json:"container,omitempty"`
	TTL        *metav1.Duration  `json:"ttl,omitempty"`
	Timeout    *metav1.Duration  `json:"timeout,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
}

// SecretKeyRef names one key of a Secret.
type SecretKeyRef struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Key       string `json:"key"`
}

// PasswordSource is exactly one of its fields.
type PasswordSource struct {
	Env       string        `json:"env,omitempty"`
	File      string        `json:"file,omitempty"`
	SecretRef *SecretKeyRef `json:"secretRef,omitempty"`
}
