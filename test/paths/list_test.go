package paths_test

import (
	"slices"

	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// row is a kind of frame that reaches an isolated pod, or comes from one, whatever the
// policies say.
type row struct {
	what, why string
	// by says by which connection of the pods, and in which families.
	by func(*scene) bool
	// pairs are who receives it from whom. Each must be seen.
	pairs []pair
	is    func(frame) bool
}

type pair struct{ from, at stage.ActorID }

var (
	toNode   = []pair{{stage.Isolated, stage.TheNode}}
	onBridge = []pair{
		{stage.Isolated, stage.TheNode}, {stage.Isolated, stage.Neighbour}, {stage.Isolated, stage.Wire}, {stage.Neighbour, stage.Isolated}, {stage.Wire, stage.Isolated},
	}
)

// list is all that passes.
var list = []row{
	{
		what: "anything", why: "a node always reaches its pods",
		by: func(*scene) bool { return true }, pairs: []pair{{stage.TheNode, stage.Isolated}}, is: func(frame) bool { return true },
	},

	// On a bridge of another plugin's, pods find each other by themselves.
	{
		what: "ARP", why: "IPv4 needs to know who has which address; nothing else is in it",
		by: func(s *scene) bool { return s.Mode.Foreign() && s.Families.V4 }, pairs: onBridge, is: isARP,
	},
	{
		what: "neighbour solicitation", why: "IPv6 needs to know who has which address (RFC 4861 section 4.3)",
		by: foreignBridges, pairs: onBridge, is: isSolicitation,
	},
	{
		what: "neighbour advertisement", why: "the answer (RFC 4861 section 4.4)",
		by: foreignBridges, pairs: onBridge, is: isAdvertisement,
	},
	{
		what: "multicast listener query", why: "a switch beyond the bridge asks who listens (RFC 3810 section 5.1)",
		by: toldPorts, pairs: []pair{{stage.Wire, stage.Isolated}},
		is: func(f frame) bool { return isListenerDiscovery(f) && f.number == 130 },
	},

	{
		what: "neighbour discovery in fragments", why: "as the whole: they are put together before they are judged",
		by: toldPorts, pairs: []pair{{stage.Neighbour, stage.Isolated}, {stage.Wire, stage.Isolated}}, is: inFragments,
	},
	{
		what: "multicast listener discovery", why: "a switch beyond the bridge learns who listens (RFC 3810 section 5)",
		by: toldPorts, pairs: []pair{{stage.Isolated, stage.Wire}},
		is: func(f frame) bool { return isListenerDiscovery(f) && f.number != 130 },
	},
	{
		what: "anything in a neighbour's name", why: "another plugin's to prevent, where it does not tell which port is whose",
		by: untoldPorts, pairs: []pair{{stage.Isolated, stage.Neighbour}, {stage.Isolated, stage.TheNode}, {stage.Isolated, stage.Outside}},
		is: func(f frame) bool { return f.src == pretended+scope(stage.Neighbour) },
	},
	{
		what: "anything in a neighbour's name", why: "as before, where the node itself routes it",
		by: func(s *scene) bool { return untoldPorts(s) && s.Mode.Device() == stage.ForeignBridge }, pairs: []pair{{stage.Isolated, stage.Wire}},
		is: func(f frame) bool { return f.src == pretended+scope(stage.Neighbour) },
	},

	// On a veth pair of its own, a pod has nobody but the node to find.
	{
		what: "ARP", why: "IPv4 needs to know who has which address; nothing else is in it",
		by: func(s *scene) bool { return s.Mode.Routed() && s.Families.V4 }, pairs: toNode, is: isARP,
	},
	{
		what: "neighbour solicitation", why: "IPv6 needs to know who has which address (RFC 4861 section 4.3)",
		by: routedVeths, pairs: toNode, is: isSolicitation,
	},
	{
		what: "neighbour advertisement", why: "the answer (RFC 4861 section 4.4)",
		by: routedVeths, pairs: toNode, is: isAdvertisement,
	},

	// What pods of other plugins' say to their node.
	{
		what: "neighbour discovery in fragments", why: "as the whole: they are put together before they are judged",
		by: routedVeths, pairs: toNode, is: inFragments,
	},
	{
		// By no port of a bridge, not even the node's own: the bridge itself has to hear it, and
		// does not if it is not in the pods' VLAN.
		what: "router solicitation", why: "a pod may ask its node for routers (RFC 4861 section 4.1)",
		by: func(s *scene) bool { return others(s) && s.Mode.VLAN == 0 }, pairs: toNode, is: isRouterSolicitation,
	},
	{
		what: "multicast listener discovery", why: "a bridge that looks into multicast learns who listens (RFC 3810 section 5)",
		by: others, pairs: toNode, is: isListenerDiscovery,
	},

	// podfence's own bridge: pods know where it is, and need to ask for little.
	{
		what: "ARP with the pod's own address", why: "the kernel makes sure, now and then, that the gateway is still there",
		by: func(s *scene) bool { return s.Mode.Own() && s.Families.V4 }, pairs: toNode,
		is: func(f frame) bool {
			return isARP(f) && f.src == global && (f.mac == router || f.mac == theirs || f.mac == everybody && f.to == stage.TheNode)
		},
	},
	{
		what: "neighbour solicitation from the pod's own address", why: "as ARP",
		by: func(s *scene) bool { return s.Mode.Own() && s.Families.V6 }, pairs: toNode,
		is: func(f frame) bool { return isSolicitation(f) && f.src == global && f.to == stage.TheNode },
	},
	{
		what: "neighbour discovery in fragments", why: "as the whole: they are put together before they are judged",
		by: func(s *scene) bool { return s.Mode.Own() && s.Families.V6 }, pairs: toNode,
		is: func(f frame) bool { return inFragments(f) && f.src == global },
	},
	{
		what: "neighbour advertisement from the pod's own address", why: "the answer to the node's own question",
		by: func(s *scene) bool { return s.Mode.Own() && s.Families.V6 }, pairs: toNode,
		is: func(f frame) bool {
			return isAdvertisement(f) && f.src == global && (f.to == stage.TheNode || f.dst == allNodes)
		},
	},
}

func foreignBridges(s *scene) bool { return s.Mode.Foreign() }
func routedVeths(s *scene) bool    { return s.Mode.Routed() }
func others(s *scene) bool         { return !s.Mode.Own() }

// toldPorts are bridges of which the plugin has told which ports are the pods'. Else any
// port that could be a pod's is taken for one.
func toldPorts(s *scene) bool { return s.Mode.Foreign() && s.Mode.CNI == "chained" }

func untoldPorts(s *scene) bool { return s.Mode.Foreign() && s.Mode.CNI == "none" }

func isARP(f frame) bool { return f.class == arp || f.class == ethertype && f.number == 0x0806 }

// inFragments says whether neighbour discovery comes in fragments. Connection tracking has
// put them together before they are judged.
func inFragments(f frame) bool {
	if f.wrap != lab.Fragment {
		return false
	}
	f.wrap = lab.Plain
	return isSolicitation(f) || isAdvertisement(f)
}

// isRouterSolicitation is it whole, or in a fragment, as inFragments has it.
func isRouterSolicitation(f frame) bool {
	return f.class == icmp6 && (f.wrap == lab.Plain || f.wrap == lab.Fragment) && f.number == 133 && f.hop == 255 && f.dst == allRouters
}

func isSolicitation(f frame) bool {
	return f.class == icmp6 && f.wrap == lab.Plain && f.number == 135 && f.hop == 255 && (f.dst.unicast() || f.dst == solicited)
}

func isAdvertisement(f frame) bool {
	return f.class == icmp6 && f.wrap == lab.Plain && f.number == 136 && f.hop == 255 && (f.dst.unicast() || f.dst == allNodes)
}

// isListenerDiscovery is it with a router alert, as kernels send it, or without.
func isListenerDiscovery(f frame) bool {
	return f.class == icmp6 && (f.wrap == lab.Plain || f.wrap == lab.HopByHop || f.wrap == lab.Fragment) && slices.Contains([]uint16{130, 131, 132, 143}, f.number) && f.hop == 1 &&
		!f.dst.unicast() && f.dst != unspecified && (f.src == linkLocal || f.src == unspecified)
}

// forbidden says whether a frame from a pod must reach nobody, isolated or not: it would
// make the pod a router.
func forbidden(f frame) bool {
	return (f.from == stage.Isolated || f.from == stage.Neighbour) && f.class == icmp6 && (f.number == 134 || f.number == 137)
}

// concerned says whether what a frame does is for podfence to rule.
func concerned(f frame, at stage.ActorID) bool {
	return f.from != at && (f.from == stage.Isolated || at == stage.Isolated)
}
