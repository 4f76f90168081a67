package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// quarry is one object of each way in which a name can be taken. The second
// half of each is what the backup has, the first what the target has.
const quarryThere = `
apiVersion: v1
kind: Namespace
metadata: {name: $NS, labels: {team: masons}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: stone, namespace: $NS}
data: {kind: slate, extra: stays}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: equal, namespace: $NS}
data: {k: v}
---
apiVersion: v1
kind: Secret
metadata: {name: seal, namespace: $NS}
immutable: true
stringData: {k: new}
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: $NS}
spec: {selector: {app: other}, ports: [{name: a, port: 80}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: books, namespace: $NS}
spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: press, namespace: $NS}
spec:
  replicas: 1
  selector: {matchLabels: {app: other}}
  template:
    metadata: {labels: {app: other}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: cut, namespace: $NS}
spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: "localhost/busybox:dev", args: [other]}]}}}
`

func quarrySaved() string {
	saved := strings.NewReplacer(
		"{kind: slate, extra: stays}", "{kind: marble}", "stringData: {k: new}", "data: {k: b2xk}",
		"app: other", "app: press", "premium", "archive", "args: [other]", "args: [press]", "team: masons", "team: masons, stage: two").Replace(quarryThere)
	return saved + `---
apiVersion: v1
kind: ConfigMap
metadata: {name: absent, namespace: $NS}
data: {k: v}
`
}

// states is the UID and resourceVersion of what is in a namespace, and of
// itself, without what controllers make and write.
func (p *place) states(ns string) map[string][2]string {
	p.t.Helper()
	out := map[string][2]string{}
	for kind, apiVersion := range map[string]string{
		"ConfigMap": "v1", "Secret": "v1", "Service": "v1", "PersistentVolumeClaim": "v1", "ServiceAccount": "v1",
		"Deployment": "apps/v1", "StatefulSet": "apps/v1", "Job": "batch/v1", "Role": "rbac.authorization.k8s.io/v1", "RoleBinding": "rbac.authorization.k8s.io/v1",
	} {
		_, err := p.List(p.t.Context(), p.kind(apiVersion, kind), kube.ListOptions{Namespace: ns}, func(o *object.Object) error {
			out[kind+" "+o.Ref.Name] = [2]string{o.UID, o.Version}
			return nil
		})
		require.NoError(p.t, err)
	}
	o, err := p.get("v1", "Namespace", "", ns)
	require.NoError(p.t, err)
	out["Namespace "+ns] = [2]string{o.UID, o.Version}
	return out
}

// settled are the states once the controllers have nothing to do any more.
func (p *place) settled(ns string) map[string][2]string {
	p.t.Helper()
	before := p.states(ns)
	since := time.Now()
	p.eventually(func() (bool, string) {
		now := p.states(ns)
		if fmt.Sprint(now) != fmt.Sprint(before) {
			before, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second, "its states keep changing"
	})
	return before
}

func outcomesOf(d *v1alpha1.Document) map[string]v1alpha1.Outcome {
	out := map[string]v1alpha1.Outcome{}
	for _, l := range d.Objects {
		out[l.Ref.Kind+" "+l.Ref.Name] = l.Outcome
	}
	for _, v := range d.Volumes {
		out["volume "+v.Ref.Name] = v.Outcome
	}
	return out
}

// foretold is what a plan says will be, in the words of the report.
func foretold(plan map[string]v1alpha1.Outcome) map[string]v1alpha1.Outcome {
	for k, o := range plan {
		if o == v1alpha1.OutcomeCreate || o == v1alpha1.OutcomeApply {
			plan[k] = v1alpha1.OutcomeRestored
		}
	}
	return plan
}

// Each way to deal with what is in the way does what it says to each kind of
// object, the dry runs know it before, and what is left alone is untouched.
func TestRestoreOnConflict(t *testing.T) {
	t.Parallel()
	conflicts := []string{"Namespace NS", "ConfigMap stone", "Secret seal", "Service gate", "PersistentVolumeClaim books", "Deployment press", "Job cut"}
	for _, c := range []struct {
		on    restore.OnConflict
		allow []string
		code  int
		// others are outcomes that are not of the kind that is left alone.
		left   v1alpha1.Outcome
		others map[string]v1alpha1.Outcome
	}{
		{on: restore.ConflictReport, code: 3, left: v1alpha1.OutcomeConflict},
		{on: restore.ConflictSkip, code: 0, left: v1alpha1.OutcomeSkipped},
		{on: restore.ConflictApply, code: 3, others: map[string]v1alpha1.Outcome{
			"Namespace NS": v1alpha1.OutcomeRestored, "ConfigMap stone": v1alpha1.OutcomeRestored, "Service gate": v1alpha1.OutcomeRestored,
			"Secret seal": v1alpha1.OutcomeFailed, "PersistentVolumeClaim books": v1alpha1.OutcomeFailed, "Deployment press": v1alpha1.OutcomeFailed, "Job cut": v1alpha1.OutcomeFailed}},
		{on: restore.ConflictRecreate, code: 3, left: v1alpha1.OutcomeConflict, others: map[string]v1alpha1.Outcome{
			"ConfigMap stone": v1alpha1.OutcomeRestored, "Service gate": v1alpha1.OutcomeRestored, "Secret seal": v1alpha1.OutcomeRestored,
			"Deployment press": v1alpha1.OutcomeRestored, "Job cut": v1alpha1.OutcomeRestored}},
		{on: restore.ConflictRecreate, allow: []string{"persistentvolumeclaims"}, code: 3, left: v1alpha1.OutcomeConflict, others: map[string]v1alpha1.Outcome{
			"ConfigMap stone": v1alpha1.OutcomeRestored, "Service gate": v1alpha1.OutcomeRestored, "Secret seal": v1alpha1.OutcomeRestored,
			"Deployment press": v1alpha1.OutcomeRestored, "Job cut": v1alpha1.OutcomeRestored, "PersistentVolumeClaim books": v1alpha1.OutcomeRestored}},
	} {
		t.Run(fmt.Sprint(c.on, c.allow), func(t *testing.T) {
			t.Parallel()
			dst := restorePlace(t, "dst")
			ns := word(t, "quarry")
			dst.apply(quarryThere, "$NS", ns)
			b := newBackup(t).addYAML(quarrySaved(), "$NS", ns)
			b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "books"},
				VolumeKind: "persistentVolumeClaim"}, map[string]string{"2029.txt": "pages"})
			r := b.request(dst)
			r.OnConflict, r.AllowRecreate = c.on, c.allow
			r.Timeout = time.Minute
			want := map[string]v1alpha1.Outcome{"ConfigMap equal": v1alpha1.OutcomeUnchanged, "ConfigMap absent": v1alpha1.OutcomeRestored, "volume books": c.left}
			for _, name := range conflicts {
				want[strings.ReplaceAll(name, "NS", ns)] = c.left
			}
			for name, o := range c.others {
				want[strings.ReplaceAll(name, "NS", ns)] = o
			}
			switch {
			case c.on == restore.ConflictApply:
				want["volume books"] = v1alpha1.OutcomeConflict
			case c.allow != nil:
				want["volume books"] = v1alpha1.OutcomeRestored
			}
			before := dst.settled(ns)
			for _, mode := range []string{restore.DryRunClient, restore.DryRunServer} {
				r.DryRun = mode
				d := run(t, r)
				require.Equal(t, want, foretold(outcomesOf(d)), "dry run %s: %s", mode, pretty(d))
				require.Equal(t, c.code, d.ExitCode)
			}
			require.Equal(t, before, dst.states(ns), "a dry run wrote something")
			r.DryRun = restore.DryRunNone
			d := run(t, r)
			require.Equal(t, want, outcomesOf(d), pretty(d))
			require.Equal(t, c.code, d.ExitCode)
			after := dst.settled(ns)
			for name, state := range before {
				switch want[name] {
				case v1alpha1.OutcomeConflict, v1alpha1.OutcomeSkipped, v1alpha1.OutcomeUnchanged, v1alpha1.OutcomeFailed:
					require.Equal(t, state, after[name], "%s was to be left alone", name)
				case v1alpha1.OutcomeRestored:
					require.Equal(t, c.on == restore.ConflictRecreate, state[0] != after[name][0], "%s: another UID", name)
				}
			}
			if c.on == restore.ConflictApply {
				require.Equal(t, map[string]any{"kind": "marble", "extra": "stays"}, field(dst.must("v1", "ConfigMap", ns, "stone"), "data"))
				for kind, name := range map[string]string{"Secret": "seal", "PersistentVolumeClaim": "books", "Deployment": "press", "Job": "cut"} {
					require.Contains(t, line(t, d, kind, name).Reason, "immutable: ", "%s", kind)
				}
				require.Contains(t, line(t, d, "Deployment", "press").Reason, "spec.selector")
				require.Contains(t, line(t, d, "PersistentVolumeClaim", "books").Reason, "spec.storageClassName")
				require.Contains(t, line(t, d, "Secret", "seal").Reason, "data")
			}
			for _, kindName := range [][2]string{{"ConfigMap", "stone"}, {"ConfigMap", "absent"}, {"Service", "gate"}, {"PersistentVolumeClaim", "books"}} {
				for name := range managers(t, dst.must("v1", kindName[0], ns, kindName[1])) {
					require.NotContains(t, name, kube.FieldManager, "%v", kindName)
				}
			}
			if want["Deployment press"] == v1alpha1.OutcomeRestored {
				require.Equal(t, "press", field(dst.must("apps/v1", "Deployment", ns, "press"), "spec", "selector", "matchLabels", "app"))
			}
			if c.allow != nil {
				require.Equal(t, "archive", field(dst.must("v1", "PersistentVolumeClaim", ns, "books"), "spec", "storageClassName"))
			}

			// Again: what could be brought about has been.
			again := run(t, r)
			for name, o := range outcomesOf(again) {
				if want[name] == v1alpha1.OutcomeRestored && !strings.HasPrefix(name, "volume") {
					require.Equal(t, v1alpha1.OutcomeUnchanged, o, "%s: %s", name, pretty(again))
				}
			}
			if c.allow == nil {
				require.Equal(t, after, dst.states(ns), "the second run wrote something")
			}
		})
	}
}

func TestRestoreStopsAtConflicts(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "quarry")
	dst.apply(quarryThere, "$NS", ns)
	r := newBackup(t).addYAML(quarrySaved(), "$NS", ns).request(dst)
	r.OnConflict = restore.ConflictFail
	before := dst.settled(ns)
	for _, mode := range []string{restore.DryRunClient, restore.DryRunServer, restore.DryRunNone} {
		r.DryRun = mode
		d, err := restore.Run(t.Context(), r)
		require.ErrorContains(t, err, "nothing was written")
		require.ErrorContains(t, err, "Deployment")
		require.Equal(t, 1, d.ExitCode)
		require.Equal(t, v1alpha1.OutcomeConflict, line(t, d, "Secret", "seal").Outcome)
		require.Equal(t, v1alpha1.OutcomeFailed, line(t, d, "ConfigMap", "absent").Outcome)
		require.Equal(t, before, dst.states(ns), mode)
	}
}

// What a deletion would take along is created again, and where it would take
// data along there is no deletion.
func TestRecreateKeepsWhatDependsOnIt(t *testing.T) {
	t.Parallel()
	dst := restorePlace(t, "dst")
	ns := word(t, "quarry")
	dst.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: parent, namespace: $NS}
data: {k: there}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: keeper, namespace: $NS}
data: {k: there}
`, "$NS", ns)
	uid := func(name string) string {
		return field(dst.must("v1", "ConfigMap", ns, name), "metadata", "uid").(string)
	}
	owned := `
apiVersion: v1
kind: ConfigMap
metadata: {name: child, namespace: $NS, uid: child-1, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: parent, uid: $PARENT}]}
data: {k: same}
`
	dst.apply(strings.ReplaceAll(owned, "uid: child-1, ", ""), "$NS", ns, "$PARENT", uid("parent"))
	dst.apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: between, namespace: $NS, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: keeper, uid: $KEEPER}]}
`, "$NS", ns, "$KEEPER", uid("keeper"))
	dst.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: $NS, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: between, uid: $BETWEEN}]}
spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
`, "$NS", ns, "$BETWEEN", uid("between"))
	r := newBackup(t).addYAML(`
apiVersion: v1
kind: ConfigMap
metadata: {name: parent, namespace: $NS, uid: parent-1}
data: {k: saved}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: keeper, namespace: $NS, uid: keeper-1}
data: {k: saved}
---`+owned, "$NS", ns, "$PARENT", "parent-1").request(dst)
	r.OnConflict = restore.ConflictRecreate
	claim := field(dst.must("v1", "PersistentVolumeClaim", ns, "data"), "metadata", "uid")
	d := run(t, r)
	require.Equal(t, 3, d.ExitCode)
	require.Equal(t, v1alpha1.OutcomeConflict, line(t, d, "ConfigMap", "keeper").Outcome)
	require.Contains(t, line(t, d, "ConfigMap", "keeper").Reason, "claim data")
	require.Equal(t, claim, field(dst.must("v1", "PersistentVolumeClaim", ns, "data"), "metadata", "uid"))
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "ConfigMap", "child").Outcome)
	dst.settled(ns) // the garbage collector has had its time
	require.Equal(t, "saved", field(dst.must("v1", "ConfigMap", ns, "parent"), "data", "k"))
	require.Equal(t, uid("parent"), field(dst.must("v1", "ConfigMap", ns, "child"), "metadata", "ownerReferences", "0", "uid"))
}

// A second writer's fields stay its own when the backup is applied over them.
func TestApplyKeepsFieldOwners(t *testing.T) {
	t.Parallel()
	src, dst := restorePlace(t, "src"), restorePlace(t, "dst")
	ns := word(t, "quarry")
	configMaps := dst.kind("v1", "ConfigMap")
	say := func(p *place, data string) {
		t.Helper()
		_, err := p.Apply(t.Context(), configMaps, ns, "flags", []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"flags","namespace":"`+ns+`"},"data":`+data+`}`), kube.WriteOptions{FieldManager: "gitops"})
		require.NoError(t, err)
	}
	for _, p := range []*place{src, dst} {
		p.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS}", "$NS", ns)
	}
	say(src, `{"theme":"dark","beta":"on"}`)
	say(dst, `{"theme":"light","gamma":"on"}`)
	_, err := dst.Patch(t.Context(), configMaps, ns, "flags", types.MergePatchType, []byte(`{"data":{"extra":"1"}}`), kube.WriteOptions{FieldManager: "kubectl-edit"})
	require.NoError(t, err)
	r := newBackup(t).addNamespace(src, ns).request(dst)
	r.OnConflict = restore.ConflictApply
	d := run(t, r)
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "ConfigMap", "flags").Outcome, pretty(d))
	require.Equal(t, map[string]any{"theme": "dark", "beta": "on", "gamma": "on", "extra": "1"}, field(dst.must("v1", "ConfigMap", ns, "flags"), "data"))
	say(dst, `{"theme":"dark"}`)
	require.Equal(t, map[string]any{"theme": "dark", "extra": "1"}, field(dst.must("v1", "ConfigMap", ns, "flags"), "data"))
}
