package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	cellarDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: kegs.$GROUP}
spec:
  group: $GROUP
  scope: Namespaced
  names: {plural: kegs, singular: keg, kind: Keg}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, description: $TEXT, x-kubernetes-preserve-unknown-fields: true}}}
`
	cellarKegs = `
apiVersion: $GROUP/v1
kind: Keg
metadata: {name: one, namespace: $NS$UID1}
spec: {beer: $BEER}
---
apiVersion: $GROUP/v1
kind: Keg
metadata: {name: two, namespace: $NS$UID2}
spec: {beer: stout}
`
)

// everyUID is the UID of every object of a kind, by namespace and name.
func (p *place) everyUID(k kube.Kind) map[string]string {
	p.t.Helper()
	out := map[string]string{}
	_, err := p.List(p.t.Context(), k, kube.ListOptions{}, func(o *object.Object) error {
		out[o.Ref.Namespace+"/"+o.Ref.Name] = o.UID
		return nil
	})
	require.NoError(p.t, err)
	return out
}

// With a definition go all objects of its kind, and what they own: it is
// deleted only where all of them come back, and no claim goes along.
func TestRecreateDefinition(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, other, group := word(t, "cellar"), word(t, "cellar"), word(t, "kegs")+".example.org"
	names := []string{"$NS", ns, "$OTHER", other, "$GROUP", group}
	crd := dst.kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
	dst.apply(cellarDefinition, append(names, "$TEXT", "there")...)
	kegs := dst.kind(group+"/v1", "Keg")
	for _, n := range []string{ns, other} {
		dst.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $N}", "$N", n)
	}
	dst.apply(cellarKegs, append(names, "$UID1", "", "$UID2", "", "$BEER", "pilsner")...)
	uid := func(k kube.Kind, namespace, name string) string {
		t.Helper()
		o, err := dst.Get(t.Context(), k, namespace, name)
		require.NoError(t, err)
		return o.UID
	}
	owned := "\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: tap, namespace: $NS$MORE, ownerReferences: [{apiVersion: $GROUP/v1, kind: Keg, name: two, uid: $OWNER}]}\ndata: {k: v}\n"
	dst.apply(owned, append(names, "$MORE", "", "$OWNER", uid(kegs, ns, "two"))...)

	b := newBackup(t).addYAML(cellarDefinition, append(names, "$TEXT", "saved")...).
		addYAML("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS, uid: n1}", names...).
		addYAML(cellarKegs, append(names, "$UID1", ", uid: k1", "$UID2", ", uid: k2", "$BEER", "saved")...).
		addYAML(owned, append(names, "$MORE", ", uid: c1", "$OWNER", "k2")...)
	r := b.request(dst)
	r.OnConflict = restore.ConflictRecreate
	r.AllowRecreate = []string{"customresourcedefinitions"}
	// kept requires that nothing of the kind is touched, and says why.
	kept := func(r restore.Request, why string) {
		t.Helper()
		definition, before := uid(crd, "", "kegs."+group), dst.everyUID(kegs)
		for _, mode := range []string{restore.DryRunServer, restore.DryRunNone} {
			r.DryRun = mode
			d := run(t, r)
			l := line(t, d, "CustomResourceDefinition", "kegs."+group)
			require.Equal(t, v1alpha1.OutcomeConflict, l.Outcome, pretty(d))
			require.Contains(t, l.Reason, why)
			require.Equal(t, 3, d.ExitCode)
		}
		require.Equal(t, definition, uid(crd, "", "kegs."+group))
		after := dst.everyUID(kegs)
		for name, was := range before {
			require.Contains(t, after, name)
			if name != ns+"/one" { // which differs, and is replaced for itself
				require.Equal(t, was, after[name], name)
			}
		}
	}
	few := r
	few.AllowRecreate = nil
	few.Filter = func(o *object.Object) (bool, error) { return o.Ref.Kind == "CustomResourceDefinition", nil }
	kept(few, "--allow-recreate=customresourcedefinitions")
	few.AllowRecreate = r.AllowRecreate
	kept(few, "what this restore does not bring back: Keg."+group+" "+ns+"/one")

	dst.apply("apiVersion: $GROUP/v1\nkind: Keg\nmetadata: {name: stranger, namespace: $OTHER}\nspec: {beer: rare}", names...)
	kept(r, other+"/stranger")
	require.NoError(t, dst.Delete(t.Context(), kegs, other, "stranger", kube.DeleteOptions{}))

	dst.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: dregs, namespace: $NS, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: tap, uid: $OWNER}]}
spec: {storageClassName: premium, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
`, append(names, "$OWNER", uid(dst.kind("v1", "ConfigMap"), ns, "tap"))...)
	kept(r, "claim dregs")
	claims := dst.kind("v1", "PersistentVolumeClaim")
	claim := uid(claims, ns, "dregs")
	_, err := dst.Patch(t.Context(), claims, ns, "dregs", types.MergePatchType, []byte(`{"metadata":{"ownerReferences":null}}`), kube.WriteOptions{})
	require.NoError(t, err)

	definition, before := uid(crd, "", "kegs."+group), dst.everyUID(kegs)
	r.DryRun = restore.DryRunServer
	plan := run(t, r)
	r.DryRun = restore.DryRunNone
	d := run(t, r)
	predicted(t, *plan, *d)
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "CustomResourceDefinition", "kegs."+group).Outcome, pretty(d))
	require.NotEqual(t, definition, uid(crd, "", "kegs."+group))
	for _, name := range []string{"one", "two"} {
		require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "Keg", name).Outcome, pretty(d))
		require.NotEqual(t, before[ns+"/"+name], uid(kegs, ns, name))
	}
	require.Equal(t, "saved", field(dst.must(group+"/v1", "Keg", ns, "one"), "spec", "beer"))
	require.Equal(t, "stout", field(dst.must(group+"/v1", "Keg", ns, "two"), "spec", "beer"))
	dst.settled(ns) // the garbage collector has had its time
	require.Equal(t, uid(kegs, ns, "two"), field(dst.must("v1", "ConfigMap", ns, "tap"), "metadata", "ownerReferences", "0", "uid"))
	require.Equal(t, claim, uid(claims, ns, "dregs"))

	again := run(t, r)
	for _, l := range again.Objects {
		require.Contains(t, []v1alpha1.Outcome{v1alpha1.OutcomeUnchanged, v1alpha1.OutcomeSkipped}, l.Outcome, "%s: %s", l.Ref, l.Reason)
	}
}

// A volume is deleted only while nobody is bound to it and its disk stays.
func TestRecreateVolume(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns, disk := word(t, "ledger"), word(t, "disk")
	text := `
apiVersion: v1
kind: PersistentVolume
metadata: {name: $DISK}
spec:
  capacity: {storage: $SIZE}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: $POLICY
  storageClassName: ""
  csi: {driver: disk.example.org, volumeHandle: $DISK}
`
	names := []string{"$NS", ns, "$DISK", disk}
	volumes := dst.kind("v1", "PersistentVolume")
	dst.apply(text, append(names, "$SIZE", "2Mi", "$POLICY", "Delete")...)
	r := newBackup(t).addYAML(text, append(names, "$SIZE", "3Mi", "$POLICY", "Retain")...).request(dst)
	r.OnConflict = restore.ConflictRecreate
	r.AllowRecreate = []string{"persistentvolumes"}
	kept := func(why string) {
		t.Helper()
		before := dst.must("v1", "PersistentVolume", "", disk)
		for _, mode := range []string{restore.DryRunServer, restore.DryRunNone} {
			r.DryRun = mode
			d := run(t, r)
			l := line(t, d, "PersistentVolume", disk)
			require.Equal(t, v1alpha1.OutcomeConflict, l.Outcome, pretty(d))
			require.Contains(t, l.Reason, why)
		}
		require.Equal(t, field(before, "metadata", "uid"), field(dst.must("v1", "PersistentVolume", "", disk), "metadata", "uid"))
	}
	kept("its disk could go with it, because its reclaim policy is Delete")
	_, err := dst.Patch(t.Context(), volumes, "", disk, types.MergePatchType, []byte(`{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`), kube.WriteOptions{})
	require.NoError(t, err)
	dst.apply(claimOfDisk, names...)
	dst.awaitPhase(disk, "Bound")
	kept("bound to a claim")
	require.NoError(t, dst.Delete(t.Context(), dst.kind("v1", "PersistentVolumeClaim"), ns, "books", kube.DeleteOptions{}))
	dst.awaitPhase(disk, "Released")
	was := dst.must("v1", "PersistentVolume", "", disk)
	r.DryRun = restore.DryRunNone
	d := complete(t, r)
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "PersistentVolume", disk).Outcome)
	is := dst.must("v1", "PersistentVolume", "", disk)
	require.NotEqual(t, field(was, "metadata", "uid"), field(is, "metadata", "uid"))
	require.Equal(t, "3Mi", field(is, "spec", "capacity", "storage"))
	require.Equal(t, disk, field(is, "spec", "csi", "volumeHandle"))
}

// A claim is deleted only where the backup has its data and no pod uses it.
func TestRecreateClaim(t *testing.T) {
	dst := restorePlace(t, "dst")
	ns := word(t, "library")
	claim := `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $CLAIM, namespace: $NS$UID}
spec: {storageClassName: $CLASS, accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
`
	b := newBackup(t).addYAML("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS, uid: n1}", "$NS", ns)
	dst.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS}", "$NS", ns)
	for _, name := range []string{"used", "unsaved", "free"} {
		dst.apply(claim, "$NS", ns, "$CLAIM", name, "$UID", "", "$CLASS", "premium")
		dst.apply(`
apiVersion: v1
kind: Pod
metadata: {name: $CLAIM, namespace: $NS}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sh, -c, "test -e /v/live || echo $CLAIM > /v/live; exec sleep 36000"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: $CLAIM}}]
`, "$NS", ns, "$CLAIM", name)
		b.addYAML(claim, "$NS", ns, "$CLAIM", name, "$UID", ", uid: "+name, "$CLASS", "archive")
		if name != "unsaved" {
			b.addVolume(v1alpha1.VolumeLine{Ref: v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: name},
				VolumeKind: "persistentVolumeClaim"}, map[string]string{"saved": name})
		}
	}
	ready(t, "dst", ns, "pod/used", "pod/unsaved", "pod/free")
	kubectl(t, "dst", "-n", ns, "delete", "pod", "unsaved", "free", "--wait=true")
	r := b.request(dst)
	r.OnConflict = restore.ConflictRecreate
	r.AllowRecreate = []string{"persistentvolumeclaims"}
	r.DryRun = restore.DryRunServer
	plan := run(t, r)
	r.DryRun = restore.DryRunNone
	d := run(t, r)
	predicted(t, *plan, *d)
	for name, why := range map[string]string{"used": "in use by pod used", "unsaved": "the backup does not hold its data"} {
		l := line(t, d, "PersistentVolumeClaim", name)
		require.Equal(t, v1alpha1.OutcomeConflict, l.Outcome, pretty(d))
		require.Contains(t, l.Reason, why)
	}
	require.Equal(t, v1alpha1.OutcomeRestored, line(t, d, "PersistentVolumeClaim", "free").Outcome, pretty(d))
	dst.apply(`
apiVersion: v1
kind: Pod
metadata: {name: look, namespace: $NS}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "localhost/busybox:dev", imagePullPolicy: IfNotPresent, command: [sleep, "36000"], volumeMounts: [{name: a, mountPath: /unsaved}, {name: b, mountPath: /free}]}]
  volumes: [{name: a, persistentVolumeClaim: {claimName: unsaved}}, {name: b, persistentVolumeClaim: {claimName: free}}]
`, "$NS", ns)
	ready(t, "dst", ns, "pod/look")
	require.Equal(t, "/free/saved\n/unsaved/live", dst.shell(ns, "look", "find /unsaved /free -type f | sort"))
	require.Equal(t, "used", dst.shell(ns, "used", "cat /v/live"))
}
