package plugin

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// documents are what people paste commands from.
var documents = []string{"../README.md", "../krew/backup.yaml", "../examples/policy.yaml", "../examples/kustomization.yaml"}

func testRoot() *cobra.Command {
	root := newRoot(&env{IOStreams: genericiooptions.NewTestIOStreamsDiscard(), kube: genericclioptions.NewConfigFlags(true), name: "kubectl backup"})
	root.InitDefaultCompletionCmd()
	return root
}

// Every command in the documents is one, with flags and arguments that it
// takes.
func TestDocumentedCommands(t *testing.T) {
	for _, path := range documents {
		commands := documentedCommands(t, path)
		if len(commands) == 0 {
			t.Errorf("%s: no command was found", path)
		}
		for _, line := range commands {
			words, err := shellWords(line)
			if err != nil {
				t.Errorf("%s: %q: %v", path, line, err)
				continue
			}
			if err := parses(words[2:]); err != nil {
				t.Errorf("%s: %q: %v", path, line, err)
			}
		}
	}
}

func parses(args []string) error {
	command, rest, err := testRoot().Find(args)
	if err != nil {
		return err
	}
	if !command.HasParent() {
		return fmt.Errorf("there is no command %q", args[0])
	}
	if err := command.ParseFlags(rest); err != nil {
		return err
	}
	return command.ValidateArgs(command.Flags().Args())
}

// documentedCommands returns the lines that call the plugin, continuation
// lines joined. In Markdown only those inside of code blocks count.
func documentedCommands(t *testing.T, path string) []string {
	t.Helper()
	var commands []string
	inside := !strings.HasSuffix(path, ".md")
	for line := range strings.Lines(strings.ReplaceAll(read(t, path), "\\\n", " ")) {
		line = strings.TrimLeft(strings.TrimSpace(line), "#$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = !inside
		case inside && strings.HasPrefix(line, "kubectl backup "):
			commands = append(commands, line)
		}
	}
	return commands
}

// shellWords splits a command line as a shell does, up to a redirection, a
// pipe or a comment.
func shellWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	started := false
	end := func() {
		if started {
			words = append(words, word.String())
		}
		word.Reset()
		started = false
	}
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, started = c, true
		case c == ' ':
			end()
		case !started && strings.ContainsRune("|>#&;", c):
			return words, nil
		default:
			started = true
			word.WriteRune(c)
		}
	}
	end()
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed")
	}
	return words, nil
}

func TestReadmeNamesEveryCommand(t *testing.T) {
	rows := tableRows(t, "## Commands")
	var commands []string
	for _, c := range testRoot().Commands() {
		if !c.Hidden && c.Name() != "help" {
			commands = append(commands, c.Name())
		}
	}
	slices.Sort(rows)
	slices.Sort(commands)
	if !slices.Equal(rows, commands) {
		t.Errorf("the table has  %v\nthe program has %v", rows, commands)
	}
}

func TestReadmeNamesEveryExitCode(t *testing.T) {
	rows := tableRows(t, "## Exit codes")
	var codes []string
	for _, c := range []int{ExitOK, ExitError, ExitUsage, ExitPartial, ExitNoRepository, ExitWrongKey, ExitCancelled} {
		codes = append(codes, fmt.Sprint(c))
	}
	if !slices.Equal(rows, codes) {
		t.Errorf("the table has  %v\nthe program has %v", rows, codes)
	}
}

// tableRows returns the first word in backquotes of each row in the table of
// a section.
func tableRows(t *testing.T, heading string) []string {
	t.Helper()
	_, section, found := strings.Cut(read(t, "../README.md"), "\n"+heading+"\n")
	if !found {
		t.Fatalf("README.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^` ]+)").FindAllStringSubmatch(section, -1) {
		rows = append(rows, m[1])
	}
	return rows
}

func TestReadmeNamesMakeTargetsAndFiles(t *testing.T) {
	readme, makefile := read(t, "../README.md"), read(t, "../Makefile")
	for _, m := range regexp.MustCompile("`make ([a-z0-9-]+)").FindAllStringSubmatch(readme, -1) {
		if !regexp.MustCompile(`(?m)^` + m[1] + `:`).MatchString(makefile) {
			t.Errorf("README.md has `make %s`, and the Makefile has no such target", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(readme, -1) {
		if _, err := os.Stat("../" + m[1]); err != nil {
			t.Errorf("README.md links to %s: %v", m[1], err)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
