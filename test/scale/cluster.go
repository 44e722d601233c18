// Package scale makes clusters of any size, for benchmarks: many namespaces with
// the same few applications in each, as big clusters have them, and policies of
// the usual kinds. The same Size gives the same cluster.
package scale

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Node is the node whose agent is measured.
const Node = "node-0"

// Size is what a cluster has of each. Namespaces should divide the others.
type Size struct {
	Pods, Namespaces, Policies int
	// Local is how many of the pods run on Node; the others run on nodes of 100.
	Local int
}

// Big is the cluster that benchmarks are about.
var Big = Size{Pods: 100_000, Namespaces: 1_000, Policies: 10_000, Local: 250}

const (
	apps  = 10 // in each namespace
	teams = 50 // of namespaces
)

// Namespace is the nth namespace, of the team n modulo 50.
func Namespace(n int) *corev1.Namespace {
	name := fmt.Sprintf("ns-%04d", n)
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelMetadataName: name, "team": fmt.Sprintf("team-%02d", n%teams),
	}}}
}

// Nodes are Node and those of the other pods, with a pod range each.
func (s Size) Nodes() (all []*corev1.Node) {
	for n := range 1 + (s.Pods-s.Local+99)/100 {
		ip := netip.AddrFrom4([4]byte{172, 16, byte(n >> 8), byte(n)}).String()
		all = append(all, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", n)},
			Spec:       corev1.NodeSpec{PodCIDR: podCIDR(n), PodCIDRs: []string{podCIDR(n)}},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}},
		})
	}
	return all
}

// podCIDR is the /24 of the nth node; there are 65,536.
func podCIDR(n int) string { return fmt.Sprintf("%d.%d.%d.0/24", 10+n>>16, n>>8&255, n&255) }

// Pod is the nth pod: of namespace n modulo their number. Every so many pods is
// Node's.
func (s Size) Pod(n int) *corev1.Pod {
	namespace, app := n%s.Namespaces, n/s.Namespaces%apps
	node, slot := s.place(n)
	ip := netip.MustParsePrefix(podCIDR(node)).Addr().As4()
	ip[3] = byte(2 + slot)
	address := netip.AddrFrom4(ip).String()
	name := fmt.Sprintf("app-%d-%x", app, n)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("ns-%04d", namespace), Name: name, UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012x", n)),
			Labels: map[string]string{
				"app": fmt.Sprintf("app-%d", app), "tier": []string{"web", "logic", "data"}[app%3],
				"pod-template-hash": fmt.Sprintf("%08x", namespace*apps+app),
			},
			CreationTimestamp: metav1.NewTime(time.Unix(1_700_000_000+int64(n), 0)),
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("node-%d", node),
			Containers: []corev1.Container{{Name: "main", Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: int32(8080 + app), Protocol: corev1.ProtocolTCP},
			}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}},
	}
}

// place is the node of the nth pod, and which of the node's pods it is.
func (s Size) place(n int) (node, slot int) {
	if s.Local > 0 {
		// Every step-th pod runs on Node. That and the number of namespaces have
		// no divisor in common, or a few namespaces would have them all.
		step := (max(1, s.Pods/s.Local) - 1) | 1
		if n%step == 0 && n/step < s.Local {
			return 0, n / step
		}
		n -= min(n/step+1, s.Local)
	}
	return 1 + n/100, n % 100
}

// Policy is the nth policy: of namespace n modulo their number, and of ten
// kinds in turn.
func (s Size) Policy(n int) *networkingv1.NetworkPolicy {
	kind := n / s.Namespaces % 10
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{
		Namespace: fmt.Sprintf("ns-%04d", n%s.Namespaces), Name: fmt.Sprintf("policy-%d-%d", kind, n/s.Namespaces),
	}}
	app := func(n int) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app-%d", n%apps)}}
	}
	team := &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprintf("team-%02d", (n+1)%teams)}}
	tcp := corev1.ProtocolTCP
	port := func(value intstr.IntOrString) []networkingv1.NetworkPolicyPort {
		return []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &value}}
	}
	ingress := func(ports []networkingv1.NetworkPolicyPort, from ...networkingv1.NetworkPolicyPeer) {
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: ports, From: from})
	}
	egress := func(ports []networkingv1.NetworkPolicyPort, to ...networkingv1.NetworkPolicyPeer) {
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{Ports: ports, To: to})
	}
	switch kind {
	case 0: // default deny
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	case 1: // DNS
		egress(port(intstr.FromInt32(53)), networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{
			MatchLabels: map[string]string{corev1.LabelMetadataName: "ns-0000"},
		}})
	case 2, 3: // one application to another
		np.Spec.PodSelector = *app(kind)
		ingress(port(intstr.FromInt32(int32(8080+kind))), networkingv1.NetworkPolicyPeer{PodSelector: app(kind + 1)})
	case 4: // by a port's name
		np.Spec.PodSelector = *app(kind)
		ingress(port(intstr.FromString("http")), networkingv1.NetworkPolicyPeer{PodSelector: app(kind + 1)})
	case 5: // from another team's namespaces
		np.Spec.PodSelector = *app(kind)
		ingress(nil, networkingv1.NetworkPolicyPeer{NamespaceSelector: team})
	case 6: // from one application of those
		np.Spec.PodSelector = *app(kind)
		ingress(nil, networkingv1.NetworkPolicyPeer{NamespaceSelector: team, PodSelector: app(1)})
	case 7: // the world, but for a part
		np.Spec.PodSelector = *app(kind)
		egress(port(intstr.FromInt32(443)), networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8", "169.254.0.0/16"}}})
	case 8: // within the namespace
		ingress(nil, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}})
	case 9: // to two applications
		np.Spec.PodSelector = *app(kind)
		egress(nil, networkingv1.NetworkPolicyPeer{PodSelector: app(2)}, networkingv1.NetworkPolicyPeer{PodSelector: app(3)})
	}
	return np
}
