package ui

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run with -update to write it")
	require.Equal(t, string(want), string(got))
}

func ref(s string) v1alpha1.Ref {
	kind, rest, _ := strings.Cut(s, " ")
	kind, group, _ := strings.Cut(kind, ".")
	ns, name, ok := strings.Cut(rest, "/")
	if !ok {
		ns, name = "", rest
	}
	return v1alpha1.Ref{Group: group, Version: "v1", Kind: kind, Namespace: ns, Name: name}
}

// shop is a plan of two workloads of which one calls the other.
func shop() (*v1alpha1.Document, []v1alpha1.EdgeLine) {
	edge := func(from, typ, to, field string, strong bool) v1alpha1.EdgeLine {
		return v1alpha1.EdgeLine{From: ref(from), To: ref(to), Type: typ, Field: field, Strong: strong}
	}
	const web, store = "Deployment.apps tulip/web", "StatefulSet.apps tulip/store"
	edges := []v1alpha1.EdgeLine{
		edge(web, "calls", "Service tulip/store", "spec.template.spec.containers[0].env[DSN]", true),
		edge(web, "mounts", "ConfigMap tulip/settings", "spec.template.spec.volumes[0].configMap.name", false),
		edge(web, "env-from", "ConfigMap tulip/settings", "spec.template.spec.containers[0].envFrom[0].configMapRef.name", false),
		edge("ReplicaSet.apps tulip/web-1", "owner", web, "metadata.ownerReferences", true),
		edge("Pod tulip/web-1-a", "owner", "ReplicaSet.apps tulip/web-1", "metadata.ownerReferences", true),
		edge("Service tulip/store", "selects", store, "spec.selector", false),
		edge(store, "env-from", "Secret tulip/key", "spec.template.spec.containers[0].env[P].valueFrom.secretKeyRef.name", false),
		edge(store, "claims", "PersistentVolumeClaim tulip/data-store-0", "spec.volumeClaimTemplates[0]", true),
		edge("PersistentVolumeClaim tulip/data-store-0", "class", "StorageClass.storage.k8s.io quick", "spec.storageClassName", false),
		edge("Ingress.networking.k8s.io tulip/door", "routes-to", "Service tulip/web", "spec.rules[0].http.paths[0].backend.service.name", false),
		edge("Service tulip/web", "selects", web, "spec.selector", false),
		edge("ConfigMap tulip/settings", "mentions", "Service tulip/store", "data[<url> & \"more\"]", false),
		edge("ConfigMap tulip/alone", "namespace", "Namespace tulip", "metadata.namespace", false),
		edge("ConfigMap tulip/settings", "namespace", "Namespace tulip", "metadata.namespace", false),
	}
	line := func(s string, o v1alpha1.Outcome, group string, wave int, reason string) v1alpha1.ObjectLine {
		return v1alpha1.ObjectLine{Ref: ref(s), Outcome: o, Group: group, Wave: wave, Reason: reason}
	}
	const in, g = v1alpha1.OutcomeInclude, "tulip/store"
	d := &v1alpha1.Document{
		APIVersion: v1alpha1.APIVersion, Kind: "Plan", Result: v1alpha1.ResultPartial, ExitCode: 3, Policy: "bulbs", ToolVersion: "v0",
		Source:  &v1alpha1.Provenance{Source: "git::https://git.example.com/bulbs", URL: "https://git.example.com/bulbs", Ref: "v3", Commit: "0123456789abcdef", Path: "backup.yaml"},
		Cluster: &v1alpha1.Cluster{UID: "11111111-2222-3333-4444-555555555555", Version: "v1.37.2", Context: "src"}, Remote: "main",
		Hooks: []v1alpha1.HookLine{
			{Hook: "flush", Scope: "Pod", Group: g, Pod: ref("Pod tulip/web-1-a"), Container: "web", Outcome: v1alpha1.OutcomeFailed, Reason: "container web is not running", TTLSeconds: 30},
			{Hook: "postgresql", Recipe: "postgresql", Scope: "Pod", Group: g, Pod: ref("Pod tulip/store-0"), Container: "db", Outcome: in, TTLSeconds: 90},
			{Hook: "queue", Recipe: "queue", Scope: "Group", Outcome: v1alpha1.OutcomeMissing, Reason: "it matches no pod of what is saved"},
		},
		Select: []v1alpha1.SelectLine{{Name: "gold", Matched: 3}, {Name: "silver"}, {Name: "bronze", Optional: true}},
		Groups: []v1alpha1.GroupLine{
			{Name: g, Workloads: []v1alpha1.Ref{ref(web), ref(store)}, Edges: []v1alpha1.EdgeLine{edges[0], edges[5]}, Objects: 11, Volumes: 3,
				Waves: [][]v1alpha1.Ref{{ref("Namespace tulip")}, {ref("ConfigMap tulip/settings"), ref("Secret tulip/key"), ref("StorageClass.storage.k8s.io quick")},
					{ref("PersistentVolumeClaim tulip/data-store-0")}, {ref("Service tulip/store"), ref("Service tulip/web")}, {ref(store)}, {ref(web)}, {ref("Ingress.networking.k8s.io tulip/door")}},
				Cut: &v1alpha1.CutLine{Method: "Mixed", Reason: "no snapshot of web-1-a cache: only claims have snapshots"}},
			{Name: "tulip/objects", Objects: 1, Waves: [][]v1alpha1.Ref{{ref("Namespace tulip")}, {ref("ConfigMap tulip/alone")}}},
		},
		Objects: []v1alpha1.ObjectLine{
			line("ConfigMap tulip/alone", in, "tulip/objects", 1, `selected by entry "gold"`),
			line("ConfigMap tulip/settings", in, g, 1, "mounted by "+web+" (spec.template.spec.volumes[0].configMap.name)"),
			line("Namespace tulip", in, g, 0, "namespace of "+web),
			line("PersistentVolumeClaim tulip/data-store-0", in, g, 2, "claimed by "+store+" (spec.volumeClaimTemplates[0])"),
			line("Pod tulip/web-1-a", v1alpha1.OutcomeLeftToOwner, g, 0, "made again by ReplicaSet.apps tulip/web-1"),
			line("Secret tulip/gone", v1alpha1.OutcomeMissing, "", 0, "it does not exist; referred to by "+web),
			line("Secret tulip/key", in, g, 1, "read into the environment of "+store),
			line("Service tulip/store", in, g, 3, "called by "+web),
			line("Service tulip/web", in, g, 3, "selects "+web),
			line("Deployment.apps tulip/other", v1alpha1.OutcomeReferred, "", 0, "scaled by HorizontalPodAutoscaler.autoscaling tulip/h; not selected, so it is not saved"),
			line(web, in, g, 5, `selected by entry "gold"`),
			line("ReplicaSet.apps tulip/web-1", v1alpha1.OutcomeLeftToOwner, g, 0, "made again by "+web),
			line(store, in, g, 4, `selected by entry "gold"`),
			line("Ingress.networking.k8s.io tulip/door", in, g, 6, "routes to Service tulip/web"),
			line("StorageClass.storage.k8s.io quick", in, g, 1, "class of PersistentVolumeClaim tulip/data-store-0"),
		},
		Volumes: []v1alpha1.VolumeLine{
			{Ref: ref("PersistentVolumeClaim tulip/data-store-0"), Outcome: in, Reason: "rule 2 says Auto", Group: g, Volume: "data", VolumeKind: "persistentVolumeClaim", StorageClass: "quick", Method: "Snapshot", Cut: "Snapshot", Driver: "d.example.com", SnapshotClass: "quick-snaps", Capacity: 5 << 30, Pod: "store-0"},
			{Ref: ref("Pod tulip/web-1-a"), Outcome: in, Reason: "rule 1 says Stream", Group: g, Volume: "cache", VolumeKind: "emptyDir", Method: "Stream", Cut: "Live"},
			{Ref: ref("Pod tulip/web-1-a"), Outcome: v1alpha1.OutcomeSkipped, Reason: "never volume data", Group: g, Volume: "settings", VolumeKind: "configMap"},
			{Ref: ref("Pod tulip/web-1-a"), Outcome: v1alpha1.OutcomeFailed, Reason: "its pod is not running", Group: g, Volume: "host", VolumeKind: "hostPath"},
		},
		Unread:   []v1alpha1.UnreadKind{{Group: "metrics.example.com", Version: "v1", Reason: "503: the server is currently unable\nto handle the request"}},
		Warnings: []string{"the list of ConfigMap was not a snapshot"},
	}
	return d, edges
}

// after is the report of a run of the plan.
func after(kind string) *v1alpha1.Document {
	d, _ := shop()
	d.Kind, d.Backup, d.Started, d.Seconds = kind, "20261125-013000-4f2ac1", "2026-11-25T01:30:00Z", 12.34567
	if kind != "RunReport" {
		d.Hooks, d.Groups[0].Cut = nil, nil
	} else {
		d.Hooks[1].Outcome, d.Hooks[1].FrozenSeconds = v1alpha1.OutcomeHeld, 0.038
		d.Groups[0].Cut.At, d.Groups[0].Cut.SkewSeconds, d.Groups[0].Cut.FrozenSeconds = "2026-11-25T01:30:01.5Z", 0.0042, 0.0387
	}
	d.Volumes[0].Method, d.Volumes[0].CutAt, d.Volumes[0].Read, d.Volumes[0].Attempts = "Job", "2026-11-25T01:30:01.5Z", 512<<10, 2
	d.Volumes[1].Method = "EphemeralContainer"
	for i := range d.Objects {
		if o := &d.Objects[i]; o.Outcome == v1alpha1.OutcomeInclude {
			o.Outcome = map[string]v1alpha1.Outcome{"RunReport": v1alpha1.OutcomeSaved, "RestoreReport": v1alpha1.OutcomeRestored, "VerifyReport": v1alpha1.OutcomeVerified}[kind]
		}
	}
	d.Objects[6].Warnings = []string{"token reissued"}
	v := &d.Volumes[0]
	v.Outcome, v.Files, v.Bytes, v.Stored, v.Seconds, v.Snapshot = v1alpha1.OutcomeIncomplete, 1234, 3<<20, 1<<20, 4.2, "k1"
	v.Reason, v.Issues = "1 path(s) could not be read", []string{`base/\xff: permission denied`, "wal/1: changed while it was read"}
	d.Volumes[1].Outcome, d.Volumes[1].Files, d.Volumes[1].Bytes, d.Volumes[1].Reason = v1alpha1.OutcomeSaved, 1, 17, ""
	if kind == "RestoreReport" {
		d.Target = &v1alpha1.Cluster{UID: "99999999-2222-3333-4444-555555555555", Version: "v1.38.0", Context: "dst"}
		d.Mentions = []string{"ConfigMap tulip/settings data[url]"}
		d.Applications = []v1alpha1.ApplicationLine{
			{Ref: ref("ApplicationSet.argoproj.io gitops/beds"), Outcome: v1alpha1.OutcomeResumed, Reason: "it has its former policy"},
			{Ref: ref("Application.argoproj.io gitops/tulip"), Outcome: v1alpha1.OutcomePaused, Reason: "it could not be resumed:\nno"},
		}
		d.Objects[8].Outcome, d.Objects[8].Reason = v1alpha1.OutcomeSkipped, "the target's own Service of that name is kept"
	}
	return d
}

func TestDocuments(t *testing.T) {
	plan, _ := shop()
	for name, d := range map[string]*v1alpha1.Document{"plan": plan, "run": after("RunReport"), "restore": after("RestoreReport"), "verify": after("VerifyReport")} {
		for _, format := range []string{"table", "wide"} {
			var b bytes.Buffer
			require.NoError(t, Document(&b, d, format))
			golden(t, name+"."+format, b.Bytes())
			for l := range strings.Lines(b.String()) {
				require.Equal(t, strings.TrimRight(l, " \n"), strings.TrimSuffix(l, "\n"), "no blanks at the ends of lines")
				require.NotContains(t, l, "\x1b")
			}
		}
		if name == "plan" {
			for _, format := range []string{"json", "yaml"} {
				var b bytes.Buffer
				require.NoError(t, Document(&b, d, format))
				golden(t, name+"."+format, b.Bytes())
			}
		}
		// What a program reads is the document, whole.
		var js, ym bytes.Buffer
		require.NoError(t, Document(&js, d, "json"))
		require.NoError(t, Document(&ym, d, "yaml"))
		var back v1alpha1.Document
		require.NoError(t, json.Unmarshal(js.Bytes(), &back))
		require.Equal(t, whole(d), &back)
		same, err := yaml.YAMLToJSON(ym.Bytes())
		require.NoError(t, err)
		require.JSONEq(t, js.String(), string(same))
	}
	require.ErrorContains(t, Document(io.Discard, plan, "xml"), `"xml"`)
}

func TestDescribe(t *testing.T) {
	for format, wide := range map[string]bool{"text": false, "wide": true} {
		var b bytes.Buffer
		require.NoError(t, Describe(&b, after("RunReport"), nil, wide))
		golden(t, "describe."+format, b.Bytes())
	}
}

func TestEmptyDocuments(t *testing.T) {
	for _, kind := range []string{"Plan", "RunReport", "RestoreReport", "VerifyReport"} {
		d := &v1alpha1.Document{APIVersion: v1alpha1.APIVersion, Kind: kind, Result: v1alpha1.ResultFailed, Error: "no such cluster\nhint: see --context"}
		var b bytes.Buffer
		for _, format := range []string{"table", "wide"} {
			require.NoError(t, Document(&b, d, format))
		}
		require.NoError(t, Describe(&b, d, nil, true))
		require.Contains(t, b.String(), "no such cluster; hint: see --context")
		b.Reset()
		require.NoError(t, Document(&b, d, "json"))
		for _, list := range []string{`"groups": []`, `"objects": []`, `"volumes": []`} {
			require.Contains(t, b.String(), list)
		}
	}
}

// A screen stays a screen: long lists are cut in a table and whole in wide.
func TestLongListsAreCut(t *testing.T) {
	d, _ := shop()
	for i := range 50 {
		d.Objects = append(d.Objects, v1alpha1.ObjectLine{Ref: ref(fmt.Sprintf("Secret tulip/s%02d", i)), Outcome: v1alpha1.OutcomeMissing, Reason: "it does not exist"})
		d.Groups = append(d.Groups, v1alpha1.GroupLine{Name: fmt.Sprintf("tulip/g%02d", i)})
		d.Warnings = append(d.Warnings, fmt.Sprintf("w%02d", i))
	}
	var short, long bytes.Buffer
	require.NoError(t, Document(&short, d, "table"))
	require.NoError(t, Document(&long, d, "wide"))
	require.Less(t, strings.Count(short.String(), "\n"), 140)
	require.Contains(t, short.String(), "... and 31 more (-o wide)")
	for i := range 50 {
		require.Contains(t, long.String(), fmt.Sprintf("tulip/s%02d", i))
		require.Contains(t, long.String(), fmt.Sprintf("w%02d", i))
	}
}

func TestGraph(t *testing.T) {
	d, edges := shop()
	for _, format := range []string{"table", "json", "dot", "mermaid", "svg"} {
		var b, again bytes.Buffer
		require.NoError(t, Graph(&b, d, edges, format))
		require.NoError(t, Graph(&again, d, edges, format))
		require.Equal(t, b.String(), again.String())
		golden(t, "graph."+format, b.Bytes())
		if format == "svg" {
			dec := xml.NewDecoder(&b)
			for {
				_, err := dec.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err)
			}
		}
	}
	require.ErrorContains(t, Graph(io.Discard, d, edges, "png"), `"png"`)
	for _, format := range []string{"table", "json", "dot", "mermaid", "svg"} {
		require.NoError(t, Graph(io.Discard, &v1alpha1.Document{}, nil, format))
	}
}

func TestBackups(t *testing.T) {
	rows := []Backup{
		{ID: "20261125-013000-4f2ac1", Time: "2026-11-25T01:30:00Z", Result: "Complete", Policy: "bulbs", Cluster: "1111", Version: "v1.37.2", Commit: "0123", Objects: 14, Volumes: 2, Bytes: 3 << 20, Stored: 5000, Seconds: 12.3, Labels: map[string]string{"b": "2", "a": "1"}},
		{ID: "20261126-013000-aaaaaa", Time: "2026-11-26T01:30:00Z", Result: "Complete", Damaged: "its index cannot be read", Cluster: "1111"},
	}
	for _, format := range []string{"table", "wide", "json", "yaml"} {
		var b bytes.Buffer
		require.NoError(t, Backups(&b, rows, format))
		golden(t, "backups."+format, b.Bytes())
	}
	var b bytes.Buffer
	require.NoError(t, Backups(&b, nil, "table"))
	require.Equal(t, "no backups\n", b.String())
	b.Reset()
	require.NoError(t, Backups(&b, nil, "json"))
	require.Contains(t, b.String(), `"items": []`)
}

func TestPlanLine(t *testing.T) {
	d, _ := shop()
	var b bytes.Buffer
	PlanLine(&b, d)
	require.Equal(t, "Would save 11 objects and 2 volumes in 2 groups, volumes of at most 5.0 GiB, with 1 hook, to remote main; 4 lines to look at.\n"+
		"warning: the list of ConfigMap was not a snapshot\n", b.String())
}

func TestPlanLineOfARestore(t *testing.T) {
	d := &v1alpha1.Document{Kind: "Plan", Result: v1alpha1.ResultPartial, Target: &v1alpha1.Cluster{}, Remote: "main",
		Objects: []v1alpha1.ObjectLine{{Outcome: v1alpha1.OutcomeCreate}, {Outcome: v1alpha1.OutcomeCreate}, {Outcome: v1alpha1.OutcomeApply}, {Outcome: v1alpha1.OutcomeConflict}},
		Volumes: []v1alpha1.VolumeLine{{Outcome: v1alpha1.OutcomeCreate}}}
	require.Equal(t, "Would be Partial: objects: 2 to create, 1 to change, 1 in conflict; volumes: 1 to create", Summary(d))
}

func TestProgressLines(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, false)
	clock := time.Unix(0, 0)
	p.now = func() time.Time { return clock }
	add, done := p.Task("claim tulip/data\x1b[2J", 10<<20)
	add(1 << 20)
	clock = clock.Add(20 * time.Second)
	add(1 << 20)
	add(1 << 20)
	clock = clock.Add(time.Second)
	done(nil)
	add, done = p.Task("claim tulip/other", 0)
	add(5)
	done(errors.New("the pod is gone\nhint: run again"))
	_, _ = p.Task("claim tulip/third", 0)
	p.Close()
	p.Close()
	require.Equal(t, `claim tulip/data?[2J: 2.0 MiB of at most 10.0 MiB
claim tulip/data?[2J: 3.0 MiB in 21s
claim tulip/other: failed after 5 B: the pod is gone; hint: run again
claim tulip/third: failed after 0 B: it was not finished
`, b.String())
}

// Bars end, whatever happens to their tasks, and also when nothing calls done.
func TestProgressBars(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, true)
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			add, done := p.Task(fmt.Sprintf("claim %d", i), int64(i)*100)
			for range 100 {
				add(1)
			}
			switch i {
			case 0, 1:
				done(nil)
			case 2:
				done(errors.New("x"))
			}
		})
	}
	wait.Wait()
	p.Close()
	p.Close()
	add, done := p.Task("afterwards", 0)
	add(1)
	done(nil)
	require.Contains(t, b.String(), "afterwards: 1 B in")
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 5 << 40: "5.0 TiB", 1<<63 - 1: "8.0 EiB"} {
		require.Equal(t, want, size(n))
	}
	for s, want := range map[float64]string{0: "", 0.123: "120ms", 75.55: "1m15.6s", 4000: "1h6m40s"} {
		require.Equal(t, want, seconds(s))
	}
}

// TestNamesInAFolder: a list of a folder has names without it, whatever they and
// the folder are made of.
func TestNamesInAFolder(t *testing.T) {
	for _, folder := range []string{"letters", "d\xff\n"} {
		var out bytes.Buffer
		l, err := Files(&out, "b", "shop/data", folder, "table")
		require.NoError(t, err)
		for _, name := range []string{"plain", " ", "\xfe"} {
			f := v1alpha1.StoredFile{Type: "file", Mode: "0644", Path: folder + "/" + name}
			if !utf8.ValidString(f.Path) {
				f.Path, f.PathBytes = strconv.Quote(f.Path), []byte(f.Path)
			}
			require.NoError(t, l.Add(f))
		}
		require.NoError(t, l.Close(nil))
		require.NotContains(t, out.String(), "letters")
		require.NotContains(t, out.String(), `\xff`)
		for n, name := range []string{"plain", `" "`, `"\xfe"`} {
			require.Contains(t, strings.Split(out.String(), "\n")[n], name)
		}
	}
}
