package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// errorGrace is how long a snapshot may have an error before that is believed:
// its controllers report conflicts among themselves in the same field, and try
// again.
const errorGrace = 3 * time.Second

// live is what is read of a snapshot, a group snapshot, or the content of one.
type live struct {
	Metadata struct {
		Finalizers []string `json:"finalizers"`
	} `json:"metadata"`
	Spec struct {
		Driver   string          `json:"driver"`
		Ref      objectReference `json:"volumeSnapshotRef"`
		GroupRef objectReference `json:"volumeGroupSnapshotRef"`
		Source   struct {
			Claim         string   `json:"persistentVolumeClaimName"`
			VolumeHandle  string   `json:"volumeHandle"`
			VolumeHandles []string `json:"volumeHandles"`
		} `json:"source"`
	} `json:"spec"`
	Status struct {
		GroupName    string          `json:"volumeGroupSnapshotName"`
		GroupHandle  string          `json:"volumeGroupSnapshotHandle"`
		Content      string          `json:"boundVolumeSnapshotContentName"`
		GroupContent string          `json:"boundVolumeGroupSnapshotContentName"`
		CreationTime json.RawMessage `json:"creationTime"`
		ReadyToUse   bool            `json:"readyToUse"`
		RestoreSize  json.RawMessage `json:"restoreSize"`
		Error        *struct {
			Message string `json:"message"`
		} `json:"error"`
		Volumes []struct {
			Handle       string `json:"volumeHandle"`
			CreationTime int64  `json:"creationTime"`
		} `json:"volumeSnapshotInfoList"`
	} `json:"status"`
}

// objectReference is what a content is of.
type objectReference struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

func readLive(o *object.Object) (*live, error) {
	var l live
	if err := json.Unmarshal(o.Raw, &l); err != nil {
		return nil, fmt.Errorf("read %s: %w", o.Ref, err)
	}
	return &l, nil
}

// created is when the snapshot was taken: contents of snapshots have
// nanoseconds, all others have seconds.
func (l *live) created() time.Time {
	var nanoseconds int64
	if json.Unmarshal(l.Status.CreationTime, &nanoseconds) == nil && nanoseconds > 0 {
		return time.Unix(0, nanoseconds)
	}
	var at time.Time
	if json.Unmarshal(l.Status.CreationTime, &at) == nil {
		return at
	}
	return time.Time{}
}

// restoreSize is the least size in bytes of a volume made from it.
func (l *live) restoreSize() int64 {
	var q resource.Quantity
	if json.Unmarshal(l.Status.RestoreSize, &q) != nil {
		return 0
	}
	return q.Value()
}

// taken waits until a snapshot has its creation time. It watches the snapshot
// and its content at once: the content knows first, and more precisely, but
// not everybody may look at contents. seen is called with the content whenever
// it changed.
func (c *Cut) taken(ctx context.Context, kind kube.Kind, namespace, name string, contents kube.Kind, content string, seen func(*live)) (*live, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var grace graceful
	defer grace.over()
	errTaken := errors.New("taken")
	var mu sync.Mutex
	var first *live
	look := func(kind kube.Kind, namespace, name string, each func(*live)) error {
		return c.c.WaitFor(ctx, kind, namespace, name, func(o *object.Object) (bool, error) {
			if o == nil {
				return false, nil
			}
			l, err := readLive(o)
			if err != nil {
				return false, err
			}
			if each != nil {
				each(l)
			}
			if l.created().IsZero() {
				grace.look(l, cancel)
				return false, nil
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = l
				cancel(errTaken)
			}
			return true, nil
		})
	}
	var group sync.WaitGroup
	group.Go(func() {
		// Without the right to look there is the other one to wait for.
		_ = look(contents, "", content, seen)
	})
	err := look(kind, namespace, name, nil)
	if err != nil && ctx.Err() == nil {
		cancel(err)
	}
	group.Wait()
	mu.Lock()
	defer mu.Unlock()
	if first != nil {
		return first, nil
	}
	return nil, context.Cause(ctx)
}

// graceful believes an error of a snapshot when it lasts.
type graceful struct {
	mu    sync.Mutex
	timer *time.Timer
	said  string
}

// look takes note of the object's error, or of its absence. One that lasts ends
// the wait, by cancel.
func (g *graceful) look(l *live, cancel context.CancelCauseFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case l.Status.Error == nil:
		g.stop()
		return
	case g.timer == nil:
		g.timer = time.AfterFunc(errorGrace, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			cancel(errors.New(g.said))
		})
	}
	g.said = l.Status.Error.Message
}

func (g *graceful) over() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stop()
}

func (g *graceful) stop() {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
}

// takeSingle makes the snapshot of one volume.
func (c *Cut) takeSingle(ctx context.Context, p *part) error {
	name := newName()
	raw, err := json.Marshal(map[string]any{
		"apiVersion": c.support.snapshots.GVK.GroupVersion().String(), "kind": "VolumeSnapshot",
		"metadata": c.metadata(p.Claim.Namespace, name),
		"spec":     map[string]any{"volumeSnapshotClassName": p.Class, "source": map[string]any{"persistentVolumeClaimName": p.Claim.Name}},
	})
	if err != nil {
		return err
	}
	p.snapshot = name // also where the answer is lost
	made, err := c.c.Create(ctx, c.support.snapshots, p.Claim.Namespace, raw, kube.WriteOptions{})
	if err != nil {
		return fmt.Errorf("make a snapshot: %w", err)
	}
	content := "snapcontent-" + made.UID
	l, err := c.taken(ctx, c.support.snapshots, p.Claim.Namespace, name, c.support.contents, content, c.letGo(ctx, p.retain, c.support.contents, content))
	if err != nil {
		return fmt.Errorf("snapshot %s/%s with class %s: %w", p.Claim.Namespace, name, p.Class, err)
	}
	p.at = l.created()
	return nil
}

// takeGroup makes one group snapshot of all volumes.
func (c *Cut) takeGroup(ctx context.Context) error {
	if c.o.GroupPatience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.o.GroupPatience, fmt.Errorf("not taken within %s", c.o.GroupPatience))
		defer cancel()
	}
	labels, _ := c.o.CutMark(c.selector)
	name := newName()
	raw, err := json.Marshal(map[string]any{
		"apiVersion": c.support.groupSnapshots.GVK.GroupVersion().String(), "kind": "VolumeGroupSnapshot",
		"metadata": c.metadata(c.namespace, name),
		"spec":     map[string]any{"volumeGroupSnapshotClassName": c.groupClass, "source": map[string]any{"selector": map[string]any{"matchLabels": labels}}},
	})
	if err != nil {
		return err
	}
	c.groupName = name
	made, err := c.c.Create(ctx, c.support.groupSnapshots, c.namespace, raw, kube.WriteOptions{})
	if err != nil {
		return fmt.Errorf("make it: %w", err)
	}
	c.groupUID = made.UID
	content := "groupsnapcontent-" + made.UID
	l, err := c.taken(ctx, c.support.groupSnapshots, c.namespace, name, c.support.groupContents, content, c.letGo(ctx, c.retain, c.support.groupContents, content))
	if err != nil {
		return fmt.Errorf("%s/%s with class %s: %w", c.namespace, name, c.groupClass, err)
	}
	good := c.good()
	if n := len(l.Status.Volumes); n > 0 && n != len(good) {
		return fmt.Errorf("%s/%s holds %d volumes, and %d were asked for", c.namespace, name, n, len(good))
	}
	for _, p := range good {
		p.at, p.ofGroup = l.created(), true
		for _, v := range l.Status.Volumes {
			if v.Handle == p.handle && v.CreationTime > 0 {
				p.at = time.Unix(0, v.CreationTime)
			}
		}
	}
	return nil
}

// letGo has the storage drop a snapshot of ours together with its object where
// its class would keep it: that is meant for snapshots that somebody wants. It
// is done as soon as there is a content, so that nothing is kept if we end.
func (c *Cut) letGo(ctx context.Context, retain bool, kind kube.Kind, name string) func(*live) {
	if !retain {
		return nil
	}
	var once sync.Once
	return func(*live) {
		once.Do(func() {
			// Removing it tries again, and tells.
			_ = c.drop(ctx, kind, name)
		})
	}
}

// drop makes a content go with its snapshot.
func (c *Cut) drop(ctx context.Context, kind kube.Kind, name string) error {
	metadata := c.metadata("", name)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"labels": metadata.Labels, "annotations": metadata.Annotations},
		"spec":     map[string]any{"deletionPolicy": "Delete"},
	})
	if err != nil {
		return err
	}
	_, err = c.c.Patch(ctx, kind, "", name, types.MergePatchType, patch, kube.WriteOptions{})
	return err
}
