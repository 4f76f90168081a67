package drill

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/argocd"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// probeTime bounds a command that says nothing else.
	probeTime = time.Minute
	// keptOutput is what is kept of what a command writes, and shownOutput what
	// the report has of that, in bytes.
	keptOutput, shownOutput = 64 << 10, 2 << 10
)

// live is one object of the drill as the server shows it.
type live struct {
	ref     v1alpha1.Ref
	labels  map[string]string
	content map[string]any
}

// awaitPods gives pods of their own, which count as restored once they run, the
// time to become ready. Those that do not are for the assertions to find.
func (d *drill) awaitPods(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.Restore.Timeout)
	defer cancel()
	pods, err := d.Restore.Target.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return
	}
	for _, o := range d.report.Restore.Objects {
		if o.Ref.Kind != "Pod" || o.Ref.Group != "" || o.Outcome != v1alpha1.OutcomeRestored || d.made[o.Ref.Namespace] == "" {
			continue
		}
		err := d.Restore.Target.WaitFor(ctx, pods, o.Ref.Namespace, o.Ref.Name, func(pod *object.Object) (bool, error) {
			if pod == nil {
				return true, nil
			}
			content, err := pod.Content()
			if err != nil {
				return false, err
			}
			return healthy(content)
		})
		if err != nil && ctx.Err() != nil {
			return
		}
	}
}

// look reads what was restored, and the pods that run because of it.
func (d *drill) look(ctx context.Context) error {
	wanted := map[v1alpha1.Ref]bool{}
	kinds := map[v1alpha1.Ref]bool{{Version: "v1", Kind: "Pod"}: true}
	for _, o := range d.report.Restore.Objects {
		if d.made[o.Ref.Namespace] == "" || o.Outcome == v1alpha1.OutcomeSkipped || o.Outcome == v1alpha1.OutcomeFailed {
			continue
		}
		wanted[o.Ref.Key()] = true
		kinds[v1alpha1.Ref{Group: o.Ref.Group, Kind: o.Ref.Kind}] = true
	}
	delete(kinds, v1alpha1.Ref{Kind: "Pod"})
	for k := range kinds {
		found, err := d.Restore.Target.FindKind(ctx, k.Group, k.Version, k.Kind)
		if errors.As(err, new(*kube.NotServedError)) {
			continue // it was converted to another kind, or failed: its line says so
		}
		if err != nil {
			return err
		}
		for to := range d.made {
			_, err := d.Restore.Target.List(ctx, found, kube.ListOptions{Namespace: to}, func(o *object.Object) error {
				if o.Ref.Kind != "Pod" && !wanted[o.Ref.Key()] {
					return nil
				}
				content, err := o.Content()
				if err != nil {
					return err
				}
				d.live = append(d.live, live{o.Ref, o.Labels, content})
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	slices.SortFunc(d.live, func(a, b live) int { return a.ref.Compare(b.ref) })
	return nil
}

// healthy judges one object by Argo CD's rules. What waits for an address
// outside, which a drill sees to that nobody gives it, is not held against it,
// nor that a Job or its pod is still at work, or that an autoscaler has measured
// nothing yet.
func healthy(content map[string]any) (bool, error) {
	version, _ := content["apiVersion"].(string)
	group, _ := object.SplitAPIVersion(version)
	if group == "gateway.networking.k8s.io" || group == "networking.k8s.io" && content["kind"] == "Ingress" {
		return true, nil
	}
	state, _, err := argocd.Health(content)
	good := argocd.Good(state)
	if !good && state == argocd.Progressing {
		switch {
		case group == "batch" && content["kind"] == "Job", group == "autoscaling":
			good = true
		case group == "" && content["kind"] == "Pod":
			spec, _ := content["spec"].(map[string]any)
			status, _ := content["status"].(map[string]any)
			good = status["phase"] == "Running" && (spec["restartPolicy"] == "Never" || spec["restartPolicy"] == "OnFailure")
		}
	}
	return good, err
}

// assert evaluates the assertions. What fails to evaluate did not pass.
func (d *drill) assert(ctx context.Context) {
	objects := make([]any, len(d.live))
	for i, o := range d.live {
		objects[i] = o.content
	}
	for i, text := range d.Spec.Assert {
		check := v1alpha1.DrillCheck{Check: v1alpha1.CheckAssertion, Name: fmt.Sprintf("assert[%d]", i), Expression: text}
		ok, err := d.checks.Assert(ctx, i, objects, d.namespaces)
		switch {
		case err != nil:
			check.Reason = "it failed: " + err.Error()
		case !ok:
			check.Reason = "it is false"
			check.Seen = firstFew(d.seen(ctx, i, text))
		default:
			check.Passed = true
		}
		d.report.Checks = append(d.report.Checks, check)
	}
}

// seen are the values that made an assertion false: where it is about all
// objects, those that it is false for alone; else what there is.
func (d *drill) seen(ctx context.Context, i int, text string) (seen []string) {
	if strings.Contains(text, ".all(") {
		for _, o := range d.live {
			if ok, err := d.checks.Assert(ctx, i, []any{o.content}, d.namespaces); err == nil && !ok {
				seen = append(seen, d.original(o.ref).String()+stateOf(o.content))
			}
		}
	}
	if len(seen) > 0 {
		return seen
	}
	for _, o := range d.live {
		seen = append(seen, d.original(o.ref).String()+stateOf(o.content))
	}
	return seen
}

func stateOf(content map[string]any) string {
	state, message, err := argocd.Health(content)
	switch {
	case err != nil:
		return ": " + err.Error()
	case state == "":
		return ""
	case message != "":
		return ": " + state + ": " + message
	}
	return ": " + state
}

// probe runs the commands, each in every pod that it is for.
func (d *drill) probe(ctx context.Context) {
	for i, p := range d.Spec.Probes {
		ran := false
		for _, o := range d.live {
			if o.ref.Kind != "Pod" || o.ref.Group != "" {
				continue
			}
			check := v1alpha1.DrillCheck{Check: v1alpha1.CheckProbe, Name: p.Name, Command: p.Command}
			original := d.original(o.ref)
			check.Pod = original.Namespace + "/" + original.Name
			matches, err := d.checks.Matches(ctx, i, o.content, o.labels)
			if err == nil && !matches {
				continue
			}
			ran = true
			if err != nil {
				check.Reason = "whether it is for this pod is not known: " + err.Error()
			} else {
				check.Reason = d.ask(ctx, i, o, &check)
			}
			check.Passed = check.Reason == ""
			d.report.Checks = append(d.report.Checks, check)
		}
		if !ran {
			d.report.Checks = append(d.report.Checks, v1alpha1.DrillCheck{
				Check: v1alpha1.CheckProbe, Name: p.Name, Command: p.Command, Reason: "no pod matches", Seen: []string{p.Match},
			})
		}
	}
}

// ask runs one command and says why its answer is not the expected one, or
// nothing.
func (d *drill) ask(ctx context.Context, i int, o live, check *v1alpha1.DrillCheck) string {
	p := d.Spec.Probes[i]
	limit := probeTime
	if p.Timeout != nil {
		limit = p.Timeout.Duration
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	out := &head{}
	err := d.Restore.Target.Exec(ctx, kube.ExecOptions{
		Namespace: o.ref.Namespace, Pod: o.ref.Name, Container: p.Container, Command: p.Command, Stdout: out,
	})
	code := 0
	var exit *kube.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.Code
		if exit.Stderr != "" {
			check.Seen = append(check.Seen, "stderr: "+exit.Stderr)
		}
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx).Error()
	case err != nil:
		return "it could not be run: " + err.Error()
	}
	check.Code = &code
	stdout := strings.TrimRight(string(out.kept), "\r\n")
	check.Output = strings.ToValidUTF8(stdout[:min(len(stdout), shownOutput)], "?")
	if code != p.ExitCode {
		return fmt.Sprintf("exit code %d, expected %d", code, p.ExitCode)
	}
	if p.Expect == nil {
		return ""
	}
	if out.more {
		return fmt.Sprintf("it wrote more than %d bytes, of which only these were looked at", keptOutput)
	}
	return d.compare(ctx, i, *p.Expect, stdout, code)
}

func (d *drill) compare(ctx context.Context, i int, e v1alpha1.DrillExpect, stdout string, code int) string {
	switch {
	case e.Text != nil:
		if want := strings.TrimRight(*e.Text, "\r\n"); stdout != want {
			return fmt.Sprintf("it wrote %q, expected %q", brief(stdout), brief(want))
		}
	case e.Regex != "":
		if ok, err := regexp.MatchString(e.Regex, stdout); err != nil || !ok {
			return fmt.Sprintf("it wrote %q, which %s does not match", brief(stdout), e.Regex)
		}
	case e.Expression != "":
		ok, err := d.checks.Expected(ctx, i, stdout, code)
		if err != nil {
			return fmt.Sprintf("the expression failed on %q: %s", brief(stdout), err)
		}
		if !ok {
			return fmt.Sprintf("it wrote %q, for which this is false: %s", brief(stdout), e.Expression)
		}
	}
	return ""
}

func brief(s string) string {
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "?") + "..."
	}
	return s
}

// head keeps the beginning of what is written.
type head struct {
	kept []byte
	more bool
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), keptOutput-len(h.kept))
	h.kept = append(h.kept, p[:n]...)
	h.more = h.more || n < len(p)
	return len(p), nil
}
