package cluster

import (
	"os"
	"strings"
)

// mount is a line of /proc/self/mounts.
type mount struct{ point, kind string }

func readMounts() ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	// The kernel writes blanks in names as octal escapes.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var mounts []mount
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) >= 3 {
			mounts = append(mounts, mount{point: unescape.Replace(fields[1]), kind: fields[2]})
		}
	}
	return mounts, nil
}
