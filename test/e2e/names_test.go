//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/test/check"
)

// TestDomainNames: with the cluster's own DNS, a pod reaches what it was told, by the names that programs use (search domains,
// ndots, a headless Service's pods); another pod does not, before it has asked. Names without * the agent resolves itself.
func TestDomainNames(t *testing.T) {
	withoutKind(t)
	installKind(t, channel(t, "experimental"), "v1beta1")
	api := clusterAPI(t, "v1beta1")
	far, near := newNamespace(t), newNamespace(t)
	member := func(p *corev1.Pod) { p.Labels["app"], p.Spec.Hostname, p.Spec.Subdomain = "member", p.Name, "web" }
	pods := start(t,
		newPod(far, "one", on("node1"), member), newPod(far, "two", on("node2"), member),
		newPod(near, "asker", on("node1")), newPod(near, "other", on("node1")), newPod(near, "away", on("node2")),
	)
	servers, clients := pods[:2], pods[2:]
	newService(t, far, "web", "member", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })
	to := func(client, server *corev1.Pod) []way { return waysToPod(client.Name, netnsOf(t, client), server) }
	all := waysBetween(t, clients, servers)
	expectWays(t, "pods to reach each other", all, nil)

	spec := func(name string) string {
		return fmt.Sprintf(`{tier: Admin, priority: 10, subject: {namespaces: %s}, egress: [
			{action: Accept, to: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}}], protocols: [{udp: {destinationPort: {number: 53}}}, {tcp: {destinationPort: {number: 53}}}]},
			{action: Accept, to: [{domainNames: ["%s"]}]},
			{action: Deny, to: [{networks: ["0.0.0.0/0", "::/0"]}]}]}`, named(near), name)
	}
	cnp := clusterPolicy(t, "e2e-names", spec("*.web."+far+".svc.cluster.local"))
	createPolicies(t, api, cnp)
	expectWays(t, "names that nobody has asked for to be closed", nil, all)
	for _, client := range []*corev1.Pod{clients[0], clients[2]} {
		for _, server := range servers {
			host := server.Name + ".web." + far
			check.Eventually(t, seenWithin, client.Name+" to call "+host, func() error {
				return callsByName(client.Name, netnsOf(t, client), host, 8080, server.Name)
			})
			// Its first connection, and each one after it, as long as the answer counts.
			if err := callsByName(client.Name, netnsOf(t, client), host, 8080, server.Name); err != nil {
				t.Error(err)
			}
		}
	}
	expectWays(t, "what another pod was told to be closed", nil, append(to(clients[1], servers[0]), to(clients[1], servers[1])...))
	for _, node := range []string{"node1", "node2"} {
		if n, err := metric(node, "podfence_dns_answers_total"); err != nil || n == 0 {
			t.Errorf("%s has learned from %v answers: %v", node, n, err)
		}
	}

	changePolicy(t, api, cnp.Name, spec("WEB."+far+".svc.cluster.local."))
	expectWays(t, "what the agents resolve to be open to all", all, nil)
	deletePolicies(t, api, cnp)
	expectWays(t, "pods to reach each other again", all, nil)
}
