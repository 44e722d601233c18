package ruleset

import "slices"

// Where another plugin connects the pods, they have link-local addresses and can send and
// get multicast, which no policy's address means. So what an isolated pod sends and gets
// besides its own addresses is closed by its link: in the table of family inet for links
// that packets are routed over, in the one of family bridge for ports of a bridge, which
// that of family inet does not see.

// Links are the node's ends of the pods' links, by name, that another plugin has made.
type Links struct {
	// All are the pods' links.
	All []string
	// Closed are those of pods that are isolated for a direction, per policy.Direction,
	// and those of which nobody can tell that they are not.
	Closed [2][]string
}

// The sets of links, and what keeps to them in the table of family bridge.
const (
	setPodLinks        = "pod-links"
	setEgressLinks     = "egress-links"
	setIngressLinks    = "ingress-links"
	setRouterMessages6 = "discovery-router-messages"
	setReports         = "discovery-reports"
	setNeighbours      = "discovery-neighbours"
	setNotOwn4         = "not-own-4"
	setNotOwn6         = "not-own-6"
	mapSent            = "frames-sent"
	mapReceived        = "frames-received"

	chainLinksPrerouting = "links-prerouting"
	chainLinksForward    = "links-forward"
	chainSent4           = "sent-ipv4"
	chainSent6           = "sent-ipv6"
	chainReceived4       = "received-ipv4"
	chainReceived6       = "received-ipv6"
	chainLinkLocal       = "link-local"
)

// BuildLinks returns the table of family bridge that closes the ports of isolated pods on
// other plugins' bridges to all but IP from and to their own addresses, ARP, and
// neighbour discovery.
func BuildLinks(links Links) *Table {
	t := newTable(Bridge, Options{})
	for _, set := range slices.Concat(linkSets(), discoverySets(), linkFrameSets()) {
		t.Sets[set.Name] = set
	}
	for _, chain := range append(linkChains(), discoveryChain(Options{}), listenersChain()) {
		t.Chains[chain.Name] = chain
	}
	t.UpdateLinks(links)
	return t
}

// UpdateLinks makes these the links in the table, of either family, and returns what that
// takes in a kernel that holds the table as it was.
func (t *Table) UpdateLinks(links Links) Plan {
	u := update{Table: t}
	for name, names := range map[string][]string{setPodLinks: links.All, setIngressLinks: links.Closed[0], setEgressLinks: links.Closed[1]} {
		set := t.Sets[name]
		if set == nil {
			continue
		}
		want := map[Element]struct{}{}
		for _, link := range names {
			if len(link) < len(Element{}.Port) { // a longer name is no link's (IFNAMSIZ)
				var e Element
				copy(e.Port[:], link)
				want[e] = struct{}{}
			}
		}
		u.content(set, want)
	}
	slices.SortFunc(u.newSets, func(a, b Op) int { return compareString(setOf(a), setOf(b)) })
	return u.plan()
}

// setOf is the set that elements are added to, or deleted from.
func setOf(op Op) string {
	switch op := op.(type) {
	case AddElements:
		return op.Set
	case DeleteElements:
		return op.Set
	}
	return ""
}

// linkSets are the links.
func linkSets() []*Set {
	set := func(name, comment string) *Set {
		return &Set{Name: name, Type: IfName, Elements: map[Element]struct{}{}, Comment: comment}
	}
	return []*Set{
		set(setPodLinks, "this node's pods' links"),
		set(setEgressLinks, "links of pods that are isolated for egress, or not known"),
		set(setIngressLinks, "links of pods that are isolated for ingress, or not known"),
		{
			Name: setRouterMessages6, Type: ICMPv6Type, Elements: messageTypes([]uint8{listenerQuery, routerAdvertisement, redirect}),
			Comment: "not a pod's to send",
		},
	}
}

// linkFrameSets are what else the table of family bridge knows frames by.
func linkFrameSets() []*Set {
	frames := func(name, comment, ipv4, ipv6 string) *Set {
		return &Set{Name: name, Type: EtherType, Comment: comment, Verdicts: map[Element]Verdict{
			{First: TypeIPv4}: {Action: Jump, Chain: ipv4},
			{First: TypeARP}:  {Action: Accept},
			{First: TypeIPv6}: {Action: Jump, Chain: ipv6},
		}}
	}
	return []*Set{
		frames(mapSent, "what an isolated pod may send", chainSent4, chainSent6),
		frames(mapReceived, "what an isolated pod may get", chainReceived4, chainReceived6),
		{Name: setNeighbours, Type: ICMPv6Type, Elements: messageTypes([]uint8{135, 136}), Comment: "neighbour discovery"},
		{Name: setReports, Type: ICMPv6Type, Elements: messageTypes([]uint8{131, 132, 143}), Comment: "listeners' reports, for routers"},
		ranges(setNotOwn4, Range4, "no pod's own: this network, link-local, multicast, broadcast", "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
		ranges(setNotOwn6, Range6, "no pod's own: unspecified, link-local, multicast", "::/128", "fe80::/10", "ff00::/8"),
	}
}

// The ICMPv6 types that are a router's.
const (
	listenerQuery       = 130
	routerAdvertisement = 134
	redirect            = 137
)

// linkChains judge frames by the port that they came in by, before connection tracking
// and br_netfilter, and by the one that they go out by. All that is of the pod's own
// addresses goes on to the table of family inet. A router's listener query may come from
// what is no pod: a bridge that looks into multicast learns by the answer where neighbours
// are to be asked for.
func linkChains() []*Chain {
	drop := func(comment string, matches ...Match) Rule {
		return Rule{Matches: matches, Counter: true, Verdict: Verdict{Action: Drop}, Comment: comment}
	}
	jump := func(chain string, matches ...Match) Rule {
		return Rule{Matches: matches, Verdict: Verdict{Action: Jump, Chain: chain}}
	}
	from, to := Lookup{Fields: []Field{InPort}, Set: setEgressLinks}, Lookup{Fields: []Field{OutPort}, Set: setIngressLinks}
	of := func(field Field, set string) Match { return Lookup{Fields: []Field{field}, Set: set} }
	return []*Chain{
		{Name: chainLinksPrerouting, Hook: &Hook{Point: Prerouting, Base: DstNAT, Priority: -10}, Rules: []Rule{
			routersOnly,
			{Matches: []Match{from}, Verdict: Verdict{Action: Dispatch, Field: FrameType, Map: mapSent}},
			drop("neither IP nor ARP", from),
		}},
		{Name: chainLinksForward, Hook: &Hook{Point: Forward, Priority: -10}, Rules: []Rule{
			drop("for the node alone", routerSolicitation, from),
			drop("for routers", of(ICMPv6MessageType, setReports), Lookup{Fields: []Field{OutPort}, Set: setPodLinks}, from),
			{Matches: []Match{to}, Verdict: Verdict{Action: Dispatch, Field: FrameType, Map: mapReceived}},
			drop("neither IP nor ARP", to),
		}},
		{Name: chainSent4, Rules: []Rule{
			drop("not from the pod's own address", of(SrcAddr4, setNotOwn4)),
			{Verdict: Verdict{Action: Accept}},
		}},
		{Name: chainSent6, Rules: []Rule{
			askNode, jump(chainDiscovery, ICMPv6{}),
			drop("not as neighbour discovery is", of(ICMPv6MessageType, setNeighbours)),
			drop("not from the pod's own address", of(SrcAddr6, setNotOwn6)),
			{Verdict: Verdict{Action: Accept}},
		}},
		{Name: chainReceived4, Rules: []Rule{
			drop("not to the pod's own address", of(DstAddr4, setNotOwn4)),
			drop("not to the pod's own address", Multicast), drop("not to the pod's own address", Broadcast),
			{Verdict: Verdict{Action: Accept}},
		}},
		{Name: chainReceived6, Rules: []Rule{
			drop("for routers", of(ICMPv6MessageType, setReports)),
			jump(chainDiscovery, ICMPv6{}),
			drop("not to the pod's own address", of(DstAddr6, setNotOwn6)),
			drop("not to the pod's own address", Multicast), drop("not to the pod's own address", Broadcast),
			{Verdict: Verdict{Action: Accept}},
		}},
	}
}

// routersOnly keeps pods from playing the router.
var routersOnly = Rule{
	Matches: []Match{
		Lookup{Fields: []Field{ICMPv6MessageType}, Set: setRouterMessages6}, Lookup{Fields: []Field{InPort}, Set: setPodLinks},
	},
	Counter: true, Verdict: Verdict{Action: Drop}, Comment: "not a pod's to send",
}

// linkLocalChain is for what comes to the node by an isolated pod's link from a
// link-local address. It asks for no state: such a flow has no pod's address to be
// revoked by.
func linkLocalChain() *Chain {
	return &Chain{Name: chainLinkLocal, Rules: []Rule{
		askNode,
		{Matches: []Match{ICMPv6{}}, Verdict: Verdict{Action: Jump, Chain: chainDiscovery}},
		{Counter: true, Verdict: Verdict{Action: Drop}, Comment: "not from the pod's own address"},
	}}
}

// linkLocal leads there.
var linkLocal = Rule{
	Matches: []Match{Lookup{Fields: []Field{SrcAddr6}, Set: setLinkLocal6}, Lookup{Fields: []Field{InPort}, Set: setEgressLinks}},
	Verdict: Verdict{Action: Jump, Chain: chainLinkLocal},
}

// closedLink drops what comes by an isolated pod's link, or goes there, and is of no
// address that is known.
func closedLink(field Field, set, comment string) Rule {
	return Rule{Matches: []Match{Lookup{Fields: []Field{field}, Set: set}}, Counter: true, Verdict: Verdict{Action: Drop}, Comment: comment}
}
