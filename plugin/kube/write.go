package kube

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-backup/kubectl-backup/plugin/object"
)

// FieldManager is the owner of the fields that we write, unless told otherwise.
const FieldManager = "kubectl-backup"

// WriteOptions say how an object is written.
type WriteOptions struct {
	// FieldManager is FieldManager when empty.
	FieldManager string
	// DryRun has the server do everything but keep the result: admission
	// runs, defaults are set, nothing changes.
	DryRun bool
	// Force takes fields over from other owners; for Apply only.
	Force bool
	// Validation is Strict, Warn or Ignore, for fields that the server does
	// not know; empty leaves it to the server, which warns.
	Validation string
	// Warn takes the server's warnings, such as fields that it dropped.
	Warn func(string)
}

func (o WriteOptions) query() url.Values {
	q := url.Values{"fieldManager": {FieldManager}}
	if o.FieldManager != "" {
		q.Set("fieldManager", o.FieldManager)
	}
	if o.DryRun {
		q.Set("dryRun", "All")
	}
	if o.Validation != "" {
		q.Set("fieldValidation", o.Validation)
	}
	return q
}

// Get reads one object.
func (c *Cluster) Get(ctx context.Context, k Kind, namespace, name string) (*object.Object, error) {
	return c.exchange(ctx, request{verb: "get", method: http.MethodGet, kind: k, namespace: namespace, name: name})
}

// Create makes a new object. It is sent once only when it could have been
// carried out: a lost answer is an error, and the object may be there.
func (c *Cluster) Create(ctx context.Context, k Kind, namespace string, raw []byte, o WriteOptions) (*object.Object, error) {
	return c.exchange(ctx, request{
		verb: "create", method: http.MethodPost, kind: k, namespace: namespace,
		query: o.query(), body: raw, contentType: "application/json", warn: o.Warn,
	})
}

// Replace puts raw in place of an object. With metadata.resourceVersion in it
// the server refuses when the object changed since.
func (c *Cluster) Replace(ctx context.Context, k Kind, namespace, name string, raw []byte, o WriteOptions) (*object.Object, error) {
	return c.ReplaceSubresource(ctx, k, namespace, name, "", raw, o)
}

// ReplaceSubresource is Replace for a part of an object, such as its status.
func (c *Cluster) ReplaceSubresource(ctx context.Context, k Kind, namespace, name, subresource string, raw []byte, o WriteOptions) (*object.Object, error) {
	return c.exchange(ctx, request{
		verb: "update", method: http.MethodPut, kind: k, namespace: namespace, name: name, subresource: subresource,
		query: o.query(), body: raw, contentType: "application/json", warn: o.Warn,
	})
}

// Apply is a server-side apply: the object is made or changed so that the
// fields of raw hold, and no others are touched.
func (c *Cluster) Apply(ctx context.Context, k Kind, namespace, name string, raw []byte, o WriteOptions) (*object.Object, error) {
	return c.Patch(ctx, k, namespace, name, types.ApplyPatchType, raw, o)
}

// Patch changes an object.
func (c *Cluster) Patch(ctx context.Context, k Kind, namespace, name string, t types.PatchType, patch []byte, o WriteOptions) (*object.Object, error) {
	return c.PatchSubresource(ctx, k, namespace, name, "", t, patch, o)
}

// PatchSubresource is Patch for a part of an object, such as its status.
func (c *Cluster) PatchSubresource(ctx context.Context, k Kind, namespace, name, subresource string, t types.PatchType, patch []byte, o WriteOptions) (*object.Object, error) {
	q := o.query()
	if t == types.ApplyPatchType {
		q.Set("force", strconv.FormatBool(o.Force))
	}
	return c.exchange(ctx, request{
		verb: "patch", method: http.MethodPatch, kind: k, namespace: namespace, name: name, subresource: subresource,
		query: q, body: patch, contentType: string(t), warn: o.Warn,
		// A JSON patch may append; the others say what shall be.
		repeatable: t != types.JSONPatchType,
	})
}

// DeleteOptions say what may be deleted, and how.
type DeleteOptions struct {
	// UID and Version, where set, must be those of the object.
	UID, Version string
	// Propagation is Foreground, Background or Orphan; empty is the kind's own.
	Propagation string
	// Grace is in seconds; nil is the object's own.
	Grace  *int64
	DryRun bool
}

// Delete asks for an object to be deleted. Finalizers may keep it for a while:
// see WaitFor.
func (c *Cluster) Delete(ctx context.Context, k Kind, namespace, name string, o DeleteOptions) error {
	options := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions"}
	conditions := map[string]string{}
	if o.UID != "" {
		conditions["uid"] = o.UID
	}
	if o.Version != "" {
		conditions["resourceVersion"] = o.Version
	}
	if len(conditions) > 0 {
		options["preconditions"] = conditions
	}
	if o.Propagation != "" {
		options["propagationPolicy"] = o.Propagation
	}
	if o.Grace != nil {
		options["gracePeriodSeconds"] = *o.Grace
	}
	if o.DryRun {
		options["dryRun"] = []string{"All"}
	}
	body, err := json.Marshal(options)
	if err != nil {
		return err
	}
	_, err = c.read(ctx, request{
		verb: "delete", method: http.MethodDelete, kind: k, namespace: namespace, name: name,
		body: body, contentType: "application/json",
		// With a UID a second try cannot hit another object.
		repeatable: o.UID != "",
	})
	return err
}

// exchange sends one object, or none, and reads one.
func (c *Cluster) exchange(ctx context.Context, r request) (*object.Object, error) {
	body, err := c.read(ctx, r)
	if err != nil {
		return nil, err
	}
	return object.Parse(body)
}
