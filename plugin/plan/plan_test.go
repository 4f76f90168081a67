package plan

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-backup/kubectl-backup/plugin/graph"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/plugin/snapshot"
	"github.com/kubectl-backup/kubectl-backup/spec/recipes"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files")

// classes are what a cluster offers, by driver.
type classes struct{ single, grouped map[string]string }

func (c classes) Class(driver, wanted string) (string, error) {
	return chosen("VolumeSnapshotClass", c.single, driver, wanted)
}

func (c classes) GroupClass(driver, wanted string) (string, error) {
	return chosen("VolumeGroupSnapshotClass", c.grouped, driver, wanted)
}

// Blocks are listed by reef's driver.
func (c classes) Blocks(_ context.Context, _ *kube.Cluster, driver string) (*snapshot.BlockService, string, error) {
	if driver == "reef.example.org" {
		return &snapshot.BlockService{}, "", nil
	}
	return nil, "driver " + driver + " has no SnapshotMetadataService", nil
}

func chosen(kind string, of map[string]string, driver, wanted string) (string, error) {
	class, ok := of[driver]
	switch {
	case !ok:
		return "", fmt.Errorf("no %s is of driver %s", kind, driver)
	case wanted != "" && wanted != class:
		return "", fmt.Errorf("%s %s does not exist", kind, wanted)
	}
	return class, nil
}

// both drivers make snapshots; only reef's makes them together.
var both = classes{single: map[string]string{"reef.example.org": "reef", "kelp.example.org": "kelp"}, grouped: map[string]string{"reef.example.org": "reef-together"}}

// planOf is the plan of a policy over objects, without a cluster.
func planOf(t *testing.T, spec, objects string, c snapshotClasses, image string) *Plan {
	t.Helper()
	d, err := v1alpha1.Decode("p.yaml", []byte("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p}\nspec:\n"+spec))
	require.NoError(t, err)
	sel, err := selector.Compile(d.Policies[0])
	require.NoError(t, err)
	inv := newInventory(Request{Policy: d.Policies[0], Image: image}, sel)
	inv.recipes, err = Recipes(d.Policies[0], d.Recipes)
	require.NoError(t, err)
	inv.classes = c
	for _, text := range strings.Split(objects, "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(text))
		require.NoError(t, err, text)
		o, err := object.Parse(raw)
		require.NoError(t, err, text)
		require.NoError(t, inv.visit(t.Context(), o))
	}
	g, err := inv.builder.Build()
	require.NoError(t, err)
	closure := g.Closure(inv.selected(), graph.Include)
	m, err := inv.groups(g, closure)
	require.NoError(t, err)
	p := &Plan{Graph: g, Document: v1alpha1.Document{Kind: "Plan"}}
	require.NoError(t, inv.fill(context.Background(), p, closure, m))
	return p
}

// show writes what a plan says about volumes, hooks and cuts, a line each.
func show(p *Plan) string {
	var b strings.Builder
	d := p.Document
	fmt.Fprintf(&b, "%s\n", d.Result)
	for _, v := range d.Volumes {
		name := v.Ref.Kind + " " + v.Ref.Namespace + "/" + v.Ref.Name
		if v.Ref.Kind == "Pod" {
			name += " " + v.Volume
		}
		fmt.Fprintf(&b, "%s (%s): %s", name, v.VolumeKind, v.Outcome)
		if v.Method != "" {
			fmt.Fprintf(&b, " %s of %s", v.Method, v.Cut)
		}
		for _, class := range []string{v.Driver, v.SnapshotClass, v.GroupSnapshotClass} {
			if class != "" {
				fmt.Fprintf(&b, " %s", class)
			}
		}
		fmt.Fprintf(&b, "\n    %s\n", strings.Join(append([]string{v.Reason}, v.Warnings...), "\n    ! "))
	}
	for _, g := range d.Groups {
		fmt.Fprintf(&b, "group %s", g.Name)
		if g.Cut != nil {
			fmt.Fprintf(&b, ": %s %s", g.Cut.Method, g.Cut.Reason)
		}
		fmt.Fprintln(&b)
	}
	for i, h := range d.Hooks {
		fmt.Fprintf(&b, "hook %d %s %s %s: %s in %s/%s %s %gs", i, h.Hook, cmp.Or(h.Recipe, "commands"), h.Scope, h.Outcome, h.Pod.Namespace, h.Pod.Name, h.Container, h.TTLSeconds)
		if w := p.Hooks[i].Workload; w != nil {
			fmt.Fprintf(&b, " of %s", w.Name)
		}
		if h.Group != "" {
			fmt.Fprintf(&b, " for %s", h.Group)
		}
		if h.Reason != "" {
			fmt.Fprintf(&b, "\n    %s", h.Reason)
		}
		fmt.Fprintln(&b)
	}
	for _, c := range p.Cuts {
		fmt.Fprintf(&b, "cut %s of", c.Method)
		for _, i := range c.Volumes {
			fmt.Fprintf(&b, " %s", cmp.Or(d.Volumes[i].Volume, d.Volumes[i].Ref.Name))
		}
		if len(c.Hooks) > 0 {
			fmt.Fprintf(&b, " under hooks %v", c.Hooks)
		}
		fmt.Fprintln(&b)
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	return b.String()
}

func golden(t *testing.T, got string) {
	t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(strings.TrimPrefix(t.Name(), "Test"), "/", "-")+".txt")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func join(objects ...string) string { return strings.Join(objects, "\n---\n") }

// volume is a PersistentVolume and the claim that has it.
func volume(namespace, name, source, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: pv-%[2]s}
spec: {%[3]s}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[2]s, namespace: %[1]s}
spec: {volumeName: pv-%[2]s, storageClassName: some%[4]s}
status: {phase: Bound, capacity: {storage: 1Mi}}`, namespace, name, source, more)
}

const (
	ofReef  = "csi: {driver: reef.example.org, volumeHandle: h}"
	ofKelp  = "csi: {driver: kelp.example.org, volumeHandle: h}"
	ofOther = "csi: {driver: mute.example.org, volumeHandle: h}"
	ofNode  = "hostPath: {path: /x}"
)

// stateful is a StatefulSet and its running pod, which mounts claims.
func stateful(namespace, name, env string, volumes ...string) string {
	var list, mounts []string
	for _, v := range volumes {
		list = append(list, fmt.Sprintf("{name: %s, persistentVolumeClaim: {claimName: %s}}", v, v))
		mounts = append(mounts, fmt.Sprintf("{name: %s, mountPath: /%s}", v, v))
	}
	container := fmt.Sprintf("{name: main, image: x, env: [%s], volumeMounts: [%s]}", env, strings.Join(mounts, ", "))
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %[2]s, namespace: %[1]s, uid: uid-%[2]s, labels: {app: %[2]s}}
spec:
  selector: {matchLabels: {app: %[2]s}}
  serviceName: %[2]s
  template: {metadata: {labels: {app: %[2]s}}, spec: {containers: [%[3]s], volumes: [%[4]s]}}
---
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec: {selector: {app: %[2]s}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: %[2]s-0, namespace: %[1]s, labels: {app: %[2]s}, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: %[2]s, uid: uid-%[2]s, controller: true}]}
spec: {nodeName: n, containers: [%[3]s], volumes: [%[4]s]}
status: {phase: Running, containerStatuses: [{name: main, state: {running: {startedAt: "2030-01-01T00:00:00Z"}}}]}`,
		namespace, name, container, strings.Join(list, ", "))
}

const sets = "  select: [{kinds: [StatefulSet]}]\n"

func TestHowAGroupIsCut(t *testing.T) {
	two := func(first, second string) string {
		return join(volume("reef", "coral", first, ""), volume("reef", "sponge", second, ""), stateful("reef", "bank", "", "coral", "sponge"))
	}
	for _, c := range []struct {
		name, spec, objects, image string
		classes                    classes
	}{
		{"together", sets, two(ofReef, ofReef), "i", both},
		{"one volume", sets, join(volume("reef", "coral", ofReef, ""), stateful("reef", "bank", "", "coral")), "i", both},
		{"no group class", sets, two(ofKelp, ofKelp), "i", both},
		{"two drivers", sets, two(ofReef, ofKelp), "i", both},
		{"two namespaces", sets + "  grouping: {by: Label, label: all}\n", join(volume("reef", "coral", ofReef, ""), volume("shelf", "sponge", ofReef, ""),
			strings.Replace(stateful("reef", "bank", "", "coral"), "labels: {app: bank}}", "labels: {all: one}}", 1),
			strings.Replace(stateful("shelf", "wall", "", "sponge"), "labels: {app: wall}}", "labels: {all: one}}", 1)), "i", both},
		{"mixed", sets, two(ofReef, ofNode), "i", both},
		{"live", sets, two(ofNode, "local: {path: /y}"), "i", both},
		{"no class of the driver", sets, two(ofOther, ofOther), "i", both},
		{"no image", sets, two(ofReef, ofReef), "", both},
		{"stream by rule", sets + "  volumes: [{method: Stream}]\n", two(ofReef, ofReef), "i", both},
		{"snapshot by rule", sets + "  volumes: [{method: Snapshot}]\n", two(ofReef, ofNode), "i", both},
		{"named classes", sets + "  volumes: [{method: Snapshot, snapshotClass: reef, groupSnapshotClass: reef-together}]\n", two(ofReef, ofReef), "i", both},
		{"a class that is not there", sets + "  volumes: [{method: Snapshot, snapshotClass: rief}]\n", two(ofReef, ofReef), "i", both},
		{"a group class that is not there", sets + "  volumes: [{method: Auto, groupSnapshotClass: rief}]\n", two(ofReef, ofReef), "i", both},
		{"two workloads", sets + "  grouping: {by: Namespace}\n", join(two(ofReef, ofReef), volume("reef", "algae", ofReef, ""), stateful("reef", "wall", "", "algae")), "i", both},
		{"by workload", sets + "  grouping: {by: Namespace}\n  consistency: {mode: Workload}\n", join(two(ofReef, ofReef), volume("reef", "algae", ofReef, ""), stateful("reef", "wall", "", "algae")), "i", both},
		{"by volume", sets + "  consistency: {mode: None, hooks: [{before: [a], after: [b]}]}\n", two(ofReef, ofReef), "i", both},
		{"live with hooks", sets + "  consistency: {hooks: [{before: [a], after: [b]}]}\n", two(ofNode, ofNode), "i", both},
	} {
		t.Run(c.name, func(t *testing.T) { golden(t, show(planOf(t, c.spec, c.objects, c.classes, c.image))) })
	}
}

// TestEveryKindOfVolume has a pod with a volume of each kind.
func TestEveryKindOfVolume(t *testing.T) {
	const pod = `
apiVersion: v1
kind: Pod
metadata: {name: diver, namespace: reef}
spec:
  nodeName: n
  initContainers: [{name: side, restartPolicy: Always, image: x, volumeMounts: [{name: beside, mountPath: /beside}]}]
  containers:
  - name: main
    image: x
    volumeMounts:
    - {name: claim, mountPath: /claim}
    - {name: part, mountPath: /part, subPath: a}
    - {name: scratch, mountPath: /scratch}
    - {name: shared, mountPath: /shared}
    - {name: node, mountPath: /node}
    - {name: own, mountPath: /own}
    - {name: kube-api-access-mine, mountPath: from/the/root/}
    volumeDevices: [{name: device, devicePath: /dev/x}]
  volumes:
  - {name: claim, persistentVolumeClaim: {claimName: coral}}
  - {name: part, persistentVolumeClaim: {claimName: sponge}}
  - {name: device, persistentVolumeClaim: {claimName: ridge}}
  - {name: gone, persistentVolumeClaim: {claimName: nowhere}}
  - {name: own, ephemeral: {volumeClaimTemplate: {spec: {}}}}
  - {name: scratch, emptyDir: {}}
  - {name: unseen, emptyDir: {}}
  - {name: beside, emptyDir: {}}
  - {name: node, hostPath: {path: /var/lib/x}}
  - {name: node-file, hostPath: {path: /etc/x, type: File}}
  - {name: shared, nfs: {server: s, path: /p}}
  - {name: inline, csi: {driver: d}}
  - {name: text, configMap: {name: c}}
  - {name: hush, secret: {secretName: s}}
  - {name: facts, downwardAPI: {items: []}}
  - {name: several, projected: {sources: []}}
  - {name: picture, image: {reference: r}}
  - {name: kube-api-access-x, projected: {sources: []}}
  - {name: kube-api-access-mine, emptyDir: {}}
status:
  phase: Running
  containerStatuses: [{name: main, state: {running: {startedAt: "2030-01-01T00:00:00Z"}}}]
  initContainerStatuses: [{name: side, state: {running: {startedAt: "2030-01-01T00:00:00Z"}}}]`
	objects := join(pod, volume("reef", "coral", ofReef, ""), volume("reef", "sponge", ofNode, ""), volume("reef", "ridge", ofNode, ", volumeMode: Block"),
		strings.Replace(volume("reef", "diver-own", ofReef, ""), "metadata: {name: diver-own,", "metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: diver, uid: u, controller: true}], name: diver-own,", 1),
		volume("reef", "alone", ofNode, ""), volume("reef", "alone-snap", ofReef, ""), volume("reef", "alone-block", ofNode, ", volumeMode: Block"), volume("reef", "block-snap", ofReef, ", volumeMode: Block"),
		"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: waiting, namespace: reef}\nspec: {storageClassName: some}\nstatus: {phase: Pending}",
		strings.Replace(volume("reef", "lost", ofReef, ""), "phase: Bound", "phase: Lost", 1),
		"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: hidden, namespace: reef}\nspec: {storageClassName: some, volumeName: pv-hidden}\nstatus: {phase: Bound}")
	const all = "  select: [{kinds: [Pod, PersistentVolumeClaim]}]\n  grouping: {by: Namespace}\n"
	for name, c := range map[string]struct{ rules, image string }{
		"auto":             {"", "i"},
		"auto alone":       {"", ""},
		"stream":           {"  volumes: [{method: Stream}]\n", "i"},
		"stream alone":     {"  volumes: [{method: Stream}]\n", ""},
		"snapshot":         {"  volumes: [{method: Snapshot}]\n", "i"},
		"skip":             {"  volumes: [{method: Skip}]\n", "i"},
		"hostPath by name": {"  volumes: [{match: 'volume.kind == \"hostPath\"', method: Stream}, {match: 'volume.kind == \"emptyDir\"', method: Stream}]\n", "i"},
	} {
		t.Run(name, func(t *testing.T) { golden(t, show(planOf(t, all+c.rules, objects, both, c.image))) })
	}
}

// TestHooksFreezeCallersFirst has a web that calls an api that calls a store.
func TestHooksFreezeCallersFirst(t *testing.T) {
	call := func(name, of string) string {
		return fmt.Sprintf("{name: %s, value: \"http://%s:80/\"}", name, of)
	}
	chain := join(
		volume("reef", "a", ofReef, ""), volume("reef", "b", ofReef, ""), volume("reef", "c", ofReef, ""),
		stateful("reef", "zstore", "", "a"), stateful("reef", "mapi", call("STORE_URL", "zstore"), "b"), stateful("reef", "aweb", call("API_URL", "mapi"), "c"),
		volume("shelf", "d", ofReef, ""), stateful("shelf", "lone", "", "d"))
	for _, c := range []struct{ name, spec, objects string }{
		{"every pod", "hooks: [{name: quiet, before: [a], after: [b], ttl: 20s}]", chain},
		{"scopes", "hooks: [{name: each, before: [a], after: [b]}, {name: one, before: [a], after: [b], scope: Group}, {name: all, before: [a], after: [b], scope: Backup}]", chain},
		{"by match", "hooks: [{recipe: fsfreeze, match: 'labels[\"app\"] == \"zstore\"', parameters: {MOUNT: /a}}, {name: web, before: [a], after: [b], match: 'object.metadata.name == \"aweb-0\"'}]", chain},
		{"no match", "hooks: [{name: none, before: [a], after: [b], match: 'false'}]", chain},
		{"undecided", "hooks: [{name: risky, before: [a], after: [b], match: 'labels[\"tier\"] == \"x\"'}]", chain},
		{"container", "hooks: [{name: wrong, before: [a], after: [b], container: sidecar, match: 'labels.app == \"lone\"'}, {name: right, before: [a], after: [b], container: main, match: 'labels.app == \"lone\"'}]", chain},
		{"not running", "hooks: [{name: quiet, before: [a], after: [b]}]", strings.ReplaceAll(strings.Replace(chain, "phase: Running, containerStatuses: [{name: main, state: {running: {startedAt: \"2030-01-01T00:00:00Z\"}}}]", "phase: Pending", 1), "state: {running: {startedAt: \"2030-01-01T00:00:00Z\"}}", "state: {waiting: {reason: CrashLoopBackOff}}")},
		{"by workload", "mode: Workload, hooks: [{name: each, before: [a], after: [b]}, {name: one, before: [a], after: [b], scope: Group}]", chain},
	} {
		t.Run(c.name, func(t *testing.T) {
			golden(t, show(planOf(t, sets+"  consistency: {"+c.spec+"}\n", c.objects, both, "i")))
		})
	}
}

func TestHooksOfGroupsWithoutVolumes(t *testing.T) {
	golden(t, show(planOf(t, sets+"  consistency: {hooks: [{name: quiet, before: [a], after: [b]}]}\n", stateful("reef", "bank", ""), both, "i")))
}

func TestThePolicyReferenceNamesEveryRecipe(t *testing.T) {
	text, err := os.ReadFile("../../spec/POLICY.md")
	require.NoError(t, err)
	for _, r := range recipes.All() {
		require.Contains(t, string(text), "`"+r.Name+"`")
		for parameter := range r.Spec.Parameters {
			require.Contains(t, string(text), "`"+parameter+"`", r.Name)
		}
	}
}

func TestRecipesOfAPolicy(t *testing.T) {
	documents := func(hook, more string) (*v1alpha1.BackupPolicy, []*v1alpha1.BackupRecipe) {
		d, err := v1alpha1.Decode("f.yaml", []byte("apiVersion: kubectl-backup.io/v1alpha1\nkind: BackupPolicy\nmetadata: {name: p, namespace: reef}\nspec:\n  select: [{}]\n  consistency: {hooks: ["+hook+"]}\n"+more))
		require.NoError(t, err)
		return d.Policies[0], d.Recipes
	}
	own := func(name, namespace, parameters string) string {
		return fmt.Sprintf("---\napiVersion: kubectl-backup.io/v1alpha1\nkind: BackupRecipe\nmetadata: {name: %s, namespace: %q}\nspec: {freeze: a, thaw: b, parameters: {%s}}\n", name, namespace, parameters)
	}
	for _, c := range []struct{ name, hook, more, want string }{
		{"misspelt", "{recipe: fsfreez}", "", `f.yaml:6:26: spec.consistency.hooks[0].recipe: no recipe "fsfreez"; did you mean "fsfreeze"?`},
		{"misspelt own", "{recipe: korall}", own("koral", "", ""), `no recipe "korall"; did you mean "koral"?`},
		{"of another namespace", "{recipe: koral}", own("koral", "shelf", ""), `no recipe "koral"; known are etcd`},
		{"parameter", "{recipe: koral, parameters: {DEPHT: '1'}}", own("koral", "", "DEPTH: '2'"), `spec.consistency.hooks[0].parameters.DEPHT: recipe koral has no parameter "DEPHT"; did you mean "DEPTH"?`},
		{"parameter of a recipe without", "{recipe: koral, parameters: {DEPTH: '1'}}", own("koral", "", ""), `recipe koral has no parameter "DEPTH"; it has none`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Recipes(documents(c.hook, c.more))
			require.ErrorContains(t, err, c.want)
			require.ErrorAs(t, err, new(*v1alpha1.UsageError))
		})
	}
	found, err := Recipes(documents("{recipe: koral}, {recipe: fsfreeze}, {before: [a], after: [b]}", own("koral", "", "")+own("koral", "reef", "")+own("koral", "shelf", "")+own("fsfreeze", "", "")))
	require.NoError(t, err)
	require.Equal(t, "reef", found[0].Namespace, "the policy's namespace first")
	require.Equal(t, "a", found[1].Spec.Freeze, "a document comes before what is built in")
	require.Nil(t, found[2])
}
