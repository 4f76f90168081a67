package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// state is what state.json holds: all that cannot be derived from the base
// directory, so that a later process can find, stop and restart the parts.
type state struct {
	NoNode    bool                `json:"noNode"`
	Network   int                 `json:"network"`
	Ports     ports               `json:"ports"`
	Processes map[string]*process `json:"processes"`
}

// ports are TCP ports on 127.0.0.1; Metadata is one on every address.
type ports struct {
	EtcdClient        int `json:"etcdClient"`
	EtcdPeer          int `json:"etcdPeer"`
	APIServer         int `json:"apiServer"`
	ControllerManager int `json:"controllerManager"`
	Scheduler         int `json:"scheduler"`
	Kubelet           int `json:"kubelet"`
	Metadata          int `json:"metadata"`
	MetadataHealth    int `json:"metadataHealth"`
}

func readState(path string) (*state, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (c *Cluster) saveState() error {
	b, err := json.MarshalIndent(c.state, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(c.paths.state, append(b, '\n'), 0o600)
}

// reloadState takes over what another process did since.
func (c *Cluster) reloadState() error {
	s, err := readState(c.paths.state)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", c.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = s
	return nil
}

// writeFile replaces a file as a whole: a reader sees the old or the new one.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, content, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// digest is a short name for a longer one.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}
