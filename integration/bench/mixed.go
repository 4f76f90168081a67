package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"
)

const mixedPolicy = `
apiVersion: kubectl-backup.io/v1alpha1
kind: BackupPolicy
metadata: {name: bench-mixed}
spec:
  select:
  - name: all
    kinds: [ConfigMap, Secret, ServiceAccount, Role, RoleBinding, Service, Ingress, NetworkPolicy, Deployment]
    namespaces: [mixed]
    labelSelector: {matchLabels: {made-by: bench}}
`

// mixed compares restoring objects of many kinds that refer to each other
// with a bare loop of creates of the same objects by as many workers. Both last
// until the controller of the Deployments has seen them all: a restore waits
// for that.
func (o *objectBench) mixed(ctx context.Context) error {
	const from = "mixed"
	say("creating %d objects of nine kinds", few)
	if _, err := o.createMixed(ctx, from); err != nil {
		return err
	}
	remote := o.remote(from)
	if err := o.plugin.init(ctx, "--remote", remote); err != nil {
		return err
	}
	spec, err := o.policy("mixed.yaml", mixedPolicy)
	if err != nil {
		return err
	}
	_, d, err := o.plugin.call(ctx, "run", "-f", spec, "--remote", remote)
	if err != nil {
		return err
	}
	if len(d.Objects) < few {
		return fmt.Errorf("the run has %d of %d objects", len(d.Objects), few)
	}
	var pairs []pair
	for n := range o.runs {
		say("restore %d of %d: %d objects of nine kinds", n+1, o.runs, few)
		theirs, err := o.createMixed(ctx, fmt.Sprintf("created-mixed-%d", n))
		if err != nil {
			return err
		}
		u, err := o.back(ctx, remote, from, fmt.Sprintf("restored-mixed-%d", n), few)
		if err != nil {
			return err
		}
		pairs = append(pairs, pair{u.seconds, theirs})
	}
	o.results.add(fmt.Sprintf("restore of %d objects of nine kinds", few), fmt.Sprintf("creates by %d workers", workers), "objects per second / objects per second",
		atLeast(0.8), pairs, faster, "%.1f s, creates %.1f s")
	return nil
}

// createMixed returns the seconds of a bare loop of creates in a new
// namespace.
func (o *objectBench) createMixed(ctx context.Context, namespace string) (float64, error) {
	if err := o.namespace(ctx, namespace); err != nil {
		return 0, err
	}
	started := time.Now()
	err := creates(ctx, 0, few, func(ctx context.Context, n int) error { return o.createOne(ctx, namespace, n) })
	if err != nil {
		return 0, err
	}
	err = o.observed(ctx, namespace)
	return time.Since(started).Seconds(), err
}

// observed waits until every Deployment of a namespace has been seen by its
// controller.
func (o *objectBench) observed(ctx context.Context, namespace string) error {
	return wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 5*time.Minute, true, func(ctx context.Context) (bool, error) {
		list, err := o.typed.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, d := range list.Items {
			if d.Status.ObservedGeneration < d.Generation {
				return false, nil
			}
		}
		return true, nil
	})
}

// createOne creates the n-th object of many kinds. Of twenty that follow each
// other, those of other kinds refer to the first of theirs.
func (o *objectBench) createOne(ctx context.Context, namespace string, n int) (err error) {
	small := smallObject(n)
	meta, first := small.ObjectMeta, numbered(n-n%20)
	options := metav1.CreateOptions{}
	switch n % 20 {
	default:
		_, err = o.typed.CoreV1().ConfigMaps(namespace).Create(ctx, small, options)
	case 8, 9, 10, 11:
		_, err = o.typed.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: small.Data}, options)
	case 12:
		_, err = o.typed.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, options)
	case 13:
		_, err = o.typed.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta,
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{first}, Verbs: []string{"get", "list", "watch"}}}}, options)
	case 14:
		_, err = o.typed.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: numbered(n - 1)},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: numbered(n - 2)}}}, options)
	case 15, 16:
		// Without an address: the range of the clusters' is small.
		_, err = o.typed.CoreV1().Services(namespace).Create(ctx, &corev1.Service{ObjectMeta: meta,
			Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": first}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}, options)
	case 17:
		_, err = o.typed.NetworkingV1().Ingresses(namespace).Create(ctx, &networkingv1.Ingress{ObjectMeta: meta,
			Spec: networkingv1.IngressSpec{DefaultBackend: &networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: numbered(n - 1), Port: networkingv1.ServiceBackendPort{Name: "http"}}}}}, options)
	case 18:
		_, err = o.typed.NetworkingV1().NetworkPolicies(namespace).Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: meta,
			Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": first}}}}, options)
	case 19:
		labels := map[string]string{"app": first}
		_, err = o.typed.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](0),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				ServiceAccountName: numbered(n - 7),
				Containers: []corev1.Container{{Name: "main", Image: "localhost/busybox:dev", EnvFrom: []corev1.EnvFromSource{
					{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: first}}}}}},
			}},
		}}, options)
	}
	return err
}
