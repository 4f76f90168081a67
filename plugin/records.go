package plugin

import (
	"context"
	"errors"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
)

// open loads the spec, where there is one, and opens the repository. The
// cluster is asked only for a remote that keeps something in a Secret.
func (o *specFlags) open(ctx context.Context, e *env, readOnly bool) (*repository.Repository, *spec, error) {
	if err := o.validate(); err != nil {
		return nil, nil, err
	}
	s, err := o.load(ctx, e, false)
	if err != nil {
		return nil, nil, err
	}
	cluster, err := o.secretCluster(e, s)
	if err != nil {
		return nil, nil, err
	}
	repo, err := o.openRepository(ctx, e, s, cluster, readOnly)
	return repo, s, err
}

// matchRecord finds the one record that an id, or the beginning of one, names.
// A whole id is asked for by its name: the remote's listings may be late.
func matchRecord(ctx context.Context, repo *repository.Repository, id string) (repository.Record, error) {
	r, err := repo.Record(ctx, id)
	switch {
	case errors.Is(err, repository.ErrDamaged):
		return r, nil
	case !errors.Is(err, repository.ErrNoRecord):
		return r, err
	}
	var found []repository.Record
	err = repo.Records(ctx, func(r repository.Record) error {
		if strings.HasPrefix(r.ID, id) {
			found = append(found, r)
		}
		return nil
	})
	switch {
	case err != nil:
		return repository.Record{}, err
	case len(found) == 0:
		return repository.Record{}, usagef("there is no backup %q\nhint: list shows the ids", id)
	case len(found) > 1:
		return repository.Record{}, usagef("%d backups begin with %q, the first is %s\nhint: give more of the id", len(found), id, found[0].ID)
	}
	return found[0], nil
}
