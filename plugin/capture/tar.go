package capture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// script sends a folder ($0) as tar on stdout, then says on stderr how tar
// ended and what checksum the bytes had when they left. The second pipe is one
// that the shell itself made, so that tee may open it also where the
// container does not run as root.
const script = `cd "$0" || exit 9
{ { { LC_ALL=C tar %s -cf - .; echo "kubectl-backup-tar $?" >&2; } | tee /dev/fd/3 | sha256sum | sed 's/^/kubectl-backup-sum /' >&2; } 3>&1; } | cat`

// gnuFlags make GNU tar keep what the format can hold.
const gnuFlags = "--format=posix --sparse --acls --xattrs --xattrs-include='*' --numeric-owner --one-file-system --sort=name --no-check-device"

var (
	tarEnd = regexp.MustCompile(`(?m)^kubectl-backup-tar (\d+)$`)
	tarSum = regexp.MustCompile(`(?m)^kubectl-backup-sum ([0-9a-f]{64})\b`)
)

// execTar reads a volume with the tar of the application's own image. GNU tar
// keeps every attribute; with gnu false any tar will do, and what it loses is
// in the report.
func (m *carrier) execTar(gnu bool) func(context.Context, *v1alpha1.VolumeLine, func(io.Reader, decodeFunc) error) error {
	return func(ctx context.Context, line *v1alpha1.VolumeLine, sink func(io.Reader, decodeFunc) error) error {
		where := kube.ExecOptions{Namespace: line.Ref.Namespace, Pod: line.Pod, Container: line.Container}
		flags, err := m.probeTar(ctx, where, gnu)
		if err != nil {
			return err
		}
		stderr := &tail{}
		where.Stderr = stderr
		where.Command = []string{"sh", "-c", fmt.Sprintf(script, flags), line.MountPath}
		return m.run(ctx, where, func(in io.Reader) error {
			sum := sha256.New()
			counted := io.TeeReader(in, sum)
			return sink(counted, func(ctx context.Context, in io.Reader, enc *volume.Encoder) error {
				return volume.FromTar(ctx, in, enc, func() error {
					return tarVerdict(stderr.String(), hex.EncodeToString(sum.Sum(nil)), enc)
				})
			})
		})
	}
}

// probeTar finds out whether the container has what the script needs.
func (m *carrier) probeTar(ctx context.Context, where kube.ExecOptions, gnu bool) (flags string, err error) {
	out, stderr := &tail{}, &tail{}
	where.Stdout, where.Stderr = out, stderr
	where.Command = []string{"sh", "-c", "tar --version && for t in tee sha256sum sed cat; do command -v $t || exit 7; done"}
	if err := m.cluster.Exec(ctx, where); err != nil {
		return "", fmt.Errorf("container %s has no sh, tar, tee and sha256sum to read with: %w", where.Container, err)
	}
	isGNU := strings.Contains(out.String(), "GNU tar")
	if gnu && !isGNU {
		return "", fmt.Errorf("the tar in container %s is not GNU tar and would lose attributes", where.Container)
	}
	if isGNU {
		return gnuFlags, nil
	}
	return "", nil
}

// tarVerdict compares what the sender said of its stream with what arrived and
// hands what tar complained about to the stream. GNU tar exits with 1 when a
// file changed while it was read, and with 2 when something was not read.
func tarVerdict(stderr, sum string, enc *volume.Encoder) error {
	end, said := tarEnd.FindStringSubmatch(stderr), tarSum.FindStringSubmatch(stderr)
	if end == nil || said == nil {
		return fmt.Errorf("%w: the sender did not say how its stream ended", volume.ErrTruncated)
	}
	if said[1] != sum {
		return fmt.Errorf("%w: the sender's checksum is %s, ours is %s", volume.ErrTruncated, said[1], sum)
	}
	for _, l := range strings.Split(stderr, "\n") {
		name, what, ok := strings.Cut(strings.TrimPrefix(l, "tar: "), ": ")
		if !strings.HasPrefix(l, "tar: ") || !ok {
			continue
		}
		issue := volume.Issue{Path: volume.Escape(strings.TrimPrefix(name, "./")), Kind: volume.Unreadable, What: what}
		switch {
		case strings.Contains(what, "changed as we read it"), strings.Contains(what, "shrank by"):
			issue.Kind = volume.Changed
		case strings.Contains(what, "removed before we read it"):
			issue.Kind = volume.Vanished
		case strings.Contains(what, "socket ignored"), strings.Contains(what, "different filesystem"):
			issue.Kind = volume.Skipped
		case end[1] == "0":
			continue // a remark, and tar was content
		}
		if err := enc.Issue(issue); err != nil {
			return err
		}
	}
	return nil
}
