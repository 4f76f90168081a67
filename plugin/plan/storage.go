package plan

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/snapshot"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// snapshotClasses choose the class for a driver: the wanted one, else its
// default. The error is a reason for a person. *snapshot.Support is one.
type snapshotClasses interface {
	Class(driver, wanted string) (string, error)
	GroupClass(driver, wanted string) (string, error)
	// Blocks is where a driver lists which blocks of a snapshot hold data, or why
	// nowhere.
	Blocks(ctx context.Context, c *kube.Cluster, driver string) (*snapshot.BlockService, string, error)
}

// readStorage finds out what the claims of the groups are made of, and what
// snapshots the cluster can make of them. Volumes that came along as
// dependencies are known already; the others are read by name.
func (inv *inventory) readStorage(ctx context.Context, m *membership) error {
	missing := map[string]bool{}
	for key, c := range inv.claims {
		if _, member := m.place(key); member && c.volume != "" && inv.disks[c.volume] == nil {
			missing[c.volume] = true
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(getters)
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if inv.absent[diskRef(name)] != "" {
			continue
		}
		group.Go(func() error {
			o, err := inv.get(groupCtx, diskRef(name))
			if o == nil || err != nil {
				return err
			}
			d, err := readDisk(o)
			if err != nil {
				return err
			}
			inv.mu.Lock()
			defer inv.mu.Unlock()
			inv.disks[name] = d
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for key, c := range inv.claims {
		if _, member := m.place(key); !member {
			continue
		}
		if d := inv.disks[c.volume]; d != nil && d.driver != "" {
			support, err := snapshot.Discover(ctx, inv.r.Cluster)
			if err != nil {
				return fmt.Errorf("find out about snapshots: %w", err)
			}
			inv.classes = support
			break // asked once, and not at all where no volume is of a driver
		}
	}
	return nil
}

// noImage is why nothing can be read by a pod of ours.
const noImage = "no image for pods of ours is known (name one in spec.mover.image or with --mover-image)"

func diskRef(name string) v1alpha1.Ref {
	return v1alpha1.Ref{Kind: "PersistentVolume", Name: name}
}

// snapshotOf says what a claim's snapshot is made with. reason says why there
// can be none, and is empty where there can.
func (inv *inventory) snapshotOf(c *claim, rule v1alpha1.VolumeRule) (driver, class, reason string) {
	d := inv.disks[c.volume]
	switch {
	case c.volume == "":
		return "", "", "the claim has no volume"
	case d == nil:
		return "", "", "its volume " + c.volume + " is not known: " + cmp.Or(inv.absent[diskRef(c.volume)], doesNotExist)
	case d.driver == "" && d.source == "":
		return "", "", "its volume is not of a CSI driver, and only those make snapshots"
	case d.driver == "":
		return "", "", "its volume is of type " + d.source + ", and only CSI drivers make snapshots"
	}
	class, err := inv.classes.Class(d.driver, rule.SnapshotClass)
	if err != nil {
		return d.driver, "", err.Error()
	}
	if inv.r.Image == "" {
		return d.driver, "", noImage
	}
	return d.driver, class, ""
}

// howMuch says how much of a device is read from a snapshot of it.
func (inv *inventory) howMuch(ctx context.Context, driver string) (string, error) {
	service, reason, err := inv.classes.Blocks(ctx, inv.r.Cluster, driver)
	switch {
	case err != nil:
		return "", fmt.Errorf("find out what lists the blocks of snapshots: %w", err)
	case service == nil:
		return "all of the device is read: " + reason, nil
	}
	return "a Job reads only the blocks that hold data, as the driver lists them", nil
}
