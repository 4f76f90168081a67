package remote

import (
	"fmt"
	"strings"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fspath"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Check says what can be known of a remote without opening anything: that its
// path, and what that wraps, name remotes of its configuration, of backends
// that rclone has. Where a part of the configuration is in a Secret, names are
// not checked. The error is a UsageError.
func Check(spec v1alpha1.BackupRemoteSpec) error {
	sections, err := sectionsOf(spec.Config, nil)
	if err != nil {
		return err
	}
	c := &checker{sections: sections, partly: spec.ConfigSecretRef != nil, seen: map[string]bool{}}
	return c.refer("spec.path", spec.Path)
}

// checker follows references between remotes.
type checker struct {
	sections map[string]map[string]string
	partly   bool
	seen     map[string]bool
}

func (c *checker) refer(field, to string) error {
	parsed, err := fspath.Parse(to)
	if err != nil {
		return usage(field, fmt.Sprintf("%q is not a path in rclone's notation", v1alpha1.RedactPath(to)), "write remote:path, or a local path")
	}
	options := map[string]string(parsed.Config)
	backend, inline := strings.CutPrefix(parsed.Name, ":")
	if !inline {
		if parsed.Name == "" || c.seen[parsed.Name] {
			return nil
		}
		c.seen[parsed.Name] = true
		var known bool
		if options, known = c.sections[parsed.Name]; !known {
			if c.partly {
				return nil
			}
			hint := "configured: " + names(c.sections) + "; add it under spec.config"
			return usage(field, fmt.Sprintf("remote %q is not configured", parsed.Name), hint)
		}
		backend, field = options["type"], "spec.config."+parsed.Name
	} else if _, err := fs.Find(backend); err != nil {
		return usage(field, fmt.Sprintf("rclone has no backend %q", backend), "use one of rclone's backends, such as s3, sftp, webdav, local")
	}
	for _, wrapped := range wraps(backend, options) {
		if err := c.refer(field, wrapped); err != nil {
			return err
		}
	}
	return nil
}
