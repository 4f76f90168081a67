package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/kubectl-backup/kubectl-backup/integration/cluster"
	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
)

const (
	few, many = 10_000, 100_000
	// workers write at once, as many as in a restore.
	workers = 16
	source  = "bench"

	madeByBench = "made-by=bench"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// objectBench measures on a cluster whose namespace "bench" holds small
// objects.
type objectBench struct {
	*bench
	runs     int // how often each is measured, with as many objects as now
	plugin   plugin
	typed    kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
	ours     *kube.Cluster
	spec     string
	stored   int // objects there now
	// peaks are the plugin's, by command and number of objects, in MiB.
	peaks map[string]map[int][]float64
}

func (b *bench) objects(ctx context.Context, c *cluster.Cluster) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	o := &objectBench{bench: b, runs: b.runs, plugin: plugin{filepath.Join(b.root, "bin", "kubectl-backup"), c.Kubeconfig()}, peaks: map[string]map[int][]float64{}}
	if err := o.connect(config); err != nil {
		return err
	}
	if o.ours, err = kube.New(config, "src"); err != nil {
		return err
	}
	if o.spec, err = o.policy("objects.yaml", objectPolicy); err != nil {
		return err
	}
	if err := o.namespace(ctx, source); err != nil {
		return err
	}
	for _, count := range []int{few, many} {
		if count == many {
			o.runs = 1 // for the memory alone, which hardly varies
		}
		say("creating %d objects", count-o.stored)
		if err := o.create(ctx, source, o.stored, count); err != nil {
			return err
		}
		o.stored = count
		if count == few {
			if err := o.inventory(ctx); err != nil {
				return err
			}
		}
		if err := o.backup(ctx); err != nil {
			return err
		}
		if err := o.restore(ctx); err != nil {
			return err
		}
	}
	o.memory()
	// Last: what it leaves would have to be listed by all runs.
	o.runs = b.runs
	return o.mixed(ctx)
}

const objectPolicy = `
apiVersion: kubectl-backup.io/v1alpha1
kind: BackupPolicy
metadata: {name: bench}
spec:
  select:
  - {name: all, kinds: [ConfigMap], namespaces: [bench], labelSelector: {matchLabels: {made-by: bench}}}
`

// policy writes a policy to a file.
func (o *objectBench) policy(name, text string) (string, error) {
	path := filepath.Join(o.scratch, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// connect makes clients of client-go without anything that slows them: no limit on
// this side, no compression on loopback.
func (o *objectBench) connect(config *rest.Config) (err error) {
	bare := rest.CopyConfig(config)
	bare.QPS, bare.DisableCompression = -1, true
	if o.typed, err = kubernetes.NewForConfig(bare); err != nil {
		return err
	}
	if o.dynamic, err = dynamic.NewForConfig(bare); err != nil {
		return err
	}
	o.metadata, err = metadata.NewForConfig(bare)
	return err
}

func (o *objectBench) namespace(ctx context.Context, name string) error {
	_, err := o.typed.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

// create creates small objects.
func (o *objectBench) create(ctx context.Context, namespace string, from, to int) error {
	return creates(ctx, from, to, func(ctx context.Context, n int) error {
		_, err := o.typed.CoreV1().ConfigMaps(namespace).Create(ctx, smallObject(n), metav1.CreateOptions{})
		return err
	})
}

// creates is the bare loop of creates.
func creates(ctx context.Context, from, to int, create func(ctx context.Context, n int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for n := from; n < to && ctx.Err() == nil; n++ {
		group.Go(func() error { return create(ctx, n) })
	}
	return group.Wait()
}

// smallObject is the n-th of the objects: about 1 KiB, half of which cannot
// be compressed.
func smallObject(n int) *corev1.ConfigMap {
	random := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	noise := make([]byte, 192)
	for i := range noise {
		noise[i] = byte(random.Uint64())
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: numbered(n), Labels: map[string]string{"made-by": "bench", "shard": fmt.Sprint(n % 16)}},
		Data: map[string]string{
			"settings": fmt.Sprintf("listen: 0.0.0.0:%d\nupstream: http://service-%d.shop.svc\ntimeout: 30s\nretries: 3\nlog: info\n", 8000+n%1000, n),
			"noise":    fmt.Sprintf("%x", noise),
		},
	}
}

func numbered(n int) string { return fmt.Sprintf("small-%06d", n) }
