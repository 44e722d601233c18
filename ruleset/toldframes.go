package ruleset

import (
	"net/netip"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/ruleset/nft"
)

// What the tables of family bridge deny is told as well, if it is an IP packet for a single host. Other frames
// are counted alone: every pod that starts sends some that are denied, such as router solicitations and what
// its link-local address needs (RFC 4861, RFC 3810), and nobody wants to hear of those. The chain's name says
// why, as these tables keep no account of policies.

// setNeverTold are the sources of IPv6 of which nothing is told.
const setNeverTold = "never-told-6"

// Tell has the table tell what it denies to an nflog group. It is for a new table, which the kernel does not
// have yet.
func (g *Guard) Tell(group uint16) { tellFrames(&g.Table, group) }

// Tell is the same for links of another plugin's.
func (t *Frames) Tell(group uint16) { tellFrames(&t.Table, group) }

func tellFrames(t *nft.Table, group uint16) {
	reasons := map[flows.Reason]bool{}
	for _, chain := range t.Chains {
		for i, rule := range chain.Rules {
			if rule.Verdict.Action != nft.Drop {
				continue
			}
			_, reason := ReasonOf(rule)
			reasons[reason] = true
			chain.Rules[i].Verdict = nft.Verdict{Action: nft.Jump, Chain: deniedFor(reason)}
		}
	}
	never := &nft.Set{Name: setNeverTold, Type: family(6).ranges(), Elements: map[nft.Element]struct{}{}, Comment: "what is sent from here is denied untold"}
	never.SetElements(family(6).prefixes([]netip.Prefix{netip.MustParsePrefix("::/128"), netip.MustParsePrefix("fe80::/10")}))
	t.AddSets(toldSets([]denied{{name: chainDenied, anyDirection: true}}, append(linkFlooders.sets(), never)...)...)
	drop := nft.Verdict{Action: nft.Drop}
	for reason := range reasons {
		teller := teller{name: deniedFor(reason), verdict: drop, group: group, flooders: []flooders{linkFlooders}}
		for _, f := range families {
			teller.flows = append(teller.flows, flowsTold{family: f})
		}
		chain := teller.chain()
		chain.Rules = append([]nft.Rule{
			{Matches: []nft.Match{nft.Multicast}, Verdict: drop},
			{Matches: []nft.Match{nft.Broadcast}, Verdict: drop},
			{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.SrcAddr6}, Set: setNeverTold}}, Verdict: drop},
		}, chain.Rules...)
		t.AddChains(chain)
	}
}

// deniedFor is the chain in which frames end that are denied for a reason.
func deniedFor(reason flows.Reason) string { return chainDenied + "-" + string(reason) }
