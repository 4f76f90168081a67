package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// seaport is an application that has a bit of everything: two kinds of its own,
// one of them with two versions between which its own server converts, and
// which that server admits; rights across three namespaces; volumes, Jobs that
// ended and that run, routes, quotas, and a chain of owners. Its manifests are
// in testdata/seaport, with placeholders.
type seaport struct {
	t *testing.T
	// own names what has no namespace; port, quay and audit are namespaces.
	own, group        string
	port, quay, audit string
	places            *strings.Replacer
}

// seaportKinds are those without a namespace that are removed afterwards, and
// that the policy selects by label.
var seaportKinds = []string{
	"ValidatingWebhookConfiguration.admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io",
	"ValidatingAdmissionPolicy.admissionregistration.k8s.io", "PriorityClass.scheduling.k8s.io", "IngressClass.networking.k8s.io",
	"FlowSchema.flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration.flowcontrol.apiserver.k8s.io",
	"ClusterRoleBinding.rbac.authorization.k8s.io", "ClusterRole.rbac.authorization.k8s.io", "GatewayClass.gateway.networking.k8s.io",
}

// newSeaport brings the application up in src and waits until all of it runs.
// What it, or a restore of it, leaves in either cluster is removed at the end.
func newSeaport(t *testing.T) *seaport {
	t.Helper()
	own := word(t, "sea")
	s := &seaport{t: t, own: own, group: own + ".example.org", port: own + "-port", quay: own + "-quay", audit: own + "-audit"}
	cert, key := certificate(t, "*."+s.port+".svc", "*."+s.port+"-copy.svc")
	s.places = strings.NewReplacer(
		"$CERT", base64.StdEncoding.EncodeToString(cert), "$KEY", base64.StdEncoding.EncodeToString(key), "$CA", base64.StdEncoding.EncodeToString(cert),
		"$CLASS", "snap", "$OWN", own, "$GROUP", s.group, "$A", s.port, "$B", s.quay, "$C", s.audit)
	for _, context := range []string{"src", "dst"} {
		s.removeFrom(context)
	}
	s.apply("10-definitions.yaml")
	for _, crd := range s.definitions() {
		kubectl(t, "src", "wait", "--for=condition=Established", "crd/"+crd, "--timeout=60s")
	}
	for _, file := range []string{"20-places.yaml", "30-rights.yaml", "40-things.yaml", "50-workloads.yaml"} {
		s.apply(file)
	}
	s.runs("src", "")
	s.apply("60-berths.yaml")
	s.chain()
	s.apply("70-admission.yaml")
	kubectl(t, "src", "-n", s.port, "wait", "--for=condition=Complete", "job/christening", "--timeout=120s")
	return s
}

func (s *seaport) definitions() []string {
	return []string{"berths." + s.group, "tides." + s.group, "gatewayclasses.gateway.networking.k8s.io", "gateways.gateway.networking.k8s.io",
		"httproutes.gateway.networking.k8s.io", "referencegrants.gateway.networking.k8s.io"}
}

// apply applies one file of the application to src. A server that was started
// a moment ago, and a kind that is new, may need another try.
func (s *seaport) apply(file string) {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "seaport", file))
	require.NoError(s.t, err)
	said := ""
	await(s.t, file+" is applied", func() (bool, error) {
		_, err := tryKubectl(s.t, "src", s.places.Replace(string(raw)), "apply", "--server-side", "-f", "-")
		if err != nil && err.Error() != said {
			said = err.Error()
			s.t.Log(said)
		}
		return err == nil, nil
	})
}

// removeFrom removes what has no namespace, what there is of the namespaces,
// and then the definitions, whose kinds other tests must not find.
func (s *seaport) removeFrom(context string) {
	s.t.Cleanup(func() {
		remove := func(args ...string) {
			if _, err := tryKubectl(s.t, context, "", append([]string{"delete", "--ignore-not-found", "--timeout=120s"}, args...)...); err != nil &&
				!strings.Contains(err.Error(), "doesn't have a resource type") {
				s.t.Errorf("clean up %v: %s", args, err)
			}
		}
		for _, kind := range seaportKinds {
			remove(kind, s.own, "b-"+s.own)
		}
		// Nothing of a kind can be deleted while nobody converts it.
		if _, err := tryKubectl(s.t, context, "", "patch", "crd", "berths."+s.group, "--type=merge", "-p", `{"spec":{"conversion":{"strategy":"None","webhook":null}}}`); err != nil &&
			!strings.Contains(err.Error(), "not found") {
			s.t.Errorf("clean up the conversion of berths: %s", err)
		}
		for _, suffix := range []string{"", "-copy"} {
			remove("namespace", s.port+suffix, s.quay+suffix, s.audit+suffix)
		}
		remove(append([]string{"crd"}, s.definitions()...)...)
	})
}

// chain hangs four objects one below the other under a Berth.
func (s *seaport) chain() {
	s.t.Helper()
	owner := map[string]any{"apiVersion": s.group + "/v1", "kind": "Berth", "name": "north", "uid": s.uid("src", s.port, "berths."+s.group, "north"), "controller": true}
	for _, o := range s.links() {
		o["metadata"].(map[string]any)["ownerReferences"] = []any{owner}
		raw, err := json.Marshal(o)
		require.NoError(s.t, err)
		apply(s.t, "src", string(raw))
		kind, name := o["kind"].(string), field(o, "metadata", "name").(string)
		owner = map[string]any{"apiVersion": o["apiVersion"], "kind": kind, "name": name, "uid": s.uid("src", s.port, kind, name), "blockOwnerDeletion": true}
	}
}

// links are the objects of the chain, from the owner down.
func (s *seaport) links() []map[string]any {
	meta := func(name string) map[string]any { return map[string]any{"name": name, "namespace": s.port} }
	return []map[string]any{
		{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("north-plan"), "data": map[string]any{"bollards": "8"}},
		{"apiVersion": "v1", "kind": "Secret", "metadata": meta("north-key"), "stringData": map[string]any{"turn": "left"}},
		{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("north-crew")},
		{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta("north-crew"), "rules": []any{}},
	}
}

func (s *seaport) uid(context, ns, kind, name string) string {
	s.t.Helper()
	return kubectl(s.t, context, "-n", ns, "get", kind, name, "-o", "jsonpath={.metadata.uid}")
}

// runs waits for everything to be ready, in the namespaces with that suffix,
// under names with that prefix.
func (s *seaport) runs(context, suffix string, prefix ...string) {
	s.t.Helper()
	p := strings.Join(prefix, "")
	ready(s.t, context, s.port+suffix, "deployment/"+p+"hooks", "statefulset/"+p+"log", "deployment/"+p+"pier")
	ready(s.t, context, s.audit+suffix, "deployment/"+p+"books")
	ready(s.t, context, s.quay+suffix, "daemonset/"+p+"buoy", "pod/"+p+"watchman")
	for what, want := range map[string]string{"rs/" + p + "tug": "{.status.readyReplicas}"} {
		kubectl(s.t, context, "-n", s.quay+suffix, "wait", "--for=jsonpath="+want+"=1", what, "--timeout=120s")
	}
	kubectl(s.t, context, "-n", s.port+suffix, "wait", "--for=jsonpath={.status.ready}=1", "job/"+p+"dredging", "--timeout=120s")
}

// spec is a policy that selects all of it, and a remote.
func (s *seaport) spec() string {
	s.t.Helper()
	remote, _ := local(s.t)
	return spec(s.t, policy(fmt.Sprintf("  select:\n  - {namespaces: [%s, %s, %s]}\n  - {kinds: [%s, Tide], labelSelector: {matchLabels: {sea: %s}}}\n",
		s.port, s.quay, s.audit, strings.Join(seaportKinds, ", "), s.own)), remote)
}

// data is what is in the volumes.
func (s *seaport) data(context, suffix string, prefix ...string) string {
	s.t.Helper()
	p := strings.Join(prefix, "")
	return kubectl(s.t, context, "-n", s.port+suffix, "exec", p+"log-0", "--", "sha256sum", "/data/entries") +
		kubectl(s.t, context, "-n", s.port+suffix, "exec", "deploy/"+p+"pier", "--", "cat", "/papers/list")
}

// certificate is one that signs itself, for servers of these names.
func certificate(t *testing.T, names ...string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "seaport"}, DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// predicted requires that a dry run said of each object and volume what became
// of it: an object that was to be created was, and so on.
func predicted(t *testing.T, plan, report v1alpha1.Document) {
	t.Helper()
	came := func(o v1alpha1.Outcome) v1alpha1.Outcome {
		if o == v1alpha1.OutcomeCreate || o == v1alpha1.OutcomeApply {
			return v1alpha1.OutcomeRestored
		}
		return o
	}
	said := map[v1alpha1.Ref]v1alpha1.Outcome{}
	for _, l := range plan.Objects {
		said[l.Ref.Key()] = came(l.Outcome)
	}
	for _, l := range report.Objects {
		before, ok := said[l.Ref.Key()]
		require.True(t, ok, "%s was not in the dry run", l.Ref)
		if before != l.Outcome {
			t.Errorf("%s: the dry run said %s, and it became %s: %s", l.Ref, before, l.Outcome, l.Reason)
		}
	}
	require.Len(t, report.Objects, len(plan.Objects))
	require.Len(t, report.Volumes, len(plan.Volumes))
	for n, v := range report.Volumes {
		require.Equal(t, plan.Volumes[n].Ref, v.Ref)
		if before := came(plan.Volumes[n].Outcome); before != v.Outcome {
			t.Errorf("volume %s: the dry run said %s, and it became %s: %s", v.Ref, before, v.Outcome, v.Reason)
		}
	}
	require.Equal(t, plan.ExitCode, report.ExitCode)
}

// outcomes says of a document how many objects became what, and why those are
// not back that are not.
func outcomes(d v1alpha1.Document) string {
	var b strings.Builder
	count := map[v1alpha1.Outcome]int{}
	for _, l := range d.Objects {
		count[l.Outcome]++
		switch l.Outcome {
		case v1alpha1.OutcomeFailed, v1alpha1.OutcomeConflict, v1alpha1.OutcomeIncomplete:
			fmt.Fprintf(&b, "%s: %s: %s\n", l.Ref, l.Outcome, l.Reason)
		}
	}
	for _, v := range d.Volumes {
		fmt.Fprintf(&b, "volume %s: %s: %s\n", v.Ref, v.Outcome, v.Reason)
	}
	return fmt.Sprintln(count, d.Warnings, d.Error) + b.String()
}
