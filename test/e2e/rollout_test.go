//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// allowFrom lets pods with the label app=peer into those with app=subject, and
// out to them.
func allowFrom(namespace, subject, peer string) []*networkingv1.NetworkPolicy {
	selector := func(app string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	}
	of := func(app string) []networkingv1.NetworkPolicyPeer {
		s := selector(app)
		return []networkingv1.NetworkPolicyPeer{{PodSelector: &s}}
	}
	return []*networkingv1.NetworkPolicy{{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: peer + "-into-" + subject},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: selector(subject),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: of(peer)}},
		},
	}, {
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: peer + "-out-to-" + subject},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: selector(peer),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{To: of(subject)}},
		},
	}}
}

// TestRollout replaces all agents, twice, under traffic: nothing that is
// allowed breaks, and nothing that is denied passes.
func TestRollout(t *testing.T) {
	ns := newNamespace(t)
	apply(t, denyAll(ns))
	for _, policy := range allowFrom(ns, "server", "friend") {
		apply(t, policy)
	}
	var pods []*corev1.Pod
	labelled := func(app string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels["app"] = app }
	}
	for _, node := range []string{"node1", "node2"} {
		for _, app := range []string{"server", "friend"} {
			pods = append(pods, newPod(ns, app+"-"+node, on(node), labelled(app)))
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
			for _, ip := range server.Status.PodIPs {
				eventually(t, time.Minute, friend.Name+" to reach "+server.Name, func() error {
					return dial(netnsOf(t, friend), "tcp", hostPort(ip.IP, 8080))
				})
				talks = append(talks, keepTalking(t, friend, ip.IP))
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
