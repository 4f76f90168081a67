package mover

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/blocks"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

// tokenLife is how long the token of a mover is good for asking which blocks
// hold data: it has to start, and may have to ask again. It ends earlier, with
// its account.
const tokenLife = time.Hour

// source is where the mover of a Job is told which blocks hold data, with a
// token for it. The pod itself gets no right by that: the token is for nobody but
// the service.
//
// The token is of an account that belongs to the Job, goes with it, and may do
// nothing but get the snapshots of the namespace, which is what the service
// wants. Who may not make one can have a token of the mover's own account, which
// then needs that right: note says so, should the service refuse it.
func (r *JobRequest) source(ctx context.Context, c *kube.Cluster, job, uid string) (s *blocks.Source, note string, err error) {
	account := job
	unmade := r.makeAccount(ctx, c, job, uid)
	if unmade != nil {
		account = cmp.Or(r.Mover.ServiceAccountName, "default")
		note = fmt.Sprintf("asked as account %s, which would have to be allowed to get volumesnapshots, since none could be made for that: %s", account, unmade)
	}
	seconds := int64(tokenLife / time.Second)
	made, err := c.Typed().CoreV1().ServiceAccounts(r.Namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{r.Blocks.Audience}, ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	switch {
	case err != nil && unmade != nil:
		return nil, "", fmt.Errorf("no account to ask the service as could be made: %w; and there is no token of account %s for it: %w", unmade, account, err)
	case err != nil:
		return nil, "", fmt.Errorf("there is no token of account %s for the service: %w", account, err)
	}
	return &blocks.Source{
		Address: r.Blocks.Address, CA: r.Blocks.CA, Token: made.Status.Token, Namespace: r.Namespace, Snapshot: r.Snapshot,
	}, note, nil
}

// makeAccount makes an account that belongs to a Job, with its one right.
func (r *JobRequest) makeAccount(ctx context.Context, c *kube.Cluster, job, uid string) error {
	meta := r.owned(job, uid)
	no := false
	rbac := rbacv1.SchemeGroupVersion
	for _, o := range []struct {
		group, kind string
		object      any
	}{
		{"", "ServiceAccount", &corev1.ServiceAccount{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: meta, AutomountServiceAccountToken: &no,
		}},
		{rbac.Group, "Role", &rbacv1.Role{
			TypeMeta: metav1.TypeMeta{APIVersion: rbac.String(), Kind: "Role"}, ObjectMeta: meta,
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{snapshots}, Resources: []string{"volumesnapshots"}, Verbs: []string{"get"}}},
		}},
		{rbac.Group, "RoleBinding", &rbacv1.RoleBinding{
			TypeMeta: metav1.TypeMeta{APIVersion: rbac.String(), Kind: "RoleBinding"}, ObjectMeta: meta,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbac.Group, Kind: "Role", Name: job},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: job, Namespace: r.Namespace}},
		}},
	} {
		k, err := c.FindKind(ctx, o.group, "v1", o.kind)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(o.object)
		if err != nil {
			return err
		}
		if _, err := c.Create(ctx, k, r.Namespace, raw, kube.WriteOptions{}); err != nil {
			return err
		}
	}
	return nil
}
