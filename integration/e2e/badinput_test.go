package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// listing is every file below a folder with what it holds, and empty where
// there is no folder.
func listing(t *testing.T, folder string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) && path == folder {
			return nil
		}
		if err != nil || entry.IsDir() {
			fmt.Fprintln(&b, path)
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, sha256.Sum256(content))
		return err
	})
	require.NoError(t, err)
	return b.String()
}

// oneError checks that stderr holds one error, which says all of wants, and no
// page of usage.
func oneError(t *testing.T, r result, wants ...string) {
	t.Helper()
	require.Equal(t, 1, strings.Count("\n"+r.stderr, "\nkubectl backup: "), "one error: %s", r.stderr)
	require.NotContains(t, r.stderr, "Usage:")
	require.NotContains(t, r.stderr, "goroutine")
	for _, want := range wants {
		require.Contains(t, r.stderr, want)
	}
}

// nothingWritten runs the program as a user of its own with a repository of
// its own, and checks afterwards that neither the remote nor the cluster was
// written to.
func nothingWritten(t *testing.T, w *witness, folder string, work func()) {
	t.Helper()
	before := listing(t, folder)
	work()
	require.Equal(t, before, listing(t, folder), "the remote was written to")
	for _, r := range w.requests() {
		require.Contains(t, []string{"get", "list", "watch"}, r.Verb, r.RequestURI)
	}
}

// TestBadSpecs gives plan, run and, where it can tell, validate one fault each:
// the error names the place and what would be right.
func TestBadSpecs(t *testing.T) {
	remote, folder := local(t)
	one := func(body string) []string { return []string{policy(body), remote} }
	w, as := reader(t)
	for name, c := range map[string]struct {
		documents []string
		wants     []string
		offline   bool // validate finds it too
	}{
		"unknown field":             {one("  select: [{kinds: [Secret], labelSelctor: {}}]\n"), []string{"spec.yaml:6:30: spec.select[0].labelSelctor: unknown field", `did you mean "labelSelector"?`}, true},
		"unknown field of a remote": {[]string{policy("  select: [{}]\n"), strings.Replace(remote, "path:", "pth:", 1)}, []string{"spec.yaml:", "pth: unknown field", `did you mean "path"?`}, true},
		"unknown kind":              {[]string{strings.Replace(policy("  select: [{}]\n"), "BackupPolicy", "BackupPolcy", 1), remote}, []string{"spec.yaml:2:7: kind", `did you mean "BackupPolicy"?`}, true},
		"unknown version":           {[]string{strings.Replace(policy("  select: [{}]\n"), "v1alpha1", "v1", 1), remote}, []string{"spec.yaml:1:13: apiVersion", "kubectl-backup.io/v1alpha1"}, true},
		"no select":                 {one("  select: []\n"), []string{"spec.yaml:6:", "spec.select: selects nothing"}, true},
		"operator":                  {one("  select: [{labelSelector: {matchExpressions: [{key: a, operator: Inn, values: [b]}]}}]\n"), []string{"spec.yaml:6:", "spec.select[0].labelSelector.matchExpressions[0].operator", `did you mean "In"?`}, true},
		"label value":               {one("  select: [{labelSelector: {matchLabels: {a: \"b c\"}}}]\n"), []string{"spec.yaml:6:", "spec.select[0].labelSelector.matchLabels"}, true},
		"kind as a resource":        {one("  select: [{kinds: [deployments]}]\n"), []string{"spec.yaml:6:21: spec.select[0].kinds[0]", `"Deployment"`}, true},
		"CEL syntax":                {one("  select:\n  - {name: busy, expression: 'object.spec.replicas >'}\n"), []string{"spec.yaml:7:18: spec.select[0].expression", `"busy"`, "line 1, column"}, true},
		"CEL variable":              {one("  select: [{expression: 'lables.a == \"b\"'}]\n"), []string{"spec.yaml:6:", "spec.select[0].expression", `did you mean "labels"?`}, true},
		"CEL not boolean":           {one("  select: [{expression: 'object.metadata.name + \"a\"'}]\n"), []string{"spec.yaml:6:", "spec.select[0].expression", "bool"}, true},
		"CEL in a volume rule":      {one("  select: [{}]\n  volumes: [{match: 'volume.storageclass == \"fast\"', method: Skip}]\n"), []string{"spec.yaml:7:", "spec.volumes[0].match", "storageclass"}, true},
		"CEL in exclude":            {one("  select: [{}]\n  exclude: [{expression: '1 + 1'}]\n"), []string{"spec.yaml:7:", "spec.exclude[0].expression", "bool"}, true},
		"edge onto itself":          {one("  select: [{}]\n  grouping: {edges: [{from: {kind: Deployment, name: web}, to: {kind: Deployment, name: web}}]}\n"), []string{"spec.yaml:7:", "spec.grouping.edges[0]", "to itself"}, true},
		"missing remote":            {[]string{policy("  select: [{}]\n"), strings.Replace(remote, "{name: main}", "{name: mian}", 1)}, []string{"spec.yaml:5:", "spec.remote.name", `"main"`, `"mian"`}, true},
		"no remote at all":          {[]string{policy("  select: [{}]\n")}, []string{"spec.yaml:5:", "spec.remote.name", "--remote"}, true},
		"no policy":                 {[]string{remote}, []string{"no BackupPolicy"}, false},
		"two policies":              {[]string{policy("  select: [{}]\n"), strings.Replace(policy("  select: [{}]\n"), "{name: p}", "{name: q}", 1), remote}, []string{"--policy", "p", "q"}, false},
		"one name twice":            {[]string{policy("  select: [{}]\n"), policy("  select: [{}]\n"), remote}, []string{"p"}, true},
		"not YAML":                  {[]string{"a: [b\n"}, []string{"spec.yaml:"}, true},
		"schedule":                  {one("  select: [{}]\n  triggers: [{schedule: \"0 26 * * *\"}]\n"), []string{"spec.yaml:7:", "spec.triggers[0].schedule"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := spec(t, c.documents...)
			nothingWritten(t, w, folder, func() {
				for _, command := range []string{"plan", "run"} {
					d, r := document(t, append([]string{command, "-f", f}, as...)...)
					require.Equal(t, 2, r.code, r.stderr)
					oneError(t, r, c.wants...)
					require.Equal(t, v1alpha1.ResultFailed, d.Result)
					require.Contains(t, r.stderr, d.Error)
				}
				if c.offline {
					r := backup(t, "validate", "-f", f)
					require.Equal(t, 2, r.code)
					oneError(t, r, c.wants...)
				}
			})
		})
	}
}

// TestBadRemotes: a remote that cannot be opened is one error before anything
// is read from the cluster or written anywhere.
func TestBadRemotes(t *testing.T) {
	everything := policy("  select: [{}]\n")
	remote := func(spec string) string {
		return "apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRemote\nmetadata: {name: main}\nspec: " + spec + "\n"
	}
	empty := filepath.Join(t.TempDir(), "empty")
	initialized, folder := local(t)
	for name, c := range map[string]struct {
		remote string
		env    []string
		code   int
		wants  []string
		init   int // what init ends with; -1: not asked
	}{
		"rclone remote that is not configured": {remote(`{path: "shed:bucket/x"}`), nil, 2, []string{"spec.yaml:", "spec.path", `"shed"`, "spec.config"}, 2},
		"rclone backend that does not exist":   {remote(`{path: "shed:x", config: {shed: {type: s33}}}`), nil, 2, []string{"spec.yaml:", "s33"}, 2},
		"no repository":                        {remote("{path: " + empty + "}"), nil, 10, []string{"remote main", empty, "init"}, -1},
		"wrong password":                       {initialized, []string{"KUBECTL_BACKUP_PASSWORD=not the one that it was made with"}, 12, []string{"remote main", "password"}, -1},
		"no password":                          {initialized, []string{"KUBECTL_BACKUP_PASSWORD="}, 2, []string{"no password", "KUBECTL_BACKUP_PASSWORD", "--password-file"}, 2},
		"variable that is not set":             {remote("{path: " + folder + ", passwordFrom: {env: NOWHERE_SET}}"), nil, 2, []string{"spec.passwordFrom.env", "NOWHERE_SET"}, 2},
		"password file that does not exist":    {remote("{path: " + folder + ", passwordFrom: {file: /nowhere/key}}"), nil, 2, []string{"/nowhere/key"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w, as := reader(t)
			f := spec(t, everything, c.remote)
			commands := map[string]int{"run": c.code, "list": c.code, "describe latest": c.code, "verify latest": c.code, "restore latest": c.code, "export latest": c.code, "delete latest --yes": c.code, "init": c.init}
			nothingWritten(t, w, folder, func() {
				for words, code := range commands {
					if code < 0 {
						continue
					}
					cmd := command(t, append(append(strings.Fields("--context src "+words), "-f", f), as...)...)
					cmd.Env = append(cmd.Env, c.env...)
					r := finish(t, cmd)
					require.Equal(t, code, r.code, "%s: %s", words, r.stderr)
					require.Empty(t, r.stdout, words)
					oneError(t, r, c.wants...)
				}
			})
			require.NoDirExists(t, empty)
		})
	}
	t.Run("credentials in the path are nowhere shown", func(t *testing.T) {
		const secret = "open-sesame-98172"
		path := ":local,description=" + secret + ":" + filepath.Join(t.TempDir(), "repository")
		f := spec(t, policyIn(namespace(t, "sesame"), "  select: [{}]\n"), remote(fmt.Sprintf("{path: %q}", path)))
		for _, words := range []string{"init", "plan", "plan -o json", "run", "list -o json", "describe latest", "describe latest -o json", "verify latest", "restore latest --dry-run=client"} {
			for _, where := range [][]string{{"-f", f}, {"-f", f, "--remote", path}} {
				r := backup(t, append(strings.Fields(words), where...)...)
				require.NotContains(t, r.stdout+r.stderr, secret, words)
				if words == "plan" {
					require.Contains(t, r.stdout, ":local,***:")
				}
			}
		}
	})
	t.Run("json", func(t *testing.T) {
		cmd := command(t, "--context", "src", "verify", "latest", "-f", spec(t, everything, initialized), "-o", "json")
		cmd.Env = append(cmd.Env, "KUBECTL_BACKUP_PASSWORD=not the one that it was made with")
		r := finish(t, cmd)
		require.Equal(t, 12, r.code)
		require.Contains(t, r.stdout, `"exitCode": 12`)
		require.Contains(t, r.stdout, `"kind": "VerifyReport"`)
	})
}

// TestWeakPasswords: init makes no repository that a guess would open.
func TestWeakPasswords(t *testing.T) {
	for _, weak := range []string{"a", "1234567", "password", "passw0rd", "aaaaaaaaaaaa", "12345678", "qwertyuiop"} {
		folder := filepath.Join(t.TempDir(), "r")
		cmd := command(t, "init", "--remote", folder)
		cmd.Env = append(cmd.Env, "KUBECTL_BACKUP_PASSWORD="+weak)
		r := finish(t, cmd)
		require.Equal(t, 2, r.code, weak)
		oneError(t, r, "password", "hint:")
		if len(weak) > 4 {
			require.NotContains(t, strings.ReplaceAll(r.stderr, "the password", ""), weak)
		}
		require.NoDirExists(t, folder)
	}
}

// TestBadCommandLines: what cannot be meant is refused with exit code 2 and a
// word about what could be.
func TestBadCommandLines(t *testing.T) {
	remote, folder := local(t)
	f := spec(t, policy("  select: [{}]\n"), remote)
	before := listing(t, folder)
	for line, wants := range map[string][]string{
		"paln":                                        {`there is no command "paln"`, `did you mean "plan"?`},
		"restor latest":                               {`there is no command "restor"`, `did you mean "restore"?`},
		"paln -f F -o table":                          {`there is no command "paln"`, `did you mean "plan"?`},
		"frobnicate":                                  {`there is no command "frobnicate"`, "--help"},
		"plan --polcy x":                              {"--polcy", "did you mean --policy?"},
		"run --paralel 3":                             {"--paralel", "did you mean --parallel?"},
		"plan -f F -o jason":                          {"table, wide, json, yaml"},
		"plan -f F extra":                             {"takes no arguments", `"extra"`},
		"plan":                                        {"no policy was given", "-f"},
		"plan -f F -k .":                              {"-f and -k"},
		"plan -f /nowhere.yaml":                       {"/nowhere.yaml does not exist"},
		"plan -f F --policy q":                        {`"q"`, "p"},
		"plan -f F --context mars":                    {`"mars"`, "kubectl config get-contexts"},
		"describe -f F":                               {"ID|latest"},
		"describe nothing-so -f F":                    {`there is no backup "nothing-so"`, "list"},
		"list -f F --filter '1+1'":                    {"--filter", "bool"},
		"list -f F --filter 'tme>'":                   {"--filter", "line 1"},
		"list --remote nowhere":                       {`"nowhere"`},
		"run -f F --parallel -1":                      {"--parallel"},
		"restore latest -f F --map-namespace a":       {"--map-namespace", "from=to"},
		"restore latest -f F --map-namespace a=b,a=c": {"--map-namespace", "both b and c"},
		"restore latest -f F --dry-run=perhaps":       {"none, client, server"},
		"export latest -f F --to /tmp/x --filter 'obj.kind==\"\"'": {"--filter", "obj"},
		"export latest -f F --to /tmp/x --selector 'a in b'":       {"--selector"},
	} {
		t.Run(line, func(t *testing.T) {
			args := words(strings.ReplaceAll(line, " F", " "+f))
			r := backup(t, args...)
			require.Equal(t, 2, r.code, r.stderr)
			require.Empty(t, r.stdout)
			oneError(t, r, wants...)
		})
	}
	for _, line := range []string{"plan --polcy x -o json", "plan -o json --polcy x", "paln -f F -ojson", "plan --output=json extra", "verify -o json -f F"} {
		r := backup(t, words(strings.ReplaceAll(line, " F", " "+f))...)
		require.Equal(t, 2, r.code, line)
		var d v1alpha1.Document
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &d), "%s: %s", line, r.stdout)
		require.Equal(t, 2, d.ExitCode)
		require.Contains(t, r.stderr, d.Error)
		require.NotEmpty(t, d.Error)
	}
	require.Equal(t, before, listing(t, folder))
}

// words splits a command line at spaces outside of single quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

// TestRightsThatLack: whoever may not read what a policy asks for learns which
// verb on which kind, all of them at once, and nothing is written.
func TestRightsThatLack(t *testing.T) {
	remote, folder := local(t)
	ns := namespace(t, "rights")
	user := word(t, "visitor")
	grant(t, ns, user, `- {apiGroups: [""], resources: [configmaps, pods, persistentvolumeclaims, services], verbs: [get, list]}`)
	apply(t, "src", inNamespace(ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tide, namespace: NS}\ndata: {a: b}\n"))
	w := watchUser(t, user)
	as := []string{"--as", user}
	named := policy("  select: [{kinds: [Secret, Deployment, ConfigMap]}]\n")
	nothingWritten(t, w, folder, func() {
		for _, command := range []string{"plan", "run", "graph"} {
			r := backup(t, append([]string{command, "-f", spec(t, named, remote)}, as...)...)
			require.Equal(t, 1, r.code, r.stderr)
			oneError(t, r, "policy p", "no right to list secrets in the whole cluster", "no right to list deployments.apps in the whole cluster",
				"kubectl create clusterrole NAME --verb=list --resource=secrets")
			require.Equal(t, r.stderr, backup(t, append([]string{command, "-f", spec(t, named, remote)}, as...)...).stderr, "the same each time")
		}
		inside := strings.Replace(named, "{name: p}", "{name: p, namespace: "+ns+"}", 1)
		d, r := document(t, append([]string{"plan", "-f", spec(t, inside, remote)}, as...)...)
		require.Equal(t, 1, r.code)
		require.Contains(t, d.Error, "no right to list secrets in namespace "+ns)
		require.Contains(t, d.Error, "kubectl create role NAME -n "+ns+" --verb=list --resource=secrets")
		require.NotContains(t, d.Error, "configmaps")
	})
	t.Run("a kind that nobody named", func(t *testing.T) {
		body := strings.Replace(policy("  select: [{}]\n"), "{name: p}", "{name: p, namespace: "+ns+"}", 1)
		d, r := document(t, append([]string{"plan", "-f", spec(t, body, remote)}, as...)...)
		require.Equal(t, 3, r.code, "what was not read is no success")
		require.Equal(t, v1alpha1.OutcomeInclude, objectLine(t, d, "ConfigMap", ns, "tide").Outcome)
		unread := map[string]string{}
		for _, u := range d.Unread {
			unread[u.Kind] = u.Reason
		}
		require.Contains(t, unread["Secret"], "no right to list secrets in namespace "+ns)
		require.NotContains(t, unread, "ConfigMap")
	})
	t.Run("a kind that dependencies need", func(t *testing.T) {
		body := strings.Replace(policy("  select: [{kinds: [ConfigMap], labelSelector: {matchLabels: {a: b}}, optional: true}]\n"), "{name: p}", "{name: p, namespace: "+ns+"}", 1)
		d, r := document(t, append([]string{"plan", "-f", spec(t, body, remote)}, as...)...)
		require.Equal(t, 3, r.code, "a Deployment may mount what is selected")
		require.NotEmpty(t, d.Unread)
		// Without dependencies nothing else is needed.
		d, r = document(t, append([]string{"plan", "-f", spec(t, body+"  dependencies: Ignore\n", remote)}, as...)...)
		require.Equal(t, 0, r.code, "%+v", d.Unread)
	})
}

// grant gives a user rules in one namespace.
func grant(t *testing.T, ns, user, rules string) {
	t.Helper()
	apply(t, "src", fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: granted, namespace: %[1]s}
rules:
%[3]s
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: granted, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: granted}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "%[2]s"}]
`, ns, user, rules))
	await(t, "the rights of "+user, func() (bool, error) {
		out, _ := tryKubectl(t, "src", "", "--as", user, "-n", ns, "auth", "can-i", "list", "configmaps")
		return strings.TrimSpace(out) == "yes", nil
	})
}

// TestEntriesThatMatchNothing are named, and the result is partial unless the
// entry says that this is fine.
func TestEntriesThatMatchNothing(t *testing.T) {
	remote, _ := local(t)
	ns := namespace(t, "nothing")
	apply(t, "src", inNamespace(ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tide, namespace: NS, labels: {a: b}}\ndata: {a: b}\n"))
	there := "  - {name: there, kinds: [ConfigMap], namespaces: [" + ns + "], labelSelector: {matchLabels: {a: b}}}\n"
	for name, c := range map[string]struct {
		entry string
		code  int
		warns string
	}{
		"no object":              {"{name: gone, kinds: [Secret], namespaces: [" + ns + "]}", 3, ""},
		"no namespace":           {"{name: gone, namespaces: [no-such-namespace-here]}", 3, ""},
		"misspelt kind":          {"{name: gone, kinds: [Deploymnt], namespaces: [" + ns + "]}", 3, `"gone": this cluster serves no kind Deploymnt; did you mean "Deployment"?`},
		"kind of another group":  {"{name: gone, kinds: [Deployment.batch], namespaces: [" + ns + "]}", 3, "it serves Deployment in another API group"},
		"expression":             {"{name: gone, kinds: [ConfigMap], namespaces: [" + ns + "], expression: 'labels.?a.orValue(\"\") == \"c\"'}", 3, ""},
		"optional":               {"{name: gone, kinds: [Secret], namespaces: [" + ns + "], optional: true}", 0, ""},
		"optional, misspelt":     {"{name: gone, kinds: [Deploymnt], optional: true}", 0, ""},
		"excluded is not missed": {"{name: gone, kinds: [Job], namespaces: [" + ns + "], optional: true}\n  exclude: [{kinds: [Job]}]", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := spec(t, policy("  select:\n"+there+"  - "+c.entry+"\n"), remote)
			for _, command := range []string{"plan", "run"} {
				d, r := document(t, command, "-f", f)
				require.Equal(t, c.code, r.code, r.stderr)
				matched := map[string]int{}
				for _, s := range d.Select {
					matched[s.Name] = s.Matched
				}
				require.Equal(t, map[string]int{"there": 1, "gone": 0}, matched)
				require.Contains(t, strings.Join(d.Warnings, "\n"), c.warns)
				if c.warns == "" {
					require.Empty(t, d.Warnings)
				}
				if command == "run" {
					require.NotEmpty(t, d.Backup, "what was found is saved")
				}
			}
			if c.code == 3 {
				require.Contains(t, backup(t, "plan", "-f", f).stdout, "it matches nothing")
			}
		})
	}
}

// A RewriteSet that cannot be meant is refused by whoever reads it, without a
// cluster too, at its place, and at both where two parts do not go together.
func TestBadRewriteSets(t *testing.T) {
	remote, _ := local(t)
	head := "apiVersion: kubectl-backup.io/v1alpha1\nkind: RewriteSet\nmetadata: {name: s}\nspec:\n"
	for name, c := range map[string]struct {
		body  string
		wants []string
	}{
		"expression":              {"  rules: [{match: {expression: 'object.spec.replicas >'}, remove: [spec.paused]}]\n", []string{"spec.yaml:5:", "spec.rules[0].match.expression", "line 1, column"}},
		"value":                   {"  rules: [{set: [{path: data.k, expression: 'lables.a'}]}]\n", []string{"spec.yaml:5:", "spec.rules[0].set[0].expression", `did you mean "labels"?`}},
		"uid":                     {"  rules: [{mergePatch: {metadata: {uid: x}}}]\n", []string{"spec.yaml:5:", "metadata.uid"}},
		"kind":                    {"  rules: [{match: {kinds: [Deploiment]}, remove: [spec.paused]}]\n", []string{"spec.yaml:5:", `did you mean "Deployment"?`}},
		"field":                   {"  rules: [{match: {kinds: [Deployment]}, set: [{path: spec.replika, value: 1}]}]\n", []string{"spec.yaml:5:", "spec.replika"}},
		"two rules on one field":  {"  rules:\n  - {name: one, set: [{path: metadata.labels.a, value: x}]}\n  - {name: two, remove: [metadata.labels.a]}\n", []string{"spec.yaml:7:", "spec.yaml:6:", "metadata.labels.a"}},
		"two namespaces onto one": {"  namespaces:\n    a: c\n    b: c\n", []string{"spec.yaml:7:", "spec.yaml:6:", `both mapped to "c"`}},
	} {
		t.Run(name, func(t *testing.T) {
			f := spec(t, head+c.body)
			r := backup(t, "validate", "-f", f)
			require.Equal(t, 2, r.code, r.stderr)
			oneError(t, r, c.wants...)
			r = backup(t, "restore", "latest", "-f", spec(t, remote), "--rewrite", f)
			require.Equal(t, 2, r.code, r.stderr)
			oneError(t, r, c.wants...)
		})
	}
	require.Equal(t, 0, backup(t, "validate", "-f", spec(t, head+"  namespaces: {a: b}\n")).code)
}
