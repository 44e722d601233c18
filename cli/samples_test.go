package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
)

// clusterSamples adds the samples' ClusterNetworkPolicies to a folder, as their kustomization lists
// them.
func clusterSamples(t *testing.T, folder string) {
	t.Helper()
	from := filepath.Join("..", "config", "samples", "cluster")
	text, err := os.ReadFile(filepath.Join(from, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var kustomization struct{ Resources []string }
	if err := yaml.Unmarshal(text, &kustomization); err != nil {
		t.Fatal(err)
	}
	there, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil || len(there) != len(kustomization.Resources)+1 || len(there) < 5 {
		t.Fatalf("the kustomization lists %v of %v: %v", kustomization.Resources, there, err)
	}
	for _, name := range kustomization.Resources {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, "cluster-"+name), string(text))
	}
}

// TestClusterSamples: what the samples' comments say of them.
func TestClusterSamples(t *testing.T) {
	folder := samples(t)
	clusterSamples(t, folder)
	write(t, filepath.Join(folder, "others.yaml"), otherPods)
	objects, err := manifests.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	s := objects.Snapshot
	for _, cnp := range s.ClusterPolicies {
		if _, problems := policy.ParseCluster(cnp); len(problems) > 0 {
			t.Errorf("%s: %v", cnp.Name, problems)
		}
	}
	const db, backend, dns, other, strict = "10.244.1.3", "10.244.1.2", "10.244.2.2", "10.244.2.3", "10.244.2.4"
	open := func(s *policy.Snapshot) { // as owners might, who know no better
		s.Policies = slices.Clone(s.Policies)
		for _, namespace := range []string{"shop-db", "strict"} {
			s.Policies = append(s.Policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "open"}, Spec: networkingv1.NetworkPolicySpec{
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
				Ingress:     []networkingv1.NetworkPolicyIngressRule{{}}, Egress: []networkingv1.NetworkPolicyEgressRule{{}},
			}})
		}
	}
	for _, c := range []struct {
		name     string
		change   func(*policy.Snapshot)
		from, to string
		protocol policy.Protocol
		port     uint16
		want     bool
	}{
		{"the database asks for a name", nil, db, dns, policy.UDP, 53, true},
		{"the database asks for something else", nil, db, dns, policy.TCP, 9153, false},
		{"another pod asks for a name", nil, other, dns, policy.UDP, 53, true},
		{"a pod asks for credentials", nil, other, "169.254.169.254", policy.TCP, 80, false},
		{"kube-system asks for credentials", nil, dns, "169.254.169.254", policy.TCP, 80, true},
		{"the backend calls the database", nil, backend, db, policy.TCP, 5432, true},
		{"the backend calls what no NetworkPolicy allows", nil, backend, db, policy.TCP, 22, false},
		{"a stranger calls the database", nil, other, db, policy.TCP, 5432, false},
		{"a stranger calls the database, whose owners let in everybody", open, other, db, policy.TCP, 5432, false},
		{"a client calls the database, whose owners let in everybody", open, "203.0.113.9", db, policy.TCP, 5432, true},
		{"the default denies the way out", nil, strict, "203.0.113.9", policy.TCP, 443, false},
		{"the default denies the way out to pods", nil, strict, other, policy.TCP, 80, false},
		{"the default denies the way in", nil, other, strict, policy.TCP, 80, false},
		{"the default denies no names", nil, strict, dns, policy.TCP, 53, true},
		{"the default yields to owners", open, other, strict, policy.TCP, 80, true},
		{"the default yields to owners, out", open, strict, "203.0.113.9", policy.TCP, 443, true},
		{"owners cannot give away credentials", open, strict, "169.254.169.254", policy.TCP, 80, false},
		{"nobody else is meant", nil, other, "203.0.113.9", policy.TCP, 443, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := s
			if c.change != nil {
				c.change(&now)
			}
			v := policy.Judge(now, policy.Packet{Src: netip.MustParseAddr(c.from), Dst: netip.MustParseAddr(c.to), Protocol: c.protocol, DstPort: c.port}, policy.JudgeOptions{})
			if v.Allowed() != c.want {
				t.Errorf("allowed is %v: %s", v.Allowed(), v)
			}
		})
	}
	text, _, err := run(t, "render", "-f", folder, "--node", "node-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, cnp := range s.ClusterPolicies {
		// The strict namespace's pod is on the other node.
		if has := strings.Contains(text, "[0] of "+cnp.Name+": "); has != (cnp.Name != "default-deny") {
			t.Errorf("%s in the table is %v:\n%s", cnp.Name, has, text)
		}
	}
	accepted(t, text)
}

// otherPods are on another node than samplePods.
const otherPods = `apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}},
   spec: {nodeName: node-2}, status: {phase: Running, podIP: 10.244.2.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: other, namespace: other},
   spec: {nodeName: node-2}, status: {phase: Running, podIP: 10.244.2.3}}
- {apiVersion: v1, kind: Pod, metadata: {name: strict, namespace: strict},
   spec: {nodeName: node-2}, status: {phase: Running, podIP: 10.244.2.4}}
- {apiVersion: v1, kind: Namespace, metadata: {name: strict, labels: {default-deny: "true"}}}
- {apiVersion: v1, kind: Node, metadata: {name: node-2}, spec: {podCIDRs: [10.244.2.0/24]}}
`
