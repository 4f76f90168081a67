package v1alpha1

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a time zone is known or unknown on every machine alike

	"github.com/robfig/cron/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The values that the enumerated fields take; the first is the default.
const (
	OnErrorReport  = "Report"
	OnErrorInclude = "Include"

	DependenciesInclude = "Include"
	DependenciesReport  = "Report"
	DependenciesIgnore  = "Ignore"

	GroupByDependencies = "Dependencies"
	GroupByNamespace    = "Namespace"
	GroupByLabel        = "Label"
	GroupByExpression   = "Expression"
	GroupByNone         = "None"

	ConsistencyGroup    = "Group"
	ConsistencyWorkload = "Workload"
	ConsistencyNone     = "None"

	MethodAuto     = "Auto"
	MethodSnapshot = "Snapshot"
	MethodStream   = "Stream"
	MethodSkip     = "Skip"

	ScopePod    = "Pod"
	ScopeGroup  = "Group"
	ScopeBackup = "Backup"

	OnFailureAbort    = "Abort"
	OnFailureContinue = "Continue"

	TransportAuto   = "Auto"
	TransportJob    = "Job"
	TransportStream = "Stream"

	EventPodReady       = "PodReady"
	EventPodTerminating = "PodTerminating"
)

// CoreGroup is how the API group without a name is written in Kinds.
const CoreGroup = "core"

// Validate checks what can be checked without a cluster and without compiling
// expressions. Its error is a UsageError that lists every fault.
func (p *BackupPolicy) Validate() error { return JoinFieldErrors(p.faults()) }

// Validate checks what can be checked without asking rclone or a cluster. Its
// error is a UsageError that lists every fault.
func (r *BackupRemote) Validate() error { return JoinFieldErrors(r.faults()) }

// Validate checks what can be checked without a container to run it in. Its
// error is a UsageError that lists every fault.
func (r *BackupRecipe) Validate() error { return JoinFieldErrors(r.faults()) }

// checks gathers the faults of one document.
type checks struct {
	at     func(path string) Position
	faults []*FieldError
}

func (c *checks) refuse(path, hint, format string, args ...any) {
	c.faults = append(c.faults, &FieldError{Position: c.at(path), Path: path, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (c *checks) oneOf(path, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		c.refuse(path, didYouMean(value, allowed), "unknown value %q", value)
	}
}

func (c *checks) required(path, value string) {
	if value == "" {
		c.refuse(path, "", "is required")
	}
}

func (c *checks) metadata(m metav1.ObjectMeta) {
	if m.Name == "" {
		c.refuse("metadata.name", "", "is required")
	} else if problems := validation.IsDNS1123Subdomain(m.Name); problems != nil {
		c.refuse("metadata.name", "", "%q is not a name: %s", m.Name, problems[0])
	}
	if m.Namespace != "" {
		c.namespace("metadata.namespace", m.Namespace)
	}
}

func (c *checks) namespace(path, name string) {
	if problems := validation.IsDNS1123Label(name); problems != nil {
		hint := ""
		if strings.ContainsAny(name, "*?") {
			hint = "patterns are written as an expression over namespaceObject.metadata.name"
		}
		c.refuse(path, hint, "%q is not a namespace: %s", name, problems[0])
	}
}

func (p *BackupPolicy) faults() []*FieldError {
	c := &checks{at: p.At}
	c.metadata(p.ObjectMeta)
	s := p.Spec
	if len(s.Select) == 0 {
		c.refuse("spec.select", "write at least one entry; {} selects everything", "selects nothing")
	}
	c.entries("spec.select", s.Select, p.Namespace)
	c.entries("spec.exclude", s.Exclude, p.Namespace)
	for i, e := range s.Exclude {
		if len(e.Kinds) == 0 && len(e.Namespaces) == 0 && e.LabelSelector == nil && e.Expression == "" {
			c.refuse(fmt.Sprintf("spec.exclude[%d]", i), "", "excludes everything")
		}
	}
	c.oneOf("spec.onExpressionError", s.OnExpressionError, OnErrorReport, OnErrorInclude)
	c.oneOf("spec.dependencies", s.Dependencies, DependenciesInclude, DependenciesReport, DependenciesIgnore)
	c.grouping("spec.grouping", s.Grouping)
	c.oneOf("spec.consistency.mode", s.Consistency.Mode, ConsistencyGroup, ConsistencyWorkload, ConsistencyNone)
	c.hooks("spec.consistency.hooks", s.Consistency.Hooks)
	for i, v := range s.Volumes {
		path := fmt.Sprintf("spec.volumes[%d]", i)
		c.volumeRule(path, v)
		if v.Match == "" && i < len(s.Volumes)-1 {
			c.refuse(path, "move it to the end or give it a match", "matches every volume, so the rules after it are never reached")
		}
	}
	c.mover("spec.mover", s.Mover)
	for i, t := range s.Triggers {
		c.trigger(fmt.Sprintf("spec.triggers[%d]", i), t)
	}
	c.retention("spec.retention", s.Retention)
	for i, copied := range s.Copies {
		path := fmt.Sprintf("spec.copies[%d]", i)
		c.required(path+".remote.name", copied.Remote.Name)
		c.retention(path+".retention", copied.Retention)
	}
	if d := s.Drill; d != nil {
		c.schedule("spec.drill", d.Schedule, d.TimeZone)
		for i, a := range d.Assert {
			c.required(fmt.Sprintf("spec.drill.assert[%d]", i), a)
		}
		c.probes("spec.drill.probes", d.Probes)
	}
	return c.faults
}

func (c *checks) entries(list string, entries []SelectEntry, policyNamespace string) {
	names := map[string]int{}
	for i, e := range entries {
		path := fmt.Sprintf("%s[%d]", list, i)
		if before, ok := names[e.Name]; ok && e.Name != "" {
			c.refuse(path+".name", "reports tell entries apart by name", "%q is also the name of %s[%d]", e.Name, list, before)
		}
		names[e.Name] = i
		for j, k := range e.Kinds {
			c.kind(fmt.Sprintf("%s.kinds[%d]", path, j), k)
		}
		for j, ns := range e.Namespaces {
			at := fmt.Sprintf("%s.namespaces[%d]", path, j)
			c.namespace(at, ns)
			if policyNamespace != "" && ns != policyNamespace {
				c.refuse(at, "leave metadata.namespace out, or select there with a policy of that namespace",
					"a policy in the namespace %q selects in that namespace only", policyNamespace)
			}
		}
		c.labelSelector(path+".labelSelector", e.LabelSelector)
		if e.Expression != "" && strings.TrimSpace(e.Expression) == "" {
			c.refuse(path+".expression", "", "is blank")
		}
	}
}

var (
	kindName   = regexp.MustCompile(`^[A-Z][A-Za-z0-9-]{0,62}$`)
	apiVersion = regexp.MustCompile(`^v[0-9]+((alpha|beta)[0-9]+)?\.`)
)

const kindHint = "write Kind, Kind.group, *.group or *, as in Deployment, Deployment.apps, *.apps, Service." + CoreGroup

func (c *checks) kind(path, pattern string) {
	kind, group, hasGroup := strings.Cut(pattern, ".")
	switch {
	case kind != "*" && !kindName.MatchString(kind):
		hint := kindHint
		if word := strings.TrimSuffix(kind, "s"); word != "" && !strings.Contains(word, "/") && kind == strings.ToLower(kind) {
			hint = fmt.Sprintf("kinds are written as in a manifest, beginning with a capital like %q; "+kindHint, strings.ToUpper(word[:1])+word[1:])
		}
		c.refuse(path, hint, "%q is not a kind", pattern)
	case hasGroup && strings.Contains(pattern, "/"), hasGroup && apiVersion.MatchString(group):
		c.refuse(path, kindHint, "%q names a version, which is not part of a kind", pattern)
	case hasGroup && group != CoreGroup && validation.IsDNS1123Subdomain(group) != nil:
		c.refuse(path, kindHint, "%q is not an API group", group)
	}
}

func (c *checks) labelSelector(path string, s *metav1.LabelSelector) {
	root := field.NewPath(path)
	for _, e := range metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, root) {
		hint := ""
		if strings.HasSuffix(e.Field, ".operator") {
			hint = didYouMean(fmt.Sprint(e.BadValue), []string{"In", "NotIn", "Exists", "DoesNotExist"})
		}
		c.refuse(e.Field, hint, "%s", e.ErrorBody())
	}
}

func (c *checks) grouping(path string, g Grouping) {
	c.oneOf(path+".by", g.By, GroupByDependencies, GroupByNamespace, GroupByLabel, GroupByExpression, GroupByNone)
	pair := func(name, value, by string) {
		switch {
		case g.By == by && value == "":
			c.refuse(path+"."+name, "", "is required where by is %s", by)
		case g.By != by && value != "":
			c.refuse(path+"."+name, "set by: "+by, "has no meaning where by is %s", orDefault(g.By, GroupByDependencies))
		}
	}
	pair("label", g.Label, GroupByLabel)
	pair("expression", g.Expression, GroupByExpression)
	if g.Label != "" {
		if problems := validation.IsQualifiedName(g.Label); problems != nil {
			c.refuse(path+".label", "", "%q is not a label: %s", g.Label, problems[0])
		}
	}
	for i, e := range g.Edges {
		at := fmt.Sprintf("%s.edges[%d]", path, i)
		c.edgeEnd(at+".from", e.From)
		c.edgeEnd(at+".to", e.To)
		if e.From.Kind != "" && e.From.overlaps(e.To) {
			c.refuse(at, "from is what needs, to is what is needed", "joins %s %s to itself", e.From.Kind, e.From.Name)
		}
	}
}

// overlaps says whether both ends can name one object: an empty group or
// namespace matches any.
func (e EdgeEnd) overlaps(o EdgeEnd) bool {
	same := func(a, b string) bool { return a == b || a == "" || b == "" }
	return e.Kind == o.Kind && e.Name == o.Name && same(e.Group, o.Group) && same(e.Namespace, o.Namespace)
}

func (c *checks) edgeEnd(path string, e EdgeEnd) {
	c.required(path+".kind", e.Kind)
	c.required(path+".name", e.Name)
	if e.Kind != "" && !kindName.MatchString(e.Kind) {
		c.refuse(path+".kind", "write the kind alone, as in Deployment, and its API group under group", "%q is not a kind", e.Kind)
	}
	if e.Group == CoreGroup || e.Group != "" && validation.IsDNS1123Subdomain(e.Group) != nil {
		c.refuse(path+".group", "write the group without a version, as in apps, or leave it out for any", "%q is not an API group", e.Group)
	}
	if e.Namespace != "" {
		c.namespace(path+".namespace", e.Namespace)
	}
}

func (c *checks) trigger(path string, t Trigger) {
	c.oneOf(path+".event", t.Event, EventPodReady, EventPodTerminating)
	switch {
	case t.Schedule == "" && t.Event == "":
		c.refuse(path, `write schedule: "0 2 * * *" or event: `+EventPodReady, "starts nothing")
	case t.Schedule != "" && t.Event != "":
		c.refuse(path, "write two triggers", "has both schedule and event")
	}
	c.schedule(path, t.Schedule, t.TimeZone)
}

func (c *checks) schedule(path, schedule, zone string) {
	location := time.UTC
	if zone != "" {
		loaded, err := time.LoadLocation(zone)
		switch {
		case schedule == "":
			c.refuse(path+".timeZone", "", "has no meaning without schedule")
		case err != nil || zone == "Local":
			c.refuse(path+".timeZone", "write a name of the IANA time zone database, as in Europe/Oslo or Etc/UTC", "unknown time zone %q", zone)
		default:
			location = loaded
		}
	}
	if schedule == "" {
		return
	}
	const hint = `write minute, hour, day of month, month and day of week, as in "0 2 * * *"`
	if strings.Contains(schedule, "TZ=") {
		c.refuse(path+".schedule", "write the zone under timeZone", "must not hold a time zone")
		return
	}
	parsed, err := cron.ParseStandard(schedule)
	if err != nil {
		c.refuse(path+".schedule", hint, "%q is not a schedule: %v", schedule, err)
		return
	}
	if parsed.Next(time.Unix(0, 0).In(location)).IsZero() {
		c.refuse(path+".schedule", hint, "%q never comes", schedule)
	}
}

func (c *checks) retention(path string, r *Retention) {
	if r == nil {
		return
	}
	if *r == (Retention{}) {
		c.refuse(path, "write how many to keep, as in last: 3", "keeps nothing")
	}
	for name, n := range map[string]int{"last": r.Last, "hourly": r.Hourly, "daily": r.Daily, "weekly": r.Weekly, "monthly": r.Monthly, "yearly": r.Yearly} {
		if n < 0 {
			c.refuse(path+"."+name, "", "must not be negative")
		}
	}
}

var environmentName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (r *BackupRemote) faults() []*FieldError {
	c := &checks{at: r.At}
	c.metadata(r.ObjectMeta)
	c.required("spec.path", r.Spec.Path)
	for _, name := range slices.Sorted(maps.Keys(r.Spec.Config)) {
		if r.Spec.Config[name]["type"] == "" {
			c.refuse("spec.config."+name, "write type: s3 or another of rclone's backends", "has no type")
		}
	}
	c.secretKey("spec.configSecretRef", r.Spec.ConfigSecretRef)
	if from := r.Spec.PasswordFrom; from != nil {
		c.password("spec.passwordFrom", from)
	}
	c.limits("spec.limits", r.Spec.Limits)
	return c.faults
}

func (c *checks) password(path string, from *PasswordSource) {
	given := 0
	for _, set := range []bool{from.Env != "", from.File != "", from.SecretRef != nil} {
		if set {
			given++
		}
	}
	if given != 1 {
		c.refuse(path, "write one of env, file and secretRef", "must have exactly one source, has %d", given)
	}
	if from.Env != "" && !environmentName.MatchString(from.Env) {
		// Not repeated: somebody may have put the password itself there.
		c.refuse(path+".env", "write the name of a variable, as in KUBECTL_BACKUP_PASSWORD", "is not the name of an environment variable")
	}
	c.secretKey(path+".secretRef", from.SecretRef)
}

func (c *checks) secretKey(path string, ref *SecretKeyRef) {
	if ref == nil {
		return
	}
	c.required(path+".name", ref.Name)
	c.required(path+".key", ref.Key)
	if ref.Namespace != "" {
		c.namespace(path+".namespace", ref.Namespace)
	}
}

func orDefault(value, def string) string {
	if value == "" {
		return def
	}
	return value
}
