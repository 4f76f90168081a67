package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// arrivals notes when each of the objects of a namespace comes to be, as a
// watch tells it.
type arrivals struct {
	at    []time.Time
	ended chan error
	stop  context.CancelFunc
}

// arriving watches a namespace, which need not exist yet, until it has seen so
// many ConfigMaps of this benchmark or is ended.
func (o *objectBench) arriving(ctx context.Context, namespace string, count int) (*arrivals, error) {
	client := o.metadata.Resource(configMaps).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	w, err := client.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: madeByBench})
	if err != nil {
		stop()
		return nil, err
	}
	a := &arrivals{ended: make(chan error, 1), stop: stop}
	go func() {
		defer w.Stop()
		for e := range w.ResultChan() {
			switch e.Type {
			case watch.Added:
				a.at = append(a.at, time.Now())
			case watch.Error:
				a.ended <- fmt.Errorf("watch: %v", e.Object)
				return
			}
			if len(a.at) == count {
				a.ended <- nil
				return
			}
		}
		a.ended <- errors.New("the watch ended early")
	}()
	return a, nil
}

// tenths are the seconds that the first and the last tenth took.
func (a *arrivals) tenths() (first, last float64, err error) {
	select {
	case err = <-a.ended:
	case <-time.After(time.Minute): // the restore has ended: what it made is on its way
		err = errors.New("not all that was restored was seen")
	}
	a.stop()
	if err != nil {
		return 0, 0, err
	}
	n := len(a.at)
	return a.at[n/10-1].Sub(a.at[0]).Seconds(), a.at[n-1].Sub(a.at[n-n/10]).Seconds(), nil
}
