package kube

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var events = Kind{GVK: schema.GroupVersionKind{Version: "v1", Kind: "Event"}, Resource: "events", Namespaced: true}

// LastWarning is what the latest warning event about an object says, as
// "reason: message". It is empty where there is none, or none that the caller
// may read: events are hints, and nothing is decided by them alone.
func (c *Cluster) LastWarning(ctx context.Context, namespace, uid string) string {
	q := url.Values{"fieldSelector": {"type=Warning,involvedObject.uid=" + uid}, "limit": {"100"}}
	body, err := c.read(ctx, request{verb: "list", method: http.MethodGet, kind: events, namespace: namespace, query: q})
	if err != nil {
		return ""
	}
	var list corev1.EventList
	if json.Unmarshal(body, &list) != nil {
		return ""
	}
	var last *corev1.Event
	for i := range list.Items {
		e := &list.Items[i]
		if last == nil || last.LastTimestamp.Before(&e.LastTimestamp) {
			last = e
		}
	}
	if last == nil {
		return ""
	}
	return last.Reason + ": " + last.Message
}
