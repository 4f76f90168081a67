package restore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Ways by which bytes reach a volume, as reports name them.
const (
	methodHelper    = "HelperPod"
	methodInit      = "InitContainer"
	methodEphemeral = "EphemeralContainer"
)

// volumeItem is one volume of the backup on its way into the target.
type volumeItem struct {
	line v1alpha1.VolumeLine
	// owner is the claim, or for a volume of a pod the workload.
	owner *item
	// pod is the pod that it was a part of, by its name where it was saved. It
	// is empty for a claim that lives longer than its pods.
	pod      string
	snapshot string
	// path is that of the one file or folder of it that is wanted.
	path string
	// user is the workload that uses the claim, by its name where it was saved.
	user v1alpha1.Ref
	// users are the workloads of the target that use a claim whose data is
	// replaced.
	users []*scaled
}

func (v *volumeItem) settle(o v1alpha1.Outcome, format string, args ...any) {
	v.line.Outcome, v.line.Reason = o, fmt.Sprintf(format, args...)
}

func (v *volumeItem) name() string {
	if v.line.Ref.Kind == "PersistentVolumeClaim" {
		return v.line.Ref.Namespace + "/" + v.line.Ref.Name
	}
	return v.line.Ref.Namespace + "/" + v.line.Ref.Name + "/" + v.line.Volume
}

// planVolumes decides about each volume that the backup has a line for and
// whose claim or workload is being restored.
func (p *Plan) planVolumes(ctx context.Context) error {
	data := 0
	for _, saved := range p.saved.Volumes {
		v := &volumeItem{line: saved, snapshot: saved.Snapshot}
		v.line.Ref.Namespace = p.rules.Namespace(saved.Ref.Namespace)
		v.line.Method, v.line.Stored, v.line.Seconds, v.line.Issues, v.line.Warnings = "", 0, 0, nil, nil
		v.line.StorageClass = mapped(p.rules.StorageClasses, saved.StorageClass)
		owner := saved.Ref
		if i := p.bySaved[owner.Key()]; i != nil && i.madeBy != nil {
			owner, v.pod = i.madeBy.saved, saved.Pod
		} else if saved.Ref.Kind != "PersistentVolumeClaim" {
			v.pod = saved.Ref.Name
			if saved.Workload != nil {
				owner = *saved.Workload
			}
		}
		if saved.Workload != nil {
			v.user = saved.Workload.Key()
		}
		v.owner = p.bySaved[owner.Key()]
		if v.owner == nil || v.owner.spare {
			continue // neither it nor what uses it was asked for
		}
		if v.pod == "" {
			v.line.Ref.Name = v.owner.ref.Name
		} else if saved.Workload != nil {
			w := *saved.Workload
			w.Namespace, w.Name = p.rules.Namespace(w.Namespace), v.owner.ref.Name
			v.line.Workload = &w
		}
		p.volumes = append(p.volumes, v)
		if err := p.planVolume(ctx, v, saved); err != nil {
			return err
		}
		v.warnOfGaps(saved)
		if v.line.Outcome == v1alpha1.OutcomeCreate {
			data++
		}
	}
	known := map[*item]bool{}
	for _, v := range p.volumes {
		known[v.owner] = true
	}
	for _, i := range p.items {
		if i.holdsClaim() && i.newVolume && i.line.Outcome == v1alpha1.OutcomeCreate && !known[i] {
			i.warn("it comes back empty: the backup says nothing about its data")
		}
	}
	if data > 0 && p.request.Image == "" && !p.request.comparing {
		return fmt.Errorf("the backup holds the data of %d volume(s), and there is no image to put it in place with (hint: name one that has this program in it, with --mover-image)", data)
	}
	return nil
}

// warnOfGaps says of data that is to be put in place that not all was saved.
func (v *volumeItem) warnOfGaps(saved v1alpha1.VolumeLine) {
	if saved.Outcome == v1alpha1.OutcomeIncomplete && (v.line.Outcome == v1alpha1.OutcomeCreate || v.line.Outcome == v1alpha1.OutcomeApply) {
		v.line.Warnings = append(v.line.Warnings, "the backup does not hold all of it: "+saved.Reason+" (describe names them)")
	}
}

func mapped(m map[string]string, name string) string {
	if to, ok := m[name]; ok {
		return to
	}
	return name
}

func (p *Plan) planVolume(ctx context.Context, v *volumeItem, saved v1alpha1.VolumeLine) error {
	claim := v.pod == ""
	switch o := v.owner.line.Outcome; {
	case saved.Snapshot == "" && (saved.Outcome == v1alpha1.OutcomeSkipped || saved.Outcome == v1alpha1.OutcomeLeftToOwner):
		v.settle(v1alpha1.OutcomeSkipped, "it was not saved: %s", saved.Reason)
	case saved.Snapshot == "":
		v.settle(v1alpha1.OutcomeFailed, "the backup does not hold its data: %s", saved.Reason)
	case o == v1alpha1.OutcomeCreate, o == v1alpha1.OutcomeApply && (v.owner.action == actFill || v.owner.action == actRecreate):
		v.settle(v1alpha1.OutcomeCreate, "its data would be put in place")
	case o == v1alpha1.OutcomeApply && v.owner.action == actFilled:
		v.settle(v1alpha1.OutcomeUnchanged, "an earlier restore had put its data in place")
	case claim && v.owner.liveUID != "" && (p.request.OverwriteVolumes || v.owner.overwriting):
		return p.planOverwrite(ctx, v)
	case v.owner.liveUID != "" && p.request.OnConflict == ConflictSkip:
		v.settle(v1alpha1.OutcomeSkipped, "%s exists, and its data is left alone, as asked", v.owner.ref)
	case claim && v.owner.liveUID != "":
		user, err := p.userOf(ctx, v.owner.ref)
		if err != nil {
			return err
		}
		v.settle(v1alpha1.OutcomeConflict, "not restored: the claim exists%s, and what is in it is left alone", user)
	case v.owner.liveUID != "":
		v.settle(v1alpha1.OutcomeConflict, "not restored: %s exists, and its pods keep what they have", v.owner.ref)
	case o == v1alpha1.OutcomeLeftToOwner:
		v.settle(v1alpha1.OutcomeFailed, "%s is left to its owner, and the data cannot be put into its pods", v.owner.ref)
	default:
		v.settle(o, "%s: %s", v.owner.ref, v.owner.line.Reason)
	}
	return nil
}

// userOf says which pod uses a claim that exists.
func (p *Plan) userOf(ctx context.Context, claim v1alpha1.Ref) (string, error) {
	user := ""
	err := p.eachUser(ctx, claim, func(pod v1alpha1.Ref, _ map[string]any) {
		if user == "" {
			user = " (in use by pod " + pod.Name + ")"
		}
	})
	return user, err
}

// eachUser calls each for every pod that uses a claim, or is about to. One that
// has ended only names it.
func (p *Plan) eachUser(ctx context.Context, claim v1alpha1.Ref, each func(pod v1alpha1.Ref, content map[string]any)) error {
	k, err := p.request.Target.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return err
	}
	_, err = p.request.Target.List(ctx, k, kube.ListOptions{Namespace: claim.Namespace}, func(o *object.Object) error {
		defer o.Release()
		content, err := o.Content()
		if err != nil {
			return err
		}
		if !finished(content) && slices.Contains(claimsOf(section(content, "spec")), claim.Name) {
			each(o.Ref, content)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for the users of claim %s: %w", claim.Name, err)
	}
	return nil
}

func (i *item) holdsClaim() bool {
	return i.saved.Group == "" && i.saved.Kind == "PersistentVolumeClaim"
}

// toFill says whether a claim gets data.
func (p *Plan) toFill(i *item) bool {
	if !i.holdsClaim() {
		return false
	}
	for _, v := range p.volumes {
		if v.owner == i && v.line.Outcome == v1alpha1.OutcomeCreate {
			return true
		}
	}
	return false
}

// createUnfilled makes a claim, marked, or takes up the one that an ended
// restore had made.
func (p *Plan) createUnfilled(ctx context.Context, i *item, d *rewrite.Draft, before original) error {
	i.before = &before
	if i.action == actFill {
		i.made = true
		// What filled it before may just be ending.
		return p.awaitUnused(ctx, i.ref)
	}
	setLabel(d, labelFilling, p.request.Record.ID)
	_, err := p.create(ctx, i, d, before.managers)
	return err
}

// filled notes on a claim that its data is in place.
func (p *Plan) filled(ctx context.Context, i *item) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if _, err := p.patchAs(ctx, *i.kind, i.ref, p.nowFilled(labelFilling), kube.WriteOptions{}); err != nil {
		return fmt.Errorf("note on the claim that its data is in place: %w", err)
	}
	i.filled = true
	return nil
}

// fillClaims puts the data into the claims that a wave made.
func (p *Plan) fillClaims(ctx context.Context, wave []v1alpha1.Ref) error {
	in := map[*item]bool{}
	for _, r := range wave {
		in[p.bySaved[r.Key()]] = true
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(p.request.Parallel)
	for _, v := range p.volumes {
		if v.line.Outcome != v1alpha1.OutcomeCreate || !in[v.owner] || v.pod != "" {
			continue
		}
		group.Go(func() error {
			err := p.fillClaim(gctx, v)
			if gctx.Err() != nil {
				err = context.Cause(gctx)
			} else if err == nil {
				return nil
			}
			p.withdraw(ctx, v, err)
			return gctx.Err()
		})
	}
	return group.Wait()
}

// fillClaim fills a claim that this restore made.
func (p *Plan) fillClaim(ctx context.Context, v *volumeItem) error {
	if !v.owner.made {
		return fmt.Errorf("its claim was not created: %s", v.owner.line.Reason)
	}
	if err := p.putData(ctx, v); err != nil {
		return err
	}
	return p.filled(ctx, v.owner)
}

// putData makes the content of a claim that of the backup: by a Job where one
// can reach the remote, else by a helper pod that the bytes are sent to.
func (p *Plan) putData(ctx context.Context, v *volumeItem) error {
	reason, err := p.fillByJob(ctx, v)
	if err != nil || reason == "" {
		return err
	}
	h := mover.Helper{
		Namespace: v.owner.ref.Namespace, Image: p.request.Image, Claim: v.owner.ref.Name, Block: v.line.VolumeMode == "Block",
		Mover: p.request.Transport.Mover, Like: p.userPod(ctx, v),
	}
	pod, to := h.Pod(), h.At()
	if !h.Block {
		to = append(to, "--extra", "remove")
	}
	pod.Labels[kube.LabelRun] = p.request.Record.ID
	err = mover.With(ctx, p.request.Target, pod, func(name string) error {
		return p.receive(ctx, v, methodHelper, kube.ExecOptions{Namespace: pod.Namespace, Pod: name, Container: "mover"}, to...)
	})
	if errors.Is(err, mover.ErrNotRemoved) {
		v.owner.warn("%s", err)
	} else if err != nil {
		return err
	}
	if v.line.Outcome == v1alpha1.OutcomeRestored {
		v.line.Reason += "; it came as a stream through the API server: " + reason
	}
	return nil
}

// withdraw fails a volume and takes back the claim that this restore had made
// for it: nothing has used it, and half of its data is worse than none. Whoever
// restores again finds no claim in the way.
func (p *Plan) withdraw(ctx context.Context, v *volumeItem, cause error) {
	v.settle(v1alpha1.OutcomeFailed, "its data could not be put in place: %s", cause)
	v.owner.unfilled = true
	if !v.owner.made {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := p.request.Target.Delete(ctx, *v.owner.kind, v.owner.ref.Namespace, v.owner.ref.Name, kube.DeleteOptions{UID: v.owner.liveUID})
	if err != nil {
		v.owner.settle(v1alpha1.OutcomeFailed, "created, but not filled; it could not be taken back (delete it before another try): %s", err)
		return
	}
	v.owner.settle(v1alpha1.OutcomeFailed, "taken back, because its data could not be put in place")
}

// receive sends a volume of the backup to a waiting mover; to are the
// receiver's flags. A stream that broke is sent again from its beginning.
func (p *Plan) receive(ctx context.Context, v *volumeItem, method string, where kube.ExecOptions, to ...string) error {
	started := time.Now()
	add, done := p.request.task(v.name(), v.line.Bytes)
	where.Command = append([]string{mover.Program, "mover", "receive"}, to...)
	var report volume.Report
	var err error
	for n := 1; n <= 3; n++ {
		report, err = p.send(ctx, v, where, add)
		if err == nil || ctx.Err() != nil || !errors.Is(err, kube.ErrStreamEnded) {
			break
		}
		if err := wait(ctx, 2*n); err != nil {
			break
		}
	}
	done(err)
	if err != nil {
		return err
	}
	v.line.Method = method
	v.line.Files, v.line.Bytes, v.line.Seconds = report.Files, report.Bytes, time.Since(started).Seconds()
	for _, i := range report.Issues {
		v.line.Issues = append(v.line.Issues, i.String())
	}
	if report.Lost() {
		v.settle(v1alpha1.OutcomeIncomplete, "some of its files are not, or not wholly, in place; see its issues")
		return nil
	}
	v.settle(v1alpha1.OutcomeRestored, "its data is in place")
	return nil
}

// send runs the receiver once. The receiver's own report is what says that
// everything arrived: an exit status alone can be lost on the way.
func (p *Plan) send(ctx context.Context, v *volumeItem, where kube.ExecOptions, add func(int64)) (volume.Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := p.request.Repository.ReadVolume(ctx, *p.request.Record, v.snapshot, v.path, volume.NewEncoder(&counter{pw, add}))
		pw.CloseWithError(err)
		sent <- err
	}()
	var out bytes.Buffer
	where.Stdin, where.Stdout, where.Stderr = pr, &out, io.Discard
	err := p.request.Target.Exec(ctx, where)
	pr.CloseWithError(errReceiverEnded)
	sendErr := <-sent
	if sendErr != nil && !errors.Is(sendErr, errReceiverEnded) {
		return volume.Report{}, sendErr
	}
	if err != nil {
		return volume.Report{}, err
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var report volume.Report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &report); err != nil {
		return report, fmt.Errorf("the receiver in pod %s gave no report: %w", where.Pod, kube.ErrStreamEnded)
	}
	return report, sendErr
}

var errReceiverEnded = errors.New("the receiver ended before it had everything")

// counter reports the bytes that pass.
type counter struct {
	w   io.Writer
	add func(int64)
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.add(int64(n))
	return n, err
}
