package v1alpha1

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Bounds of ttl and timeout: shorter than a snapshot takes to begin, or so
// long that nobody would call it a pause, is a slip of the pen.
const (
	shortestHold = time.Second
	longestHold  = time.Hour
)

func (c *checks) hooks(list string, hooks []Hook) {
	names := map[string]int{}
	for i, h := range hooks {
		path := fmt.Sprintf("%s[%d]", list, i)
		if before, ok := names[h.Name]; ok && h.Name != "" {
			c.refuse(path+".name", "reports tell hooks apart by name", "%q is also the name of %s[%d]", h.Name, list, before)
		}
		names[h.Name] = i
		c.action(path, h)
		c.oneOf(path+".scope", h.Scope, ScopePod, ScopeGroup, ScopeBackup)
		c.oneOf(path+".onFailure", h.OnFailure, OnFailureAbort, OnFailureContinue)
		c.container(path+".container", h.Container)
		c.hold(path+".ttl", h.TTL)
		c.hold(path+".timeout", h.Timeout)
		c.parameters(path+".parameters", h.Parameters)
		if h.Match != "" && strings.TrimSpace(h.Match) == "" {
			c.refuse(path+".match", "", "is blank")
		}
	}
}

// action checks what a hook does: a recipe, or one command and its opposite.
func (c *checks) action(path string, h Hook) {
	const nothing = `write after: ["true"] where there is nothing to undo`
	switch commands := len(h.Before) > 0 || len(h.After) > 0; {
	case h.Recipe != "" && commands:
		c.refuse(path, "write two hooks", "has both a recipe and commands")
	case h.Recipe == "" && !commands:
		c.refuse(path, "write recipe: postgresql or another, or before and after", "does nothing")
	case commands && len(h.After) == 0:
		c.refuse(path+".after", nothing, "is required where there is a before: what was stopped has to go on, whatever happens in between")
	case commands && len(h.Before) == 0:
		c.refuse(path+".before", `write before: ["true"] where there is nothing to do`, "is required where there is an after")
	}
	if h.Recipe != "" {
		c.name(path+".recipe", h.Recipe)
	} else if len(h.Parameters) > 0 {
		c.refuse(path+".parameters", "commands take arguments", "has no meaning without a recipe")
	}
	c.command(path+".before", h.Before)
	c.command(path+".after", h.After)
}

func (c *checks) command(path string, command []string) {
	if len(command) > 0 && strings.TrimSpace(command[0]) == "" {
		c.refuse(path+"[0]", `write the program first and each argument as an entry of its own, as in ["sync", "-f", "/data"]`, "names no program")
	}
}

// hold checks a duration for which something stands still.
func (c *checks) hold(path string, d *metav1.Duration) {
	if d != nil && (d.Duration < shortestHold || d.Duration > longestHold) {
		c.refuse(path, "", "must be from %s to %s, got %s", short(shortestHold), short(longestHold), d.Duration)
	}
}

// short writes whole hours, minutes and seconds as people do.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

func (c *checks) container(path, name string) {
	if name != "" && validation.IsDNS1123Label(name) != nil {
		c.refuse(path, "", "%q is not the name of a container: %s", name, validation.IsDNS1123Label(name)[0])
	}
}

// name checks what names an object of the cluster or a document.
func (c *checks) name(path, name string) {
	if problems := validation.IsDNS1123Subdomain(name); name != "" && problems != nil {
		c.refuse(path, "", "%q is not a name: %s", name, problems[0])
	}
}

// parameters become environment variables.
func (c *checks) parameters(path string, parameters map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		switch {
		case !environmentName.MatchString(name):
			c.refuse(path, "write letters, digits and underscores, as in DATABASE", "%q is not a name for an environment variable", name)
		case strings.ContainsRune(parameters[name], 0):
			c.refuse(path+"."+name, "", "holds a zero byte")
		}
	}
}

func (r *BackupRecipe) faults() []*FieldError {
	c := &checks{at: r.At}
	c.metadata(r.ObjectMeta)
	s := r.Spec
	switch {
	case s.Session != "" && (s.Freeze != "" || s.Thaw != ""):
		c.refuse("spec.session", "write one or the other", "has no meaning beside freeze and thaw")
	case s.Session == "" && s.Freeze == "" && s.Thaw == "":
		c.refuse("spec", "write freeze and thaw, or session", "does nothing")
	case s.Session == "" && s.Freeze == "":
		c.refuse("spec.freeze", "", "is required where there is a thaw")
	case s.Session == "" && s.Thaw == "":
		c.refuse("spec.thaw", "write thaw: \"true\" where there is nothing to undo", "is required where there is a freeze: what was stopped has to go on, whatever happens in between")
	}
	for name, script := range map[string]string{"prepare": s.Prepare, "session": s.Session, "freeze": s.Freeze, "thaw": s.Thaw} {
		if script != "" && strings.TrimSpace(script) == "" {
			c.refuse("spec."+name, "", "is blank")
		}
	}
	for i, command := range s.Requires {
		if command == "" || strings.ContainsAny(command, " \t\n") {
			c.refuse(fmt.Sprintf("spec.requires[%d]", i), "write the program alone, as in psql", "%q is not the name of a program", command)
		}
	}
	c.container("spec.container", s.Container)
	c.hold("spec.ttl", s.TTL)
	c.hold("spec.timeout", s.Timeout)
	c.parameters("spec.parameters", s.Parameters)
	return c.faults
}
