//go:build linux

package volume

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// chunks counts what arrives, as whoever waits for a sender sees it.
type chunks struct {
	bytes.Buffer
	n int
}

func (c *chunks) Write(p []byte) (int, error) {
	c.n++
	return c.Buffer.Write(p)
}

// TestDeviceOfZerosIsNotSilent reads a device that has nothing but zeros, all of
// them written: its sender says that it is at work, and it comes back as it was.
func TestDeviceOfZerosIsNotSilent(t *testing.T) {
	was := quiet
	t.Cleanup(func() { quiet = was })
	const blocks = 50
	src, dst := filepath.Join(t.TempDir(), "src"), filepath.Join(t.TempDir(), "dst")
	content := make([]byte, blocks*deviceBlock)
	content[len(content)-1] = 1
	require.NoError(t, os.WriteFile(src, content, 0o600))
	for _, x := range []struct {
		quiet       time.Duration
		least, most int
	}{{time.Hour, 1, 30}, {0, blocks - 1, 1 << 20}} {
		quiet = x.quiet
		var sent chunks
		require.NoError(t, ReadDevice(t.Context(), src, NewEncoder(&sent)))
		require.GreaterOrEqual(t, sent.n, x.least)
		require.LessOrEqual(t, sent.n, x.most)
		require.NoError(t, os.WriteFile(dst, bytes.Repeat([]byte{2}, len(content)), 0o600))
		_, err := WriteDevice(t.Context(), NewDecoder(&sent), dst, false)
		require.NoError(t, err)
		back, err := os.ReadFile(dst)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, back))
	}
}
