package ruleset

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Build returns the table for an intent.
func Build(in policy.Intent, o Options) *Table {
	t := newTable(o)
	if o.Staged {
		t.AddSets(stagedSets()...)
		t.AddChains(stagedChains(o)...)
	} else {
		t.AddSets(baseSets(o)...)
		t.AddChains(staticChains(o)...)
	}
	if o.tells() {
		for _, chain := range t.Chains {
			o.tell(chain)
		}
		t.AddChains(deniedChains(o)...)
	}
	if o.LogGroup != 0 {
		t.AddSets(toldSets(deniedKinds(o), tellingSets()...)...)
	}
	t.Update(in.Delta())
	return t
}

// Update applies a delta to the table. It returns the plan that does the same in a kernel which
// holds the table as it was. It costs what the delta touches.
func (t *Table) Update(d policy.Delta) nft.Plan {
	u := update{Table: t, was: map[string]map[nft.Element]nft.Verdict{}, touched: map[netip.Addr]struct{}{}, held: map[netip.Addr][]policy.Key{}, emptied: map[string]*index{}}
	if d.PodCIDRs != nil && !t.options.Staged {
		u.podRanges(policy.Union(*d.PodCIDRs))
	}
	if d.Cluster != nil && t.options.Masquerade {
		u.cluster(*d.Cluster)
	}
	if d.NodeAddrs != nil && t.options.TunnelPort != 0 {
		u.nodes(*d.NodeAddrs)
	}
	if d.Cluster != nil && d.NodeAddrs != nil && t.options.SourceCheck {
		u.sources(*d.Cluster, *d.NodeAddrs)
	}
	if !t.options.Staged {
		u.flip(orphansSet, d.Orphans)
	}
	u.flip(doubtfulSet, d.Doubtful)
	for _, s := range slices.SortedFunc(maps.Keys(d.Peers), policy.Selector.Compare) {
		u.peers(s, d.Peers[s])
	}
	for _, n := range sortedBy(d.NamedPorts, policy.NamedPort.String) {
		u.namedPorts(n, d.NamedPorts[n])
	}
	for _, key := range sortedBy(d.Sections, policy.SectionKey.String) {
		if rules := d.Sections[key]; rules != nil {
			u.rulesIn(chainOf(sectionChain(key), key.Policy, key.Direction, rules, u.options))
		}
	}
	u.clusterPoliciesChanged(d.Policies)
	for _, key := range sortedKeys(d.Policies) {
		u.policy(key, d.Policies[key])
	}
	for _, key := range sortedBy(d.Sections, policy.SectionKey.String) {
		if d.Sections[key] == nil {
			u.oldPolicyChains = u.dropChain(sectionChain(key), u.oldPolicyChains)
		}
	}
	if len(d.Policies) > 0 {
		u.touchShared()
	}
	for _, key := range sortedKeys(d.Subjects) {
		u.clearVerdicts(key)
		u.stack(key, d.Subjects[key])
		u.subject(key, d.Subjects[key])
	}
	u.resolutions(d)
	if len(d.Policies)+len(d.Subjects) > 0 {
		u.restack(d.Policies)
	}
	u.addresses()
	u.dropEmptied()
	u.verdicts()
	return u.plan()
}

// update applies a delta to the table.
type update struct {
	*Table
	changes
	released []string                               // sets named by their content that lost their last rule
	was      map[string]map[nft.Element]nft.Verdict // entries of verdict maps before the update
	touched  map[netip.Addr]struct{}                // addresses of subjects that the update is about
	held     map[netip.Addr][]policy.Key            // who had addresses of subjects before the update
	// newDomains are sets of addresses of domain names that are new.
	newDomains []*nft.Set
	emptied    map[string]*index // chains of classes that an address has left
	// droppedMaps are maps without entries that nothing looks up any more.
	droppedMaps []string
}

func (u *update) plan() nft.Plan {
	for _, name := range u.released {
		if _, there := u.Sets[name]; there && u.refs[name] == 0 {
			delete(u.Sets, name)
			delete(u.refs, name)
			u.oldSets = append(u.oldSets, nft.DeleteSet{Name: name})
			delete(u.domains, name)
		}
	}
	for _, name := range u.droppedMaps {
		delete(u.Sets, name)
		u.oldSets = append(u.oldSets, nft.DeleteSet{Name: name})
	}
	return u.changes.plan(u.Family)
}

func (u *update) peers(s policy.Selector, m policy.Members[netip.Addr]) {
	for _, f := range families {
		in := func(addrs []netip.Addr) (elements []nft.Element) {
			for _, addr := range addrs {
				if f.has(addr) {
					elements = append(elements, nft.AddrElement(addr))
				}
			}
			return elements
		}
		add, remove := in(m.Add), in(m.Remove)
		u.members(nft.Set{Name: peersSet(f, s), Type: f.addr(), Comment: nft.Comment(s.String()), Life: nft.ByMeaning}, m.New, m.Gone, add, remove)
		u.reclass(s, f, add, true)
		u.reclass(s, f, remove, false)
	}
}

func (u *update) namedPorts(n policy.NamedPort, m policy.Members[policy.Endpoint]) {
	for _, f := range families {
		in := func(endpoints []policy.Endpoint) (elements []nft.Element) {
			for _, endpoint := range endpoints {
				if f.has(endpoint.Addr) {
					elements = append(elements, EndpointElement(endpoint))
				}
			}
			return elements
		}
		u.members(nft.Set{Name: namedSet(f, n), Type: f.endpoint(), Comment: nft.Comment(n.String()), Life: nft.ByMeaning}, m.New, m.Gone, in(m.Add), in(m.Remove))
	}
}

func (u *update) members(set nft.Set, isNew, gone bool, add, remove []nft.Element) {
	switch {
	case gone:
		if _, exists := u.Sets[set.Name]; exists {
			delete(u.Sets, set.Name)
			u.oldSets = append(u.oldSets, nft.DeleteSet{Name: set.Name})
		}
		return
	case isNew:
		set.Elements = make(map[nft.Element]struct{}, len(add))
		u.addSet(&set)
	}
	have := u.Sets[set.Name]
	for _, e := range add {
		have.Elements[e] = struct{}{}
	}
	for _, e := range remove {
		delete(have.Elements, e)
	}
	if len(add) > 0 {
		u.newSets = append(u.newSets, nft.AddElements{Set: set.Name, Type: set.Type, Elements: sorted(add)})
	}
	if len(remove) > 0 {
		u.oldMembers = append(u.oldMembers, nft.DeleteElements{Set: set.Name, Type: set.Type, Elements: sorted(remove)})
	}
}

func (u *update) addSet(set *nft.Set) {
	u.Sets[set.Name] = set
	u.newSets = append(u.newSets, nft.AddSet{Name: set.Name, Type: set.Type, Map: set.IsMap(), Comment: set.Comment, Timed: set.Timed != nil})
}

func (u *update) policy(key policy.Key, p *policy.Policy) {
	for _, d := range policy.Directions {
		_, indexed := u.parts[d][key]
		has := p != nil && (p.Isolates[d] || p.Tier != policy.NetworkPolicyTier && len(p.Rules[d]) > 0 && !p.Passes(d))
		if !has || indexed {
			u.oldPolicyChains = u.dropChain(policyChain(d, key), u.oldPolicyChains)
			continue
		}
		u.rulesIn(policyChainOf(d, p, u.options))
	}
}

// clusterPoliciesChanged brings up to date what follows from all ClusterNetworkPolicies together: their
// indexes, and which of them have chains of their own.
func (u *update) clusterPoliciesChanged(changed map[policy.Key]*policy.Policy) {
	any := false
	for key, p := range changed {
		_, was := u.clusterPolicies[key]
		delete(u.clusterPolicies, key)
		is := p != nil && p.Tier != policy.NetworkPolicyTier
		if is {
			u.clusterPolicies[key] = p
		}
		any = any || was || is
	}
	if !any {
		return
	}
	u.reindex()
	for _, key := range sortedKeys(u.clusterPolicies) {
		if _, comes := changed[key]; !comes { // those that have changed come with all other policies
			u.policy(key, u.clusterPolicies[key])
		}
	}
}

// rulesIn makes a chain of a policy's rules what it must be. It first adds those of the sets named
// by their content that do not exist yet.
func (u *update) rulesIn(chain *nft.Chain, sets []*nft.Set) {
	for _, set := range sets {
		if _, exists := u.Sets[set.Name]; exists {
			continue
		}
		if set.Timed != nil {
			u.addSet(set)
			u.newDomains = append(u.newDomains, set)
		} else {
			u.addSet(set)
			u.newSets = append(u.newSets, nft.AddElements{Set: set.Name, Type: set.Type, Elements: set.Ordered()})
		}
	}
	u.setChain(chain)
}

// setChain makes a chain what it must be.
func (u *update) setChain(want *nft.Chain) {
	if u.options.tells() {
		u.options.tell(want)
	}
	have, exists := u.Chains[want.Name]
	if exists && nft.SameRules(have.Rules, want.Rules) {
		return
	}
	if !exists {
		u.newChains = append(u.newChains, nft.AddChain{Name: want.Name})
	}
	if exists || len(want.Rules) > 0 {
		u.rules = append(u.rules, nft.SetRules{Chain: want.Name, Rules: want.Rules})
	}
	u.Chains[want.Name] = want
	u.count(want, 1)
	if exists {
		u.count(have, -1)
	}
}

func (u *update) dropChain(name string, ops []nft.Op) []nft.Op {
	have, exists := u.Chains[name]
	if !exists {
		return ops
	}
	delete(u.Chains, name)
	u.count(have, -1)
	return append(ops, nft.DeleteChain{Name: name})
}

// count follows how many rules use a set that is named by its content, and how many deny or pass what
// is in a set.
func (u *update) count(chain *nft.Chain, by int) {
	for _, rule := range chain.Rules {
		_, ofPolicy := rule.Origin.(PolicyRule)
		closes := ofPolicy && rule.Verdict.Action != nft.Accept
		for _, match := range rule.Matches {
			lookup, is := match.(nft.Lookup)
			if !is {
				continue
			}
			if closes {
				if u.closing[lookup.Set] += by; u.closing[lookup.Set] == 0 {
					delete(u.closing, lookup.Set)
				}
			}
			set := u.Sets[lookup.Set]
			if set == nil || set.Life != nft.ByContent {
				continue
			}
			if u.refs[lookup.Set] += by; u.refs[lookup.Set] == 0 {
				u.released = append(u.released, lookup.Set)
			}
		}
	}
}

func (u *update) subject(key policy.Key, s *policy.Subject) {
	for _, d := range policy.Directions {
		if s != nil && s.Fenced(d) {
			u.setChain(podChainOf(d, s, u.options))
		} else {
			u.oldChains = u.dropChain(podChain(d, key), u.oldChains)
		}
	}
	if s != nil {
		u.addrs[key] = s.IPs
		for _, addr := range s.IPs {
			u.hold(addr, key)
			u.touched[addr] = struct{}{}
		}
	}
}

// mapOf is the verdict map for an address.
func (u *update) mapOf(d policy.Direction, addr netip.Addr) *nft.Set {
	return u.Sets[podMap(d, familyOf(addr))]
}

func (u *update) setVerdict(d policy.Direction, addr netip.Addr, v nft.Verdict) {
	set := u.mapOf(d, addr)
	u.remember(set, nft.AddrElement(addr))
	if delete(set.Verdicts, nft.AddrElement(addr)); !u.options.Staged || v.Action != nft.Accept {
		set.Verdicts[nft.AddrElement(addr)] = v
	}
}

// clearVerdicts takes a pod out of the maps. Then subject and addresses put it in again.
func (u *update) clearVerdicts(key policy.Key) {
	for _, addr := range u.addrs[key] {
		if _, noted := u.held[addr]; !noted {
			u.held[addr] = slices.Clone(u.subjects[addr])
		}
		u.release(addr, key)
		u.touched[addr] = struct{}{}
		for _, d := range policy.Directions {
			set := u.mapOf(d, addr)
			u.remember(set, nft.AddrElement(addr))
			delete(set.Verdicts, nft.AddrElement(addr))
		}
	}
	delete(u.addrs, key)
}

// remember keeps the entry that a map had before the update. The zero Verdict cannot stand for
// "no entry", so noEntry does.
func (u *update) remember(set *nft.Set, e nft.Element) {
	if u.was[set.Name] == nil {
		u.was[set.Name] = map[nft.Element]nft.Verdict{}
	}
	if _, done := u.was[set.Name][e]; !done {
		was, exists := set.Verdicts[e]
		if !exists {
			was = noEntry
		}
		u.was[set.Name][e] = was
	}
}

// noEntry stands for "not in the map".
var noEntry = nft.Verdict{Action: nft.Dispatch}

// verdicts turns the difference of the verdict maps into operations. An entry
// that changes is taken out and put in again: the kernel has no other way, and
// nothing sees the map in between.
func (u *update) verdicts() {
	for _, name := range sortedBy(u.was, func(s string) string { return s }) {
		set := u.Sets[name]
		var out []nft.Element
		var in []nft.VerdictEntry
		for _, e := range nft.SortedElements(u.was[name]) {
			was := u.was[name][e]
			is, exists := set.Verdicts[e]
			if !exists {
				is = noEntry
			}
			if was == is {
				continue
			}
			if was != noEntry {
				out = append(out, e)
			}
			if exists {
				in = append(in, nft.VerdictEntry{Key: e, Verdict: is})
			}
		}
		u.samePod(name, set.Type, out, in)
		if len(out) > 0 {
			u.entries = append(u.entries, nft.DeleteElements{Set: name, Type: set.Type, Elements: out})
		}
		if len(in) > 0 {
			u.entries = append(u.entries, nft.AddVerdicts{Map: name, Type: set.Type, Entries: in})
		}
	}
}

// samePod keeps samePodSet, which has each address of a pod twice, up to date with the maps.
func (u *update) samePod(changed string, addr nft.SetType, out []nft.Element, in []nft.VerdictEntry) {
	f := family(4)
	if addr == family(6).addr() {
		f = 6
	}
	if changed != podMap(policy.Egress, f) || u.options.Staged {
		return
	}
	twice := func(e nft.Element) nft.Element { return nft.Element{Addr: e.Addr, LastAddr: e.Addr} }
	var add, remove []nft.Element
	set, verdicts := u.Sets[samePodSet(f)], u.Sets[changed].Verdicts
	for _, entry := range in {
		if _, has := set.Elements[twice(entry.Key)]; !has {
			add = append(add, twice(entry.Key))
		}
	}
	for _, e := range out {
		if _, stays := verdicts[e]; !stays {
			remove = append(remove, twice(e))
		}
	}
	u.members(*set, false, false, add, remove)
}

// flip puts addresses into the sets of a kind, or takes them out.
func (u *update) flip(setOf func(family) string, changed map[netip.Addr]bool) {
	if len(changed) == 0 {
		return
	}
	for _, f := range families {
		set := u.Sets[setOf(f)]
		want := maps.Clone(set.Elements)
		for addr, is := range changed {
			switch {
			case !f.has(addr):
			case is:
				want[nft.AddrElement(addr)] = struct{}{}
			default:
				delete(want, nft.AddrElement(addr))
			}
		}
		u.content(set, want)
	}
}

// sortedBy are the keys of a map, in the order of their texts. For policy.Key there is sortedKeys.
func sortedBy[K comparable, V any](m map[K]V, text func(K) string) []K {
	return slices.SortedFunc(maps.Keys(m), func(a, b K) int { return strings.Compare(text(a), text(b)) })
}
