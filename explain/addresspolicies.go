package explain

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// view is the part of a cluster that decides about packets from or to one address. Two of them joined are
// all that decides about packets between their addresses. Judge has been asked once which policies are
// about the address, and for each further packet is shown only these.
type view struct {
	addr netip.Addr
	// about has nodes, namespaces and pods, and no policies.
	about policy.Snapshot
	// from are the policies for packets that the address sends, to those for packets that it gets.
	from, to fence
	// named are the named ports of whoever has the address.
	named []policy.ContainerPort
	// standIn: the address is a placeholder.
	standIn bool
	// plainPod: the address is one pod's and nobody else's. outside: it is nobody's in the cluster.
	plainPod, outside bool
}

// fence is which policies are about an address in one direction, and the ports that their rules name.
type fence struct {
	policies []*networkingv1.NetworkPolicy
	cluster  []*clusterv1beta1.ClusterNetworkPolicy
	// anyPort are the NetworkPolicies as if their rules had no ports. Judged by these, a packet is allowed
	// by the rules whose peers mean it.
	anyPort []*networkingv1.NetworkPolicy
	// ports are those of each rule, clusterPorts those of all rules of ClusterNetworkPolicies.
	ports        map[ruleKey][]port
	clusterPorts []port
	// namesAddresses: a rule has a network that is not all addresses.
	namesAddresses bool
	// may is whom the rules of NetworkPolicies may mean.
	may mayAllow
}

// ruleKey is a rule of a NetworkPolicy.
type ruleKey struct {
	policy    policy.Key
	direction policy.Direction
	rule      int
}

// viewOf is the view of an address.
func (x *Explainer) viewOf(addr netip.Addr) *view {
	all := x.about(addr)
	v := &view{addr: addr, about: all}
	v.about.Policies, v.about.ClusterPolicies = nil, nil
	v.standIn = len(all.Pods) == 1 && standsIn(all.Pods[0])
	ofNode := slices.ContainsFunc(x.nodes, func(n policy.Node) bool { return slices.Contains(n.Listed, addr) || slices.Contains(n.Addrs, addr) })
	v.plainPod = len(all.Pods) == 1 && !all.Pods[0].Spec.HostNetwork && !ofNode
	v.outside = len(all.Pods) == 0 && len(all.Nodes) == 0 && !ofNode
	for _, pod := range all.Pods {
		v.named = append(v.named, declaredPorts(pod)...)
	}
	// Which policies are about a pod does not depend on the packet. That Judge names them takes a peer
	// that no exception is about: a neighbouring address as the destination, loopback as the source.
	loopback := netip.MustParseAddr("127.0.0.1")
	peer := addr.Next()
	if addr.Is6() {
		loopback = netip.IPv6Loopback()
	}
	if !peer.IsValid() {
		peer = addr.Prev()
	}
	o := policy.JudgeOptions{StagedInForce: x.options.StagedInForce}
	packet := policy.Packet{Src: addr, Dst: peer, Protocol: policy.TCP, DstPort: 1, HopLimit: 64}
	v.from = fenceOf(all, policy.Judge(all, packet, o).Egress, policy.Egress)
	packet.Src, packet.Dst = loopback, addr
	v.to = fenceOf(all, policy.Judge(all, packet, o).Ingress, policy.Ingress)
	return v
}

// fenceOf are the policies of a snapshot that a judgement names.
func fenceOf(s policy.Snapshot, j policy.Judgement, d policy.Direction) fence {
	f := fence{ports: map[ruleKey][]port{}}
	for _, np := range s.Policies {
		key := policy.Key{Namespace: np.Namespace, Name: np.Name}
		if !slices.Contains(j.Isolating, key) {
			continue
		}
		f.policies, f.anyPort = append(f.policies, np), append(f.anyPort, withoutPorts(np))
		for _, r := range networkRules(np, d) {
			f.ports[ruleKey{key, d, r.ref.Rule}] = r.ports
			f.namesAddresses = f.namesAddresses || r.namesAddresses()
			f.may.add(r)
		}
	}
	for _, cnp := range s.ClusterPolicies {
		if slices.Contains(j.Selecting, policy.Key{Name: cnp.Name}) {
			f.cluster = append(f.cluster, cnp)
			for _, r := range clusterRules(cnp, d) {
				f.clusterPorts = append(f.clusterPorts, r.ports...)
				f.namesAddresses = f.namesAddresses || r.namesAddresses()
			}
		}
	}
	return f
}

// withoutPorts is a policy as if its rules had no ports.
func withoutPorts(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	out := *np
	out.Spec.Ingress, out.Spec.Egress = slices.Clone(np.Spec.Ingress), slices.Clone(np.Spec.Egress)
	for i := range out.Spec.Ingress {
		out.Spec.Ingress[i].Ports = nil
	}
	for i := range out.Spec.Egress {
		out.Spec.Egress[i].Ports = nil
	}
	return &out
}

// crossing is all that decides about packets from one address to another.
type crossing struct {
	x       *Explainer
	between policy.Snapshot
	packet  policy.Packet
	// bounds are the first ports of ranges that no rule divides.
	bounds map[policy.Protocol][]int
	// closed: no port is open, for certain.
	closed bool
	// doubt is set if the verdict may depend on addresses that are placeholders.
	doubt *doubt
	// whole is set if it was known to be closed without what Judge needs, which it adds.
	whole func() crossing
}

// doubt is a packet as each side sees it.
type doubt struct{ egress, ingress packet }

// crossing joins two views.
func (x *Explainer) crossing(src, dst *view) crossing {
	if x.shuts(&src.from, src, dst) || x.shuts(&dst.to, dst, src) {
		return crossing{
			packet: policy.Packet{Src: src.addr, Dst: dst.addr, HopLimit: 64}, closed: true,
			whole: func() crossing { return x.joined(src, dst) },
		}
	}
	return x.joined(src, dst)
}

// joined is a crossing with all that Judge needs.
func (x *Explainer) joined(src, dst *view) crossing {
	s := policy.Snapshot{
		Pods: union(src.about.Pods, dst.about.Pods), Nodes: x.inOrder(union(src.about.Nodes, dst.about.Nodes)),
		Namespaces: union(src.about.Namespaces, dst.about.Namespaces),
		Policies:   union(src.from.policies, dst.to.policies), ClusterPolicies: union(src.from.cluster, dst.to.cluster),
		Resolutions: x.resolutionsOf(src.addr, dst.addr),
	}
	for _, pod := range s.Pods {
		s.PodAddresses = append(s.PodAddresses, x.announcements(pod)...)
	}
	c := crossing{x: x, between: s, packet: policy.Packet{Src: src.addr, Dst: dst.addr, HopLimit: 64}}
	if src.from.namesAddresses && dst.standIn || dst.to.namesAddresses && src.standIn {
		from, to := policy.HolderOf(s, src.addr), policy.HolderOf(s, dst.addr)
		c.doubt = &doubt{
			egress:  packet{d: policy.Egress, subject: from, peer: to, destination: to, peerAddr: dst.addr, peerEnd: End{StandIn: dst.standIn}},
			ingress: packet{d: policy.Ingress, subject: to, peer: from, destination: to, peerAddr: src.addr, peerEnd: End{StandIn: src.standIn}},
		}
		c.bounds = bounds(slices.Concat(src.from.allPorts(), dst.to.allPorts()), dst.named)
		return c
	}
	ports, closed := c.told(src.from, dst.to)
	c.closed, c.bounds = closed, bounds(ports, dst.named)
	return c
}

// allPorts are the ports of all rules.
func (f fence) allPorts() []port {
	ports := slices.Clone(f.clusterPorts)
	for _, of := range f.ports {
		ports = append(ports, of...)
	}
	return ports
}

// told are the ports by which the verdict may differ: those of the rules of NetworkPolicies whose peers mean
// the packet, and of all rules of ClusterNetworkPolicies. Closed: no port is open, whatever rules say of
// ports.
func (c crossing) told(from, to fence) (ports []port, closed bool) {
	c.between.Policies, c.between.ClusterPolicies = union(from.anyPort, to.anyPort), nil
	v := c.judged(policy.TCP, 1)
	for _, side := range []struct {
		j policy.Judgement
		f fence
	}{{v.Egress, from}, {v.Ingress, to}} {
		for _, by := range side.j.By {
			ports = append(ports, side.f.ports[ruleKey{by.Policy, by.Direction, by.Rule}]...)
		}
		ports = append(ports, side.f.clusterPorts...)
	}
	return ports, !v.Allowed() && len(from.cluster) == 0 && len(to.cluster) == 0
}

// judged is Judge's verdict on packets to a port. It takes placeholders for addresses.
func (c crossing) judged(protocol policy.Protocol, number uint16) policy.Verdict {
	return policy.Judge(c.between, toPort(c.packet, protocol, number), c.x.options)
}

// portVerdict is what becomes of packets to a port: Allowed, Denied or Unknown, each side's and both together.
type portVerdict struct {
	both, egress, ingress Verdict
	judged                policy.Verdict
}

// verdict is what becomes of packets to a port, as decide says it.
func (c crossing) verdict(protocol policy.Protocol, number uint16) portVerdict {
	v := c.judged(protocol, number)
	if c.doubt == nil {
		return portVerdict{word(v.Allowed()), word(v.Egress.Allowed), word(v.Ingress.Allowed), v}
	}
	egress, ingress := c.doubt.egress, c.doubt.ingress
	egress.Packet = toPort(c.packet, protocol, number)
	ingress.Packet = egress.Packet
	out, _ := c.x.weigh(v, egress, ingress)
	return out
}

// open are the ports that are open, and those of which nobody knows, in disjoint ranges and in order.
func (c crossing) open() (open, unknown []policy.PortRange) {
	if c.closed {
		return nil, nil
	}
	ports := portsByVerdict(c.bounds, func(protocol policy.Protocol, first uint16) Verdict { return c.verdict(protocol, first).both })
	return ports[Allowed], ports[Unknown]
}

// inOrder sorts nodes as the cluster has them: of two that list one address, the first has it.
func (x *Explainer) inOrder(nodes []*corev1.Node) []*corev1.Node {
	if len(nodes) > 1 {
		place := func(n *corev1.Node) int { return slices.Index(x.cluster.Nodes, n) }
		slices.SortFunc(nodes, func(a, b *corev1.Node) int { return place(a) - place(b) })
	}
	return nodes
}

// union are the elements of two lists, each once. It does not change them.
func union[T comparable](a, b []T) []T {
	if len(b) == 0 {
		return slices.Clip(a)
	}
	out := slices.Clip(a)
	for _, one := range b {
		if !slices.Contains(a, one) {
			out = append(out, one)
		}
	}
	return out
}

// namesAddresses reports whether a peer of the rule is a network that is not all addresses.
func (r rule) namesAddresses() bool {
	return slices.ContainsFunc(r.peers, func(p peer) bool {
		return slices.ContainsFunc(p.blocks, func(b block) bool {
			cidr, err := policy.ParsePrefix(b.cidr)
			return err != nil || cidr.Bits() > 0 || len(b.except) > 0
		})
	})
}
