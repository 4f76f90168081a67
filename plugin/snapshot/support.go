// Package snapshot makes a point in time of many volumes: CSI snapshots of
// their claims, together where driver and API allow, and claims from them that
// a mover can read.
//
// Everything that it makes carries the caller's mark, and is removed wholly:
// what lies behind a snapshot of ours goes too, also where its class says
// Retain. What it did not make it neither changes nor removes, but for one
// label that a claim wears while its group is cut, since group snapshots
// choose claims by label.
//
// It does not freeze anything, does not move bytes, and does not decide what
// is snapshotted.
package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

const (
	group      = "snapshot.storage.k8s.io"
	groupGroup = "groupsnapshot.storage.k8s.io"

	annotationDefault = "snapshot.storage.kubernetes.io/is-default-class"
	annotationGroup   = "groupsnapshot.storage.kubernetes.io/is-default-class"
)

// groupVersions are the versions of group snapshots that can be used, best first.
var groupVersions = []string{"v1", "v1beta2"}

// Support is what a cluster offers: the kinds that it serves, and the classes.
type Support struct {
	// GroupVersion is the version of group snapshots, or empty.
	GroupVersion string
	// Classes and GroupClasses are sorted by name.
	Classes, GroupClasses []Class

	snapshots, contents           kube.Kind
	groupSnapshots, groupContents kube.Kind

	reason, groupReason string // why there are none, where that is so

	asking sync.Mutex
	blocks map[string]blocks // by driver
}

// Class is a VolumeSnapshotClass or a VolumeGroupSnapshotClass.
type Class struct {
	Name, Driver string
	// DeletionPolicy is Delete or Retain.
	DeletionPolicy string
	Default        bool
}

// Discover finds out what the cluster offers. A cluster without snapshots is
// no error: then no driver has a class, and Class says why.
func Discover(ctx context.Context, c *kube.Cluster) (*Support, error) {
	s := &Support{}
	var err error
	s.reason, err = s.read(ctx, c, []string{"v1"}, group, map[string]*kube.Kind{"VolumeSnapshot": &s.snapshots, "VolumeSnapshotContent": &s.contents}, "VolumeSnapshotClass", annotationDefault, &s.Classes)
	if err != nil || s.reason != "" {
		s.groupReason = s.reason
		return s, err
	}
	s.groupReason, err = s.read(ctx, c, groupVersions, groupGroup, map[string]*kube.Kind{"VolumeGroupSnapshot": &s.groupSnapshots, "VolumeGroupSnapshotContent": &s.groupContents}, "VolumeGroupSnapshotClass", annotationGroup, &s.GroupClasses)
	if s.groupReason == "" {
		s.GroupVersion = s.groupSnapshots.GVK.Version
	}
	return s, err
}

// read looks for the kinds of an API group at the first version that has them
// all, and lists the classes. reason says why there are none.
func (s *Support) read(ctx context.Context, c *kube.Cluster, versions []string, group string, kinds map[string]*kube.Kind, class, annotation string, into *[]Class) (reason string, err error) {
	var found kube.Kind
	for _, version := range versions {
		reason = ""
		for name, kind := range kinds {
			if *kind, err = c.FindKind(ctx, group, version, name); err != nil {
				break
			}
		}
		if err == nil {
			found, err = c.FindKind(ctx, group, version, class)
		}
		if err == nil {
			break
		}
		var missing *kube.NotServedError
		if !errors.As(err, &missing) {
			return "", err
		}
		if reason = "the cluster does not serve " + group; len(missing.Served) > 0 {
			reason = fmt.Sprintf("the cluster serves %s at %s, and %s is needed", group, strings.Join(missing.Served, ", "), strings.Join(versions, " or "))
		}
	}
	if reason != "" {
		return reason, nil
	}
	_, err = c.List(ctx, found, kube.ListOptions{}, func(o *object.Object) error {
		content, err := o.Content()
		if err != nil {
			return err
		}
		driver, _ := content["driver"].(string)
		policy, _ := content["deletionPolicy"].(string)
		*into = append(*into, Class{Name: o.Ref.Name, Driver: driver, DeletionPolicy: policy, Default: o.Annotations[annotation] == "true"})
		return nil
	})
	if _, _, denied := kube.Denied(err); denied {
		return err.Error(), nil
	}
	slices.SortFunc(*into, func(a, b Class) int { return cmp.Compare(a.Name, b.Name) })
	return "", err
}

// Class chooses the VolumeSnapshotClass for a driver: the one that is wanted,
// else the driver's default, else its only one.
func (s *Support) Class(driver, wanted string) (string, error) {
	if s.reason != "" {
		return "", fmt.Errorf("no snapshots: %s (install the snapshot CRDs and controller of the driver's vendor, or let a volume rule say Stream)", s.reason)
	}
	return choose("VolumeSnapshotClass", annotationDefault, "snapshotClass", s.Classes, driver, wanted)
}

// GroupClass chooses the VolumeGroupSnapshotClass for a driver likewise.
func (s *Support) GroupClass(driver, wanted string) (string, error) {
	if s.groupReason != "" {
		return "", fmt.Errorf("no group snapshots: %s", s.groupReason)
	}
	return choose("VolumeGroupSnapshotClass", annotationGroup, "groupSnapshotClass", s.GroupClasses, driver, wanted)
}

func choose(kind, annotation, field string, all []Class, driver, wanted string) (string, error) {
	var names, defaults, any []string
	for _, c := range all {
		any = append(any, c.Name)
		if c.Name == wanted {
			if c.Driver != driver {
				return "", fmt.Errorf("%s %s is of driver %s, and the volume is of %s (name another in the volume rule's %s)", kind, wanted, c.Driver, driver, field)
			}
			return wanted, nil
		}
		if c.Driver != driver {
			continue
		}
		names = append(names, c.Name)
		if c.Default {
			defaults = append(defaults, c.Name)
		}
	}
	switch {
	case wanted != "":
		return "", fmt.Errorf("%s %s does not exist (there is: %s)", kind, wanted, orNone(any))
	case len(defaults) == 1:
		return defaults[0], nil
	case len(defaults) == 0 && len(names) == 1:
		return names[0], nil
	case len(names) == 0:
		return "", fmt.Errorf("no %s is of driver %s (make one, or let a volume rule say Stream)", kind, driver)
	case len(defaults) > 1:
		return "", fmt.Errorf("driver %s has %d default %ses: %s (leave the annotation %s on one, or name one in the volume rule's %s)", driver, len(defaults), kind, strings.Join(defaults, ", "), annotation, field)
	}
	return "", fmt.Errorf("driver %s has %d %ses and none is the default: %s (annotate one with %s=true, or name one in the volume rule's %s)", driver, len(names), kind, strings.Join(names, ", "), annotation, field)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
