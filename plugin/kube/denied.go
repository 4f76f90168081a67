package kube

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// DeniedError says that the caller lacks a right. It does not stand for other
// refusals with the same status, such as a quota or an admission policy.
type DeniedError struct {
	Verb      string
	Group     string
	Resource  string // with its subresource: pods/exec
	Namespace string // empty: in all namespaces, or a cluster-scoped resource
	Name      string
	err       error
}

func (e *DeniedError) Error() string {
	resource := e.Resource
	if e.Group != "" {
		plain, sub, hasSub := strings.Cut(e.Resource, "/")
		resource = plain + "." + e.Group
		if hasSub {
			resource += "/" + sub
		}
	}
	if e.Namespace == "" {
		return fmt.Sprintf("no right to %s %s in the whole cluster (ask for: kubectl create clusterrole NAME --verb=%s --resource=%s)", e.Verb, resource, e.Verb, resource)
	}
	return fmt.Sprintf("no right to %s %s in namespace %s (ask for: kubectl create role NAME -n %s --verb=%s --resource=%s)", e.Verb, resource, e.Namespace, e.Namespace, e.Verb, resource)
}

func (e *DeniedError) Unwrap() error { return e.err }

// Denied says whether an error means that the caller lacks a right, and which:
// the verb and the resource (with its subresource, without its group). It
// understands errors of client-go as well.
func Denied(err error) (verb, resource string, ok bool) {
	var denied *DeniedError
	if errors.As(err, &denied) {
		return denied.Verb, denied.Resource, true
	}
	if d := deniedBy(err, request{}); d != nil {
		return d.Verb, d.Resource, true
	}
	return "", "", false
}

// cannot is what an authorizer says, as against an admission plugin:
// User "x" cannot list resource "secrets" in API group "" in the namespace "y".
var cannot = regexp.MustCompile(`User ".*?" cannot (\S+) (?:resource|path) "([^"]*)"(?: in API group "([^"]*)")?(?: in the namespace "([^"]*)")?`)

// deniedBy reads a missing right out of an API error; nil where it is none.
func deniedBy(err error, r request) *DeniedError {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusForbidden {
		return nil
	}
	m := cannot.FindStringSubmatch(status.Status().Message)
	if m == nil {
		return nil
	}
	return &DeniedError{Verb: m[1], Resource: m[2], Group: m[3], Namespace: m[4], Name: r.name, err: err}
}
