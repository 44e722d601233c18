package policy

import (
	"cmp"
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
	case p.Src == p.Dst && !p.Hairpin && len(src.pods) > 0:
		return open("a pod always reaches itself")
	case p.discovery():
		return open("neighbour discovery and multicast listener discovery always pass")
	}
	v := Verdict{Egress: j.side(Egress, src, dst), Ingress: j.side(Ingress, dst, src)}
	if src.node == dst.node && dst.onNode && o.AllowToNode && len(src.pods) > 0 {
		v.Egress = Judgement{Allowed: true, Pod: v.Egress.Pod, Node: src.node, Reason: "pods may reach their own node"}
	}
	if p.ReportsError() && len(src.pods) > 0 {
		v.Egress = Judgement{Pod: v.Egress.Pod, Node: src.node, Reason: "an ICMP error, but not about a flow of the pod's own"}
	}
	if p.asksForRouters() {
		v.Egress = Judgement{Allowed: true, Pod: v.Egress.Pod, Node: src.node, Reason: "a pod may ask its node for routers"}
	}
	switch {
	case p.Src.IsLoopback():
		v.Egress = Judgement{Pod: v.Egress.Pod, Node: Everywhere, Reason: "nobody sends from a loopback address"}
	case p.Dst.IsLoopback() && len(src.pods) > 0:
		v.Egress = Judgement{Pod: v.Egress.Pod, Node: src.node, Reason: "a loopback address is for its own host alone"}
	}
	if src.node == dst.node && src.onNode && !dst.orphan {
		v.Ingress = Judgement{Allowed: true, Pod: v.Ingress.Pod, Node: dst.node, Reason: "a node always reaches its own pods"}
	}
	return v
}

// discovery reports whether this is a message without which no IPv6 link works, as its RFC
// has it: neighbour discovery (RFC 4861 section 4.3, 4.4, 7.1), or listener discovery (RFC
// 2710 section 3, RFC 3810 section 5).
func (p Packet) discovery() bool {
	if p.Protocol != ICMPv6 || p.Src.IsLoopback() || p.Extended {
		return false
	}
	solicited := netip.MustParsePrefix("ff02::1:ff00:0/104")
	toOne := !p.Dst.IsMulticast() && !p.Dst.IsUnspecified() && !p.Dst.IsLoopback()
	switch p.ICMPType {
	case 135:
		return p.HopLimit == 255 && !p.HopByHop && !p.Src.IsMulticast() && (toOne || solicited.Contains(p.Dst))
	case 136:
		return p.HopLimit == 255 && !p.HopByHop && !p.Src.IsMulticast() && (toOne || p.Dst == netip.IPv6LinkLocalAllNodes())
	case 130, 131, 132, 143:
		return p.HopLimit == 1 && p.Dst.IsMulticast() && (p.Src.IsLinkLocalUnicast() || p.Src.IsUnspecified())
	}
	return false
}

// asksForRouters reports whether this is a router solicitation (RFC 4861 section 4.1).
func (p Packet) asksForRouters() bool {
	return p.Protocol == ICMPv6 && p.ICMPType == 133 && p.HopLimit == 255 && p.Dst == netip.IPv6LinkLocalAllRouters()
}

type judge struct {
	Snapshot
	packet Packet
}

// place is what an address is.
type place struct {
	addr netip.Addr
	// pods have the address: one of them does, and if there are several, nobody can
	// tell which. None: it is no known pod's.
	pods []*corev1.Pod
	// node is the node that the pods are on, that has the address, or whose it is to
	// give to its pods.
	node string
	// onNode: it is an address of the node itself.
	onNode bool
	// orphan: a container has it, whose pod is not known.
	orphan bool
}

// place finds out what an address is. A node's own comes first: a pod on the
// host's network has no other.
func (j *judge) place(addr netip.Addr) place {
	for _, node := range j.Nodes {
		for _, a := range node.Status.Addresses {
			if ip, ok := parseAddr(a.Address); ok && ip == addr {
				return place{addr: addr, node: node.Name, onNode: true}
			}
		}
	}
	// What a container of the node was given is its pod's, or nobody's.
	if pods, given := j.given(addr); given {
		return place{addr: addr, pods: pods, node: j.Node, orphan: len(pods) == 0}
	}
	rangeOf := j.rangeOf(addr)
	viewer := cmp.Or(j.Node, rangeOf)
	var here, staying, there []*corev1.Pod // where the viewer's pods come first
	for _, pod := range j.Pods {
		if !live(pod) || j.sandboxed(pod) || !shows(pod, addr) {
			continue
		}
		switch {
		case pod.Spec.NodeName == viewer:
			here = append(here, pod)
		case rangeOf == viewer && viewer != "": // no pod of another node has an address of its range
		default:
			there = append(there, pod)
		}
	}
	pods := here
	if len(pods) == 0 {
		pods = there
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil {
			staying = append(staying, pod)
		}
	}
	if len(staying) > 0 {
		pods = staying
	}
	if len(pods) == 0 {
		return place{addr: addr, node: rangeOf}
	}
	return place{addr: addr, pods: pods, node: pods[0].Spec.NodeName}
}

// given returns the pod of the viewing node whose container was given an address; none
// if that pod is not there any more, or not yet.
func (j *judge) given(addr netip.Addr) (pods []*corev1.Pod, given bool) {
	for _, a := range j.Attachments {
		if !slices.Contains(a.IPs, addr) {
			continue
		}
		var of []*corev1.Pod
		for _, pod := range j.Pods {
			if live(pod) && j.madeFor(a, pod) {
				of = append(of, pod)
			}
		}
		if given && !slices.Equal(of, pods) {
			return nil, true // two containers claim it: nobody can tell
		}
		pods, given = of, true
	}
	return pods, given
}

// madeFor reports whether an attachment was made for a pod.
func (j *judge) madeFor(a Attachment, pod *corev1.Pod) bool {
	return pod.Namespace == a.Pod.Namespace && pod.Name == a.Pod.Name && pod.Spec.NodeName == j.Node &&
		(a.UID == "" || a.UID == uidOf(pod) || a.UID == pod.UID)
}

// sandboxed reports whether the viewing node knows the addresses that the API shows of the
// pod, those of its first interface, better than the API does.
func (j *judge) sandboxed(pod *corev1.Pod) bool {
	return slices.ContainsFunc(j.Attachments, func(a Attachment) bool { return a.IfName == primaryInterface && j.madeFor(a, pod) })
}

// live reports whether a pod is there to be judged: on the pod network, and not ended.
func live(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// shows reports whether the API shows an address of a pod.
func shows(pod *corev1.Pod, addr netip.Addr) bool {
	if len(pod.Status.PodIPs) == 0 {
		ip, ok := parseAddr(pod.Status.PodIP)
		return ok && ip == addr
	}
	return slices.ContainsFunc(pod.Status.PodIPs, func(of corev1.PodIP) bool {
		ip, ok := parseAddr(of.IP)
		return ok && ip == addr
	})
}

// rangeOf returns the node in whose pod ranges an address is. The viewing node knows its
// own of a family even if its Node object shows none of it any more.
func (j *judge) rangeOf(addr netip.Addr) (name string) {
	shown := false // the viewing node's object has a range of the address's family
	for _, node := range j.Nodes {
		for _, cidr := range NodeOf(node).PodCIDRs {
			shown = shown || node.Name == j.Node && cidr.Addr().Is4() == addr.Is4()
			if cidr.Contains(addr) && (name == "" || node.Name == j.Node) {
				name = node.Name
			}
		}
	}
	for _, cidr := range j.LastPodCIDRs {
		if cidr.Contains(addr) && !shown {
			return j.Node
		}
	}
	return name
}

// side judges one side of the packet: what the policies of the subject say of
// the peer. If nobody can tell which of several pods the subject is, each of them must
// let the packet pass.
func (j *judge) side(d Direction, subject, peer place) Judgement {
	out := Judgement{Node: subject.node}
	if len(subject.pods) == 0 {
		out.Allowed = subject.onNode || subject.node == ""
		out.Reason = "no pod of this cluster"
		if !out.Allowed {
			out.Reason = "an address of the node's containers or pod range that no known pod has"
		}
		return out
	}
	for i, pod := range subject.pods {
		one := j.pod(d, pod, subject, peer)
		if i == 0 {
			one.Node = subject.node
			out = one
			continue
		}
		out.Allowed = out.Allowed && one.Allowed
		out.Isolating, out.By = append(out.Isolating, one.Isolating...), append(out.By, one.By...)
	}
	out.Isolating = slices.Compact(sortedKeys(out.Isolating))
	slices.SortStableFunc(out.By, func(a, b RuleRef) int { return compareKey(a.Policy, b.Policy) })
	if !out.Allowed {
		out.By = nil // what one of several would let pass
	}
	return out
}

// pod judges what the policies of one pod of the subject say of the peer.
func (j *judge) pod(d Direction, pod *corev1.Pod, subject, peer place) Judgement {
	out := Judgement{Pod: keyOf(pod), Reason: "not isolated"}
	for _, np := range j.Policies {
		if np.Namespace != pod.Namespace || !isolates(np, d) || !selects(&np.Spec.PodSelector, pod.Labels) {
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
	out.Allowed = len(out.Isolating) == 0 || len(out.By) > 0
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

// peer reports whether one entry of from or to means the address: a selector does if it
// means all pods that may have it.
func (j *judge) peer(np *networkingv1.NetworkPolicy, peer networkingv1.NetworkPolicyPeer, at place) bool {
	selectors := peer.PodSelector != nil || peer.NamespaceSelector != nil
	switch {
	case peer.IPBlock != nil && selectors:
		return false
	case peer.IPBlock != nil:
		return inBlock(peer.IPBlock, at.addr)
	case !selectors || len(at.pods) == 0:
		return false
	}
	for _, pod := range at.pods {
		if peer.NamespaceSelector == nil {
			if pod.Namespace != np.Namespace {
				return false
			}
		} else if l, known := j.namespaceLabels(pod.Namespace); !known || !selects(peer.NamespaceSelector, l) {
			return false
		}
		if peer.PodSelector != nil && !selects(peer.PodSelector, pod.Labels) {
			return false
		}
	}
	return true
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
	case port.Port.Type != intstr.String || port.EndPort != nil || len(destination.pods) == 0 || number == 0:
		return false
	}
	return !slices.ContainsFunc(destination.pods, func(pod *corev1.Pod) bool {
		return !namesPort(pod.Spec, port.Port.StrVal, protocol, number)
	})
}

// namesPort reports whether a pod has a port of this name, protocol and number.
func namesPort(spec corev1.PodSpec, name string, protocol corev1.Protocol, number int32) bool {
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, p := range c.Ports {
			named := p.Protocol
			if named == "" {
				named = corev1.ProtocolTCP
			}
			if p.Name == name && p.Name != "" && named == protocol && p.ContainerPort == number {
				return true
			}
		}
	}
	return false
}

func keyOf(pod *corev1.Pod) Key { return Key{Namespace: pod.Namespace, Name: pod.Name} }
