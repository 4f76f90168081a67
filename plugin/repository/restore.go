package repository

import (
	"context"
	"fmt"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

// RestoreOptions say how a volume is put back by the process that has it
// mounted.
type RestoreOptions struct {
	// Path is that of one file or folder of the volume, which comes with the
	// folders above it; empty means all.
	Path string
	// Extra says what becomes of files that the backup does not have.
	Extra volume.Extra
	// Zeroed says that a device reads as zeros, so that holes need not be
	// written.
	Zeroed bool
	// Workers is how many files are written at once; 0 means twice the number
	// of processors, and at least four.
	Workers int
	// Progress, if set, is called with the bytes that were dealt with since
	// the last call, from any goroutine.
	Progress func(int64)
}

// RestoreResult says what became of a volume that was put back. As JSON it
// takes less than three kilobytes.
type RestoreResult struct {
	// Files counts the entries that were written, Bytes is their length, holes
	// included.
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
	// Lost counts the paths whose content is missing in the target.
	Lost int `json:"lost,omitempty"`
	// Issues are the first few sentences about what was not written, and what
	// the target refused to set.
	Issues []string `json:"issues,omitempty"`
}

// RestoreFolder writes a volume of a backup into an existing folder. Nothing is
// written outside of it. The error is about the folder, the target's space or
// the repository; a file that could not be written is in the result, and the
// rest goes on.
func (r *Volumes) RestoreFolder(ctx context.Context, part VolumePart, root string, o RestoreOptions) (RestoreResult, error) {
	o.Path = strings.Trim(o.Path, "/")
	return r.restore(ctx, part, root, o, r.restoreFolder)
}

// RestoreDevice writes the backup of a device to one that is at least as
// large. Only data is written, and what is a hole in the backup is made to
// read as zeros. What the target has beyond the size of the source stays.
func (r *Volumes) RestoreDevice(ctx context.Context, part VolumePart, path string, o RestoreOptions) (RestoreResult, error) {
	return r.restore(ctx, part, path, o, r.restoreDevice)
}

func (r *Volumes) restore(ctx context.Context, part VolumePart, to string, o RestoreOptions, write func(context.Context, VolumePart, string, RestoreOptions) (volume.Report, error)) (RestoreResult, error) {
	if part.Root == nil {
		return RestoreResult{}, fmt.Errorf("restore volume %s: the backup does not say where it is", part.Ref)
	}
	ctx, cancel := r.guard.bind(ctx)
	defer cancel()
	report, err := write(ctx, part, to, o)
	if err != nil {
		return RestoreResult{}, fmt.Errorf("restore volume %s: %w", part.Ref, r.guard.explain(ctx, err))
	}
	told := VolumeResult{}
	told.say(report.Issues)
	return RestoreResult{Files: report.Files, Bytes: report.Bytes, Lost: told.Unreadable, Issues: told.Issues}, nil
}

func workersOf(o RestoreOptions) int {
	if o.Workers > 0 {
		return o.Workers
	}
	return storing()
}
