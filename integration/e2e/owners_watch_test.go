package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

// watchOwners follows every object of some kinds in a namespace of dst. What it
// returns says, once called, which owners' UIDs each object has ever carried,
// and which UIDs were those of an object.
func watchOwners(t *testing.T, ns string, kinds []kube.Kind) func() (owned map[string][]string, existed map[string]bool) {
	t.Helper()
	var mu sync.Mutex
	owned, existed := map[string][]string{}, map[string]bool{}
	var all sync.WaitGroup
	var commands []*exec.Cmd
	for _, k := range kinds {
		resource := k.Resource + "." + k.GVK.Version + "." + k.GVK.Group
		if k.GVK.Group == "" {
			resource = k.Resource
		}
		cmd := exec.Command(filepath.Join(root(t), "bin", "kubectl"), "--kubeconfig", clusters(t).Kubeconfig(), "--context", "dst", "-n", ns,
			"get", resource, "--watch", "-o", "json", "--output-watch-events")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		commands = append(commands, cmd)
		all.Go(func() {
			decoder := json.NewDecoder(out)
			for {
				var event struct {
					Object struct {
						Kind     string `json:"kind"`
						Metadata struct {
							Name, UID       string
							OwnerReferences []struct{ UID string }
						} `json:"metadata"`
					} `json:"object"`
				}
				if decoder.Decode(&event) != nil {
					return
				}
				m := event.Object.Metadata
				name := fmt.Sprint(event.Object.Kind, " ", m.Name)
				mu.Lock()
				existed[m.UID] = true
				for _, w := range m.OwnerReferences {
					if !slices.Contains(owned[name], w.UID) {
						owned[name] = append(owned[name], w.UID)
					}
				}
				mu.Unlock()
			}
		})
	}
	stop := sync.OnceFunc(func() {
		for _, cmd := range commands {
			cmd.Process.Kill()
		}
		all.Wait()
		for _, cmd := range commands {
			cmd.Wait()
		}
	})
	t.Cleanup(stop)
	return func() (map[string][]string, map[string]bool) {
		stop()
		return owned, existed
	}
}
