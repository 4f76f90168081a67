package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// The journal of a restore is on the objects that it has in hand: a label that
// stands there from the request that creates or first changes the object until
// it is as it should be. A restore that is killed leaves such labels behind, and
// whoever resumes it needs nothing else: what is not there is created, what is
// there without a label is finished, and what has one is begun anew.
//
// They are labels and not annotations because a Deployment's annotations are
// copied to its ReplicaSets.
const (
	// labelFilling stands on a claim that was created and has no data yet.
	labelFilling = "kubectl-backup.io/filling"
	// labelHeld stands on a workload whose pods have no data yet.
	labelHeld = "kubectl-backup.io/held"
	// labelFilled takes the place of the first two once the data is there, and
	// stays until all else is restored: a claim that merely is there says
	// nothing of what is in it.
	labelFilled = "kubectl-backup.io/filled"
	// labelOverwriting stands on a claim whose data is being replaced.
	labelOverwriting = "kubectl-backup.io/overwriting"
	// labelScaledFrom stands on a workload that has no replicas while the data
	// of its claims is replaced. Its value is how many it had.
	labelScaledFrom = "kubectl-backup.io/scaled-from"
)

// inHand are those of an object that is itself being restored.
var inHand = [...]string{labelFilling, labelHeld, labelFilled, labelOverwriting}

// setLabel puts one of the labels above on a draft.
func setLabel(d *rewrite.Draft, label, value string) {
	meta := section(d.Content, "metadata")
	labels := section(meta, "labels")
	if labels == nil {
		labels = map[string]any{}
		meta["labels"] = labels
	}
	labels[label] = value
}

// dropMarks takes them off a draft, for a comparison: what has no replicas for a
// while has those that it will have again.
func dropMarks(d *rewrite.Draft) {
	meta := section(d.Content, "metadata")
	labels := section(meta, "labels")
	if from, _ := labels[labelScaledFrom].(string); from != "" {
		if spec := section(d.Content, "spec"); fmt.Sprint(spec["replicas"]) == "0" {
			spec["replicas"] = json.Number(from)
		}
	}
	for _, l := range append(inHand[:], labelScaledFrom) {
		delete(labels, l)
	}
	if labels != nil && len(labels) == 0 {
		delete(meta, "labels")
	}
}

// without is the patch that takes labels off.
func without(labels ...string) map[string]any {
	null := map[string]any{}
	for _, l := range labels {
		null[l] = nil
	}
	return map[string]any{"metadata": map[string]any{"labels": null}}
}

// meetMarked decides about an object that an ended restore had in hand. It
// returns false where none had.
func (p *Plan) meetMarked(i *item, live *object.Object) bool {
	label := ""
	for _, l := range inHand {
		if live.Labels[l] != "" {
			label = l
			break
		}
	}
	if label == "" {
		return false
	}
	p.foundInterrupted(interrupted{i.ref.String(), live.Labels[label]})
	if !p.request.Resume {
		i.settle(v1alpha1.OutcomeConflict, "a restore of backup %s was ended while it had it in hand", live.Labels[label])
		return true
	}
	switch {
	case label == labelOverwriting:
		i.overwriting = true
		return false // what it says itself is compared as ever
	case label == labelFilled && live.Labels[labelFilled] == p.request.Record.ID:
		i.action = actFilled
		i.settle(v1alpha1.OutcomeApply, "an earlier restore had put its data in place: its label would be taken off")
	case i.holdsClaim():
		i.action = actFill
		i.settle(v1alpha1.OutcomeApply, "an earlier restore was ended while it was being filled: it would be filled again")
	default:
		i.held = true
		i.recreate("an earlier restore was ended while its pods were held back: it would be made anew")
	}
	return true
}

// nowFilled is the change after which an object says that its data is in place,
// instead of what it said before.
func (p *Plan) nowFilled(before string) map[string]any {
	return map[string]any{"metadata": map[string]any{"labels": map[string]any{before: nil, labelFilled: p.request.Record.ID}}}
}

// finishFilled takes the labels off what has its data, now that all else is
// restored.
func (p *Plan) finishFilled(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(p.request.Workers)
	for _, i := range p.items {
		if !i.filled {
			continue
		}
		group.Go(func() error {
			live, err := p.patchAs(gctx, *i.kind, i.ref, without(labelFilled, labelFilling), kube.WriteOptions{})
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err != nil:
				i.settle(v1alpha1.OutcomeIncomplete, "its data is in place, but the label %s stays on it (hint: --resume takes it off): %s", labelFilled, err)
			default:
				var before original
				if i.before != nil {
					before = *i.before
				}
				before.managers.Creator = "" // the labels left other owners behind
				p.finishObject(gctx, i, live, before)
			}
			return nil
		})
	}
	return group.Wait()
}

// interrupted is something that an ended restore left as it should not stay.
type interrupted struct{ what, backup string }

func (p *Plan) foundInterrupted(x interrupted) {
	p.interrupted.Lock()
	defer p.interrupted.Unlock()
	p.interrupted.list = append(p.interrupted.list, x)
}

// left says what to do where an interrupted restore was found, and is nil where
// none was or where it is being resumed.
func (p *Plan) left() error {
	if len(p.interrupted.list) == 0 || p.request.Resume {
		return nil
	}
	var names, backups []string
	for _, x := range p.interrupted.list {
		names = append(names, x.what)
		if x.backup != "" {
			backups = append(backups, x.backup)
		}
	}
	slices.Sort(backups)
	backups = slices.Compact(backups)
	what := "a restore"
	if len(backups) > 0 {
		what = "a restore of backup " + strings.Join(backups, ", ")
	}
	return fmt.Errorf("%s was interrupted, or still runs, and left unfinished: %s; nothing was written (hint: run it again with the same flags and --resume)", what, shortened(names))
}

// finishLater has what is equal but for the owners of its fields, or its status,
// finished: a restore that was killed had not come to it. Where nothing is
// resumed, a warning says so.
func (p *Plan) finishLater() {
	unfinished := 0
	for _, i := range p.items {
		if i.line.Outcome != v1alpha1.OutcomeUnchanged || !i.ours {
			continue
		}
		unfinished++
		if p.request.Resume {
			i.action = actFinish
			i.settle(v1alpha1.OutcomeApply, "an earlier restore had made it and was ended before it gave it back the owners of its fields")
		}
	}
	if unfinished > 0 && !p.request.Resume {
		p.warnings = append(p.warnings, fmt.Sprintf("%d objects equal the backup, but have fields that an interrupted restore still owns: --resume gives them to their former owners", unfinished))
	}
}

// ownsFields says whether this program is among the owners of an object's
// fields: it never is once a restore is finished. What a backup added to a
// running pod to read its volumes is no sign of a restore; it cannot be taken
// out of the pod again.
func ownsFields(d *rewrite.Draft) bool {
	return slices.ContainsFunc(rewrite.ManagersOf(d, true).Entries, func(e any) bool {
		k := managerKeyOf(e)
		return k.manager == kube.FieldManager && k.subresource != "ephemeralcontainers"
	})
}

// restoreFinished does what lacks of an object that is there.
func (p *Plan) restoreFinished(ctx context.Context, i *item, before original) error {
	live, err := p.request.Target.Get(ctx, *i.kind, i.ref.Namespace, i.ref.Name)
	if err != nil {
		return err
	}
	if i.binding != nil {
		before.managers.Entries = nil // it is another's; only ours goes
	}
	before.managers.Creator = ""
	if before.managers.Entries, err = withOthers(before.managers.Entries, live); err != nil {
		return err
	}
	p.finishObject(ctx, i, live, before)
	if i.line.Outcome == v1alpha1.OutcomeRestored {
		i.settle(v1alpha1.OutcomeRestored, "an earlier restore had created it; it is finished now")
	}
	return nil
}

// ownDraft says whether an object is the account that the cluster itself puts
// into every new namespace, as nobody has touched it yet. A restore that was
// ended after it had made the namespace had not come to replace it.
func ownDraft(i *item, cleaned *rewrite.Draft) bool {
	if i.saved.Group != "" || i.saved.Kind != "ServiceAccount" || i.ref.Name != "default" || len(cleaned.Content) > 3 {
		return false
	}
	return len(section(cleaned.Content, "metadata")) == 2
}

// removeHeldPods removes the pods that an ended restore had made for a set, and
// that the set does not own: they stand in the way of new ones.
func (p *Plan) removeHeldPods(ctx context.Context, i *item) error {
	if i.saved.Kind != "StatefulSet" {
		return nil
	}
	pods, err := p.request.Target.FindKind(ctx, "", "v1", "Pod")
	if err != nil {
		return err
	}
	var stray []*object.Object
	_, err = p.request.Target.List(ctx, pods, kube.ListOptions{Namespace: i.ref.Namespace}, func(o *object.Object) error {
		_, owned := o.Controller()
		ours := o.Labels[kube.LabelTemporary] == "true" || o.Labels["statefulset.kubernetes.io/pod-name"] == o.Ref.Name
		if !owned && ours && strings.HasPrefix(o.Ref.Name, i.ref.Name+"-") {
			stray = append(stray, o)
		}
		return nil
	})
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, removal, errors.New("a pod of the interrupted restore is not gone"))
	defer cancel()
	for _, pod := range stray {
		if err := p.request.Target.DeletePod(waiting, pod.Ref.Namespace, pod.Ref.Name, pod.UID); err != nil {
			return err
		}
		err := p.request.Target.WaitFor(waiting, pods, pod.Ref.Namespace, pod.Ref.Name, func(o *object.Object) (bool, error) {
			return o == nil || o.UID != pod.UID, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitEarlier waits for the definitions that an ended restore had created and
// not seen established.
func (p *Plan) awaitEarlier(ctx context.Context) error {
	if !p.request.Resume {
		return nil
	}
	var refs []v1alpha1.Ref
	for _, i := range p.items {
		if isDefinition(i.saved) && i.liveUID != "" && i.action != actRecreate {
			refs = append(refs, i.saved)
		}
	}
	return p.awaitDefinitions(ctx, refs)
}
