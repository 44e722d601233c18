package agreement

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// judge says whether a packet is to arrive. What may begin a flow is policy.Judge's to say.
// What becomes of all else, and what the node's options close besides, is said here, as
// docs/SEMANTICS.md and docs/SECURITY.md have it, by what the lab knows and the API shows:
// nothing here looks at a table.
func (c *Cluster) judge(s policy.Snapshot, r *Result) {
	r.Sources = c.sources(s, r)
	o := policy.JudgeOptions{AllowToNode: c.options.AllowToNode}
	r.Verdict = policy.Judge(s, r.Seen, o)
	r.Judged = r.Verdict.At(random.Node)
	if r.Own {
		return
	}
	if r.Input && o.AllowToNode && !r.Judged && !r.Seen.Dst.IsLoopback() {
		// Judge knows only those addresses of the node that its Node object shows. The one that
		// prepare has asked for is of either family: an object may show those of one alone.
		own := r.Seen
		if own.Dst = random.NodeAddrs[0]; random.Untracked(own) { // it is no discovery
			own.ICMPType = 128
		}
		r.Verdict = policy.Judge(s, own, o)
		r.Judged, r.Why = r.Verdict.At(random.Node), "the node takes it in"
	}
	if why := c.closed(s, r); why != "" {
		r.Judged, r.Why = false, why
		return
	}
	switch {
	case r.tracked() && c.options.RevokedMark != 0 && c.marks(r)&c.options.RevokedMark != 0:
		r.Judged, r.Why = false, "its flow has been revoked"
	case r.State == nft.Established:
		r.Judged, r.Why = true, "its flow has begun, and has been answered"
	case r.State == nft.Related:
		r.Judged, r.Why = c.mayReport(s, r)
	case r.State == nft.Invalid && c.ofFenced(s, r, true):
		r.Judged, r.Why = false, "invalid, and to or from a pod that policies decide about"
	case r.State == nft.New && r.Midstream && c.ofFenced(s, r, false):
		r.Judged, r.Why = false, "from the middle of a connection, by a direction that says nothing of it"
	}
}

// marks are the conntrack marks of the packet's flow.
func (c *Cluster) marks(r *Result) uint32 {
	if r.Of != nil && r.Of.Revoked {
		return r.Treatment.mark() | c.options.RevokedMark
	}
	return r.Treatment.mark()
}

// mayReport says whether an ICMP error about a known flow passes: a pod's only if the pod is
// an end of it, and no pod's redirect. Whoever has an address of the node's range that no known
// pod has reports nothing.
func (c *Cluster) mayReport(s policy.Snapshot, r *Result) (bool, string) {
	sender := policy.Judge(s, policy.Packet{Src: r.Seen.Src, Dst: outside(r.Seen.Src), Protocol: policy.UDP, DstPort: 9, HopLimit: 64}, policy.JudgeOptions{}).Egress
	switch {
	case sender.Node != random.Node:
		return true, "an ICMP error about a known flow"
	case sender.Pod == policy.Key{}:
		return false, "an ICMP error of nobody known"
	case r.Seen.Protocol == policy.ICMP && r.Seen.ICMPType == redirect4:
		return false, "a redirect, of a pod"
	}
	return r.Seen.Src == r.Of.Seen.Src || r.Seen.Src == r.Of.Seen.Dst, "an ICMP error of a pod"
}

// redirect4 is the ICMP type.
const redirect4 = 5

// outside is an address outside the cluster, of the family of another.
func outside(like netip.Addr) netip.Addr {
	if like.Is4() {
		return random.Outside[0]
	}
	return random.Outside[2]
}

// ofFenced says whether a packet that begins no connection is to or from a pod that policies
// decide about. Where flows are revoked, what may be an answer is asked for at the other
// direction as well. With own, one that they decide about in the direction itself counts too:
// invalid packets are not let through to where policies are asked.
func (c *Cluster) ofFenced(s policy.Snapshot, r *Result, own bool) bool {
	type side struct {
		addr netip.Addr
		d    policy.Direction
	}
	var sides []side
	if r.Hook == nft.Forward || !c.options.AllowToNode {
		sides = append(sides, side{r.Seen.Src, policy.Egress})
	}
	if r.Hook == nft.Forward {
		sides = append(sides, side{r.Seen.Dst, policy.Ingress})
	}
	return slices.ContainsFunc(sides, func(at side) bool {
		return own && fenced(s, at.addr, at.d) || c.options.RevokedMark != 0 && fenced(s, at.addr, at.d.Opposite())
	})
}

// fenced says whether policies decide what a pod of this node that may have an address gets, or
// sends: whether it is isolated, or a ClusterNetworkPolicy selects it that has rules for that.
func fenced(s policy.Snapshot, addr netip.Addr, d policy.Direction) bool {
	p := policy.Packet{Src: addr, Dst: outside(addr), Protocol: policy.TCP, DstPort: 1, HopLimit: 64}
	if d == policy.Ingress {
		p.Src, p.Dst = p.Dst, p.Src
	}
	v := policy.Judge(s, p, policy.JudgeOptions{})
	j := v.Egress
	if d == policy.Ingress {
		j = v.Ingress
	}
	return j.Node == random.Node && j.Fenced()
}

// closed says what of the node's options keeps a packet from passing, whatever it is of.
func (c *Cluster) closed(s policy.Snapshot, r *Result) string {
	if why := c.guardedOff(r); why != "" {
		return why
	}
	from := r.Probe.From
	guarded := c.options.Guard && c.onBridge(from)
	if c.options.SourceCheck && inRanges(s, r.Src) && !guarded && c.linkTo(r.Src) != c.linkOf(from) {
		return "a pod's source, from elsewhere"
	}
	return c.intoTunnel(s, r)
}

// intoTunnel says why a packet may not go into a tunnel between nodes; empty: it may, or is none.
func (c *Cluster) intoTunnel(s policy.Snapshot, r *Result) string {
	if c.options.TunnelPort == 0 || r.Seen.Protocol != policy.UDP || r.Seen.DstPort != c.options.TunnelPort {
		return ""
	}
	fromNode, toNode := ofNode(s, r.Seen.Src), ofNode(s, r.Seen.Dst)
	begun := r.State == nft.Established || r.State == nft.Related
	switch {
	case r.Hook == nft.Input && (r.isTranslated() || !fromNode || !toNode):
		return "into the tunnel, but not from a node"
	case r.Hook == nft.Input || begun:
		return ""
	case r.isTranslated():
		return "into the tunnel, by destination NAT"
	case toNode && !fromNode:
		return "into another node's tunnel, but not from a node"
	case c.masqueraded(s, r):
		return "into a tunnel, as if from this node"
	}
	return ""
}

// routerMessages are the ICMPv6 messages that no guarded pod sends: routers' and redirects, and
// those of multicast listeners.
var routerMessages = []uint8{130, 131, 132, 133, 134, 137, 143}

// guardedOff says why a guarded pod cannot send a packet: it sends plain packets with its own
// addresses to its gateway, which is no group.
func (c *Cluster) guardedOff(r *Result) string {
	from := r.Probe.From
	switch {
	case !c.options.Guard || !c.onBridge(from):
		return ""
	case r.Wire.Wrap != lab.Plain:
		return "neither IP nor ARP"
	case !slices.Contains(from.IPs, r.Src):
		return "not from the pod's own address"
	case r.Dst.IsMulticast() || r.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not to the gateway"
	case r.Seen.Protocol == policy.ICMPv6 && slices.Contains(routerMessages, r.Seen.ICMPType):
		return "not a pod's to send"
	case headerless(r.Wire):
		return "a first fragment without an upper-layer header"
	}
	return ""
}

// inFirst is how much of the upper layer is in the first fragment; all is a lot.
func inFirst(w lab.Wire) int {
	size, cut := map[lab.Fragments]int{lab.Tiny: 8, lab.InOrder: 16, lab.Reversed: 16, lab.Overlapping: 16}[w.Fragments]
	if !cut {
		return 1 << 16
	}
	for _, number := range w.Extensions {
		size -= len(lab.Extensions[number])
	}
	return size
}

// headerless says whether the first fragment has less than 8 octets of the upper layer.
func headerless(w lab.Wire) bool { return inFirst(w) < 8 }

// truncated says whether the first fragment has less of the upper layer than the kernel wants
// (ipv6frag_thdr_truncated in net/ipv6/reassembly.c).
func truncated(r *Result) bool {
	want := map[policy.Protocol]int{policy.TCP: 20, policy.UDP: 8, policy.ICMPv6: 8}[r.Protocol]
	return inFirst(r.Wire) < max(want, 1)
}

// sources are what a packet may come from for its receiver: its sender, but for what leaves
// with the node's address, or comes from behind a Service's.
func (c *Cluster) sources(s policy.Snapshot, r *Result) []netip.Addr {
	switch {
	case r.Of != nil && r.Follow.reports():
		return nil // as NAT has it
	case r.Of != nil && r.Follow == Answer:
		return []netip.Addr{r.Of.addressed()}
	case r.Of != nil:
		return r.Of.Sources
	case r.Own || r.Hook != nft.Forward || r.State != nft.New:
		return []netip.Addr{r.Src}
	case r.As.IsValid():
		return []netip.Addr{r.As}
	case r.Treatment == SourceNAT:
		return []netip.Addr{c.Node.IP(r.Src)}
	case c.masqueraded(s, r):
		return append(c.gateways(), c.Node.IPs...)
	}
	return []netip.Addr{r.Src}
}

// masqueraded says whether what begins a flow leaves with an address of the node's.
func (c *Cluster) masqueraded(s policy.Snapshot, r *Result) bool {
	return c.options.Masquerade && inOwnRange(s, r.Seen.Src) && !inCluster(s, r.Seen.Dst)
}

// gateways are the addresses of the node's bridge.
func (c *Cluster) gateways() (addrs []netip.Addr) {
	for _, cidr := range policy.NodeOf(random.Nodes()[0]).PodCIDRs {
		addrs = append(addrs, cidr.Addr().Next())
	}
	return addrs
}

// addressed is where a packet has been sent to.
func (r *Result) addressed() netip.Addr { return r.Probe.Packet.Dst }

// refused says why the node's stack, or its connection tracking, lets a packet not pass,
// with or without podfence.
func (c *Cluster) refused(r *Result) string {
	routed := c.routed(r)
	groups := []netip.Addr{random.Groups4[0], random.Groups4[3], random.Groups6[0], random.Groups6[1], random.Groups6[4]}
	if !c.isBridged(r.Probe.From) {
		groups = append(groups, random.Groups6[5]) // the gateway's own address
	}
	wrap := r.Wire.Wrap
	switch {
	case r.Wire.Fragments == lab.Overlapping:
		return "fragments that overlap are given up (RFC 5722)"
	case r.Wire.Fragments == lab.FirstAlone || r.Wire.Fragments == lab.LaterAlone:
		return "no datagram without all its fragments"
	case r.Src.Is6() && truncated(r):
		return "the first fragment lacks a part of the upper-layer header (RFC 8200 section 4.5)"
	case wrap != lab.Plain && !slices.Contains([]lab.Wrap{lab.Tag0, lab.Service0, lab.Stacked0, lab.Double0}, wrap):
		return "no such link"
	case routed && r.Seen.HopLimit == 0:
		return "no hops left"
	case sourceRouted(r.Wire) && (routed || r.Hook == nft.Input):
		return "no source routes (accept_source_route)"
	case r.Of != nil && r.Seen.Protocol == policy.ICMP && r.Seen.ICMPType == redirect4 && (r.Of.isTranslated() || !slices.Equal(r.Of.Sources, []netip.Addr{r.Of.Src})):
		return "NAT drops redirects (nf_nat_icmp_reply_translation)"
	case slices.Contains(r.Wire.Extensions, routing) && r.addressed().IsMulticast():
		return "no routing header to a group (ipv6_rthdr_rcv)"
	case c.onBridge(r.Probe.From) && asksListeners(r) && !(r.Src.IsLinkLocalUnicast() && r.addressed() == random.Groups6[0]):
		return "a bridge takes in no query of listeners but a link-local address's to all nodes (ipv6_mc_check_mld_query)"
	case r.Input && random.OfLink(r.Dst) && !slices.Contains(groups, r.Dst):
		return "the node is not of the group"
	}
	return ""
}

// The numbers of IPv6 extension headers.
const (
	hopByHop = 0
	routing  = 43
)

// asksListeners says whether a bridge that looks into multicast takes a packet for a query of
// multicast listener discovery: only what has a hop-by-hop header, whatever its hop limit, and
// whatever is in the header (ipv6_mc_check_exthdrs). What the lab sends asks about all groups.
func asksListeners(r *Result) bool {
	return r.addressed().Is6() && r.addressed().IsMulticast() && r.Protocol == policy.ICMPv6 && r.ICMPType == random.MulticastListener[0] &&
		len(r.Wire.Extensions) > 0 && r.Wire.Extensions[0] == hopByHop
}

// sourceRouted says whether IPv4's options have a source route.
func sourceRouted(w lab.Wire) bool {
	return len(w.Options) > 0 && (w.Options[0] == 131 || w.Options[0] == 137)
}

// The node's ends of links.

// linkOf is the node's device that a host's packets come in by.
func (c *Cluster) linkOf(h *lab.Host) string {
	if c.onBridge(h) {
		return lab.Bridge
	}
	return h.Link
}

// linkTo is the node's device that the route to an address leads to; "" if there is none.
func (c *Cluster) linkTo(addr netip.Addr) string {
	if owner := c.Lab.Owner(addr); owner != nil {
		return c.linkOf(owner)
	}
	if c.attach == lab.Bridged && InPodRange(addr) {
		return lab.Bridge
	}
	return ""
}

// What the API shows of nodes.

func inRanges(s policy.Snapshot, addr netip.Addr) bool {
	return !ofNode(s, addr) && (inOwnRange(s, addr) || slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool { return inRangeOf(n, addr) }))
}

// inOwnRange says whether an address is of the node's own pod ranges, as last known.
func inOwnRange(s policy.Snapshot, addr netip.Addr) bool {
	shown := false
	for _, n := range s.Nodes {
		if n.Name != random.Node {
			continue
		}
		if inRangeOf(n, addr) {
			return true
		}
		shown = shown || slices.ContainsFunc(random.RangesOf(n), func(p netip.Prefix) bool { return p.Addr().Is4() == addr.Is4() })
	}
	return !shown && slices.ContainsFunc(s.LastPodCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func inRangeOf(n *corev1.Node, addr netip.Addr) bool {
	return slices.ContainsFunc(random.RangesOf(n), func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ofNode says whether an address is a node's, as nodes reach each other by it: an InternalIP.
func ofNode(s policy.Snapshot, addr netip.Addr) bool {
	return slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool {
			return a.Type == corev1.NodeInternalIP && a.Address == addr.String()
		})
	})
}

// inCluster says whether pods reach an address with their own.
func inCluster(s policy.Snapshot, addr netip.Addr) bool {
	return inRanges(s, addr) || ofNode(s, addr) || addr.IsMulticast() || addr.Is6() && addr.IsLinkLocalUnicast()
}
