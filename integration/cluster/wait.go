package cluster

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WaitFor calls a condition until it returns nil, the deadline has passed or
// the context is done. The error says what was waited for and why it was not
// so the last time.
func WaitFor(ctx context.Context, deadline time.Duration, what string, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s until %s: %w", deadline, what, err)
		case <-tick.C:
		}
	}
}

// waitReady waits until the cluster does what tests expect of it.
func (c *Cluster) waitReady(ctx context.Context, node bool) error {
	return WaitFor(ctx, 3*time.Minute, "the cluster works", func(ctx context.Context) error {
		return c.unhealthy(ctx, node)
	})
}

// unhealthy returns why the cluster does not work, or nil.
func (c *Cluster) unhealthy(ctx context.Context, node bool) error {
	if node && c.state.NoNode {
		return fmt.Errorf("it was started without a node")
	}
	for _, name := range c.components() {
		if p := c.process(name); p == nil || !p.alive() {
			return fmt.Errorf("%s does not run", name)
		}
	}
	if err := c.serverReady(ctx); err != nil {
		return err
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	if !node {
		return nil
	}
	n, err := client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(n.Spec.Taints) > 0 {
		return fmt.Errorf("node %s has taint %s", nodeName, n.Spec.Taints[0].Key)
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return driverRegistered(ctx, client)
		}
	}
	return fmt.Errorf("node %s is not Ready", nodeName)
}

// components are the processes that must run, in the order of their start.
func (c *Cluster) components() []string {
	list := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
	if !c.state.NoNode {
		list = append(list, "containerd", "kubelet", "provisioner", "services")
		list = append(list, snapshotProcesses...)
	}
	return list
}
