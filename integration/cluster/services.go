package cluster

import (
	"context"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// startServices starts what serves the Services' addresses and names. DNS is
// a Service too, so that no other is given its address.
func (c *Cluster) startServices(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	dns := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "kube-dns"},
		Spec: corev1.ServiceSpec{
			ClusterIP: dnsAddress(c.state.Network),
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP},
			},
		},
	}
	if _, err := client.CoreV1().Services(dns.Namespace).Create(ctx, dns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return c.start("services", filepath.Join(c.root, "bin", "cluster"), "services",
		"--kubeconfig", c.kubeconfig("services"),
		"--network", podNetwork(c.state.Network),
		"--dns", dnsAddress(c.state.Network),
		"--server", fmt.Sprintf("127.0.0.1:%d", c.state.Ports.APIServer))
}
