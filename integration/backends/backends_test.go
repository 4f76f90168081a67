// Package backends runs the repository against real servers and against the
// stock kopia program. It needs bin/rclone and bin/kopia (make tools), and no
// cluster.
package backends

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/rclone/rclone/fs/config/obscure"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	serverUser   = "operator"
	serverSecret = "secret-of-the-server"
)

func root(t testing.TB) string {
	t.Helper()
	dir, err := cluster.RepositoryRoot()
	require.NoError(t, err)
	return dir
}

// serve starts one of rclone's servers over a folder and returns its address.
func serve(t *testing.T, kind, folder string, args ...string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address = l.Addr().String()
	require.NoError(t, l.Close())
	home := t.TempDir()
	server := exec.Command(filepath.Join(root(t), "bin", "rclone"), append([]string{"serve", kind, folder, "--addr", address}, args...)...)
	server.Env = []string{"HOME=" + home, "RCLONE_CONFIG=", "PATH=" + os.Getenv("PATH")}
	var output bytes.Buffer
	server.Stdout, server.Stderr = &output, &output
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		if err := server.Process.Kill(); err != nil {
			t.Errorf("end the server: %v", err)
		}
		_ = server.Wait() // it was killed
		if t.Failed() {
			t.Logf("%s server said:\n%s", kind, output.String())
		}
	})
	require.Eventually(t, func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		return err == nil && c.Close() == nil
	}, time.Minute, 20*time.Millisecond, "%s server listens at %s", kind, address)
	return address
}

func s3Remote(address, key string) v1alpha1.BackupRemoteSpec {
	return v1alpha1.BackupRemoteSpec{Path: "store:backups/prod", Config: map[string]map[string]string{"store": {
		"type": "s3", "provider": "Rclone", "endpoint": "http://" + address, "region": "us-east-1",
		"access_key_id": serverUser, "secret_access_key": key,
	}}}
}

func sftpRemote(address string) v1alpha1.BackupRemoteSpec {
	host, port, _ := net.SplitHostPort(address)
	return v1alpha1.BackupRemoteSpec{Path: "store:backups/prod", Config: map[string]map[string]string{"store": {
		"type": "sftp", "host": host, "port": port, "user": serverUser, "pass": obscure.MustObscure(serverSecret), "shell_type": "none",
	}}}
}

func webdavRemote(address string) v1alpha1.BackupRemoteSpec {
	return v1alpha1.BackupRemoteSpec{Path: "store:backups/prod", Config: map[string]map[string]string{"store": {
		"type": "webdav", "url": "http://" + address, "vendor": "rclone", "user": serverUser, "pass": obscure.MustObscure(serverSecret),
	}}}
}

// remotes starts a server of each kind.
func remotes(t *testing.T) map[string]v1alpha1.BackupRemoteSpec {
	vault := s3Remote(serve(t, "s3", t.TempDir(), "--auth-key", serverUser+","+serverSecret), serverSecret)
	vault.Path = "vault:prod"
	vault.Config["vault"] = map[string]string{"type": "crypt", "remote": "store:backups", "password": obscure.MustObscure("another secret")}
	return map[string]v1alpha1.BackupRemoteSpec{
		"s3":            s3Remote(serve(t, "s3", t.TempDir(), "--auth-key", serverUser+","+serverSecret), serverSecret),
		"sftp":          sftpRemote(serve(t, "sftp", t.TempDir(), "--user", serverUser, "--pass", serverSecret)),
		"webdav":        webdavRemote(serve(t, "webdav", t.TempDir(), "--user", serverUser, "--pass", serverSecret)),
		"crypt over s3": vault,
	}
}

func connect(t testing.TB, spec v1alpha1.BackupRemoteSpec) blob.Storage {
	t.Helper()
	st, err := remote.Open(context.WithoutCancel(t.Context()), spec, nil)
	require.NoError(t, err)
	t.Cleanup(func() { st.Close(context.Background()) })
	return st
}

// TestRepositoryOnServers runs the suite over real protocols.
func TestRepositoryOnServers(t *testing.T) {
	for name, spec := range remotes(t) {
		t.Run(name, func(t *testing.T) {
			repositorytest.Run(t, func(*testing.T) repositorytest.Place {
				return func(t testing.TB) blob.Storage { return connect(t, spec) }
			})
		})
	}
}

// TestServersThatRefuse: a wrong secret and a server that is not there are one
// error each, soon, and without the secret.
func TestServersThatRefuse(t *testing.T) {
	const wrong = "not-the-secret-of-the-server"
	gone := "127.0.0.1:1"
	for name, spec := range map[string]v1alpha1.BackupRemoteSpec{
		"s3, wrong key": s3Remote(serve(t, "s3", t.TempDir(), "--auth-key", serverUser+","+serverSecret), wrong),
		"s3, gone":      s3Remote(gone, wrong),
		"sftp, gone":    sftpRemote(gone),
		"webdav, gone":  webdavRemote(gone),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			started := time.Now()
			st, err := remote.Open(t.Context(), spec, nil)
			if err == nil {
				defer st.Close(t.Context())
				_, err = repository.Open(t.Context(), st, repositorytest.Password, repository.OpenOptions{})
			}
			require.Error(t, err)
			require.NotErrorIs(t, err, repository.ErrNoRepository)
			require.NotContains(t, err.Error(), wrong)
			require.NotContains(t, err.Error(), serverSecret)
			require.Less(t, time.Since(started), time.Minute)
		})
	}
}

// TestStockKopiaOpensOurs: the kopia program, knowing nothing of us, connects
// to a local repository, verifies it, lists the snapshots and restores both
// the files of a volume and the objects.
func TestStockKopiaOpensOurs(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	place := func(t testing.TB) blob.Storage { return connect(t, v1alpha1.BackupRemoteSpec{Path: dir}) }
	require.NoError(t, repository.Initialize(t.Context(), place(t), repositorytest.Password))
	r := repositorytest.Open(t, place, repository.OpenOptions{})
	odd := repositorytest.Odd(t)
	s, err := r.NewSession(t.Context())
	require.NoError(t, err)
	for _, o := range odd {
		require.NoError(t, s.AddObject(t.Context(), o))
	}
	line := repositorytest.Claim("shop", "data-db-0")
	v, err := s.WriteVolume(t.Context(), line, repositorytest.Stream(t, false))
	require.NoError(t, err)
	line.Snapshot = v.Snapshot
	id, err := s.Commit(t.Context(), repository.Record{Started: time.Now(), Policy: "gold", Cluster: v1alpha1.Cluster{UID: "uid-of-cluster"}, Document: repositorytest.Report(odd, line)})
	require.NoError(t, err)
	rec, err := r.Record(t.Context(), id)
	require.NoError(t, err)

	kopia := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(root(t), "bin", "kopia"), args...)
		cmd.Env = []string{"HOME=" + home, "KOPIA_PASSWORD=" + repositorytest.Password, "KOPIA_CHECK_FOR_UPDATES=false", "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "kopia %s\n%s", strings.Join(args, " "), out)
		return string(out)
	}
	kopia("repository", "connect", "filesystem", "--path", dir)
	list := kopia("snapshot", "list", "--all", "--tags", "backup:"+id)
	require.Contains(t, list, "/volumes/shop/data-db-0")
	require.Contains(t, list, "/objects/gold")
	require.Contains(t, list, "uid-of-cluster")
	kopia("snapshot", "verify", "--verify-files-percent=100")

	files := filepath.Join(t.TempDir(), "files")
	kopia("snapshot", "restore", v.Snapshot, files)
	content, err := os.ReadFile(filepath.Join(files, "large"))
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("0123456789abcdef", 400000), string(content))

	// Objects come as files; only names that no disk can hold are in the way.
	objects := filepath.Join(t.TempDir(), "objects")
	kopia("snapshot", "restore", rec.Tree+"/objects/ClusterRole.rbac.authorization.k8s.io", objects)
	for _, o := range odd {
		if o.Ref.Kind != "ClusterRole" || strings.Contains(o.Ref.Name, "%") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(objects, "_"+o.Ref.Name+".json"))
		require.NoError(t, err)
		require.Equal(t, string(o.Raw), string(content))
	}

	// Kopia's own maintenance keeps what backups need.
	kopia("maintenance", "set", "--owner=me")
	kopia("maintenance", "run", "--full", "--safety=none")
	after := repositorytest.Open(t, place, repository.OpenOptions{})
	rec, err = after.Record(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, after.Check(t.Context(), rec))
	failed, err := repositorytest.Verify(t, after, rec)
	require.NoError(t, err)
	require.Empty(t, failed)
}

// TestFullDisk fills a real file system in mid-run: one error, no backup, and
// the next run succeeds once there is room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	place := func(t testing.TB) blob.Storage { return connect(t, v1alpha1.BackupRemoteSpec{Path: dir}) }
	require.NoError(t, repository.Initialize(t.Context(), place(t), repositorytest.Password))
	r, err := repository.Open(t.Context(), place(t), repositorytest.Password, repository.OpenOptions{})
	require.NoError(t, err)
	s, err := r.NewSession(t.Context())
	require.NoError(t, err)
	for _, o := range repositorytest.Small(t, 10000, 1) {
		if err = s.AddObject(t.Context(), o); err != nil {
			break
		}
	}
	if err == nil {
		_, err = s.Commit(t.Context(), repository.Record{})
	} else {
		require.NoError(t, s.Abort(t.Context()))
	}
	require.ErrorIs(t, err, repository.ErrStorage)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Less(t, len(err.Error()), 400, "one clear error")
	require.NoError(t, r.Close(t.Context()))

	out, err = exec.Command("mount", "-o", "remount,size=64m", dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	r2 := repositorytest.Open(t, place, repository.OpenOptions{})
	t.Cleanup(func() { require.NoError(t, r2.Close(context.Background())) })
	_, err = r2.Latest(t.Context(), nil)
	require.ErrorIs(t, err, repository.ErrNoRecord)
	objects := repositorytest.Small(t, 10000, 1)
	id, _ := repositorytest.Backup(t, r2, repository.Record{}, objects)
	rec, err := r2.Record(t.Context(), id)
	require.NoError(t, err)
	repositorytest.RequireObjects(t, r2, rec, objects)
	leftovers := fmt.Sprintf("%s/*.tmp.*", dir)
	left, err := filepath.Glob(leftovers)
	require.NoError(t, err)
	require.Empty(t, left, "what did not fit is removed")
}
