package freeze

import (
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

//go:embed session.sh
var sessionScript string

// loader reads the program from its input and runs it, so that neither the
// recipe nor its parameters stand in an argument, which the container's
// processes and the API server's audit log would show. Its own argument, the
// nonce, is the line that ends the program: half of one is not run.
const loader = `p=
while IFS= read -r l; do
  if [ "$l" = "$0" ]; then eval "$p"; exit; fi
  p="$p$l
"
done
exit 125`

const (
	// patience is how long a session that is ready waits to be begun.
	patience = 10 * time.Minute
	// What the shell reads from its input: once to begin, once to thaw.
	wordGo   = "go\n"
	wordThaw = "thaw\n"
)

// program is what the container's shell runs for one target.
type program struct {
	nonce string
	text  string
}

// write makes the program of a target whose times are set.
func write(t Target) program {
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "%s=%s\n", name, quote(value)) }
	seconds := func(d time.Duration) string { return fmt.Sprint(int(math.Ceil(d.Seconds()))) }
	nonce := "kubectl-backup-" + rand.Text()
	set("k_nonce", nonce)
	set("k_patience", seconds(patience))
	set("k_ttl", seconds(t.TTL))
	set("k_timeout", seconds(t.Timeout))
	requires, prepare, session, freeze, thaw := "", "", "", command(t.Before), command(t.After)
	if t.Recipe != nil {
		s := t.Recipe.Spec
		requires, prepare, session = strings.Join(s.Requires, " "), s.Prepare, s.Session
		freeze, thaw = s.Freeze, s.Thaw
	}
	set("k_requires", requires)
	set("k_prepare", prepare)
	set("k_session", session)
	set("k_run", t.Run)
	claim := ""
	if t.Run != "" {
		sum := sha256.Sum256([]byte(strings.Join([]string{t.Namespace, t.Pod, t.Container, session, freeze, thaw}, "\x00")))
		claim = "kubectl-backup-" + hex.EncodeToString(sum[:8])
	}
	set("k_claim", claim)
	set("k_freeze", freeze)
	set("k_thaw", thaw)
	parameters := t.parameters()
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		set("export "+name, parameters[name])
	}
	set("export KUBECTL_BACKUP_TTL", seconds(t.TTL))
	set("export KUBECTL_BACKUP_TIMEOUT", seconds(t.Timeout))
	b.WriteString(sessionScript)
	b.WriteString(nonce + "\n")
	return program{nonce: nonce, text: b.String()}
}

// command is a script that becomes the given command.
func command(args []string) string {
	if len(args) == 0 {
		return ""
	}
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = quote(a)
	}
	return "exec " + strings.Join(quoted, " ")
}

// quote writes one word for sh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
