package v1alpha1

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

func full(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/full.yaml")
	require.NoError(t, err)
	return data
}

// policyWith is a valid policy with one more line in its spec.
func policyWith(line string) string {
	return "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p}\nspec:\n  select: [{}]\n  " + line + "\n"
}

func remoteWith(line string) string {
	return "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: r}\nspec:\n  path: /x\n  " + line + "\n"
}

func TestEveryFieldIsRead(t *testing.T) {
	d, err := Decode("full.yaml", full(t))
	require.NoError(t, err)
	require.Len(t, d.Policies, 1)
	require.Len(t, d.Remotes, 2)
	require.Len(t, d.Recipes, 2)

	// The sample must set every field there is, or the tests on it prove less
	// than they say.
	var unset []string
	var visit func(v reflect.Value, path string)
	visit = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer:
			if v.IsNil() {
				unset = append(unset, path)
				return
			}
			visit(v.Elem(), path)
		case reflect.Slice:
			if v.Len() == 0 {
				unset = append(unset, path)
			}
			if v.Len() > 0 && v.Index(0).Kind() == reflect.Struct {
				visit(v.Index(0), path+"[0]")
			}
		case reflect.Struct:
			if strings.HasPrefix(v.Type().PkgPath(), "k8s.io/api/") {
				if v.IsZero() {
					unset = append(unset, path)
				}
				return // which of its fields are set is no matter of ours
			}
			for _, f := range jsonFields(v.Type(), nil) {
				if v.Type().Field(f.index[0]).Type.PkgPath() != "k8s.io/apimachinery/pkg/apis/meta/v1" {
					visit(v.FieldByIndex(f.index), join(path, f.name))
				}
			}
		default:
			if v.IsZero() {
				unset = append(unset, path)
			}
		}
	}
	visit(reflect.ValueOf(d.Policies[0].Spec), "spec")
	require.Equal(t, []string{"spec.exclude[0].labelSelector.matchExpressions[0].values", "spec.grouping.expression",
		"spec.consistency.hooks[0].before", "spec.consistency.hooks[0].after", "spec.triggers[0].event",
		"spec.drill.probes[0].expect.text", "spec.drill.probes[0].expect.regex"}, unset, "they exclude what the sample has instead")
	unset = nil
	visit(reflect.ValueOf(d.Remotes[0].Spec), "spec")
	require.Equal(t, []string{"spec.passwordFrom.env", "spec.passwordFrom.file"}, unset)
	unset = nil
	visit(reflect.ValueOf(d.Recipes[0].Spec), "spec")
	require.Equal(t, []string{"spec.session"}, unset)
	require.NotEmpty(t, d.Policies[0].Spec.Consistency.Hooks[1].Before)
	require.NotEmpty(t, d.Policies[0].Spec.Consistency.Hooks[1].After)
	require.NotEmpty(t, d.Recipes[1].Spec.Session)
}

func TestDocumentsSurviveBeingWrittenAgain(t *testing.T) {
	d, err := Decode("full.yaml", full(t))
	require.NoError(t, err)
	again := [][]byte{}
	for _, document := range []any{d.Policies[0], d.Remotes[0], d.Remotes[1], d.Recipes[0], d.Recipes[1]} {
		written, err := yaml.Marshal(toMap(t, document))
		require.NoError(t, err)
		again = append(again, written)
	}
	e, err := Decode("again", bytes.Join(again, []byte("---\n")))
	require.NoError(t, err)
	require.Equal(t, d.Policies[0].Spec, e.Policies[0].Spec)
	require.Equal(t, d.Remotes[0].Spec, e.Remotes[0].Spec)
	require.Equal(t, d.Remotes[1].Spec, e.Remotes[1].Spec)
	require.Equal(t, d.Recipes[0].Spec, e.Recipes[0].Spec)
	require.Equal(t, d.Recipes[1].Spec, e.Recipes[1].Spec)
}

// freeKey matches the paths of maps whose keys a person chooses.
var freeKey = regexp.MustCompile(`(metadata\.labels|matchLabels|spec\.config|parameters|nodeSelector|resources\.(requests|limits))\.`)

// TestEveryMisspeltFieldIsRefused misspells each key of the sample in turn.
func TestEveryMisspeltFieldIsRefused(t *testing.T) {
	tried := 0
	eachKey(t, full(t), func(path string, root, key, _ *yaml.Node) {
		if freeKey.MatchString(path) {
			return
		}
		right := key.Value
		key.Value += "x"
		defer func() { key.Value = right }()
		_, err := Decode("f.yaml", render(t, root))
		require.Error(t, err, path)
		if path == "apiVersion" || path == "kind" {
			require.Contains(t, err.Error(), path+": is missing")
			return
		}
		require.ErrorContains(t, err, path+"x: unknown field", path)
		require.ErrorContains(t, err, fmt.Sprintf("did you mean %q?", right), path)
		requirePlace(t, err)
		tried++
	})
	require.Greater(t, tried, 80)
}

// TestEveryWrongTypeIsRefused puts a value of another type at each key.
func TestEveryWrongTypeIsRefused(t *testing.T) {
	tried := 0
	eachKey(t, full(t), func(path string, root, _, value *yaml.Node) {
		if path == "apiVersion" || path == "kind" || strings.Contains(path, "example.org/") { // which a path has in quotes
			return
		}
		right := *value
		defer func() { *value = right }()
		scalar := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: "1.5"}
		if strings.HasSuffix(path, "requestsPerSecond") || strings.Contains(path, "resources.") {
			scalar = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "many"}
		}
		wrong := []yaml.Node{scalar, {Kind: yaml.SequenceNode, Content: []*yaml.Node{{Kind: yaml.SequenceNode}}}}
		if right.Kind != yaml.MappingNode {
			wrong = append(wrong, yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: "secret-key"}, {Kind: yaml.ScalarNode, Value: "secret-value"}}})
		}
		for _, w := range wrong {
			*value = w
			_, err := Decode("f.yaml", render(t, root))
			require.Error(t, err, path)
			require.ErrorContains(t, err, path, path)
			require.NotContains(t, err.Error(), "secret-value", "a value may be a password")
			requirePlace(t, err)
			tried++
		}
	})
	require.Greater(t, tried, 200)
}

// TestEveryRequiredFieldIsMissed takes each key away in turn; where the type
// says that it is required, its absence must be named.
func TestEveryRequiredFieldIsMissed(t *testing.T) {
	required := map[string]bool{}
	for _, kind := range []any{BackupPolicy{}, BackupRemote{}, BackupRecipe{}} {
		requiredPaths(reflect.TypeOf(kind), "", required)
	}
	tried := 0
	var paths []string
	eachKey(t, full(t), func(path string, _, _, _ *yaml.Node) { paths = append(paths, path) })
	for _, wanted := range paths {
		if !required[generic(wanted)] {
			continue
		}
		removed := ""
		eachKey(t, full(t), func(path string, root, key, value *yaml.Node) {
			if path != wanted || removed != "" {
				return
			}
			removed = path
			drop(root, key)
			_, err := Decode("f.yaml", render(t, root))
			require.ErrorContains(t, err, path+": is required", path)
			tried++
		})
	}
	require.Greater(t, tried, 15)
}

func hooks(list string) string { return policyWith("consistency: {hooks: [" + list + "]}") }

func recipeWith(spec string) string {
	return "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRecipe\nmetadata: {name: r}\nspec: " + spec + "\n"
}

func TestFaults(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"suggestion", policyWith("dependencys: Ignore"), `f.yaml:6:3: spec.dependencys: unknown field; did you mean "dependencies"?`},
		{"kind", "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolciy\n", `f.yaml:2:7: kind: unknown kind "BackupPolciy"; did you mean "BackupPolicy"?`},
		{"unrelated kind", "apiVersion: kubectl-backup.io/v1alpha1\nkind: Schedule\n", `unknown kind "Schedule"; known are BackupPolicy, BackupRemote, BackupRecipe`},
		{"no kind", "apiVersion: kubectl-backup.io/v1alpha1\n", "kind: is missing"},
		{"no apiVersion", "a: b\n", "f.yaml:1:1: apiVersion: is missing"},
		{"version", "apiVersion: kubectl-backup.io/v2\nkind: BackupPolicy\n", `f.yaml:1:13: apiVersion: version "kubectl-backup.io/v2" is not known; this program reads kubectl-backup.io/v1alpha1`},
		{"group", "apiVersion: kubctl-backup.io/v1alpha1\nkind: BackupPolicy\n", `group "kubctl-backup.io" is not known; did you mean "kubectl-backup.io/v1alpha1"?`},
		{"not a document", "[1, 2]\n", "expected a document with apiVersion and kind, got a list"},
		{"syntax", "a: [\n", "f.yaml:"},
		{"syntax after a document", policyWith("") + "---\na: b: c\n", "not valid YAML or JSON: mapping values are not allowed"},
		{"unknown anchor", policyWith("exclude: [{kinds: [*none]}]") + "---\n# more\n", "f.yaml:6: not valid YAML or JSON: unknown anchor 'none' referenced"},
		{"control character", policyWith("exclude: []") + "# \x01\n# more\n", "f.yaml:7: not valid YAML or JSON: control characters are not allowed"},
		{"tab", "a:\n\tb: c\n", "f.yaml:2: not valid YAML or JSON: found character that cannot start any token"},
		{"apiVersion of another type", "apiVersion: [a]\n", "f.yaml:1:1: apiVersion: expected a string"},
		{"kind of another type", "apiVersion: kubectl-backup.io/v1alpha1\nkind: {a: b}\n", "kind: expected a string"},
		{"duplicate key", policyWith("select: [{}]"), "f.yaml:6:3: spec.select: is written twice, the first time on line 5"},
		{"duplicate document", policyWith("") + "---\n" + policyWith(""), "BackupPolicy p is defined twice, the first time at f.yaml:3:12"},
		{"empty entry", policyWith("exclude: [~]"), "spec.exclude[0]: an entry of a list must not be empty"},
		{"no select", "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p}\nspec: {select: []}\n", "spec.select: selects nothing"},
		{"no name", "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {}\nspec: {select: [{}]}\n", "metadata.name: is required"},
		{"name", "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: A_b}\nspec: {select: [{}]}\n", `metadata.name: "A_b" is not a name`},

		{"enum", policyWith("dependencies: Includ"), `spec.dependencies: unknown value "Includ"; did you mean "Include"?`},
		{"enum by case", policyWith("onExpressionError: report"), `did you mean "Report"?`},
		{"enum unlike any", policyWith("grouping: {by: Magic}"), "known are Dependencies, Namespace, Label, Expression, None"},
		{"mode", policyWith("consistency: {mode: Groop}"), `did you mean "Group"?`},
		{"method", policyWith("volumes: [{method: Snapshots}]"), `did you mean "Snapshot"?`},
		{"event", policyWith("triggers: [{event: podready}]"), `did you mean "PodReady"?`},
		{"event under its old key", policyWith("triggers: [{on: PodReady}]"), "spec.triggers[0].on: unknown field; write event: PodReady or event: PodTerminating; many YAML parsers read the key on as true"},
		{"event under a key that was on", policyWith("triggers: [{true: PodReady}]"), "spec.triggers[0].true: unknown field; write event: PodReady"},

		{"operator", policyWith("exclude: [{labelSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}]"), `spec.exclude[0].labelSelector.matchExpressions[0].operator`},
		{"values", policyWith("exclude: [{labelSelector: {matchExpressions: [{key: a, operator: In}]}}]"), "matchExpressions[0].values"},
		{"label value", policyWith(`exclude: [{labelSelector: {matchLabels: {a: "no spaces"}}}]`), "spec.exclude[0].labelSelector.matchLabels"},
		{"label key", policyWith(`exclude: [{labelSelector: {matchLabels: {"a b": c}}}]`), "spec.exclude[0].labelSelector.matchLabels"},

		{"duration as number", policyWith("consistency: {hooks: [{recipe: redis, ttl: 60}]}"), `ttl: expected a duration such as "90s"`},
		{"duration as word", policyWith("consistency: {hooks: [{recipe: redis, ttl: soon}]}"), `ttl: expected a duration such as "90s"`},
		{"cron fields", policyWith(`triggers: [{schedule: "0 2 * *"}]`), "spec.triggers[0].schedule: \"0 2 * *\" is not a schedule"},
		{"cron range", policyWith(`triggers: [{schedule: "61 2 * * *"}]`), "is not a schedule"},
		{"cron that never comes", policyWith(`triggers: [{schedule: "0 0 30 2 *"}]`), "never comes"},
		{"zone in schedule", policyWith(`triggers: [{schedule: "TZ="}]`), "must not hold a time zone"},
		{"zone", policyWith(`triggers: [{schedule: "0 2 * * *", timeZone: Europe/Olso}]`), `timeZone: unknown time zone "Europe/Olso"`},
		{"local zone", policyWith(`triggers: [{schedule: "0 2 * * *", timeZone: Local}]`), `unknown time zone "Local"`},
		{"zone alone", policyWith(`triggers: [{event: PodReady, timeZone: Etc/UTC}]`), "has no meaning without schedule"},
		{"two triggers in one", policyWith(`triggers: [{event: PodReady, schedule: "0 2 * * *"}]`), "has both schedule and event"},
		{"empty trigger", policyWith("triggers: [{}]"), "starts nothing"},
		{"drill zone", policyWith(`drill: {schedule: "0 2 * * *", timeZone: Mars/Base}`), "spec.drill.timeZone"},

		{"probe without name", policyWith(`drill: {probes: [{match: "true", command: [a]}]}`), "spec.drill.probes[0].name: is required"},
		{"probe without match", policyWith(`drill: {probes: [{name: a, command: [a]}]}`), "spec.drill.probes[0].match"},
		{"probe without command", policyWith(`drill: {probes: [{name: a, match: "true"}]}`), "spec.drill.probes[0].command: is required"},
		{"two probes of a name", policyWith(`drill: {probes: [{name: a, match: "true", command: [a]}, {name: a, match: "true", command: [b]}]}`), `"a" is also the name of spec.drill.probes[0]`},
		{"two expectations", policyWith(`drill: {probes: [{name: a, match: "true", command: [a], expect: {text: b, regex: c}}]}`), "exactly one of its fields"},
		{"no expectation", policyWith(`drill: {probes: [{name: a, match: "true", command: [a], expect: {}}]}`), "exactly one of its fields"},
		{"regex of a probe", policyWith(`drill: {probes: [{name: a, match: "true", command: [a], expect: {regex: "("}}]}`), "expect.regex: not a regular expression"},
		{"exit code", policyWith(`drill: {probes: [{name: a, match: "true", command: [a], exitCode: 256}]}`), "exitCode: must be from 0 to 255"},
		{"probe for ever", policyWith(`drill: {probes: [{name: a, match: "true", command: [a], timeout: 48h}]}`), "spec.drill.probes[0].timeout"},

		{"plural kind", policyWith("exclude: [{kinds: [deployments]}]"), `"deployments" is not a kind; kinds are written as in a manifest, beginning with a capital like "Deployment"`},
		{"kind with version", policyWith("exclude: [{kinds: [Deployment.v1.apps]}]"), "names a version"},
		{"kind with slash", policyWith("exclude: [{kinds: [apps/Deployment]}]"), "is not a kind"},
		{"group", policyWith(`exclude: [{kinds: ["*.Apps"]}]`), "is not an API group"},
		{"pattern in kind", policyWith(`exclude: [{kinds: ["Dep*"]}]`), "is not a kind"},
		{"namespace pattern", policyWith(`exclude: [{namespaces: ["team-*"]}]`), "patterns are written as an expression"},
		{"excludes all", policyWith("exclude: [{}]"), "spec.exclude[0]: excludes everything"},
		{"same name", policyWith("exclude: [{name: a, kinds: [Pod]}, {name: a, kinds: [Job]}]"), `"a" is also the name of spec.exclude[0]`},
		{"blank expression", policyWith(`exclude: [{expression: "  "}]`), "spec.exclude[0].expression: is blank"},

		{"edge onto itself", policyWith("grouping: {edges: [{from: {kind: Pod, name: a}, to: {kind: Pod, name: a}}]}"), "spec.grouping.edges[0]: joins Pod a to itself"},
		{"edge onto itself by default namespace", policyWith("grouping: {edges: [{from: {kind: Pod, name: a, namespace: x}, to: {kind: Pod, name: a}}]}"), "to itself"},
		{"edge onto itself by default group", policyWith("grouping: {edges: [{from: {group: apps, kind: Deployment, name: a}, to: {kind: Deployment, name: a}}]}"), "to itself"},
		{"edge with a version", policyWith("grouping: {edges: [{from: {group: apps/v1, kind: Deployment, name: a}, to: {kind: Pod, name: b}}]}"), `spec.grouping.edges[0].from.group: "apps/v1" is not an API group; write the group without a version`},
		{"edge with kind and group in one", policyWith("grouping: {edges: [{from: {kind: Deployment.apps, name: a}, to: {kind: Pod, name: b}}]}"), "spec.grouping.edges[0].from.kind"},
		{"label without by", policyWith("grouping: {label: team}"), "spec.grouping.label: has no meaning where by is Dependencies; set by: Label"},
		{"by without label", policyWith("grouping: {by: Label}"), "spec.grouping.label: is required where by is Label"},
		{"unreachable rule", policyWith("volumes: [{method: Auto}, {method: Skip}]"), "spec.volumes[0]: matches every volume, so the rules after it are never reached"},
		{"keeps nothing", policyWith("retention: {}"), "spec.retention: keeps nothing"},
		{"negative retention", policyWith("retention: {daily: -1}"), "spec.retention.daily: must not be negative"},
		{"negative mover", policyWith("mover: {parallel: -1}"), "spec.mover.parallel: must not be negative"},
		{"copy without name", policyWith("copies: [{remote: {name: ''}}]"), "spec.copies[0].remote.name: is required"},
		{"foreign namespace", strings.Replace(policyWith("exclude: [{namespaces: [b]}]"), "{name: p}", "{name: p, namespace: a}", 1), `a policy in the namespace "a" selects in that namespace only`},

		{"two passwords", remoteWith("passwordFrom: {env: A, file: b}"), "spec.passwordFrom: must have exactly one source, has 2"},
		{"no password source", remoteWith("passwordFrom: {}"), "spec.passwordFrom: must have exactly one source, has 0"},
		{"secret without key", remoteWith("passwordFrom: {secretRef: {name: a, key: ''}}"), "spec.passwordFrom.secretRef.key: is required"},
		{"no type", remoteWith("config: {store: {provider: Other}}"), "spec.config.store: has no type"},
		{"hook that does nothing", hooks("{match: 'true'}"), "spec.consistency.hooks[0]: does nothing; write recipe: postgresql or another, or before and after"},
		{"hook with both", hooks("{recipe: redis, before: [a], after: [b]}"), "spec.consistency.hooks[0]: has both a recipe and commands; write two hooks"},
		{"before alone", hooks("{before: [a]}"), "spec.consistency.hooks[0].after: is required where there is a before: what was stopped has to go on, whatever happens in between; write after: [\"true\"]"},
		{"after alone", hooks("{after: [a]}"), "spec.consistency.hooks[0].before: is required where there is an after"},
		{"command without a program", hooks("{before: [' '], after: [a]}"), "spec.consistency.hooks[0].before[0]: names no program"},
		{"hook names", hooks("{name: a, recipe: redis}, {name: a, recipe: etcd}"), `spec.consistency.hooks[1].name: "a" is also the name of spec.consistency.hooks[0]`},
		{"recipe name", hooks("{recipe: Post gres}"), `spec.consistency.hooks[0].recipe: "Post gres" is not a name`},
		{"hook scope", hooks("{recipe: redis, scope: pod}"), `spec.consistency.hooks[0].scope: unknown value "pod"; did you mean "Pod"?`},
		{"hook failure", hooks("{recipe: redis, onFailure: Ignore}"), "known are Abort, Continue"},
		{"hook container", hooks("{recipe: redis, container: 'a b'}"), `"a b" is not the name of a container`},
		{"hook parameter", hooks("{recipe: redis, parameters: {a-b: c}}"), `spec.consistency.hooks[0].parameters: "a-b" is not a name for an environment variable`},
		{"parameters of a command", hooks("{before: [a], after: [b], parameters: {A: c}}"), "spec.consistency.hooks[0].parameters: has no meaning without a recipe"},
		{"hook match", hooks("{recipe: redis, match: ' '}"), "spec.consistency.hooks[0].match: is blank"},
		{"negative ttl", hooks("{recipe: redis, ttl: -1s}"), "spec.consistency.hooks[0].ttl: must be from 1s to 1h, got -1s"},
		{"long ttl", hooks("{recipe: redis, ttl: 2h}"), "must be from 1s to 1h, got 2h0m0s"},
		{"no timeout", hooks("{recipe: redis, timeout: 0s}"), "spec.consistency.hooks[0].timeout: must be from 1s"},
		{"field of a hook", hooks("{recipe: redis, onFailur: Abort}"), `spec.consistency.hooks[0].onFailur: unknown field; did you mean "onFailure"?`},

		{"recipe that does nothing", recipeWith("{description: d}"), "spec: does nothing; write freeze and thaw, or session"},
		{"recipe with both", recipeWith("{session: a, thaw: b}"), "spec.session: has no meaning beside freeze and thaw"},
		{"freeze alone", recipeWith("{freeze: a}"), "spec.thaw: is required where there is a freeze"},
		{"thaw alone", recipeWith("{thaw: a}"), "spec.freeze: is required where there is a thaw"},
		{"blank script", recipeWith("{freeze: ' ', thaw: b}"), "spec.freeze: is blank"},
		{"required program", recipeWith("{session: a, requires: [b c]}"), `spec.requires[0]: "b c" is not the name of a program`},
		{"recipe ttl", recipeWith("{session: a, ttl: 1ms}"), "spec.ttl: must be from 1s to 1h"},
		{"recipe parameter", recipeWith("{session: a, parameters: {1: b}}"), `spec.parameters: "1" is not a name`},
		{"recipe without a name", strings.Replace(recipeWith("{session: a}"), "{name: r}", "{}", 1), "metadata.name: is required"},
		{"recipe twice", recipeWith("{session: a}") + "---\n" + recipeWith("{session: a}"), "BackupRecipe r is defined twice, the first time at f.yaml:3:12"},
		{"field of a recipe", recipeWith("{sesion: a}"), `spec.sesion: unknown field; did you mean "session"?`},

		{"snapshot class of a stream", policyWith("volumes: [{method: Stream, snapshotClass: a}]"), "spec.volumes[0].snapshotClass: has no meaning where method is Stream"},
		{"name of a class", policyWith("volumes: [{method: Snapshot, groupSnapshotClass: A_b}]"), `spec.volumes[0].groupSnapshotClass: "A_b" is not a name`},
		{"per node", policyWith("mover: {perNode: -1}"), "spec.mover.perNode: must not be negative"},
		{"transport", policyWith("mover: {transport: Jobs}"), `spec.mover.transport: unknown value "Jobs"; did you mean "Job"?`},
		{"mover retries", policyWith("mover: {retries: -1}"), "spec.mover.retries: must not be negative"},
		{"mover timeout", policyWith("mover: {timeout: 0s}"), "spec.mover.timeout: must be at least 1s, got 0s"},
		{"mover image", policyWith("mover: {image: 'a b'}"), "spec.mover.image: must not have blanks in it"},
		{"mover account", policyWith("mover: {serviceAccountName: A}"), `spec.mover.serviceAccountName: "A" is not a name`},
		{"quantity", policyWith("mover: {resources: {limits: {memory: 512 MB}}}"), `f.yaml:6:40: spec.mover.resources.limits.memory: expected a quantity such as "500m", "2" or "512Mi", got a string; write a number and a unit`},
		{"quantity of nothing", policyWith("mover: {resources: {requests: {cpu: ''}}}"), "spec.mover.resources.requests.cpu: expected a quantity"},
		{"negative quantity", policyWith("mover: {resources: {requests: {cpu: -1}}}"), "spec.mover.resources.requests.cpu: must not be negative"},
		{"resource", policyWith("mover: {resources: {requests: {memroy: 1Gi}}}"), `spec.mover.resources.requests.memroy: unknown resource "memroy"; did you mean "memory"?`},
		{"more than the limit", policyWith("mover: {resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}}"), "asks for more memory than the limit allows: 2Gi is above 1Gi"},
		{"resource claims", policyWith("mover: {resources: {claims: [{name: gpu}]}}"), "spec.mover.resources.claims: has no meaning"},
		{"field of resources", policyWith("mover: {resources: {request: {}}}"), `spec.mover.resources.request: unknown field; did you mean "requests"?`},
		{"node selector", policyWith("mover: {nodeSelector: {a: 'b c'}}"), "spec.mover.nodeSelector: \"b c\" is not the value of a label"},
		{"toleration", policyWith("mover: {tolerations: [{key: a, operator: Exist}]}"), `spec.mover.tolerations[0].operator: unknown value "Exist"; did you mean "Exists"?`},
		{"toleration effect", policyWith("mover: {tolerations: [{key: a, effect: NoExec}]}"), "spec.mover.tolerations[0].effect: unknown value"},
		{"toleration of all", policyWith("mover: {tolerations: [{effect: NoSchedule}]}"), "spec.mover.tolerations[0].key: is required where operator is Equal; write operator: Exists to tolerate every taint"},
		{"field of a toleration", policyWith("mover: {tolerations: [{keys: a}]}"), `spec.mover.tolerations[0].keys: unknown field; did you mean "key"?`},
		{"user", policyWith("mover: {securityContext: {runAsUser: -1}}"), "spec.mover.securityContext.runAsUser: must not be negative"},
		{"root that is none", policyWith("mover: {securityContext: {runAsUser: 0, runAsNonRoot: true}}"), "is 0, which runAsNonRoot forbids"},
		{"seccomp", policyWith("mover: {securityContext: {seccompProfile: {type: Default}}}"), "spec.mover.securityContext.seccompProfile.type: unknown value"},
		{"field of the security context", policyWith("mover: {securityContext: {runAsUsr: 1}}"), `spec.mover.securityContext.runAsUsr: unknown field; did you mean "runAsUser"?`},

		{"limit of movers", remoteWith("limits: {movers: -1}"), "spec.limits.movers: must not be negative"},
		{"bandwidth", remoteWith("limits: {bandwidth: 10 MB/s}"), `spec.limits.bandwidth: "10 MB/s" is not a bandwidth; write a number and a unit, as in 10M for 10 MiB/s`},
		{"bandwidth in decimal units", remoteWith("limits: {bandwidth: 10MB}"), "is not a bandwidth"},
		{"bandwidth without a unit", remoteWith(`limits: {bandwidth: "10"}`), "is not a bandwidth"},
		{"bandwidth of nothing", remoteWith("limits: {bandwidth: 0.0M}"), "spec.limits.bandwidth: lets nothing through"},
		{"negative requests", remoteWith("limits: {requestsPerSecond: -0.5}"), "spec.limits.requestsPerSecond: must not be negative"},
		{"endless requests", remoteWith("limits: {requestsPerSecond: .inf}"), "spec.limits.requestsPerSecond: expected a number"},
		{"request retries", remoteWith("limits: {retries: -1}"), "spec.limits.retries: must not be negative"},
		{"no path", "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: r}\nspec: {}\n", "spec.path: is required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Decode("f.yaml", []byte(c.text))
			require.ErrorContains(t, err, c.want)
			requirePlace(t, err)
		})
	}
}

func TestEveryFaultIsReportedAtOnceAndInOrder(t *testing.T) {
	text := policyWith("dependencies: Nope\n  volumes: [{methd: Skip}]\n  retention: {last: -1}") + "---\nkind: x\n---\n" + remoteWith("passwordFrom: {}")
	_, err := Decode("f.yaml", []byte(text))
	var lines []string
	for _, l := range strings.Split(err.Error(), "\n") {
		lines = append(lines, strings.SplitN(l, ": ", 3)[1])
	}
	require.Equal(t, []string{"spec.dependencies", "spec.volumes[0].methd", "spec.retention.last", "apiVersion", "spec.passwordFrom"}, lines)
	for range 20 {
		_, again := Decode("f.yaml", []byte(text))
		require.Equal(t, err.Error(), again.Error())
	}
}

func TestAPasswordWrittenAsAVariableNameIsNotRepeated(t *testing.T) {
	_, err := Decode("f.yaml", []byte(remoteWith(`passwordFrom: {env: "correct horse"}`)))
	require.ErrorContains(t, err, "spec.passwordFrom.env: is not the name of an environment variable")
	require.NotContains(t, err.Error(), "horse")
}

func TestWhatIsAccepted(t *testing.T) {
	for _, c := range []struct {
		name, text string
		policies   int
		foreign    int
	}{
		{"nothing", "", 0, 0},
		{"comments and empty documents", "# a\n---\n---\n# b\n", 0, 0},
		{"other groups", "apiVersion: v1\nkind: ConfigMap\n---\napiVersion: apps.example.org/v1\nkind: BackupPolicy\nspec: {anything: 1}\n", 0, 2},
		{"json", `{"apiVersion":"kubectl-backup.io/v1alpha1","kind":"BackupPolicy","metadata":{"name":"p"},` + "\n\t" + `"spec":{"select":[{"optional":true}]}}`, 1, 0},
		{"list", "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(policyWith("")), "\n", "\n  ") + "\n- {apiVersion: v1, kind: Secret}\n", 1, 1},
		{"windows line ends", strings.ReplaceAll(policyWith("dependencies: Ignore"), "\n", "\r\n"), 1, 0},
		{"null is absent", policyWith("exclude: null\n  grouping: ~\n  drill:"), 1, 0},
		{"anchors and merges", policyWith("exclude:\n  - &a {kinds: [Pod], optional: true}\n  - {<<: *a, name: b, kinds: [Job]}"), 1, 0},
		{"from the server", strings.Replace(policyWith(""), "{name: p}", "{name: p, uid: u, generation: 3, creationTimestamp: 2030-01-02T03:04:05Z, managedFields: [{manager: m, fieldsV1: {'f:spec': {}}}]}", 1), 1, 0},
		{"all macros", policyWith(`triggers: [{schedule: "@daily", timeZone: Asia/Kathmandu}]`), 1, 0},
		{"event", policyWith("triggers: [{event: PodTerminating}]"), 1, 0},
		{"quantities as numbers", policyWith("mover: {resources: {requests: {cpu: 0.5, memory: 134217728}}}"), 1, 0},
		{"bandwidths", policyWith("") + "---\n" + remoteWith("limits: {bandwidth: 1.5Mi}") + "---\n" + strings.Replace(remoteWith("limits: {bandwidth: 10GiB}"), "name: r", "name: q", 1), 1, 0},
		{"hooks of every sort", hooks("{recipe: redis}, {recipe: redis, scope: Backup}, {before: [a], after: [b], ttl: 1h}"), 1, 0},
		{"a taint of any key", policyWith("mover: {tolerations: [{operator: Exists}]}"), 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Decode("f.yaml", []byte(c.text))
			require.NoError(t, err)
			require.Len(t, d.Policies, c.policies)
			require.Equal(t, c.foreign, d.Foreign)
		})
	}
}

func TestMergedKeysLoseToOwnOnes(t *testing.T) {
	d, err := Decode("f.yaml", []byte(policyWith("exclude:\n  - &a {kinds: [Pod], optional: true}\n  - {<<: *a, name: b, kinds: [Job]}")))
	require.NoError(t, err)
	require.Equal(t, SelectEntry{Name: "b", Kinds: []string{"Job"}, Optional: true}, d.Policies[0].Spec.Exclude[1])
}

func TestAliasesCannotFillTheMemory(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p}\nspec:\n  select:\n  - kinds: &k [")
	b.WriteString(strings.Repeat("Pod,", 1000))
	b.WriteString("]\n")
	for range 1000 {
		b.WriteString("  - kinds: *k\n")
	}
	_, err := Decode("f.yaml", []byte(b.String()))
	require.ErrorContains(t, err, "more than 200000 values")

	_, err = Decode("f.yaml", []byte("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p}\nspec: &s {<<: [*s, *s], select: [{}]}\n"))
	if err != nil {
		require.ErrorAs(t, err, new(*UsageError))
	}
}

func TestDefaults(t *testing.T) {
	d, err := Decode("f.yaml", []byte(policyWith("exclude: [{kinds: [Pod]}]")))
	require.NoError(t, err)
	s := d.Policies[0].Spec
	require.Equal(t, "select[0]", s.Select[0].Name)
	require.Equal(t, "exclude[0]", s.Exclude[0].Name)
	require.Equal(t, OnErrorReport, s.OnExpressionError)
	require.Equal(t, DependenciesInclude, s.Dependencies)
	require.Equal(t, GroupByDependencies, s.Grouping.By)
	require.Equal(t, ConsistencyGroup, s.Consistency.Mode)
	require.Equal(t, 2, s.Mover.Parallel)
	require.Equal(t, TransportAuto, s.Mover.Transport)
	require.Equal(t, 3, *s.Mover.Retries)
	require.Equal(t, 24*time.Hour, s.Mover.Timeout.Duration)
}

func TestDefaultsOfHooksAndRecipes(t *testing.T) {
	d, err := Decode("f.yaml", []byte(hooks("{recipe: redis}, {recipe: redis}, {before: [a], after: [b]}, {name: store, recipe: etcd, scope: Group}")+"---\n"+recipeWith("{session: a}")))
	require.NoError(t, err)
	h := d.Policies[0].Spec.Consistency.Hooks
	var names []string
	for _, hook := range h {
		names = append(names, hook.Name)
		require.Equal(t, OnFailureAbort, hook.OnFailure)
	}
	require.Equal(t, []string{"redis", "hooks[1]", "hooks[2]", "store"}, names)
	require.Equal(t, ScopePod, h[0].Scope)
	require.Equal(t, ScopeGroup, h[3].Scope)
	require.Nil(t, h[0].TTL, "the recipe's")
	require.Equal(t, 30*time.Second, h[2].TTL.Duration)
	require.Equal(t, 10*time.Second, h[2].Timeout.Duration)
	require.Equal(t, 30*time.Second, d.Recipes[0].Spec.TTL.Duration)
	require.Equal(t, 10*time.Second, d.Recipes[0].Spec.Timeout.Duration)
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(policyWith("")))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("<<: 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := Decode("f", data)
		if err != nil && !errors.As(err, new(*UsageError)) {
			t.Fatalf("not a usage error: %v", err)
		}
	})
}

// requirePlace checks that every fault names file and line, and that the whole
// is a usage error.
func requirePlace(t *testing.T, err error) {
	t.Helper()
	require.ErrorAs(t, err, new(*UsageError))
	for _, l := range strings.Split(err.Error(), "\n") {
		require.Regexp(t, `^f\.yaml:\d+:`, l)
	}
}

func TestMaySnapshot(t *testing.T) {
	skip, some := VolumeRule{Method: MethodSkip}, VolumeRule{Method: MethodStream, Match: "volume.kind == 'emptyDir'"}
	for name, c := range map[string]struct {
		rules []VolumeRule
		may   bool
	}{
		"no rule":                        {nil, true},
		"all skipped":                    {[]VolumeRule{skip}, false},
		"some streamed, the rest auto":   {[]VolumeRule{some}, true},
		"some streamed, the rest not":    {[]VolumeRule{some, skip}, false},
		"one of them by snapshot":        {[]VolumeRule{{Method: MethodSnapshot, Match: "true"}, skip}, true},
		"a snapshot that is never meant": {[]VolumeRule{skip, {Method: MethodSnapshot}}, false},
	} {
		require.Equal(t, c.may, (&BackupPolicySpec{Volumes: c.rules}).MaySnapshot(), name)
	}
}
