package remote

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/config/configmap"
	"github.com/rclone/rclone/fs/config/obscure"
)

// localSection holds the options of a plain local path. A user's section of
// the same name wins, but cannot be reached by a plain path.
const localSection = "plain-path"

// sectionsOf merges rclone.conf text and the spec's own sections and adds the
// options that a repository wants. The caller's maps are not changed.
func sectionsOf(spec map[string]map[string]string, conf []byte) (map[string]map[string]string, error) {
	sections, err := parseConf(conf)
	if err != nil {
		return nil, err
	}
	for name, options := range spec {
		if options["type"] == "" {
			return nil, usage("spec.config."+name, "the remote has no type", "add type: with the name of an rclone backend")
		}
		own := map[string]string{}
		for k, v := range options {
			own[k] = v
		}
		sections[name] = own
	}
	sections[localSection] = map[string]string{"type": "local"}
	for name, options := range sections {
		if _, err := fs.Find(options["type"]); err != nil {
			return nil, usage("spec.config."+name+".type", fmt.Sprintf("rclone has no backend %q", options["type"]), "use one of rclone's backends, such as s3, sftp, webdav, local")
		}
		for k, v := range wanted[options["type"]] {
			if _, set := options[k]; !set {
				options[k] = v
			}
		}
	}
	return sections, nil
}

// wanted are options that differ from rclone's defaults: times are the
// remote's own, and files that never change need no checks for change.
var wanted = map[string]map[string]string{
	"local": {"no_set_modtime": "true", "no_check_updated": "true"},
	"sftp":  {"set_modtime": "false", "disable_hashcheck": "true"},
}

// parseConf reads the sections of an rclone.conf.
func parseConf(conf []byte) (map[string]map[string]string, error) {
	sections := map[string]map[string]string{}
	if bytes.Contains(conf, []byte("RCLONE_ENCRYPT_V0:")) {
		return nil, usage("spec.configSecretRef", "the rclone.conf is encrypted", "store it as rclone config show prints it; the Secret is what protects it")
	}
	var current map[string]string
	lines := bufio.NewScanner(bytes.NewReader(conf))
	lines.Buffer(nil, 1<<20) // tokens of some backends are long lines
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[' && line[len(line)-1] == ']':
			current = map[string]string{}
			sections[line[1:len(line)-1]] = current
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || current == nil {
				return nil, usage("rclone.conf", "line "+strconv.Itoa(n)+" is neither [name] nor key = value below a [name]", "")
			}
			current[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read rclone.conf: %w", err)
	}
	return sections, nil
}

func names(sections map[string]map[string]string) string {
	var list []string
	for name := range sections {
		if name != localSection {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return "none"
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// memory is rclone's configuration for this process. rclone knows only one;
// each open remote owns sections in it under names that nobody else has.
var memory = &memoryConfig{sections: map[string]map[string]string{}}

type memoryConfig struct {
	mu       sync.Mutex
	next     int
	sections map[string]map[string]string
}

// lease is one open remote's part of the configuration.
type lease struct {
	prefix string
	names  []string
	refs   *regexp.Regexp // matches name: where a name of ours stands
}

// lease stores sections under names of their own and turns references between
// them (crypt over another remote, a union of several) to those names.
func (m *memoryConfig) lease(sections map[string]map[string]string) (*lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	l := &lease{prefix: "open" + strconv.Itoa(m.next) + "-"}
	var quoted []string
	for name := range sections {
		l.names = append(l.names, name)
		quoted = append(quoted, regexp.QuoteMeta(name))
	}
	slices.SortFunc(quoted, func(a, b string) int { return len(b) - len(a) })
	var err error
	if l.refs, err = regexp.Compile(`(^|[\s"'=])(` + strings.Join(quoted, "|") + `)([,:])`); err != nil {
		return nil, fmt.Errorf("names of remotes: %w", err)
	}
	for name, options := range sections {
		own := map[string]string{}
		for k, v := range options {
			switch k {
			case "remote", "remotes", "upstreams":
				v = l.rewrite(v)
			}
			own[k] = v
		}
		m.sections[l.name(name)] = own
	}
	return l, nil
}

func (l *lease) name(section string) string { return l.prefix + section }

func (l *lease) rewrite(value string) string {
	return l.refs.ReplaceAllString(value, "${1}"+l.prefix+"${2}${3}")
}

func (l *lease) release() {
	memory.mu.Lock()
	defer memory.mu.Unlock()
	for _, name := range l.names {
		delete(memory.sections, l.name(name))
	}
}

// The methods below are rclone's config.Storage.

func (m *memoryConfig) GetSectionList() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []string
	for name := range m.sections {
		list = append(list, name)
	}
	return list
}

func (m *memoryConfig) HasSection(section string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.sections[section]
	return ok
}

func (m *memoryConfig) DeleteSection(section string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sections, section)
}

func (m *memoryConfig) GetKeyList(section string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []string
	for key := range m.sections[section] {
		list = append(list, key)
	}
	return list
}

func (m *memoryConfig) GetValue(section, key string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.sections[section][key]
	return value, ok
}

// SetValue keeps what a backend renews while it is open, such as a token.
func (m *memoryConfig) SetValue(section, key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if options, ok := m.sections[section]; ok {
		options[key] = value
	}
}

func (m *memoryConfig) DeleteKey(section, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.sections[section][key]
	delete(m.sections[section], key)
	return ok
}

func (m *memoryConfig) Load() error { return nil }
func (m *memoryConfig) Save() error { return nil }
func (m *memoryConfig) Serialize() (string, error) {
	return "", errors.New("the configuration stays in memory")
}

// scrubber removes secrets, and the prefix of our section names, from text.
type scrubber struct {
	secrets []string
	lease   *lease
}

// secretOption matches options that hold secrets although the backend does
// not mark them.
var secretOption = regexp.MustCompile(`(?i)pass|secret|token|auth|key|credential|sas|session`)

// shortestSecret is the length below which a value is too likely to be part of
// ordinary text.
const shortestSecret = 4

func newScrubber(sections map[string]map[string]string, parameters configmap.Simple) *scrubber {
	s := &scrubber{}
	add := func(value string) {
		if len(value) >= shortestSecret && value != "true" && value != "false" {
			s.secrets = append(s.secrets, value)
		}
	}
	collect := func(backend string, options map[string]string) {
		declared := fs.Options{}
		if info, err := fs.Find(backend); err == nil {
			declared = info.Options
		}
		for k, v := range options {
			option := declared.Get(k)
			marked := option != nil && (option.IsPassword || option.Sensitive)
			if !marked && !secretOption.MatchString(k) {
				continue
			}
			add(v)
			if option != nil && option.IsPassword {
				if plain, err := obscure.Reveal(v); err == nil {
					add(plain)
				}
			}
		}
	}
	for _, options := range sections {
		collect(options["type"], options)
	}
	collect("", parameters)
	slices.SortFunc(s.secrets, func(a, b string) int { return len(b) - len(a) })
	return s
}

func (s *scrubber) text(t string) string {
	for _, secret := range s.secrets {
		t = strings.ReplaceAll(t, secret, "***")
	}
	if s.lease != nil {
		t = strings.ReplaceAll(t, s.lease.prefix, "")
	}
	return t
}

// cleanError shows a scrubbed text and still answers errors.Is for sentinels.
type cleanError struct {
	text string
	is   []error
}

func (e *cleanError) Error() string   { return e.text }
func (e *cleanError) Unwrap() []error { return e.is }

// clean keeps what callers decide on and drops the rest of the chain: wrapped
// errors print themselves, and with them what they carry.
func (s *scrubber) clean(err error) error {
	if err == nil {
		return nil
	}
	c := &cleanError{text: s.text(err.Error())}
	for _, sentinel := range kept {
		if errors.Is(err, sentinel) {
			c.is = append(c.is, sentinel)
		}
	}
	if isFull(err) {
		c.is = append(c.is, errNoSpace)
	}
	return c
}

var kept = []error{context.Canceled, context.DeadlineExceeded, fs.ErrorPermissionDenied, errReadOnly}
