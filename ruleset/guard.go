package ruleset

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// LinkGroup is the group of the node's end of every link that podfence's plugin has made, and of
// no other link (ip link show group 28774). The guard is closed to what comes in by one of
// these. Names would not do, as others may have similar ones: ports of network cards are called
// pf0hpf.
const LinkGroup = 28774

// fromPodPort matches what comes in by a pod's port of podfence's bridge.
const fromPodPort = nft.InGroup(LinkGroup)

// Gateway is where pods send everything: the bridge itself.
type Gateway struct {
	// MAC is the bridge's hardware address. Zero means that it is not known; then nothing that
	// pods send passes.
	MAC [6]byte
	// Addrs are those of the bridge's addresses that pods have as the gateway of their routes.
	Addrs []netip.Addr
}

// The names in the guard's table.
const (
	chainPortsPrerouting = "ports-prerouting"
	chainPortsForward    = "ports-forward"
	chainFramesARP       = "frames-arp"
	chainFramesIPv4      = "frames-ipv4"
	chainFramesIPv6      = "frames-ipv6"

	mapFrames           = "frames"
	setGateway          = "gateway"
	setGatewayGroups    = "gateway-and-groups"
	setGateway4         = "gateway-4"
	setGatewaySolicited = "gateway-solicited-6"
	setRouterMessages   = "router-messages"
)

// sendersSet holds who may send by which port.
func sendersSet(f family) string {
	if f == 4 {
		return "senders-4"
	}
	return "senders-6"
}

// Guard is the table of family bridge of podfence's own bridge.
type Guard struct{ nft.Table }

// BuildGuard returns the table of family bridge that keeps pods from going
// round the gateway, where policy is judged, and from sending with an address
// that is not their own. Attachments without a HostInterface are left out:
// another plugin connects them.
func BuildGuard(attachments []policy.Attachment, gateway Gateway, fragments FragmentMemory) *Guard {
	g := &Guard{nft.NewTable(nft.Bridge)}
	g.AddSets(guardSets()...)
	g.AddChains(guardChains(fragments)...)
	g.UpdateGuard(attachments, gateway)
	return g
}

// UpdateGuard makes the table the one for this gateway and for these attachments, which
// must be all that exist. It returns the plan that does the same in a kernel which holds
// the table as it was: one element more or less for each address.
func (g *Guard) UpdateGuard(attachments []policy.Attachment, gateway Gateway) nft.Plan {
	var c changes
	want := guardElements(attachments, gateway)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		c.content(g.Sets[name], want[name])
	}
	return c.plan(g.Family)
}

// guardElements are the elements of all sets that depend on the attachments and the gateway.
func guardElements(attachments []policy.Attachment, gateway Gateway) map[string]map[nft.Element]struct{} {
	want := map[string]map[nft.Element]struct{}{}
	podAddrElements(want, nil)
	for _, name := range []string{sendersSet(4), sendersSet(6), setGateway, setGatewayGroups, setGateway4, setGatewaySolicited} {
		want[name] = map[nft.Element]struct{}{}
	}
	for _, a := range attachments {
		// No link has a name that is too long (IFNAMSIZ).
		if a.HostInterface == "" || len(a.HostInterface) >= len(nft.Element{}.Port) || a.MAC == [6]byte{} {
			continue
		}
		podAddrElements(want, a.IPs)
		for _, addr := range a.IPs {
			want[sendersSet(familyOf(addr))][senderElement(a.HostInterface, a.MAC, addr)] = struct{}{}
		}
	}
	if gateway.MAC == [6]byte{} {
		return want
	}
	want[setGateway][nft.Element{MAC: gateway.MAC}] = struct{}{}
	want[setGatewayGroups][nft.Element{MAC: gateway.MAC}] = struct{}{}
	for _, addr := range gateway.Addrs {
		if addr.Is4() {
			want[setGateway4][nft.AddrElement(addr)] = struct{}{}
			want[setGatewayGroups][nft.Element{MAC: broadcast}] = struct{}{}
			continue
		}
		group, mac := solicitedNode(addr)
		want[setGatewaySolicited][nft.AddrElement(group)] = struct{}{}
		want[setGatewayGroups][nft.Element{MAC: mac}] = struct{}{}
	}
	return want
}

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// solicitedNode is the group at which an address's hardware address is asked for (RFC 4291
// section 2.7.1), and the hardware address of that group (RFC 2464 section 7).
func solicitedNode(addr netip.Addr) (netip.Addr, [6]byte) {
	a := addr.As16()
	group := [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}
	return netip.AddrFrom16(group), [6]byte{0x33, 0x33, 0xff, a[13], a[14], a[15]}
}

func senderElement(port string, mac [6]byte, addr netip.Addr) nft.Element {
	e := nft.AddrElement(addr)
	e.MAC = mac
	copy(e.Port[:], port)
	return e
}

// sender is the type of the sets of who may send by which port.
func sender(f family) nft.SetType { return nft.Of(nft.IfName, nft.EtherAddr, f.datatype()) }

func guardSets() []*nft.Set {
	none := func() map[nft.Element]struct{} { return map[nft.Element]struct{}{} }
	return append(append(groupSets(), fragmentSets()...), []*nft.Set{
		{Name: sendersSet(4), Type: sender(4), Elements: none(), Comment: "this node's pods: port, and its own addresses"},
		{Name: sendersSet(6), Type: sender(6), Elements: none(), Comment: "this node's pods: port, and its own addresses"},
		{Name: setGateway, Type: nft.Of(nft.EtherAddr), Elements: none(), Comment: "the bridge"},
		{Name: setGatewayGroups, Type: nft.Of(nft.EtherAddr), Elements: none(), Comment: "the bridge, and where it is asked for its address"},
		{Name: setGateway4, Type: nft.Of(nft.IPv4Addr), Elements: none(), Comment: "the bridge's addresses"},
		{Name: setGatewaySolicited, Type: nft.Of(nft.IPv6Addr), Elements: none(), Comment: "where the bridge is asked for its address"},
		{Name: setRouterMessages, Type: nft.Of(nft.ICMPv6Type), Elements: messageTypes(routerMessages), Comment: "not a pod's to send"},
		{Name: mapFrames, Type: nft.Of(nft.EtherType), Comment: "what a pod may send", Verdicts: map[nft.Element]nft.Verdict{
			{First: nft.TypeIPv4}: {Action: nft.Jump, Chain: chainFramesIPv4},
			{First: nft.TypeARP}:  {Action: nft.Jump, Chain: chainFramesARP},
			{First: nft.TypeIPv6}: {Action: nft.Jump, Chain: chainFramesIPv6},
		}},
	}...)
}

// routerMessages are the types of router discovery, redirects and multicast listener discovery.
// The node would ignore those that a pod could send, as they need a link-local source. To drop
// them, and not to depend on that, costs next to nothing.
var routerMessages = []uint8{130, 131, 132, 133, 134, 137, 143}

// guardChains judge frames by the port that they came in by.
//
// Prerouting sees a frame before the bridge has learnt its source or looked for
// a way. At dstnat - 10 it also comes before anything that rewrites addresses:
// ebtables' DNAT (-300) and br_netfilter (0), which puts a Service's packet back
// into the bridge as a frame to the pod that it has chosen. Such a frame begins
// after br_netfilter, in the middle of the hook (br_nf_hook_thresh in
// net/bridge/br_netfilter_hooks.c), and is judged as it was sent, to the
// gateway.
//
// Forward keeps the questions for the gateway's address, which have to go to a
// group, from the other ports. What br_netfilter has put back into the bridge
// goes to a pod's own hardware address, and on.
func guardChains(fragments FragmentMemory) []*nft.Chain {
	drop := nft.Verdict{Action: nft.Drop}
	return append(fragmentChains(fragments), []*nft.Chain{
		{Name: chainPortsPrerouting, Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.DstNAT, Priority: -10}, Rules: []nft.Rule{
			// All of the frame's types, a VLAN tag's included: "meta protocol",
			// on which the rules of the chains depend, is what is in the tag.
			{Matches: []nft.Match{fromPodPort}, Verdict: nft.Verdict{Action: nft.Dispatch, Field: nft.FrameType, Map: mapFrames}},
			{Matches: []nft.Match{fromPodPort}, Counter: true, Verdict: drop, Origin: nft.Sentence("neither IP nor ARP")},
			// These are for frames from the ports of other bridges, perhaps the uplink.
			toGroups()[0], toGroups()[1],
		}},
		groupsChain(),
		{Name: chainPortsForward, Hook: &nft.Hook{Point: nft.Forward, Priority: -10}, Rules: []nft.Rule{
			{Matches: []nft.Match{fromPodPort, nft.Lookup{Fields: []nft.Field{nft.DstMAC}, Set: setGatewayGroups}}, Counter: true, Verdict: drop, Origin: nft.Sentence("for the bridge alone")},
		}},
		{Name: chainFramesARP, Rules: framesARP()},
		{Name: chainFramesIPv4, Rules: []nft.Rule{
			ofFragments(4),
			{Matches: []nft.Match{toGateway, senders(4, nft.SrcMAC, nft.SrcAddr4)}, Verdict: nft.Verdict{Action: nft.Accept}},
			{Counter: true, Verdict: drop, Origin: nft.Sentence("not to the gateway, or not from the pod's own address")},
		}},
		{Name: chainFramesIPv6, Rules: framesIPv6()},
	}...)
}

// portsChain is in the table of family inet, for the one kind of frame that the
// bridge's prerouting does not see: those to the reserved groups
// 01:80:c2:00:00:0X, which a bridge hands to the port's own link, for 0E (LLDP)
// without any hook of its family (br_handle_frame in net/bridge/br_input.c). The
// node would receive an IP packet inside as from any other link, whatever its
// source. What comes the right way, or by br_netfilter, comes in by the bridge.
//
// Raw is before connection tracking: a neighbour's flow would otherwise be
// tracked on by a packet in its name. Of what else such a frame can hold, the
// node takes ARP, into the port's own neighbour table, by which nothing is sent.
// That the bridge does not learn a source from it, which no rule can prevent, is
// for the plugin to see to: learning is off on pods' ports.
func portsChain() *nft.Chain {
	return &nft.Chain{Name: chainPortsPrerouting, Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.Raw}, Rules: []nft.Rule{
		{Matches: []nft.Match{fromPodPort}, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("round the bridge")},
	}}
}

var toGateway = nft.Lookup{Fields: []nft.Field{nft.DstMAC}, Set: setGateway}

// senders matches frames with the hardware and the IP address of the port's pod.
func senders(f family, mac, addr nft.Field) nft.Lookup {
	return nft.Lookup{Fields: []nft.Field{nft.InPort, mac, addr}, Set: sendersSet(f)}
}

// framesARP lets a pod answer the gateway, ask the gateway, and ask all hosts for the gateway,
// with the pod's own addresses in the message as well as on the frame. No pod needs that, thanks
// to the neighbour entries that the plugin makes.
func framesARP() []nft.Rule {
	own := []nft.Match{senders(4, nft.SrcMAC, nft.ARPSrcAddr), senders(4, nft.ARPSrcMAC, nft.ARPSrcAddr)}
	return []nft.Rule{
		{Matches: append([]nft.Match{toGateway}, own...), Verdict: nft.Verdict{Action: nft.Accept}},
		{
			Matches: append([]nft.Match{nft.Lookup{Fields: []nft.Field{nft.DstMAC}, Set: setGatewayGroups}, nft.Lookup{Fields: []nft.Field{nft.ARPDstAddr}, Set: setGateway4}}, own...),
			Verdict: nft.Verdict{Action: nft.Accept},
		},
		{Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("not with the gateway, or not with the pod's own addresses")},
	}
}

// framesIPv6 lets a pod send to the gateway, neighbour discovery included, and
// ask the group for the gateway's hardware address; from its own address only.
// A link-local address does not count as its own: a pod needs one only for what does not pass
// anyway. So no duplicate address detection, no multicast listener reports and no router
// solicitations pass. That harms nobody: pods get their addresses from the plugin, and
// nothing is multicast between them.
//
// The hardware addresses inside neighbour discovery are not looked at: they are
// options, which can be anywhere. A pod could forge one only for its own address (or, in an
// advertisement, for any target), and the node's entries for pods are permanent, so that no
// message changes them (__neigh_update in net/core/neighbour.c).
func framesIPv6() []nft.Rule {
	accept, drop := nft.Verdict{Action: nft.Accept}, nft.Verdict{Action: nft.Drop}
	return []nft.Rule{
		ofFragments(6),
		{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.ICMPv6MessageType}, Set: setRouterMessages}}, Counter: true, Verdict: drop, Origin: nft.Sentence("not a pod's to send")},
		{Matches: []nft.Match{toGateway, senders(6, nft.SrcMAC, nft.SrcAddr6)}, Verdict: accept},
		{
			Matches: []nft.Match{
				neighbourSolicitation,
				nft.Lookup{Fields: []nft.Field{nft.DstMAC}, Set: setGatewayGroups}, nft.Lookup{Fields: []nft.Field{nft.DstAddr6}, Set: setGatewaySolicited},
				senders(6, nft.SrcMAC, nft.SrcAddr6),
			},
			Verdict: accept,
		},
		{Counter: true, Verdict: drop, Origin: nft.Sentence("not to the gateway, or not from the pod's own address")},
	}
}
