//go:build e2e

package e2e

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Ports of the pods on the hosts' networks. They are the node's as well.
const hostTCP, hostUDP = 28080, 28081

// onHostNetwork makes a pod one on its node's network.
func onHostNetwork(p *corev1.Pod) {
	p.Spec.HostNetwork = true
	c := &p.Spec.Containers[0]
	// Its UDP server must answer from the address that it was asked at. One that
	// listens on all would answer a pod of its node from the pods' gateway.
	c.Env = []corev1.EnvVar{{Name: "HOST_IPS", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIPs"}}}}
	c.Args = []string{"netexec", "--http-port=28080", "--udp-port=28081", "--udp-listen-addresses=$(HOST_IPS)"}
}

// waysToHost are those to a node's own pods, or to what else listens there.
func waysToHost(t *testing.T, from *corev1.Pod, nodes ...string) (all []way) {
	t.Helper()
	for _, node := range nodes {
		all = append(all, ways(from.Name+" to "+node, netnsOf(t, from), nodeIPs(t, node), hostTCP, hostUDP)...)
	}
	return all
}

// waysBetween are those from each of some pods to each of others.
func waysBetween(t *testing.T, from, to []*corev1.Pod) (all []way) {
	t.Helper()
	for _, f := range from {
		for _, o := range to {
			if f != o {
				all = append(all, waysToPod(f.Name+" to "+o.Name, netnsOf(t, f), o)...)
			}
		}
	}
	return all
}

// TestHostNetwork: pods on the host's network are the node, to podfence (A25).
func TestHostNetwork(t *testing.T) {
	namespace, outside := newNamespace(t), newNamespace(t)
	friend := labelled("role", "friend")
	pods := start(t,
		newPod(namespace, "host-node1", on("node1"), friend, onHostNetwork), newPod(namespace, "host-node2", on("node2"), friend, onHostNetwork),
		newPod(namespace, "pod-node1", on("node1"), friend), newPod(namespace, "pod-node2", on("node2"), friend),
		newPod(namespace, "server", on("node1")),
		newPod(outside, "near", on("node1")), newPod(outside, "far", on("node2")),
	)
	hosts, plain, server, strangers := pods[:2], pods[2:4], pods[4:5], pods[5:]

	// A policy that selects one has no effect on it; on its neighbours with the
	// same labels it has.
	t.Run("no subjects", func(t *testing.T) {
		in := slices.Concat(waysToHost(t, strangers[0], "node1", "node2"), waysToHost(t, strangers[1], "node1", "node2"))
		out := waysBetween(t, hosts, strangers)
		closed := slices.Concat(waysBetween(t, strangers, plain), waysBetween(t, plain, strangers))
		expectWays(t, "all ways without policy", slices.Concat(in, out, closed), nil)
		enforce(t, denyAll(namespace))
		expectWays(t, "policies to leave hosts alone", slices.Concat(in, out), closed)
	})

	// A selector that matches one does not mean it, in either direction.
	t.Run("no peers of ingress", func(t *testing.T) {
		friends, host := waysBetween(t, plain, server), waysBetween(t, hosts[1:], server)
		expectWays(t, "all ways without policy", slices.Concat(friends, host), nil)
		enforce(t, ingressFrom(namespace, "server", podsWith("role", "friend")))
		expectWays(t, "ingress from friends", friends, host)
		enforce(t, ingressFrom(namespace, "server", blocks(nodeIPs(t, "node2")...)...))
		expectWays(t, "ingress from friends and node2", slices.Concat(friends, host), nil)
	})
	t.Run("no peers of egress", func(t *testing.T) {
		friends := waysBetween(t, server, plain)
		own, other := waysToHost(t, server[0], "node1"), waysToHost(t, server[0], "node2")
		expectWays(t, "all ways without policy", slices.Concat(friends, own, other), nil)
		enforce(t, egressTo(namespace, "app", "server", podsWith("role", "friend")))
		expectWays(t, "egress to friends", friends, slices.Concat(own, other))
		enforce(t, egressTo(namespace, "app", "server", blocks(nodeIPs(t, "node1")...)...))
		expectWays(t, "egress to friends and the pod's node", slices.Concat(friends, own), other)
		enforce(t, egressTo(namespace, "app", "server", blocks(nodeIPs(t, "node2")...)...))
		expectWays(t, "egress to friends and both nodes", slices.Concat(friends, own, other), nil)
	})
}

// TestNodesAndTheirPods: a node, and so the pods on its network, reaches its own
// pods whatever the policies (A33); others' as any address that is no pod's
// (A34).
func TestNodesAndTheirPods(t *testing.T) {
	namespace, elsewhere := newNamespace(t), newNamespace(t)
	servers := start(t, newPod(namespace, "server-node1", on("node1")), newPod(namespace, "server-node2", on("node2")))
	hosts := start(t, newPod(elsewhere, "host-node1", on("node1"), onHostNetwork), newPod(elsewhere, "host-node2", on("node2"), onHostNetwork))

	var own, others [2][]way // from each node
	for i, node := range []string{"node1", "node2"} {
		for j, server := range servers {
			service := newService(t, namespace, server.Name+"-"+node, server.Name)
			to := slices.Concat(
				fromHost(node, func(name, netns string) []way { return waysToPod(name+" to "+server.Name, netns, server) }),
				fromHost(node, byClusterIP(service)),
				waysBetween(t, hosts[i:i+1], servers[j:j+1]),
			)
			if i == j {
				own[i] = to
			} else {
				others[i] = to
			}
		}
	}
	allOwn, allOthers := slices.Concat(own[:]...), slices.Concat(others[:]...)
	expectWays(t, "all ways without policy", slices.Concat(allOwn, allOthers), nil)
	enforce(t, denyAll(namespace))
	expectWays(t, "nodes to reach their own pods alone", allOwn, allOthers)
	enforce(t, ingressFrom(namespace, "server-node1", blocks(nodeIPs(t, "node2")...)...))
	expectWays(t, "node2 to reach node1's pod as well", slices.Concat(allOwn, others[1]), others[0])
}
