package ruleset

import (
	"net/netip"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Table is podfence's table of family inet, where policies are enforced. podfence's other tables
// are of family bridge: see Guard and Frames.
type Table struct {
	nft.Table

	options Options
	// refs counts, for each set that is named by its content, the rules that look it up.
	refs map[string]int
	// addrs are the addresses that each subject has in the maps; subjects are the subjects that
	// have each address, in order.
	addrs    map[policy.Key][]netip.Addr
	subjects map[netip.Addr][]policy.Key
	// clusterPolicies are the ClusterNetworkPolicies. stacks are the chains of the tiers, by name, and
	// stacksOf the names of those that each subject has.
	clusterPolicies map[policy.Key]*policy.Policy
	stacks          map[string]*stack
	stacksOf        map[policy.Key][]string
	// indexes are by name; parts say, per Direction, where the rules of policies are that are in one.
	indexes map[string]*index
	parts   [len(policy.Directions)]map[policy.Key][]part
	// closing counts, for each set, the rules of policies that deny or pass what is in it.
	closing map[string]int
	// answers are what domain names were resolved to: for whom, and for each name until when that counts. domains are the
	// sets of such addresses.
	answers map[told]map[string]time.Time
	domains map[string]*nft.Set
	// shared are the chains of an address that several subjects have.
	shared map[netip.Addr]map[string]struct{}
}

func newTable(o Options) *Table {
	return &Table{
		Table: nft.NewTable(nft.Inet), options: o,
		refs: map[string]int{}, addrs: map[policy.Key][]netip.Addr{},
		clusterPolicies: map[policy.Key]*policy.Policy{}, stacks: map[string]*stack{}, stacksOf: map[policy.Key][]string{}, closing: map[string]int{}, indexes: map[string]*index{},
		answers: map[told]map[string]time.Time{}, domains: map[string]*nft.Set{},
		subjects: map[netip.Addr][]policy.Key{}, shared: map[netip.Addr]map[string]struct{}{},
	}
}

// AddrRangeElement is the element of a range of addresses.
func AddrRangeElement(addrs policy.AddrRange) nft.Element {
	return nft.AddrsElement(addrs.First, addrs.Last)
}

// EndpointElement is the element of an endpoint.
func EndpointElement(endpoint policy.Endpoint) nft.Element {
	e := nft.AddrElement(endpoint.Addr)
	e.Protocol, e.First = uint8(endpoint.Protocol), endpoint.Port
	return e
}

// PortRangeElement is the element of a range of ports.
func PortRangeElement(ports policy.PortRange) nft.Element {
	return nft.PortsElement(ports.Protocol, ports.First, ports.Last)
}

// Size counts what a table holds.
type Size struct {
	Sets, Maps, Chains, Rules, Elements int
	// Orphans are addresses of containers whose pod is not known.
	Orphans int
}

// Size counts what the table holds. It costs its sets and chains, not its
// elements.
func (t *Table) Size() (s Size) {
	for _, set := range t.Sets {
		if set.IsMap() {
			s.Maps++
		} else {
			s.Sets++
		}
		s.Elements += len(set.Elements) + len(set.Timed) + len(set.Verdicts)
	}
	for _, f := range families {
		if set := t.Sets[orphansSet(f)]; set != nil {
			s.Orphans += len(set.Elements)
		}
	}
	for _, chain := range t.Chains {
		s.Chains++
		s.Rules += len(chain.Rules)
	}
	return s
}
