package ruleset

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Where another plugin connects the pods, they have link-local addresses, and can send and
// receive multicast, and no address in a policy means these. So for an isolated pod, all that it
// sends from and receives at other addresses than its own is closed, by its link. For links that
// packets are routed over this is in the table of family inet, and for ports of a bridge, which
// that table does not see, in the table of family bridge.

// Links are the node's ends of the pods' links that another plugin has made, by name.
type Links struct {
	// All are the pods' links.
	All []string
	// Closed are, per policy.Direction, the links of pods that are isolated for the direction,
	// and those of which nobody can tell that the pod is not.
	Closed [2][]string
	// ClosedAddrs are, per policy.Direction, the addresses of pods that are isolated for the
	// direction, or not known.
	ClosedAddrs [2][]netip.Addr
	// Addrs are the addresses of the pods whose own link is known.
	Addrs []LinkAddr
	// Somewhere are ports of bridges behind which there are pods, where nobody can tell which pod
	// is at which port. SomewhereAddrs are these pods' addresses.
	Somewhere      []string
	SomewhereAddrs []netip.Addr
}

// LinkAddr is an address of a pod, with the pod's link.
type LinkAddr struct {
	Link string
	Addr netip.Addr
}

// The names of the sets of links, and of the chains and maps that use them.
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

// Frames is the table of family bridge where another plugin connects the pods.
type Frames struct{ nft.Table }

// BuildLinks returns the table of family bridge that closes the ports of isolated pods on
// other plugins' bridges to all but IP from and to their own addresses, ARP, and
// neighbour discovery. It also keeps every pod from sending tagged or otherwise wrapped
// frames, which the table of family inet would not see, and from playing the router.
func BuildLinks(links Links, fragments FragmentMemory) *Frames {
	t := &Frames{nft.NewTable(nft.Bridge)}
	t.AddSets(slices.Concat(linkSets(), discoverySets(), linkFrameSets(), taggedSets(), groupSets(), loopbackSets(), []*nft.Set{errorTypesSet()})...)
	t.AddChains(slices.Concat(linkChains(), fragmentChains(fragments), []*nft.Chain{
		discoveryChain(Options{}), listenersChain(), groupsChain(), othersNamesChain(nft.Bridge), outputChain(), taggedChain(),
	})...)
	t.UpdateLinks(links)
	return t
}

// UpdateLinks makes these the links in the table. It returns the plan that does the same in a
// kernel which holds the table as it was.
func (t *Frames) UpdateLinks(links Links) nft.Plan { return updateLinks(&t.Table, links) }

// UpdateLinks is the same for the table of family inet, where another plugin connects the
// pods (Options.Links).
func (t *Table) UpdateLinks(links Links) nft.Plan { return updateLinks(&t.Table, links) }

func updateLinks(t *nft.Table, links Links) nft.Plan {
	var c changes
	want := linkElements(links)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if set := t.Sets[name]; set != nil {
			c.content(set, want[name])
		}
	}
	return c.plan(t.Family)
}

// linkElements are the elements of the sets that depend on the links.
func linkElements(links Links) map[string]map[nft.Element]struct{} {
	want := map[string]map[nft.Element]struct{}{
		linkAddrsSet(4): {}, linkAddrsSet(6): {}, somewhereSet(4): {}, somewhereSet(6): {},
	}
	for name, names := range map[string][]string{
		setPodLinks: links.All, setIngressLinks: links.Closed[policy.Ingress], setEgressLinks: links.Closed[policy.Egress],
		setSomewhereLinks: links.Somewhere,
	} {
		want[name] = map[nft.Element]struct{}{}
		for _, link := range names {
			if e, ok := nft.LinkElement(nft.Element{}, link); ok {
				want[name][e] = struct{}{}
			}
		}
	}
	podAddrElements(want, links.SomewhereAddrs)
	for _, of := range links.Addrs {
		podAddrElements(want, []netip.Addr{of.Addr})
		if e, ok := nft.LinkElement(nft.AddrElement(of.Addr), of.Link); ok {
			want[linkAddrsSet(familyOf(of.Addr))][e] = struct{}{}
		}
	}
	for _, addr := range links.SomewhereAddrs {
		want[somewhereSet(familyOf(addr))][nft.AddrElement(addr)] = struct{}{}
	}
	closedAddrElements(want, links.ClosedAddrs)
	return want
}

// linkAddrsSet holds links with their pods' addresses, somewhereSet the addresses of pods
// whose link nobody can tell.
func linkAddrsSet(f family) string { return fmt.Sprintf("link-addresses-%d", f) }
func somewhereSet(f family) string { return fmt.Sprintf("somewhere-%d", f) }

func (f family) linkAddr() nft.SetType { return nft.Of(nft.IfName, f.datatype()) }

// linkSets are the sets of links that both tables have.
func linkSets() []*nft.Set {
	set := func(name, comment string) *nft.Set {
		return &nft.Set{Name: name, Type: nft.Of(nft.IfName), Elements: map[nft.Element]struct{}{}, Comment: comment}
	}
	var sets []*nft.Set
	for _, f := range families {
		sets = append(sets, &nft.Set{
			Name: linkAddrsSet(f), Type: f.linkAddr(), Elements: map[nft.Element]struct{}{}, Comment: "this node's pods: link, and its own addresses",
		})
	}
	return append(append(sets, fragmentSets()...),
		set(setPodLinks, "this node's pods' links"),
		set(setEgressLinks, "links of pods that are isolated for egress, or not known"),
		set(setIngressLinks, "links of pods that are isolated for ingress, or not known"),
		&nft.Set{
			Name: setRouterMessages6, Type: nft.Of(nft.ICMPv6Type), Elements: messageTypes([]uint8{listenerQuery, routerAdvertisement, redirect}),
			Comment: "not a pod's to send",
		},
	)
}

// linkFrameSets are the other sets by which the table of family bridge knows frames.
func linkFrameSets() []*nft.Set {
	frames := func(name, comment, ipv4, ipv6 string) *nft.Set {
		return &nft.Set{Name: name, Type: nft.Of(nft.EtherType), Comment: comment, Verdicts: map[nft.Element]nft.Verdict{
			{First: nft.TypeIPv4}: {Action: nft.Jump, Chain: ipv4},
			{First: nft.TypeARP}:  {Action: nft.Accept},
			{First: nft.TypeIPv6}: {Action: nft.Jump, Chain: ipv6},
		}}
	}
	var sets []*nft.Set
	for _, f := range families {
		sets = append(sets, &nft.Set{
			Name: somewhereSet(f), Type: f.addr(), Elements: map[nft.Element]struct{}{}, Comment: "pods behind one of the ports somewhere-links",
		})
	}
	return append(sets,
		&nft.Set{Name: setSomewhereLinks, Type: nft.Of(nft.IfName), Elements: map[nft.Element]struct{}{}, Comment: "bridges' ports, of which nobody can tell whose"},
		&nft.Set{Name: setFrameTypes, Type: nft.Of(nft.EtherType), Elements: map[nft.Element]struct{}{{First: nft.TypeIPv4}: {}, {First: nft.TypeARP}: {}, {First: nft.TypeIPv6}: {}}, Comment: "what a pod may send"},
		frames(mapSent, "what an isolated pod may send", chainSent4, chainSent6),
		frames(mapReceived, "what an isolated pod may get", chainReceived4, chainReceived6),
		&nft.Set{Name: setNeighbours, Type: nft.Of(nft.ICMPv6Type), Elements: messageTypes([]uint8{135, 136}), Comment: "neighbour discovery"},
		&nft.Set{Name: setReports, Type: nft.Of(nft.ICMPv6Type), Elements: messageTypes([]uint8{131, 132, 143}), Comment: "listeners' reports, for routers"},
	)
}

// The ICMPv6 types that are a router's.
const (
	listenerQuery       = 130
	routerAdvertisement = 134
	redirect            = 137
)

// linkChains judge frames by the port that they came in by, before connection tracking
// and br_netfilter, and by the port that they go out by. All that has the pod's own address
// goes on to the table of family inet. A router's listener query may come from a port that is no
// pod's: a bridge that looks into multicast learns from the answers where it has to ask for
// neighbours.
func linkChains() []*nft.Chain {
	drop := func(comment string, matches ...nft.Match) nft.Rule {
		return nft.Rule{Matches: matches, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence(comment)}
	}
	from, to := nft.Lookup{Fields: []nft.Field{nft.InPort}, Set: setEgressLinks}, nft.Lookup{Fields: []nft.Field{nft.OutPort}, Set: setIngressLinks}
	of := func(field nft.Field, set string) nft.Match { return nft.Lookup{Fields: []nft.Field{field}, Set: set} }
	// own accepts what has one of the pod's own addresses.
	own := func(link, addr nft.Field, f family) []nft.Rule {
		return []nft.Rule{
			{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{link, addr}, Set: linkAddrsSet(f)}}, Verdict: nft.Verdict{Action: nft.Accept}},
			{Matches: []nft.Match{of(link, setSomewhereLinks), of(addr, somewhereSet(f))}, Verdict: nft.Verdict{Action: nft.Accept}},
		}
	}
	sent, received := "not from the pod's own address", "not to the pod's own address"
	// No group sends anything (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7). What came from
	// one would be taken for the answer to what the pod has sent to the group.
	toAll := func(groups nft.Match) []nft.Rule {
		return []nft.Rule{drop(received, nft.Multicast), drop(received, nft.Broadcast), drop("from a group", groups)}
	}
	return []*nft.Chain{
		{Name: chainLinksPrerouting, Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.DstNAT, Priority: -10}, Rules: slices.Concat(toGroups(), podLinkRules(), []nft.Rule{
			routersOnly,
			drop("neither IP nor ARP", nft.Lookup{Fields: []nft.Field{nft.InPort}, Set: setPodLinks}, wrapped),
			{Matches: []nft.Match{from}, Verdict: nft.Verdict{Action: nft.Dispatch, Field: nft.FrameType, Map: mapSent}},
			drop("neither IP nor ARP", from),
		}, taggedAtPrerouting())},
		{Name: chainLinksForward, Hook: &nft.Hook{Point: nft.Forward, Priority: -10}, Rules: append(taggedAtForward(), []nft.Rule{
			drop("for the node alone", routerSolicitation, from),
			drop("for routers", of(nft.ICMPv6MessageType, setReports), nft.Lookup{Fields: []nft.Field{nft.OutPort}, Set: setPodLinks}, from),
			{Matches: []nft.Match{to}, Verdict: nft.Verdict{Action: nft.Dispatch, Field: nft.FrameType, Map: mapReceived}},
			drop("neither IP nor ARP", to),
		}...)},
		{Name: chainSent4, Rules: append(own(nft.InPort, nft.SrcAddr4, 4), drop(sent))},
		{Name: chainSent6, Rules: slices.Concat([]nft.Rule{
			askNode, discovery,
			drop("not as neighbour discovery is", of(nft.ICMPv6MessageType, setNeighbours)),
		}, own(nft.InPort, nft.SrcAddr6, 6), []nft.Rule{drop(sent)})},
		{Name: chainReceived4, Rules: slices.Concat(toAll(of(nft.SrcAddr4, setGroups4)), own(nft.OutPort, nft.DstAddr4, 4), []nft.Rule{drop(received)})},
		{Name: chainReceived6, Rules: slices.Concat([]nft.Rule{
			drop("for routers", of(nft.ICMPv6MessageType, setReports)),
			discovery,
		}, toAll(of(nft.SrcAddr6, setGroups6)), own(nft.OutPort, nft.DstAddr6, 6), []nft.Rule{drop(received)})},
	}
}

// podLinksChain is for links that packets are routed over: before connection tracking puts
// fragments together (NF_IP_PRI_CONNTRACK_DEFRAG, raw - 100), and before the node answers a
// packet by an ICMP error, which it does before any hook of what it forwards.
func podLinksChain() *nft.Chain {
	return &nft.Chain{Name: chainPodLinksPrerouting, Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.Raw, Priority: -150}, Rules: podLinkRules()}
}

// podLinkRules are for what any pod sends, isolated or not. Packets from a pod's own address,
// which are nearly all, meet one look-up.
func podLinkRules() []nft.Rule {
	ofPodLink := nft.Lookup{Fields: []nft.Field{nft.InPort}, Set: setPodLinks}
	rules := []nft.Rule{ofFragments(4, ofPodLink), ofFragments(6, ofPodLink)}
	for _, f := range families {
		rules = append(rules, nft.Rule{
			Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.InPort, f.src()}, Set: linkAddrsSet(f), Not: true}, ofPodLink},
			Verdict: nft.Verdict{Action: nft.Jump, Chain: chainOthersNames},
		})
	}
	return rules
}

const chainOthersNames = "others-names"

// othersNamesChain is for what a pod sends from addresses that are not its own. An open pod may
// have reasons to do that. But in the name of another pod of this node it could send what that
// pod's policies let through, and make the node report errors to that pod which quote whatever
// it likes. It must not send ICMP errors from such addresses either, nor anything in which an
// error may be, because errorsSentChain judges only errors from pods' addresses. The same holds
// for what goes to a loopback address: loopbackRules drop that only if it comes from a pod's
// address.
func othersNamesChain(family nft.Family) *nft.Chain {
	chain := &nft.Chain{Name: chainOthersNames}
	for _, f := range families {
		chain.Rules = append(chain.Rules, dropped("a loopback address, but not on the loopback device", nft.Lookup{Fields: []nft.Field{f.dst()}, Set: f.loopback()}))
	}
	if family == nft.Bridge {
		for _, f := range families {
			chain.Rules = append(chain.Rules, nft.Rule{
				Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.InPort}, Set: setSomewhereLinks}, nft.Lookup{Fields: []nft.Field{f.src()}, Set: somewhereSet(f)}},
				Verdict: nft.Verdict{Action: nft.Return},
			})
		}
	}
	for _, f := range families {
		chain.Rules = append(chain.Rules, dropped("in another pod's name", nft.Lookup{Fields: []nft.Field{f.src()}, Set: podAddrsSet(f)}))
	}
	const notOwn = "an ICMP error, but not from the pod's own address"
	chain.Rules = append(chain.Rules,
		dropped(notOwn, nft.Lookup{Fields: []nft.Field{nft.ICMPMessageType}, Set: setErrors}), dropped(notOwn, nft.ICMPv6Error{}),
		dropped("an authentication header, but not from the pod's own address", nft.Authenticated{}),
	)
	return chain
}

// routersOnly keeps pods from playing the router.
var routersOnly = nft.Rule{
	Matches: []nft.Match{
		nft.Lookup{Fields: []nft.Field{nft.ICMPv6MessageType}, Set: setRouterMessages6}, nft.Lookup{Fields: []nft.Field{nft.InPort}, Set: setPodLinks},
	},
	Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("not a pod's to send"),
}

// fromLink and toLink lead what comes in by an isolated pod's link, or goes out by it, to chains
// where only the pod's own addresses pass. They do not look at the flow's state: a flow of other
// addresses, or in another's name, has no address of the pod by which it could be revoked.
var (
	fromLink = nft.Rule{
		Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.InPort}, Set: setEgressLinks}}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainFromLink},
	}
	toLink = nft.Rule{
		Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.OutPort}, Set: setIngressLinks}}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainToLink},
	}
)

// fromLinksChain judges a packet before the node could answer it by an ICMP error. The node
// sends such an error, with the packet in it, to the packet's source before the hook forward.
// At the priority raw, fragments have been put together.
func fromLinksChain() *nft.Chain {
	return &nft.Chain{Name: chainFromLinks, Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.Raw}, Rules: []nft.Rule{fromLink}}
}

// linkAddrsChains drop what does not have the pod's own address, except discovery.
func linkAddrsChains() []*nft.Chain {
	from := &nft.Chain{Name: chainFromLink, Rules: []nft.Rule{askNode, discovery}}
	to := &nft.Chain{Name: chainToLink}
	for _, f := range families {
		from.Rules = append(from.Rules, notOwn(nft.InPort, f.src(), f, "not from the pod's own address"))
		to.Rules = append(to.Rules, notOwn(nft.OutPort, f.dst(), f, "not to the pod's own address"))
	}
	return []*nft.Chain{from, to}
}

func notOwn(link, addr nft.Field, f family, comment string) nft.Rule {
	return nft.Rule{
		Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{link, addr}, Set: linkAddrsSet(f), Not: true}},
		Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence(comment),
	}
}
