package repositorytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Password opens the repositories of the suite.
const Password = "correct horse battery staple"

// Place opens a new connection to one and the same, at first empty, storage.
type Place func(t testing.TB) blob.Storage

// Open opens the repository at a place.
func Open(t testing.TB, at Place, o repository.OpenOptions) *repository.Repository {
	t.Helper()
	r, err := repository.Open(t.Context(), at(t), Password, o)
	require.NoError(t, err)
	closed(t, r.Volumes)
	return r
}

// closed closes what was opened once the test is over.
func closed(t testing.TB, v *repository.Volumes) {
	t.Cleanup(func() {
		if err := v.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// Mover opens the volumes of a repository again, with its key, as a mover does.
func Mover(t testing.TB, r *repository.Repository, at Place, o repository.OpenOptions) *repository.Volumes {
	t.Helper()
	key, err := r.Key(t.Context())
	require.NoError(t, err)
	require.NotNil(t, key)
	v, err := repository.OpenVolumes(t.Context(), at(t), key, o)
	require.NoError(t, err)
	closed(t, v)
	return v
}

// Parse makes an object of raw JSON.
func Parse(t testing.TB, raw string) *object.Object {
	t.Helper()
	o, err := object.Parse([]byte(raw))
	require.NoError(t, err)
	return o
}

// Small makes n objects of about a KiB, of which seed changes all.
func Small(t testing.TB, n, seed int) []*object.Object {
	random := rand.New(rand.NewSource(int64(seed)))
	list := make([]*object.Object, n)
	filler := make([]byte, 350)
	for i := range list {
		random.Read(filler)
		list[i] = Parse(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"small-%06d","namespace":"ns-%d","uid":"u-%d"},"data":{"text":"%x"}}`, i, i%7, i, filler))
	}
	return list
}

// Odd are objects that have lost something on their way through other tools.
func Odd(t testing.TB) []*object.Object {
	random := rand.New(rand.NewSource(7))
	text := make([]byte, 3<<20)
	for i := range text {
		text[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[random.Intn(36)]
	}
	var list []*object.Object
	for _, raw := range []string{
		`{"apiVersion":"example.org/v1","kind":"Meter","metadata":{"namespace":"a","name":"numbers"},"spec":{"big":9223372036854775807,"low":-9223372036854775808,"over":18446744073709551615,"float":1.0,"tiny":1e-320,"text":"9007199254740993","zero":-0,"exp":1E3}}`,
		`{"kind":"Meter","apiVersion":"example.org/v1","spec":{"z":null,"a":{},"m":[],"on":"yes","off":"0x1F","date":"2001-01-01","octal":"0777","norway":"NO"},"metadata":{"name":"look-alikes","namespace":"a"}}`,
		`{"apiVersion":"example.org/v1","kind":"Meter","metadata":{"name":"a","namespace":"b-c"},"which":"a in b-c"}`,
		`{"apiVersion":"example.org/v1","kind":"Meter","metadata":{"name":"c-a","namespace":"b"},"which":"c-a in b"}`,
		`{"apiVersion":"example.org/v1","kind":"Meter","metadata":{"name":"html","namespace":"a"},"text":"<&> \u2028 é 😀 \ud83d\ude00 \u0000"}`,
		`{ "apiVersion" : "v1" ,"kind":"ConfigMap","metadata":{"name":"spaces","namespace":"a"}, "data":{"k":"v"} }`,
		`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"system:Oven:Reader"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`,
		`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"system:oven:reader"},"rules":[{"apiGroups":[""],"resources":["nodes"],"verbs":["list"]}]}`,
		`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"a*b?c<d>|\"e 100%2F_.json"},"rules":[]}`,
		`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"` + strings.Repeat("long-", 50) + `x","namespace":"` + strings.Repeat("n", 63) + `"}}`,
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"boards","namespace":"a"},"data":{"all":"` + string(text[:300<<10]) + `"}}`,
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"brimful","namespace":"a","annotations":{"note.example.org/log":"` + string(text[:262000]) + `"}},"data":{"k":"v"}}`,
		`{"apiVersion":"example.org/v1","kind":"Huge","metadata":{"name":"huge"},"data":"` + string(text) + `"}`,
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"same","namespace":"a"}}`,
		`{"apiVersion":"apps.example.org/v1","kind":"Deployment","metadata":{"name":"same","namespace":"a"},"other":"group"}`,
	} {
		list = append(list, Parse(t, raw))
	}
	return list
}

// Report makes the report of a run that saved objects.
func Report(objects []*object.Object, volumes ...v1alpha1.VolumeLine) *v1alpha1.Document {
	d := &v1alpha1.Document{
		APIVersion: v1alpha1.APIVersion, Kind: "RunReport", Result: v1alpha1.ResultComplete, Policy: "gold",
		Groups: []v1alpha1.GroupLine{}, Objects: []v1alpha1.ObjectLine{}, Volumes: []v1alpha1.VolumeLine{},
	}
	for _, o := range objects {
		d.Objects = append(d.Objects, v1alpha1.ObjectLine{Ref: o.Ref, Outcome: v1alpha1.OutcomeSaved, Reason: "selected by <gold>"})
	}
	d.Volumes = append(d.Volumes, volumes...)
	return d
}

// Backup commits a backup of objects, in the order in which they are given.
func Backup(t testing.TB, r *repository.Repository, rec repository.Record, objects []*object.Object) (id string, stored int64) {
	t.Helper()
	s, err := r.NewSession(t.Context())
	require.NoError(t, err)
	for _, o := range objects {
		require.NoError(t, s.AddObject(t.Context(), o))
	}
	if rec.Document == nil {
		rec.Document = Report(objects)
	}
	rec.Started = time.Now()
	id, err = s.Commit(t.Context(), rec)
	require.NoError(t, err)
	return id, s.Stored()
}

// RequireObjects compares what a backup holds with objects, byte by byte.
func RequireObjects(t testing.TB, r *repository.Repository, rec repository.Record, objects []*object.Object) {
	t.Helper()
	want := map[v1alpha1.Ref][]byte{}
	for _, o := range objects {
		want[o.Ref] = o.Raw
	}
	err := r.ObjectsOf(t.Context(), rec, nil, func(o *object.Object) error {
		if !bytes.Equal(want[o.Ref], o.Raw) {
			t.Errorf("%s came back as\n%.300s\nnot as\n%.300s", o.Ref, o.Raw, want[o.Ref])
		}
		delete(want, o.Ref)
		return nil
	})
	require.NoError(t, err)
	for ref := range want {
		t.Errorf("%s did not come back", ref)
	}
}

// files of a volume whose names no remote would take.
var files = []struct{ name, content string }{
	{" lead", "1"}, {"-rf", "2"}, {"\x01\x02", "3"}, {"\xff\xfe", "4"}, {"a:b*c?d", "5"}, {"back\\slash", "6"},
	{"caf\xc3\xa9.txt", "7"}, {"caf\xe9.txt", "8"}, {"con", "9"}, {"ends ", "10"}, {"ends.", "11"}, {"line\nbreak", "12"},
	{strings.Repeat("n", 255), "13"}, {"UPPER", "14"}, {"upper", "15"}, {"%2e%2e", "16"}, {"...", "17"}, {"large", strings.Repeat("0123456789abcdef", 400000)},
}

// Stream is a volume stream with odd names, whole or cut short.
func Stream(t testing.TB, cut bool) *volume.Decoder {
	var out bytes.Buffer
	e := volume.NewEncoder(&out)
	require.NoError(t, e.Entry(&volume.Entry{Type: volume.Dir, Mode: 0o1777, UID: 70000, ModTime: time.Unix(-5, 3)}))
	for _, f := range files {
		require.NoError(t, e.Entry(&volume.Entry{Path: f.name, Type: volume.File, Mode: 0o4755, Size: int64(len(f.content)), ModTime: time.Unix(1, 2)}))
		for rest := []byte(f.content); len(rest) > 0; {
			n := min(len(rest), 200<<10)
			require.NoError(t, e.Data(rest[:n]))
			rest = rest[n:]
		}
		require.NoError(t, e.End(volume.OK, ""))
	}
	require.NoError(t, e.Close())
	if cut {
		out.Truncate(out.Len() - 20)
	}
	return volume.NewDecoder(&out)
}

// RequireStream reads a volume back and compares it with Stream.
func RequireStream(t testing.TB, r *repository.Repository, rec repository.Record, snapshot string) {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, r.ReadVolume(t.Context(), rec, snapshot, "", volume.NewEncoder(&out)))
	d := volume.NewDecoder(&out)
	got := map[string]string{}
	for {
		e, err := d.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if e.Type != volume.File {
			continue
		}
		var content strings.Builder
		for {
			run, err := d.Run()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			content.Write(run.Data)
		}
		got[e.Path] = content.String()
	}
	for _, f := range files {
		if got[f.name] != f.content {
			t.Errorf("file %q came back with %d bytes of %d", f.name, len(got[f.name]), len(f.content))
		}
	}
	require.Len(t, got, len(files))
}

// Claim is a line for a volume of a claim.
func Claim(namespace, name string) v1alpha1.VolumeLine {
	return v1alpha1.VolumeLine{
		Ref:     v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: namespace, Name: name},
		Outcome: v1alpha1.OutcomeSaved, VolumeKind: "persistentVolumeClaim",
	}
}

// Verify runs Verify and returns the lines that failed.
func Verify(t testing.TB, r *repository.Repository, rec repository.Record) (failed []string, err error) {
	t.Helper()
	err = r.Verify(t.Context(), rec,
		func(l v1alpha1.ObjectLine) {
			if l.Outcome != v1alpha1.OutcomeVerified {
				failed = append(failed, l.Ref.String()+": "+l.Reason)
			}
		},
		func(l v1alpha1.VolumeLine) {
			if l.Outcome != v1alpha1.OutcomeVerified {
				failed = append(failed, l.Ref.String()+": "+l.Reason)
			}
		})
	return failed, err
}

// Run is the suite. It has to pass on every remote; place makes a new, empty
// one each time.
func Run(t *testing.T, place func(t *testing.T) Place) {
	at := place(t)
	ctx := t.Context()

	_, err := repository.Open(ctx, at(t), Password, repository.OpenOptions{})
	require.ErrorIs(t, err, repository.ErrNoRepository)
	require.NoError(t, repository.Initialize(ctx, at(t), Password))
	require.ErrorIs(t, repository.Initialize(ctx, at(t), Password), repository.ErrExists)
	_, err = repository.Open(ctx, at(t), Password+"x", repository.OpenOptions{})
	require.ErrorIs(t, err, repository.ErrWrongKey)
	require.NotContains(t, err.Error(), Password)

	first := Open(t, at, repository.OpenOptions{})
	_, err = first.Latest(ctx, nil)
	require.ErrorIs(t, err, repository.ErrNoRecord)

	odd := Odd(t)
	s, err := first.NewSession(ctx)
	require.NoError(t, err)
	for i := range odd { // the order must not matter
		require.NoError(t, s.AddObject(ctx, odd[len(odd)-1-i]))
	}
	_, err = s.WriteVolume(ctx, Claim("a", "cut"), Stream(t, true))
	require.ErrorIs(t, err, volume.ErrTruncated)
	line := Claim("a", "data")
	v, err := s.WriteVolume(ctx, line, Stream(t, false))
	require.NoError(t, err)
	require.EqualValues(t, len(files), v.Files)
	require.Positive(t, v.Stored)
	line.Snapshot = v.Snapshot
	report := Report(odd, line)
	idA, err := s.Commit(ctx, repository.Record{
		Started: time.Now(), Policy: "gold/prod: all", Cluster: v1alpha1.Cluster{UID: "cluster-a", Version: "v1.37.2"},
		Labels: map[string]string{"tier": "gold"}, ToolVersion: "v0", Document: report,
		Source: &v1alpha1.Provenance{Source: "git", Commit: "0123abcd"},
	})
	require.NoError(t, err)

	// Another process, another cluster, the same names.
	second := Open(t, at, repository.OpenOptions{})
	other := []*object.Object{Parse(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"spaces","namespace":"a"},"data":{"cluster":"B"}}`)}
	idB, _ := Backup(t, second, repository.Record{Cluster: v1alpha1.Cluster{UID: "cluster-b"}}, other)

	reader := Open(t, at, repository.OpenOptions{ReadOnly: true})
	var ids []string
	require.NoError(t, reader.Records(ctx, func(rec repository.Record) error {
		require.Empty(t, rec.Damaged)
		require.Empty(t, rec.Warnings)
		ids = append(ids, rec.ID)
		return nil
	}))
	require.Equal(t, []string{idA, idB}, ids)
	recA, err := reader.Latest(ctx, func(rec repository.Record) bool { return rec.Cluster.UID == "cluster-a" })
	require.NoError(t, err)
	require.Equal(t, idA, recA.ID)
	require.Equal(t, "gold/prod: all", recA.Policy)
	require.Equal(t, "0123abcd", recA.Source.Commit)
	require.Equal(t, len(odd), recA.Objects)
	require.Len(t, recA.Volumes, 1)

	RequireObjects(t, reader, recA, odd)
	RequireStream(t, reader, recA, v.Snapshot)
	d, err := reader.Document(ctx, recA)
	require.NoError(t, err)
	report.Backup = idA
	requireSameJSON(t, report, d)
	o, err := reader.Object(ctx, recA, odd[6].Ref)
	require.NoError(t, err)
	require.Equal(t, odd[6].Raw, o.Raw)
	_, err = reader.Object(ctx, recA, v1alpha1.Ref{Kind: "Pod", Name: "none"})
	require.ErrorContains(t, err, "not in backup")
	require.NoError(t, reader.Check(ctx, recA))
	failed, err := Verify(t, reader, recA)
	require.NoError(t, err)
	require.Empty(t, failed)

	// Nothing changed: next to nothing is added.
	s, err = second.NewSession(ctx)
	require.NoError(t, err)
	for _, o := range odd {
		require.NoError(t, s.AddObject(ctx, o))
	}
	v, err = s.WriteVolume(ctx, line, Stream(t, false))
	require.NoError(t, err)
	require.Equal(t, line.Snapshot, v.Snapshot)
	idC, err := s.Commit(ctx, repository.Record{Started: time.Now(), Document: Report(odd, line), Cluster: v1alpha1.Cluster{UID: "cluster-a"}})
	require.NoError(t, err)
	require.Less(t, s.Stored(), int64(64<<10))

	// An aborted one is nowhere.
	s, err = second.NewSession(ctx)
	require.NoError(t, err)
	require.NoError(t, s.AddObject(ctx, odd[0]))
	require.NoError(t, s.Abort(ctx))

	// Deleting one leaves the others whole.
	warnings, err := second.Delete(ctx, idA)
	require.NoError(t, err)
	require.Empty(t, warnings)
	last := Open(t, at, repository.OpenOptions{})
	_, err = last.Record(ctx, idA)
	require.ErrorIs(t, err, repository.ErrNoRecord)
	for _, id := range []string{idB, idC} {
		rec, err := last.Record(ctx, id)
		require.NoError(t, err)
		require.NoError(t, last.Check(ctx, rec))
		failed, err := Verify(t, last, rec)
		require.NoError(t, err)
		require.Empty(t, failed)
	}
}

func requireSameJSON(t testing.TB, want, got any) {
	t.Helper()
	a, err := json.Marshal(want)
	require.NoError(t, err)
	b, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, string(a), string(b))
}
