package explain_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/v1alpha1"
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
	{"not-selected", "shop/client-1", "shop/web-0:8080", explain.Denied, []string{"NetworkPolicy shop/client allows this", "spec.egress[0]", "does not select this one", "label app=client: pod client-1 has app=cleint"}},
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

// TestNotSelectedWouldNotHelp: a policy that does not select the pod is not named where it allows something else.
func TestNotSelectedWouldNotHelp(t *testing.T) {
	e := ask(t, load(t, "cluster.yaml", "not-selected.yaml"), "shop/client-1", "prod/batch-0:22")
	if e.Verdict != explain.Denied || len(e.Answers) != 1 || len(e.Answers[0].Notes) > 0 {
		t.Errorf("%s:\n%s", e.Verdict, textOf(t, e))
	}
}

// TestMisses: what of a rule did not mean a packet is all of it, and true.
func TestMisses(t *testing.T) {
	const np = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [%s]
`
	six := func(c *explain.Cluster) {
		for i, addr := range []string{"fd00:1::10", "fd00:2::10"} {
			c.Pods[i].Status.PodIPs = []corev1.PodIP{{IP: addr}}
		}
	}
	standIn := func(c *explain.Cluster) {
		c.Pods[1].Annotations = map[string]string{v1alpha1.StandInAnnotation: "true"}
		c.Pods[1].Status.PodIPs = []corev1.PodIP{{IP: "240.0.0.2"}}
	}
	for _, test := range []struct {
		rule, path, reason string
		change             func(*explain.Cluster)
	}{
		{"{ports: [{port: http}, {port: 53, protocol: UDP}, {port: 7000, endPort: 7100}]}", "spec.ingress[0].ports",
			"TCP port 81 is not in TCP 7000-7100, UDP 53; named port http: the container declares it as 8080/TCP, and the packet goes to 81/TCP", nil},
		{"{ports: [{port: 82}, {port: http}]}", "spec.ingress[0].ports", "port 81 is not in 82; named port http: the container declares it as 8080/TCP, and the packet goes to 81/TCP", nil},
		{"{ports: [{port: http}]}", "spec.ingress[0].ports[0]", "named port http: the container declares it as 8080/TCP, and the packet goes to 81/TCP", nil},
		{"{ports: [{port: 53, protocol: UDP}, {port: 82, protocol: SCTP}]}", "spec.ingress[0].ports", "TCP port 81 is not in UDP 53, SCTP 82", nil},
		{"{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}", "spec.ingress[0].from[0].ipBlock", "10.0.0.0/8 is of IPv4, and fd00:2::10 (pod shop/client-0) of IPv6", six},
		{"{from: [{ipBlock: {cidr: 'fd00::/8'}}]}", "spec.ingress[0].from[0].ipBlock", "fd00::/8 is of IPv6, and the IPv4 address of pod shop/client-0 is not in it", standIn},
		{"{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}", "spec.ingress[0].from[0].ipBlock", "pod shop/client-0 has no address yet: whether it will be in 10.0.0.0/8 is not known", standIn},
		{"{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [240.0.0.0/4]}}]}", "spec.ingress[0].from[0].ipBlock", "pod shop/client-0 has no address yet: whether it will be in 0.0.0.0/0 except 240.0.0.0/4 is not known", standIn},
		{"{from: [{ipBlock: {cidr: 10.9.0.0/16}}]}", "spec.ingress[0].from[0].ipBlock", "pod shop/client-0 has no address yet, and no pod's address is in 10.9.0.0/16", standIn},
	} {
		c := load(t, "cluster.yaml")
		if test.change != nil {
			test.change(c)
		}
		addObjects(t, c, test.rule, fmt.Appendf(nil, np, test.rule))
		e := ask(t, c, "shop/client-0", "shop/web-0:81")
		if len(e.Answers) != 1 || len(e.Answers[0].Ingress.NearestMisses) != 1 {
			t.Errorf("%s:\n%s", test.rule, textOf(t, e))
			continue
		}
		if failed := e.Answers[0].Ingress.NearestMisses[0].Failed; len(failed) != 1 || failed[0] != (explain.Mismatch{Path: test.path, Reason: test.reason}) {
			t.Errorf("%s: %q, want %s: %s", test.rule, failed, test.path, test.reason)
		}
	}
	// A Baseline rule is not asked about an isolated pod, and so has not nearly allowed anything.
	c := load(t, "cluster.yaml")
	addObjects(t, c, "nothing", fmt.Appendf(nil, np, ""))
	c.ClusterPolicies = append(c.ClusterPolicies, &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: clusterv1beta1.ClusterNetworkPolicySpec{
		Tier: clusterv1beta1.BaselineTier, Subject: clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
		Ingress: []clusterv1beta1.ClusterNetworkPolicyIngressRule{{Action: "Accept", From: []clusterv1beta1.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "ops"}}}}}},
	}})
	if e := ask(t, c, "shop/client-0", "shop/web-0:81"); e.Verdict != explain.Denied || len(e.Answers[0].Ingress.NearestMisses) > 0 {
		t.Errorf("a rule that is not asked: %s", textOf(t, e))
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
