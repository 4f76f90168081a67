package freeze

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

const (
	// slack is what a step may take longer than the script allows it, for the
	// way there and back.
	slack = 5 * time.Second
	// lettingGo is how long a pod that could not be frozen is waited for until
	// it says that it has let go; it does so without us as well.
	lettingGo = 10 * time.Second
	// maxWords bounds what is kept of what a hook wrote.
	maxWords = 1 << 10
)

// Session is one held pod.
type Session struct {
	target Target
	input  *io.PipeWriter
	cancel context.CancelFunc
	heard  *heard

	frozen time.Time
	thaw   sync.Once
	result Result
}

// open starts the script in the container and waits until it is ready to
// freeze. Nothing is frozen yet.
func open(ctx context.Context, e executor, t Target) (*Session, error) {
	p := write(t)
	in, input := io.Pipe()
	// A run that is cancelled has to thaw in good order first.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Session{target: t, input: input, cancel: cancel, heard: newHeard(p.nonce)}
	go func() {
		err := e.Exec(running, kube.ExecOptions{
			Namespace: t.Namespace, Pod: t.Pod, Container: t.Container,
			Command: []string{"sh", "-c", loader, p.nonce}, Stdin: in, Stdout: s.heard, Stderr: io.Discard,
		})
		in.Close() // so that no write waits for a reader that is gone
		s.heard.finish(err)
	}()
	s.send(p.text)
	wait := t.Timeout + slack
	timer := time.NewTimer(wait)
	defer timer.Stop()
	h := s.heard
	select {
	case <-h.ready:
		if !h.late() {
			return s, nil
		}
		s.release()
		return nil, s.unready()
	case <-h.ended:
		cancel()
		return nil, s.unready()
	case <-timer.C:
		s.release()
		return nil, fmt.Errorf("%s: not ready for %s within %s%s", t, t.what(), wait, h.words())
	case <-ctx.Done():
		s.release()
		return nil, fmt.Errorf("%s: %w", t, context.Cause(ctx))
	}
}

// unready says why a script ended before anything was frozen.
func (s *Session) unready() error {
	t, h := s.target, s.heard
	switch {
	case h.missing != "":
		return fmt.Errorf("%s: its image lacks what %s needs: %s", t, t.what(), h.missing)
	case h.timeout:
		return fmt.Errorf("%s: the preparation of %s took longer than %s%s", t, t.what(), t.Timeout, h.words())
	case h.unprepared:
		return fmt.Errorf("%s: the preparation of %s failed%s", t, t.what(), h.words())
	case h.err != nil:
		return t.unreachable(h.err)
	}
	return fmt.Errorf("%s: the script ended before it was ready%s", t, h.words())
}

// freeze begins, and returns when the pod is frozen.
func (s *Session) freeze(ctx context.Context) error {
	t, h := s.target, s.heard
	if cause := context.Cause(ctx); cause != nil {
		s.release()
		return fmt.Errorf("%s: %w", t, cause)
	}
	s.send(wordGo)
	timer := time.NewTimer(t.Timeout + slack)
	defer timer.Stop()
	var err error
	select {
	case <-h.frozen:
		if !h.late() {
			s.frozen = h.frozenAt
			return nil
		}
	case <-h.failed:
	case <-h.ended:
	case <-timer.C:
		err = fmt.Errorf("%s: %s was not frozen within %s", t, t.what(), t.Timeout)
	case <-ctx.Done():
		err = fmt.Errorf("%s: %w", t, context.Cause(ctx))
	}
	ended := s.release()
	if err == nil {
		err = s.unfrozen()
	}
	switch {
	case !ended || !h.over && !h.killed():
		err = fmt.Errorf("%w; it lets go by itself, after %s at the latest", err, t.TTL)
	case !h.over:
		err = fmt.Errorf("%w; and its script was ended before it could let go: it may be frozen still", err)
	case h.code != "0" && t.steps():
		err = fmt.Errorf("%w; and what follows it failed too, with exit code %s: it may be frozen still", err, h.code)
	}
	return fmt.Errorf("%w%s", err, h.words())
}

// unfrozen says why a freeze that was begun did not come about.
func (s *Session) unfrozen() error {
	t, h := s.target, s.heard
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.timeout:
		return fmt.Errorf("%s: %s was not frozen within %s", t, t.what(), t.Timeout)
	case h.refused != "":
		return fmt.Errorf("%s: %s: %s", t, t.what(), h.refused)
	case h.failure != "":
		return fmt.Errorf("%s: %s failed with exit code %s", t, t.what(), h.failure)
	case h.over:
		return fmt.Errorf("%s: %s ended with exit code %s before it was frozen", t, t.what(), h.code)
	case h.err != nil:
		return fmt.Errorf("%s: lost while it was being frozen: %w", t, h.err)
	}
	return fmt.Errorf("%s: the script ended before it was frozen", t)
}

// Thaw lets the pod go and returns when it has said so, or when it must have
// done so by itself. The context's end does not keep it from that. Another call
// returns the same.
func (s *Session) Thaw(ctx context.Context) Result {
	s.thaw.Do(func() { s.result = s.letGo() })
	return s.result
}

func (s *Session) letGo() Result {
	t, h := s.target, s.heard
	defer s.cancel()
	early := h.isEnded()
	s.send(wordThaw)
	wait := max(time.Until(s.frozen.Add(t.TTL)), 0) + slack
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-h.ended:
	case <-timer.C:
		return Result{Held: time.Since(s.frozen), Expired: !h.wasRequested(),
			Err: fmt.Errorf("%s: no word within %s that it was thawed: it may be frozen still", t, wait.Round(time.Second))}
	}
	r := Result{Held: h.endedAt.Sub(s.frozen), Expired: early || h.how != "requested"}
	switch {
	case h.over && h.code != "0" && t.steps():
		r.Err = fmt.Errorf("%s: thawing failed with exit code %s: it may be frozen still%s", t, h.code, h.words())
	case h.over && h.code != "0":
		// A session that failed cannot vouch for the time before.
		r.Expired = true
		r.Err = fmt.Errorf("%s: %s ended with exit code %s, so it may have let go early%s", t, t.what(), h.code, h.words())
	case h.how == "expired":
		r.Err = fmt.Errorf("%s: let go by itself after its time to live of %s, before it was asked to", t, t.TTL)
	case h.over && r.Expired:
		r.Err = fmt.Errorf("%s: let go before it was asked to%s", t, h.words())
	case !h.over && h.killed():
		r.Err = fmt.Errorf("%s: its script was ended while it was frozen, before it could let go: it may be frozen still: %w", t, h.lost())
	case !h.over:
		r.Err = fmt.Errorf("%s: lost while it was frozen; it lets go by itself, after %s at the latest: %w", t, t.TTL, h.lost())
	}
	return r
}

// release ends the input of the script, which makes it thaw, and waits a while
// for its end. It tells whether that came.
func (s *Session) release() bool {
	defer s.cancel()
	s.input.Close()
	timer := time.NewTimer(lettingGo)
	defer timer.Stop()
	select {
	case <-s.heard.ended:
		return true
	case <-timer.C:
		return false
	}
}

// send writes to the script's input without waiting for it: a connection that
// hangs must not hold us up.
func (s *Session) send(text string) {
	go func() { _, _ = io.WriteString(s.input, text) }() // the end of the exec says why
}

// steps says whether the container runs one script to freeze and one to thaw.
func (t Target) steps() bool { return t.Recipe == nil || t.Recipe.Spec.Session == "" }

// heard is what a script has said so far. It is written by the exec; its fields
// may be read after the channel that announces them was closed.
type heard struct {
	nonce string
	mu    sync.Mutex
	part  []byte // of a line that has not ended
	kept  []string

	ready, frozen, failed, ended chan struct{}
	done                         map[chan struct{}]bool

	frozenAt, endedAt   time.Time
	missing             string
	unprepared, timeout bool
	refused, failure    string // why it could not freeze; the exit code
	how                 string // requested, lost or expired
	over                bool   // it said that it has ended
	code                string // of the thaw or of the session
	err                 error  // of the exec
}

func newHeard(nonce string) *heard {
	return &heard{
		nonce: nonce, ready: make(chan struct{}), frozen: make(chan struct{}), failed: make(chan struct{}), ended: make(chan struct{}),
		done: map[chan struct{}]bool{},
	}
}

// Write takes a piece of the script's output.
func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.part = append(h.part, p...)
	for {
		i := bytes.IndexByte(h.part, '\n')
		if i < 0 {
			break
		}
		h.line(string(h.part[:i]))
		h.part = h.part[i+1:]
	}
	if len(h.part) > maxWords {
		h.part = h.part[:0] // relay writes no such lines
	}
	return len(p), nil
}

// line takes one line; what has no nonce is not ours.
func (h *heard) line(line string) {
	rest, ok := strings.CutPrefix(line, h.nonce+" ")
	if !ok {
		return
	}
	word, rest, _ := strings.Cut(rest, " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "|":
		h.keep(rest)
	case "missing":
		h.missing = rest
	case "unprepared":
		h.unprepared = true
	case "timeout":
		h.timeout = true
	case "ready":
		h.announce(h.ready)
	case "frozen":
		h.frozenAt = time.Now()
		h.announce(h.frozen)
	case "refused":
		h.refused = rest
		h.announce(h.failed)
	case "failed":
		h.failure = rest
		h.announce(h.failed)
	case "over":
		h.how = rest
	case "end":
		h.over, h.code = true, rest
		h.end()
	}
}

// keep remembers the last lines of what a hook wrote.
func (h *heard) keep(line string) {
	h.kept = append(h.kept, line)
	for total := len(strings.Join(h.kept, "; ")); total > maxWords && len(h.kept) > 1; total = len(strings.Join(h.kept, "; ")) {
		h.kept = h.kept[1:]
	}
}

// words is what the hook wrote last, for the end of an error.
func (h *heard) words() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.kept) == 0 {
		return ""
	}
	return " (its last words: " + strings.ToValidUTF8(strings.Join(h.kept[max(0, len(h.kept)-5):], "; "), "?") + ")"
}

// finish takes the end of the exec.
func (h *heard) finish(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.err = err
	}
	h.end()
}

func (h *heard) end() {
	if !h.done[h.ended] {
		h.endedAt = time.Now()
	}
	h.announce(h.ended)
}

func (h *heard) announce(c chan struct{}) {
	if !h.done[c] {
		h.done[c] = true
		close(c)
	}
}

func (h *heard) isEnded() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done[h.ended] || h.how != ""
}

// late tells whether a step took longer than it may. Such a step is ended, and
// many a program ends well when it is told to, whatever it has done by then.
func (h *heard) late() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.timeout
}

func (h *heard) wasRequested() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.how == "requested"
}

// killed tells, of a script that ended without its last word, whether it is gone,
// as with its container, and not merely out of our reach.
func (h *heard) killed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	var exit *kube.ExitError
	return h.err == nil || errors.As(h.err, &exit)
}

// lost is the error of an exec that ended without the script's word.
func (h *heard) lost() error {
	if h.err != nil {
		return h.err
	}
	return errors.New("the script ended without a word")
}
