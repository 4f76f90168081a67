package v1alpha1

import (
	"fmt"
	"time"
)

// longestProbe bounds the time of one command of a drill.
const longestProbe = time.Hour

func (c *checks) probes(path string, probes []DrillProbe) {
	names := map[string]int{}
	for i, p := range probes {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.required(at+".name", p.Name)
		if before, twice := names[p.Name]; twice && p.Name != "" {
			c.refuse(at+".name", "reports tell probes apart by name", "%q is also the name of %s[%d]", p.Name, path, before)
		}
		names[p.Name] = i
		c.required(at+".match", p.Match)
		c.container(at+".container", p.Container)
		if len(p.Command) == 0 {
			c.refuse(at+".command", `write the program first and each argument as an entry of its own, as in ["sha256sum", "/data/file"]`, "is required")
		}
		c.command(at+".command", p.Command)
		if p.Timeout != nil && (p.Timeout.Duration <= 0 || p.Timeout.Duration > longestProbe) {
			c.refuse(at+".timeout", "", "must be more than 0 and at most %s, got %s", short(longestProbe), p.Timeout.Duration)
		}
		if p.ExitCode < 0 || p.ExitCode > 255 {
			c.refuse(at+".exitCode", "", "must be from 0 to 255, got %d", p.ExitCode)
		}
		if p.Expect != nil {
			c.expect(at+".expect", *p.Expect)
		}
	}
}

func (c *checks) expect(path string, e DrillExpect) {
	set := 0
	for _, is := range []bool{e.Text != nil, e.Regex != "", e.Expression != ""} {
		if is {
			set++
		}
	}
	if set != 1 {
		c.refuse(path, "write text, regex or expression", "must have exactly one of its fields")
	}
	if e.Regex != "" {
		c.regex(path+".regex", e.Regex)
	}
}
