package freeze

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// standIns are programs that note how they were called. They show that a recipe
// calls what it says, in its order, and what becomes of a failure; the end to
// end tests have the real PostgreSQL, MariaDB and Redis.
var standIns = map[string]string{
	"fsfreeze": `echo "fsfreeze $1 $2" >>calls; [ ! -e "fail$1" ] || { echo "fsfreeze: not supported"; exit 1; }`,
	"sync":     `echo sync >>calls`,
	"mongosh": `for a in "$@"; do last=$a; done
case $last in *fsync:*) w=flush;; *fsyncLock*) w=lock;; *fsyncUnlock*) w=unlock;; esac
echo "$w as $HOLD_USER $HOLD_PASSWORD" >>calls; echo "$*" >>arguments; [ ! -e "fail$w" ]`,
	"etcdctl": `echo "$*" >>calls; case "$*" in *save*) for a in "$@"; do last=$a; done; touch "$last";; esac; [ ! -e failhealth ]`,
	"mysql": `echo "$*" >>arguments; case "$*" in *DO*) echo "check as $MYSQL_PWD" >>calls; exit 0;; esac
while read -r line; do
  case $line in
  *FLUSH*) echo lock >>calls; [ ! -e faillock ] || { echo "ERROR 1205: Lock wait timeout"; exit 1; }; echo locked;;
  *UNLOCK*) echo unlock >>calls; [ ! -e failunlock ] || exit 1; echo released;;
  esac
done`,
}

func TestRecipesWithStandIns(t *testing.T) {
	for _, x := range []struct {
		name, recipe string
		parameters   map[string]string
		fail         string // a file that makes a stand-in fail
		calls        []string
		refused      string // no freeze
		uncovered    string // a freeze that did not hold
	}{
		{name: "fsfreeze", recipe: "fsfreeze", parameters: map[string]string{"MOUNT": "/data"}, calls: []string{"sync", "fsfreeze", "--freeze", "/data", "fsfreeze", "--unfreeze", "/data"}},
		{name: "fsfreeze, no mount", recipe: "fsfreeze", refused: "the parameter MOUNT is required"},
		{name: "fsfreeze, cannot", recipe: "fsfreeze", parameters: map[string]string{"MOUNT": "/data"}, fail: "fail--freeze", refused: "not supported", calls: []string{"sync", "fsfreeze", "--freeze", "/data"}},
		{name: "mongodb", recipe: "mongodb", calls: []string{"flush", "as", "admin", "pw", "lock", "as", "admin", "pw", "unlock", "as", "admin", "pw"}},
		{name: "mongodb, cannot", recipe: "mongodb", fail: "faillock", refused: "fsyncLock failed", calls: []string{"flush", "as", "admin", "pw", "lock", "as", "admin", "pw", "unlock", "as", "admin", "pw"}},
		{name: "etcd", recipe: "etcd", calls: []string{"endpoint", "health", "endpoint", "health", "endpoint", "health"}},
		{name: "etcd, ill", recipe: "etcd", fail: "failhealth", refused: "the preparation of recipe etcd failed", calls: []string{"endpoint", "health"}},
		{name: "mysql", recipe: "mysql", calls: []string{"check", "as", "pw", "lock", "unlock"}},
		{name: "mysql, busy", recipe: "mysql", fail: "faillock", refused: "the tables could not be locked", calls: []string{"check", "as", "pw", "lock"}},
		{name: "mysql, lost", recipe: "mysql", fail: "failunlock", uncovered: "may have let go early", calls: []string{"check", "as", "pw", "lock", "unlock"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			everyShell(t, func(t *testing.T, c *container) {
				if c.shell[0] == "busybox" && x.recipe == "fsfreeze" {
					return // it has one of its own, which it prefers
				}
				for program, script := range standIns {
					require.NoError(t, os.WriteFile(c.path(program), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
				}
				if x.fail != "" {
					require.NoError(t, os.WriteFile(c.path(x.fail), nil, 0o644))
				}
				c.env = []string{"PATH=" + c.dir + ":" + os.Getenv("PATH"), "MONGO_INITDB_ROOT_USERNAME=admin", "MONGO_INITDB_ROOT_PASSWORD=pw", "MYSQL_ROOT_PASSWORD=pw"}
				recipe, ok := Lookup(x.recipe, nil)
				require.True(t, ok)
				s, err := c.hold(t.Context(), Target{Recipe: recipe, Parameters: x.parameters})
				if x.refused != "" {
					require.ErrorContains(t, err, x.refused)
				} else {
					require.NoError(t, err)
					r := s.Thaw(t.Context())
					if x.uncovered == "" {
						require.NoError(t, r.Err)
					} else {
						require.ErrorContains(t, r.Err, x.uncovered)
					}
					require.Equal(t, x.uncovered != "", r.Expired)
				}
				if len(x.calls) > 0 {
					require.Equal(t, x.calls, c.lines(t, "calls"))
				}
				if arguments, err := os.ReadFile(c.path("arguments")); err == nil {
					require.NotContains(t, string(arguments), "pw", "a password among the arguments")
				}
			})
		})
	}

	t.Run("etcd, its own snapshot", func(t *testing.T) {
		everyShell(t, func(t *testing.T, c *container) {
			require.NoError(t, os.WriteFile(c.path("etcdctl"), []byte("#!/bin/sh\n"+standIns["etcdctl"]+"\n"), 0o755))
			c.env = []string{"PATH=" + c.dir + ":" + os.Getenv("PATH")}
			recipe, _ := Lookup("etcd", nil)
			s, err := c.hold(t.Context(), Target{Recipe: recipe, Parameters: map[string]string{"SNAPSHOT": c.path("data")}})
			require.NoError(t, err)
			require.NoError(t, s.Thaw(t.Context()).Err)
			c.there(t, "data", true, 0)
			c.there(t, "data.part", false, 0)
		})
	})
}
