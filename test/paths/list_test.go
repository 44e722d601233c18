package paths_test

import "slices"

// row is a kind of frame that reaches an isolated pod, or comes from one, whatever the
// policies say.
type row struct {
	what, why string
	// by says by which connection of the pods, and in which families.
	by func(*scene) bool
	// Between whom; each pair must be seen.
	from, at []actorID
	is       func(frame) bool
}

// list is all that passes.
var list = []row{
	{
		"anything", "a node always reaches its pods",
		everywhere, []actorID{theNode}, []actorID{isolated},
		func(frame) bool { return true },
	},

	// On a bridge of another plugin's, pods find each other by themselves.
	{
		"ARP", "IPv4 needs to know who has which address; nothing else is in it",
		func(s *scene) bool { return s.mode.foreign() && s.families.v4 },
		[]actorID{isolated}, []actorID{neighbour, theNode, wire},
		isARP,
	},
	{
		"ARP", "IPv4 needs to know who has which address; nothing else is in it",
		func(s *scene) bool { return s.mode.foreign() && s.families.v4 },
		[]actorID{neighbour, wire}, []actorID{isolated},
		isARP,
	},
	{
		"neighbour solicitation", "IPv6 needs to know who has which address (RFC 4861 section 4.3)",
		foreignBridges, []actorID{isolated}, []actorID{neighbour, theNode, wire}, isSolicitation,
	},
	{
		"neighbour solicitation", "IPv6 needs to know who has which address (RFC 4861 section 4.3)",
		foreignBridges, []actorID{neighbour, wire}, []actorID{isolated}, isSolicitation,
	},
	{
		"neighbour advertisement", "the answer (RFC 4861 section 4.4)",
		foreignBridges, []actorID{isolated}, []actorID{neighbour, theNode, wire}, isAdvertisement,
	},
	{
		"neighbour advertisement", "the answer (RFC 4861 section 4.4)",
		foreignBridges, []actorID{neighbour, wire}, []actorID{isolated}, isAdvertisement,
	},
	{
		"multicast listener query", "a switch beyond the bridge asks who listens (RFC 3810 section 5.1)",
		foreignBridges, []actorID{wire}, []actorID{isolated},
		func(f frame) bool { return isListenerDiscovery(f) && f.number == 130 },
	},

	// On a veth pair of its own, a pod has nobody but the node to find.
	{
		"ARP", "IPv4 needs to know who has which address; nothing else is in it",
		func(s *scene) bool { return s.mode.by == "ptp" && s.families.v4 },
		[]actorID{isolated}, []actorID{theNode}, isARP,
	},
	{
		"neighbour solicitation", "IPv6 needs to know who has which address (RFC 4861 section 4.3)",
		routedVeths, []actorID{isolated}, []actorID{theNode}, isSolicitation,
	},
	{
		"neighbour advertisement", "the answer (RFC 4861 section 4.4)",
		routedVeths, []actorID{isolated}, []actorID{theNode}, isAdvertisement,
	},

	// What pods of other plugins' say to their node.
	{
		"router solicitation", "a pod may ask its node for routers (RFC 4861 section 4.1)",
		others, []actorID{isolated}, []actorID{theNode},
		func(f frame) bool {
			return f.class == icmp6 && f.wrap == plain && f.number == 133 && f.hop == 255 && f.dst == allRouters
		},
	},
	{
		"multicast listener discovery", "a bridge that looks into multicast learns who listens (RFC 3810 section 5)",
		others, []actorID{isolated}, []actorID{theNode}, isListenerDiscovery,
	},

	// podfence's own bridge: pods know where it is, and need to ask for nothing.
	{
		"ARP with the pod's own address", "the kernel makes sure, now and then, that the gateway is still there",
		func(s *scene) bool { return s.mode.by == "" && s.families.v4 },
		[]actorID{isolated}, []actorID{theNode},
		func(f frame) bool {
			return isARP(f) && f.src == global && (f.mac == router || f.mac == theirs || f.mac == everybody && f.to == theNode)
		},
	},
	{
		"neighbour solicitation from the pod's own address", "as ARP",
		func(s *scene) bool { return s.mode.by == "" && s.families.v6 },
		[]actorID{isolated}, []actorID{theNode},
		func(f frame) bool { return isSolicitation(f) && f.src == global && f.to == theNode },
	},
	{
		"neighbour advertisement from the pod's own address", "the answer to the node's own question",
		func(s *scene) bool { return s.mode.by == "" && s.families.v6 },
		[]actorID{isolated}, []actorID{theNode},
		func(f frame) bool {
			return isAdvertisement(f) && f.src == global && (f.to == theNode || f.dst == allNodes)
		},
	},
}

func everywhere(*scene) bool       { return true }
func foreignBridges(s *scene) bool { return s.mode.foreign() }
func routedVeths(s *scene) bool    { return s.mode.by == "ptp" }
func others(s *scene) bool         { return s.mode.by != "" }

func isARP(f frame) bool { return f.class == arp && (f.number == 1 || f.number == 2) }

func isSolicitation(f frame) bool {
	return f.class == icmp6 && f.wrap == plain && f.number == 135 && f.hop == 255 && (f.dst.unicast() || f.dst == solicited)
}

func isAdvertisement(f frame) bool {
	return f.class == icmp6 && f.wrap == plain && f.number == 136 && f.hop == 255 && (f.dst.unicast() || f.dst == allNodes)
}

// isListenerDiscovery is it with a router alert, as kernels send it, or without.
func isListenerDiscovery(f frame) bool {
	return f.class == icmp6 && (f.wrap == plain || f.wrap == hopByHop) && slices.Contains([]uint16{130, 131, 132, 143}, f.number) && f.hop == 1 &&
		!f.dst.unicast() && f.dst != unspecified && (f.src == linkLocal || f.src == unspecified)
}

// forbidden says whether a frame from a pod must reach nobody, isolated or not: it would
// make the pod a router.
func forbidden(f frame) bool {
	return (f.from == isolated || f.from == neighbour) && f.class == icmp6 && (f.number == 134 || f.number == 137)
}

// concerned says whether what a frame does is for podfence to rule.
func concerned(f frame, at actorID) bool {
	return f.from != at && (f.from == isolated || at == isolated)
}
