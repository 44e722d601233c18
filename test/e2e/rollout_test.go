//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// friendsAndServers isolates all pods of a namespace, but for those labelled
// app=friend, who may reach those labelled app=server.
func friendsAndServers(t *testing.T, namespace string) {
	t.Helper()
	apply(t, denyAll(namespace))
	apply(t, ingressFrom(namespace, "server", podsWith("app", "friend")))
	apply(t, egressTo(namespace, "app", "friend", podsWith("app", "server")))
}

// TestRollout replaces all agents, twice, under traffic: nothing that is
// allowed breaks, and nothing that is denied passes.
func TestRollout(t *testing.T) {
	ns := newNamespace(t)
	friendsAndServers(t, ns)
	var pods []*corev1.Pod
	for _, node := range []string{"node1", "node2"} {
		for _, app := range []string{"server", "friend"} {
			pods = append(pods, newPod(ns, app+"-"+node, on(node), labelled("app", app)))
		}
	}
	pods = start(t, pods...)
	// Not isolated, so that its packets are the receivers' to stop; and one of
	// its kind that gets them.
	open := newNamespace(t)
	strangers := start(t, newPod(open, "stranger-1", on("node1")), newPod(open, "stranger-2", on("node2")), newPod(open, "control", on("node1")))

	servers, friends := []*corev1.Pod{pods[0], pods[2]}, []*corev1.Pod{pods[1], pods[3]}
	var talks []*steady
	for _, friend := range friends {
		for _, server := range servers {
			// By TCP alone: the servers' counts are of UDP.
			expectWays(t, friend.Name+" to reach "+server.Name, ways(friend.Name, netnsOf(t, friend), podIPs(server), 8080, 0), nil)
			for _, ip := range podIPs(server) {
				talks = append(talks, keepTalking(t, friend, ip))
			}
		}
	}
	knock(t, strangers[0], append(servers, strangers[2])...)
	knock(t, strangers[1], append(servers, strangers[2])...)

	for range 2 {
		before := agents(t)
		kubectl(t, "--namespace", "podfence-system", "rollout", "restart", "daemonset/podfence-agent")
		kubectl(t, "--namespace", "podfence-system", "rollout", "status", "--timeout=3m", "daemonset/podfence-agent")
		for uid := range agents(t) {
			if before[uid] {
				t.Fatalf("agent %s was not replaced", uid)
			}
		}
	}
	for i, talk := range talks {
		talk.check(t, fmt.Sprintf("talk %d", i))
	}
	for _, server := range servers {
		if n := received(t, server); n != 0 {
			t.Errorf("%s has received %d denied packets", server.Name, n)
		}
	}
	if n := received(t, strangers[2]); n < 100 {
		t.Errorf("the control has received only %d packets", n)
	}
}
