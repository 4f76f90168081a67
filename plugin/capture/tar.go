package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// script sends the folder $0 as tar on stdout and then says on stderr how tar
// ended. It is one command, since each command in a container costs a round
// through the API server and the kubelet. $1 is what tar is wanted: GNU, or
// any. A tar whose reader is gone would wait for ever, so the end of stdin,
// which comes with the end of the connection, ends it.
const script = `case $(tar --version 2>/dev/null) in
*"GNU tar"*) set -- ` + gnuFlags + ` ;;
"") exit 8 ;;
*) test "$1" = any || exit 8; set -- -c ;;
esac
cd "$0" || exit 9
here=$(pwd -P)
while read -r _ at _; do
	case $at in *\\*) at=$(printf %b "$at") ;; esac # a space is \040 there
	case $at in "${here%/}"/?*) exit 10 ;; esac
done </proc/self/mounts
exec 3<&0
LC_ALL=C tar "$@" -f - . 3<&- &
tar=$!
(read -r _ <&3; kill -9 $tar) >/dev/null 2>&1 &
wait $tar
code=$?
kill $! 2>/dev/null
echo "kubectl-backup-tar $code" >&2`

// gnuFlags make GNU tar keep what the format can hold, count what it writes,
// and write in few large pieces.
const gnuFlags = "-c --format=posix --sparse --acls --xattrs --xattrs-include='*' --numeric-owner --one-file-system --sort=name --no-check-device --totals --blocking-factor=128"

// Exit codes of the script itself.
const (
	exitNoTar    = 8
	exitNoFolder = 9
	// Another volume is mounted inside this one. tar could leave it out only
	// where it lies on another disk.
	exitNested = 10
)

// execTar reads a volume with the tar of the application's own image. GNU tar
// keeps every attribute; with gnu false any tar will do, and what it loses is
// in the report.
func (m *carrier) execTar(gnu bool) func(context.Context, *v1alpha1.VolumeLine, func(io.Reader, decodeFunc) error) error {
	wanted := "any"
	if gnu {
		wanted = "GNU"
	}
	return func(ctx context.Context, line *v1alpha1.VolumeLine, sink func(io.Reader, decodeFunc) error) error {
		words := &tarWords{}
		where := kube.ExecOptions{
			Namespace: line.Ref.Namespace, Pod: line.Pod, Container: line.Container,
			Command: []string{"sh", "-c", script, line.MountPath, wanted}, Stderr: words,
		}
		err := m.run(ctx, where, func(in io.Reader) error {
			counted := &counter{Reader: in}
			return sink(counted, func(ctx context.Context, in io.Reader, enc *volume.Encoder) error {
				return volume.FromTar(ctx, in, enc, func() error { return words.verdict(counted.n, gnu, enc) })
			})
		})
		var exit *kube.ExitError
		switch {
		case err == nil:
			return nil
		case kube.NoCommand(err):
			return fmt.Errorf("container %s has no shell", line.Container)
		case errors.As(err, &exit) && exit.Code == exitNoTar && gnu:
			return fmt.Errorf("container %s has no GNU tar, and another tar would lose attributes", line.Container)
		case errors.As(err, &exit) && exit.Code == exitNoTar:
			return fmt.Errorf("container %s has no tar", line.Container)
		case errors.As(err, &exit) && exit.Code == exitNoFolder:
			return fmt.Errorf("container %s may not enter %s", line.Container, line.MountPath)
		case errors.As(err, &exit) && exit.Code == exitNested:
			return fmt.Errorf("container %s has another volume mounted inside %s", line.Container, line.MountPath)
		}
		return err
	}
}

// tarWords takes what the script writes on stderr, line by line: a tree of
// many unreadable files makes more of it than should be kept.
type tarWords struct {
	pending    []byte
	end, total string
	last       string // the last line that tar itself wrote
	issues     []volume.Issue
	more       map[volume.Kind]int // those after maxComplaints
}

// maxComplaints is how many complaints are kept in words; more are counted.
const maxComplaints = 20000

// maxLine bounds a line: a path has at most 4096 bytes, each four when escaped.
const maxLine = 32 << 10

var (
	tarEnd   = regexp.MustCompile(`^kubectl-backup-tar (\d+)$`)
	tarTotal = regexp.MustCompile(`^Total bytes written: (\d+)\b`)
	// tarPath is the path at the start of GNU tar's complaints and of some of
	// busybox's; tarCannot is how busybox writes the others.
	tarPath   = regexp.MustCompile(`^tar: (.+): ((?:Cannot |Read error|Warning: |[Ff]ile |socket |unknown file type|contains ).*)$`)
	tarCannot = regexp.MustCompile(`^tar: (can't \w+) '(.+)': (.*)$`)
)

func (w *tarWords) Write(p []byte) (int, error) {
	w.pending = append(w.pending, p...)
	for {
		line, rest, found := bytes.Cut(w.pending, []byte{'\n'})
		if !found {
			w.pending = append(w.pending[:0], w.pending[max(0, len(w.pending)-maxLine):]...)
			return len(p), nil
		}
		w.line(string(line))
		w.pending = rest
	}
}

func (w *tarWords) line(l string) {
	if m := tarEnd.FindStringSubmatch(l); m != nil {
		w.end = m[1]
		return
	}
	if m := tarTotal.FindStringSubmatch(l); m != nil {
		w.total = m[1]
		return
	}
	w.last = l
	var path, what string
	if m := tarCannot.FindStringSubmatch(l); m != nil {
		path, what = m[2], m[1]+": "+m[3]
	} else if m := tarPath.FindStringSubmatch(l); m != nil {
		path, what = m[1], m[2]
	} else {
		return
	}
	issue := volume.Issue{Path: tarName(path), Kind: volume.Unreadable, What: what}
	switch {
	case strings.Contains(what, "changed as we read it"), strings.Contains(what, "shrank by"):
		issue.Kind = volume.Changed
	case strings.Contains(what, "removed before we read it"), strings.HasSuffix(what, ": No such file or directory"):
		issue.Kind = volume.Vanished
	case strings.Contains(what, "socket ignored"), strings.Contains(what, "unknown file type"), strings.Contains(what, "different filesystem"):
		issue.Kind = volume.Skipped
	}
	if len(w.issues) < maxComplaints {
		w.issues = append(w.issues, issue)
		return
	}
	if w.more == nil {
		w.more = map[volume.Kind]int{}
	}
	w.more[issue.Kind]++
}

// goEscapes turns the escapes of GNU tar into those of Go.
var goEscapes = strings.NewReplacer(`\\`, `\\`, `\:`, `:`, `\ `, ` `, `"`, `\"`)

// tarName is a path as reports show it.
func tarName(s string) string {
	if plain, err := strconv.Unquote(`"` + goEscapes.Replace(s) + `"`); err == nil {
		s = plain
	}
	return volume.Escape(strings.TrimPrefix(strings.TrimPrefix(s, "."), "/"))
}

// verdict compares what the sender said of its stream with what arrived, and
// hands tar's complaints to the stream. GNU tar exits with 1 when a file
// changed while it was read, and any tar with another code than 0 when
// something was not read: a code that no complaint explains is a loss too.
//
// A byte count is enough: between the two ends is TLS, which loses only ends.
// A tar that does not count has its end mark, which the reader looked for.
func (w *tarWords) verdict(arrived int64, counts bool, enc *volume.Encoder) error {
	if w.end == "" || counts && w.total == "" {
		return fmt.Errorf("%w: the sender did not say how its stream ended", volume.ErrTruncated)
	}
	if w.total != "" && w.total != strconv.FormatInt(arrived, 10) {
		return fmt.Errorf("%w: tar wrote %s bytes, and %d arrived", volume.ErrTruncated, w.total, arrived)
	}
	if w.end != "0" && len(w.issues) == 0 {
		w.issues = append(w.issues, volume.Issue{Path: ".", Kind: volume.Unreadable, What: "tar ended with exit code " + w.end + ": " + w.last})
	}
	for _, issue := range w.issues {
		if err := enc.Issue(issue); err != nil {
			return err
		}
	}
	for kind, n := range w.more {
		for range n {
			if err := enc.Issue(volume.Issue{Path: ".", Kind: kind}); err != nil {
				return err
			}
		}
	}
	return nil
}
