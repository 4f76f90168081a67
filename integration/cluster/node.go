package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// nodeName makes the API server reach the kubelet over loopback: names are
// the only addresses that it is told to use.
const nodeName = "localhost"

// cniPlugins is where Debian installs them.
const cniPlugins = "/usr/lib/cni"

// startNode starts containerd, the kubelet, and what stands in for a storage
// system and kube-proxy.
func (c *Cluster) startNode(ctx context.Context, archives []string) error {
	if err := c.writeNetworkConfig(); err != nil {
		return err
	}
	config := filepath.Join(c.paths.config, "containerd.toml")
	if err := writeFile(config, []byte(c.containerdConfig()), 0o644); err != nil {
		return err
	}
	if err := c.start("containerd", "/usr/bin/containerd", "--config", config); err != nil {
		return err
	}
	if err := c.waitContainerd(ctx); err != nil {
		return err
	}
	if err := allowWatches(); err != nil {
		return err
	}
	imported := make(chan error, 1)
	go func() { imported <- c.importImages(ctx, archives) }()

	kubeletConfig, err := c.writeKubeletConfig()
	if err != nil {
		return errors.Join(err, <-imported)
	}
	err = errors.Join(
		c.start("kubelet", append(c.kube("kubelet"),
			"--config="+kubeletConfig,
			"--kubeconfig="+c.kubeconfig("kubelet"),
			"--hostname-override="+nodeName,
			"--root-dir="+c.paths.kubelet,
			"--cert-dir="+filepath.Join(c.paths.kubelet, "pki"),
		)...),
		c.startProvisioner(),
		c.startSnapshots(),
		c.startServices(ctx),
	)
	return errors.Join(err, <-imported)
}

// allowWatches raises how many watches of files one user may have at a time: a
// cluster has about twenty, the usual limit is 128, and a kubelet that gets
// none ends.
func allowWatches() error {
	const path, enough = "/proc/sys/fs/inotify/max_user_instances", 1024
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n >= enough {
		return nil
	}
	err = os.WriteFile(path, []byte(strconv.Itoa(enough)), 0o644)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
		return nil // a container: few clusters work as it is
	}
	return err
}

func (c *Cluster) writeNetworkConfig() error {
	n := c.state.Network
	config := fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": %q,
  "plugins": [{
    "type": "ptp",
    "ipMasq": false,
    "ipam": {
      "type": "host-local",
      "dataDir": %q,
      "ranges": [[{"subnet": %q, "rangeEnd": %q}]]
    }
  }]
}
`, c.paths.network(), filepath.Join(c.paths.run, "ipam"), podNetwork(n), podRangeEnd(n))
	return writeFile(filepath.Join(c.paths.cni, "10-ptp.conflist"), []byte(config), 0o644)
}

func (c *Cluster) containerdConfig() string {
	return fmt.Sprintf(`version = 2
root = %q
state = %q
# Only what the kubelet uses.
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:latest"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  # Without CAP_SYS_RESOURCE scores cannot be lowered.
  restrict_oom_score_adj = true
  # Below our own directory, so that they are found again.
  netns_mounts_under_state_dir = true
  max_container_log_line_size = -1
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = %q
  conf_dir = %q
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = %q
  SystemdCgroup = false
`, filepath.Join(c.paths.containerd, "root"), filepath.Join(c.paths.containerd, "state"), c.paths.containerdSocket(),
		cniPlugins, c.paths.cni, filepath.Join(c.paths.containerd, "runc"))
}

// writeKubeletConfig writes the configuration and returns its path. What a
// test machine may lack (disk space, swap switched off, control groups
// version 2) stops no pod, and the machine's packet filter is left alone.
func (c *Cluster) writeKubeletConfig() (string, error) {
	resolv := filepath.Join(c.paths.config, "resolv.conf")
	if err := writeFile(resolv, []byte("nameserver "+dnsAddress(c.state.Network)+"\n"), 0o644); err != nil {
		return "", err
	}
	config := map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"address":                  "127.0.0.1",
		"port":                     c.state.Ports.Kubelet,
		"healthzPort":              0,
		"tlsCertFile":              c.pki("kubelet.crt"),
		"tlsPrivateKeyFile":        c.pki("kubelet.key"),
		"authentication":           map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": c.pki("ca.crt")}},
		"authorization":            map[string]any{"mode": "Webhook"},
		"clusterDomain":            "cluster.local",
		"clusterDNS":               []string{dnsAddress(c.state.Network)},
		"resolvConf":               resolv,
		"containerRuntimeEndpoint": "unix://" + c.paths.containerdSocket(),
		"podLogsDir":               c.paths.podLogs,
		"volumePluginDir":          filepath.Join(c.paths.kubelet, "volume-plugins"),
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + c.paths.controlGroup + "/" + podGroup,
		"enforceNodeAllocatable":   []string{"none"},
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"makeIPTablesUtilChains":   false,

		"localStorageCapacityIsolation": false,
		"evictionHard":                  map[string]string{"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi"},
		"imageGCHighThresholdPercent":   100,
		"imageGCLowThresholdPercent":    99,
		"serializeImagePulls":           false,
		"maxPods":                       500,
		"nodeStatusUpdateFrequency":     "5s",
		"kubeAPIQPS":                    100,
		"kubeAPIBurst":                  200,
	}
	b, err := yaml.Marshal(config)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.paths.config, "kubelet.yaml")
	return path, writeFile(path, b, 0o644)
}

func (c *Cluster) waitContainerd(ctx context.Context) error {
	return WaitFor(ctx, time.Minute, "containerd answers", func(ctx context.Context) error {
		if p := c.process("containerd"); !p.alive() {
			return fmt.Errorf("containerd has ended; see %s", filepath.Join(c.paths.logs, "containerd.log"))
		}
		_, err := c.ctr(ctx, "version")
		return err
	})
}

// ctr runs containerd's client in the namespace that the kubelet's containers
// and images are in.
func (c *Cluster) ctr(ctx context.Context, args ...string) ([]byte, error) {
	return output(ctx, "ctr", append([]string{"--address", c.paths.containerdSocket(), "--namespace", "k8s.io"}, args...)...)
}

// ImportImage makes the images of an archive known to the node, under the
// names that stand in it. Pods must not ask for a pull: there is no registry.
func (c *Cluster) ImportImage(ctx context.Context, archive string) error {
	if _, err := c.ctr(ctx, "images", "import", "--all-platforms", archive); err != nil {
		return fmt.Errorf("cluster %s: import %s: %w", c.Name, archive, err)
	}
	return nil
}

// importImages imports what the node does not have yet. Archives are called
// by their content, so a name that was imported need not be read again.
func (c *Cluster) importImages(ctx context.Context, archives []string) error {
	marks := filepath.Join(c.paths.containerd, "imported")
	if err := os.MkdirAll(marks, 0o755); err != nil {
		return err
	}
	for _, archive := range archives {
		mark := filepath.Join(marks, strings.TrimSuffix(filepath.Base(archive), ".tar"))
		if exists(mark) {
			continue
		}
		if err := c.ImportImage(ctx, archive); err != nil {
			return err
		}
		if err := os.WriteFile(mark, nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}
