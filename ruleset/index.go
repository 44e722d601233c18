package ruleset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// A packet meets the rules of ClusterNetworkPolicies one after the other, which takes the kernel some
// 25 ns for each. Hundreds of them would take longer than all else that a new connection takes. So a
// long run of rules is found by the peer's address: a verdict map has the addresses of all peers of the
// run, and leads each to a chain of those rules that are about it, in order. Peers of which the same
// selectors mean the addresses are a class, and share the chain.
//
// A run is of policies that follow each other in their tier and have the same subject, so that they are
// in the same stacks; and of rules that follow each other in these, name their peers by selectors alone,
// and do not pass. All its peers are in its map once, however many of its rules name them.

// DefaultLongRun is how many rules a run has at least. For fewer it does not pay: the maps of many short
// runs would take far more memory than the sets that all policies share.
const DefaultLongRun = 64

// index is a run of rules that are found by the peer's address.
type index struct {
	// name is that of its maps, without the family.
	name      string
	direction policy.Direction
	rules     []runRule
	// selectors are those of the rules, in order. closing are those of the rules that deny.
	selectors []policy.Selector
	closing   map[policy.Selector]struct{}
	// classes are those that addresses are in, by the names of their chains.
	classes map[string]*class
}

// runRule is a rule of a policy.
type runRule struct {
	of policy.Key
	policy.Rule
}

// class is all addresses that the same selectors mean.
type class struct {
	// selectors are in order.
	selectors []policy.Selector
	// users is how many addresses are in it.
	users int
}

// part is a part of what a tier's chain has for policies that follow each other and have the same
// subject.
type part struct {
	rules []runRule
	// index is the name of the index that the rules are in. If it is empty, they are in the tier's
	// chain itself.
	index string
}

// parts are, for the first policy of those that follow each other in a tier and have the same subject,
// what a tier's chain has for all of them. Only those with an index are in it. Also in it are the
// others of these, without parts.
func (t *Table) partsOf(d policy.Direction) map[policy.Key][]part {
	parts := map[policy.Key][]part{}
	for _, tier := range policy.ClusterTiers {
		runs := map[policy.Selector]int{}
		for _, group := range t.groups(tier, d) {
			subject := *t.clusterPolicies[group[0]].Subject
			of, indexed := t.split(group, d, func() string {
				runs[subject]++
				return fmt.Sprintf("%s-%s-peers-%s", tier, d, hash(fmt.Sprintf("%q %d", subject, runs[subject])))
			})
			if !indexed {
				continue
			}
			for _, key := range group {
				parts[key] = nil
			}
			parts[group[0]] = of
		}
	}
	return parts
}

// groups are the policies of a tier that have rules for a direction, in order, in groups of those that
// follow each other and have the same subject. A policy that is the first to ask who somebody is begins
// another group, because those in doubt are denied in between.
func (t *Table) groups(tier policy.Tier, d policy.Direction) (groups [][]policy.Key) {
	var in []*policy.Policy
	for _, p := range t.clusterPolicies {
		if p.Tier == tier && len(p.Rules[d]) > 0 && p.Subject != nil {
			in = append(in, p)
		}
	}
	slices.SortFunc(in, policy.InOrder)
	askedPeer, askedSubject := false, false
	for i, p := range in {
		another := i == 0 || *in[i-1].Subject != *p.Subject
		if another {
			askedPeer, askedSubject = false, false
		}
		peer, subject := p.AsksWho(d)
		if another || peer && !askedPeer || subject && !askedSubject {
			groups = append(groups, nil)
		}
		askedPeer, askedSubject = askedPeer || peer, askedSubject || subject
		groups[len(groups)-1] = append(groups[len(groups)-1], p.Key)
	}
	return groups
}

// split splits the rules of policies into runs that are long enough for an index, and others.
func (t *Table) split(group []policy.Key, d policy.Direction, name func() string) (parts []part, indexed bool) {
	var rules []runRule
	for _, key := range group {
		for _, rule := range t.clusterPolicies[key].Rules[d] {
			rules = append(rules, runRule{key, rule})
		}
	}
	bySelector := func(r runRule) bool {
		return r.Action != policy.Pass && !r.AnyPeer && len(r.Blocks)+len(r.Domains) == 0
	}
	for len(rules) > 0 {
		n := slices.IndexFunc(rules, func(r runRule) bool { return bySelector(r) != bySelector(rules[0]) })
		if n < 0 {
			n = len(rules)
		}
		run := part{rules: rules[:n]}
		if bySelector(rules[0]) && n >= cmp.Or(t.options.LongRun, DefaultLongRun) {
			run.index, indexed = name(), true
		}
		parts, rules = append(parts, run), rules[n:]
	}
	return parts, indexed
}

// reindex brings the indexes up to date with the policies.
func (u *update) reindex() {
	wanted := map[string]bool{}
	for _, d := range policy.Directions {
		u.parts[d] = u.partsOf(d)
		for _, key := range sortedKeys(u.parts[d]) {
			for _, p := range u.parts[d][key] {
				if p.index != "" {
					wanted[p.index] = true
					u.index(p.index, d, *u.clusterPolicies[key].Subject, p.rules)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(u.indexes)) {
		if !wanted[name] {
			u.dropIndex(name)
		}
	}
}

// index makes an index have these rules, which are about the pods that subject means.
func (u *update) index(name string, d policy.Direction, subject policy.Selector, rules []runRule) {
	x := u.indexes[name]
	if x != nil && slices.EqualFunc(x.rules, rules, func(a, b runRule) bool { return a.of == b.of && a.Rule.Equal(b.Rule) }) {
		return
	}
	if x == nil {
		x = &index{name: name, direction: d, classes: map[string]*class{}}
		u.indexes[name] = x
		for _, f := range families {
			u.addSet(&nft.Set{
				Name: x.mapOf(f), Type: f.addr(), Verdicts: map[nft.Element]nft.Verdict{}, Life: nft.ByMeaning,
				Comment: nft.Comment("rules by their peers, about " + subject.String()),
			})
		}
	}
	x.rules, x.closing = rules, map[policy.Selector]struct{}{}
	selectors := map[policy.Selector]struct{}{}
	for _, r := range rules {
		for _, s := range r.Peers {
			selectors[s] = struct{}{}
			if r.Action != policy.Accept {
				x.closing[s] = struct{}{}
			}
		}
	}
	x.selectors = slices.SortedFunc(maps.Keys(selectors), policy.Selector.Compare)
	for _, c := range x.classes {
		c.users = 0
	}
	for _, f := range families {
		u.classify(x, f)
	}
	for _, chain := range slices.Sorted(maps.Keys(x.classes)) {
		if x.classes[chain].users == 0 {
			u.dropClass(x, chain)
		} else {
			u.rulesIn(u.classChain(x, chain))
		}
	}
}

func (x *index) mapOf(f family) string { return fmt.Sprintf("%s-%d", x.name, f) }

// classify works out anew which class each address of a family is in.
func (u *update) classify(x *index, f family) {
	meaning := map[nft.Element][]policy.Selector{}
	for _, s := range x.selectors {
		for e := range u.Sets[peersSet(f, s)].Elements {
			meaning[e] = append(meaning[e], s)
		}
	}
	set := u.Sets[x.mapOf(f)]
	for e := range set.Verdicts {
		if _, stays := meaning[e]; !stays {
			u.remember(set, e)
			delete(set.Verdicts, e)
		}
	}
	names := map[string]string{} // to hash each class once
	for e, selectors := range meaning {
		id := classID(selectors)
		name, known := names[id]
		if !known {
			name = x.className(id)
			names[id] = name
		}
		u.remember(set, e)
		set.Verdicts[e] = nft.Verdict{Action: nft.Jump, Chain: name}
		x.join(name, selectors)
	}
}

// classID tells apart which selectors mean an address.
func classID(selectors []policy.Selector) string {
	var id strings.Builder
	for _, s := range selectors {
		id.WriteString(peersSet(4, s))
	}
	return id.String()
}

func (x *index) className(id string) string {
	return fmt.Sprintf("%s-%s", x.name, hash(id))
}

// join counts an address into a class.
func (x *index) join(name string, selectors []policy.Selector) {
	if x.classes[name] == nil {
		x.classes[name] = &class{selectors: selectors}
	}
	x.classes[name].users++
}

// classChain is the chain of a class: the rules that are about it, in order.
func (t *Table) classChain(x *index, name string) (*nft.Chain, []*nft.Set) {
	chain := &nft.Chain{Name: name}
	var sets []*nft.Set
	for _, r := range x.rules {
		about := func(s policy.Selector) bool {
			_, is := slices.BinarySearchFunc(x.classes[name].selectors, s, policy.Selector.Compare)
			return is
		}
		if !slices.ContainsFunc(r.Peers, about) {
			continue
		}
		rule := r.Rule
		rule.AnyPeer, rule.Peers = true, nil // the map has found it
		made, used := rulesOf(r.of, x.direction, rule, t.options)
		chain.Rules, sets = append(chain.Rules, made...), append(sets, used...)
	}
	return chain, sets
}

// dropClass drops the chain of a class that no address is in any more.
func (u *update) dropClass(x *index, name string) {
	delete(x.classes, name)
	u.oldStacks = u.dropChain(name, u.oldStacks)
}

// dropIndex drops an index that no policy needs any more.
func (u *update) dropIndex(name string) {
	x := u.indexes[name]
	delete(u.indexes, name)
	for _, f := range families {
		set := u.Sets[x.mapOf(f)]
		for e := range set.Verdicts {
			u.remember(set, e)
		}
		clear(set.Verdicts)
		u.droppedMaps = append(u.droppedMaps, set.Name)
	}
	for _, chain := range slices.Sorted(maps.Keys(x.classes)) {
		u.dropClass(x, chain)
	}
}

// reclass moves the addresses that a selector has gained or lost to the classes where they belong.
func (u *update) reclass(s policy.Selector, f family, elements []nft.Element, in bool) {
	for _, name := range slices.Sorted(maps.Keys(u.indexes)) {
		x := u.indexes[name]
		if _, uses := slices.BinarySearchFunc(x.selectors, s, policy.Selector.Compare); !uses {
			continue
		}
		set := u.Sets[x.mapOf(f)]
		for _, e := range elements {
			u.move(x, set, e, s, in)
		}
	}
}

// move moves an address that a selector has gained or lost to another class.
func (u *update) move(x *index, set *nft.Set, e nft.Element, s policy.Selector, in bool) {
	var selectors []policy.Selector
	u.remember(set, e)
	if was, has := set.Verdicts[e]; has {
		c := x.classes[was.Chain]
		selectors = slices.Clone(c.selectors)
		if c.users--; c.users == 0 {
			u.emptied[was.Chain] = x
		}
	}
	at, has := slices.BinarySearchFunc(selectors, s, policy.Selector.Compare)
	switch {
	case in && !has:
		selectors = slices.Insert(selectors, at, s)
	case !in && has:
		selectors = slices.Delete(selectors, at, at+1)
	}
	if len(selectors) == 0 {
		delete(set.Verdicts, e)
		return
	}
	name := x.className(classID(selectors))
	_, known := x.classes[name]
	x.join(name, selectors)
	if !known {
		u.rulesIn(u.classChain(x, name))
	}
	set.Verdicts[e] = nft.Verdict{Action: nft.Jump, Chain: name}
}

// dropEmptied drops the classes that moved addresses have left without any.
func (u *update) dropEmptied() {
	for _, name := range sortedBy(u.emptied, func(s string) string { return s }) {
		if x := u.emptied[name]; x.classes[name] != nil && x.classes[name].users == 0 {
			u.dropClass(x, name)
		}
	}
}

// leadsToParts are the rules by which a tier's chain leads to policies that follow each other and have
// the same subject.
func (t *Table) leadsToParts(d policy.Direction, parts []part) (rules []nft.Rule, sets []*nft.Set) {
	addr4, addr6 := addrFields(d.Opposite())
	for _, p := range parts {
		if p.index != "" {
			for i, field := range []nft.Field{addr4, addr6} {
				rules = append(rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Dispatch, Field: field, Map: t.indexes[p.index].mapOf(families[i])}})
			}
			continue
		}
		for _, r := range p.rules {
			made, used := rulesOf(r.of, d, r.Rule, t.options)
			rules, sets = append(rules, made...), append(sets, used...)
		}
	}
	return rules, sets
}
