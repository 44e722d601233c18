package explain_test

import (
	"strings"
	"testing"

	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
)

// twoPods are two pods, and a policy, which may be a ClusterNetworkPolicy.
func twoPods(t *testing.T, policy string) *explain.Cluster {
	t.Helper()
	c := parseCluster(t, `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: m, image: i, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.2}, {ip: "fd00:1::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: client, labels: {app: client}}
status: {phase: Running, podIPs: [{ip: 10.244.1.3}, {ip: "fd00:1::3"}]}
`)
	if !strings.Contains(policy, "kind: ClusterNetworkPolicy") {
		addObjects(t, c, "the policy", []byte(policy))
		return c
	}
	cnp := &clusterv1beta1.ClusterNetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(policy), cnp); err != nil {
		t.Fatal(err)
	}
	c.ClusterPolicies = append(c.ClusterPolicies, cnp)
	return c
}

// rowText is what a table says is open from the client to the web; empty: nothing is.
func rowText(table string) string {
	for line := range strings.Lines(table) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "shop/client" && fields[1] == "shop/web" {
			return strings.Join(fields[2:], " ")
		}
	}
	return ""
}

// TestOtherProtocols: rules with ports mean no ICMP and no other protocol without ports, even if they have every
// port. A question without a port, a Reach, a matrix and a Diff say so.
func TestOtherProtocols(t *testing.T) {
	const (
		network = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: web}\nspec: {podSelector: {matchLabels: {app: web}}, ingress: [{"
		cluster = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: web}\n" +
			"spec: {tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]"
		ports = ", protocols: [{tcp: {}}, {udp: {}}, {sctp: {destinationPort: {range: {start: 1, end: 65535}}}}]"
	)
	for _, test := range []struct {
		name, policy string
		verdict      explain.Verdict
		open         string
		cell         string
	}{
		{"allowed", network + "}]}", explain.Allowed, "all ports", "all"},
		{"allowed by ports", network + "ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP}]}]}", explain.Mixed, "TCP all, UDP all, SCTP all", "all/tcp,all/udp,all/sctp"},
		{"denied", cluster + "}]}", explain.Denied, "", "-"},
		{"denied by ports", cluster + ports + "}]}", explain.Mixed, "ICMP and other protocols", "other"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := twoPods(t, test.policy)
			e := ask(t, c, "shop/client", "shop/web")
			if e.Verdict != test.verdict || e.Verdict == explain.Mixed && !strings.Contains(textOf(t, e), ": open are "+test.open+"\n") {
				t.Errorf("%s, want %s and %q:\n%s", e.Verdict, test.verdict, test.open, textOf(t, e))
			}
			r, err := newExplainer(c).Reach(target(t, "shop/web"))
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			if err := r.WriteText(&text, explain.Plain, explain.Table{}); err != nil {
				t.Fatal(err)
			}
			if open := rowText(text.String()); open != test.open {
				t.Errorf("reach has %q, want %q:\n%s", open, test.open, &text)
			}
			m, err := newExplainer(c).Matrix("shop")
			if err != nil {
				t.Fatal(err)
			}
			text.Reset()
			if err := m.WriteText(&text, explain.Plain, explain.Table{Wide: true}); err != nil {
				t.Fatal(err)
			}
			if row := strings.Fields(strings.Split(text.String(), "\n")[1]); row[3] != test.cell {
				t.Errorf("the row of the client is %q, want %q", row, test.cell)
			}
			if said := strings.Contains(text.String(), "other: ICMP and other protocols"); said != (test.cell == "other") {
				t.Errorf("the legend:\n%s", &text)
			}
		})
	}
	d := explain.Compare(newExplainer(twoPods(t, cluster+"}]}")), newExplainer(twoPods(t, cluster+ports+"}]}")))
	if got := diffText(t, d); len(d.Opened) != 1 || len(d.Closed) != 0 || !strings.HasPrefix(got, "OPENED  shop/client -> shop/web  ICMP and other protocols\n  ingress of shop/web, ICMP:\n") {
		t.Errorf("the diff is\n%s", got)
	}
	d = explain.Compare(newExplainer(twoPods(t, network+"}]}")), newExplainer(twoPods(t, network+"ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP}]}]}")))
	if got := diffText(t, d); len(d.Opened) != 0 || len(d.Closed) == 0 || !strings.Contains(got, "CLOSED  shop/client -> shop/web  ICMP and other protocols\n") ||
		!strings.Contains(got, "ICMP is not in TCP, UDP, SCTP: only rules without ports mean it\n") {
		t.Errorf("the diff is\n%s", got)
	}
}
