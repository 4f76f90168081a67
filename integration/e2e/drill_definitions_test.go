package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// definitionsIn are the names of a cluster's definitions.
func definitionsIn(t *testing.T, context string) string {
	t.Helper()
	return kubectl(t, context, "get", "customresourcedefinitions", "-o", "name")
}

// noScratch waits until no namespace of a drill is in a cluster.
func noScratch(t *testing.T, context string) {
	t.Helper()
	await(t, "the end of the namespaces of drills", func() (bool, error) {
		return !strings.Contains(kubectl(t, context, "get", "namespaces", "-o", "name"), "namespace/drill-"), nil
	})
}

// The application with kinds of its own, one of them with a server that
// converts, is drilled where it is and where nothing of it is known: all of it
// comes back in scratch namespaces, and all goes again, the definitions too.
func TestDrillOfKindsOfItsOwn(t *testing.T) {
	s := newSeaport(t)
	file := s.spec()
	saved, r := document(t, "run", "-f", file)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, outcomes(saved))
	asserts := []string{
		"--assert", `objects.all(o, healthy(o) || o.kind == "HorizontalPodAutoscaler")`, // nobody measures here
		"--assert", `objects.filter(o, o.kind == "Berth").size() == 3`,
		"--assert", `objects.exists(o, o.kind == "Berth" && o.metadata.name == "north" && o.spec.length == 120 && o.spec.ship == "heron")`,
		"--assert", `objects.exists(o, o.kind == "Berth" && o.metadata.name == "south" && o.spec.length == 80)`,
		"--assert", `objects.exists(o, o.kind == "Secret" && o.metadata.name == "north-key" && o.metadata.ownerReferences[0].kind == "ConfigMap")`,
	}
	await(t, "the end of the backup's snapshots", func() (bool, error) {
		return kubectl(t, "src", "-n", s.port, "get", "volumesnapshots", "-o", "name") == "", nil
	})
	was := s.versions()
	report, r := drilled(t, append([]string{"latest", "-f", file}, asserts...)...)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, r.stdout)
	noDrill(t, report)
	require.Equal(t, was, s.versions(), "the original was touched")

	// In the other cluster there is what has no namespace, and no definition.
	for _, kind := range []string{"priorityclass", "ingressclass"} {
		raw := kubectl(t, "src", "get", kind, s.own, "-o", "json")
		kubectlInput(t, "dst", strings.NewReplacer(`"uid"`, `"uid-was"`, `"resourceVersion"`, `"version-was"`).Replace(raw), "create", "--validate=false", "-f", "-")
	}
	there := []string{"latest", "-f", file, "--to-context", "dst", "--map-storage-class", "snap=snap-premium"}
	before := definitionsIn(t, "dst")
	_, r = drilled(t, there...)
	require.Equal(t, 1, r.code, "kinds that the cluster lacks were passed over: %s", r.stderr)
	require.Contains(t, r.stdout, "--create-definitions")
	require.Equal(t, before, definitionsIn(t, "dst"))
	noScratch(t, "dst")

	there = append(append(there, "--create-definitions"), asserts...)
	report, r = drilled(t, there...)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, r.stdout)
	require.True(t, report.Passed)
	require.Empty(t, report.Left)
	noScratch(t, "dst")
	require.Equal(t, before, definitionsIn(t, "dst"))

	// Killed as its objects are there; whoever comes next removes it all.
	p := start(t, append([]string{"drill"}, there...)...)
	await(t, "a berth of the drill", func() (bool, error) {
		select {
		case <-p.ended:
			return false, fmt.Errorf("it ended: %s", p.errOut.String())
		default:
		}
		out, err := tryKubectl(t, "dst", "", "get", "berths."+s.group, "-A", "-o", "name")
		return err == nil && strings.Contains(out, "north"), nil
	})
	require.NoError(t, p.Process.Kill())
	p.wait(t)
	shown := finish(t, command(t, "--context", "dst", "cleanup", "--dry-run"))
	require.Contains(t, shown.stdout, "CustomResourceDefinition.apiextensions.k8s.io berths."+s.group)
	r = finish(t, command(t, "--context", "dst", "cleanup"))
	require.Equal(t, 0, r.code, r.stderr)
	noScratch(t, "dst")
	await(t, "the end of the definitions", func() (bool, error) { return definitionsIn(t, "dst") == before, nil })

	// One of which somebody has an object by then is everybody's, and stays.
	p = start(t, append([]string{"drill", "-o", "json"}, there...)...)
	await(t, "the drill's definition", func() (bool, error) {
		select {
		case <-p.ended:
			return false, fmt.Errorf("it ended: %s", p.errOut.String())
		default:
		}
		_, err := tryKubectl(t, "dst", "apiVersion: "+s.group+"/v1\nkind: Berth\nmetadata: {name: mine, namespace: default}\nspec: {length: 7}\n", "create", "-f", "-")
		return err == nil, nil
	})
	t.Cleanup(func() { tryKubectl(t, "dst", "", "-n", "default", "delete", "berths."+s.group, "mine") })
	r = p.wait(t)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stdout, "stays, because there is Berth."+s.group+" default/mine")
	require.Equal(t, "7", kubectl(t, "dst", "-n", "default", "get", "berths."+s.group, "mine", "-o", "jsonpath={.spec.length}"))
	require.NotContains(t, kubectl(t, "dst", "get", "crd", "berths."+s.group, "--show-labels"), "kubectl-backup.io")
	noScratch(t, "dst")
}

// What waits for somebody to act on its end does not keep a drill from ending:
// neither finalizers that were saved, nor those that are put on meanwhile.
func TestDrillOfWhatDoesNotWantToGo(t *testing.T) {
	ns := namespace(t, "sticky")
	apply(t, "src", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: anchor, namespace: "+ns+", finalizers: [hold.example.org/wait]}\ndata: {k: v}\n")
	apply(t, "src", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rope, namespace: "+ns+"}\ndata: {k: v}\n")
	// It takes a while to be healthy, in which the rope is tied.
	apply(t, "src", "apiVersion: v1\nkind: Pod\nmetadata: {name: slow, namespace: "+ns+"}\nspec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: \"localhost/busybox:dev\", command: [sleep, \"36000\"], readinessProbe: {initialDelaySeconds: 6, exec: {command: [\"true\"]}}}]}\n")
	ready(t, "src", ns, "pod/slow")
	t.Cleanup(func() {
		tryKubectl(t, "src", "", "-n", ns, "patch", "configmap", "anchor", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	})
	remote, _ := local(t)
	f := spec(t, policy("  select: [{namespaces: ["+ns+"]}]\n"), remote)
	_, r := document(t, "run", "-f", f)
	require.Equal(t, 0, r.code, r.stderr)
	p := start(t, "drill", "latest", "-f", f, "-o", "json")
	await(t, "the copy of the rope", func() (bool, error) {
		for _, name := range strings.Fields(kubectl(t, "src", "get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}")) {
			if strings.HasPrefix(name, "drill-") && strings.HasSuffix(name, ns) {
				_, err := tryKubectl(t, "src", "", "-n", name, "patch", "configmap", "rope", "--type=merge", "-p", `{"metadata":{"finalizers":["tie.example.org/fast"]}}`)
				return err == nil, nil
			}
		}
		select {
		case <-p.ended:
			return false, fmt.Errorf("it ended: %s\n%s", p.errOut.String(), p.out.String())
		default:
			return false, nil
		}
	})
	r = p.wait(t)
	require.Equal(t, 0, r.code, "%s\n%s", r.stderr, r.stdout)
	require.Contains(t, r.stdout, "tie.example.org/fast")
	require.NotContains(t, r.stdout, "hold.example.org/wait", "it was restored with what holds it")
	noScratch(t, "src")
	require.Equal(t, `["hold.example.org/wait"]`, kubectl(t, "src", "-n", ns, "get", "configmap", "anchor", "-o", "jsonpath={.metadata.finalizers}"), "the original lost it")
}
