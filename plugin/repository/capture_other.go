//go:build !linux

package repository

import (
	"context"
	"errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
)

var errLinuxOnly = errors.New("volumes are read and written on Linux only; hint: run it in a pod or on a Linux machine")

func captureFolder(context.Context, context.CancelCauseFunc, engine, *relay, string, CaptureOptions) (captured, error) {
	return captured{}, errLinuxOnly
}

func (r *Volumes) restoreFolder(context.Context, VolumePart, string, RestoreOptions) (volume.Report, error) {
	return volume.Report{}, errLinuxOnly
}

func captureDevice(context.Context, context.CancelCauseFunc, *relay, string, CaptureOptions) (captured, error) {
	return captured{}, errLinuxOnly
}

func (r *Volumes) restoreDevice(context.Context, VolumePart, string, RestoreOptions) (volume.Report, error) {
	return volume.Report{}, errLinuxOnly
}
