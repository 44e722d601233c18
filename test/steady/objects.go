package steady

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// Namespace is that of the pods.
const Namespace = "steady"

// The pods. All are on random.Node.
const (
	Caller = "caller"
	Open   = "open"
	Shut   = "shut"
	Mute   = "mute"
)

var names = []string{Caller, Open, Shut, Mute}

// Addrs are a pod's addresses.
func Addrs(name string) []netip.Addr {
	for n, other := range names {
		if other == name {
			return random.PodAddrs(200+n, random.Node)
		}
	}
	panic("no pod of steady traffic is called " + name)
}

// Objects are what the API has of it: the pods with their addresses in the status.
func Objects() (ns *corev1.Namespace, pods []*corev1.Pod, policies []*networkingv1.NetworkPolicy) {
	for _, name := range names {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: name, Labels: map[string]string{"steady": name}},
			Spec:       corev1.PodSpec{NodeName: random.Node, Containers: []corev1.Container{{Name: "main"}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning},
		}
		for _, addr := range Addrs(name) {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
		}
		pod.Status.PodIP = pod.Status.PodIPs[0].IP
		pods = append(pods, pod)
	}
	selecting := func(name string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"steady": name}}
	}
	caller := selecting(Caller)
	for name, spec := range map[string]networkingv1.NetworkPolicySpec{
		Open: {Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &caller}}}}},
		Shut: {PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}},
		Mute: {PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}},
	} {
		spec.PodSelector = selecting(name)
		policies = append(policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: name}, Spec: spec})
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}, pods, policies
}

// AddPods makes the pods' hosts on a node.
func AddPods(node *lab.Node) error {
	for _, name := range names {
		if _, err := node.AddPod(name, lab.PodOptions{IPs: Addrs(name)}); err != nil {
			return fmt.Errorf("steady traffic: %w", err)
		}
	}
	return nil
}
