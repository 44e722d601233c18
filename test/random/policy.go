package random

import (
	"fmt"
	"math/rand"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var (
	// blocks are CIDRs around the addresses that Pod and Nodes give.
	blocks4 = []string{
		"0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.0/28", "10.244.1.3/32", "10.244.1.4/30", "10.244.2.0/25", "10.244.8.0/21",
		"172.20.0.0/24", "192.0.2.0/24", "192.0.2.1/32", "198.51.100.0/24", "203.0.113.0/24", "203.0.113.128/25",
	}
	blocks6 = []string{
		"::/0", "fd00:244::/32", "fd00:244:0:1::/64", "fd00:244:0:1::/125", "fd00:244:0:1::3/128", "fd00:244:0:2::/64", "fd00:172::/64",
		"2001:db8::/32", "2001:db8::2/128",
	}
	// spelledBlocks are such as API servers have once taken.
	spelledBlocks = []string{"10.244.1.9/24", "010.244.001.000/28", "::ffff:10.244.1.0/120", "::ffff:0:0/96", "fd00:0244:0:01::7/64"}
	// badBlocks are none, badRequirements none of a selector, and badPorts no ports.
	badBlocks       = []string{"", "10.244.1.0", "10.244.1.0/33", "10.244.1/24", "fd00:244::/129", "fe80::%eth0/64", "everything"}
	badRequirements = []metav1.LabelSelectorRequirement{
		{Key: "app", Operator: metav1.LabelSelectorOpIn}, {Key: "app", Operator: metav1.LabelSelectorOpNotIn}, {Key: "app", Operator: metav1.LabelSelectorOpExists, Values: []string{"a"}},
		{Key: "app", Operator: metav1.LabelSelectorOpDoesNotExist, Values: []string{"a"}}, {Key: "app", Operator: "Gt", Values: []string{"1"}}, {Key: "app", Operator: ""},
		{Key: "-app", Operator: metav1.LabelSelectorOpDoesNotExist}, {Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a b"}},
	}
)

// author draws one policy.
type author struct {
	*rand.Rand
	// bad: some of what it writes is what an API server would not take.
	bad bool
	// old: some of its blocks are spelled as API servers have once taken them.
	old bool
	// accepts: the rules of its ClusterNetworkPolicies accept.
	accepts bool
}

// spoils reports whether to write something bad.
func (a author) spoils() bool { return a.bad && maybe(a.Rand, 4) }

// Policy is the i-th policy.
func Policy(r *rand.Rand, i int) *networkingv1.NetworkPolicy {
	a := author{Rand: r, bad: maybe(r, 5), old: maybe(r, 3)}
	np := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprintf("policy-%d", i), Annotations: enforcement(r)},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: *a.selector()},
	}
	switch r.Intn(4) {
	case 0:
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	case 1:
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	case 2:
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress}
	}
	if a.spoils() {
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, "Both")
	}
	for range r.Intn(3) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: a.peers(), Ports: a.ports()})
	}
	for range r.Intn(3) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: a.peers(), Ports: a.ports()})
	}
	if i%7 == 6 {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: a.manyPeers(), Ports: a.ports()})
	}
	if i%8 == 7 {
		np.Spec.Egress = append(np.Spec.Egress, a.manyRules()...)
	}
	return np
}

// manyPeers are more selectors than a rule has a set for each of.
func (a author) manyPeers() (peers []networkingv1.NetworkPolicyPeer) {
	for range 20 + a.Intn(10) {
		peer := networkingv1.NetworkPolicyPeer{PodSelector: a.selector()}
		if maybe(a.Rand, 2) {
			peer.NamespaceSelector = a.namespaceSelector()
		}
		peers = append(peers, peer)
	}
	return peers
}

// manyRules are more rules, of which no two are one, than come into force at once.
func (a author) manyRules() (rules []networkingv1.NetworkPolicyEgressRule) {
	for range 15 + a.Intn(15) {
		i := a.Intn(100)
		block := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.244.%d.%d/31", i%4, i&^1)}}
		port := intstr.FromInt(7900 + i)
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{
			To: append(a.peers(), block), Ports: append(a.ports(), networkingv1.NetworkPolicyPort{Port: &port}),
		})
	}
	return rules
}

// selector selects pods, by up to three requirements.
func (a author) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	for range pick(a.Rand, []int{0, 0, 0, 1, 1, 1, 2, 3}) {
		if maybe(a.Rand, 2) {
			if s.MatchLabels == nil {
				s.MatchLabels = map[string]string{}
			}
			s.MatchLabels[pick(a.Rand, labelKeys)] = pick(a.Rand, labelVals)
		} else {
			s.MatchExpressions = append(s.MatchExpressions, a.requirement(pick(a.Rand, labelKeys), labelVals))
		}
	}
	if a.spoils() {
		s.MatchExpressions = append(s.MatchExpressions, pick(a.Rand, badRequirements))
	}
	return s
}

// namespaceSelector selects namespaces, often by name.
func (a author) namespaceSelector() *metav1.LabelSelector {
	s := a.selector()
	switch a.Intn(6) {
	case 0:
		s.MatchExpressions = append(s.MatchExpressions, a.requirement(corev1.LabelMetadataName, append(namespaces, "elsewhere")))
	case 1:
		s.MatchLabels = map[string]string{corev1.LabelMetadataName: pick(a.Rand, namespaces)}
	}
	return s
}

func (a author) requirement(key string, values []string) metav1.LabelSelectorRequirement {
	e := metav1.LabelSelectorRequirement{
		Key:      key,
		Operator: pick(a.Rand, []metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist}),
	}
	if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
		for range 1 + a.Intn(2) {
			e.Values = append(e.Values, pick(a.Rand, values))
		}
	}
	return e
}

// peers are up to three; an empty list may be absent as well.
func (a author) peers() (peers []networkingv1.NetworkPolicyPeer) {
	if maybe(a.Rand, 2) {
		peers = []networkingv1.NetworkPolicyPeer{}
	}
	for range a.Intn(4) {
		var peer networkingv1.NetworkPolicyPeer
		kind := a.Intn(5)
		if kind == 0 || kind == 2 {
			peer.PodSelector = a.selector()
		}
		if kind == 1 || kind == 2 {
			peer.NamespaceSelector = a.namespaceSelector()
		}
		if kind > 2 || a.spoils() {
			peer.IPBlock = a.block()
		}
		if a.spoils() {
			peer = networkingv1.NetworkPolicyPeer{} // means nobody
		}
		peers = append(peers, peer)
	}
	return peers
}

// block is one with some excepts.
func (a author) block() *networkingv1.IPBlock {
	b := &networkingv1.IPBlock{CIDR: pick(a.Rand, append(blocks4, blocks6...))}
	outer := netip.MustParsePrefix(b.CIDR)
	for _, text := range append(blocks4, blocks6...) {
		if inner := netip.MustParsePrefix(text); maybe(a.Rand, 3) && inner.Bits() > outer.Bits() && outer.Overlaps(inner) {
			b.Except = append(b.Except, text)
		}
	}
	if a.spoils() { // the block itself, a wider one, one of the other family, or none
		b.Except = append(b.Except, pick(a.Rand, []string{b.CIDR, "10.0.0.0/7", "fd00::/8", "0.0.0.0/0", "::/0", pick(a.Rand, badBlocks)}))
	}
	if a.spoils() {
		b.CIDR = pick(a.Rand, append(badBlocks, spelledBlocks...))
	} else if a.old && maybe(a.Rand, 3) {
		b.CIDR = pick(a.Rand, spelledBlocks)
	}
	return b
}

// ports are up to two; an empty list may be absent as well.
func (a author) ports() (ports []networkingv1.NetworkPolicyPort) {
	if maybe(a.Rand, 2) {
		ports = []networkingv1.NetworkPolicyPort{}
	}
	for range a.Intn(3) {
		var port networkingv1.NetworkPolicyPort
		if !maybe(a.Rand, 4) {
			protocol := pick(a.Rand, protocols)
			port.Protocol = &protocol
		}
		switch a.Intn(4) {
		case 0:
			name := intstr.FromString(pick(a.Rand, portNames))
			port.Port = &name
		case 1:
			first := pick(a.Rand, append(numbers, 1))
			last := min(first+int32(a.Intn(40)), 65535)
			if maybe(a.Rand, 4) {
				last = 65535
			}
			number := intstr.FromInt32(first)
			port.Port, port.EndPort = &number, &last
		case 2:
			number := intstr.FromInt32(pick(a.Rand, numbers))
			port.Port = &number
		}
		if a.spoils() {
			a.spoilPort(&port)
		}
		ports = append(ports, port)
	}
	return ports
}

// spoilPort makes an entry of ports one that means no port.
func (a author) spoilPort(port *networkingv1.NetworkPolicyPort) {
	last := int32(79)
	switch a.Intn(5) {
	case 0:
		port.Port, port.EndPort = nil, &last
	case 1: // backwards
		first := intstr.FromInt32(80)
		port.Port, port.EndPort = &first, &last
	case 2:
		number := intstr.FromInt32(pick(a.Rand, []int32{-1, 0, 65536, 65536 + 80}))
		port.Port = &number
	case 3:
		name := intstr.FromString(pick(a.Rand, portNames))
		port.Port, port.EndPort = &name, &last
	case 4:
		protocol := corev1.Protocol(pick(a.Rand, []string{"ICMP", "tcp", "6"}))
		port.Protocol = &protocol
	}
}
