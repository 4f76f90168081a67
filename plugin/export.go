package plugin

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

type exportOptions struct {
	env     *env
	spec    specFlags
	which   whichFlags
	folder  string
	raw     bool
	objects objectFilter
}

func newExport(e *env) *cobra.Command {
	o := &exportOptions{env: e}
	c := &cobra.Command{
		Use:   "export ID|latest",
		Short: "Write a backup's objects as YAML that kubectl can apply",
		Long: `Write a backup's objects as YAML that kubectl can apply.

To a folder that is empty or not there yet, or as a tar archive to stdout.
Fields that a server assigns are left out; --raw keeps each object as it was.`,
		Example:           e.examples("export latest -f backup.yaml --to ./shop", "export latest --remote /mnt/backups > shop.tar", `export latest --remote /mnt/backups --to ./one --filter 'ref.kind == "Secret"'`),
		Args:              exactArgs("ID|latest"),
		ValidArgsFunction: completeIDs(e, &o.spec),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.Validate(); err != nil {
				return err
			}
			return o.Run(c.Context(), args[0])
		},
	}
	o.spec.AddFlags(c.Flags())
	o.which.AddFlags(c.Flags())
	o.objects.AddFlags(c.Flags())
	c.Flags().StringVar(&o.folder, "to", "", "folder to write to (default: a tar archive on stdout)")
	c.Flags().BoolVar(&o.raw, "raw", false, "write objects exactly as they were stored")
	return c
}

// Validate looks at the flags alone.
func (o *exportOptions) Validate() error {
	if o.folder == "" && isTerminal(o.env.Out) {
		return usagef("export would write a tar archive to the terminal\nhint: name a folder with --to, or send stdout to a file")
	}
	return o.objects.Complete()
}

// Run writes one file per object.
func (o *exportOptions) Run(ctx context.Context, id string) error {
	repo, _, record, err := o.which.open(ctx, o.env, &o.spec, id)
	if err != nil {
		return err
	}
	defer repo.Close(context.WithoutCancel(ctx))
	write, finish, err := o.sink(record.Started)
	if err != nil {
		return err
	}
	count := 0
	err = repo.ObjectsOf(ctx, record, nil, func(ob *object.Object) error {
		if ok, err := o.objects.Match(ctx, ob); err != nil || !ok {
			return err
		}
		if owner, owned := ob.Controller(); owned && owner.Kind == "Pod" && !o.raw {
			fmt.Fprintf(o.env.ErrOut, "left out: %s: pod %s makes it for itself, and does not start where it is there already (--raw has it)\n", ob.Ref, owner.Name)
			return nil
		}
		text, err := o.manifest(ob)
		if err != nil {
			return fmt.Errorf("export %s: %w", ob.Ref, err)
		}
		count++
		return write(exportName(ob.Ref), text)
	})
	if err := errors.Join(err, finish()); err != nil {
		return err
	}
	if count == 0 {
		return usagef("no object of backup %s matches", record.ID)
	}
	for _, w := range o.objects.unmatched() {
		fmt.Fprintf(o.env.ErrOut, "warning: %s\n", w)
	}
	fmt.Fprintf(o.env.ErrOut, "exported %d objects of backup %s\n", count, record.ID)
	return nil
}

func (o *exportOptions) manifest(ob *object.Object) ([]byte, error) {
	raw := ob.Raw
	if !o.raw {
		cleaned, err := rewrite.Manifest(ob, rewrite.CleanOptions{NewVolume: true})
		if err != nil {
			return nil, err
		}
		raw = cleaned
	}
	return yaml.JSONToYAML(raw)
}

// sink is where the files go: a folder, or a tar archive on stdout.
func (o *exportOptions) sink(modified time.Time) (write func(string, []byte) error, finish func() error, err error) {
	if o.folder == "" {
		out := tar.NewWriter(o.env.Out)
		write = func(name string, text []byte) error {
			if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text)), ModTime: modified, Typeflag: tar.TypeReg}); err != nil {
				return err
			}
			_, err := out.Write(text)
			return err
		}
		return write, out.Close, nil
	}
	if empty, err := emptyFolder(o.folder); err != nil {
		return nil, nil, err
	} else if !empty {
		return nil, nil, usagef("folder %s is not empty\nhint: name one that is", o.folder)
	}
	write = func(name string, text []byte) error {
		path := filepath.Join(o.folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		// Secrets may be in it. O_EXCL: two objects never share a file.
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		return errors.Join(err, f.Close())
	}
	return write, func() error { return nil }, nil
}

// exportName is a path for an object: namespace, kind, name. Names that some
// file systems refuse or do not tell apart are written with escapes.
func exportName(r v1alpha1.Ref) string {
	folder := "cluster"
	if r.Namespace != "" {
		folder = "namespaces/" + safeName(r.Namespace)
	}
	kind := strings.ToLower(r.Kind)
	if r.Group != "" {
		kind += "." + r.Group
	}
	return folder + "/" + kind + "/" + safeName(r.Name) + ".yaml"
}

// safeName keeps a-z, 0-9, dot and dash and writes every other byte as _xx, so
// that two names never meet on a file system that ignores case.
func safeName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	// A name may have 253 bytes, and escapes make it longer than a file's.
	if out := b.String(); len(out) <= 200 {
		return out
	}
	return b.String()[:180] + "_" + shortHash(s)
}
