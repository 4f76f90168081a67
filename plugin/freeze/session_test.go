package freeze

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// marked freezes by a file, and notes each step.
func marked() Target {
	return Target{
		Hook: "mark", Before: []string{"sh", "-c", "echo before >>steps; touch FROZEN"}, After: []string{"sh", "-c", "rm -f FROZEN; echo after >>steps"},
		TTL: 20 * time.Second, Timeout: 10 * time.Second,
	}
}

func TestAPodIsHeldUntilItIsThawed(t *testing.T) {
	everyShell(t, func(t *testing.T, c *container) {
		s, err := c.hold(t.Context(), marked())
		require.NoError(t, err)
		c.there(t, "FROZEN", true, 0)
		r := s.Thaw(t.Context())
		require.NoError(t, r.Err)
		require.False(t, r.Expired)
		require.Less(t, r.Held, 5*time.Second)
		c.there(t, "FROZEN", false, time.Second)
		require.Equal(t, r, s.Thaw(t.Context()))
		<-c.ended
		require.Equal(t, []string{"before", "after"}, c.lines(t, "steps"))
	})
}
