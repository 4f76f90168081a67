package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Methods of a cut, as reports name them.
const (
	MethodGroup  = "GroupSnapshot"
	MethodSingle = "Snapshots"
)

// together is how many requests of one cut are sent at once. It is far more
// than a group has volumes, as a rule: each one that waits adds to the skew.
const together = 64

var (
	claims  = kube.Kind{GVK: schema.GroupVersionKind{Version: "v1", Kind: "PersistentVolumeClaim"}, Resource: "persistentvolumeclaims", Namespaced: true}
	volumes = kube.Kind{GVK: schema.GroupVersionKind{Version: "v1", Kind: "PersistentVolume"}, Resource: "persistentvolumes"}
)

// Volume is a claim that is to be cut, and with what.
type Volume struct {
	Claim  v1alpha1.Ref
	Driver string
	// Class and GroupClass are as Support chose them; an empty GroupClass means
	// that there is no group snapshot.
	Class, GroupClass string
}

// Options say how a cut is made.
type Options struct {
	// Run is the backup that it is for.
	Run string
	// Mark makes an object one of ours, CutMark a label and its annotation for
	// claims that a group snapshot selects.
	Mark    func(*metav1.ObjectMeta)
	CutMark func(value string) (labels, annotations map[string]string)
	// Patience bounds the cut: the time until each snapshot has been taken.
	Patience time.Duration
	// GroupPatience bounds how long a group snapshot is waited for before
	// snapshots of its volumes are made instead.
	GroupPatience time.Duration
}

// Cut is one point in time of several volumes, as far as they could be cut. It
// is made by Prepare, Take and Settle, in this order; then Claim and Release
// may be called for its volumes from several goroutines, and Remove at the end
// whatever happened.
type Cut struct {
	// Method is how it was made; Reason says why not as a group snapshot.
	Method, Reason string
	// At is when the first volume was cut, Skew from there to the last.
	At   time.Time
	Skew time.Duration

	c       *kube.Cluster
	support *Support
	o       Options
	parts   []*part

	groupClass, namespace, selector string // where it is a group snapshot
	groupName, groupUID             string // made, or tried
	retain                          bool

	once    sync.Once // the group's members are looked for once
	members error
	found   bool // and all are there
}

// part is one volume of a cut.
type part struct {
	Volume
	claim  *corev1.PersistentVolumeClaim
	handle string // of the driver; empty where volumes may not be read
	at     time.Time
	err    error

	snapshot, restored string // names of its snapshot, and of the claim made from that
	ofGroup, retain    bool
	labelled           bool // its claim may have our label
}

// Prepare reads the claims and gets ready all that takes time and does not
// need a quiet application. What is wrong with one volume is told by Err.
func Prepare(ctx context.Context, c *kube.Cluster, s *Support, list []Volume, o Options) (*Cut, error) {
	cut := &Cut{Method: MethodSingle, c: c, support: s, o: o}
	for _, v := range list {
		cut.parts = append(cut.parts, &part{Volume: v, retain: policyOf(s.Classes, v.Class) == "Retain"})
	}
	read, readCtx := errgroup.WithContext(ctx)
	read.SetLimit(8)
	for _, p := range cut.parts {
		read.Go(func() error {
			p.err = cut.read(readCtx, p)
			return readCtx.Err()
		})
	}
	if err := read.Wait(); err != nil {
		return nil, err
	}
	if cut.Reason = cut.plan(); cut.Reason != "" || cut.groupClass == "" {
		return cut, nil
	}
	if err := cut.label(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), cut.unlabel(context.WithoutCancel(ctx)))
		}
		cut.Reason = "the claims could not be labelled for a group snapshot: " + oneLine(err)
		return cut, cut.unlabel(ctx)
	}
	return cut, nil
}

func policyOf(classes []Class, name string) string {
	for _, c := range classes {
		if c.Name == name {
			return c.DeletionPolicy
		}
	}
	return ""
}

// read looks at a claim as it is now, and at the volume behind it.
func (c *Cut) read(ctx context.Context, p *part) error {
	claim, err := c.c.Typed().CoreV1().PersistentVolumeClaims(p.Claim.Namespace).Get(ctx, p.Claim.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read claim: %w", err)
	}
	p.claim = claim
	switch {
	case claim.DeletionTimestamp != nil:
		return errors.New("the claim is being deleted")
	case claim.Status.Phase != corev1.ClaimBound:
		return fmt.Errorf("the claim is %s", claim.Status.Phase)
	}
	volume, err := c.c.Typed().CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if _, _, denied := kube.Denied(err); denied {
		return nil // the driver is the plan's, and the cut has one time for all
	}
	if err != nil {
		return fmt.Errorf("read its volume: %w", err)
	}
	switch csi := volume.Spec.CSI; {
	case csi == nil:
		return fmt.Errorf("its volume %s is not of a CSI driver", volume.Name)
	case csi.Driver != p.Driver:
		return fmt.Errorf("its volume %s is of driver %s now, and was of %s when the run was planned", volume.Name, csi.Driver, p.Driver)
	default:
		p.handle = csi.VolumeHandle
	}
	return nil
}

// plan decides whether one group snapshot holds all, as it was asked for, or
// says why it cannot.
func (c *Cut) plan() string {
	good := c.good()
	if len(good) < 2 {
		return "" // one volume is one point in time
	}
	first := good[0]
	for _, p := range good {
		switch {
		case p.GroupClass == "":
			return "" // it was not asked for
		case p.Driver != first.Driver:
			return fmt.Sprintf("a group snapshot is of one driver, and these are of %s and %s", first.Driver, p.Driver)
		case p.GroupClass != first.GroupClass:
			return fmt.Sprintf("a group snapshot has one class, and the policy names %s and %s", first.GroupClass, p.GroupClass)
		case p.Claim.Namespace != first.Claim.Namespace:
			return fmt.Sprintf("a group snapshot is of one namespace, and these are of %s and %s", first.Claim.Namespace, p.Claim.Namespace)
		}
	}
	c.groupClass, c.namespace, c.selector = first.GroupClass, first.Claim.Namespace, random()
	c.retain = policyOf(c.support.GroupClasses, c.groupClass) == "Retain"
	return ""
}

// good are the volumes that nothing is wrong with so far.
func (c *Cut) good() []*part {
	return slices.DeleteFunc(slices.Clone(c.parts), func(p *part) bool { return p.err != nil })
}

// label puts a label of ours on the claims: there is no other way to say which
// ones a group snapshot is of.
func (c *Cut) label(ctx context.Context) error {
	labels, annotations := c.o.CutMark(c.selector)
	return c.each(c.good(), func(p *part) error {
		p.labelled = true // also where the answer is lost
		return c.patchClaim(ctx, p, map[string]any{"uid": p.claim.UID, "labels": labels, "annotations": annotations})
	})
}

// unlabel takes the label off again, of every claim that may have it, whatever
// became of its snapshot. It does nothing where there is none.
func (c *Cut) unlabel(ctx context.Context) error {
	labels, annotations := c.o.CutMark(c.selector)
	return c.each(c.labelled(), func(p *part) error {
		err := c.patchClaim(ctx, p, map[string]any{"uid": p.claim.UID, "labels": nothing(labels), "annotations": nothing(annotations)})
		if apierrors.IsConflict(err) {
			err = nil // another claim of that name, without our label
		}
		p.labelled = err != nil
		return err
	})
}

// labelled are the volumes whose claims may have our label.
func (c *Cut) labelled() []*part {
	return slices.DeleteFunc(slices.Clone(c.parts), func(p *part) bool { return !p.labelled })
}

// nothing has the keys of m; in a merge patch that removes them.
func nothing(m map[string]string) map[string]any {
	out := map[string]any{}
	for key := range m {
		out[key] = nil
	}
	return out
}

func (c *Cut) patchClaim(ctx context.Context, p *part, metadata any) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = c.c.Patch(ctx, claims, p.Claim.Namespace, p.Claim.Name, types.MergePatchType, patch, kube.WriteOptions{})
	if apierrors.IsNotFound(err) {
		return nil // and its label went with it
	}
	if err != nil {
		return fmt.Errorf("claim %s/%s: %w", p.Claim.Namespace, p.Claim.Name, err)
	}
	return nil
}

// each does the same for several volumes at once, all of them whatever fails.
func (c *Cut) each(parts []*part, do func(*part) error) error {
	errs := make([]error, len(parts))
	var group errgroup.Group
	group.SetLimit(together)
	for n, p := range parts {
		group.Go(func() error {
			errs[n] = do(p)
			return nil
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// Take cuts: it returns as soon as each snapshot has been taken, or has failed,
// which Err tells. It does not wait until they can be read.
func (c *Cut) Take(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.o.Patience, fmt.Errorf("no snapshot within %s", c.o.Patience))
	defer cancel()
	if len(c.labelled()) > 0 {
		if err := c.takeGroup(ctx); err == nil {
			c.Method = MethodGroup
			c.measure()
			return nil
		} else if ctx.Err() != nil {
			c.fail(err)
			return c.interrupted(ctx)
		} else {
			c.Reason = "the group snapshot failed: " + oneLine(err)
		}
	}
	c.each(c.good(), func(p *part) error {
		p.err = c.takeSingle(ctx, p)
		return nil
	})
	c.measure()
	return c.interrupted(ctx)
}

// interrupted is an error where the run ended, not where a cut took too long.
func (c *Cut) interrupted(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	return nil
}

func (c *Cut) fail(err error) {
	for _, p := range c.good() {
		p.err = err
	}
}

// measure finds the first and the last cut.
func (c *Cut) measure() {
	var last time.Time
	for _, p := range c.good() {
		if c.At.IsZero() || p.at.Before(c.At) {
			c.At = p.at
		}
		if p.at.After(last) {
			last = p.at
		}
	}
	if !c.At.IsZero() {
		c.Skew = last.Sub(c.At)
	}
}

// Settle undoes what only the cut itself needed. It is called when the
// application goes on.
func (c *Cut) Settle(ctx context.Context) error {
	err := c.unlabel(ctx)
	if c.Method != MethodGroup && c.groupName != "" {
		err = errors.Join(err, c.deleteGroup(ctx))
	}
	return err
}

// Err says why a volume has no snapshot.
func (c *Cut) Err(claim v1alpha1.Ref) error {
	if p := c.part(claim); p != nil {
		return p.err
	}
	return fmt.Errorf("%s is not of this cut", claim)
}

// Time is when a volume was cut.
func (c *Cut) Time(claim v1alpha1.Ref) time.Time {
	if p := c.part(claim); p != nil {
		return p.at
	}
	return time.Time{}
}

func (c *Cut) part(claim v1alpha1.Ref) *part {
	i := slices.IndexFunc(c.parts, func(p *part) bool { return p.Claim.Key() == claim.Key() })
	if i < 0 {
		return nil
	}
	return c.parts[i]
}

// metadata is that of something of ours.
func (c *Cut) metadata(namespace, name string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: namespace, Name: name}
	c.o.Mark(&m)
	if c.o.Run != "" {
		m.Labels[kube.LabelRun] = c.o.Run
	}
	return m
}

func random() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func newName() string { return "kubectl-backup-" + random() }

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
