package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/kubectl-backup/kubectl-backup/plugin/plan"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
)

// whichFlags narrow what latest means.
type whichFlags struct {
	at    string
	where string
}

func (o *whichFlags) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.at, "at", "", "latest is the newest at or before then: RFC 3339, a date (its end, UTC), or a time ago such as -2h or '3d ago'")
	f.StringVar(&o.where, "where", "", "latest is the newest for which this CEL expression holds, over the same constants as the --filter of list")
}

// open opens the repository, which the caller closes, and finds a backup in it.
func (o *whichFlags) open(ctx context.Context, e *env, flags *specFlags, id string) (*repository.Repository, *spec, repository.Record, error) {
	repo, s, err := flags.open(ctx, e, true)
	if err != nil {
		return nil, nil, repository.Record{}, err
	}
	record, err := o.find(ctx, repo, s, id, "")
	if err != nil {
		repo.Close(context.WithoutCancel(ctx))
		return nil, nil, record, err
	}
	return repo, s, record, nil
}

// find resolves an id, the beginning of one, or latest. clusterUID limits
// latest to one cluster's backups; empty means all. Where all policies of the
// spec are those of namespaces, latest is a backup by one of them: what others
// saved with the same remote is somebody else's. What latest finds is never
// damaged, and from the future only where there is nothing else.
func (o *whichFlags) find(ctx context.Context, repo *repository.Repository, s *spec, id, clusterUID string) (repository.Record, error) {
	if id != "latest" {
		if o.at != "" || o.where != "" {
			return repository.Record{}, usagef("--at and --where say which backup latest is, and %q names one already", id)
		}
		r, err := matchRecord(ctx, repo, id)
		if err == nil && r.Damaged != "" {
			err = fmt.Errorf("backup %s is damaged: %s", r.ID, r.Damaged)
		}
		return r, err
	}
	wanted, err := o.accept(ctx, time.Now())
	if err != nil {
		return repository.Record{}, err
	}
	tenants := s.tenants()
	var failed error
	r, err := repo.Latest(ctx, func(r repository.Record) bool {
		if clusterUID != "" && r.Cluster.UID != clusterUID || len(tenants) > 0 && !slices.Contains(tenants, r.Policy) {
			return false
		}
		ok, err := wanted(&r)
		failed = errors.Join(failed, err)
		return ok
	})
	switch {
	case failed != nil:
		return r, failed
	case !errors.Is(err, repository.ErrNoRecord):
		return r, err
	case len(tenants) > 0:
		return r, fmt.Errorf("%w by policy %s\nhint: list shows all; name one by its id, or give the remote without a policy of a namespace", err, strings.Join(tenants, " or "))
	case o.at != "" || o.where != "":
		return r, fmt.Errorf("%w that --at, --where and the cluster allow\nhint: list shows all, and --from-cluster any takes those of every cluster", err)
	case clusterUID != "":
		return r, fmt.Errorf("%w of cluster %s\nhint: name a backup by its id, or another cluster with --from-cluster", err, clusterUID)
	}
	return r, fmt.Errorf("%w: the repository holds none that can be read\nhint: run makes one, and list shows them", err)
}

// tenants are the names of the policies in the spec, as records have them, where
// each is one of a namespace.
func (s *spec) tenants() (names []string) {
	for _, p := range s.documents.Policies {
		if p.Namespace == "" {
			return nil
		}
		names = append(names, plan.PolicyName(p))
	}
	return names
}

// accept compiles the flags. An expression that fails on a record is an error
// and never a silent no.
func (o *whichFlags) accept(ctx context.Context, now time.Time) (func(*repository.Record) (bool, error), error) {
	var until time.Time
	if o.at != "" {
		at, err := parseMoment(o.at, now)
		if err != nil {
			return nil, usagef("--at %q: %w", o.at, err)
		}
		until = at
	}
	var filter *selector.Filter
	if o.where != "" {
		f, err := selector.CompileFilter(o.where, recordFacts)
		if err != nil {
			return nil, usagef("--where: %w", err)
		}
		filter = f
	}
	return func(r *repository.Record) (bool, error) {
		if !until.IsZero() && r.Time.After(until) {
			return false, nil
		}
		if filter == nil {
			return true, nil
		}
		ok, err := filter.Match(ctx, factsOf(r))
		if err != nil {
			return false, fmt.Errorf("--where on backup %s: %w", r.ID, err)
		}
		return ok, nil
	}, nil
}

// parseMoment reads a time as people write it.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1).Add(-time.Nanosecond), nil
	}
	ago, relative := strings.CutPrefix(text, "-")
	if !relative {
		ago, relative = strings.CutSuffix(text, "ago")
	}
	if relative {
		if d, err := parseAge(strings.TrimSpace(ago)); err == nil {
			return now.Add(-d), nil
		}
	}
	return time.Time{}, errors.New("write 2026-01-31T02:00:00Z, 2026-01-31, -2h or '2h ago'")
}

// parseAge is time.ParseDuration with days and weeks before the rest.
func parseAge(text string) (time.Duration, error) {
	var days time.Duration
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		number, rest, ok := strings.Cut(text, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return 0, err
		}
		if days, text = time.Duration(n)*length, rest; text == "" {
			return days, nil
		}
		break
	}
	d, err := time.ParseDuration(text)
	if err == nil && d < 0 {
		err = errors.New("it lies in the future")
	}
	return days + d, err
}
