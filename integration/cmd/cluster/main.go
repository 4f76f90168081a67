// Command cluster starts and ends the two Kubernetes clusters that the tests
// and the demo use. It is also the programs of ours that run beside each.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
	"github.com/kubectl-backup/kubectl-backup/integration/csi"
	"github.com/kubectl-backup/kubectl-backup/integration/provisioner"
	"github.com/kubectl-backup/kubectl-backup/integration/services"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use: "cluster", Short: "Kubernetes clusters for tests, on this machine",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(upCommand(), downCommand(), provisionerCommand(), csiDriverCommand(), servicesCommand())
	return root
}

func upCommand() *cobra.Command {
	var dir, only string
	var o cluster.Options
	cmd := &cobra.Command{
		Use: "up", Short: "Start the clusters src and dst, and write a kubeconfig with a context for each", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if only != "" {
				o.Only = []string{only}
			}
			o.Log = cmd.ErrOrStderr()
			if err := defaultDir(&dir); err != nil {
				return err
			}
			cs, err := cluster.Up(cmd.Context(), dir, o)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), cs.Kubeconfig())
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "base directory (default .cluster in the repository)")
	cmd.Flags().StringVar(&only, "only", "", "start one cluster: src or dst")
	cmd.Flags().BoolVar(&o.NoNode, "no-node", false, "start control planes only")
	cmd.Flags().StringVar(&o.PluginBinary, "plugin", "", "program for the image localhost/kubectl-backup:dev (default bin/kubectl-backup, if it is there)")
	return cmd
}

func downCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "down", Short: "End what up started, and remove it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := defaultDir(&dir); err != nil {
				return err
			}
			return cluster.Down(cmd.Context(), dir, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "base directory (default .cluster in the repository)")
	return cmd
}

func defaultDir(dir *string) error {
	if *dir != "" {
		return nil
	}
	root, err := cluster.RepositoryRoot()
	*dir = filepath.Join(root, ".cluster")
	return err
}

func provisionerCommand() *cobra.Command {
	var kubeconfig, dir, node string
	cmd := &cobra.Command{
		Use: "provisioner", Short: "Provision volumes (started by up)", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := clientFor(kubeconfig)
			if err != nil {
				return err
			}
			return provisioner.Run(cmd.Context(), client, dir, node)
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster")
	cmd.Flags().StringVar(&dir, "dir", "", "directory for the volumes")
	cmd.Flags().StringVar(&node, "node", "", "name of this node")
	return cmd
}

func csiDriverCommand() *cobra.Command {
	var o csi.Options
	cmd := &cobra.Command{
		Use: "csi-driver", Short: "Serve volumes and snapshots (started by up)", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return csi.Run(cmd.Context(), o) },
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "directory for the volumes")
	cmd.Flags().StringVar(&o.Socket, "socket", "", "socket to serve at")
	cmd.Flags().StringVar(&o.Registration, "registration", "", "socket to tell the kubelet at")
	cmd.Flags().StringVar(&o.Node, "node", "", "name of this node")
	return cmd
}

func servicesCommand() *cobra.Command {
	var kubeconfig, network, dns, server string
	cmd := &cobra.Command{
		Use: "services", Short: "Serve the Services' addresses and names (started by up)", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := clientFor(kubeconfig)
			if err != nil {
				return err
			}
			prefix, prefixErr := netip.ParsePrefix(network)
			address, addressErr := netip.ParseAddr(dns)
			if err := errors.Join(prefixErr, addressErr); err != nil {
				return err
			}
			return services.Run(cmd.Context(), client, services.Options{Network: prefix, DNS: address, Server: server})
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster")
	cmd.Flags().StringVar(&network, "network", "", "network of pods and Services")
	cmd.Flags().StringVar(&dns, "dns", "", "address to answer DNS at")
	cmd.Flags().StringVar(&server, "server", "", "address and port of the API server")
	return cmd
}

func clientFor(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 200
	return kubernetes.NewForConfig(config)
}
