package plugin

import (
	"context"
	"fmt"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/spf13/cobra"

	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/selector"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
)

type listOptions struct {
	env    *env
	spec   specFlags
	output choice
	filter string
}

// recordFacts are the variables of --filter: the constants of a backup.
var recordFacts = map[string]*selector.Type{
	"id": cel.StringType, "time": cel.TimestampType, "cluster": cel.StringType, "version": cel.StringType, "context": cel.StringType,
	"policy": cel.StringType, "labels": cel.MapType(cel.StringType, cel.StringType), "url": cel.StringType, "ref": cel.StringType, "commit": cel.StringType,
	"tool": cel.StringType, "result": cel.StringType,
	"namespaces": cel.ListType(cel.StringType), "nodes": cel.ListType(cel.StringType), "pods": cel.ListType(cel.StringType), "containers": cel.ListType(cel.StringType),
}

func newList(e *env) *cobra.Command {
	o := &listOptions{env: e, output: newChoice("table", "wide", "json", "yaml")}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the backups in a repository",
		Long: `List the backups in a repository, oldest first.

--filter is a CEL expression over what identifies a backup: id, time (a
timestamp), cluster (its UID), version, context, policy, labels, url, ref,
commit, tool, result, and the lists namespaces, nodes, pods and containers.`,
		Example: e.examples(
			"list -f backup.yaml",
			`list --remote /mnt/backups --filter 'policy == "shop-gold" && time > timestamp("2026-01-31T00:00:00Z")'`,
			`list --remote store:bucket/prod --filter 'pods.exists(p, p.startsWith("db-"))' -o wide`),
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error { return o.Run(c.Context()) },
	}
	o.spec.AddFlags(c.Flags())
	c.Flags().StringVar(&o.filter, "filter", "", "CEL expression over the constants of a backup")
	c.Flags().VarP(&o.output, "output", "o", "output format")
	return c
}

// Run lists the records that the filter accepts. A damaged one is always
// listed: what cannot be read cannot be filtered.
func (o *listOptions) Run(ctx context.Context) error {
	var filter *selector.Filter
	if o.filter != "" {
		f, err := selector.CompileFilter(o.filter, recordFacts)
		if err != nil {
			return usagef("--filter: %w", err)
		}
		filter = f
	}
	repo, _, err := o.spec.open(ctx, o.env, true)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	var records []repository.Record
	err = repo.Records(ctx, func(r repository.Record) error {
		if filter != nil && r.Damaged == "" {
			ok, err := filter.Match(ctx, factsOf(&r))
			if err != nil {
				return fmt.Errorf("--filter on backup %s: %w", r.ID, err)
			}
			if !ok {
				return nil
			}
		}
		records = append(records, r)
		return nil
	})
	if err != nil {
		return err
	}
	verdicts, err := repo.Verdicts(ctx, "")
	if err != nil {
		return err
	}
	rows := make([]ui.Backup, 0, len(records))
	for _, r := range records {
		row := ui.Backup{
			ID: r.ID, Time: r.Time.UTC().Format(time.RFC3339), Result: string(r.Result), Policy: r.Policy, Cluster: r.Cluster.UID,
			Version: r.Cluster.Version, Commit: commitOf(&r), Objects: r.Objects, Volumes: len(r.Volumes), Bytes: r.ObjectBytes, Stored: r.Stored,
			Seconds: took(&r).Seconds(), Damaged: r.Damaged, Warnings: r.Warnings, Empty: emptyClaims(&r), Labels: r.Labels,
		}
		if v, drilled := verdicts[r.ID]; drilled {
			row.Drill = &v
		}
		for _, v := range r.Volumes {
			row.Bytes += v.Bytes
		}
		rows = append(rows, row)
	}
	return ui.Backups(o.env.Out, rows, o.output.value)
}

// emptyClaims are the claims whose volumes held nothing when they were saved,
// or one path without content. That of a pod may well.
func emptyClaims(r *repository.Record) (names []string) {
	for _, v := range r.Volumes {
		if v.Ref.Kind == "PersistentVolumeClaim" && !v.Block && v.Files <= 1 && v.Bytes == 0 {
			names = append(names, v.Name())
		}
	}
	return names
}

// took is how long a run was on its way, or nothing where its clock was set back
// meanwhile.
func took(r *repository.Record) time.Duration { return max(0, r.Finished.Sub(r.Started)) }

func commitOf(r *repository.Record) string {
	if r.Source == nil {
		return ""
	}
	return r.Source.Commit
}

// factsOf gives a record's constants the names that recordFacts declares.
func factsOf(r *repository.Record) map[string]any {
	facts := map[string]any{
		"id": r.ID, "time": r.Time, "cluster": r.Cluster.UID, "version": r.Cluster.Version, "context": r.Cluster.Context,
		"policy": r.Policy, "labels": r.Labels, "url": "", "ref": "", "commit": commitOf(r), "tool": r.ToolVersion, "result": string(r.Result),
		"namespaces": orEmpty(r.Namespaces), "nodes": orEmpty(r.Nodes), "pods": orEmpty(r.Pods), "containers": orEmpty(r.Containers),
	}
	if r.Labels == nil {
		facts["labels"] = map[string]string{}
	}
	if r.Source != nil {
		facts["url"], facts["ref"] = r.Source.URL, r.Source.Ref
	}
	return facts
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
