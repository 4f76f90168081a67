package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Methods by which bytes travel, as reports name them.
const (
	MethodExec      = "Exec"
	MethodEphemeral = "EphemeralContainer"
	MethodHelper    = "HelperPod"
)

// attempts is how often a stream that broke is started again, from the
// beginning, before the volume counts as failed.
const attempts = 3

// silence is how long a sender may write nothing while we wait for it. One that
// hangs would otherwise be waited for until the volume's time is over. Ours never
// is silent for long; a tar is while it looks for holes in a large file.
const silence = 30 * time.Minute

// errNoServer ends a run: what cannot be asked for any more would otherwise be
// tried in every way, for every volume.
var errNoServer = errors.New("the API server cannot be reached any more")

// carrier carries the volumes of one run.
type carrier struct {
	cluster  *kube.Cluster
	session  *repository.Session
	image    string
	mover    v1alpha1.Mover // the policy's
	progress Progress
}

// way is one way to a volume's bytes. read starts the sender, calls sink with
// what it sends, and undoes whatever it set up.
type way struct {
	method string
	read   func(ctx context.Context, line *v1alpha1.VolumeLine, sink func(io.Reader, decodeFunc) error) error
}

// decodeFunc turns the sender's bytes into a volume stream.
type decodeFunc func(context.Context, io.Reader, *volume.Encoder) error

// move tries the ways to a volume in order until one delivers all of it. A way
// that delivers a volume with unreadable files is kept only if no later way
// does better.
func (m *carrier) move(ctx context.Context, line *v1alpha1.VolumeLine, ways []way) error {
	var reasons []string
	var best *repository.VolumeResult
	var bestMethod string
	for _, w := range ways {
		result, err := m.try(ctx, line, w)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, repository.ErrStorage) {
			return err
		}
		if err != nil {
			if gone := m.cluster.Reachable(ctx); gone != nil {
				return fmt.Errorf("%w: %w", errNoServer, gone)
			}
			reasons = append(reasons, w.method+": "+oneLine(err))
			continue
		}
		if best == nil || result.Unreadable < best.Unreadable {
			best, bestMethod = result, w.method
		}
		if result.Unreadable == 0 {
			break
		}
	}
	if best == nil {
		if len(reasons) == 0 {
			return errors.New("no way to its data: no container of a running pod shows it with a tar that can be used, and no mover image was given; name one with --mover-image or in the policy's spec.mover.image")
		}
		return errors.New(strings.Join(reasons, "; "))
	}
	m.saved(line, bestMethod, best)
	return nil
}

// saved writes what became of a volume into its line.
func (m *carrier) saved(line *v1alpha1.VolumeLine, method string, r *repository.VolumeResult) {
	line.Method, line.Snapshot = method, r.Snapshot
	line.Files, line.Bytes, line.Read, line.Stored = r.Files, r.Bytes, r.Read, r.Stored
	line.Issues, line.Warnings = r.Issues, append(line.Warnings, r.Warnings...)
	line.Outcome = v1alpha1.OutcomeSaved
	if r.Unreadable > 0 {
		line.Outcome = v1alpha1.OutcomeIncomplete
		line.Reason = fmt.Sprintf("%d path(s) could not be read; first: %s", r.Unreadable, firstUnreadable(r.Issues))
	}
}

// firstUnreadable is the first of the issues that is of a path that could not be
// read, and not of one that changed.
func firstUnreadable(issues []string) string {
	i := slices.IndexFunc(issues, func(s string) bool { return strings.Contains(s, ": "+volume.Unreadable.String()) })
	if i < 0 {
		return "not named"
	}
	return issues[i]
}

// ways lists the ways to a volume, the least intrusive first.
func (m *carrier) ways(line *v1alpha1.VolumeLine) []way {
	var ways []way
	if line.Container != "" {
		ways = append(ways, way{MethodExec, m.execTar(true)})
	}
	if m.image != "" {
		if line.Pod != "" && line.Container != "" || line.Ref.Kind == "Pod" {
			ways = append(ways, way{MethodEphemeral, m.ephemeral})
		}
		if line.Ref.Kind == "PersistentVolumeClaim" {
			ways = append(ways, way{MethodHelper, m.helper(line.Ref.Name, line.Node, nil)})
		}
	}
	if line.Container != "" {
		ways = append(ways, way{MethodExec, m.execTar(false)})
	}
	return ways
}

// waysFrom lists the ways to a claim that was made from a snapshot.
func (m *carrier) waysFrom(claim string, like *corev1.PodSpec) []way {
	if m.image == "" {
		return nil
	}
	return []way{{MethodHelper, m.helper(claim, "", like)}}
}

// try carries the volume by one way, starting again where a stream broke.
func (m *carrier) try(ctx context.Context, line *v1alpha1.VolumeLine, w way) (*repository.VolumeResult, error) {
	var err error
	for attempt := range attempts {
		if attempt > 0 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Duration(attempt) * 2 * time.Second):
			}
		}
		var result *repository.VolumeResult
		add, done := func(int64) {}, func(error) {}
		err = w.read(ctx, line, func(in io.Reader, decode decodeFunc) error {
			if m.progress != nil {
				add, done = m.progress(volumeName(line), line.Capacity)
			}
			result, err = m.store(ctx, line, &counter{Reader: in, add: add}, decode)
			return err
		})
		done(err) // as the way explains it
		if err == nil {
			return result, nil
		}
		if !errors.Is(err, volume.ErrTruncated) && !errors.Is(err, volume.ErrCorrupt) && !errors.Is(err, kube.ErrStreamEnded) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("after %d attempts: %w", attempts, err)
}

// store writes one stream into the repository. It succeeds only when the
// sender's trailer was seen and agreed with what arrived.
func (m *carrier) store(ctx context.Context, line *v1alpha1.VolumeLine, in io.Reader, decode decodeFunc) (*repository.VolumeResult, error) {
	var result repository.VolumeResult
	var err error
	if decode == nil {
		result, err = m.session.WriteVolume(ctx, *line, volume.NewDecoder(in))
	} else {
		// A foreign format is turned into our stream on the way.
		pr, pw := io.Pipe()
		go func() {
			enc := volume.NewEncoder(pw)
			err := decode(ctx, in, enc)
			pw.CloseWithError(err)
		}()
		result, err = m.session.WriteVolume(ctx, *line, volume.NewDecoder(pr))
		pr.CloseWithError(err)
	}
	if err != nil {
		return nil, err
	}
	return &result, nil
}

// run starts a command in a container and feeds its output to sink. Both have
// to succeed: the stream by its trailer, the command by its exit status.
func (m *carrier) run(ctx context.Context, o kube.ExecOptions, sink func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	o.Stdin, o.Stdout, o.Silence = presence{ctx}, pw, silence
	finished := make(chan error, 1)
	go func() {
		err := m.cluster.Exec(ctx, o)
		pw.CloseWithError(err) // nil means io.EOF to the reader
		finished <- err
	}()
	sinkErr := sink(pr)
	if sinkErr != nil {
		cancel()
	}
	pr.CloseWithError(sinkErr)
	execErr := <-finished
	switch {
	case sinkErr != nil && execErr != nil && !errors.Is(execErr, context.Canceled) && !errors.Is(sinkErr, execErr):
		return fmt.Errorf("%w (the sender said: %w)", sinkErr, execErr)
	case sinkErr != nil:
		return sinkErr
	}
	return execErr
}

// presence is an input that has nothing in it and lasts as long as we do: its
// end is how the sender learns that nobody reads any more.
type presence struct{ ctx context.Context }

func (p presence) Read([]byte) (int, error) {
	<-p.ctx.Done()
	return 0, p.ctx.Err()
}

// counter counts the bytes that pass, and reports them where add is set.
type counter struct {
	io.Reader
	n   int64
	add func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	if c.add != nil {
		c.add(int64(n))
	}
	return n, err
}
