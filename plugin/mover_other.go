//go:build !linux

package plugin

import "errors"

var errMoverLinux = errors.New("movers run in Linux containers only")

func moverStop() error { return errMoverLinux }

func beside() ([]int, error) { return nil, errMoverLinux }
