//go:build linux

package repository_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository/repositorytest"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// BenchmarkTreeAgainstKopia stores and restores the same files with the stock
// kopia program and with us, in turns, in memory, and reports how many times
// as fast we are. KOPIA names the program.
func BenchmarkTreeAgainstKopia(b *testing.B) {
	program := kopiaProgram(b)
	noise := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{1})
	shapes := map[string]func(src string){
		"one-file": func(src string) {
			f, err := os.Create(src + "/data")
			require.NoError(b, err)
			for range 1 << 9 {
				random.Read(noise)
				_, err := f.Write(noise)
				require.NoError(b, err)
			}
			require.NoError(b, f.Close())
		},
		"small-files": func(src string) {
			for i := range 100_000 {
				if i%1000 == 0 {
					require.NoError(b, os.Mkdir(fmt.Sprintf("%s/%02d", src, i/1000), 0o755))
				}
				random.Read(noise[:2000])
				require.NoError(b, os.WriteFile(fmt.Sprintf("%s/%02d/%03d", src, i/1000, i%1000), noise[:2000], 0o644))
			}
		},
	}
	for name, build := range shapes {
		b.Run(name, func(b *testing.B) {
			src, work := volumetest.Tmpfs(b), volumetest.Tmpfs(b)
			build(src)
			best := map[string]time.Duration{}
			timed := func(name string, f func()) {
				begun, used := time.Now(), cpu(b)
				f()
				for name, d := range map[string]time.Duration{name: time.Since(begun), name + "-cpu": cpu(b) - used} {
					if old, ok := best[name]; !ok || d < old {
						best[name] = d
					}
				}
			}
			for b.Loop() {
				theirs(b, program, src, work, timed)
				ours(b, src, work, timed)
			}
			b.Log(best)
			// On a machine that does other things as well, the time of the
			// processors says more than that of the clock.
			for _, unit := range []string{"", "-cpu"} {
				b.ReportMetric(best["kopia create"+unit].Seconds()/best["save"+unit].Seconds(), "store"+unit+"-ratio")
				b.ReportMetric(best["kopia again"+unit].Seconds()/best["again"+unit].Seconds(), "again"+unit+"-ratio")
				b.ReportMetric(best["kopia restore"+unit].Seconds()/best["restore"+unit].Seconds(), "restore"+unit+"-ratio")
			}
		})
	}
}

// cpu is the time of the processors that this process and the programs that
// it waited for have used.
func cpu(b *testing.B) time.Duration {
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		require.NoError(b, unix.Getrusage(who, &r))
		sum += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return sum
}

func theirs(b *testing.B, program, src, work string, timed func(string, func())) {
	dir, err := os.MkdirTemp(work, "theirs")
	require.NoError(b, err)
	defer os.RemoveAll(dir)
	require.NoError(b, os.Mkdir(dir+"/repo", 0o700))
	run := func(args ...string) {
		cmd := exec.Command(program, append(args, "--config-file", dir+"/config", "--no-progress", "--log-level=error", "--disable-file-logging")...)
		cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+treePassword, "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+dir, "KOPIA_CACHE_DIRECTORY="+dir+"/cache")
		out, err := cmd.CombinedOutput()
		require.NoError(b, err, string(out))
	}
	run("repository", "create", "filesystem", "--path", dir+"/repo")
	timed("kopia create", func() { run("snapshot", "create", src) })
	timed("kopia again", func() { run("snapshot", "create", src) })
	timed("kopia restore", func() { run("restore", src, dir+"/back") })
}

func ours(b *testing.B, src, work string, timed func(string, func())) {
	dir, err := os.MkdirTemp(work, "ours")
	require.NoError(b, err)
	defer os.RemoveAll(dir)
	require.NoError(b, os.Mkdir(dir+"/back", 0o755))
	require.NoError(b, os.Mkdir(dir+"/repo", 0o755))
	require.NoError(b, repository.Initialize(b.Context(), inFolder(b, dir+"/repo"), repositorytest.Password))
	// The other program opens its repository each time, too.
	open := func(f func(*repository.Repository)) func() {
		return func() {
			r, err := repository.Open(b.Context(), inFolder(b, dir+"/repo"), repositorytest.Password, repository.OpenOptions{})
			require.NoError(b, err)
			f(r)
			require.NoError(b, r.Close(b.Context()))
		}
	}
	var part repository.VolumePart
	timed("save", open(func(r *repository.Repository) {
		_, part, err = r.CaptureFolder(b.Context(), src, repository.CaptureOptions{CutAt: settled()})
		require.NoError(b, err)
	}))
	timed("again", open(func(r *repository.Repository) {
		_, _, err := r.CaptureFolder(b.Context(), src, repository.CaptureOptions{Previous: &part, CutAt: settled()})
		require.NoError(b, err)
	}))
	timed("restore", open(func(r *repository.Repository) {
		result, err := r.RestoreFolder(b.Context(), part, dir+"/back", repository.RestoreOptions{})
		require.NoError(b, err)
		require.Empty(b, result.Issues)
	}))
}
