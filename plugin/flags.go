package plugin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/kopia/kopia/repo/blob"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/remote"
	"github.com/kubectl-backup/kubectl-backup/plugin/repository"
	"github.com/kubectl-backup/kubectl-backup/plugin/source"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Environment variables that stand in for flags.
const (
	envRemote   = "KUBECTL_BACKUP_REMOTE"
	envPassword = "KUBECTL_BACKUP_PASSWORD"
	envImage    = "KUBECTL_BACKUP_IMAGE"
)

func fileIsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// choice is a flag that takes one of a few words.
type choice struct {
	value   string
	allowed []string
}

func newChoice(value string, others ...string) choice {
	return choice{value: value, allowed: append([]string{value}, others...)}
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return strings.Join(c.allowed, "|") }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("must be one of %s", strings.Join(c.allowed, ", "))
	}
	c.value = s
	return nil
}

// specFlags say where the policy and the remote come from.
type specFlags struct {
	files        []string
	kustomize    string
	policy       string
	remote       string
	passwordFile string
}

func (o *specFlags) AddFlags(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.files, "filename", "f", nil, "file, folder, URL, git::URL//path?ref=REF or - with the policy and remote")
	f.StringVarP(&o.kustomize, "kustomize", "k", "", "folder with a kustomization that yields them")
	o.addRemoteFlags(f)
}

func (o *specFlags) addRemoteFlags(f *pflag.FlagSet) {
	f.StringVar(&o.remote, "remote", "", "name of a BackupRemote in the spec, an rclone remote:path, or a local path (env "+envRemote+")")
	f.StringVar(&o.passwordFile, "password-file", "", "file with the repository's password (env "+envPassword+" holds the password itself)")
}

func (o *specFlags) addPolicyFlag(f *pflag.FlagSet) {
	f.StringVar(&o.policy, "policy", "", "name of the policy, where the spec holds several")
}

// spec is what specFlags lead to.
type spec struct {
	documents  *v1alpha1.Documents
	policy     *v1alpha1.BackupPolicy
	remote     *v1alpha1.BackupRemote
	provenance *v1alpha1.Provenance
	// conf and password are known once the repository was opened.
	conf     []byte
	password string
}

// validate looks at the flags alone.
func (o *specFlags) validate() error {
	if len(o.files) > 0 && o.kustomize != "" {
		return usagef("-f and -k cannot be used together")
	}
	return nil
}

// secretCluster connects to the cluster where the remote keeps something in a
// Secret, and returns nil where it does not.
func (o *specFlags) secretCluster(e *env, s *spec) (*kube.Cluster, error) {
	from := s.remote.Spec.PasswordFrom
	if s.remote.Spec.ConfigSecretRef == nil && (from == nil || from.SecretRef == nil || o.passwordFile != "") {
		return nil, nil
	}
	return e.cluster()
}

// load reads the documents; wantPolicy says whether a policy must come of it.
func (o *specFlags) load(ctx context.Context, e *env, wantPolicy bool) (*spec, error) {
	s := &spec{documents: &v1alpha1.Documents{}}
	if len(o.files) > 0 || o.kustomize != "" {
		loaded, err := source.Load(ctx, source.Request{Files: o.files, Kustomize: o.kustomize, Stdin: e.In})
		if err != nil {
			return nil, err
		}
		s.documents = loaded.Documents
		if wantPolicy {
			if s.policy, err = s.documents.Policy(o.policy); err != nil {
				return nil, err
			}
			p := loaded.ProvenanceOf(s.policy)
			s.provenance = &p
		}
	} else if wantPolicy {
		return nil, usagef("no policy was given\nhint: name a file, folder or Git repository with -f")
	}
	return s, o.resolveRemote(s)
}

// resolveRemote finds the remote: the flag, then the policy, then the
// environment, then the only remote there is.
func (o *specFlags) resolveRemote(s *spec) error {
	name := o.remote
	if name == "" && s.policy != nil && s.policy.Spec.Remote.Name != "" {
		_, r, err := s.documents.Resolve(o.policy)
		s.remote = r
		return err
	}
	if name == "" {
		name = os.Getenv(envRemote)
	}
	if name == "" {
		r, err := s.documents.Remote("")
		s.remote = r
		return err
	}
	if r, err := s.documents.Remote(name); err == nil {
		s.remote = r
		return nil
	} else if !strings.ContainsAny(name, ":/.") {
		return err
	}
	s.remote = &v1alpha1.BackupRemote{Spec: v1alpha1.BackupRemoteSpec{Path: name}}
	s.remote.Name = v1alpha1.RedactPath(name) // it stands in reports
	return nil
}

// openStorage opens the remote. c is needed where the remote's configuration
// or password is in a Secret, and may be nil otherwise.
func (o *specFlags) openStorage(ctx context.Context, s *spec, c *kube.Cluster) (blob.Storage, error) {
	var conf []byte
	if ref := s.remote.Spec.ConfigSecretRef; ref != nil {
		value, err := readSecret(ctx, c, *ref, s.remote.Namespace)
		if err != nil {
			return nil, fmt.Errorf("remote %s: spec.configSecretRef: %w", s.remote.Name, err)
		}
		conf = value
	}
	s.conf = conf
	storage, err := remote.Open(ctx, s.remote.Spec, conf)
	return storage, placed(err, s.remote)
}

// openRepository opens the remote and the repository in it.
func (o *specFlags) openRepository(ctx context.Context, e *env, s *spec, c *kube.Cluster, readOnly bool) (*repository.Repository, error) {
	password, err := o.password(ctx, e, s, c, false)
	if err != nil {
		return nil, err
	}
	s.password = password
	storage, err := o.openStorage(ctx, s, c)
	if err != nil {
		return nil, err
	}
	r, err := repository.Open(ctx, storage, password, repository.OpenOptions{ReadOnly: readOnly})
	switch {
	case errors.Is(err, repository.ErrNoRepository):
		return nil, fmt.Errorf("remote %s: %w\nhint: make one with %s init", s.remote.Name, err, e.name)
	case err != nil:
		return nil, fmt.Errorf("remote %s: %w", s.remote.Name, err)
	}
	for _, w := range r.Warnings() {
		fmt.Fprintf(e.ErrOut, "warning: remote %s: %s\n", s.remote.Name, w)
	}
	return r, nil
}

// password finds the repository's password: --password-file, the spec, the
// environment, a prompt on a terminal. twice asks for it again, for init.
func (o *specFlags) password(ctx context.Context, e *env, s *spec, c *kube.Cluster, twice bool) (string, error) {
	if o.passwordFile != "" {
		return passwordFromFile(o.passwordFile)
	}
	if from := s.remote.Spec.PasswordFrom; from != nil {
		switch {
		case from.Env != "":
			value, ok := os.LookupEnv(from.Env)
			if !ok || value == "" {
				return "", usagef("remote %s: spec.passwordFrom.env: the variable %s is not set\nhint: export it, or name a file with --password-file", s.remote.Name, from.Env)
			}
			return value, nil
		case from.File != "":
			return passwordFromFile(from.File)
		case from.SecretRef != nil:
			value, err := readSecret(ctx, c, *from.SecretRef, s.remote.Namespace)
			if err != nil {
				return "", fmt.Errorf("remote %s: spec.passwordFrom.secretRef: %w", s.remote.Name, err)
			}
			return string(value), nil
		}
	}
	if value := os.Getenv(envPassword); value != "" {
		return value, nil
	}
	in, ok := e.In.(*os.File)
	if !ok || !fileIsTerminal(in) {
		return "", usagef("no password for the repository at remote %s\nhint: set %s, name a file with --password-file, or give the remote spec.passwordFrom", s.remote.Name, envPassword)
	}
	first, err := prompt(e.ErrOut, in, "password of the repository: ")
	if err != nil || !twice {
		return first, err
	}
	second, err := prompt(e.ErrOut, in, "the same again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", usagef("the two passwords differ")
	}
	return first, nil
}

func prompt(out io.Writer, in *os.File, text string) (string, error) {
	fmt.Fprint(out, text)
	value, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(out)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return string(value), nil
}

// passwordFromFile reads the first line of a file.
func passwordFromFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", usagef("password file: %w", err)
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", usagef("password file %s: %w", path, err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", usagef("password file %s: its first line is empty", path)
	}
	return line, nil
}

func readSecret(ctx context.Context, c *kube.Cluster, ref v1alpha1.SecretKeyRef, namespace string) ([]byte, error) {
	if c == nil {
		return nil, errors.New("no cluster to read the Secret from")
	}
	if ref.Namespace != "" {
		namespace = ref.Namespace
	}
	if namespace == "" {
		return nil, usagef("secret %s: namespace is not set", ref.Name)
	}
	secret, err := c.Typed().CoreV1().Secrets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	value, ok := secret.Data[ref.Key]
	if !ok {
		return nil, fmt.Errorf("secret %s/%s has no key %q", namespace, ref.Name, ref.Key)
	}
	return value, nil
}
