package capture

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// issuesOf is what a reader of the stream learns from what tar said.
func issuesOf(t *testing.T, said string, arrived int64, counts bool) ([]string, error) {
	t.Helper()
	words := &tarWords{}
	for piece := range slices.Chunk([]byte(said), 7) { // as a network cuts it
		if _, err := words.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	var stream bytes.Buffer
	enc := volume.NewEncoder(&stream)
	if err := enc.Entry(&volume.Entry{Type: volume.Dir}); err != nil {
		t.Fatal(err)
	}
	if err := words.verdict(arrived, counts, enc); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	dec := volume.NewDecoder(&stream)
	for {
		if _, err := dec.Next(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	var out []string
	for _, i := range dec.Issues() {
		out = append(out, i.String())
	}
	return out, nil
}

func TestWhatTarSays(t *testing.T) {
	const total = "Total bytes written: 10240 (10KiB, 3.1MiB/s)\n"
	for name, x := range map[string]struct {
		said    string
		arrived int64
		counts  bool
		want    []string
		cut     bool
	}{
		"all well":         {said: total + "kubectl-backup-tar 0\n", arrived: 10240, counts: true},
		"busybox, well":    {said: "kubectl-backup-tar 0\n", arrived: 512},
		"killed":           {said: "", counts: true, cut: true},
		"killed, busybox":  {said: "Killed\n", cut: true},
		"too few bytes":    {said: total + "kubectl-backup-tar 0\n", arrived: 9728, counts: true, cut: true},
		"GNU, not counted": {said: "kubectl-backup-tar 2\n", arrived: 10240, counts: true, cut: true},
		"changed": {said: "tar: ./pg/wal: file changed as we read it\ntar: ./pg/log: File shrank by 512 bytes; padding with zeros\n" + total + "kubectl-backup-tar 1\n", arrived: 10240, counts: true,
			want: []string{"pg/wal: changed while read: file changed as we read it", "pg/log: changed while read: File shrank by 512 bytes; padding with zeros"}},
		"vanished": {said: "tar: ./a: File removed before we read it\n" + total + "kubectl-backup-tar 1\n", arrived: 10240, counts: true,
			want: []string{"a: vanished: File removed before we read it"}},
		"unreadable, odd names": {
			said:    "tar: ./caf\\303\\251\\: x\\ny: Cannot open: Permission denied\ntar: ./back\\\\slash: Cannot open: Permission denied\ntar: .: Cannot open: Permission denied\ntar: Exiting with failure status due to previous errors\n" + total + "kubectl-backup-tar 2\n",
			arrived: 10240, counts: true,
			want: []string{`"café: x\ny": unreadable: Cannot open: Permission denied`, `"back\\slash": unreadable: Cannot open: Permission denied`, ".: unreadable: Cannot open: Permission denied"},
		},
		"GNU, sockets and mounts": {said: "tar: ./s: socket ignored\ntar: ./sub/: file is on a different filesystem; not dumped\n" + total + "kubectl-backup-tar 0\n", arrived: 10240, counts: true,
			want: []string{"s: skipped: socket ignored", "sub/: skipped: file is on a different filesystem; not dumped"}},
		"read error": {said: "tar: ./disk: Read error at byte 4096, while reading 512 bytes: Input/output error\n" + total + "kubectl-backup-tar 2\n", arrived: 10240, counts: true,
			want: []string{"disk: unreadable: Read error at byte 4096, while reading 512 bytes: Input/output error"}},
		"busybox": {said: "tar: can't open './in: it': Permission denied\ntar: ./sock: unknown file type\ntar: can't stat './x': No such file or directory\ntar: error exit delayed from previous errors\nkubectl-backup-tar 1\n", arrived: 512,
			want: []string{"in: it: unreadable: can't open: Permission denied", "sock: skipped: unknown file type", "x: vanished: can't stat: No such file or directory"}},
		"a code without a reason": {said: "tar: memory exhausted\n" + total + "kubectl-backup-tar 2\n", arrived: 10240, counts: true,
			want: []string{".: unreadable: tar ended with exit code 2: tar: memory exhausted"}},
	} {
		got, err := issuesOf(t, x.said, x.arrived, x.counts)
		if errors.Is(err, volume.ErrTruncated) != x.cut || err != nil && !x.cut {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, x.want)
		}
	}
}

// A tree of unreadable files must not push out how tar ended.
func TestManyComplaints(t *testing.T) {
	var said strings.Builder
	for range 25000 {
		said.WriteString("tar: ./" + strings.Repeat("long/", 20) + "f: Cannot open: Permission denied\n")
	}
	said.WriteString("Total bytes written: 1 (1B)\nkubectl-backup-tar 2\n")
	got, err := issuesOf(t, said.String(), 1, true)
	if err != nil || len(got) != 20001 || !strings.Contains(got[20000], "5000 more") {
		t.Errorf("%d issues, %v", len(got), err)
	}
}

// The script itself, with the shell and the tar of this machine.
func TestScript(t *testing.T) {
	run := func(args ...string) (stdout, stderr string, code int) {
		cmd := exec.Command("sh", append([]string{"-c", script}, args...)...)
		attended, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer attended.Close()
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
	out, said, code := run(t.TempDir(), "GNU")
	words := &tarWords{}
	words.Write([]byte(said))
	if code != 0 || words.end != "0" || words.total == "" || len(out) == 0 || len(out)%512 != 0 {
		t.Errorf("an empty folder: code %d, %d bytes, %s", code, len(out), said)
	}
	if _, _, code := run("/no/such/folder", "GNU"); code != exitNoFolder {
		t.Errorf("no folder: code %d", code)
	}
	outer, odd := t.TempDir(), filepath.Join(t.TempDir(), "a folder\twith\\odd\nname")
	volumetest.Mount(t, "tmpfs", filepath.Join(outer, "in side"), "")
	volumetest.Mount(t, "tmpfs", filepath.Join(odd, "inside"), "")
	volumetest.Mount(t, "tmpfs", filepath.Join(odd+"but not this", "outside"), "")
	for _, root := range []string{"/", outer, odd} {
		if out, _, code := run(root, "any"); code != exitNested || out != "" {
			t.Errorf("mounts inside %q: code %d, %d bytes", root, code, len(out))
		}
	}
	if _, _, code := run(odd+"/inside", "any"); code != 0 {
		t.Errorf("a mount itself: code %d", code)
	}
}

func TestOrderOfWays(t *testing.T) {
	claim, pod := v1alpha1.Ref{Kind: "PersistentVolumeClaim"}, v1alpha1.Ref{Kind: "Pod"}
	for name, x := range map[string]struct {
		line  v1alpha1.VolumeLine
		image string
		want  string
	}{
		"shown by a container":        {v1alpha1.VolumeLine{Ref: claim, Pod: "p", Container: "c"}, "i", "Exec EphemeralContainer HelperPod Exec"},
		"no image":                    {v1alpha1.VolumeLine{Ref: claim, Pod: "p", Container: "c"}, "", "Exec Exec"},
		"no pod":                      {v1alpha1.VolumeLine{Ref: claim}, "i", "HelperPod"},
		"only a part is shown":        {v1alpha1.VolumeLine{Ref: claim, Pod: "p"}, "i", "HelperPod"},
		"no pod, no image":            {v1alpha1.VolumeLine{Ref: claim}, "", ""},
		"of a pod alone":              {v1alpha1.VolumeLine{Ref: pod, Pod: "p", Container: "c"}, "i", "Exec EphemeralContainer Exec"},
		"of a pod, shown by no-one":   {v1alpha1.VolumeLine{Ref: pod, Pod: "p"}, "i", "EphemeralContainer"},
		"of a pod, no-one, no image:": {v1alpha1.VolumeLine{Ref: pod, Pod: "p"}, "", ""},
	} {
		var got []string
		for _, w := range (&carrier{image: x.image}).ways(&x.line) {
			got = append(got, w.method)
		}
		if s := strings.Join(got, " "); s != x.want {
			t.Errorf("%s: %s, want %s", name, s, x.want)
		}
	}
}

// What broke on the way is tried again; what a way cannot do is not.
func TestAttempts(t *testing.T) {
	for name, x := range map[string]struct {
		err  error
		want int
	}{
		"cut":      {volume.ErrTruncated, attempts},
		"no shell": {errors.New("no shell"), 1},
	} {
		n := 0
		w := way{MethodExec, func(context.Context, *v1alpha1.VolumeLine, func(io.Reader, decodeFunc) error) error {
			n++
			return x.err
		}}
		if _, err := (&carrier{}).try(t.Context(), &v1alpha1.VolumeLine{}, w); !errors.Is(err, x.err) || n != x.want {
			t.Errorf("%s: %d attempts, %v", name, n, err)
		}
	}
}

// The reason of an incomplete volume names a path that is missing, and not one
// that merely changed.
func TestFirstUnreadable(t *testing.T) {
	issues := []string{"grow: changed while read: stored with the 7 bytes that were read", "locked: unreadable: permission denied", "secret: unreadable: permission denied"}
	if got := firstUnreadable(issues); got != issues[1] {
		t.Error(got)
	}
	if got := firstUnreadable(issues[:1]); got != "not named" {
		t.Error(got)
	}
}
