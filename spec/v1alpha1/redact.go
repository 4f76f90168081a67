package v1alpha1

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const redacted = "***"

// Redacted is a copy that may be printed: of each rclone remote only the
// option names and the type stay, and parameters inside the path are hidden.
// Which options are secret differs between rclone's backends, and an option
// that is new tomorrow must not leak, so none but the type is shown.
func (s BackupRemoteSpec) Redacted() BackupRemoteSpec {
	s.Path = RedactPath(s.Path)
	if s.Config != nil {
		config := make(map[string]map[string]string, len(s.Config))
		for name, options := range s.Config {
			shown := make(map[string]string, len(options))
			for k, v := range options {
				if k != "type" {
					v = redacted
				}
				shown[k] = v
			}
			config[name] = shown
		}
		s.Config = config
	}
	return s
}

// String is for logs and errors and holds no credential.
func (s BackupRemoteSpec) String() string {
	r := s.Redacted()
	var b strings.Builder
	b.WriteString(r.Path)
	for _, name := range slices.Sorted(maps.Keys(r.Config)) {
		fmt.Fprintf(&b, " [%s type=%s]", name, r.Config[name]["type"])
	}
	return b.String()
}

// GoString keeps %#v from printing what String hides.
func (s BackupRemoteSpec) GoString() string { return s.String() }

// RedactPath hides the parameters of an rclone path, as in
// ":s3,secret_access_key=...:bucket" or "store,password=...:bucket".
func RedactPath(path string) string {
	var quote byte
	comma := -1
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case comma < 0 && (c == '/' || c == ':' && i > 0):
			return path // the remote's name ended, or there was none
		case comma < 0:
			if c == ',' {
				comma = i
			}
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == ':' && !strings.Contains(path[i:], "@"):
			return path[:comma+1] + redacted + path[i:]
		}
	}
	// No end of the parameters, or a URL that was not quoted: all of it may be
	// secret, unless it is a plain local name with a comma in it.
	if comma >= 0 && strings.ContainsAny(path, ":=") {
		return path[:comma+1] + redacted
	}
	return path
}
