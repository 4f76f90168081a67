package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Files says which files of a volume to restore without its objects.
type Files struct {
	Part repository.VolumePart
	// Path is that of one file or folder, without symbolic links above it, or
	// empty for all.
	Path string
	// Folder, if set, is where it goes on this machine; else it goes into the
	// claim of the same name in the target, into a new folder at its top.
	Folder string
}

// RunFiles restores files of one volume, and with them the folders above them.
// In a claim nothing that exists is touched; what is in Folder is replaced.
func RunFiles(ctx context.Context, r Request, f Files) (*v1alpha1.Document, error) {
	started := time.Now()
	v := &volumeItem{
		line:     v1alpha1.VolumeLine{Ref: f.Part.Ref, Volume: f.Part.Volume, VolumeKind: "persistentVolumeClaim", Bytes: f.Part.Bytes, Snapshot: f.Part.Snapshot},
		snapshot: f.Part.Snapshot, path: f.Path,
	}
	if f.Part.Ref.Kind != "PersistentVolumeClaim" {
		v.line.VolumeKind = ""
	}
	p := &Plan{request: r, saved: &v1alpha1.Document{}}
	p.request.Filter = func(*object.Object) (bool, error) { return false, nil }
	var err error
	if f.Folder != "" {
		err = p.toFolder(ctx, v, f)
	} else {
		err = p.besideOriginal(ctx, v)
	}
	if err != nil {
		return nil, err
	}
	p.volumes = []*volumeItem{v}
	d := p.Document()
	d.Kind = "RestoreReport"
	if f.Folder != "" {
		d.Target = nil
	}
	d.Started, d.Seconds = started.UTC().Format(time.RFC3339Nano), time.Since(started).Seconds()
	return d, nil
}

func (p *Plan) toFolder(ctx context.Context, v *volumeItem, f Files) error {
	started := time.Now()
	add, done := p.request.task(v.name(), 0)
	result, err := p.request.Repository.RestoreFolder(ctx, f.Part, f.Folder, repository.RestoreOptions{Path: f.Path, Progress: add})
	done(err)
	if err != nil {
		return err
	}
	v.line.Files, v.line.Bytes, v.line.Seconds, v.line.Issues = result.Files, result.Bytes, time.Since(started).Seconds(), result.Issues
	if result.Lost > 0 {
		v.settle(v1alpha1.OutcomeIncomplete, "%d of its files are not, or not wholly, in %s; see its issues", result.Lost, f.Folder)
		return nil
	}
	v.settle(v1alpha1.OutcomeRestored, "what was asked for is in %s", f.Folder)
	return nil
}

// besideOriginal puts files into the claim that they came from, or its
// namesake, in a folder that was not there before.
func (p *Plan) besideOriginal(ctx context.Context, v *volumeItem) error {
	if v.line.Ref.Kind != "PersistentVolumeClaim" {
		return v1alpha1.Usagef("volume %s lives and dies with its pod\nhint: restore its files with --to-folder, and copy them with kubectl cp", v.name())
	}
	if p.request.Image == "" {
		return errors.New("there is no image to put the files in place with (hint: name one that has this program in it, with --mover-image)")
	}
	var err error
	if p.target, err = p.request.Target.Identity(ctx); err != nil {
		return fmt.Errorf("identify target cluster: %w", err)
	}
	v.line.Ref.Namespace = mapped(p.request.Namespaces, v.line.Ref.Namespace)
	claims, err := p.request.Target.FindKind(ctx, "", "v1", "PersistentVolumeClaim")
	if err != nil {
		return err
	}
	if _, err := p.request.Target.Get(ctx, claims, v.line.Ref.Namespace, v.line.Ref.Name); err != nil {
		return fmt.Errorf("%s, which the files are to go into: %w\nhint: --to-folder puts them on this machine", v.line.Ref, err)
	}
	node, err := p.nodeOf(ctx, v.line.Ref)
	if err != nil {
		return err
	}
	pod := mover.Helper{Namespace: v.line.Ref.Namespace, Image: p.request.Image, Claim: v.line.Ref.Name, Mover: p.request.Transport.Mover, Node: node}.Pod()
	pod.Labels[kube.LabelRun] = p.request.Record.ID
	folder := "restored-" + p.request.Record.ID
	err = mover.With(ctx, p.request.Target, pod, func(name string) error {
		where := kube.ExecOptions{Namespace: pod.Namespace, Pod: name, Container: "mover"}
		return p.receive(ctx, v, methodHelper, where, "--root", mover.Root, "--into", folder)
	})
	if err != nil && !errors.Is(err, mover.ErrNotRemoved) {
		return err
	}
	if err != nil {
		v.line.Warnings = append(v.line.Warnings, err.Error())
	}
	if v.line.Outcome == v1alpha1.OutcomeRestored {
		v.line.Reason = "what was asked for is in the new folder " + folder + " of the claim"
	}
	return nil
}

// nodeOf is where a claim is in use, or empty: many volumes can be mounted on
// one node only.
func (p *Plan) nodeOf(ctx context.Context, claim v1alpha1.Ref) (node string, err error) {
	err = p.eachUser(ctx, claim, func(_ v1alpha1.Ref, pod map[string]any) {
		if section(pod, "status")["phase"] == "Running" {
			node, _ = section(pod, "spec")["nodeName"].(string)
		}
	})
	return node, err
}
