package v1alpha1

import "strings"

// Ref names one Kubernetes object. Group is empty for the core group,
// Namespace is empty for a cluster-scoped object.
type Ref struct {
	Group     string `json:"group"`
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String is the short form that people read: kind[.group] namespace/name.
func (r Ref) String() string {
	var b strings.Builder
	b.WriteString(r.Kind)
	if r.Group != "" {
		b.WriteByte('.')
		b.WriteString(r.Group)
	}
	b.WriteByte(' ')
	if r.Namespace != "" {
		b.WriteString(r.Namespace)
		b.WriteByte('/')
	}
	b.WriteString(r.Name)
	return b.String()
}

// Key is the ref without its version: the same object served at two versions
// has one key.
func (r Ref) Key() Ref { r.Version = ""; return r }

// Compare orders refs by group, kind, namespace, name, then version.
func (r Ref) Compare(o Ref) int {
	for _, c := range [...]int{
		strings.Compare(r.Group, o.Group), strings.Compare(r.Kind, o.Kind),
		strings.Compare(r.Namespace, o.Namespace), strings.Compare(r.Name, o.Name),
	} {
		if c != 0 {
			return c
		}
	}
	return strings.Compare(r.Version, o.Version)
}

// Result is the verdict over a whole document.
type Result string

const (
	// ResultComplete says that everything asked for was done.
	ResultComplete Result = "Complete"
	// ResultPartial says that some lines were not done; each says why.
	ResultPartial Result = "Partial"
	// ResultFailed says that nothing usable came of it.
	ResultFailed Result = "Failed"
)

// Outcome is the verdict over one object, volume or kind.
type Outcome string

const (
	// Outcomes of a plan: what a run or a restore would do.
	OutcomeInclude Outcome = "Include" // would be saved
	OutcomeCreate  Outcome = "Create"  // would be created in the target
	OutcomeApply   Outcome = "Apply"   // would be changed, or made anew, in the target

	// Outcomes of a run, a restore or a verification.
	OutcomeSaved       Outcome = "Saved"
	OutcomeRestored    Outcome = "Restored"
	OutcomeUnchanged   Outcome = "Unchanged"   // the target already equals it
	OutcomeVerified    Outcome = "Verified"    // read back and equal to its checksum
	OutcomeLeftToOwner Outcome = "LeftToOwner" // a controller will make it again
	OutcomeSkipped     Outcome = "Skipped"     // deliberately not done; the reason says by which rule
	OutcomeReferred    Outcome = "Referred"    // not selected, but something selected refers to it
	OutcomeUndecided   Outcome = "Undecided"   // an expression failed on it
	OutcomeUnread      Outcome = "Unread"      // the server would not give it
	OutcomeMissing     Outcome = "Missing"     // referred to and not there
	OutcomeConflict    Outcome = "Conflict"    // the target holds something else by that name
	OutcomeIncomplete  Outcome = "Incomplete"  // partly done; the reason says what lacks
	OutcomeHeld        Outcome = "Held"        // a pod was quiet while its group was cut
	OutcomePaused      Outcome = "Paused"      // in a plan: would be paused; in a report: still is
	OutcomeResumed     Outcome = "Resumed"     // was paused, and is as it was before
	OutcomeFailed      Outcome = "Failed"
)

// ObjectLine is one object's line in a document.
type ObjectLine struct {
	Ref     Ref     `json:"ref"`
	Outcome Outcome `json:"outcome"`
	// Reason is a sentence: why it is in, or why it is not.
	Reason string `json:"reason"`
	// Group is the name of the group it belongs to, or empty.
	Group string `json:"group,omitempty"`
	// Wave is its place in the restore order, from 0.
	Wave int `json:"wave"`
	// Warnings are things a person should look at although the outcome is good.
	Warnings []string `json:"warnings,omitempty"`
}

// VolumeLine is one volume's line in a document. Ref is the claim for a
// claim, and the pod for a volume that lives and dies with its pod.
type VolumeLine struct {
	Ref     Ref     `json:"ref"`
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason"`
	Group   string  `json:"group,omitempty"`
	// Volume is the name in the pod's spec.volumes; empty where no pod mounts it.
	Volume string `json:"volume,omitempty"`
	// VolumeKind is the source: persistentVolumeClaim, emptyDir, hostPath, ...
	VolumeKind string `json:"volumeKind"`
	// Workload is the top-level owner of the pod, where there is one.
	Workload *Ref   `json:"workload,omitempty"`
	Pod      string `json:"pod,omitempty"`
	Node     string `json:"node,omitempty"`
	// Container is the one that the data is read through.
	Container    string `json:"container,omitempty"`
	MountPath    string `json:"mountPath,omitempty"`
	StorageClass string `json:"storageClass,omitempty"`
	VolumeMode   string `json:"volumeMode,omitempty"`
	// Method is how the bytes travel: Job, HelperPod, Exec, EphemeralContainer,
	// or empty where the volume is not saved. In a plan it is Snapshot or Stream.
	Method string `json:"method,omitempty"`
	// Cut is what the bytes were read from: GroupSnapshot, Snapshot, or Live
	// for the volume itself while its workload runs; CutAt is when.
	Cut   string `json:"cut,omitempty"`
	CutAt string `json:"cutAt,omitempty"`
	// Driver is the CSI driver; SnapshotClass and GroupSnapshotClass are what
	// snapshots are made with.
	Driver             string `json:"driver,omitempty"`
	SnapshotClass      string `json:"snapshotClass,omitempty"`
	GroupSnapshotClass string `json:"groupSnapshotClass,omitempty"`
	// Capacity is in bytes, from the claim's status; 0 where unknown.
	Capacity int64 `json:"capacity,omitempty"`
	// Snapshot is the id in the repository, once saved.
	Snapshot string `json:"snapshot,omitempty"`
	// Files and Bytes count what it holds; Read is what was read of it, less
	// where files are known from an earlier backup, or the storage lists which
	// blocks hold data; Stored is what it added to the remote.
	Files  int64 `json:"files,omitempty"`
	Bytes  int64 `json:"bytes,omitempty"`
	Read   int64 `json:"read,omitempty"`
	Stored int64 `json:"stored,omitempty"`
	// Attempts is how often it was begun, where more than once.
	Attempts int `json:"attempts,omitempty"`
	// Seconds is the time that it took.
	Seconds float64 `json:"seconds,omitempty"`
	// Issues lists paths that changed, vanished or could not be read or set,
	// one sentence each, names escaped.
	Issues   []string `json:"issues,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// GroupLine is one group: what shares a point in time, and why.
type GroupLine struct {
	Name string `json:"name"`
	// Workloads are the members that others are brought along for.
	Workloads []Ref `json:"workloads"`
	// Edges are the reasons that joined the workloads.
	Edges []EdgeLine `json:"edges"`
	// Objects and Volumes count the lines that name this group.
	Objects int `json:"objects"`
	Volumes int `json:"volumes"`
	// Waves lists the members in restore order, dependencies first.
	Waves [][]Ref `json:"waves,omitempty"`
	// Cycles lists the sets of objects that depend on each other in a circle.
	Cycles [][]Ref `json:"cycles,omitempty"`
	// Cut is how its volumes become one point in time; absent where it has none.
	Cut *CutLine `json:"cut,omitempty"`
}

// CutLine says how the volumes of a group are cut, and how well that went.
type CutLine struct {
	// Method is GroupSnapshot, Snapshots (made together), Live (read while the
	// workload runs), or Mixed; Reason says why not a better one.
	Method string `json:"method"`
	Reason string `json:"reason,omitempty"`
	// At is the first cut; SkewSeconds is from there to the last.
	At          string  `json:"at,omitempty"`
	SkewSeconds float64 `json:"skewSeconds,omitempty"`
	// FrozenSeconds is from the first freeze to the last thaw.
	FrozenSeconds float64 `json:"frozenSeconds,omitempty"`
}

// HookLine is one hook in one pod.
type HookLine struct {
	// Hook is its name, Recipe what it runs, Scope where: Pod, Group, Backup.
	Hook   string `json:"hook"`
	Recipe string `json:"recipe,omitempty"`
	Scope  string `json:"scope"`
	Group  string `json:"group,omitempty"`
	// Pod and Container are where it runs.
	Pod       Ref    `json:"pod"`
	Container string `json:"container,omitempty"`
	// Outcome is Include in a plan; Held, Skipped or Failed after a run.
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason,omitempty"`
	// TTLSeconds is how long the pod holds at most.
	TTLSeconds float64 `json:"ttlSeconds,omitempty"`
	// FrozenSeconds is how long it held.
	FrozenSeconds float64 `json:"frozenSeconds,omitempty"`
}

// EdgeLine says that From needs To, and which field says so.
type EdgeLine struct {
	From Ref    `json:"from"`
	To   Ref    `json:"to"`
	Type string `json:"type"`
	// Field is the path inside From that made the edge.
	Field  string `json:"field"`
	Strong bool   `json:"strong"`
}

// Cluster identifies where a backup came from.
type Cluster struct {
	// UID is the UID of the namespace kube-system.
	UID     string `json:"uid"`
	Version string `json:"version"`
	Context string `json:"context,omitempty"`
	Server  string `json:"server,omitempty"`
}

// Provenance says where a spec was read from.
type Provenance struct {
	// Source is the file, folder or URL, without credentials.
	Source string `json:"source"`
	URL    string `json:"url,omitempty"`
	Ref    string `json:"ref,omitempty"`
	Commit string `json:"commit,omitempty"`
	Path   string `json:"path,omitempty"`
	Dirty  bool   `json:"dirty,omitempty"`
}

// ApplicationLine is an Application or ApplicationSet of Argo CD that manages
// something that is restored, or manages what does.
type ApplicationLine struct {
	Ref     Ref     `json:"ref"`
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason"`
}

// UnreadKind is a kind, or a whole API group version, that could not be read.
type UnreadKind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind,omitempty"`
	Reason  string `json:"reason"`
}

// SelectLine says what one entry of a policy's select list matched.
type SelectLine struct {
	Name     string `json:"name"`
	Matched  int    `json:"matched"`
	Optional bool   `json:"optional,omitempty"`
}

// Document is what plan, run, restore and verify print with -o json. Which
// fields are set depends on Kind; see spec/REPORT.md.
type Document struct {
	APIVersion string `json:"apiVersion"`
	// Kind is Plan, RunReport, RestoreReport or VerifyReport.
	Kind     string `json:"kind"`
	Result   Result `json:"result"`
	ExitCode int    `json:"exitCode"`
	// Error is the one error that ended the work, or empty.
	Error string `json:"error,omitempty"`
	// Backup is the id of the backup that was made or read.
	Backup      string       `json:"backup,omitempty"`
	ToolVersion string       `json:"toolVersion,omitempty"`
	Policy      string       `json:"policy,omitempty"`
	Source      *Provenance  `json:"source,omitempty"`
	Cluster     *Cluster     `json:"cluster,omitempty"`
	Target      *Cluster     `json:"target,omitempty"`
	Remote      string       `json:"remote,omitempty"`
	Select      []SelectLine `json:"select,omitempty"`
	Hooks       []HookLine   `json:"hooks,omitempty"`
	Groups      []GroupLine  `json:"groups"`
	Objects     []ObjectLine `json:"objects"`
	Volumes     []VolumeLine `json:"volumes"`
	Unread      []UnreadKind `json:"unread,omitempty"`
	// Applications lists what of Argo CD is paused while a restore works.
	Applications []ApplicationLine `json:"applications,omitempty"`
	// Mentions lists objects that hold a rewritten name in free text that was
	// left alone.
	Mentions []string `json:"mentions,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Started and Seconds are absent from a Plan, which is the same every time.
	Started string  `json:"started,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}
