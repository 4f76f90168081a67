package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Words of the snapshot controllers. A member of a group has the finalizer
// until its group is gone, and the annotation of its content names the group in
// the driver's words. A content is given up to its driver only with the mark of
// its kind.
const (
	finalizerMember      = "snapshot.storage.kubernetes.io/volumesnapshot-in-group-protection"
	annotationHandle     = "groupsnapshot.storage.k8s.io/volumeGroupSnapshotHandle"
	annotationGoing      = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
	annotationGroupGoing = "groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-being-deleted"
)

// ours are the names of snapshots and group snapshots that newName gives,
// memberName those that the controllers give to members of a group.
var (
	ours       = regexp.MustCompile(`^kubectl-backup-[0-9a-f]{16}$`)
	memberName = regexp.MustCompile(`^snapshot-[0-9a-f]{64}$`)
)

// Remnant is what the controllers made for a snapshot or a group snapshot of
// ours and did not remove with it. It has no mark of ours: controllers copy
// none. It is ours by what it belongs to, which is gone.
//
// Controllers leave members of a group when the group goes while they are being
// made, as after an outage of the API server: their finalizer is only taken off
// by whoever has seen the group's name in their status, which nobody writes any
// more. Contents are left since those whose snapshot is missing are kept, for
// whoever means to use them elsewhere.
type Remnant struct {
	Ref v1alpha1.Ref
	UID string
	// Of is the snapshot or the group snapshot that it belongs to.
	Of v1alpha1.Ref
	// Object is how it was found.
	Object *object.Object

	kind kube.Kind
	live *live
}

// Held says that it is on its way, and that whoever drives it will take it
// there.
func (r Remnant) Held() bool {
	return r.Object.Deleting && !r.stuck() && (r.member() || r.Object.Annotations[r.going()] != "")
}

func (r Remnant) member() bool { return r.Ref.Kind == "VolumeSnapshot" }

// stuck says that nobody will take its finalizer off.
func (r Remnant) stuck() bool {
	return r.member() && r.live.Status.GroupName == "" && slices.Contains(r.live.Metadata.Finalizers, finalizerMember)
}

// going is the annotation that gives a content up.
func (r Remnant) going() string {
	if r.Ref.Group == groupGroup {
		return annotationGroupGoing
	}
	return annotationGoing
}

// search is one look for remnants.
type search struct {
	c         *kube.Cluster
	namespace string
	kinds     map[string]kube.Kind
	roots     map[v1alpha1.Ref]string // UIDs of snapshots and groups; empty where there is none
	handles   map[string]root         // groups by their driver and its handle
	members   map[v1alpha1.Ref]root   // groups by their members
}

// root is what a remnant belongs to.
type root struct {
	ref v1alpha1.Ref
	uid string
}

// Remnants finds them in a namespace, or in all. Kinds that may not be listed
// are in the second list.
func Remnants(ctx context.Context, c *kube.Cluster, namespace string) ([]Remnant, []error, error) {
	s := &search{c: c, namespace: namespace, kinds: map[string]kube.Kind{}, roots: map[v1alpha1.Ref]string{}, handles: map[string]root{}, members: map[v1alpha1.Ref]root{}}
	for kind, g := range map[string]string{"VolumeSnapshot": group, "VolumeSnapshotContent": group, "VolumeGroupSnapshot": groupGroup, "VolumeGroupSnapshotContent": groupGroup} {
		k, err := c.FindKind(ctx, g, "", kind)
		if errors.As(err, new(*kube.NotServedError)) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		s.kinds[kind] = k
	}
	var unread []error
	look := func(kind string, of func(*object.Object, *live) root) (found []Remnant, err error) {
		found, err = s.list(ctx, kind, of)
		if _, _, denied := kube.Denied(err); denied {
			// Who may look at one namespace only is not expected to see more.
			if namespace == "" || kind == "VolumeSnapshot" {
				unread = append(unread, err)
			}
			return nil, nil
		}
		return found, err
	}
	groups, err := look("VolumeGroupSnapshotContent", s.ofGroupContent)
	if err != nil {
		return nil, nil, err
	}
	members, err := look("VolumeSnapshot", s.ofMember)
	if err != nil {
		return nil, nil, err
	}
	contents, err := look("VolumeSnapshotContent", s.ofContent)
	if err != nil {
		return nil, nil, err
	}
	// By what comes later it is known what the earlier belongs to.
	return slices.Concat(contents, members, groups), unread, nil
}

// list finds the remnants of a kind; of says what one belongs to, as far as that
// is ours.
func (s *search) list(ctx context.Context, kind string, of func(*object.Object, *live) root) (found []Remnant, err error) {
	k, served := s.kinds[kind]
	if !served {
		return nil, nil
	}
	o := kube.ListOptions{}
	if k.Namespaced {
		o.Namespace = s.namespace
	}
	_, err = s.c.List(ctx, k, o, func(ob *object.Object) error {
		l, err := readLive(ob)
		if err != nil {
			return err
		}
		r := of(ob, l)
		if r.ref.Name == "" || s.namespace != "" && r.ref.Namespace != s.namespace {
			return nil
		}
		gone, err := s.gone(ctx, r)
		if gone {
			found = append(found, Remnant{Ref: ob.Ref, UID: ob.UID, Of: r.ref, Object: ob, kind: k, live: l})
		}
		return err
	})
	return found, err
}

func (s *search) ofGroupContent(_ *object.Object, l *live) root {
	r := l.Spec.GroupRef
	if !ours.MatchString(r.Name) || r.UID == "" || len(l.Spec.Source.VolumeHandles) == 0 {
		return root{}
	}
	of := root{v1alpha1.Ref{Group: groupGroup, Kind: "VolumeGroupSnapshot", Namespace: r.Namespace, Name: r.Name}, r.UID}
	if l.Status.GroupHandle != "" {
		s.handles[l.Spec.Driver+" "+l.Status.GroupHandle] = of
	}
	return of
}

func (s *search) ofMember(o *object.Object, _ *live) root {
	for _, w := range o.Owners {
		if g, _, _ := strings.Cut(w.APIVersion, "/"); g == groupGroup && w.Kind == "VolumeGroupSnapshot" && ours.MatchString(w.Name) {
			of := root{v1alpha1.Ref{Group: groupGroup, Kind: w.Kind, Namespace: o.Ref.Namespace, Name: w.Name}, w.UID}
			s.members[o.Ref.Key()] = of
			return of
		}
	}
	return root{}
}

func (s *search) ofContent(o *object.Object, l *live) root {
	r := l.Spec.Ref
	snapshot := v1alpha1.Ref{Group: group, Kind: "VolumeSnapshot", Namespace: r.Namespace, Name: r.Name}
	switch {
	case l.Spec.Source.VolumeHandle == "":
		return root{} // made by hand
	case ours.MatchString(r.Name) && r.UID != "":
		return root{snapshot, r.UID}
	case !memberName.MatchString(r.Name):
		return root{}
	}
	if of, known := s.members[snapshot]; known {
		return of
	}
	return s.handles[l.Spec.Driver+" "+o.Annotations[annotationHandle]]
}

// gone says whether what something belongs to is not there any more. Of a kind
// that cannot be looked for nobody knows.
func (s *search) gone(ctx context.Context, of root) (bool, error) {
	uid, known := s.roots[of.ref]
	if !known {
		k, served := s.kinds[of.ref.Kind]
		if !served {
			return false, nil
		}
		o, err := s.c.Get(ctx, k, of.ref.Namespace, of.ref.Name)
		switch {
		case err == nil:
			uid = o.UID
		case !apierrors.IsNotFound(err):
			return false, err
		}
		s.roots[of.ref] = uid
	}
	return uid != of.uid, nil
}

// Remove removes it. It does not wait. mark makes what is removed one of ours,
// so that it is found again should it not go at once.
func (r Remnant) Remove(ctx context.Context, c *kube.Cluster, mark func(*metav1.ObjectMeta)) error {
	if !r.member() {
		return r.giveUp(ctx, c, mark)
	}
	if r.stuck() {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": r.UID, "resourceVersion": r.Object.Version,
			"finalizers": slices.DeleteFunc(slices.Clone(r.live.Metadata.Finalizers), func(f string) bool { return f == finalizerMember }),
		}})
		if err != nil {
			return err
		}
		if _, err := c.Patch(ctx, r.kind, r.Ref.Namespace, r.Ref.Name, types.MergePatchType, patch, kube.WriteOptions{}); err != nil {
			return passing(err)
		}
	}
	return passing(c.Delete(ctx, r.kind, r.Ref.Namespace, r.Ref.Name, kube.DeleteOptions{UID: r.UID, Propagation: "Background"}))
}

// giveUp has a driver drop what is behind a content, together with the content.
func (r Remnant) giveUp(ctx context.Context, c *kube.Cluster, mark func(*metav1.ObjectMeta)) error {
	var m metav1.ObjectMeta
	mark(&m)
	m.Annotations[r.going()] = "yes"
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": r.UID, "labels": m.Labels, "annotations": m.Annotations},
		"spec":     map[string]any{"deletionPolicy": "Delete"},
	})
	if err != nil {
		return err
	}
	if _, err := c.Patch(ctx, r.kind, "", r.Ref.Name, types.MergePatchType, patch, kube.WriteOptions{}); err != nil {
		return passing(fmt.Errorf("have the storage drop it: %w", err))
	}
	return passing(c.Delete(ctx, r.kind, "", r.Ref.Name, kube.DeleteOptions{UID: r.UID, Propagation: "Background"}))
}

// passing leaves out what another look at the cluster settles: it went
// meanwhile, or changed.
func passing(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
