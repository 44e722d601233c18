package manifests

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// written is a snapshot as one file.
func written(t *testing.T, s policy.Snapshot) string {
	t.Helper()
	var b strings.Builder
	for _, o := range random.Objects(s) {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("---\n")
		b.Write(text)
	}
	return b.String()
}

// FuzzParse: no input panics, every error has a place, and what is accepted
// means the same once written out and read again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(kubectl))
	f.Add([]byte(policyWith("spec: {podSelector: {matchLabels: &l {a: b}}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}]}]}\n")))
	f.Add([]byte(policyWith("spec:\n  podSelector: {}\n  ingress:\n  - from:\n    - podSelector: {<<: {}}\n  policyTypes: [Ingress]\n")))
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","creationTimestamp":null},"status":{"podIPs":[{"ip":"::1"}]}}`))
	f.Add([]byte(clusterPolicyWith("spec: {tier: Baseline, priority: 0, subject: {pods: {podSelector: {}}}, egress: [{action: Pass, to: [{networks: [10.0.0.0/8]}, {namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]}]}\n")))
	f.Add([]byte(clusterPolicyWith("spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {}}}], protocols: [{destinationNamedPort: web}]}], egress: [{action: Deny, to: [{nodes: {}}, {domainNames: [a.example]}]}]}\n")))
	f.Add([]byte("a: &x [*x, *x]\n---\nb: !!int \"0x10\"\n"))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems:\n- {kind: Node, apiVersion: v1, metadata: {name: n}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := Parse("f.yaml", data)
		if err != nil {
			for _, line := range errorsOf(err) {
				if line == "" {
					t.Errorf("an empty finding in %q", err)
				}
			}
			return
		}
		text := written(t, first)
		second, err := Parse("again.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if again := written(t, second); again != text {
			t.Errorf("read again, it is\n%s\nnot\n%s", again, text)
		}
	})
}
