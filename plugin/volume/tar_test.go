//go:build linux

package volume_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/volume"
	"github.com/kubectl-backup/kubectl-backup/plugin/volume/volumetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func fromTar(t *testing.T, b []byte) ([]byte, error) {
	t.Helper()
	var out bytes.Buffer
	err := volume.FromTar(context.Background(), bytes.NewReader(b), volume.NewEncoder(&out), nil)
	return out.Bytes(), err
}

// tarOf runs a program that writes a tar of dir.
func tarOf(t *testing.T, dir string, command ...string) []byte {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	require.NoError(t, err, "%s: %s", command, stderr.String())
	return b
}

func TestTreesThroughTar(t *testing.T) {
	// What each program can carry is the same in the target.
	programs := []struct {
		name    string
		command []string
		trees   []string
		lacks   string
	}{
		{"GNU tar, PAX", []string{"tar", "-cf", "-", "--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "."},
			[]string{"empty root", "holes", "links", "names", "owners and modes", "times", "extended attributes", "shapes of directories"}, "sockets"},
		{"GNU tar, its own format", []string{"tar", "-cf", "-", "--format=gnu", "."}, []string{"empty root", "names"}, "extended attributes"},
		{"busybox", []string{"busybox", "tar", "-cf", "-", "."}, []string{"empty root", "names"}, "whole seconds"},
	}
	whole := time.Unix(1_500_000_000, 0)
	for _, p := range programs {
		for _, tree := range volumetest.Trees {
			if !strings.Contains("\x00"+strings.Join(p.trees, "\x00")+"\x00", "\x00"+tree.Name+"\x00") {
				continue
			}
			t.Run(p.name+"/"+tree.Name, func(t *testing.T) {
				src, dst := t.TempDir(), t.TempDir()
				tree.Build(t, src)
				if tree.Name == "holes" { // without the gigabytes, which tar reads as zeros
					for _, name := range []string{"all-hole", "middle"} {
						require.NoError(t, os.Truncate(src+"/"+name, 64<<20))
					}
					require.NoError(t, os.Remove(src+"/hole-and-tail"))
				}
				if !strings.Contains(p.name, "PAX") {
					// Times in whole seconds are what it has.
					wholeSeconds(t, src, whole)
				}
				stream, err := fromTar(t, tarOf(t, src, p.command...))
				require.NoError(t, err)
				r := receive(t, stream, dst, volume.WriteOptions{})
				var lacks []string
				for _, i := range r.Issues {
					require.Equal(t, volume.NotKept, i.Kind, i.String())
					lacks = append(lacks, i.What)
				}
				require.Contains(t, strings.Join(lacks, "; "), p.lacks)
				if tree.Name == "extended attributes" || tree.Name == "holes" {
					// ACLs come as text, and holes in blocks of tar's choosing.
					compareContent(t, src, dst)
					return
				}
				// GNU tar stores a named pipe of two names as two pipes.
				requireSame(t, src, dst, "pipe", "pipe-too")
			})
		}
	}
}

// wholeSeconds sets the times of a tree, directories after what is in them.
func wholeSeconds(t *testing.T, root string, when time.Time) {
	t.Helper()
	out, err := exec.Command("find", root, "-depth", "-exec", "touch", "-h", "-d", fmt.Sprintf("@%d", when.Unix()), "{}", ";").CombinedOutput()
	require.NoError(t, err, string(out))
}

func compareContent(t *testing.T, src, dst string) {
	t.Helper()
	require.NoError(t, exec.Command("diff", "-r", "--no-dereference", src, dst).Run())
	for _, p := range []string{"tool", "note"} {
		for _, attr := range []string{"security.capability", "user.id", "user.empty", "trusted.node"} {
			want, got := make([]byte, 100), make([]byte, 100)
			n, errWant := unix.Lgetxattr(src+"/"+p, attr, want)
			m, errGot := unix.Lgetxattr(dst+"/"+p, attr, got)
			require.Equal(t, errWant, errGot, "%s of %s", attr, p)
			require.Equal(t, want[:max(n, 0)], got[:max(m, 0)])
		}
	}
	for _, p := range []string{"all-hole", "middle", "head-and-hole"} {
		var st unix.Stat_t
		if unix.Stat(dst+"/"+p, &st) == nil {
			require.Less(t, st.Blocks, int64(64), "%s has no holes any more", p)
		}
	}
}

func TestTarCutAnywhereIsAnError(t *testing.T) {
	src := t.TempDir()
	volumetest.Write(t, src+"/a", strings.Repeat("a", 1500))
	volumetest.Write(t, src+"/b/zeros", strings.Repeat("\x00", 4096))
	whole := tarOf(t, src, "tar", "-cf", "-", "--sort=name", ".")
	end := len(bytes.TrimRight(whole, "\x00"))
	end = (end+511)/512*512 + 4096 // the zeros are data
	for cut := 0; cut < end+1024; cut += 256 {
		out, err := fromTar(t, whole[:cut])
		require.ErrorIs(t, err, volume.ErrTruncated, "cut at %d of %d", cut, len(whole))
		_, _, err = drain(volume.NewDecoder(bytes.NewReader(out)))
		require.ErrorIs(t, err, volume.ErrTruncated, "the receiver must not take it for whole")
	}
	_, err := fromTar(t, whole[:end+1024])
	require.NoError(t, err)
	_, err = fromTar(t, []byte("tar: .: Cannot open: Permission denied\n"+strings.Repeat("x", 2000)))
	require.Error(t, err)
}

func TestTarByHand(t *testing.T) {
	write := func(headers ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Mode, h.ModTime = 0o644, time.Unix(5, 0)
			if h.Typeflag == tar.TypeReg {
				h.Size = 4
			}
			require.NoError(t, w.WriteHeader(&h))
			if h.Typeflag == tar.TypeReg {
				_, err := io.WriteString(w, "data")
				require.NoError(t, err)
			}
		}
		require.NoError(t, w.Close())
		return b.Bytes()
	}
	t.Run("without directories", func(t *testing.T) {
		dst := t.TempDir()
		stream, err := fromTar(t, write(tar.Header{Name: "/x/y/f", Typeflag: tar.TypeReg}, tar.Header{Name: "./x/g", Typeflag: tar.TypeReg}, tar.Header{Name: "x/h", Typeflag: tar.TypeLink, Linkname: "./x/g"}))
		require.NoError(t, err)
		r := receive(t, stream, dst, volume.WriteOptions{})
		require.Contains(t, paths(r.Issues, volume.NotKept), "x/y")
		b, err := os.ReadFile(dst + "/x/y/f")
		require.NoError(t, err)
		require.Equal(t, "data", string(b))
		require.FileExists(t, dst+"/x/h")
	})
	t.Run("attributes as libarchive writes them", func(t *testing.T) {
		dst := t.TempDir()
		stream, err := fromTar(t, write(tar.Header{Name: "f", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{
			"LIBARCHIVE.xattr.user.a%3db": base64.StdEncoding.EncodeToString([]byte{0, 1, 255}),
			"SCHILY.xattr.user.c":         "\x00c",
		}}))
		require.NoError(t, err)
		receive(t, stream, dst, volume.WriteOptions{})
		for attr, want := range map[string]string{"user.a=b": "\x00\x01\xff", "user.c": "\x00c"} {
			got := make([]byte, 10)
			n, err := unix.Getxattr(dst+"/f", attr, got)
			require.NoError(t, err, attr)
			require.Equal(t, want, string(got[:n]))
		}
	})
	t.Run("names that lead out", func(t *testing.T) {
		for _, h := range []tar.Header{
			{Name: "../x", Typeflag: tar.TypeReg}, {Name: "a/../../x", Typeflag: tar.TypeReg}, {Name: "l", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"},
		} {
			_, err := fromTar(t, write(h))
			require.ErrorContains(t, err, "leads out", h.Name)
		}
	})
}

// TestHolesOfATarStayWhole: a hole that a tar has is one in the stream, however
// long: in pieces it would be stored as if somebody had written zeros.
func TestHolesOfATarStayWhole(t *testing.T) {
	dir := t.TempDir()
	const at, size = 5 << 30, 9<<30 + 123
	f, err := os.Create(filepath.Join(dir, "disk"))
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 4096), at)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	stream, err := fromTar(t, tarOf(t, dir, "tar", "-cf", "-", "--format=posix", "--sparse", "disk"))
	require.NoError(t, err)
	d := volume.NewDecoder(bytes.NewReader(stream))
	for e := (&volume.Entry{}); e.Path != "disk"; {
		e, err = d.Next()
		require.NoError(t, err)
	}
	var holes, data []int64
	for {
		r, err := d.Run()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if len(r.Data) > 0 {
			data = append(data, int64(len(r.Data)))
		} else {
			holes = append(holes, r.Hole)
		}
	}
	require.Equal(t, []int64{4096}, data)
	require.Equal(t, []int64{at, size - at - 4096}, holes)
}

// TestAttributeNamesOfATar: GNU tar escapes what would end the key of a record.
func TestAttributeNamesOfATar(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(src, "note"), nil, 0o600))
	names := []string{"user.a=b", "user.100%", "user.%3D", "user.two words"}
	for _, name := range names {
		require.NoError(t, unix.Lsetxattr(filepath.Join(src, "note"), name, []byte(name), 0))
	}
	stream, err := fromTar(t, tarOf(t, src, "tar", "-cf", "-", "--format=posix", "--xattrs", "--xattrs-include=*", "."))
	require.NoError(t, err)
	receive(t, stream, dst, volume.WriteOptions{})
	requireSame(t, src, dst)
}
