package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
	"github.com/kubectl-backup/kubectl-backup/integration/objectstore"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// moved are the volumes that movers are measured with.
var moved = []tree{
	{"8 files of 512 MiB", 8, 8, 512 << 20},
	{"200000 files of 4 KiB", 200_000, 1000, 4 << 10},
}

// moverMiB is what a mover should not need, however many files there are.
const moverMiB = 512

// carrier is a program that stores a folder and puts it back.
type carrier interface {
	// create makes a new, empty repository.
	create(ctx context.Context) error
	store(ctx context.Context, folder string) (usage, error)
	restore(ctx context.Context, folder, into string) (usage, error)
}

// steps are what is measured, in order.
var steps = []string{"first backup", "unchanged", "1 % changed", "restore"}

// again is how often in a turn a step is taken that is over in a moment, and
// that another time finds as it was.
var again = map[string]int{"unchanged": 5}

// movers compares the program that runs in a mover's Job with the stock kopia
// and restic programs, all with their own defaults, on the same files: what
// each stores, and what it reads back, on a local folder and on an S3 server
// on this machine.
func (b *bench) movers(ctx context.Context, _ *cluster.Cluster) error {
	server, err := objectstore.Start(filepath.Join(b.scratch, "s3"), "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer server.Close()
	for n, t := range moved {
		if t.size > 1<<20 {
			t.size /= b.scale
		} else {
			t.files /= b.scale
		}
		for _, remote := range []string{"local", "S3"} {
			m := &moverBench{bench: b, tree: t, folder: filepath.Join(b.scratch, fmt.Sprintf("volume-%d-%s", n, remote)), remote: remote, server: server}
			if err := m.run(ctx); err != nil {
				return fmt.Errorf("%s, %s: %w", t.name, remote, err)
			}
		}
	}
	return nil
}

type moverBench struct {
	*bench
	tree   tree
	folder string
	remote string
	server *objectstore.Server
}

func (m *moverBench) run(ctx context.Context) error {
	taken := map[string]map[string][]usage{} // by step and program
	for n := range min(m.runs, 2) {
		say("run %d: %s, %s", n+1, m.tree.name, m.remote)
		if err := os.RemoveAll(m.folder); err != nil {
			return err
		}
		if err := m.tree.fill(m.folder, 1); err != nil {
			return err
		}
		if err := m.turn(ctx, n, taken); err != nil {
			return err
		}
		if m.remote != "local" {
			break // the server's work is most of it, and the same for all
		}
	}
	if err := os.RemoveAll(m.folder); err != nil {
		return err
	}
	for _, step := range steps {
		var pairs, memory []pair
		var seconds []string
		for n, ours := range taken[step]["ours"] {
			theirs := min(taken[step]["kopia"][n].seconds, taken[step]["restic"][n].seconds)
			pairs = append(pairs, pair{ours.seconds, theirs})
			memory = append(memory, pair{ours.peakMiB, moverMiB})
			for _, name := range []string{"ours", "kopia", "restic"} {
				u := taken[step][name][n]
				seconds = append(seconds, fmt.Sprintf("%s %.2f s, %.2f s of processors, %.0f MiB", name, u.seconds, u.cpu, u.peakMiB))
			}
		}
		say("%s", strings.Join(seconds, "; "))
		of := fmt.Sprintf("mover: %s, %s, %s", step, m.tree.name, m.remote)
		m.results.add(of, "the faster of kopia and restic", "seconds / seconds", atLeast(1), pairs, faster, "%.2f s, the faster other %.2f s")
		if m.remote == "local" {
			m.results.add("memory of "+of, fmt.Sprintf("%d MiB", moverMiB), "peak resident bytes / bytes", atMost(1), memory, share, "%.0f MiB of %.0f MiB")
		}
	}
	return nil
}

// turn takes every step with every program, one program after the other within
// a step, and another one first in each turn.
func (m *moverBench) turn(ctx context.Context, turn int, taken map[string]map[string][]usage) (err error) {
	dir := filepath.Join(m.scratch, "movers")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	programs := m.programs(dir, turn)
	names := []string{"ours", "kopia", "restic"}
	names = append(names[turn%3:], names[:turn%3]...)
	for _, name := range names {
		if err := programs[name].create(ctx); err != nil {
			return err
		}
	}
	for _, step := range steps {
		if taken[step] == nil {
			taken[step] = map[string][]usage{}
		}
		if step == "1 % changed" {
			if err := m.tree.change(m.folder); err != nil {
				return err
			}
		}
		for range max(1, again[step]) {
			for _, name := range names {
				u, err := m.take(ctx, step, name, programs[name], dir)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", name, step, err)
				}
				taken[step][name] = append(taken[step][name], u)
			}
		}
	}
	return nil
}

// take takes a step with one program.
func (m *moverBench) take(ctx context.Context, step, name string, program carrier, dir string) (usage, error) {
	if step != "restore" {
		return program.store(ctx, m.folder)
	}
	into := filepath.Join(dir, "back")
	if err := os.MkdirAll(into, 0o755); err != nil {
		return usage{}, err
	}
	u, err := program.restore(ctx, m.folder, into)
	if err == nil {
		err = m.came(into, name)
	}
	if err == nil {
		err = os.RemoveAll(into)
	}
	return u, err
}

// came makes sure that a restore was one.
func (m *moverBench) came(into, name string) error {
	got, err := folderSize(into)
	if err == nil && got != int64(m.tree.files)*int64(m.tree.size) {
		err = fmt.Errorf("%s restored %d bytes", name, got)
	}
	return err
}

// change writes one percent of the bytes anew: of few files a stretch in each,
// of many every hundredth.
func (t *tree) change(folder string) error {
	random := rand.NewChaCha8([32]byte{100})
	share, every := t.size/100, 1
	if t.files > 100 {
		share, every = t.size, 100
	}
	content := make([]byte, share)
	for n := 0; n < t.files; n += every {
		if _, err := random.Read(content); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(folder, fmt.Sprintf("folder-%03d", n/t.folder), fmt.Sprintf("file-%06d", n)), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(content, int64(t.size-share)/2)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (m *moverBench) programs(dir string, turn int) map[string]carrier {
	spec := func(name string) v1alpha1.BackupRemoteSpec {
		if m.remote == "local" {
			return v1alpha1.BackupRemoteSpec{Path: filepath.Join(dir, name)}
		}
		return m.server.Spec(fmt.Sprintf("%s-%d-%d", name, m.tree.files, turn))
	}
	bin := func(name string) string { return filepath.Join(m.root, "bin", name) }
	return map[string]carrier{
		"ours":   &ourMover{bin("kubectl-backup"), filepath.Join(dir, "ours-task"), spec("ours"), nil, nil},
		"kopia":  &kopiaProgram{bin("kopia"), filepath.Join(dir, "kopia-home"), spec("kopia")},
		"restic": &resticProgram{bin("restic"), filepath.Join(dir, "restic-home"), spec("restic")},
	}
}

func called(cmd *exec.Cmd) (usage, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	u, err := measure(cmd)
	if err != nil {
		return u, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(out.Bytes()))
	}
	return u, nil
}

// ourMover is the program of a mover's Job, with a task that the plugin would
// give it. What the run does once for all its Jobs is not counted: it derives
// the key of the repository.
type ourMover struct {
	binary, dir string
	remote      v1alpha1.BackupRemoteSpec
	key         json.RawMessage
	part        json.RawMessage // what was stored last
}

func (o *ourMover) create(ctx context.Context) error {
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	text, err := remoteDocument("bench", o.remote)
	if err != nil {
		return err
	}
	file := filepath.Join(o.dir, "remote.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	if err := (plugin{binary: o.binary}).init(ctx, "-f", file, "--remote", "bench"); err != nil {
		return err
	}
	storage, err := remote.Open(ctx, o.remote, nil)
	if err != nil {
		return err
	}
	repo, err := repository.Open(ctx, storage, password, repository.OpenOptions{ReadOnly: true})
	if err != nil {
		return errors.Join(err, storage.Close(ctx))
	}
	o.key, err = repo.Key(ctx)
	return errors.Join(err, repo.Close(ctx))
}

func (o *ourMover) do(ctx context.Context, folder string, task mover.Task) (usage, error) {
	task.Remote, task.Key = o.remote, o.key
	task.Volume.Ref = v1alpha1.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: "bench", Name: "data"}
	raw, err := json.Marshal(task)
	if err != nil {
		return usage{}, err
	}
	file, report := filepath.Join(o.dir, "task.json"), filepath.Join(o.dir, "report")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return usage{}, err
	}
	u, err := called(exec.CommandContext(ctx, o.binary, "mover", "task", "--file", file, "--report", report, "--root", folder))
	if err != nil {
		return u, err
	}
	if raw, err = os.ReadFile(report); err != nil {
		return u, err
	}
	var result mover.Result
	if err := json.Unmarshal(raw, &result); err != nil {
		return u, fmt.Errorf("report of the mover: %w", err)
	}
	if task.Direction == mover.Capture {
		o.part = result.Part
	}
	return u, nil
}

func (o *ourMover) store(ctx context.Context, folder string) (usage, error) {
	return o.do(ctx, folder, mover.Task{Direction: mover.Capture, Previous: o.part})
}

func (o *ourMover) restore(ctx context.Context, _, into string) (usage, error) {
	return o.do(ctx, into, mover.Task{Direction: mover.Restore, Part: o.part})
}

// kopiaProgram is the stock kopia program.
type kopiaProgram struct {
	binary, home string
	remote       v1alpha1.BackupRemoteSpec
}

func (k *kopiaProgram) call(ctx context.Context, args ...string) (usage, error) {
	if err := os.MkdirAll(k.home, 0o700); err != nil {
		return usage{}, err
	}
	cmd := exec.CommandContext(ctx, k.binary, append(args, "--config-file", filepath.Join(k.home, "config"), "--log-dir", filepath.Join(k.home, "logs"), "--no-progress")...)
	cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+password, "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+k.home)
	return called(cmd)
}

func (k *kopiaProgram) create(ctx context.Context) error {
	args := []string{"repository", "create", "filesystem", "--path", k.remote.Path}
	if s3 := k.remote.Config["store"]; s3 != nil {
		bucket, prefix, _ := strings.Cut(strings.TrimPrefix(k.remote.Path, "store:"), "/")
		args = []string{
			"repository", "create", "s3", "--bucket", bucket, "--prefix", prefix + "/", "--endpoint", strings.TrimPrefix(s3["endpoint"], "http://"), "--disable-tls",
			"--region", s3["region"], "--access-key", s3["access_key_id"], "--secret-access-key", s3["secret_access_key"],
		}
	} else if err := os.MkdirAll(k.remote.Path, 0o755); err != nil {
		return err
	}
	_, err := k.call(ctx, append(args, "--cache-directory", filepath.Join(k.home, "cache"))...)
	return err
}

func (k *kopiaProgram) store(ctx context.Context, folder string) (usage, error) {
	return k.call(ctx, "snapshot", "create", folder)
}

func (k *kopiaProgram) restore(ctx context.Context, folder, into string) (usage, error) {
	return k.call(ctx, "restore", folder, into)
}

// resticProgram is the stock restic program.
type resticProgram struct {
	binary, home string
	remote       v1alpha1.BackupRemoteSpec
}

func (r *resticProgram) call(ctx context.Context, args ...string) (usage, error) {
	if err := os.MkdirAll(r.home, 0o700); err != nil {
		return usage{}, err
	}
	cmd := exec.CommandContext(ctx, r.binary, append(args, "--quiet", "--cache-dir", filepath.Join(r.home, "cache"))...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+password, "RESTIC_REPOSITORY="+r.remote.Path, "HOME="+r.home)
	if s3 := r.remote.Config["store"]; s3 != nil {
		cmd.Env = append(cmd.Env, "RESTIC_REPOSITORY=s3:"+s3["endpoint"]+"/"+strings.TrimPrefix(r.remote.Path, "store:"),
			"AWS_ACCESS_KEY_ID="+s3["access_key_id"], "AWS_SECRET_ACCESS_KEY="+s3["secret_access_key"], "AWS_DEFAULT_REGION="+s3["region"])
	}
	return called(cmd)
}

func (r *resticProgram) create(ctx context.Context) error {
	_, err := r.call(ctx, "init")
	return err
}

func (r *resticProgram) store(ctx context.Context, folder string) (usage, error) {
	return r.call(ctx, "backup", folder)
}

func (r *resticProgram) restore(ctx context.Context, folder, into string) (usage, error) {
	// Below the folder that was stored, as the others put it.
	return r.call(ctx, "restore", "latest:"+folder, "--target", into)
}
