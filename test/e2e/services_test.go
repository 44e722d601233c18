//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/test/check"
)

// shop is a server on node1 and its clients, all in one namespace: on either
// node one labelled role=friend and one labelled role=other.
type shop struct {
	namespace        string
	server           *corev1.Pod
	friends, others  []*corev1.Pod
	clusterIP        *corev1.Service // of the server
	anyNode, ownNode *corev1.Service // of the server, with node ports; externalTrafficPolicy Cluster and Local
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{namespace: newNamespace(t)}
	role := func(role, node string) *corev1.Pod {
		return newPod(s.namespace, role+"-"+node, on(node), labelled("role", role))
	}
	pods := start(t, newPod(s.namespace, "server", on("node1")),
		role("friend", "node1"), role("friend", "node2"), role("other", "node1"), role("other", "node2"))
	s.server, s.friends, s.others = pods[0], pods[1:3], pods[3:5]
	s.clusterIP = newService(t, s.namespace, "server", "server")
	s.anyNode = newService(t, s.namespace, "any-node", "server", nodePort(corev1.ServiceExternalTrafficPolicyCluster))
	s.ownNode = newService(t, s.namespace, "own-node", "server", nodePort(corev1.ServiceExternalTrafficPolicyLocal))
	return s
}

// fromPods are the ways of some pods, fromHost those of a host: a node's own
// processes, or the world outside.
func fromPods(t *testing.T, pods []*corev1.Pod, to func(name, netns string) []way) (all []way) {
	t.Helper()
	for _, pod := range pods {
		all = append(all, to(pod.Name, netnsOf(t, pod))...)
	}
	return all
}

func fromHost(host string, to func(name, netns string) []way) []way {
	return to(host, theCluster.HostNetNS(host))
}

// byClusterIP and byNodePort are destinations for those.
func byClusterIP(to *corev1.Service) func(name, netns string) []way {
	return func(name, netns string) []way { return waysToService(name, netns, to) }
}

func byNodePort(t *testing.T, node string, to *corev1.Service) func(name, netns string) []way {
	return func(name, netns string) []way { return waysToNodePort(t, name, netns, node, to) }
}

// TestServices: what policies mean to traffic by Services. docs/SEMANTICS.md
// has the items that are named.
func TestServices(t *testing.T) {
	s := newShop(t)
	t.Run("ClusterIP", s.testClusterIP)
	t.Run("NodePort/pods", s.testNodePortFromPods)
	t.Run("NodePort/Cluster", s.testNodePortCluster)
	t.Run("NodePort/Local", s.testNodePortLocal)
	t.Run("hairpin", s.testHairpin)
	t.Run("egress", s.testEgressByService)
	t.Run("headless", s.testHeadless)
}

func (s *shop) testClusterIP(t *testing.T) {
	friends, others := fromPods(t, s.friends, byClusterIP(s.clusterIP)), fromPods(t, s.others, byClusterIP(s.clusterIP))
	expectWays(t, "the Service without policy", slices.Concat(friends, others), nil)
	enforce(t, ingressFrom(s.namespace, "server", podsWith("role", "friend")))
	expectWays(t, "the Service for friends only", friends, others)
}

// A pod is known as the pod it is on the node that the server is on (A36). By
// way of another node it comes with that node's address, as kube-proxy rewrites
// it there, and is judged by that (A37).
func (s *shop) testNodePortFromPods(t *testing.T) {
	friends, others := fromPods(t, s.friends, byNodePort(t, "node1", s.anyNode)), fromPods(t, s.others, byNodePort(t, "node1", s.anyNode))
	detour := slices.Concat(fromPods(t, s.friends, byNodePort(t, "node2", s.anyNode)), fromPods(t, s.others, byNodePort(t, "node2", s.anyNode)))
	// To pods kube-proxy offers all endpoints with externalTrafficPolicy Local,
	// too, and rewrites no pod's address.
	local := byNodePort(t, "node1", s.ownNode)
	friends, others = slices.Concat(friends, fromPods(t, s.friends, local)), slices.Concat(others, fromPods(t, s.others, local))
	expectWays(t, "node ports without policy", slices.Concat(friends, others, detour), nil)

	enforce(t, ingressFrom(s.namespace, "server", podsWith("role", "friend")))
	expectWays(t, "node ports for friends only", friends, slices.Concat(others, detour))
	enforce(t, ingressFrom(s.namespace, "server", blocks(nodeIPs(t, "node2")...)...))
	expectWays(t, "node ports for friends and node2", slices.Concat(friends, detour), others)
}

// What comes from outside, or from another node, by the server's node is judged
// by the address it comes with: that kube-proxy gives it this node's on its way
// out, makes it not the node's own. By another node it has that node's (A37).
func (s *shop) testNodePortCluster(t *testing.T) {
	direct, detour := byNodePort(t, "node1", s.anyNode), byNodePort(t, "node2", s.anyNode)
	var (
		own           = fromHost("node1", direct)
		outside       = fromHost("cp", direct)
		outsideDetour = fromHost("cp", detour)
		node2         = slices.Concat(fromHost("node2", direct), fromHost("node2", detour), fromHost("node1", detour))
	)
	expectWays(t, "node ports without policy", slices.Concat(own, outside, outsideDetour, node2), nil)

	enforce(t, ingressFrom(s.namespace, "server", podsWith("role", "friend")))
	expectWays(t, "node ports for friends only", own, slices.Concat(outside, outsideDetour, node2))
	t.Run("outside", func(t *testing.T) {
		enforce(t, ingressFrom(s.namespace, "server", blocks(outsideIPs(t)...)...))
		expectWays(t, "node ports for friends and an address outside", slices.Concat(own, outside), slices.Concat(outsideDetour, node2))
	})
	t.Run("node2", func(t *testing.T) {
		enforce(t, ingressFrom(s.namespace, "server", blocks(nodeIPs(t, "node2")...)...))
		expectWays(t, "node ports for friends and node2", slices.Concat(own, outsideDetour, node2), outside)
	})
	t.Run("node1", func(t *testing.T) {
		// The server sees this address; policy does not.
		enforce(t, ingressFrom(s.namespace, "server", blocks(nodeIPs(t, "node1")...)...))
		expectWays(t, "node ports for friends and the server's node", own, slices.Concat(outside, outsideDetour, node2))
	})
}

// With externalTrafficPolicy Local the client's address is left as it is.
func (s *shop) testNodePortLocal(t *testing.T) {
	direct := byNodePort(t, "node1", s.ownNode)
	own, outside, node2 := fromHost("node1", direct), fromHost("cp", direct), fromHost("node2", direct)
	expectWays(t, "node ports without policy", slices.Concat(own, outside, node2), nil)

	enforce(t, ingressFrom(s.namespace, "server", podsWith("role", "friend")))
	expectWays(t, "node ports for friends only", own, slices.Concat(outside, node2))
	enforce(t, ingressFrom(s.namespace, "server", blocks(outsideIPs(t)...)...))
	expectWays(t, "node ports for friends and an address outside", slices.Concat(own, outside), node2)
	for _, w := range outside {
		if err := seenAs(w, outsideIPs(t)); err != nil {
			t.Error(err)
		}
	}
	enforce(t, ingressFrom(s.namespace, "server", blocks(nodeIPs(t, "node2")...)...))
	expectWays(t, "node ports for friends, an address outside, and node2", slices.Concat(own, outside, node2), nil)
}

// seenAs fails if the server sees a way's packets come from elsewhere.
func seenAs(w way, ips []string) error {
	answer, err := w.ask("clientip", allowedWithin)
	if err != nil {
		return fmt.Errorf("%s: %w", w, err)
	}
	seen, err := netip.ParseAddrPort(answer)
	if err != nil || !slices.Contains(ips, seen.Addr().Unmap().String()) {
		return fmt.Errorf("%s: the server sees %q, not one of %s", w, answer, ips)
	}
	return nil
}

// A pod that reaches itself by its own Service is policed both ways, as itself
// (A32); by its own address, never (A31).
func (s *shop) testHairpin(t *testing.T) {
	server := []*corev1.Pod{s.server}
	hairpin := fromPods(t, server, byClusterIP(s.clusterIP))
	self := fromPods(t, server, func(name, netns string) []way { return waysToPod(name, netns, s.server) })
	friends := fromPods(t, s.friends, byClusterIP(s.clusterIP))
	expectWays(t, "the Service without policy", slices.Concat(hairpin, self, friends), nil)
	t.Run("ingress", func(t *testing.T) {
		enforce(t, ingressFrom(s.namespace, "server", podsWith("role", "friend")))
		expectWays(t, "ingress from friends", slices.Concat(friends, self), hairpin)
		enforce(t, ingressFrom(s.namespace, "server", podsWith("app", "server")))
		expectWays(t, "ingress from friends and from itself", slices.Concat(friends, self, hairpin), nil)
	})
	t.Run("egress", func(t *testing.T) {
		enforce(t, egressTo(s.namespace, "app", "server", podsWith("role", "friend")))
		expectWays(t, "egress to friends", slices.Concat(friends, self), hairpin)
		enforce(t, egressTo(s.namespace, "app", "server", podsWith("app", "server")))
		expectWays(t, "egress to friends and to itself", slices.Concat(friends, self, hairpin), nil)
	})
}

// Egress is judged by the pod behind the Service, never by the Service's address
// (A36).
func (s *shop) testEgressByService(t *testing.T) {
	start(t, newPod(s.namespace, "second", on("node2")))
	second := newService(t, s.namespace, "second", "second")
	toServer, toSecond := fromPods(t, s.friends, byClusterIP(s.clusterIP)), fromPods(t, s.friends, byClusterIP(second))
	others := slices.Concat(fromPods(t, s.others, byClusterIP(s.clusterIP)), fromPods(t, s.others, byClusterIP(second)))
	expectWays(t, "Services without policy", slices.Concat(toServer, toSecond, others), nil)

	enforce(t, egressTo(s.namespace, "role", "friend", blocks(slices.Concat(s.clusterIP.Spec.ClusterIPs, second.Spec.ClusterIPs)...)...))
	expectWays(t, "egress of friends to the Services' addresses", others, slices.Concat(toServer, toSecond))
	enforce(t, egressTo(s.namespace, "role", "friend", podsWith("app", "server")))
	expectWays(t, "egress of friends to the server", slices.Concat(toServer, others), toSecond)
}

// A pod whose egress is closed resolves nothing until DNS is allowed, and then
// connects to what it may.
func (s *shop) testHeadless(t *testing.T) {
	service := newService(t, s.namespace, "headless", "server", func(spec *corev1.ServiceSpec) { spec.ClusterIP = corev1.ClusterIPNone })
	name := fmt.Sprintf("%s.%s.svc.cluster.local", service.Name, s.namespace)
	toPod := func(name, netns string) []way { return waysToPod(name, netns, s.server) }
	friends, others := fromPods(t, s.friends, toPod), fromPods(t, s.others, toPod)
	resolved := func(what string, pods []*corev1.Pod) {
		t.Helper()
		check.Eventually(t, seenWithin, what, func() error { return resolves(t, pods, "udp", name, podIPs(s.server)) })
	}
	resolved("names without policy", slices.Concat(s.friends, s.others))

	enforce(t, egressTo(s.namespace, "role", "friend"))
	expectWays(t, "egress of friends to nowhere", others, friends)
	for range staysFor {
		if err := resolvesNothing(t, s.friends, "udp", name); err != nil {
			t.Fatal(err)
		}
		resolved("names of pods without policy", s.others)
	}
	enforce(t, egressToDNS(t, s.namespace, "role", "friend"))
	resolved("names with egress to DNS", slices.Concat(s.friends, s.others))
	expectWays(t, "egress of friends to DNS alone", others, friends)
	enforce(t, egressTo(s.namespace, "role", "friend", podsWith("app", "server")))
	expectWays(t, "egress of friends to DNS and the server", slices.Concat(others, friends), nil)
	// Now as a program does it: by name, all in the pod.
	for _, pod := range s.friends {
		check.Eventually(t, seenWithin, pod.Name+" to reach the server by its name", func() error {
			return callsByName(pod.Name, netnsOf(t, pod), service.Name, 8080, s.server.Name)
		})
	}
}
