package ruleset

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// The names table has what pods ask DNS, and are told, handed over to the agent, which learns by it which addresses the
// domain names of policies have: queries as copies, and replies themselves, which wait until what they say is in the
// kernel. No rule of it drops or rejects anything, and what it accepts other tables have judged.
//
// Its chains are where a packet has the addresses that the pod uses, whoever does NAT in between: queries before destination
// NAT (kube-proxy's), and replies behind the hook that takes that back (nf_nat at srcnat, in postrouting; IPVS does it
// in forward). So no rule, nor whoever reads the packets, asks connection tracking for a flow's addresses; and packets of
// which it knows no flow are seen as well: node-local caches of DNS exempt theirs (NOTRACK). In postrouting all tables
// have judged a reply. Both hooks are behind what makes one packet of fragments again, and before what makes fragments.
//
// Whoever reads replies may be frozen, or hang. So they are held only while the agent's heartbeat comes: packets that it sends
// to itself, each of which renews the only element of a set, for HeartbeatTimeout.

// NamesOptions say where the names table hands packets over.
type NamesOptions struct {
	// Queue is the nfqueue of replies, and QueryGroup the nflog group of queries.
	Queue, QueryGroup uint16
	// Heartbeat is the IPv4 address and UDP port that the agent's heartbeat is sent to.
	Heartbeat netip.AddrPort
}

// HeartbeatTimeout is for how many seconds after a heartbeat replies are held.
const HeartbeatTimeout = 1

// The names in the names table.
const (
	chainHeartbeat = "heartbeat-output"
	chainQueries   = "queries-prerouting"
	chainReplies   = "replies-postrouting"
	chainHold      = "hold"

	setHeartbeat = "heartbeat"
	setAlive     = "alive"

	// queryPrefix is the prefix of the Log of queries.
	queryPrefix = "query"
)

// askersSet holds the pods that a policy with domain names is about.
func askersSet(f family) string { return fmt.Sprintf("askers-%d", f) }

// resolversSet holds where they ask: address, protocol and port as they write them.
func resolversSet(f family) string { return fmt.Sprintf("resolvers-%d", f) }

// Names is the names table, of family inet.
type Names struct{ nft.Table }

// BuildNames returns the names table for these pods, and for these resolvers, over UDP and TCP.
func BuildNames(askers []netip.Addr, resolvers []netip.AddrPort, o NamesOptions) *Names {
	n := &Names{nft.NewTable(nft.Inet)}
	accept := nft.Verdict{Action: nft.Accept}
	heartbeat := resolverElement(policy.UDP, o.Heartbeat)
	n.AddSets(
		&nft.Set{Name: setHeartbeat, Type: family(4).endpoint(), Elements: map[nft.Element]struct{}{heartbeat: {}}, Comment: "where the agent sends its heartbeat"},
		&nft.Set{Name: setAlive, Type: nft.Of(nft.Zero.Datatype()), Dynamic: true, Timeout: HeartbeatTimeout, Comment: "while it has an element, the agent is alive"},
	)
	alive := []nft.Field{nft.Zero}
	queries := &nft.Chain{Name: chainQueries, Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.DstNAT, Priority: -10}}
	replies := &nft.Chain{Name: chainReplies, Hook: &nft.Hook{Point: nft.Postrouting, Base: nft.SrcNAT, Priority: 10}}
	for _, f := range families {
		n.AddSets(
			&nft.Set{Name: askersSet(f), Type: f.addr(), Elements: map[nft.Element]struct{}{}, Comment: "pods that a policy with domain names is about"},
			&nft.Set{Name: resolversSet(f), Type: f.endpoint(), Elements: map[nft.Element]struct{}{}, Comment: "whom they ask"},
		)
		queries.Rules = append(queries.Rules, nft.Rule{
			Matches: []nft.Match{
				nft.Lookup{Fields: []nft.Field{f.src()}, Set: askersSet(f)},
				nft.Lookup{Fields: []nft.Field{f.dst(), nft.L4Protocol, nft.DstPort}, Set: resolversSet(f)},
			},
			Log: nft.Log{Group: o.QueryGroup, Prefix: queryPrefix, Whole: true}, Verdict: accept,
		})
		replies.Rules = append(replies.Rules, nft.Rule{
			Matches: []nft.Match{
				nft.Lookup{Fields: []nft.Field{f.dst()}, Set: askersSet(f)},
				nft.Lookup{Fields: []nft.Field{f.src(), nft.L4Protocol, nft.SrcPort}, Set: resolversSet(f)},
			},
			Verdict: nft.Verdict{Action: nft.Jump, Chain: chainHold},
		})
	}
	n.AddChains(queries, replies, &nft.Chain{Name: chainHold, Rules: []nft.Rule{
		{Matches: []nft.Match{nft.Begun{}}, Verdict: accept, Origin: nft.Sentence("the resolver asks the pod")},
		{Matches: []nft.Match{nft.Invalid}, Verdict: accept, Origin: nft.Sentence("nothing that was asked for")},
		{Matches: []nft.Match{nft.Lookup{Fields: alive, Set: setAlive}}, Verdict: nft.Verdict{Action: nft.Queue, Number: o.Queue}},
	}}, &nft.Chain{Name: chainHeartbeat, Hook: &nft.Hook{Point: nft.Output, Base: nft.Raw}, Rules: []nft.Rule{{
		Matches: []nft.Match{
			nft.Lookup{Fields: []nft.Field{nft.DstAddr4, nft.L4Protocol, nft.DstPort}, Set: setHeartbeat},
			nft.Noted{Fields: alive, Set: setAlive, Renew: true},
		},
		Verdict: accept,
	}}})
	n.UpdateNames(askers, resolvers)
	return n
}

// UpdateNames makes the table the one for these pods and these resolvers, which must be all. It returns the plan that does the
// same in a kernel which holds the table as it was.
func (n *Names) UpdateNames(askers []netip.Addr, resolvers []netip.AddrPort) nft.Plan {
	want := map[string]map[nft.Element]struct{}{}
	for _, f := range families {
		want[askersSet(f)], want[resolversSet(f)] = map[nft.Element]struct{}{}, map[nft.Element]struct{}{}
	}
	for _, addr := range askers {
		want[askersSet(familyOf(addr))][nft.AddrElement(addr)] = struct{}{}
	}
	for _, at := range resolvers {
		for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
			want[resolversSet(familyOf(at.Addr()))][resolverElement(protocol, at)] = struct{}{}
		}
	}
	var c changes
	for _, name := range slices.Sorted(maps.Keys(want)) {
		c.content(n.Sets[name], want[name])
	}
	return c.plan(n.Family)
}

func resolverElement(protocol policy.Protocol, at netip.AddrPort) nft.Element {
	e := nft.PortElement(protocol, at.Port())
	e.Addr = nft.AddrElement(at.Addr()).Addr
	return e
}
