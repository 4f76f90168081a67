//go:build !linux

package volume

import (
	"context"
	"errors"
)

var errLinuxOnly = errors.New("file trees are read and written on Linux only; hint: run it in a pod or on a Linux machine")

// ReadTree works on Linux only.
func ReadTree(context.Context, string, *Encoder) error { return errLinuxOnly }

// WriteTree works on Linux only.
func WriteTree(context.Context, *Decoder, string, WriteOptions) (Report, error) {
	return Report{}, errLinuxOnly
}

// DeviceName is the name of the one file in the stream of a device.
const DeviceName = "device"

// ReadDevice works on Linux only.
func ReadDevice(context.Context, string, *Encoder) error { return errLinuxOnly }

// WriteDevice works on Linux only.
func WriteDevice(context.Context, *Decoder, string, bool) (Report, error) {
	return Report{}, errLinuxOnly
}
