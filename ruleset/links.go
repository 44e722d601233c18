package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
)

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
	// Addrs are the addresses of the pods whose own link is known.
	Addrs []LinkAddr
	// Somewhere are ports of bridges that pods are behind of which nobody can tell at
	// which port they are, SomewhereAddrs these pods' addresses.
	Somewhere      []string
	SomewhereAddrs []netip.Addr
}

// LinkAddr is an address of a pod, with the pod's link.
type LinkAddr struct {
	Link string
	Addr netip.Addr
}

// The sets of links, and what keeps to them in the table of family bridge.
const (
	setPodLinks        = "pod-links"
	setEgressLinks     = "egress-links"
	setIngressLinks    = "ingress-links"
	setRouterMessages6 = "discovery-router-messages"
	setReports         = "discovery-reports"
	setNeighbours      = "discovery-neighbours"
	setFrameTypes      = "frame-types"
	setSomewhereLinks  = "somewhere-links"
	mapSent            = "frames-sent"
	mapReceived        = "frames-received"

	chainLinksPrerouting = "links-prerouting"
	chainLinksForward    = "links-forward"
	chainSent4           = "sent-ipv4"
	chainSent6           = "sent-ipv6"
	chainReceived4       = "received-ipv4"
	chainReceived6       = "received-ipv6"
	chainFromLink        = "from-link"
	chainFromLinks       = "from-links-prerouting"
	chainToLink          = "to-link"
)

// BuildLinks returns the table of family bridge that closes the ports of isolated pods on
// other plugins' bridges to all but IP from and to their own addresses, ARP, and
// neighbour discovery. No pod sends tagged or otherwise wrapped frames, which the table of
// family inet would not see, or plays the router.
func BuildLinks(links Links, fragments FragmentMemory) *Table {
	t := newTable(Bridge, Options{})
	for _, set := range slices.Concat(linkSets(), discoverySets(), linkFrameSets(), groupSets(), loopbackSets(), []*Set{errorTypesSet()}) {
		t.Sets[set.Name] = set
	}
	t.addStatic(slices.Concat(linkChains(), fragmentChains(fragments), []*Chain{
		discoveryChain(Options{}), listenersChain(), groupsChain(), othersNamesChain(Bridge), outputChain(),
	}))
	t.UpdateLinks(links)
	return t
}

// UpdateLinks makes these the links in the table, of either family, and returns what that
// takes in a kernel that holds the table as it was.
func (t *Table) UpdateLinks(links Links) Plan {
	u := update{Table: t}
	want := linkElements(links)
	for _, name := range sortedBy(want, func(s string) string { return s }) {
		if set := t.Sets[name]; set != nil {
			u.content(set, want[name])
		}
	}
	return u.plan()
}

// linkElements are the elements of the sets that have to do with links.
func linkElements(links Links) map[string]map[Element]struct{} {
	want := map[string]map[Element]struct{}{
		linkAddrsSet(4): {}, linkAddrsSet(6): {}, somewhereSet(4): {}, somewhereSet(6): {},
	}
	for name, names := range map[string][]string{
		setPodLinks: links.All, setIngressLinks: links.Closed[policy.Ingress], setEgressLinks: links.Closed[policy.Egress],
		setSomewhereLinks: links.Somewhere,
	} {
		want[name] = map[Element]struct{}{}
		for _, link := range names {
			if e, ok := linkElement(Element{}, link); ok {
				want[name][e] = struct{}{}
			}
		}
	}
	podAddrElements(want, links.SomewhereAddrs)
	for _, of := range links.Addrs {
		podAddrElements(want, []netip.Addr{of.Addr})
		if e, ok := linkElement(AddrElement(of.Addr), of.Link); ok {
			want[linkAddrsSet(familyOf(of.Addr))][e] = struct{}{}
		}
	}
	for _, addr := range links.SomewhereAddrs {
		want[somewhereSet(familyOf(addr))][AddrElement(addr)] = struct{}{}
	}
	return want
}

// linkElement adds a link to an element. A name that is too long is no link's (IFNAMSIZ).
func linkElement(e Element, link string) (Element, bool) {
	copy(e.Port[:], link)
	return e, len(link) < len(e.Port)
}

// linkAddrsSet holds links with their pods' addresses, somewhereSet the addresses of pods
// whose link nobody can tell.
func linkAddrsSet(f family) string { return fmt.Sprintf("link-addresses-%d", f) }
func somewhereSet(f family) string { return fmt.Sprintf("somewhere-%d", f) }

func (f family) linkAddr() SetType {
	if f == 4 {
		return LinkAddr4
	}
	return LinkAddr6
}

// linkSets are the links.
func linkSets() []*Set {
	set := func(name, comment string) *Set {
		return &Set{Name: name, Type: IfName, Elements: map[Element]struct{}{}, Comment: comment}
	}
	var sets []*Set
	for _, f := range families {
		sets = append(sets, &Set{
			Name: linkAddrsSet(f), Type: f.linkAddr(), Elements: map[Element]struct{}{}, Comment: "this node's pods: link, and its own addresses",
		})
	}
	return append(append(sets, fragmentSets()...),
		set(setPodLinks, "this node's pods' links"),
		set(setEgressLinks, "links of pods that are isolated for egress, or not known"),
		set(setIngressLinks, "links of pods that are isolated for ingress, or not known"),
		&Set{
			Name: setRouterMessages6, Type: ICMPv6Type, Elements: messageTypes([]uint8{listenerQuery, routerAdvertisement, redirect}),
			Comment: "not a pod's to send",
		},
	)
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
	var sets []*Set
	for _, f := range families {
		sets = append(sets, &Set{
			Name: somewhereSet(f), Type: f.addr(), Elements: map[Element]struct{}{}, Comment: "pods behind one of the ports somewhere-links",
		})
	}
	return append(sets,
		&Set{Name: setSomewhereLinks, Type: IfName, Elements: map[Element]struct{}{}, Comment: "bridges' ports, of which nobody can tell whose"},
		&Set{Name: setFrameTypes, Type: EtherType, Elements: map[Element]struct{}{{First: TypeIPv4}: {}, {First: TypeARP}: {}, {First: TypeIPv6}: {}}, Comment: "what a pod may send"},
		frames(mapSent, "what an isolated pod may send", chainSent4, chainSent6),
		frames(mapReceived, "what an isolated pod may get", chainReceived4, chainReceived6),
		&Set{Name: setNeighbours, Type: ICMPv6Type, Elements: messageTypes([]uint8{135, 136}), Comment: "neighbour discovery"},
		&Set{Name: setReports, Type: ICMPv6Type, Elements: messageTypes([]uint8{131, 132, 143}), Comment: "listeners' reports, for routers"},
	)
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
	from, to := Lookup{Fields: []Field{InPort}, Set: setEgressLinks}, Lookup{Fields: []Field{OutPort}, Set: setIngressLinks}
	of := func(field Field, set string) Match { return Lookup{Fields: []Field{field}, Set: set} }
	// own accepts what is with one of the pod's own addresses.
	own := func(link, addr Field, f family) []Rule {
		return []Rule{
			{Matches: []Match{Lookup{Fields: []Field{link, addr}, Set: linkAddrsSet(f)}}, Verdict: Verdict{Action: Accept}},
			{Matches: []Match{of(link, setSomewhereLinks), of(addr, somewhereSet(f))}, Verdict: Verdict{Action: Accept}},
		}
	}
	sent, received := "not from the pod's own address", "not to the pod's own address"
	// A group sends nothing (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7): it would be
	// the answer to what the pod has sent to the group.
	toAll := func(groups Match) []Rule {
		return []Rule{drop(received, Multicast), drop(received, Broadcast), drop("from a group", groups)}
	}
	return []*Chain{
		{Name: chainLinksPrerouting, Hook: &Hook{Point: Prerouting, Base: DstNAT, Priority: -10}, Rules: slices.Concat(toGroups(), podLinkRules(), []Rule{
			routersOnly,
			drop("neither IP nor ARP", Lookup{Fields: []Field{InPort}, Set: setPodLinks}, Lookup{Fields: []Field{FrameType}, Set: setFrameTypes, Not: true}),
			{Matches: []Match{from}, Verdict: Verdict{Action: Dispatch, Field: FrameType, Map: mapSent}},
			drop("neither IP nor ARP", from),
		})},
		{Name: chainLinksForward, Hook: &Hook{Point: Forward, Priority: -10}, Rules: []Rule{
			drop("for the node alone", routerSolicitation, from),
			drop("for routers", of(ICMPv6MessageType, setReports), Lookup{Fields: []Field{OutPort}, Set: setPodLinks}, from),
			{Matches: []Match{to}, Verdict: Verdict{Action: Dispatch, Field: FrameType, Map: mapReceived}},
			drop("neither IP nor ARP", to),
		}},
		{Name: chainSent4, Rules: append(own(InPort, SrcAddr4, 4), drop(sent))},
		{Name: chainSent6, Rules: slices.Concat([]Rule{
			askNode, discovery,
			drop("not as neighbour discovery is", of(ICMPv6MessageType, setNeighbours)),
		}, own(InPort, SrcAddr6, 6), []Rule{drop(sent)})},
		{Name: chainReceived4, Rules: slices.Concat(toAll(of(SrcAddr4, setGroups4)), own(OutPort, DstAddr4, 4), []Rule{drop(received)})},
		{Name: chainReceived6, Rules: slices.Concat([]Rule{
			drop("for routers", of(ICMPv6MessageType, setReports)),
			discovery,
		}, toAll(of(SrcAddr6, setGroups6)), own(OutPort, DstAddr6, 6), []Rule{drop(received)})},
	}
}

// podLinksChain is for links that packets are routed over: before connection tracking puts
// fragments together (NF_IP_PRI_CONNTRACK_DEFRAG, raw - 100), and before the node answers a
// packet by an ICMP error, which it does before any hook of what it forwards.
func podLinksChain() *Chain {
	return &Chain{Name: chainPodLinksPrerouting, Hook: &Hook{Point: Prerouting, Base: Raw, Priority: -150}, Rules: podLinkRules()}
}

// podLinkRules are for what any pod sends, isolated or not. What is from a pod's own address,
// which is nearly all, meets one look-up.
func podLinkRules() []Rule {
	ofPodLink := Lookup{Fields: []Field{InPort}, Set: setPodLinks}
	rules := []Rule{ofFragments(4, ofPodLink), ofFragments(6, ofPodLink)}
	for _, f := range families {
		rules = append(rules, Rule{
			Matches: []Match{Lookup{Fields: []Field{InPort, f.src()}, Set: linkAddrsSet(f), Not: true}, ofPodLink},
			Verdict: Verdict{Action: Jump, Chain: chainOthersNames},
		})
	}
	return rules
}

const chainOthersNames = "others-names"

// othersNamesChain is for what a pod sends from addresses that are not its own. An open pod
// may have reasons to; but in the name of another pod of this node it would send what that
// pod's policies let through, and have the node report errors to that pod, which quote what
// it pleases. Nor does it report errors itself from where nobody can tell whose they are, or
// send what one may be in: errorsSentChain judges those from pods' addresses. What goes to a loopback address,
// loopbackRules drop if it comes from a pod's.
func othersNamesChain(family Family) *Chain {
	chain := &Chain{Name: chainOthersNames}
	for _, f := range families {
		chain.Rules = append(chain.Rules, dropped("a loopback address, but not on the loopback device", Lookup{Fields: []Field{f.dst()}, Set: f.loopback()}))
	}
	if family == Bridge {
		for _, f := range families {
			chain.Rules = append(chain.Rules, Rule{
				Matches: []Match{Lookup{Fields: []Field{InPort}, Set: setSomewhereLinks}, Lookup{Fields: []Field{f.src()}, Set: somewhereSet(f)}},
				Verdict: Verdict{Action: Return},
			})
		}
	}
	for _, f := range families {
		chain.Rules = append(chain.Rules, dropped("in another pod's name", Lookup{Fields: []Field{f.src()}, Set: podAddrsSet(f)}))
	}
	const notOwn = "an ICMP error, but not from the pod's own address"
	chain.Rules = append(chain.Rules,
		dropped(notOwn, Lookup{Fields: []Field{ICMPMessageType}, Set: setErrors}), dropped(notOwn, ICMPv6Error{}),
		dropped("an authentication header, but not from the pod's own address", Authenticated{}),
	)
	return chain
}

// routersOnly keeps pods from playing the router.
var routersOnly = Rule{
	Matches: []Match{
		Lookup{Fields: []Field{ICMPv6MessageType}, Set: setRouterMessages6}, Lookup{Fields: []Field{InPort}, Set: setPodLinks},
	},
	Counter: true, Verdict: Verdict{Action: Drop}, Comment: "not a pod's to send",
}

// fromLink and toLink lead what comes by an isolated pod's link, or goes out by it, to
// where only the pod's own addresses pass. They ask for no state: a flow of other addresses,
// or in another's name, has no pod's address to be revoked by.
var (
	fromLink = Rule{
		Matches: []Match{Lookup{Fields: []Field{InPort}, Set: setEgressLinks}}, Verdict: Verdict{Action: Jump, Chain: chainFromLink},
	}
	toLink = Rule{
		Matches: []Match{Lookup{Fields: []Field{OutPort}, Set: setIngressLinks}}, Verdict: Verdict{Action: Jump, Chain: chainToLink},
	}
)

// fromLinksChain asks before the node would answer by an ICMP error, which it sends to the
// packet's source, with the packet in it, before the hook forward. Raw comes when fragments
// are one.
func fromLinksChain() *Chain {
	return &Chain{Name: chainFromLinks, Hook: &Hook{Point: Prerouting, Base: Raw}, Rules: []Rule{fromLink}}
}

// linkAddrsChains drop what is not of the pod's own addresses, but for discovery.
func linkAddrsChains() []*Chain {
	from := &Chain{Name: chainFromLink, Rules: []Rule{askNode, discovery}}
	to := &Chain{Name: chainToLink}
	for _, f := range families {
		from.Rules = append(from.Rules, notOwn(InPort, f.src(), f, "not from the pod's own address"))
		to.Rules = append(to.Rules, notOwn(OutPort, f.dst(), f, "not to the pod's own address"))
	}
	return []*Chain{from, to}
}

func notOwn(link, addr Field, f family, comment string) Rule {
	return Rule{
		Matches: []Match{Lookup{Fields: []Field{link, addr}, Set: linkAddrsSet(f), Not: true}},
		Counter: true, Verdict: Verdict{Action: Drop}, Comment: comment,
	}
}
