package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

// lockstep writes the same numbers to two files as fast as it can, a line at a
// time: to the second when the first has it for good. It ends with the test.
type lockstep struct {
	mu      sync.Mutex
	written int           // what both have
	stall   time.Duration // the longest wait for one number
}

func startLockstep(t *testing.T, first, second string) *lockstep {
	t.Helper()
	l := &lockstep{}
	files := [2]*os.File{}
	for i, path := range []string{first, second} {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = f
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		defer func() { stopped <- errors.Join(files[0].Close(), files[1].Close()) }()
		for n := 1; ; n++ {
			began := time.Now()
			for _, f := range files {
				if _, err := fmt.Fprintf(f, "%d\n", n); err != nil {
					t.Error(err)
					return
				}
				if err := f.Sync(); err != nil {
					t.Error(err)
					return
				}
			}
			l.mu.Lock()
			l.written, l.stall = n, max(l.stall, time.Since(began))
			l.mu.Unlock()
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	until(t, "both files are written", func() error {
		if l.count() == 0 {
			return errors.New("nothing is written yet")
		}
		return nil
	})
	return l
}

func (l *lockstep) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// last reads how far a file came. A file that is not 1 to n, but for a last
// line that is cut short, is an error.
func last(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	lines = lines[:len(lines)-1]
	for i, line := range lines {
		if line != fmt.Sprint(i+1) {
			t.Fatalf("line %d of %s is %q", i+1, path, line)
		}
	}
	return len(lines)
}

// What was synced before a snapshot is in it, also where the filesystem was
// caught in the middle of its work, and also for readers.
func TestSnapshotUnderLoad(t *testing.T) {
	d := startDriver(t)
	id := d.create("busy", testSize, filesystem(writer), nil)
	path := d.use(id, filesystem(writer))
	load := startLockstep(t, path+"/a", path+"/b")
	for i, c := range []*spec.VolumeCapability{filesystem(reader), filesystem(writer), filesystem(reader), filesystem(writer)} {
		before := load.count()
		s := d.snapshot(fmt.Sprint("busy-", i), id)
		size := int64(testSize) * int64(1+i/2)
		restored := d.create(fmt.Sprint("restored-", i), size, c, fromSnapshot(s.SnapshotId))
		at := d.use(restored, c)
		if a, b := last(t, at+"/a"), last(t, at+"/b"); a < b || b < before || a > b+1 {
			t.Errorf("%d lines were durable, the snapshot has %d and %d", before, a, b)
		}
		d.leave(restored)
	}
}

// A group's volumes are one moment. The same snapshots one by one are not, or
// else this test could not fail.
func TestGroupIsOneMoment(t *testing.T) {
	d := startDriver(t)
	one, two := d.create("one", testSize, filesystem(writer), nil), d.create("two", testSize, filesystem(writer), nil)
	load := startLockstep(t, d.use(one, filesystem(writer))+"/numbers", d.use(two, filesystem(writer))+"/numbers")
	// counts restores two snapshots and returns how far each came.
	counts := func(name string, snapshots map[string]string) (first, second int) {
		for _, id := range []string{one, two} {
			restored := d.create(name+id, testSize, filesystem(writer), fromSnapshot(snapshots[id]))
			n := last(t, d.use(restored, filesystem(writer))+"/numbers")
			d.leave(restored)
			if _, err := d.DeleteVolume(t.Context(), &spec.DeleteVolumeRequest{VolumeId: restored}); err != nil {
				t.Error(err)
			}
			if first, second = second, n; id == two {
				return first, second
			}
		}
		return 0, 0
	}
	for i := range 10 {
		before := load.count()
		r, err := d.CreateVolumeGroupSnapshot(t.Context(), &spec.CreateVolumeGroupSnapshotRequest{Name: fmt.Sprint("g", i), SourceVolumeIds: []string{one, two}})
		if err != nil {
			t.Fatal(err)
		}
		snapshots := map[string]string{}
		for _, s := range r.GroupSnapshot.Snapshots {
			snapshots[s.SourceVolumeId] = s.SnapshotId
			if !s.CreationTime.AsTime().Equal(r.GroupSnapshot.CreationTime.AsTime()) {
				t.Errorf("a member was made at %s, the group at %s", s.CreationTime.AsTime(), r.GroupSnapshot.CreationTime.AsTime())
			}
		}
		if first, second := counts(fmt.Sprint("g", i), snapshots); first < second || first > second+1 || second < before {
			t.Errorf("group %d: both had %d, the snapshots have %d and %d", i, before, first, second)
		}
	}
	t.Logf("%d numbers were written, the longest wait for one was %s", load.count(), load.stall)
	torn := false
	for i := 0; i < 20 && !torn; i++ {
		snapshots := map[string]string{}
		snapshots[one] = d.snapshot(fmt.Sprint("s1-", i), one).SnapshotId
		at := load.count()
		until(t, "more is written", func() error {
			if load.count() < at+2 {
				return errors.New("not yet")
			}
			return nil
		})
		snapshots[two] = d.snapshot(fmt.Sprint("s2-", i), two).SnapshotId
		first, second := counts(fmt.Sprint("s", i), snapshots)
		torn = second > first
	}
	if !torn {
		t.Error("snapshots one after another look like one moment: the load is no load")
	}
}

// Who freezes a filesystem, thaws it.
func TestGroupOfFrozenFilesystem(t *testing.T) {
	d := startDriver(t)
	one, two := d.create("one", testSize, filesystem(writer), nil), d.create("two", testSize, filesystem(writer), nil)
	frozen, other := d.use(one, filesystem(writer)), d.use(two, filesystem(writer))
	durable(t, frozen+"/file", "kept")
	if err := onDirectory(frozen, ioctlFreeze); err != nil {
		t.Fatal(err)
	}
	r, err := d.CreateVolumeGroupSnapshot(t.Context(), &spec.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{one, two}})
	thawErr := onDirectory(frozen, ioctlThaw)
	if err != nil {
		t.Fatal(err)
	}
	if thawErr != nil {
		t.Errorf("it was thawed meanwhile: %v", thawErr)
	}
	durable(t, other+"/file", "not frozen")
	for _, s := range r.GroupSnapshot.Snapshots {
		if s.SourceVolumeId == one {
			wantContent(t, d.use(d.create("r", testSize, filesystem(writer), fromSnapshot(s.SnapshotId)), filesystem(writer))+"/file", "kept")
		}
	}
}

// freezeVariable makes the test's program freeze what is named, and stay.
const freezeVariable = "CSI_TEST_FREEZE"

func TestMain(m *testing.M) {
	if points := os.Getenv(freezeVariable); points != "" {
		if _, err := freezeAll(context.Background(), strings.Split(points, ":")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("frozen")
		select {}
	}
	os.Exit(m.Run())
}

// A driver that dies while filesystems are frozen leaves none frozen.
func TestKilledWhileFrozen(t *testing.T) {
	d := startDriver(t)
	one := d.use(d.create("one", testSize, filesystem(writer), nil), filesystem(writer))
	two := d.use(d.create("two", testSize, filesystem(writer), nil), filesystem(writer))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), freezeVariable+"="+one+":"+two)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 6)
	if _, err := out.Read(said); err != nil || string(said) != "frozen" {
		t.Fatalf("%q, %v", said, err)
	}
	if err := onDirectory(one, ioctlFreeze); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("it is not frozen: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	done := make(chan error, 2)
	for _, path := range []string{one, two} {
		go func() { done <- os.WriteFile(filepath.Join(path, "file"), []byte("written"), 0o644) }()
	}
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(freezeLimit / 2):
			t.Error("still frozen", ThawBelow(d.dir))
		}
	}
	t.Logf("writable again after %s", time.Since(killed))
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Errorf("it was not killed: %v", err)
	}
}

// What cannot be frozen leaves nothing else frozen.
func TestFreezeFails(t *testing.T) {
	d := startDriver(t)
	path := d.use(d.create("one", testSize, filesystem(writer), nil), filesystem(writer))
	if _, err := freezeAll(t.Context(), []string{path, d.dir + "/nowhere"}); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	durable(t, path+"/file", "written")
	// Nor does a cut count whose filesystems were thawed in between.
	thaw, err := freezeAll(t.Context(), []string{path})
	if err != nil {
		t.Fatal(err)
	}
	if err := onDirectory(path, ioctlThaw); err != nil {
		t.Fatal(err)
	}
	if thaw() == nil {
		t.Error("nobody was told that it was thawed too early")
	}
	// A driver that starts thaws what another one left.
	if err := onDirectory(path, ioctlFreeze); err != nil {
		t.Fatal(err)
	}
	d.stop()
	d.start()
	durable(t, path+"/file", "again")
}
