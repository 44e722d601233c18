package explain

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// DeniedPacket is a packet that a node has denied, with as much of the cluster as policies can say something about
// in it.
type DeniedPacket struct {
	Packet policy.Packet
	// Direction is that of the rules that decided. The pod that they are about is the packet's source for
	// egress, and its destination for ingress.
	Direction policy.Direction
	// Rule denies it, of which policy, direction and place count; nil: no rule allows it, and Policies isolate
	// the pod.
	Rule *policy.RuleRef
	// Staged: it would be denied with the staged policies in force.
	Staged bool
	// Ends is who has the packet's addresses.
	Ends policy.Ends
	// Resolutions and Lapsed are by which domain names the packet's source, or the agent, was told of its destination, and was
	// before.
	Resolutions, Lapsed []policy.Resolution
	// Policies isolate the pod, and ClusterPolicies select it. Nobody may change them meanwhile.
	Policies        []*networkingv1.NetworkPolicy
	ClusterPolicies []*clusterv1beta1.ClusterNetworkPolicy
}

// NearMiss is the rule that would have allowed the packet but for one thing, and that thing, in the words of
// Explain: the first of the nearest misses that it has of the same packet in which one field alone failed. It is
// empty if there is none, if nobody can tell who has the addresses, or if the policies do not deny the packet as
// it was denied, as when they have changed since. It may be called by any goroutine.
//
// Explain knows more than an agent: that a pod is on its node's network, and which Services lead to a pod.
// Where it has been asked by the name of such a pod, or about a Service, it says more.
func NearMiss(d DeniedPacket) string {
	if unsure(d.Ends.Src) || unsure(d.Ends.Dst) {
		return ""
	}
	side, judged := New(d.cluster(), policy.JudgeOptions{StagedInForce: d.Staged}).sideOf(d.Packet, d.Direction)
	if side.Verdict != Denied || !d.deniedSo(judged) {
		return ""
	}
	for _, miss := range side.NearestMisses {
		if len(miss.Failed) == 1 {
			return miss.String()
		}
	}
	return ""
}

// unsure reports whether nobody can tell what policies say of an end.
func unsure(e policy.End) bool { return e.Doubtful || e.Pod != nil && e.Pod.Unread }

// deniedSo reports whether a judgement denies for the same reason as the node.
func (d *DeniedPacket) deniedSo(j policy.Judgement) bool {
	if d.Rule == nil {
		return len(j.DeniedBy) == 0
	}
	return slices.ContainsFunc(j.DeniedBy, func(by policy.RuleRef) bool { return by.Policy == d.Rule.Policy && by.Rule == d.Rule.Rule })
}

// String is the miss in one line: the policy, and of each field that failed its path and what is wrong.
func (m Miss) String() string {
	texts := make([]string, len(m.Failed))
	for i, f := range m.Failed {
		texts[i] = f.Path + ": " + f.Reason
	}
	return m.Rule.Policy.String() + " " + strings.Join(texts, "; ")
}

// sideOf is what the policies of one end of a packet say of it.
func (x *Explainer) sideOf(p policy.Packet, d policy.Direction) (Side, policy.Judgement) {
	a := Answer{From: x.addressEnd(p.Src).End, To: x.addressEnd(p.Dst).End}
	egress, ingress := x.seen(&a, p)
	v := x.Judge(p)
	if d == policy.Egress {
		return x.side(v.Egress, egress), v.Egress
	}
	return x.side(v.Ingress, ingress), v.Ingress
}

// cluster is a cluster of nothing but what decides about the packet.
func (d *DeniedPacket) cluster() *Cluster {
	c := &Cluster{Snapshot: policy.Snapshot{Policies: d.Policies, ClusterPolicies: d.ClusterPolicies, Resolutions: d.Resolutions}, Lapsed: d.Lapsed, NamesKnown: true}
	for _, of := range []struct {
		end  policy.End
		addr string
	}{{d.Ends.Src, d.Packet.Src.String()}, {d.Ends.Dst, d.Packet.Dst.String()}} {
		if of.end.Pod != nil && !slices.ContainsFunc(c.Pods, func(p *corev1.Pod) bool { return p.Namespace == of.end.Pod.Namespace && p.Name == of.end.Pod.Name }) {
			c.Pods = append(c.Pods, podOf(of.end.Pod, of.addr))
		} else if of.end.Pod != nil {
			c.Pods[0].Status.PodIPs = append(c.Pods[0].Status.PodIPs, corev1.PodIP{IP: of.addr})
		}
		if ns := of.end.Namespace; ns != nil && !slices.ContainsFunc(c.Namespaces, func(n *corev1.Namespace) bool { return n.Name == ns.Name }) {
			c.Namespaces = append(c.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: ns.Labels}})
		}
		for _, node := range of.end.Nodes {
			if !slices.ContainsFunc(c.Nodes, func(n *corev1.Node) bool { return n.Name == node.Name }) {
				c.Nodes = append(c.Nodes, nodeOf(node))
			}
		}
	}
	return c
}

// podOf is a pod as the API would show it, as far as policy sees it, with one of its addresses.
func podOf(p *policy.Pod, addr string) *corev1.Pod {
	container := corev1.Container{}
	for _, port := range p.Ports {
		container.Ports = append(container.Ports, corev1.ContainerPort{Name: port.Name, Protocol: corev1.Protocol(port.Protocol.String()), ContainerPort: int32(port.Number)})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: maps.Collect(p.Labels.All())},
		Spec:       corev1.PodSpec{NodeName: p.Node, Containers: []corev1.Container{container}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: addr}}},
	}
}

// nodeOf is a node as the API would show it, without its pod ranges, and with addresses outside of the cluster
// alone: whose an address is, is known, and neither must take it from a pod.
func nodeOf(n policy.Node) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: maps.Collect(n.Labels.All())}}
	for _, addr := range n.Listed {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: addr.String()})
	}
	return node
}
