// Package v1alpha1 holds the documents of kubectl-backup: the policies and
// remotes that people write, and the reports that the program prints.
//
// It decodes them strictly and checks what can be checked without a cluster.
// It does not compile expressions (plugin/selector) and does not know where a
// document came from (plugin/source).
package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// Hook freezes matching pods around the cut.
type Hook struct {
	Recipe string           `json:"recipe"`
	Match  string           `json:"match,omitempty"`
	TTL    *metav1.Duration `json:"ttl,omitempty"`
}

// VolumeRule decides about the volumes it matches; the first match wins.
type VolumeRule struct {
	// Match is CEL over volume, pod and object (the claim, or the pod where
	// there is none); empty matches all.
	Match string `json:"match,omitempty"`
	// Method is Auto, Snapshot, Stream or Skip.
	Method string `json:"method"`
}

// Mover configures the containers that carry bytes.
type Mover struct {
	// Image holds the kubectl-backup program. Empty means the one that this
	// program was built with.
	Image string `json:"image,omitempty"`
	// Parallel is how many volumes travel at once; 0 means 2.
	Parallel int `json:"parallel,omitempty"`
}

// Trigger starts a run: by the clock or by an event.
type Trigger struct {
	Schedule string `json:"schedule,omitempty"`
	TimeZone string `json:"timeZone,omitempty"`
	On       string `json:"on,omitempty"`
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
	Schedule string   `json:"schedule,omitempty"`
	TimeZone string   `json:"timeZone,omitempty"`
	Assert   []string `json:"assert,omitempty"`
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
