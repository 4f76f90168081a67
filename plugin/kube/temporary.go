package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	// LabelTemporary marks what a run makes for its own purposes and removes
	// at its end.
	LabelTemporary = "kubectl-backup.io/temporary"
	// LabelRun names the run that made it.
	LabelRun = "kubectl-backup.io/run"
)

// RunLabels are the labels of whatever a run makes in a cluster.
func RunLabels(run string) map[string]string {
	return map[string]string{LabelTemporary: "true", LabelRun: run}
}

// SweepOptions say which leftovers are meant.
type SweepOptions struct {
	Namespace string // empty: all
	// Run, where set, takes only what that run made, whatever its age.
	Run string
	// OlderThan spares what a run that is still going may have made. The
	// server's clock counts, not ours.
	OlderThan time.Duration
	// DryRun only lists.
	DryRun bool
}

// Sweep deletes temporary pods that a run left behind, because it was killed,
// and returns what it deleted. It goes on after an error and returns them all.
func (c *Cluster) Sweep(ctx context.Context, o SweepOptions) ([]v1alpha1.Ref, error) {
	selector := LabelTemporary + "=true"
	if o.Run != "" {
		selector += "," + LabelRun + "=" + o.Run
	}
	now, err := c.now(ctx)
	if err != nil {
		return nil, err
	}
	var left []*object.Object
	_, err = c.List(ctx, pods, ListOptions{Namespace: o.Namespace, LabelSelector: selector}, func(p *object.Object) error {
		var m struct {
			Metadata struct {
				CreationTimestamp time.Time `json:"creationTimestamp"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(p.Raw, &m); err != nil {
			return fmt.Errorf("decode %s: %w", p.Ref, err)
		}
		if o.Run != "" || now.Sub(m.Metadata.CreationTimestamp) > o.OlderThan {
			left = append(left, p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var swept []v1alpha1.Ref
	var problems []error
	for _, p := range left {
		if !o.DryRun {
			if err := c.DeletePod(ctx, p.Ref.Namespace, p.Ref.Name, p.UID); err != nil {
				problems = append(problems, err)
				continue
			}
		}
		swept = append(swept, p.Ref)
	}
	return swept, errors.Join(problems...)
}

// now is the server's time, to the second.
func (c *Cluster) now(ctx context.Context) (time.Time, error) {
	var now time.Time
	err := c.try(ctx, request{verb: "get", method: http.MethodGet, path: []string{"version"}}, func(resp *http.Response) (err error) {
		now, err = http.ParseTime(resp.Header.Get("Date"))
		return err
	})
	return now, err
}
