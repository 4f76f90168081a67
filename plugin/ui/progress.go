package ui

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Progress shows how far tasks are: as bars on a terminal, as plain lines
// elsewhere. Its methods may be called from several goroutines.
type Progress struct {
	w     io.Writer
	bars  *mpb.Progress // nil where lines are written
	now   func() time.Time
	mu    sync.Mutex
	tasks map[*task]bool
}

// every is how often a plain line says how far a task is.
const every = 15 * time.Second

// NewProgress writes to w, with bars where w is a terminal.
func NewProgress(w io.Writer, terminal bool) *Progress {
	p := &Progress{w: w, now: time.Now, tasks: map[*task]bool{}}
	if terminal {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(60), mpb.WithRefreshRate(150*time.Millisecond))
	}
	return p
}

type task struct {
	name           string
	total, current int64
	started, told  time.Time
	bar            *mpb.Bar
}

// Task begins one: total is what is expected, in bytes, 0 where that is not
// known. add counts bytes; done ends the task, and may be called only once.
func (p *Progress) Task(name string, total int64) (add func(int64), done func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &task{name: oneLine(name), total: total, started: p.now(), told: p.now()}
	p.tasks[t] = true
	if p.bars != nil {
		t.bar = p.bars.AddBar(total, mpb.PrependDecorators(decor.Name(shorten(t.name, 40), decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(behind(t.started))), mpb.BarFillerOnComplete("done"), mpb.BarFillerOnAbort("failed"))
	}
	return func(n int64) { p.add(t, n) }, func(err error) { p.done(t, err) }
}

func (p *Progress) add(t *task, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.current += n
	if t.bar != nil {
		t.bar.IncrInt64(n)
		return
	}
	if now := p.now(); now.Sub(t.told) >= every {
		t.told = now
		of := ""
		if t.total > 0 {
			of = " of at most " + size(t.total)
		}
		fmt.Fprintf(p.w, "%s: %s%s\n", t.name, size(t.current), of)
	}
}

func (p *Progress) done(t *task, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.tasks, t)
	if t.bar != nil {
		if err != nil {
			t.bar.Abort(false)
		} else {
			// A volume is rarely full: what was read is all there is.
			t.bar.SetTotal(-1, true)
		}
		return
	}
	if err != nil {
		fmt.Fprintf(p.w, "%s: failed after %s: %s\n", t.name, size(t.current), oneLine(err.Error()))
		return
	}
	fmt.Fprintf(p.w, "%s: %s in %s\n", t.name, size(t.current), seconds(max(p.now().Sub(t.started).Seconds(), 0.01)))
}

// behind is the text behind a bar: how much, and how fast.
func behind(started time.Time) decor.DecorFunc {
	return func(s decor.Statistics) string {
		took := time.Since(started).Seconds()
		if s.Current == 0 || took <= 0 {
			return " " + size(s.Current)
		}
		return fmt.Sprintf(" %s  %s/s", size(s.Current), size(int64(float64(s.Current)/took)))
	}
}

var errUnfinished = errors.New("it was not finished")

// Close ends what is still shown, so that other output can follow. It may be
// called more than once.
func (p *Progress) Close() {
	p.mu.Lock()
	var open []*task
	for t := range p.tasks {
		open = append(open, t)
	}
	bars := p.bars
	p.bars = nil // what comes now is a line
	p.mu.Unlock()
	for _, t := range open {
		p.done(t, errUnfinished)
	}
	if bars != nil {
		bars.Wait()
	}
}

// shorten cuts a long name in front: its end tells more.
func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return "..." + string(r[len(r)-n+3:])
	}
	return s
}
