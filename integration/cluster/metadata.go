package cluster

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/kubectl-backup/kubectl-backup/integration/csi"
)

// metadataService is the program that tells which blocks of a snapshot hold
// data, and what its Service, its user and its role are called.
const metadataService = "csi-snapshot-metadata"

// metadataHost is where pods find it.
const metadataHost = metadataService + "." + metav1.NamespaceSystem + ".svc"

// metadataPort is the one of its Service.
const metadataPort = 6443

// MetadataAudience is who tokens for it have to be for.
const MetadataAudience = "snapshot-metadata.kubectl-backup.io"

func (c *Cluster) metadataServiceArgs(socket string) []string {
	return []string{
		filepath.Join(c.root, "bin", metadataService), "--kubeconfig=" + c.kubeconfig(metadataService), "--csi-address=" + socket,
		fmt.Sprintf("--port=%d", c.state.Ports.Metadata), fmt.Sprintf("--http-endpoint=127.0.0.1:%d", c.state.Ports.MetadataHealth),
		"--tls-cert=" + c.pki(metadataService+".crt"), "--tls-key=" + c.pki(metadataService+".key"),
		"--kube-api-qps=100", "--kube-api-burst=200", "--v=4",
	}
}

// StopMetadataService ends the program that lists the blocks of snapshots, as a
// crash does; StartSnapshots starts it again.
func (c *Cluster) StopMetadataService(ctx context.Context) error {
	if err := c.reloadState(); err != nil {
		return err
	}
	return c.kill(ctx, metadataService)
}

// createMetadataService makes it known where the blocks of snapshots are
// listed, leads pods there, and gives the program the rights that its
// deployment gives it.
func (c *Cluster) createMetadataService(ctx context.Context, client dynamic.Interface) error {
	authority, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return err
	}
	service := newObject("v1", "Service", metadataService, map[string]any{"spec": map[string]any{
		"ports": []any{map[string]any{"name": "grpc", "port": int64(metadataPort)}},
	}})
	slice := newObject("discovery.k8s.io/v1", "EndpointSlice", metadataService, map[string]any{
		"addressType": string(corev1.IPv4Protocol),
		"endpoints":   []any{map[string]any{"addresses": []any{c.HostAddress()}}},
		"ports":       []any{map[string]any{"name": "grpc", "port": int64(c.state.Ports.Metadata)}},
	})
	slice.SetLabels(map[string]string{"kubernetes.io/service-name": metadataService})
	service.SetNamespace(metav1.NamespaceSystem)
	slice.SetNamespace(metav1.NamespaceSystem)
	rule := func(group string, verbs []any, resources ...any) any {
		return map[string]any{"apiGroups": []any{group}, "resources": resources, "verbs": verbs}
	}
	read, create := []any{"get", "list"}, []any{"create"}
	role := newObject("rbac.authorization.k8s.io/v1", "ClusterRole", metadataService, map[string]any{"rules": []any{
		rule("cbt.storage.k8s.io", read, "snapshotmetadataservices"),
		rule("authentication.k8s.io", create, "tokenreviews"),
		rule("authorization.k8s.io", create, "subjectaccessreviews"),
		rule("snapshot.storage.k8s.io", read, "volumesnapshots", "volumesnapshotcontents", "volumesnapshotclasses"),
	}})
	binding := newObject("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", metadataService, map[string]any{
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": metadataService},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": metadataService}},
	})
	known := newObject("cbt.storage.k8s.io/v1beta1", "SnapshotMetadataService", csi.Name, map[string]any{"spec": map[string]any{
		"address": fmt.Sprintf("%s:%d", metadataHost, metadataPort), "audience": MetadataAudience, "caCert": base64.StdEncoding.EncodeToString(authority),
	}})
	return createAll(ctx, client, []newResource{
		{"services", service}, {"endpointslices", slice}, {"clusterroles", role}, {"clusterrolebindings", binding}, {"snapshotmetadataservices", known},
	})
}
