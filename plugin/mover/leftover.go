package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/snapshot"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// abandoned is the age at which something of another host that nothing
	// uses is taken for left behind: its maker has given up long before.
	abandoned = time.Hour
	// longest is that age for what a run of another host may still be using,
	// an hour more than a volume takes at most.
	longest = 25 * time.Hour
	// podEnd bounds the wait for a pod to go, which takes nothing but a
	// finalizer of somebody else's.
	podEnd = 30 * time.Second
)

// temporaryKind is one kind of what runs make, and where it is served.
type temporaryKind struct {
	group, kind string
	clustered   bool
	// labelOnly says that the object is the application's, and that only the
	// label is ours; owner is the annotation that says whose it is.
	labelOnly    bool
	label, owner string
}

const snapshots, groupSnapshots = "snapshot.storage.k8s.io", "groupsnapshot.storage.k8s.io"

// temporaryKinds are in the order in which they are removed: what uses before
// what is used.
var temporaryKinds = []temporaryKind{
	{kind: "Namespace", clustered: true}, // of a drill, as are definitions
	{group: definitionGroup, kind: definitionKind, clustered: true},
	{group: "batch", kind: "Job"},
	{kind: "Pod"},
	{kind: "Secret"},
	{kind: "PersistentVolumeClaim"},
	{group: groupSnapshots, kind: "VolumeGroupSnapshot"},
	{group: snapshots, kind: "VolumeSnapshot"},
	{group: groupSnapshots, kind: "VolumeGroupSnapshotContent", clustered: true},
	{group: snapshots, kind: "VolumeSnapshotContent", clustered: true},
	{kind: "PersistentVolumeClaim", label: kube.LabelCut, owner: kube.AnnotationCutOwner, labelOnly: true},
}

// Left is something temporary whose maker is gone.
type Left struct {
	Ref v1alpha1.Ref
	UID string
	// Label is set where the object is an application's own, and only this
	// label on it is left.
	Label string
	// Held is set where it is being deleted already: what is known of why it
	// is still there. Asking again would change nothing.
	Held string
	// Host is set where it may still be in use there.
	Host string

	kind temporaryKind
	live kube.Kind
	// content is the bound content of a snapshot of ours, volume the volume of a
	// claim of ours.
	content, volume string
	// remnant is set where it has no mark of ours.
	remnant *snapshot.Remnant
}

func (l Left) String() string {
	switch {
	case l.Label != "":
		return "label " + l.Label + " of " + l.Ref.String()
	case l.Held != "":
		return l.Ref.String() + " (" + l.Held + ")"
	}
	return l.Ref.String()
}

// Search says where to look.
type Search struct {
	// Namespace is the only one to look in; empty means all.
	Namespace string
	// NoSnapshots leaves out what controllers made for snapshots, which has to
	// be looked for in the whole cluster. For a policy that takes none, who may
	// see one namespace only is not made to ask for more.
	NoSnapshots bool
	// Foreign is the age at which things of other hosts, whose processes
	// cannot be looked at, are taken for left behind. Zero means an hour, and a
	// day for what may be in use.
	Foreign time.Duration
}

// Found is what a search found of what runs make for themselves.
type Found struct {
	// Left is what they did not remove, and what others made for that, in the
	// order in which it has to be removed.
	Left []Left
	// Kept is what runs of other hosts made that may be going on.
	Kept []Left
	// Unread says which kinds may not be listed. Those that are not served are
	// passed over.
	Unread []error
}

// LeftBehind looks for what runs left behind.
func LeftBehind(ctx context.Context, c *kube.Cluster, s Search) (Found, error) {
	parts := make([]Found, len(temporaryKinds))
	var remnants []snapshot.Remnant
	var all Found
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for n, t := range temporaryKinds {
		group.Go(func() (err error) {
			parts[n], err = t.find(ctx, c, s)
			if _, _, denied := kube.Denied(err); denied {
				parts[n], err = Found{Unread: []error{err}}, nil
			}
			return err
		})
	}
	group.Go(func() (err error) {
		if s.NoSnapshots {
			return nil
		}
		remnants, all.Unread, err = snapshot.Remnants(ctx, c, s.Namespace)
		return err
	})
	if err := group.Wait(); err != nil {
		return Found{}, err
	}
	for _, p := range parts {
		all.Left, all.Kept, all.Unread = append(all.Left, p.Left...), append(all.Kept, p.Kept...), append(all.Unread, p.Unread...)
	}
	for _, r := range remnants {
		// It has our mark where it was asked to go before.
		all.Left = slices.DeleteFunc(all.Left, func(l Left) bool { return l.UID == r.UID })
		all.Kept = slices.DeleteFunc(all.Kept, func(l Left) bool { return l.UID == r.UID })
		l := Left{Ref: r.Ref, UID: r.UID, remnant: &r}
		if r.Held() {
			l.Held = kube.Summary(r.Object)
		}
		all.Left = append(all.Left, l)
	}
	// Kinds that two looks concern are told once.
	slices.SortFunc(all.Unread, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	all.Unread = slices.CompactFunc(all.Unread, func(a, b error) bool { return a.Error() == b.Error() })
	return all, nil
}

func (t temporaryKind) find(ctx context.Context, c *kube.Cluster, s Search) (out Found, err error) {
	k, err := c.FindKind(ctx, t.group, "", t.kind)
	if errors.As(err, new(*kube.NotServedError)) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	o := kube.ListOptions{Namespace: s.Namespace, LabelSelector: kube.LabelTemporary + "=true"}
	if t.label != "" {
		o.LabelSelector = t.label
	}
	if t.clustered && s.Namespace != "" {
		// Who may see one namespace only could not make them either; the
		// contents of its snapshots go with these.
		return out, nil
	}
	_, err = c.List(ctx, k, o, func(ob *object.Object) error {
		var x thing
		if err := json.Unmarshal(ob.Raw, &x); err != nil {
			return fmt.Errorf("read %s: %w", ob.Ref, err)
		}
		l := Left{Ref: ob.Ref, UID: ob.UID, Label: t.label, kind: t, live: k, content: x.Status.Content + x.Status.GroupContent, volume: x.Spec.Volume}
		if ob.Deleting && !t.labelOnly {
			l.Held = kube.Summary(ob)
		}
		switch owner, _ := t.made(&x); {
		case t.leftBehind(&x, s, time.Now()):
			out.Left = append(out.Left, l)
		case lifeOf(owner) == unknown && metav1.GetControllerOf(&x.Metadata) == nil:
			l.Host, _, _ = strings.Cut(owner, "/")
			out.Kept = append(out.Kept, l)
		}
		return nil
	})
	return out, err
}

// thing is what has to be known of any temporary object.
type thing struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Deadline *int64 `json:"activeDeadlineSeconds"`
		Volume   string `json:"volumeName"`
	} `json:"spec"`
	Status struct {
		Phase        string             `json:"phase"`
		Conditions   []metav1.Condition `json:"conditions"`
		Content      string             `json:"boundVolumeSnapshotContentName"`
		GroupContent string             `json:"boundVolumeGroupSnapshotContentName"`
	} `json:"status"`
}

func (x *thing) ended() bool {
	for _, c := range x.Status.Conditions {
		if (c.Type == "Complete" || c.Type == "Failed") && c.Status == metav1.ConditionTrue {
			return true
		}
	}
	return x.Status.Phase == "Succeeded" || x.Status.Phase == "Failed"
}

// made says what process made something, and when.
func (t temporaryKind) made(x *thing) (owner string, at time.Time) {
	m := &x.Metadata
	if !t.labelOnly {
		return m.Annotations[AnnotationOwner], m.CreationTimestamp.Time
	}
	// The object is older than the label.
	owner, when, _ := strings.Cut(m.Annotations[t.owner], " ")
	at, _ = time.Parse(time.RFC3339, when)
	return owner, at
}

// leftBehind says whether the process that made something is gone.
func (t temporaryKind) leftBehind(x *thing, s Search, now time.Time) bool {
	m := &x.Metadata
	if metav1.GetControllerOf(m) != nil && !t.labelOnly {
		return false // it goes with its controller
	}
	owner, made := t.made(x)
	if t.kind == "Pod" && x.ended() {
		return true // a helper pod that ended is of no use to anybody
	}
	switch lifeOf(owner) {
	case alive:
		return false
	case gone:
		return true
	}
	age := now.Sub(made)
	if s.Foreign > 0 {
		return age > s.Foreign
	}
	switch {
	case t.labelOnly, t.kind == "Job" && x.ended(), t.kind == "Pod" && x.Status.Phase == "Pending", t.kind == "Secret" && len(m.OwnerReferences) == 0:
		return age > abandoned
	case t.kind == "Job" && x.Spec.Deadline != nil:
		return age > time.Duration(*x.Spec.Deadline)*time.Second+abandoned
	}
	return age > longest
}

// Remove removes what was found, in its order, and goes on after an error. It
// does not wait: see RemoveAll.
func Remove(ctx context.Context, c *kube.Cluster, left []Left) error {
	var errs []error
	for _, l := range left {
		if err := l.remove(ctx, c); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("%s: %w", l, err))
		}
	}
	return errors.Join(errs...)
}

func (l Left) remove(ctx context.Context, c *kube.Cluster) error {
	switch {
	case l.Ref.Kind == "Pod": // also one whose node never said that it ended
		ctx, cancel := context.WithTimeoutCause(ctx, podEnd, fmt.Errorf("still there after %s", podEnd))
		defer cancel()
		return c.DeletePod(ctx, l.Ref.Namespace, l.Ref.Name, l.UID)
	case l.Held != "":
		return nil
	case l.remnant != nil:
		return l.remnant.Remove(ctx, c, Mark)
	case l.Label != "":
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": l.UID, "labels": map[string]any{l.Label: nil}, "annotations": map[string]any{l.kind.owner: nil},
		}})
		if err != nil {
			return err
		}
		_, err = c.Patch(ctx, l.live, l.Ref.Namespace, l.Ref.Name, types.MergePatchType, patch, kube.WriteOptions{})
		return err
	case l.Ref.Kind == "Namespace":
		_, err := RemoveNamespace(ctx, c, l.Ref.Name, l.UID)
		return err
	case l.Ref.Kind == definitionKind:
		_, err := RemoveDefinition(ctx, c, l.Ref.Name, l.UID)
		return err
	}
	if l.content != "" {
		if err := l.letGo(ctx, c); err != nil {
			return err
		}
	}
	if l.volume != "" {
		if err := l.letVolumeGo(ctx, c); err != nil {
			return err
		}
	}
	err := c.Delete(ctx, l.live, l.Ref.Namespace, l.Ref.Name, kube.DeleteOptions{UID: l.UID, Propagation: "Background"})
	if apierrors.IsConflict(err) {
		return nil // another one by the same name
	}
	return err
}

// between two looks at what is left; it is also what a controller needs at most
// to make what it was about to make.
const between = time.Second

// RemoveAll removes what is left behind, and what shows only then, and looks on
// until all is gone, for no longer than patience. It returns what is still
// there, and an error of what could not be asked for. show is called once for
// each thing.
func RemoveAll(ctx context.Context, c *kube.Cluster, s Search, left []Left, patience time.Duration, show func(Left)) ([]Left, error) {
	end := time.Now().Add(patience)
	shown := map[string]bool{}
	for {
		for _, l := range left {
			if id := l.UID + l.Label; !shown[id] {
				shown[id] = true
				show(l)
			}
		}
		err := Remove(ctx, c, left)
		if len(left) == 0 || time.Now().After(end) {
			return left, err
		}
		select {
		case <-ctx.Done():
			return left, context.Cause(ctx)
		case <-time.After(between):
		}
		found, lookErr := LeftBehind(ctx, c, s)
		if lookErr != nil {
			return left, errors.Join(err, lookErr)
		}
		left = found.Left
	}
}

// letGo has the storage drop a snapshot of ours together with its object, also
// where its class says that snapshots are kept: that is meant for snapshots
// that somebody wants.
func (l Left) letGo(ctx context.Context, c *kube.Cluster) error {
	k, err := c.FindKind(ctx, l.Ref.Group, l.Ref.Version, l.Ref.Kind+"Content")
	if err != nil {
		return err
	}
	_, err = c.Patch(ctx, k, "", l.content, types.MergePatchType, []byte(`{"spec":{"deletionPolicy":"Delete"}}`), kube.WriteOptions{})
	if _, _, denied := kube.Denied(err); denied || apierrors.IsNotFound(err) {
		return nil // without the right, the class decides
	}
	return err
}

// letVolumeGo is the same for the volume of a claim of ours.
func (l Left) letVolumeGo(ctx context.Context, c *kube.Cluster) error {
	k, err := c.FindKind(ctx, "", "v1", "PersistentVolume")
	if err != nil {
		return err
	}
	o, err := c.Get(ctx, k, "", l.volume)
	if err == nil {
		var v struct {
			Spec struct {
				ClaimRef struct {
					UID string `json:"uid"`
				} `json:"claimRef"`
			} `json:"spec"`
		}
		if err = json.Unmarshal(o.Raw, &v); err == nil && v.Spec.ClaimRef.UID == l.UID {
			_, err = c.Patch(ctx, k, "", l.volume, types.MergePatchType, []byte(`{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`), kube.WriteOptions{})
		}
	}
	if _, _, denied := kube.Denied(err); denied || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Sweep removes what dead runs left behind. What the caller may not list, it
// has not made there either.
func Sweep(ctx context.Context, c *kube.Cluster, s Search) error {
	found, err := LeftBehind(ctx, c, s)
	if err != nil {
		return err
	}
	return Remove(ctx, c, found.Left)
}
