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
// Whoever reads replies may be killed, or frozen. So each element of the sets of resolvers has a timeout: unless the agent
// goes on to renew them (Renew), no packet is found to be a reply any more.

// NamesOptions say where the names table hands packets over.
type NamesOptions struct {
	// Queue is the nfqueue of replies, and QueryGroup the nflog group of queries.
	Queue, QueryGroup uint16
}

// ResolverTimeout is for how many seconds Renew has resolvers count.
const ResolverTimeout = 1

// The names in the names table.
const (
	chainQueries = "queries-prerouting"
	chainReplies = "replies-postrouting"
	chainHold    = "hold"

	// queryPrefix is the prefix of the Log of queries.
	queryPrefix = "query"
)

// askersSet holds the pods that a policy with domain names is about.
func askersSet(f family) string { return fmt.Sprintf("askers-%d", f) }

// resolversSet holds where they ask: address, protocol and port as they write them.
func resolversSet(f family) string { return fmt.Sprintf("resolvers-%d", f) }

// Names is the names table, of family inet.
type Names struct{ nft.Table }

// BuildNames returns the names table for these pods. It has no resolvers: see Renew.
func BuildNames(askers []netip.Addr, o NamesOptions) *Names {
	n := &Names{nft.NewTable(nft.Inet)}
	queries := &nft.Chain{Name: chainQueries, Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.DstNAT, Priority: -10}}
	replies := &nft.Chain{Name: chainReplies, Hook: &nft.Hook{Point: nft.Postrouting, Base: nft.SrcNAT, Priority: 10}}
	for _, f := range families {
		n.AddSets(&nft.Set{
			Name: askersSet(f), Type: f.addr(), Elements: map[nft.Element]struct{}{},
			Comment: "pods that a policy with domain names is about",
		}, &nft.Set{
			Name: resolversSet(f), Type: f.resolver(), Elements: map[nft.Element]struct{}{}, Timeout: ResolverTimeout,
			Comment: "whom they ask; the agent renews these while it runs",
		})
		queries.Rules = append(queries.Rules, nft.Rule{
			Matches: []nft.Match{
				nft.Lookup{Fields: []nft.Field{f.src()}, Set: askersSet(f)},
				nft.Lookup{Fields: []nft.Field{f.dst(), nft.L4Protocol, nft.DstPort}, Set: resolversSet(f)},
			},
			Log: nft.Log{Group: o.QueryGroup, Prefix: queryPrefix, Whole: true}, Verdict: nft.Verdict{Action: nft.Accept},
		})
		replies.Rules = append(replies.Rules, nft.Rule{
			Matches: []nft.Match{
				nft.Lookup{Fields: []nft.Field{f.dst()}, Set: askersSet(f)},
				nft.Lookup{Fields: []nft.Field{f.src(), nft.L4Protocol, nft.SrcPort}, Set: resolversSet(f)},
			},
			Verdict: nft.Verdict{Action: nft.Jump, Chain: chainHold},
		})
	}
	accept := nft.Verdict{Action: nft.Accept}
	n.AddChains(queries, replies, &nft.Chain{Name: chainHold, Rules: []nft.Rule{
		{Matches: []nft.Match{nft.Begun{}}, Verdict: accept, Origin: nft.Sentence("the resolver asks the pod")},
		{Matches: []nft.Match{nft.Invalid}, Verdict: accept, Origin: nft.Sentence("nothing that was asked for")},
		{Verdict: nft.Verdict{Action: nft.Queue, Number: o.Queue}},
	}})
	n.UpdateNames(askers)
	return n
}

// UpdateNames makes the table the one for these pods, which must be all. It returns the plan that does the same in a kernel
// which holds the table as it was.
func (n *Names) UpdateNames(askers []netip.Addr) nft.Plan {
	want := map[string]map[nft.Element]struct{}{}
	for _, f := range families {
		want[askersSet(f)] = map[nft.Element]struct{}{}
	}
	for _, addr := range askers {
		want[askersSet(familyOf(addr))][nft.AddrElement(addr)] = struct{}{}
	}
	var c changes
	for _, name := range slices.Sorted(maps.Keys(want)) {
		c.content(n.Sets[name], want[name])
	}
	return c.plan(n.Family)
}

// Renew is the plan by which replies of these resolvers, over UDP and TCP, are handed over for ResolverTimeout from now on,
// and queries to them. Others go out of the table by their timeout.
func (n *Names) Renew(resolvers []netip.AddrPort) nft.Plan {
	elements := map[family][]nft.Element{}
	for _, resolver := range resolvers {
		f := familyOf(resolver.Addr())
		for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
			e := nft.PortElement(protocol, resolver.Port())
			e.Addr = nft.AddrElement(resolver.Addr()).Addr
			elements[f] = append(elements[f], e)
		}
	}
	plan := nft.Plan{Family: n.Family}
	for _, f := range families {
		// The same element twice could not be deleted twice.
		if all := slices.Compact(sorted(elements[f])); len(all) > 0 {
			plan.Ops = append(plan.Ops, nft.RenewElements{Set: resolversSet(f), Type: f.resolver(), Elements: all})
		}
	}
	return plan
}

// resolver is the type of the sets of resolvers.
func (f family) resolver() nft.SetType {
	return nft.Of(f.datatype(), nft.InetProto, nft.InetService)
}
