package ruleset

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// A rule that denies does not drop the packet itself if denials are told (Options.LogGroup): it counts the
// packet, and leads to a chain whose name begins with "denied", or with "rejected" where the sender is answered.
// That tells the first packet of a flow to whoever listens to the nflog group, and drops it as it drops all
// others. If nobody listens, the kernel tells nobody, and takes no time to speak of for it.
//
// A pod that goes on to send what is denied must neither cost the node much nor hide what others are
// denied. So a flow (source, destination, protocol and, where the protocol has ports, destination port) is
// told once in ToldFor seconds, and its other packets are counted meanwhile. And who is denied more than
// floodRate packets a second is flooding (flooding.go): its packets are dropped after a single lookup for a second.
// What counts as one is a source, and of frames the port of the bridge that they come in by, as a pod may make up
// all of a frame.
//
// Who sends from many made-up sources is not found to flood. So how many flows are told is bounded as well, by what
// such a sender cannot choose: of a pod's ingress by its destination, which is the pod's, and of what base chains
// deny themselves by the link. That comes before a flow is noted, so that nobody can fill the sets of flows
// that were told. Fragments behind the first have no port, and are not told.
//
// The kernel looks at each of these chains once for every rule that leads there, whenever a rule changes (up to
// Linux 6.18; see ADR 59). So rules that are about one family of addresses, as most are, lead to chains for that
// family alone. Others, such as a default deny, lead there by a chain that tells
// the families apart.

const (
	// ToldFor is for how many seconds a flow that was told is not told again.
	ToldFor = 10
	// toldPerSecond is how many denied flows to one pod, or in by one link, are told per second; twice as many
	// at once.
	toldPerSecond = 200
)

// toldSet holds the flows of a family that a chain has told: those of protocols
// with ports, or those of others. Each has a counter of the packets that came after the first. What is denied meets no
// second chain. What would be denied goes on, and may be denied by the other direction's rules as well, which has to be
// told too; so the staged table has such sets for each direction.
func toldSet(chain string, f family, ports bool) string {
	name := "told"
	for _, d := range policy.Directions {
		if strings.HasPrefix(chain, chainWouldDeny+"-"+d.String()) {
			name += "-" + d.String()
		}
	}
	if !ports {
		name += "-portless"
	}
	return fmt.Sprintf("%s-%d", name, f)
}

// ToldIn is where a table that has told of a packet keeps account of the packet's flow, until it tells of that
// again: the set, its type, and the flow's element, which counts the flow's packets since.
func ToldIn(l nft.Logged) (set string, t nft.SetType, e nft.Element) {
	f, p := familyOf(l.Packet.Src), l.Packet
	e = nft.AddrsElement(p.Src, p.Dst)
	e.Protocol = uint8(p.Protocol)
	ports := slices.Contains(ported, e.Protocol)
	if ports {
		e.First = p.DstPort
	}
	return toldSet(l.Prefix, f, ports), toldType(f, ports), e
}

// ported are the protocols that have ports.
var ported = []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE}

func toldType(f family, ports bool) nft.SetType {
	if ports {
		return nft.Of(f.datatype(), f.datatype(), nft.InetProto, nft.InetService)
	}
	return nft.Of(f.datatype(), f.datatype(), nft.InetProto)
}

// tellingLinks is the set that says how often denials are told of packets that come in by a link, and
// tellingSet the one that says it of packets to a pod.
const tellingLinks = "telling-links"

func tellingSet(f family) string { return fmt.Sprintf("telling-%d", f) }

// telling bounds how many flows are told with the same value of a field.
func telling(field nft.Field, set string) nft.Match {
	return nft.Limit{Field: field, Set: set, PerSecond: toldPerSecond, Burst: 2 * toldPerSecond}
}

// toldSets are the sets of flows that chains of these kinds have told, and others.
func toldSets(kinds []denied, others ...*nft.Set) (sets []*nft.Set) {
	has := map[string]struct{}{}
	for _, kind := range kinds {
		for _, f := range families {
			for _, ports := range []bool{true, false} {
				name, comment := toldSet(kind.chain(), f, ports), "denied flows that were told"
				if !ports {
					comment = "denied flows without ports that were told"
				}
				if _, known := has[name]; !known {
					has[name] = struct{}{}
					sets = append(sets, dynamicSet(name, comment, toldType(f, ports), ToldFor))
				}
			}
		}
	}
	protocols := &nft.Set{Name: setPorted, Type: nft.Of(nft.InetProto), Elements: map[nft.Element]struct{}{}, Comment: "protocols with ports"}
	for _, protocol := range ported {
		protocols.Elements[nft.Element{Protocol: protocol}] = struct{}{}
	}
	return append(append(sets, protocols), others...)
}

// tellingSets are those of the policies' table that say how often denials are told, and who is flooding.
func tellingSets() (sets []*nft.Set) {
	const comment = "how often denials are told"
	for _, f := range families {
		for _, kind := range []denied{{direction: policy.Egress}, {direction: policy.Ingress}, {anyDirection: true}} {
			sets = append(sets, kind.flooders(f).sets()...)
		}
		sets = append(sets, dynamicSet(tellingSet(f), comment, f.addr(), ToldFor))
	}
	return append(sets, dynamicSet(tellingLinks, comment, nft.Of(nft.IfName), ToldFor))
}

func dynamicSet(name, comment string, t nft.SetType, timeout uint32) *nft.Set {
	return &nft.Set{Name: name, Type: t, Dynamic: true, Timeout: timeout, Elements: map[nft.Element]struct{}{}, Comment: comment}
}

// denied is a kind of chain that rules which deny lead to: what happens to packets there, for which direction of
// a pod's rules, and for packets of which families.
type denied struct {
	// name is chainDenied or chainRejected, or one of those for what only connection tracking knows.
	name      string
	direction policy.Direction
	// anyDirection is for what is not about the egress or the ingress of a pod.
	anyDirection bool
	families     []family
}

// chain is the chain's name.
func (k denied) chain() string {
	name := k.name
	if !k.anyDirection {
		name += "-" + k.direction.String()
	}
	if len(k.families) == 1 {
		name += fmt.Sprintf("-%d", k.families[0])
	}
	return name
}

// limits bound how many flows are told. Of a pod's egress, which has no other source, it is enough that it is not
// flooding.
func (k denied) limits(f family) []nft.Match {
	switch {
	case k.anyDirection:
		return []nft.Match{telling(nft.InPort, tellingLinks)}
	case k.direction == policy.Ingress:
		return []nft.Match{telling(f.dst(), tellingSet(f))}
	}
	return nil
}

// deniedKinds are the kinds of chains that rules which deny lead to.
func deniedKinds(o Options) (kinds []denied) {
	names := []string{chainDenied}
	switch {
	case o.Staged:
		names = []string{chainWouldDeny}
	case o.Reject:
		names = append(names, chainRejected)
	}
	for _, name := range names {
		kinds = append(kinds, denied{name: name, anyDirection: true, families: families[:]})
		for _, d := range policy.Directions {
			for _, of := range [][]family{families[:], families[:1], families[1:]} {
				kinds = append(kinds, denied{name: name, direction: d, families: of})
			}
		}
	}
	names = []string{chainDeniedInvalid}
	switch {
	case o.Staged:
		names = []string{chainWouldDenyInvalid, chainWouldDenyMidway}
	case o.RevokedMark != 0:
		names = append(names, chainDeniedRevoked, chainDeniedMidway)
	}
	for _, name := range names {
		kinds = append(kinds, denied{name: name, anyDirection: true, families: families[:]})
	}
	return kinds
}

// deniedChains are the chains that rules which deny lead to.
func deniedChains(o Options) (chains []*nft.Chain) {
	for _, kind := range deniedKinds(o) {
		if o.LogGroup == 0 {
			chains = append(chains, &nft.Chain{Name: kind.chain(), Rules: []nft.Rule{{Verdict: kind.verdict()}}})
			continue
		}
		if len(kind.families) > 1 && !kind.anyDirection {
			chains = append(chains, kind.byFamily())
			continue
		}
		teller := teller{name: kind.chain(), verdict: kind.verdict(), group: o.LogGroup}
		for _, f := range kind.families {
			teller.flooders = append(teller.flooders, kind.flooders(f))
			teller.flows = append(teller.flows, flowsTold{f, kind.limits(f)})
		}
		chains = append(chains, teller.chain())
	}
	return chains
}

func (k denied) verdict() nft.Verdict {
	switch {
	case k.name == chainRejected:
		return nft.Verdict{Action: nft.Reject}
	case wouldDeny(k.name):
		return nft.Verdict{Action: nft.Accept}
	}
	return nft.Verdict{Action: nft.Drop}
}

// byFamily leads to the chains of its kind for a single family. It asks who is flooding itself, as that is quicker by
// a jump.
func (k denied) byFamily() *nft.Chain {
	chain := &nft.Chain{Name: k.chain()}
	for _, f := range k.families {
		chain.Rules = append(chain.Rules, nft.Rule{Matches: k.flooders(f).isFlooding(), Verdict: k.verdict()})
	}
	for _, f := range k.families {
		of := k
		of.families = []family{f}
		chain.Rules = append(chain.Rules, nft.Rule{
			Matches: []nft.Match{nft.OfFamily(f)}, Verdict: nft.Verdict{Action: nft.Jump, Chain: of.chain()},
		})
	}
	chain.Rules = append(chain.Rules, nft.Rule{Verdict: k.verdict()})
	return chain
}

// teller is a chain that tells the first packet of a flow to a group, with the chain's name, and has one verdict on
// all packets.
type teller struct {
	name     string
	verdict  nft.Verdict
	group    uint16
	flooders []flooders
	flows    []flowsTold
}

// flowsTold are the flows of a family, and what bounds how many of them are told.
type flowsTold struct {
	family family
	limits []nft.Match
}

func (t teller) chain() *nft.Chain {
	chain := &nft.Chain{Name: t.name}
	end := func(log nft.Log, matches ...nft.Match) {
		chain.Rules = append(chain.Rules, nft.Rule{Matches: matches, Log: log, Verdict: t.verdict})
	}
	for _, who := range t.flooders {
		end(nft.Log{}, who.isFlooding()...)
		end(nft.Log{}, who.beginsTo()...)
	}
	for _, flows := range t.flows {
		for _, ports := range []bool{true, false} {
			end(nft.Log{}, nft.Lookup{Fields: toldFields(flows.family, ports), Set: toldSet(t.name, flows.family, ports)})
		}
	}
	for _, flows := range t.flows {
		for _, ports := range []bool{true, false} {
			has := nft.Lookup{Fields: []nft.Field{nft.L4Protocol}, Set: setPorted, Not: !ports}
			note := nft.Noted{Fields: toldFields(flows.family, ports), Set: toldSet(t.name, flows.family, ports), Count: true}
			end(nft.Log{Group: t.group, Prefix: t.name}, slices.Concat([]nft.Match{has}, flows.limits, []nft.Match{note})...)
		}
	}
	end(nft.Log{})
	return chain
}

// toldFields are the fields that tell flows apart.
func toldFields(f family, ports bool) []nft.Field {
	fields := []nft.Field{f.src(), f.dst(), nft.L4Protocol}
	if ports {
		fields = append(fields, nft.DstPort)
	}
	return fields
}

// tells reports whether rules that deny lead to where denials are told. In the staged table they always do, as it
// denies nothing.
func (o Options) tells() bool { return o.LogGroup != 0 || o.Staged }

// tell has the rules of a chain that deny lead to where denials are told.
func (o Options) tell(chain *nft.Chain) {
	ends := func(r nft.Rule) bool { return r.Verdict.Action == nft.Drop || r.Verdict.Action == nft.Reject }
	if !slices.ContainsFunc(chain.Rules, ends) {
		return
	}
	kind := kindFor(chain)
	chain.Rules = slices.Clone(chain.Rules) // others may have the same
	for i, rule := range chain.Rules {
		if ends(rule) {
			chain.Rules[i].Verdict = nft.Verdict{Action: nft.Jump, Chain: kind.of(rule, o).chain()}
		}
	}
}

// kindFor is the kind of chains that the rules of a chain lead to. Packets come to the chain of a direction by a
// pod's address, but for base chains: those deny by addresses of which there may be any number, such as that of no
// known pod. The name of a chain that is about one direction has that before all that others may have chosen.
func kindFor(chain *nft.Chain) denied {
	egress, ingress := strings.Index(chain.Name, policy.Egress.String()), strings.Index(chain.Name, policy.Ingress.String())
	switch {
	case chain.Hook != nil || egress < 0 && ingress < 0:
		return denied{anyDirection: true}
	case ingress < 0 || 0 <= egress && egress < ingress:
		return denied{direction: policy.Egress}
	}
	return denied{direction: policy.Ingress}
}

// of is the kind of chain that a rule leads to. What only connection tracking knows has chains of
// its own, so that whoever is told need not ask it: not every kernel tells (CONFIG_NETFILTER_NETLINK_GLUE_CT),
// and the flow of a packet that was dropped is not kept.
func (k denied) of(rule nft.Rule, o Options) denied {
	anyDirection := func(name string) denied { return denied{name: name, anyDirection: true, families: families[:]} }
	switch {
	case o.Staged && refusesInvalid(rule):
		return anyDirection(chainWouldDenyInvalid)
	case o.Staged && isMidway(rule):
		return anyDirection(chainWouldDenyMidway)
	case o.Staged:
		k.name = chainWouldDeny
	case rule.Verdict.Action == nft.Reject:
		k.name = chainRejected
	case refusesInvalid(rule):
		return anyDirection(chainDeniedInvalid)
	case o.RevokedMark != 0 && slices.Contains(rule.Matches, nft.Match(nft.Mark(o.RevokedMark))):
		return anyDirection(chainDeniedRevoked)
	case isMidway(rule):
		return anyDirection(chainDeniedMidway)
	default:
		k.name = chainDenied
	}
	k.families = families[:]
	if f := familyOfRule(rule); f != 0 && !k.anyDirection {
		k.families = []family{f}
	}
	return k
}

// isMidway reports whether a rule is for what begins no connection.
func isMidway(rule nft.Rule) bool {
	return slices.ContainsFunc(rule.Matches, func(m nft.Match) bool { _, is := m.(nft.Midstream); return is })
}

// familyOfRule is the family whose packets alone a rule is about; 0: that cannot be told.
func familyOfRule(rule nft.Rule) family {
	for _, m := range rule.Matches {
		lookup, is := m.(nft.Lookup)
		if !is {
			continue
		}
		for _, field := range lookup.Fields {
			for _, f := range families {
				if field.Datatype() == f.datatype() {
					return f
				}
			}
		}
	}
	return 0
}

// tells reports whether a chain is one that rules which deny lead to.
func tells(chain string) bool {
	return wouldDeny(chain) || chain == chainDenied || chain == chainRejected ||
		strings.HasPrefix(chain, chainDenied+"-") || strings.HasPrefix(chain, chainRejected+"-")
}

// denies reports whether a rule denies, by itself or by leading to where denials are told.
func denies(rule nft.Rule) bool {
	v := rule.Verdict
	return v.Action == nft.Drop || v.Action == nft.Reject || v.Action == nft.Jump && tells(v.Chain)
}
