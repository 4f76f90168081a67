package plugin

import (
	"context"
	"fmt"

	"github.com/kubectl-backup/kubectl-backup/plugin/mover"
	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// transport says how movers in the cluster reach the remote whose repository
// was opened, or why they cannot.
func (s *spec) transport(ctx context.Context, repo *repository.Repository, m v1alpha1.Mover) (mover.Transport, error) {
	t := mover.Transport{Required: m.Transport == v1alpha1.TransportJob, Mover: m}
	if m.Transport == v1alpha1.TransportStream {
		t.Reason = "spec.mover.transport is Stream"
		return t, nil
	}
	portable, err := remote.MakePortable(s.remote.Spec, s.conf, mover.TaskFolder)
	if err != nil {
		t.Reason = err.Error()
		return t, nil
	}
	t.Task = &mover.Task{Remote: portable.Spec, Environment: portable.Environment, Files: portable.Files}
	if t.Task.Key, err = repo.Key(ctx); err != nil {
		return t, fmt.Errorf("remote %s: %w", s.remote.Name, err)
	}
	if t.Task.Key == nil {
		t.Task.Password = s.password
	}
	if portable.Loopback != "" {
		t.Reason = "it is at " + portable.Loopback + ", which is another machine in the cluster"
	}
	return t, nil
}

// moverOf is what a policy among the documents says about movers, if it is
// there: a restore needs no policy.
func (s *spec) moverOf(policy string) v1alpha1.Mover {
	if p, err := s.documents.Policy(policy); err == nil {
		return p.Spec.Mover
	}
	return v1alpha1.Mover{}
}
