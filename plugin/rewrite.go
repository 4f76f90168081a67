package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/plugin/source"
	"github.com/kubectl-backup/kubectl-backup/plugin/ui"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// rewriteFlags say how objects change on their way.
type rewriteFlags struct {
	file       string
	namespaces []string
	classes    []string
	images     []string
	hosts      []string
	prefix     string
	suffix     string
}

func (o *rewriteFlags) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.file, "rewrite", "", "file or URL with a RewriteSet")
	f.StringSliceVar(&o.namespaces, "map-namespace", nil, "from=to: another name for a namespace, references following")
	f.StringSliceVar(&o.classes, "map-storage-class", nil, "from=to: another storage class")
	f.StringSliceVar(&o.images, "map-image", nil, "from=to: another registry, or repository in one, for images")
	f.StringSliceVar(&o.hosts, "map-host", nil, "from=to: another host, or .from=.to another domain, for Ingresses and routes")
	f.StringVar(&o.prefix, "name-prefix", "", "put in front of the names of objects, references following")
	f.StringVar(&o.suffix, "name-suffix", "", "put behind the names of objects, references following")
}

// set is the RewriteSet of the file with what the flags add, or nil where
// there is neither.
func (o *rewriteFlags) set(ctx context.Context) (*v1alpha1.RewriteSet, error) {
	if o.file == "" {
		return o.add(nil)
	}
	if o.file == "-" {
		return nil, usagef("--rewrite -: standard input is for objects\nhint: name a file")
	}
	loaded, err := source.Load(ctx, source.Request{Files: []string{o.file}})
	if err != nil {
		return nil, err
	}
	switch sets := loaded.Documents.Rewrites; len(sets) {
	case 0:
		return nil, usagef("--rewrite %s: there is no RewriteSet in it", o.file)
	case 1:
		return o.add(sets[0])
	default:
		return nil, usagef("--rewrite %s: there are %d RewriteSets in it, %s and %s\nhint: one file holds one set", o.file, len(sets), sets[0].At(""), sets[1].At(""))
	}
}

// beside is set without the two maps that a restore takes by themselves: there
// two namespaces may go to one. A set that does not compile is refused here,
// before anything else is asked or read.
func (o *rewriteFlags) beside(ctx context.Context) (*v1alpha1.RewriteSet, error) {
	rest := *o
	rest.namespaces, rest.classes = nil, nil
	set, err := rest.set(ctx)
	if err != nil || set == nil {
		return nil, err
	}
	_, err = rewrite.Compile(set)
	return set, err
}

// add puts what the flags say into a set; a flag that contradicts it is
// refused.
func (o *rewriteFlags) add(set *v1alpha1.RewriteSet) (*v1alpha1.RewriteSet, error) {
	if set == nil {
		if len(o.namespaces)+len(o.classes)+len(o.images)+len(o.hosts) == 0 && o.prefix+o.suffix == "" {
			return nil, nil
		}
		// Flags are for one restore, which may swap names.
		set = &v1alpha1.RewriteSet{ObjectMeta: metav1.ObjectMeta{Name: "flags"}, Spec: v1alpha1.RewriteSetSpec{Once: true}}
	}
	s := &set.Spec
	for _, m := range []struct {
		flag string
		list []string
		into *map[string]string
	}{{"--map-namespace", o.namespaces, &s.Namespaces}, {"--map-storage-class", o.classes, &s.StorageClasses}} {
		mapped, err := pairs(m.flag, m.list)
		if err != nil {
			return nil, err
		}
		for from, to := range mapped {
			if before, twice := (*m.into)[from]; twice && before != to {
				return nil, usagef("%s %s=%s: the RewriteSet %s maps it to %s", m.flag, from, to, set.Name, before)
			}
			if *m.into == nil {
				*m.into = map[string]string{}
			}
			(*m.into)[from] = to
		}
	}
	images, err := pairs("--map-image", o.images)
	if err != nil {
		return nil, err
	}
	for from, to := range images {
		s.Images = append(s.Images, v1alpha1.ImageMap{From: from, To: to})
	}
	hosts, err := pairs("--map-host", o.hosts)
	if err != nil {
		return nil, err
	}
	for from, to := range hosts {
		m := v1alpha1.HostMap{From: from, To: to}
		if strings.HasPrefix(from, ".") {
			m.From, m.Suffix = "", from
		}
		s.Hosts = append(s.Hosts, m)
	}
	if o.prefix+o.suffix != "" {
		if s.Names != nil {
			return nil, usagef("--name-prefix, --name-suffix: the RewriteSet %s gives names already", set.Name)
		}
		s.Names = &v1alpha1.NameChange{Prefix: o.prefix, Suffix: o.suffix}
	}
	return set, nil
}

type rewriteOptions struct {
	env     *env
	rules   rewriteFlags
	files   []string
	explain bool
	output  choice
}

func newRewrite(e *env) *cobra.Command {
	o := &rewriteOptions{env: e, output: newChoice("table", "json", "yaml")}
	c := &cobra.Command{
		Use:   "rewrite --rewrite FILE [-f OBJECTS]",
		Short: "Change manifests by a RewriteSet, as a filter or a KRM function",
		Long: `Change manifests by a RewriteSet, as a filter or a KRM function.

Objects are read from files or standard input, as YAML documents, JSON, a List,
or a ResourceList, and written to standard output in the same form. A document
that no rule changes is written as it was read; one that is changed keeps its
comments and the order of its fields. No cluster is asked.

For a ResourceList the set may also be its functionConfig, and what was changed
is in its results.`,
		Example: e.examples(
			"rewrite --rewrite to-dr.yaml -f manifests/",
			"rewrite --map-namespace shop=shop-copy --map-image docker.io=mirror.example.net/hub -f shop.yaml",
			"rewrite --rewrite to-dr.yaml -f shop.yaml --explain",
			"rewrite --rewrite to-dr.yaml --explain -o json < shop.yaml"),
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.Validate(c.Flags().Changed("output")); err != nil {
				return err
			}
			return o.Run(c.Context())
		},
	}
	o.rules.AddFlags(c.Flags())
	c.Flags().StringArrayVarP(&o.files, "filename", "f", nil, "file or folder with objects, or - (default: standard input)")
	c.Flags().BoolVar(&o.explain, "explain", false, "show which rule changes which field of which object, instead of the objects")
	c.Flags().VarP(&o.output, "output", "o", "format of --explain")
	return c
}

// Validate looks at the flags alone.
func (o *rewriteOptions) Validate(outputGiven bool) error {
	if outputGiven && !o.explain {
		return usagef("-o is for --explain; objects are written as they were read")
	}
	if len(o.files) == 0 && isTerminalInput(o.env.In) {
		return usagef("nothing to rewrite\nhint: name files with -f, or send objects to standard input")
	}
	return nil
}

func isTerminalInput(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && fileIsTerminal(f)
}

// Run rewrites what it reads. Where a rule fails on an object, nothing but the
// explanation or the results of a function is written.
func (o *rewriteOptions) Run(ctx context.Context) error {
	set, err := o.rules.set(ctx)
	if err != nil {
		return err
	}
	manifests, err := o.read()
	if err != nil {
		return err
	}
	if set == nil {
		if set, err = functionSet(manifests); err != nil {
			return err
		}
	}
	rules, err := rewrite.Compile(set)
	if err != nil {
		return err
	}
	report, err := manifests.Rewrite(rules)
	if err != nil {
		return err
	}
	var failed []string
	for _, line := range report.Objects {
		if line.Error != "" {
			failed = append(failed, line.Error)
		}
	}
	switch {
	case o.explain:
		if err := ui.RewriteReport(o.env.Out, report, o.output.value); err != nil {
			return err
		}
		if len(failed) > 0 {
			return &resultError{code: report.ExitCode, message: strings.Join(failed, "\n")}
		}
		return nil
	case manifests.IsResourceList():
		if err := manifests.AddResults(report); err != nil {
			return err
		}
	default:
		o.tell(report)
	}
	if len(failed) > 0 && !manifests.IsResourceList() {
		return errors.New(strings.Join(failed, "\n"))
	}
	if err := manifests.Write(o.env.Out); err != nil {
		return err
	}
	if len(failed) > 0 {
		return &resultError{code: ExitError, message: strings.Join(failed, "\n")}
	}
	return nil
}

// tell writes the warnings to stderr.
func (o *rewriteOptions) tell(report *v1alpha1.RewriteReport) {
	for _, w := range report.Warnings {
		fmt.Fprintf(o.env.ErrOut, "warning: %s\n", w)
	}
	for _, line := range report.Objects {
		for _, w := range slices.Concat(line.Warnings, line.Mentions) {
			fmt.Fprintf(o.env.ErrOut, "warning: %s: %s\n", line.NewRef, w)
		}
	}
}

// functionSet is the set that a ResourceList brings along.
func functionSet(m *rewrite.Manifests) (*v1alpha1.RewriteSet, error) {
	config, err := m.FunctionConfig()
	if err != nil {
		return nil, err
	}
	if config == nil {
		return nil, usagef("there are no rules\nhint: name a file with a RewriteSet with --rewrite, or write --map-namespace, --map-image ...")
	}
	documents, err := v1alpha1.Decode("functionConfig", config)
	if err != nil {
		return nil, err
	}
	if len(documents.Rewrites) != 1 {
		return nil, usagef("the functionConfig is no RewriteSet")
	}
	return documents.Rewrites[0], nil
}

func (o *rewriteOptions) read() (*rewrite.Manifests, error) {
	m := &rewrite.Manifests{}
	files := o.files
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files {
		if name == "-" {
			data, err := io.ReadAll(o.env.In)
			if err != nil {
				return nil, fmt.Errorf("read standard input: %w", err)
			}
			if err := m.Read("standard input", data); err != nil {
				return nil, err
			}
			continue
		}
		err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || path != name && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return m.Read(path, bytes.TrimPrefix(data, []byte("\ufeff")))
		})
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}
