package main

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// inventory compares reading the objects with bare lists of them.
func (o *objectBench) inventory(ctx context.Context) error {
	kinds, _, err := o.ours.Kinds(ctx)
	if err != nil {
		return err
	}
	var kind kube.Kind
	for _, k := range kinds {
		if k.GVK == (schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}) {
			kind = k
		}
	}
	var pairs []pair
	for range o.runs + 2 { // it is short, so more often
		theirs, err := o.bareList(ctx)
		if err != nil {
			return err
		}
		started, bytes, count := time.Now(), 0, 0
		_, err = o.ours.List(ctx, kind, kube.ListOptions{Namespace: source}, func(ob *object.Object) error {
			count++
			bytes += len(ob.Raw)
			return nil
		})
		if err != nil {
			return err
		}
		if count < o.stored {
			return fmt.Errorf("the inventory has %d of %d objects", count, o.stored)
		}
		pairs = append(pairs, pair{time.Since(started).Seconds(), theirs})
	}
	o.results.add(fmt.Sprintf("inventory of %d objects", o.stored), "a paged list with client-go", "objects per second / objects per second",
		atLeast(0.8), pairs, faster, "%.2f s, list %.2f s")
	return nil
}

// bareList returns the seconds of the faster of two lists, typed and
// unstructured, in pages of 500.
func (o *objectBench) bareList(ctx context.Context) (float64, error) {
	options := metav1.ListOptions{Limit: 500}
	typed, err := o.pages(func(next string) (int, string, error) {
		options.Continue = next
		list, err := o.typed.CoreV1().ConfigMaps(source).List(ctx, options)
		if err != nil {
			return 0, "", err
		}
		return len(list.Items), list.Continue, nil
	})
	if err != nil {
		return 0, err
	}
	client := o.dynamic.Resource(configMaps).Namespace(source)
	unstructured, err := o.pages(func(next string) (int, string, error) {
		options.Continue = next
		list, err := client.List(ctx, options)
		if err != nil {
			return 0, "", err
		}
		return len(list.Items), list.GetContinue(), nil
	})
	return min(typed, unstructured), err
}

// pages times a list from its first page to its last.
func (o *objectBench) pages(page func(next string) (count int, more string, err error)) (float64, error) {
	started, next, sum := time.Now(), "", 0
	for {
		count, more, err := page(next)
		if err != nil {
			return 0, err
		}
		sum += count
		if next = more; next == "" {
			break
		}
	}
	if sum < o.stored {
		return 0, fmt.Errorf("the bare list has %d of %d objects", sum, o.stored)
	}
	return time.Since(started).Seconds(), nil
}
