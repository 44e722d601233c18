package random

import (
	"fmt"
	"math/rand"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
)

// The nodes of every cluster: Node is the one whose agent is tested.
const (
	Node      = "node-1"
	OtherNode = "node-2"
)

var (
	namespaces = []string{"shop", "db", "ops"}
	labelKeys  = []string{"app", "tier", "team"}
	labelVals  = []string{"", "a", "b", "c"}
	portNames  = []string{"http", "dns", "admin"}
	numbers    = []int32{53, 80, 81, 443, 8080}
	protocols  = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}

	// blocks are CIDRs around the addresses that Pod and Nodes give.
	blocks4 = []string{"0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.0/28", "10.244.1.3/32", "10.244.1.4/30", "10.244.2.0/25", "192.0.2.0/24", "192.0.2.1/32", "203.0.113.0/24", "203.0.113.128/25"}
	blocks6 = []string{"::/0", "fd00:244::/32", "fd00:244:0:1::/64", "fd00:244:0:1::/125", "fd00:244:0:1::3/128", "fd00:244:0:2::/64", "2001:db8::/32", "2001:db8::2/128"}
	// Outside are addresses that are no pod's and no node's.
	Outside = addrs("203.0.113.7", "203.0.113.200", "2001:db8::2", "2001:db8::9")
	// NodeAddrs are Node's own.
	NodeAddrs = addrs("192.0.2.1", "2001:db8:1::1")
	// OtherNodeAddrs are OtherNode's.
	OtherNodeAddrs = addrs("192.0.2.2", "2001:db8:1::2")
)

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.Intn(len(from))] }

func maybe(r *rand.Rand, oneIn int) bool { return r.Intn(oneIn) == 0 }

// Labels are a few labels.
func Labels(r *rand.Rand) map[string]string {
	l := map[string]string{}
	for range r.Intn(3) {
		l[pick(r, labelKeys)] = pick(r, labelVals)
	}
	return l
}

// Nodes are both nodes, with their addresses and pod ranges.
func Nodes() []*corev1.Node {
	node := func(name string, own []netip.Addr, cidrs ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidrs[0], PodCIDRs: cidrs}}
		for _, addr := range own {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
		}
		return n
	}
	return []*corev1.Node{
		node(Node, NodeAddrs, "10.244.1.0/24", "fd00:244:0:1::/64"),
		node(OtherNode, OtherNodeAddrs, "10.244.2.0/24", "fd00:244:0:2::/64"),
	}
}

// Namespace is one of a few namespaces, labelled at random.
func Namespace(r *rand.Rand, i int) *corev1.Namespace {
	name := namespaces[i%len(namespaces)]
	l := Labels(r)
	l[corev1.LabelMetadataName] = name
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}}
}

// PodAddrs are the addresses that Pod gives the i-th pod.
func PodAddrs(i int, node string) []netip.Addr {
	third := 1
	if node == OtherNode {
		third = 2
	}
	return addrs(fmt.Sprintf("10.244.%d.%d", third, i+2), fmt.Sprintf("fd00:244:0:%d::%x", third, i+2))
}

// Pod is the i-th pod: live, on one of the nodes, with both its addresses.
func Pod(r *rand.Rand, i int) *corev1.Pod {
	node := Node
	if i%3 == 2 {
		node = OtherNode
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprintf("pod-%d", i), UID: types.UID(fmt.Sprintf("uid-%d", i)),
			Labels: Labels(r), CreationTimestamp: metav1.NewTime(time.Unix(int64(1700000000+i), 0)),
		},
		Spec:   corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, addr := range PodAddrs(i, node) {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	p.Status.PodIP = p.Status.PodIPs[0].IP
	p.Spec.Containers = []corev1.Container{{Name: "main", Ports: ports(r)}}
	if maybe(r, 3) {
		p.Spec.InitContainers = []corev1.Container{{Name: "init", Ports: ports(r)}}
	}
	return p
}

// Attachment is one of the i-th pod's, perhaps of an earlier pod of its name, or of
// another interface than its first.
func Attachment(r *rand.Rand, i int) *policy.Attachment {
	pod := Pod(r, i)
	a := &policy.Attachment{
		ContainerID: fmt.Sprintf("container-%d", i), IfName: "eth0",
		Pod: policy.Key{Namespace: pod.Namespace, Name: pod.Name}, UID: pod.UID,
		IPs: PodAddrs(i+r.Intn(2), Node),
	}
	if maybe(r, 4) {
		a.UID = "uid-of-an-earlier-pod"
	}
	if maybe(r, 4) {
		a.IfName = "net1"
	}
	return a
}

func ports(r *rand.Rand) (ports []corev1.ContainerPort) {
	for range r.Intn(3) {
		ports = append(ports, corev1.ContainerPort{Name: pick(r, portNames), Protocol: pick(r, protocols), ContainerPort: pick(r, numbers)})
	}
	return ports
}

// OddPod is the i-th pod in one of the states that a pod can be in besides
// running alone at its address: on the host's network, finished, without or
// with one address, terminating, moved, or with another pod's address.
func OddPod(r *rand.Rand, i, pods int) *corev1.Pod {
	p := Pod(r, i)
	switch r.Intn(8) {
	case 0:
		p.Spec.HostNetwork = true
	case 1:
		p.Status.Phase = pick(r, []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed})
	case 2:
		p.Status.PodIPs, p.Status.PodIP = nil, ""
	case 3:
		p.Status.PodIPs = p.Status.PodIPs[:1]
	case 4:
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1800000000, 0)}
	case 5:
		p.Spec.NodeName = pick(r, []string{Node, OtherNode, ""})
	case 6:
		other := Pod(r, r.Intn(pods))
		p.Status.PodIPs, p.Status.PodIP = other.Status.PodIPs, other.Status.PodIP
		if maybe(r, 2) {
			started := metav1.NewTime(time.Unix(1700000000+r.Int63n(100), 0))
			p.Status.StartTime = &started
		}
	}
	return p
}

// Policy is the i-th policy.
func Policy(r *rand.Rand, i int) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprintf("policy-%d", i)},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: *selector(r)},
	}
	switch r.Intn(4) {
	case 0:
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	case 1:
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	case 2:
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress}
	}
	for range r.Intn(3) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers(r), Ports: policyPorts(r)})
	}
	for range r.Intn(3) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers(r), Ports: policyPorts(r)})
	}
	if i%7 == 6 {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: manyPeers(r), Ports: policyPorts(r)})
	}
	if i%8 == 7 {
		np.Spec.Egress = append(np.Spec.Egress, manyRules(r)...)
	}
	return np
}

// manyPeers are more selectors than a rule has a set for each of.
func manyPeers(r *rand.Rand) (peers []networkingv1.NetworkPolicyPeer) {
	for range 20 + r.Intn(10) {
		peer := networkingv1.NetworkPolicyPeer{PodSelector: selector(r)}
		if maybe(r, 2) {
			peer.NamespaceSelector = selector(r)
		}
		peers = append(peers, peer)
	}
	return peers
}

// manyRules are more rules, of which no two are one, than come into force at once.
func manyRules(r *rand.Rand) (rules []networkingv1.NetworkPolicyEgressRule) {
	for range 15 + r.Intn(15) {
		i := r.Intn(100)
		block := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.244.%d.%d/31", i%4, i&^1)}}
		port := intstr.FromInt(7900 + i)
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{
			To: append(peers(r), block), Ports: append(policyPorts(r), networkingv1.NetworkPolicyPort{Port: &port}),
		})
	}
	return rules
}

func selector(r *rand.Rand) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if maybe(r, 3) {
		return s
	}
	if maybe(r, 2) {
		s.MatchLabels = map[string]string{pick(r, labelKeys): pick(r, labelVals)}
		return s
	}
	e := metav1.LabelSelectorRequirement{
		Key:      pick(r, labelKeys),
		Operator: pick(r, []metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist}),
	}
	if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
		for range 1 + r.Intn(2) {
			e.Values = append(e.Values, pick(r, labelVals))
		}
	}
	s.MatchExpressions = []metav1.LabelSelectorRequirement{e}
	return s
}

func peers(r *rand.Rand) (peers []networkingv1.NetworkPolicyPeer) {
	for range r.Intn(4) {
		var peer networkingv1.NetworkPolicyPeer
		switch r.Intn(5) {
		case 0:
			peer.PodSelector = selector(r)
		case 1:
			peer.NamespaceSelector = selector(r)
		case 2:
			peer.PodSelector, peer.NamespaceSelector = selector(r), selector(r)
		case 3:
			peer.IPBlock = &networkingv1.IPBlock{CIDR: pick(r, blocks4)}
		case 4:
			peer.IPBlock = &networkingv1.IPBlock{CIDR: pick(r, blocks6)}
		}
		if b := peer.IPBlock; b != nil {
			outer := netip.MustParsePrefix(b.CIDR)
			for _, text := range append(blocks4, blocks6...) {
				if inner := netip.MustParsePrefix(text); maybe(r, 3) && inner.Bits() > outer.Bits() && outer.Overlaps(inner) {
					b.Except = append(b.Except, text)
				}
			}
		}
		peers = append(peers, peer)
	}
	return peers
}

func policyPorts(r *rand.Rand) (ports []networkingv1.NetworkPolicyPort) {
	for range r.Intn(3) {
		var port networkingv1.NetworkPolicyPort
		if !maybe(r, 4) {
			protocol := pick(r, protocols)
			port.Protocol = &protocol
		}
		switch r.Intn(4) {
		case 0:
			name := intstr.FromString(pick(r, portNames))
			port.Port = &name
		case 1:
			first := pick(r, numbers)
			last := first + int32(r.Intn(40))
			number := intstr.FromInt32(first)
			port.Port, port.EndPort = &number, &last
		case 2:
			number := intstr.FromInt32(pick(r, numbers))
			port.Port = &number
		}
		ports = append(ports, port)
	}
	return ports
}
