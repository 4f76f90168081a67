package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/capture"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// openTime bounds how long the remote may take to answer at first. A network
// that swallows packets would be waited for much longer.
const openTime = 90 * time.Second

// moverTaskOptions are where a mover's Job has what it needs.
type moverTaskOptions struct {
	env          *env
	file, report string
	root, device string
}

func newMoverTask(e *env) *cobra.Command {
	o := &moverTaskOptions{env: e}
	c := &cobra.Command{
		Use:     "task",
		Short:   "Carry one volume between a mount and the remote, as a task file says",
		Example: e.examples("mover task --file " + mover.TaskFile),
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return o.Run(c.Context()) },
	}
	c.Flags().StringVar(&o.file, "file", mover.TaskFile, "the task")
	c.Flags().StringVar(&o.report, "report", "/dev/termination-log", "file that the result is written to")
	c.Flags().StringVar(&o.root, "root", mover.Root, "folder that the volume is mounted at")
	c.Flags().StringVar(&o.device, "device", mover.Device, "device of a block volume")
	return c
}

// Run does the task and reports its result, whatever that is.
func (o *moverTaskOptions) Run(ctx context.Context) error {
	result := o.carry(ctx)
	if err := os.WriteFile(o.report, result.Encode(), 0o644); err != nil {
		return fmt.Errorf("report the result: %w", err)
	}
	if result.Fault != "" {
		return fmt.Errorf("%s: %s", result.Fault, result.Error)
	}
	return nil
}

func failed(f mover.Fault, err error) mover.Result {
	return mover.Result{Fault: f, Error: err.Error()}
}

func (o *moverTaskOptions) carry(ctx context.Context) mover.Result {
	raw, err := os.ReadFile(o.file)
	if err != nil {
		return failed(mover.Broken, err)
	}
	task, err := mover.DecodeTask(raw)
	if err != nil {
		return failed(mover.Broken, err)
	}
	repo, fault, err := openTask(ctx, task)
	if err != nil {
		if ctx.Err() != nil {
			fault = mover.Interrupted
		}
		return failed(fault, err)
	}
	defer repo.Close(context.WithoutCancel(ctx))
	var result mover.Result
	if task.Direction == mover.Capture {
		result, err = o.capture(ctx, repo, task)
	} else {
		result, err = o.restore(ctx, repo, task)
	}
	switch {
	case err == nil:
		return result
	case ctx.Err() != nil:
		return failed(mover.Interrupted, errors.New("it was ended from outside"))
	case errors.Is(err, repository.ErrStorage):
		return failed(mover.Storage, err)
	}
	return failed(mover.Source, err)
}

// openTask opens the repository. What goes wrong here goes wrong for every
// volume.
func openTask(ctx context.Context, task mover.Task) (*repository.Volumes, mover.Fault, error) {
	for name, value := range task.Environment {
		if err := os.Setenv(name, value); err != nil {
			return nil, mover.Broken, fmt.Errorf("set variable %s: %w", name, err)
		}
	}
	// The context has to outlive the opening: backends keep it.
	opening, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(openTime, func() { cancel(fmt.Errorf("no answer within %s", openTime)) })
	defer late.Stop()
	storage, err := remote.Open(opening, task.Remote, nil)
	if err != nil {
		return nil, mover.Unreachable, err
	}
	volumes, err := openVolumes(opening, storage, task)
	if err == nil {
		return volumes, "", nil
	}
	storage.Close(context.WithoutCancel(ctx))
	if errors.Is(err, repository.ErrWrongKey) {
		return nil, mover.WrongKey, err
	}
	return nil, mover.Unreachable, err
}

func openVolumes(ctx context.Context, st blob.Storage, task mover.Task) (*repository.Volumes, error) {
	options := repository.OpenOptions{ReadOnly: task.Direction == mover.Restore}
	if task.Key != nil {
		return repository.OpenVolumes(ctx, st, task.Key, options)
	}
	r, err := repository.Open(ctx, st, task.Password, options)
	if err != nil {
		return nil, err
	}
	return r.Volumes, nil
}

func (o *moverTaskOptions) capture(ctx context.Context, repo *repository.Volumes, task mover.Task) (mover.Result, error) {
	options := repository.CaptureOptions{Line: task.Volume}
	if len(task.Previous) > 0 {
		options.Previous = &repository.VolumePart{}
		if err := json.Unmarshal(task.Previous, options.Previous); err != nil {
			return mover.Result{}, fmt.Errorf("read the earlier backup's part: %w", err)
		}
	}
	if task.Volume.CutAt != "" && task.Volume.Cut != capture.CutLive {
		at, err := time.Parse(time.RFC3339Nano, task.Volume.CutAt)
		if err != nil {
			return mover.Result{}, fmt.Errorf("read the moment of the cut: %w", err)
		}
		options.CutAt = at
	}
	if task.Blocks != nil {
		options.Allocated = task.Blocks.Allocated
	}
	var found repository.VolumeResult
	var part repository.VolumePart
	var err error
	if task.Block {
		found, part, err = repo.CaptureDevice(ctx, o.device, options)
	} else {
		found, part, err = repo.CaptureFolder(ctx, o.root, options)
	}
	if err != nil {
		return mover.Result{}, err
	}
	result := mover.Result{
		Files: found.Files, Bytes: found.Bytes, Read: found.Read, Stored: found.Stored,
		Whole: found.Whole, Lost: found.Unreadable, Issues: found.Issues,
	}
	result.Part, err = json.Marshal(part)
	return result, err
}

func (o *moverTaskOptions) restore(ctx context.Context, repo *repository.Volumes, task mover.Task) (mover.Result, error) {
	var part repository.VolumePart
	if err := json.Unmarshal(task.Part, &part); err != nil {
		return mover.Result{}, fmt.Errorf("read the backup's part: %w", err)
	}
	var put repository.RestoreResult
	var err error
	if task.Block {
		put, err = repo.RestoreDevice(ctx, part, o.device, repository.RestoreOptions{})
	} else {
		put, err = repo.RestoreFolder(ctx, part, o.root, repository.RestoreOptions{Extra: volume.Remove})
	}
	if err != nil {
		return mover.Result{}, err
	}
	return mover.Result{Files: put.Files, Bytes: put.Bytes, Lost: put.Lost, Issues: put.Issues}, nil
}
