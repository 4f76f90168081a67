// Package english leaves the texts of kubectl, whose packages are linked in,
// as they are. It would pack and unpack its translations before main, for
// commands that are not ours.
//
// As i18n asks for, this is in a package of its own, which is initialized
// before those that have such texts.
package english

import "k8s.io/kubectl/pkg/util/i18n"

func init() {
	// An error would say that they have been loaded already.
	_ = i18n.SetLoadTranslationsFunc(func() error { return nil })
}
