package attack_test

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/test/stage"
)

// promise is one of docs/SECURITY.md's about frames, in a mode. The oracle that holds podfence
// to it knows what was sent, by whom, and where it has come, by the frame's octets alone.
type promise struct {
	what string
	in   func(stage.Mode) bool
	// broken says that a frame is at whom it must not be at.
	broken func(s *scene, from, at stage.ActorID, v view) bool
}

var promises = []promise{
	{
		what: "an isolated pod sends nothing and gets nothing", in: every,
		broken: func(_ *scene, from, at stage.ActorID, _ view) bool {
			return closed(from) || closed(at)
		},
	},
	{
		what: "no pod is a router", in: every,
		broken: func(s *scene, from, _ stage.ActorID, v view) bool {
			kind, is := v.ip.icmp()
			return pod(from) && !v.inError && (v.ip.message6(130, 134, 137) || is && kind == 5 && v.ip.src.Is4() && s.own(from, v.ip.src))
		},
	},
	{
		what: "no pod wraps anything up", in: every,
		broken: func(s *scene, from, _ stage.ActorID, v view) bool {
			// A tag of no VLAN, where there is no bridge, is taken off, and what is in it judged.
			tagged := v.tags > 0 && !s.Mode.Routed()
			return pod(from) && !v.inError && (tagged || v.untyped())
		},
	},
	{
		what: "a pod's ICMP errors are about its own flows", in: every,
		broken: func(s *scene, from, _ stage.ActorID, v view) bool {
			if !pod(from) || v.ip == nil || !s.own(from, v.ip.src) {
				return false
			}
			q := v.ip.quoted()
			return q != nil && !s.own(from, q.src) && !s.own(from, q.dst)
		},
	},
	{
		what: "a pod sends with its own addresses, to its gateway", in: stage.Mode.Own,
		broken: func(s *scene, from, _ stage.ActorID, v view) bool { return pod(from) && !s.honest(from, v) },
	},
	{
		what: "the node's loopback addresses are out of pods' reach", in: every,
		broken: func(s *scene, from, at stage.ActorID, v view) bool {
			return pod(from) && at == stage.TheNode && !v.inError && v.ip != nil && (v.ip.src.IsLoopback() || v.ip.dst.IsLoopback() || v.ip.dst == loopService && s.own(from, v.ip.src))
		},
	},
	{
		what: "a pod's source comes from where the route to the pod leads", in: stage.Mode.Own,
		broken: func(s *scene, from, at stage.ActorID, v view) bool {
			if v.ip == nil || v.tags > 0 {
				return false
			}
			return from == stage.Outside && inRanges(v.ip.src, 1, 2) || from == stage.Remote && pod(at) && inRanges(v.ip.src, 1)
		},
	},
	{
		what: "only nodes use the tunnel", in: stage.Mode.Own,
		broken: func(s *scene, from, at stage.ActorID, v view) bool {
			if v.ip == nil || from == stage.Remote || from == stage.Outside && slices.Contains(s.nodes(), v.ip.src) {
				return false // who sends from a node's address is that node
			}
			if pod(at) { // what is for the node otherwise may be the answer to what was masqueraded
				return slices.Contains(s.nodes(), v.ip.dst) && v.ip.port() == node.DefaultVXLANPort
			}
			return s.Mode.Routing == vxlan && at == stage.Remote && (v.ip.dst == unlisted || v.ip.port() == node.DefaultVXLANPort)
		},
	},
}

// exception is a kind of frame that arrives all the same.
type exception struct {
	what string
	in   func(stage.Mode) bool
	// ways are who gets it from whom; nil: anybody.
	ways []way
	is   func(s *scene, from stage.ActorID, v view) bool
}

type way struct{ from, at stage.ActorID }

var (
	toNode   = []way{{stage.Isolated, stage.TheNode}}
	onBridge = []way{
		{stage.Isolated, stage.TheNode}, {stage.Isolated, stage.Neighbour}, {stage.Isolated, stage.Wire},
		{stage.Neighbour, stage.Isolated}, {stage.Wire, stage.Isolated},
	}
)

// exceptions are all of them; docs/SECURITY.md has the list, with the reasons.
var exceptions = []exception{
	{"ARP", stage.Mode.Own, toNode, func(s *scene, from stage.ActorID, v view) bool { return v.arp != nil && s.honest(from, v) }},
	{"neighbour discovery", stage.Mode.Own, toNode, func(s *scene, from stage.ActorID, v view) bool { return v.discovery() && s.honest(from, v) }},

	{"ARP", stage.Mode.Foreign, onBridge, func(_ *scene, _ stage.ActorID, v view) bool { return v.isARP() }},
	{"neighbour discovery", stage.Mode.Foreign, onBridge, func(_ *scene, _ stage.ActorID, v view) bool { return v.discovery() }},
	{"multicast listener queries", told, []way{{stage.Wire, stage.Isolated}}, func(_ *scene, _ stage.ActorID, v view) bool { return v.listeners(130) }},
	{"multicast listener reports", told, []way{{stage.Isolated, stage.Wire}}, func(_ *scene, _ stage.ActorID, v view) bool { return v.listeners(131, 132, 143) }},
	{
		"anything in a neighbour's name", untold,
		[]way{{stage.Isolated, stage.Neighbour}, {stage.Isolated, stage.TheNode}, {stage.Isolated, stage.Outside}, {stage.Isolated, stage.Remote}, {stage.Isolated, stage.Wire}},
		func(s *scene, _ stage.ActorID, v view) bool {
			return v.tags == 0 && v.ip != nil && s.own(stage.Neighbour, v.ip.src)
		},
	},

	{
		"the node's ICMP errors about what hosts outside send in a pod's name", others,
		[]way{{stage.Outside, stage.Isolated}, {stage.Remote, stage.Isolated}, {stage.Wire, stage.Isolated}},
		func(s *scene, from stage.ActorID, v view) bool { return v.inError && s.own(stage.Isolated, v.ip.src) },
	},
	{
		"the node's ICMP errors about what others on its bridge send in a pod's name", untold,
		[]way{{stage.Neighbour, stage.Isolated}},
		func(s *scene, _ stage.ActorID, v view) bool { return v.inError && s.own(stage.Isolated, v.ip.src) },
	},
	{
		"the node's ICMP errors about hop-by-hop headers", stage.Mode.Routed, nil,
		func(_ *scene, from stage.ActorID, v view) bool { return pod(from) && v.inError && v.ip.hopByHop },
	},
	{
		"the node's ICMP errors about neighbour discovery to nowhere", others, nil,
		func(_ *scene, from stage.ActorID, v view) bool { return pod(from) && v.inError && v.discovery() },
	},
	{
		"what is for others on its bridge", untold,
		[]way{{stage.Outside, stage.Isolated}, {stage.Remote, stage.Isolated}, {stage.Wire, stage.Isolated}, {stage.Neighbour, stage.Isolated}},
		func(s *scene, _ stage.ActorID, v view) bool { return v.ip != nil && !s.own(stage.Isolated, v.ip.dst) },
	},
	// The stage's node follows them, by net.ipv4.conf.all.accept_source_route; podfence's
	// own bridge does not.
	{
		"IPv4 source routes", every, nil,
		func(s *scene, from stage.ActorID, v view) bool {
			return v.ip != nil && v.ip.sourceRoute && !(pod(from) && s.Mode.Own())
		},
	},

	{"ARP", stage.Mode.Routed, toNode, func(_ *scene, _ stage.ActorID, v view) bool { return v.isARP() }},
	{"neighbour discovery", stage.Mode.Routed, toNode, func(_ *scene, _ stage.ActorID, v view) bool { return v.discovery() }},
	{
		"router solicitations", others, toNode,
		func(_ *scene, _ stage.ActorID, v view) bool {
			return v.ip.message6(133) && !v.ip.extended && v.ip.hop == 255 && v.ip.dst == allRouters
		},
	},
	{"multicast listener discovery", others, toNode, func(_ *scene, _ stage.ActorID, v view) bool { return v.listeners(130, 131, 132, 143) }},
}

func every(stage.Mode) bool    { return true }
func others(m stage.Mode) bool { return !m.Own() }

// told are bridges of which the plugin has told which ports are the pods'.
func told(m stage.Mode) bool   { return m.Foreign() && m.CNI == "chained" }
func untold(m stage.Mode) bool { return m.Foreign() && m.CNI == "none" }

// closed says whether somebody is an isolated pod.
func closed(id stage.ActorID) bool { return id == stage.Isolated || id == stage.Heir }

func pod(id stage.ActorID) bool { return closed(id) || id == stage.Neighbour }

// judge says which promise is broken if a frame has come to somebody, "" if none, and by which
// exception it may come.
func (s *scene) judge(from, at stage.ActorID, v view) (broken, by string) {
	if from == at {
		return "", ""
	}
	// What goes round a bridge, to the reserved groups, the stack has without such tags.
	if at == stage.TheNode && !v.vlan && !s.Mode.Own() {
		v.tags = 0
	}
	for _, p := range promises {
		if !p.in(s.Mode) || !p.broken(s, from, at, v) {
			continue
		}
		if by = s.excused(from, at, v); by != "" {
			return "", by
		}
		return p.what, ""
	}
	return "", ""
}

func (s *scene) excused(from, at stage.ActorID, v view) string {
	for _, e := range exceptions {
		if e.in(s.Mode) && (e.ways == nil || slices.Contains(e.ways, way{from, at})) && e.is(s, from, v) {
			return e.what
		}
	}
	return ""
}

// own says whether an address is the pod's.
func (s *scene) own(id stage.ActorID, a netip.Addr) bool {
	return a.IsValid() && s.Actors[id].Addr[a.Is6()] == a
}

// honest says whether a frame from a pod has nobody else's addresses, and is for the gateway.
func (s *scene) honest(from stage.ActorID, v view) bool {
	a := s.Actors[from]
	if v.tags > 0 || !bytes.Equal(v.by, a.MAC) {
		return false
	}
	gateway := bytes.Equal(v.to, a.Device.Attrs().HardwareAddr)
	switch {
	case v.arp != nil:
		asked := gateway || bytes.Equal(v.to, broadcastMAC) && v.arp.target == s.Actors[stage.TheNode].Addr[false]
		return asked && bytes.Equal(v.arp.mac, a.MAC) && s.own(from, v.arp.sender)
	case v.ip == nil:
		return false
	case v.ip.message6(135) && !gateway:
		asks := solicited(s.Actors[stage.TheNode].Addr[true])
		asked := bytes.Equal(v.to, broadcastMAC) || bytes.Equal(v.to, groupMAC(asks))
		return asked && s.own(from, v.ip.src) && v.ip.dst == asks
	}
	return gateway && s.own(from, v.ip.src)
}

// nodes are the nodes' addresses.
func (s *scene) nodes() []netip.Addr {
	all := slices.Clone(s.Node.IPs)
	for _, a := range s.Actors[stage.TheNode].Addr {
		all = append(all, a)
	}
	return append(all, s.Actors[stage.Remote].Host.IPs...)
}

var ranges = map[int][]netip.Prefix{
	1: {netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
	2: {netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("fd00:10:244:2::/64")},
}

// inRanges says whether an address is in the pod ranges of one of the nodes.
func inRanges(a netip.Addr, nodes ...int) bool {
	for _, n := range nodes {
		for _, p := range ranges[n] {
			if p.Contains(a) {
				return true
			}
		}
	}
	return false
}

// untyped says whether the frame is neither IP nor ARP for those who receive it.
func (v view) untyped() bool {
	return v.vlan || !slices.Contains([]uint16{0x0800, 0x0806, 0x86dd}, v.kind)
}

// isARP takes whatever is of the type: that it is ill-formed makes it no worse.
func (v view) isARP() bool { return v.tags == 0 && v.kind == 0x0806 }

// discovery says whether this is neighbour discovery as RFC 4861 has it. In fragments, it is
// what they are together.
func (v view) discovery() bool {
	p := v.ip
	if v.tags > 0 || !p.message6(135, 136) || p.extended || p.fragment || p.hop != 255 || p.src.IsMulticast() || p.dst.IsUnspecified() {
		return false
	}
	if p.message6(135) {
		return !p.dst.IsMulticast() || solicitedNode.Contains(p.dst)
	}
	return !p.dst.IsMulticast() || p.dst == allNodes
}

// listeners says whether this is multicast listener discovery as RFC 3810 has it.
func (v view) listeners(kinds ...byte) bool {
	p := v.ip
	if v.tags > 0 || !p.message6(kinds...) || p.extended && !p.listening || p.fragment {
		return false
	}
	return p.hop == 1 && p.dst.IsMulticast() && (p.src.IsUnspecified() || p.src.IsLinkLocalUnicast())
}
