// Package freeze makes pods quiet while their volumes are cut, and sees to it
// that they do not stay so.
//
// A held session is one exec into a container. A small script there freezes by
// a recipe or a command, says so, waits for the end of its input or of its
// time to live, and thaws, once. Whatever ends on this side, be it this
// program, the connection, the API server or the node's agent, ends the
// script's input or leaves it to the time to live.
//
// The package decides neither what is frozen nor in which order, and cuts
// nothing. It cannot help where the container itself ends while something
// outlives it, as a frozen file system does.
package freeze

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/recipes"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Target is one hook in one pod.
type Target struct {
	// Group, Hook and Scope are for the report.
	Group, Hook, Scope string
	// Run is the backup that it is for, if others may be made at the same time:
	// one waits for the other then, as long as Timeout allows.
	Run            string
	Namespace, Pod string
	// Container is where it runs; empty means the recipe's choice, else the
	// pod's default container.
	Container string
	// Recipe, or Before and After.
	Recipe        *v1alpha1.BackupRecipe
	Before, After []string
	// TTL and Timeout are rounded up to seconds; 0 means the recipe's, else
	// the defaults. A timeout is never longer than the TTL.
	TTL, Timeout time.Duration
	Parameters   map[string]string
	// OnFailure is Abort, also where empty, or Continue.
	OnFailure string
}

// Result is how a hold ended.
type Result struct {
	// Held is from the moment that the pod said it was frozen to its word that
	// it is not, or, where that did not come, to the loss of the connection.
	Held time.Duration
	// Expired says that the pod let go, or may have, before it was asked to:
	// what was cut meanwhile was not covered.
	Expired bool
	// Err says what went wrong with the hold or the thaw.
	Err error
}

// Lookup finds a recipe by name, a user's before a built-in one.
func Lookup(name string, user []*v1alpha1.BackupRecipe) (*v1alpha1.BackupRecipe, bool) {
	for _, r := range user {
		if r.Name == name {
			return r, true
		}
	}
	return recipes.Get(name)
}

// executor runs commands in containers.
type executor interface {
	Exec(context.Context, kube.ExecOptions) error
}

// Hold freezes one pod and returns when it is frozen. An error means that it is
// not, and that it was thawed again or will be by its time to live.
func Hold(ctx context.Context, c *kube.Cluster, t Target) (*Session, error) {
	t, err := t.complete(ctx, c)
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, c, t)
	if err != nil {
		return nil, err
	}
	if err := s.freeze(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// complete fills in what the target leaves to its recipe and its pod.
func (t Target) complete(ctx context.Context, c *kube.Cluster) (Target, error) {
	t, err := t.timed()
	if err != nil || t.Container != "" {
		return t, err
	}
	pod, err := c.Typed().CoreV1().Pods(t.Namespace).Get(ctx, t.Pod, metav1.GetOptions{})
	if err != nil {
		return t, fmt.Errorf("%s: which container to freeze: %w", t, err)
	}
	t.Container = defaultContainer(pod)
	return t, nil
}

// timed fills in what the target leaves to its recipe, and checks it.
func (t Target) timed() (Target, error) {
	var spec v1alpha1.BackupRecipeSpec
	if t.Recipe != nil {
		spec = t.Recipe.Spec
		t.Container = cmp.Or(t.Container, spec.Container)
		for _, name := range slices.Sorted(maps.Keys(t.Parameters)) {
			if _, ok := spec.Parameters[name]; !ok {
				known := slices.Sorted(maps.Keys(spec.Parameters))
				return t, fmt.Errorf("%s: recipe %s has no parameter %q; it has: %s", t, t.Recipe.Name, name, cmp.Or(strings.Join(known, ", "), "none"))
			}
		}
	} else if len(t.Before) == 0 || len(t.After) == 0 {
		return t, fmt.Errorf("%s: neither a recipe nor commands before and after", t)
	}
	t.TTL = cmp.Or(t.TTL, duration(spec.TTL), v1alpha1.DefaultTTL)
	t.Timeout = min(cmp.Or(t.Timeout, duration(spec.Timeout), v1alpha1.DefaultFreezeTimeout), t.TTL)
	return t, nil
}

func duration(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}

// defaultContainer is the one that the pod names for such purposes, or the
// first.
func defaultContainer(pod *corev1.Pod) string {
	named := pod.Annotations["kubectl.kubernetes.io/default-container"]
	for _, c := range pod.Spec.Containers {
		if c.Name == named {
			return named
		}
	}
	if len(pod.Spec.Containers) == 0 {
		return ""
	}
	return pod.Spec.Containers[0].Name
}

// parameters are the recipe's with the hook's over them.
func (t Target) parameters() map[string]string {
	all := map[string]string{}
	if t.Recipe != nil {
		maps.Copy(all, t.Recipe.Spec.Parameters)
	}
	maps.Copy(all, t.Parameters)
	return all
}

// String says where: "pod ns/name container c".
func (t Target) String() string {
	s := "pod " + t.Namespace + "/" + t.Pod
	if t.Container != "" {
		s += " container " + t.Container
	}
	return s
}

// what names the hook for errors.
func (t Target) what() string {
	switch {
	case t.Recipe != nil:
		return "recipe " + t.Recipe.Name
	default:
		return "command " + t.Before[0]
	}
}

// unreachable explains why no script runs in the container.
func (t Target) unreachable(err error) error {
	var exit *kube.ExitError
	switch {
	case kube.NoCommand(err):
		return fmt.Errorf("%s: its image has no sh, so nothing can be frozen in it (hint: name another container of the pod, or onFailure: Continue)", t)
	case errors.As(err, &exit):
		return fmt.Errorf("%s: its sh could not run the script: %w", t, err)
	}
	return err
}
