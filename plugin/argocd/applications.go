package argocd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Group is the API group of Applications and ApplicationSets.
const Group = "argoproj.io"

// AnnotationTracking is how Argo CD marks what an Application manages; labels
// do the same in older installations, and in those that ask for it.
const (
	AnnotationTracking = "argocd.argoproj.io/tracking-id"
	LabelInstance      = "app.kubernetes.io/instance"
)

// Application is an Application, or an ApplicationSet.
type Application struct {
	Ref  v1alpha1.Ref
	kind kube.Kind
	set  bool
	// automated says that Argo CD changes things by itself because of it.
	automated bool
	prunes    bool   // it removes what is not in Git any more
	paused    string // the annotation of a pause, where there is one

	manages map[v1alpha1.Ref]string // by Ref.Key, with its version
	names   []string                // as tracking marks name it
	mark    string                  // the Application that its own mark names
	owner   string                  // the UID of the ApplicationSet that made it
	uid     string
	level   int
}

// Managed is an object that something is about to be done to, and the marks
// that it has.
type Managed struct {
	Ref                  v1alpha1.Ref
	TrackingID, Instance string
}

// Owners finds the Applications in a cluster that manage any of the objects of
// the same cluster, and what manages those in turn: ApplicationSets, and
// Applications of Applications. What stands higher comes first. There are none
// where Argo CD is not installed.
func Owners(ctx context.Context, c *kube.Cluster, objects []Managed) ([]*Application, error) {
	all, err := applications(ctx, c)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	wanted := map[*Application]bool{}
	for _, o := range objects {
		for _, a := range all {
			if a.has(o) {
				wanted[a] = true
			}
		}
	}
	raise(all, wanted)
	var out []*Application
	for _, a := range all {
		if wanted[a] {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b *Application) int { return cmp.Or(b.level-a.level, a.Ref.Compare(b.Ref)) })
	return out, nil
}

// raise adds what manages the wanted ones, and gives each a level above those
// that it manages. A circle of Applications, which can be built, ends it.
func raise(all []*Application, wanted map[*Application]bool) {
	for range all {
		changed := false
		for child := range wanted {
			for _, parent := range all {
				if parent == child || !parent.has(Managed{Ref: child.Ref, TrackingID: child.mark}) && (child.owner == "" || parent.uid != child.owner) {
					continue
				}
				if !wanted[parent] || parent.level <= child.level {
					wanted[parent], parent.level, changed = true, max(parent.level, child.level+1), true
				}
			}
		}
		if !changed {
			return
		}
	}
}

func (a *Application) has(o Managed) bool {
	if a.set {
		return false // it manages Applications, by owner reference
	}
	if _, manages := a.manages[o.Ref.Key()]; manages {
		return true
	}
	name, _, marked := strings.Cut(o.TrackingID, ":")
	if marked {
		return slices.Contains(a.names, name)
	}
	// A label of this name means many things. It counts only where nothing
	// better is known: the Application has not yet said what it manages.
	return len(a.manages) == 0 && o.Instance != "" && slices.Contains(a.names, o.Instance)
}

// Prunes says whether an Application would remove an object as soon as it is
// there: it is marked as the Application's own, and not among what that knows
// from Git, as it last looked.
func (a *Application) Prunes(o Managed) bool {
	name, what, _ := strings.Cut(o.TrackingID, ":")
	if _, known := a.manages[o.Ref.Key()]; known || !a.prunes || len(a.manages) == 0 || !slices.Contains(a.names, name) {
		return false
	}
	return what == fmt.Sprintf("%s/%s:%s/%s", o.Ref.Group, o.Ref.Kind, o.Ref.Namespace, o.Ref.Name)
}

// samples bounds how many objects are looked at to find out how Argo CD tracks.
const samples = 5

// LabelTracked are the names, values of LabelInstance, by which an Argo CD that
// tracks by that label knows what is its own: all Applications of a namespace
// where no object is found that it has marked otherwise.
func LabelTracked(ctx context.Context, c *kube.Cluster) (map[string]bool, error) {
	all, err := applications(ctx, c)
	if err != nil {
		return nil, err
	}
	looked, otherwise := map[string]int{}, map[string]bool{}
	for _, a := range all {
		for ref, version := range a.manages {
			if looked[a.Ref.Namespace]++; looked[a.Ref.Namespace] > samples {
				break
			}
			k, err := c.FindKind(ctx, ref.Group, version, ref.Kind)
			if err != nil {
				continue // not served any more
			}
			if o, err := c.Get(ctx, k, ref.Namespace, ref.Name); err == nil && o.Annotations[AnnotationTracking] != "" {
				otherwise[a.Ref.Namespace] = true
			}
		}
	}
	out := map[string]bool{}
	for _, a := range all {
		if !a.set && !otherwise[a.Ref.Namespace] {
			for _, name := range a.names {
				out[name] = true
			}
		}
	}
	return out, nil
}

// applications reads all there are.
func applications(ctx context.Context, c *kube.Cluster) ([]*Application, error) {
	identity, err := c.Identity(ctx)
	if err != nil {
		return nil, err
	}
	var all []*Application
	for _, name := range []string{"Application", "ApplicationSet"} {
		k, err := c.FindKind(ctx, Group, "v1alpha1", name)
		if missing := new(kube.NotServedError); errors.As(err, &missing) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, err = c.List(ctx, k, kube.ListOptions{}, func(o *object.Object) error {
			a, err := read(k, o, identity.Server)
			if err == nil && a != nil {
				all = append(all, a)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the %ss of Argo CD: %w", name, err)
		}
	}
	return all, nil
}

// inCluster is how an Application names the cluster that Argo CD runs in.
const inCluster = "https://kubernetes.default.svc"

// read takes from an Application what is needed of it; nil where it is about
// another cluster.
func read(k kube.Kind, o *object.Object, server string) (*Application, error) {
	content, err := o.Content()
	if err != nil {
		return nil, err
	}
	defer o.Release()
	a := &Application{
		Ref: o.Ref, kind: k, set: k.GVK.Kind == "ApplicationSet", uid: o.UID, paused: o.Annotations[AnnotationPaused],
		mark: o.Annotations[AnnotationTracking], names: []string{o.Ref.Name, o.Ref.Namespace + "_" + o.Ref.Name},
	}
	for _, owner := range o.Owners {
		if owner.Kind == "ApplicationSet" {
			a.owner = owner.UID
		}
	}
	spec := section(content, "spec")
	if a.set {
		a.automated = true
		return a, nil
	}
	automated, _ := section(spec, "syncPolicy")["automated"].(map[string]any)
	a.automated = automated != nil && automated["enabled"] != false
	a.prunes = a.automated && automated["prune"] == true
	if to, _ := section(spec, "destination")["server"].(string); to != "" && to != inCluster && to != server {
		return nil, nil
	}
	resources, _ := section(content, "status")["resources"].([]any)
	a.manages = make(map[v1alpha1.Ref]string, len(resources))
	for _, r := range resources {
		m, _ := r.(map[string]any)
		text := func(key string) string { s, _ := m[key].(string); return s }
		a.manages[v1alpha1.Ref{Group: text("group"), Kind: text("kind"), Namespace: text("namespace"), Name: text("name")}] = text("version")
	}
	return a, nil
}

func section(m map[string]any, key string) map[string]any {
	child, _ := m[key].(map[string]any)
	return child
}
