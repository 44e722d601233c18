package explain_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// mistakes are those that people make most often with NetworkPolicies. Each has a file of policies in
// testdata/mistakes, beside the cluster that all have, and a question that somebody asks who wonders. The
// first five lines of the answer must name the mistake.
var mistakes = []struct {
	file, from, to string
	want           explain.Verdict
	names          []string
}{
	{"label-typo", "shop/client-0", "svc/shop/web:80", explain.Denied, []string{"NetworkPolicy shop/web spec.ingress[0]", "label app=cleint: the pod has app=client"}},
	{"selector-typo", "prod/batch-0", "shop/web-0:8080", explain.Allowed, []string{"NetworkPolicy shop/web selects no pod", "label app=wbe: pod web-0 has app=web"}},
	{"two-peers", "prod/batch-0", "shop/web-0:8080", explain.Allowed, []string{"spec.ingress[0].from[0]", "spec.ingress[0].from[1]", "two peers, and either is enough"}},
	{"no-dns", "shop/client-0", "svc/shop/web:80", explain.Allowed, []string{"client-0 may not reach the cluster's DNS", "53/UDP"}},
	{"service-port", "shop/client-0", "svc/shop/web:80", explain.Denied, []string{"port 8080 is not in 80", "80 is the port of Service shop/web", "targetPort 8080"}},
	{"policy-types", "shop/client-0", "prod/batch-0:22", explain.Allowed, []string{"NetworkPolicy shop/client", "egress rules", "policyTypes does not list Egress"}},
	{"service-block", "shop/client-0", "svc/shop/web:80", explain.Denied, []string{"10.244.1.10 (pod shop/web-0) is not in 10.96.0.0/12", "address 10.96.4.4 of Service shop/web", "translated"}},
	{"host-network", "kube-system/node-exporter-0", "shop/web-0:8080", explain.Denied, []string{"on its node's network (hostNetwork)", "no podSelector means it"}},
	{"named-port", "shop/client-0", "svc/shop/web:80", explain.Denied, []string{"named port htpp", "no container of pod shop/web-0 declares it", "http (8080/TCP)"}},
	{"wrong-namespace", "shop/client-0", "shop/web-0:8080", explain.Denied, []string{"NetworkPolicy default/allow-web selects no pod of its own namespace default", "web-0 if it were in namespace shop"}},
	{"probes", "node/node-1", "shop/web-0:8080", explain.Allowed, []string{"a node always reaches its own pods", "probes of the kubelet need no rule"}},
}

func TestMistakesAreNamedFirst(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.file, func(t *testing.T) {
			e := ask(t, load(t, "cluster.yaml", m.file+".yaml"), m.from, m.to)
			text := textOf(t, e)
			if e.Verdict != m.want {
				t.Errorf("%s, want %s:\n%s", e.Verdict, m.want, text)
			}
			lines := strings.Split(text, "\n")
			first := strings.Join(lines[:min(5, len(lines))], "\n")
			for _, name := range m.names {
				if !strings.Contains(first, name) {
					t.Errorf("the first five lines do not say %q:\n%s", name, text)
				}
			}
		})
	}
}

// TestNoFalseAlarm: where policies are right, no note says that they are not.
func TestNoFalseAlarm(t *testing.T) {
	for _, m := range mistakes {
		e := ask(t, load(t, "cluster.yaml", m.file+".yaml"), "kube-system/coredns-0", "prod/batch-0:22")
		if len(e.Answers) != 1 || len(e.Answers[0].Notes) > 0 {
			t.Errorf("%s:\n%s", m.file, textOf(t, e))
		}
	}
}

// TestEgressWithoutDNS: the note is there where policies keep a pod from the cluster's DNS, known or supposed,
// and only there.
func TestEgressWithoutDNS(t *testing.T) {
	const isolated = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {}}], ports: [{port: 8080}]}%s]
`
	const cnp = `
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: cnp}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress: [%s]
`
	const denyUDP = "{action: Deny, to: [{namespaces: {}}], protocols: [{udp: {}}]}"
	noDNS := func(c *explain.Cluster) { c.Pods = slices.Delete(c.Pods, 3, 4) }
	dualStack := func(c *explain.Cluster) {
		c.Pods[0].Status.PodIPs = append(c.Pods[0].Status.PodIPs, corev1.PodIP{IP: "fd00:1::10"})
		c.Pods[1].Status.PodIPs = append(c.Pods[1].Status.PodIPs, corev1.PodIP{IP: "fd00:2::10"})
	}
	for _, test := range []struct {
		name, policy, cluster string // the rules of a NetworkPolicy behind its first, "-": there is none; those of a ClusterNetworkPolicy
		change                func(*explain.Cluster)
		want                  string
	}{
		{"isolated", "", "", nil, "may not reach the cluster's DNS"},
		{"isolated, of both families", "", "", dualStack, "may not reach the cluster's DNS"},
		{"isolated, and DNS is not known", "", "", noDNS, "No egress rule of pod client-0 allows port 53/UDP"},
		{"allowed", ", {ports: [{port: 53, protocol: UDP}]}", "", nil, ""},
		{"allowed, of both families", ", {to: [{namespaceSelector: {}}]}", "", dualStack, ""},
		{"allowed to somebody, and DNS is not known", ", {to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 53, protocol: UDP}]}", "", noDNS, ""},
		{"accepted by an administrator", "", "{action: Accept, to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 53}}}]}", noDNS, ""},
		{"not isolated", "-", "{action: Deny, to: [{networks: [169.254.169.254/32]}]}", noDNS, ""},
		{"not isolated, and DNS is known", "-", "{action: Deny, to: [{networks: [169.254.169.254/32]}]}", dualStack, ""},
		{"denied", "-", denyUDP, nil, "may not reach the cluster's DNS"},
		{"denied, and DNS is not known", "-", denyUDP, noDNS, "denied by ClusterNetworkPolicy cnp spec.egress[0].to[0] and protocols[0]"},
		{"another port is denied", "-", "{action: Deny, to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 54}}}]}", noDNS, ""},
	} {
		c := load(t, "cluster.yaml")
		if test.change != nil {
			test.change(c)
		}
		if test.policy != "-" {
			addObjects(t, c, test.name, fmt.Appendf(nil, isolated, test.policy))
		}
		admin := &clusterv1beta1.ClusterNetworkPolicy{}
		if err := yaml.UnmarshalStrict(fmt.Appendf(nil, cnp, test.cluster), admin); err != nil {
			t.Fatal(err)
		}
		c.ClusterPolicies = append(c.ClusterPolicies, admin)
		e := ask(t, c, "shop/client-0", "shop/web-0:8080")
		if text := textOf(t, e); e.Verdict != explain.Allowed || test.want == "" && strings.Contains(text, "resolve names") || !strings.Contains(text, test.want) {
			t.Errorf("%s: %s, without %q, or with a note:\n%s", test.name, e.Verdict, test.want, text)
		}
	}
}

func textOf(t *testing.T, e *explain.Explanation) string {
	t.Helper()
	var b strings.Builder
	if err := e.WriteText(&b, explain.Plain); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func ask(t *testing.T, c *explain.Cluster, from, to string) *explain.Explanation {
	t.Helper()
	q, err := explain.ParseQuestion(from, to, "default")
	if err != nil {
		t.Fatal(err)
	}
	e, err := explain.New(c, policy.JudgeOptions{}).Explain(q)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
