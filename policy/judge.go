package policy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// JudgeOptions are the choices of the agent that change verdicts.
type JudgeOptions struct {
	// AllowToNode: pods reach their own node whatever their egress policies say.
	AllowToNode bool
}

// Judge says what becomes of a packet, and which policies and rules say so. It
// reads the API objects as they are, one after another, as a person would read
// them: slow, and independent of Parse, Compile and Model, which it is there to
// be compared with. It has no limit to the size of a policy, as Parse has.
func Judge(s Snapshot, p Packet, o JudgeOptions) Verdict {
	j := judge{Snapshot: s, packet: p}
	src, dst := j.place(p.Src), j.place(p.Dst)
	open := func(reason string) Verdict {
		return Verdict{Egress: Judgement{Allowed: true, Reason: reason}, Ingress: Judgement{Allowed: true, Reason: reason}}
	}
	switch {
	case p.Src == p.Dst && !p.Hairpin && src.pod != nil:
		return open("a pod always reaches itself")
	case p.linkLocalICMPv6():
		return open("neighbour discovery and multicast listener discovery always pass")
	}
	v := Verdict{Egress: j.side(Egress, src, dst), Ingress: j.side(Ingress, dst, src)}
	if src.node == dst.node && dst.onNode && o.AllowToNode {
		v.Egress = Judgement{Allowed: true, Pod: v.Egress.Pod, Node: src.node, Reason: "pods may reach their own node"}
	}
	if src.node == dst.node && src.onNode {
		v.Ingress = Judgement{Allowed: true, Pod: v.Ingress.Pod, Node: dst.node, Reason: "a node always reaches its own pods"}
	}
	return v
}

func (p Packet) linkLocalICMPv6() bool {
	return p.Protocol == ICMPv6 &&
		(slices.Contains(NeighbourDiscovery, p.ICMPType) && p.HopLimit == NeighbourDiscoveryHopLimit ||
			slices.Contains(MulticastListener, p.ICMPType) && p.HopLimit == MulticastListenerHopLimit)
}

type judge struct {
	Snapshot
	packet Packet
}

// place is what an address is.
type place struct {
	addr netip.Addr
	// pod has the address; nil if none does.
	pod *corev1.Pod
	// node is the node that the pod is on, that has the address, or whose pod
	// range it is in.
	node string
	// onNode: it is an address of the node itself.
	onNode bool
}

// place finds out what an address is. A node's own comes first: a pod on the
// host's network has no other.
func (j *judge) place(addr netip.Addr) place {
	at := place{addr: addr}
	for _, node := range j.Nodes {
		for _, a := range node.Status.Addresses {
			if ip, ok := parseAddr(a.Address); ok && ip == addr {
				return place{addr: addr, node: node.Name, onNode: true}
			}
		}
		for _, cidr := range NodeOf(node).PodCIDRs {
			if cidr.Contains(addr) {
				at.node = node.Name
			}
		}
	}
	var owner *Pod
	for _, pod := range j.Pods {
		p, live := PodOf(pod)
		if !live {
			continue
		}
		if p = p.attach(j.Attachments); slices.Contains(p.IPs, addr) && (owner == nil || p.ownsBefore(owner) < 0) {
			at.pod, at.node, owner = pod, p.Node, p
		}
	}
	return at
}

// side judges one side of the packet: what the policies of the subject say of
// the peer.
func (j *judge) side(d Direction, subject, peer place) Judgement {
	out := Judgement{Node: subject.node}
	if subject.pod == nil {
		out.Allowed = subject.onNode || subject.node == ""
		out.Reason = "no pod of this cluster"
		if !out.Allowed {
			out.Reason = "an address of the node's pod range that no known pod has"
		}
		return out
	}
	out.Pod = keyOf(subject.pod)
	for _, np := range j.Policies {
		if np.Namespace != subject.pod.Namespace || !isolates(np, d) || !selects(&np.Spec.PodSelector, subject.pod.Labels) {
			continue
		}
		key := Key{Namespace: np.Namespace, Name: np.Name}
		out.Isolating = append(out.Isolating, key)
		if d == Ingress {
			for i, rule := range np.Spec.Ingress {
				if by, ok := j.rule(np, subject, peer, subject, rule.From, rule.Ports); ok {
					by.Policy, by.Direction, by.Rule = key, d, i
					out.By = append(out.By, by)
				}
			}
		} else {
			for i, rule := range np.Spec.Egress {
				if by, ok := j.rule(np, subject, peer, peer, rule.To, rule.Ports); ok {
					by.Policy, by.Direction, by.Rule = key, d, i
					out.By = append(out.By, by)
				}
			}
		}
	}
	out.Isolating = sortedKeys(out.Isolating)
	slices.SortStableFunc(out.By, func(a, b RuleRef) int { return compareKey(a.Policy, b.Policy) })
	out.Allowed = len(out.Isolating) == 0 || len(out.By) > 0
	out.Reason = "not isolated"
	return out
}

// isolates reports whether the policy isolates the pods it selects for d.
func isolates(np *networkingv1.NetworkPolicy, d Direction) bool {
	types := np.Spec.PolicyTypes
	if len(types) == 0 {
		return d == Ingress || len(np.Spec.Egress) > 0
	}
	want := networkingv1.PolicyTypeIngress
	if d == Egress {
		want = networkingv1.PolicyTypeEgress
	}
	return slices.ContainsFunc(types, func(t networkingv1.PolicyType) bool {
		return t == want || t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress
	})
}

// selects reports whether a selector that is there selects these labels. One
// that does not parse selects nothing.
func selects(ls *metav1.LabelSelector, l map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(ls)
	return err == nil && selector.Matches(labels.Set(l))
}

// rule reports whether a rule allows the packet: some peer AND some port of it.
func (j *judge) rule(np *networkingv1.NetworkPolicy, subject, peer, destination place, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (RuleRef, bool) {
	by := RuleRef{Peer: -1, Port: -1}
	if len(peers) > 0 {
		by.Peer = slices.IndexFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool { return j.peer(np, p, peer) })
	}
	if len(ports) > 0 {
		by.Port = slices.IndexFunc(ports, func(p networkingv1.NetworkPolicyPort) bool { return j.port(p, destination) })
	}
	return by, (len(peers) == 0 || by.Peer >= 0) && (len(ports) == 0 || by.Port >= 0)
}

// peer reports whether one entry of from or to means the address.
func (j *judge) peer(np *networkingv1.NetworkPolicy, peer networkingv1.NetworkPolicyPeer, at place) bool {
	selectors := peer.PodSelector != nil || peer.NamespaceSelector != nil
	switch {
	case peer.IPBlock != nil && selectors:
		return false
	case peer.IPBlock != nil:
		return inBlock(peer.IPBlock, at.addr)
	case !selectors || at.pod == nil:
		return false
	}
	if peer.NamespaceSelector == nil {
		if at.pod.Namespace != np.Namespace {
			return false
		}
	} else if l, known := j.namespaceLabels(at.pod.Namespace); !known || !selects(peer.NamespaceSelector, l) {
		return false
	}
	return peer.PodSelector == nil || selects(peer.PodSelector, at.pod.Labels)
}

func (j *judge) namespaceLabels(name string) (map[string]string, bool) {
	for _, ns := range j.Namespaces {
		if ns.Name == name {
			return ns.Labels, true
		}
	}
	return nil, false
}

func inBlock(block *networkingv1.IPBlock, addr netip.Addr) bool {
	cidr, err := ParsePrefix(block.CIDR)
	if err != nil || !cidr.Contains(addr) {
		return false
	}
	in := true
	for _, text := range block.Except {
		except, err := ParsePrefix(text)
		if err != nil {
			return false
		}
		in = in && !except.Contains(addr)
	}
	return in
}

// port reports whether one entry of ports means the packet; a name is looked
// up on the pod that the packet goes to.
func (j *judge) port(port networkingv1.NetworkPolicyPort, destination place) bool {
	protocol := corev1.ProtocolTCP
	if port.Protocol != nil && *port.Protocol != "" {
		protocol = *port.Protocol
	}
	numbers := map[corev1.Protocol]Protocol{corev1.ProtocolTCP: TCP, corev1.ProtocolUDP: UDP, corev1.ProtocolSCTP: SCTP}
	if numbers[protocol] != j.packet.Protocol || j.packet.Protocol == 0 {
		return false
	}
	number := int32(j.packet.DstPort)
	switch {
	case port.Port == nil:
		return port.EndPort == nil
	case port.Port.Type == intstr.Int:
		first, last := port.Port.IntVal, port.Port.IntVal
		if port.EndPort != nil {
			last = *port.EndPort
		}
		return 1 <= first && last <= 65535 && first <= number && number <= last
	case port.Port.Type != intstr.String || port.EndPort != nil || destination.pod == nil || number == 0:
		return false
	}
	spec := destination.pod.Spec
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, p := range c.Ports {
			named := p.Protocol
			if named == "" {
				named = corev1.ProtocolTCP
			}
			if p.Name == port.Port.StrVal && p.Name != "" && named == protocol && p.ContainerPort == number {
				return true
			}
		}
	}
	return false
}

func keyOf(pod *corev1.Pod) Key { return Key{Namespace: pod.Namespace, Name: pod.Name} }
