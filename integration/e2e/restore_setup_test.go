package e2e

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/restore"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	restoreImage    = "localhost/kubectl-backup:dev"
	restoreBusybox  = "localhost/busybox:dev"
	restorePassword = "a long enough password for tests 17"
)

// place is one cluster, and what a test made in it.
type place struct {
	t *testing.T
	*kube.Cluster
}

// restorePlace connects to one of the test clusters. A test without them fails:
// it has shown nothing.
func restorePlace(t *testing.T, name string) *place {
	t.Helper()
	c, err := kube.New(restConfig(t, name), name)
	require.NoError(t, err)
	return &place{t, c}
}

// word is a name that no other test uses.
func word(t *testing.T, prefix string) string {
	var b [3]byte
	_, err := rand.Read(b[:])
	require.NoError(t, err)
	return prefix + "-" + hex.EncodeToString(b[:])
}

func (p *place) kind(apiVersion, kind string) kube.Kind {
	p.t.Helper()
	group, version := object.SplitAPIVersion(apiVersion)
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	k, err := p.WaitKind(ctx, group, version, kind)
	require.NoError(p.t, err)
	return k
}

// apply creates objects written as YAML documents, with $NAME for names that
// the test made up, and removes them after the test.
func (p *place) apply(text string, names ...string) {
	p.t.Helper()
	text = strings.NewReplacer(names...).Replace(text)
	for _, doc := range strings.Split(text, "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(doc))
		require.NoError(p.t, err, doc)
		p.create(raw, "e2e")
	}
}

func (p *place) create(raw []byte, manager string) *object.Object {
	p.t.Helper()
	o, err := object.Parse(raw)
	require.NoError(p.t, err)
	k := p.kind(apiVersionOf(o.Ref), o.Ref.Kind)
	if !k.Namespaced {
		p.removeAfterwards(k, o.Ref.Name)
	}
	var made *object.Object
	p.eventually(func() (bool, string) {
		made, err = p.Create(p.t.Context(), k, o.Ref.Namespace, raw, kube.WriteOptions{FieldManager: manager})
		return err == nil, fmt.Sprint(err)
	})
	return made
}

func apiVersionOf(r v1alpha1.Ref) string {
	if r.Group == "" {
		return r.Version
	}
	return r.Group + "/" + r.Version
}

// removeAfterwards deletes a cluster-scoped object when the test is over.
func (p *place) removeAfterwards(k kube.Kind, name string) {
	p.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.Delete(ctx, k, "", name, kube.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			p.t.Errorf("clean up %s %s: %s", k, name, err)
		}
	})
}

// claimOfDisk is a namespace with a claim to the volume $DISK, which somebody
// made by hand.
const claimOfDisk = `apiVersion: v1
kind: Namespace
metadata: {name: $NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: books, namespace: $NS}
spec: {storageClassName: "", volumeName: $DISK, accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Mi}}}
`

// awaitPhase waits until a PersistentVolume is Bound, or Released.
func (p *place) awaitPhase(disk, phase string) {
	p.t.Helper()
	p.eventually(func() (bool, string) {
		volume := p.must("v1", "PersistentVolume", "", disk)
		return field(volume, "status", "phase") == phase, fmt.Sprint(volume["status"])
	})
}

// removeNamespace deletes a namespace that the restore makes.
func (p *place) removeNamespace(name string) {
	p.removeAfterwards(p.kind("v1", "Namespace"), name)
}

// eventually waits on a condition; what it last said is in the failure.
func (p *place) eventually(cond func() (bool, string)) {
	p.t.Helper()
	said := ""
	require.Eventually(p.t, func() (ok bool) {
		ok, said = cond()
		return ok
	}, 90*time.Second, 250*time.Millisecond, "last: %s", lastSaid{&said})
}

type lastSaid struct{ s *string }

func (l lastSaid) String() string { return *l.s }

func (p *place) get(apiVersion, kind, namespace, name string) (*object.Object, error) {
	return p.Get(p.t.Context(), p.kind(apiVersion, kind), namespace, name)
}

func (p *place) must(apiVersion, kind, namespace, name string) map[string]any {
	p.t.Helper()
	o, err := p.get(apiVersion, kind, namespace, name)
	require.NoError(p.t, err)
	return contentOf(p.t, o)
}

func contentOf(t *testing.T, o *object.Object) map[string]any {
	t.Helper()
	c, err := o.Content()
	require.NoError(t, err)
	return c
}

// field reads a dotted path; list elements by index; nil where there is none.
func field(o map[string]any, path ...string) any {
	var v any = o
	for _, k := range path {
		switch t := v.(type) {
		case map[string]any:
			v = t[k]
		case []any:
			var n int
			if _, err := fmt.Sscan(k, &n); err != nil || n >= len(t) {
				return nil
			}
			v = t[n]
		default:
			return nil
		}
	}
	return v
}

// backupOf is a backup that a test put together by hand.
type backupOf struct {
	t       *testing.T
	repo    *repository.Repository
	session *repository.Session
	doc     v1alpha1.Document
}

func newBackup(t *testing.T) *backupOf {
	t.Helper()
	ctx := t.Context()
	st, err := remote.Open(ctx, v1alpha1.BackupRemoteSpec{Path: t.TempDir()}, nil)
	require.NoError(t, err)
	require.NoError(t, repository.Initialize(ctx, st, restorePassword))
	repo, err := repository.Open(ctx, st, restorePassword, repository.OpenOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = repo.Close(context.Background()) })
	session, err := repo.NewSession(ctx)
	require.NoError(t, err)
	return &backupOf{t: t, repo: repo, session: session, doc: v1alpha1.Document{
		APIVersion: v1alpha1.APIVersion, Kind: "RunReport", Result: v1alpha1.ResultComplete,
		Groups: []v1alpha1.GroupLine{}, Objects: []v1alpha1.ObjectLine{}, Volumes: []v1alpha1.VolumeLine{},
	}}
}

func (b *backupOf) add(objects ...*object.Object) *backupOf {
	b.t.Helper()
	for _, o := range objects {
		require.NoError(b.t, b.session.AddObject(b.t.Context(), o))
		b.doc.Objects = append(b.doc.Objects, v1alpha1.ObjectLine{Ref: o.Ref, Outcome: v1alpha1.OutcomeSaved})
	}
	return b
}

// addYAML adds objects as an older cluster had sent them.
func (b *backupOf) addYAML(text string, names ...string) *backupOf {
	b.t.Helper()
	for _, doc := range strings.Split(strings.NewReplacer(names...).Replace(text), "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(doc))
		require.NoError(b.t, err, doc)
		o, err := object.Parse(raw)
		require.NoError(b.t, err)
		b.add(o)
	}
	return b
}

// addNamespace adds a namespace and all that is in it, as the server sends it.
func (b *backupOf) addNamespace(p *place, namespaces ...string) *backupOf {
	b.t.Helper()
	ctx := b.t.Context()
	require.NoError(b.t, p.Refresh(ctx))
	kinds, _, err := p.Kinds(ctx)
	require.NoError(b.t, err)
	for _, ns := range namespaces {
		o, err := p.get("v1", "Namespace", "", ns)
		require.NoError(b.t, err)
		b.add(o)
		for _, k := range kinds {
			if !k.Namespaced || !k.Can("list") || !k.Can("create") {
				continue
			}
			_, err := p.List(ctx, k, kube.ListOptions{Namespace: ns}, func(o *object.Object) error {
				b.add(o)
				return nil
			})
			require.NoError(b.t, err)
		}
	}
	return b
}

func (b *backupOf) commit() *repository.Record {
	b.t.Helper()
	ctx := b.t.Context()
	id, err := b.session.Commit(ctx, repository.Record{Started: time.Now(), Cluster: v1alpha1.Cluster{UID: "elsewhere"}, Document: &b.doc})
	require.NoError(b.t, err)
	rec, err := b.repo.Record(ctx, id)
	require.NoError(b.t, err)
	return &rec
}

// restoreRequest restores a backup into a place.
func (b *backupOf) request(p *place) restore.Request {
	return restore.Request{Target: p.Cluster, Repository: b.repo, Record: b.commit(), Image: restoreImage, DryRun: restore.DryRunNone}
}

func run(t *testing.T, r restore.Request) *v1alpha1.Document {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	d, err := restore.Run(ctx, r)
	require.NoError(t, err)
	return d
}

// complete runs a restore that has to bring everything back.
func complete(t *testing.T, r restore.Request) *v1alpha1.Document {
	t.Helper()
	d := run(t, r)
	require.Equal(t, v1alpha1.ResultComplete, d.Result, pretty(d))
	require.Zero(t, d.ExitCode)
	return d
}

func pretty(d *v1alpha1.Document) string {
	raw, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// line finds one object's line.
func line(t *testing.T, d *v1alpha1.Document, kind, name string) v1alpha1.ObjectLine {
	t.Helper()
	at := slices.IndexFunc(d.Objects, func(l v1alpha1.ObjectLine) bool { return l.Ref.Kind == kind && l.Ref.Name == name })
	require.GreaterOrEqual(t, at, 0, "no line for %s %s in %s", kind, name, pretty(d))
	return d.Objects[at]
}
