package policy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// JudgeOptions are the choices of the agent that change verdicts.
type JudgeOptions struct {
	// AllowToNode: pods reach their own node whatever their egress policies say.
	AllowToNode bool
	// StagedInForce: staged policies are judged as if they were in force.
	StagedInForce bool
}

// Judge says what becomes of a packet, and which policies and rules say so. It
// reads the API objects as they are, one after another, as a person would read
// them: slow, and independent of Parse, Compile and Model, which it is there to
// be compared with. It shares nothing with them but the values that come in and
// go out; what texts mean, it reads by itself (judge_read.go). It has no limit to
// the size of a policy, as Parse has.
func Judge(s Snapshot, p Packet, o JudgeOptions) Verdict {
	j := judge{Snapshot: s, packet: p, stagedInForce: o.StagedInForce}
	src, dst := j.place(p.Src), j.place(p.Dst)
	open := func(reason string) Verdict {
		return Verdict{Egress: Judgement{Allowed: true, Reason: reason}, Ingress: Judgement{Allowed: true, Reason: reason}}
	}
	switch {
	case p.Src == p.Dst && !p.Hairpin && len(src.pods) > 0:
		return open("a pod always reaches itself")
	case isDiscovery(p) && !(dst.orphan && src.onNode && src.node == dst.node):
		return open("neighbour discovery and multicast listener discovery always pass")
	}
	v := Verdict{Egress: j.side(Egress, src, dst), Ingress: j.side(Ingress, dst, src)}
	if src.node == dst.node && dst.onNode && o.AllowToNode && len(src.pods) > 0 {
		v.Egress = Judgement{Allowed: true, Pod: v.Egress.Pod, Node: src.node, Reason: "pods may reach their own node"}
	}
	if isError(p) && len(src.pods) > 0 {
		v.Egress = Judgement{Pod: v.Egress.Pod, Node: src.node, Reason: "an ICMP error, but not about a flow of the pod's own"}
	}
	if asksForRouters(p) {
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

type judge struct {
	Snapshot
	packet        Packet
	stagedInForce bool
}

// place is what an address is.
type place struct {
	addr netip.Addr
	// pods have the address: one of them does, and if there are several, nobody can
	// tell which. None: it is no known pod's.
	pods []*corev1.Pod
	// node is the node that the pods run on, or that has the address itself, or that may
	// give it to its pods because it is in the node's pod range.
	node string
	// onNode: it is an address of the node itself.
	onNode bool
	// orphan: a container has it, whose pod is not known.
	orphan bool
}

// Holder is what Judge takes an address for.
type Holder struct {
	// Pods have the address: one of them does, and if there are several, nobody can tell which. None: it is
	// no known pod's.
	Pods []*corev1.Pod
	// Node is the node that the pods run on, or that has the address, or in whose pod range it is; empty if
	// there is none.
	Node string
	// OnNode: it is an address of the node itself.
	OnNode bool
}

// HolderOf returns what Judge takes an address for.
func HolderOf(s Snapshot, addr netip.Addr) Holder {
	j := judge{Snapshot: s}
	at := j.place(addr)
	return Holder{Pods: at.pods, Node: at.node, OnNode: at.onNode}
}

// place finds out what an address is.
func (j *judge) place(addr netip.Addr) place {
	// An address that a container of the node was given belongs to its pod, or to nobody.
	if pods, given := j.given(addr); given {
		return place{addr: addr, pods: pods, node: j.Node, orphan: len(pods) == 0}
	}
	node, rangeOf := j.nodeAt(addr), j.rangeOf(addr)
	viewer := cmp.Or(j.Node, rangeOf, node)
	var here, staying, elsewhere []*corev1.Pod // pods here, on the viewing node, come first
	for _, pod := range j.Pods {
		if !live(pod) || j.sandboxed(pod) || !slices.Contains(j.addrs(pod), addr) {
			continue
		}
		switch {
		case pod.Spec.NodeName == viewer:
			here = append(here, pod)
		case viewer != "" && (rangeOf == viewer || j.reachedAt(viewer, addr)): // no pod of another node has its address, or one of its range
		default:
			elsewhere = append(elsewhere, pod)
		}
	}
	pods := here
	if len(pods) == 0 {
		pods = elsewhere
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil {
			staying = append(staying, pod)
		}
	}
	if len(staying) > 0 {
		pods = staying
	}
	switch {
	case len(pods) > 0:
		return place{addr: addr, pods: pods, node: pods[0].Spec.NodeName}
	case node == "" || node != viewer && rangeOf == viewer:
		return place{addr: addr, node: rangeOf}
	}
	return place{addr: addr, node: node, onNode: true}
}

// nodeAt returns the node that lists an address as its own: the viewing node, if several
// do. It is empty if none does.
func (j *judge) nodeAt(addr netip.Addr) (name string) {
	for _, node := range j.Nodes {
		if slices.Contains(nodeAddrs(node), addr) && (name == "" || node.Name == j.Node) {
			name = node.Name
		}
	}
	return name
}

// reachedAt reports whether a node lists an address as its own inside the cluster.
func (j *judge) reachedAt(name string, addr netip.Addr) bool {
	return slices.ContainsFunc(j.Nodes, func(node *corev1.Node) bool {
		return node.Name == name && slices.Contains(nodeAddrs(node, corev1.NodeInternalIP), addr)
	})
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
		(a.UID == "" || slices.Contains(podUIDs(pod), a.UID))
}

// sandboxed reports whether the viewing node has an attachment of the pod's first interface:
// it then knows the addresses of that interface better than the API, which shows the same.
func (j *judge) sandboxed(pod *corev1.Pod) bool {
	return slices.ContainsFunc(j.Attachments, func(a Attachment) bool { return a.IfName == "eth0" && j.madeFor(a, pod) })
}

// addrs are the addresses of a pod by what the API shows and what its node's agent has announced. On
// another node than the pod's, what was announced counts while the status shows nothing else.
func (j *judge) addrs(pod *corev1.Pod) []netip.Addr {
	shown := podAddrs(pod)
	at := slices.IndexFunc(j.Nodes, func(n *corev1.Node) bool { return n.Name == pod.Spec.NodeName })
	if at < 0 || pod.Spec.NodeName == j.Node {
		return shown
	}
	var said [][]netip.Addr // by each announcement for the pod, its addresses
	outdated := false       // the status shows what was not there at the announcement
	for _, of := range j.PodAddresses {
		if of.Name != pod.Spec.NodeName {
			continue
		}
		for _, a := range of.Pods {
			if a.Namespace != pod.Namespace || a.Name != pod.Name || a.UID == "" || !slices.Contains(podUIDs(pod), a.UID) {
				continue
			}
			ips, ok := readAddrs(a.IPs)
			before, alsoOK := readAddrs(a.Supersedes)
			if !ok || !alsoOK || len(ips) == 0 {
				continue
			}
			said = append(said, ips)
			outdated = len(shown) > 0 && !sameAddrs(shown, before)
		}
	}
	if len(said) != 1 || outdated {
		return shown
	}
	ranges := podRanges(j.Nodes[at])
	for _, ip := range said[0] {
		if len(ranges) > 0 && !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(ip) }) {
			return shown
		}
	}
	return said[0]
}

// rangeOf returns the node in whose pod ranges an address is. The viewing node knows its own
// range of an address family even if its Node object shows none of that family any more.
func (j *judge) rangeOf(addr netip.Addr) (name string) {
	shown := false // the viewing node's object has a range of the address's family
	for _, node := range j.Nodes {
		for _, cidr := range podRanges(node) {
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
		judged := j.pod(d, pod, subject, peer)
		if i == 0 {
			judged.Node = subject.node
			out = judged
			continue
		}
		if out.Allowed && !judged.Allowed {
			out.Allowed, out.Reason = false, judged.Reason
		}
		out.Isolating, out.Selecting = append(out.Isolating, judged.Isolating...), append(out.Selecting, judged.Selecting...)
		out.By, out.DeniedBy = append(out.By, judged.By...), append(out.DeniedBy, judged.DeniedBy...)
	}
	byName := func(a, b Key) int { return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name)) }
	for _, policies := range []*[]Key{&out.Isolating, &out.Selecting} {
		slices.SortFunc(*policies, byName)
		*policies = slices.Compact(*policies)
	}
	for _, rules := range []*[]RuleRef{&out.By, &out.DeniedBy} {
		slices.SortStableFunc(*rules, func(a, b RuleRef) int { return cmp.Or(byName(a.Policy, b.Policy), cmp.Compare(a.Rule, b.Rule)) })
		*rules = slices.Compact(*rules)
	}
	if !out.Allowed {
		out.By = nil // these rules are only of some of the pods
	}
	return out
}

// pod judges what the policies of one pod of the subject say of the peer. Its NetworkPolicies are
// asked only if no ClusterNetworkPolicy before them decides. Those behind them are asked only if no
// NetworkPolicy isolates the pod.
func (j *judge) pod(d Direction, pod *corev1.Pod, subject, peer place) Judgement {
	out := j.networkPolicies(d, pod, subject, peer)
	admin, baseline := j.clusterPolicies(d, pod)
	for _, p := range slices.Concat(admin, baseline) {
		out.Selecting = append(out.Selecting, Key{Name: p.Name})
	}
	made := j.decide(admin, subject, peer)
	if made.action == toPass && len(out.Isolating) == 0 {
		made = j.decide(baseline, subject, peer)
	}
	switch {
	case made.action == toAccept:
		out.Allowed, out.By, out.Reason = true, []RuleRef{made.ref}, ""
	case made.action == toDeny:
		out.Allowed, out.By, out.DeniedBy, out.Reason = false, nil, []RuleRef{made.ref}, made.reason
	case len(out.Isolating) == 0 && len(out.Selecting) > 0:
		out.Reason = "not isolated, and no ClusterNetworkPolicy decides"
	}
	return out
}

// networkPolicies judges what the NetworkPolicies of one pod of the subject say of the peer.
func (j *judge) networkPolicies(d Direction, pod *corev1.Pod, subject, peer place) Judgement {
	out := Judgement{Pod: Key{Namespace: pod.Namespace, Name: pod.Name}, Reason: "not isolated"}
	for _, np := range j.Policies {
		if np.Namespace != pod.Namespace || !j.inForce(np.ObjectMeta) || !isolates(np, d) || !selects(&np.Spec.PodSelector, pod.Labels) {
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

// inForce reports whether a policy is in force: it is not staged, and neither are all policies of its namespace.
func (j *judge) inForce(policy metav1.ObjectMeta) bool {
	if j.stagedInForce {
		return true
	}
	staged := func(o metav1.ObjectMeta) bool { return o.Annotations["podfence.io/enforcement"] == "staged" }
	return !staged(policy) && !slices.ContainsFunc(j.Namespaces, func(ns *corev1.Namespace) bool { return ns.Name == policy.Namespace && staged(ns.ObjectMeta) })
}

func (j *judge) namespaceLabels(name string) (map[string]string, bool) {
	for _, ns := range j.Namespaces {
		if ns.Name == name {
			return ns.Labels, true
		}
	}
	return nil, false
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
