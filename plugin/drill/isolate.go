package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// labelDrill stands on the namespaces of one drill, which see each other.
	labelDrill = "kubectl-backup.io/drill"
	policyName = "kubectl-backup-drill"
)

// isolate makes the namespaces, each closed before anything is in it.
func (d *drill) isolate(ctx context.Context) error {
	for _, from := range slices.Sorted(maps.Keys(d.namespaces)) {
		to := d.namespaces[from]
		ns := &corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: to, Labels: map[string]string{labelDrill: d.id, kube.LabelRun: d.Restore.Record.ID}},
		}
		mover.Mark(&ns.ObjectMeta)
		if err := d.security(ctx, from, ns.Labels); err != nil {
			return err
		}
		made, err := d.create(ctx, "", "v1", ns.Kind, "", ns)
		if err != nil {
			return fmt.Errorf("make namespace %s: %w", to, err)
		}
		d.made[to] = made.UID
		if _, err := d.create(ctx, "networking.k8s.io", "v1", "NetworkPolicy", to, denyAll(to, d.id)); err != nil {
			return fmt.Errorf("close namespace %s: %w", to, err)
		}
	}
	return nil
}

func (d *drill) create(ctx context.Context, group, version, kind, namespace string, o any) (*object.Object, error) {
	k, err := d.Restore.Target.FindKind(ctx, group, version, kind)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return d.Restore.Target.Create(ctx, k, namespace, raw, kube.WriteOptions{})
}

// security takes over what a namespace says about how pods may run in it.
func (d *drill) security(ctx context.Context, from string, labels map[string]string) error {
	ref := v1alpha1.Ref{Version: "v1", Kind: "Namespace", Name: from}
	return d.Restore.Repository.ObjectsOf(ctx, *d.Restore.Record, func(r v1alpha1.Ref) bool { return r == ref.Key() }, func(o *object.Object) error {
		for key, value := range o.Labels {
			if strings.HasPrefix(key, "pod-security.kubernetes.io/") {
				labels[key] = value
			}
		}
		return nil
	})
}

// denyAll lets pods talk to the drill's own namespaces and to the cluster's
// DNS. Movers, which are ours and come and go before the application runs, have
// to reach the remote.
func denyAll(namespace, label string) *networkingv1.NetworkPolicy {
	among := []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{labelDrill: label}}}}
	dns := []networkingv1.NetworkPolicyPeer{
		{NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpIn, Values: []string{"kube-system", "openshift-dns"}},
		}}},
		{IPBlock: &networkingv1.IPBlock{CIDR: "169.254.20.10/32"}}, // a cache on the node
	}
	var ports []networkingv1.NetworkPolicyPort
	for _, protocol := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
		for _, n := range []int{53, 5353} {
			port := intstr.FromInt(n)
			ports = append(ports, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port})
		}
	}
	return &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: policyName, Namespace: namespace},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: kube.LabelTemporary, Operator: metav1.LabelSelectorOpDoesNotExist}}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: among}},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{To: among}, {To: dns, Ports: ports}},
		},
	}
}

// serves says whether the target knows a kind, at whatever version.
func (d *drill) serves(ctx context.Context, k kind) (bool, error) {
	_, err := d.Restore.Target.FindKind(ctx, k.group, "", k.kind)
	if errors.As(err, new(*kube.NotServedError)) {
		return false, nil
	}
	return err == nil, err
}
