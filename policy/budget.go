package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Whoever may write policies in one namespace can write a thousand selectors that each mean
// all pods of the cluster. So there is a budget for what the policies of a namespace take of
// a node. It is counted in elements: the members of each selector and port name that they
// use, counted once, the ranges of addresses and ports, and objectCost for each set and rule.
// When a namespace is over its budget, the largest of its policies are quarantined until the
// others fit. The node as a whole has a budget too: when that is exceeded, policies of the
// namespace that takes most are quarantined.

const (
	// DefaultBudget is what the policies of one namespace may take of a node: half a
	// million addresses. The kernel takes some 50 MB for them, and the agent as much.
	DefaultBudget = 500_000
	// objectCost is how many elements a set or a rule counts as: it takes the kernel more time
	// than memory, and 2,000 of them are what it can change at once while others wait.
	objectCost = 250
	// rangeCost is how many elements take as much as a range of addresses or of ports does.
	rangeCost = 10
	// The node's budget is so many times that of a namespace: nodeBudgets times for elements,
	// and nodeObjects times for sets and rules. The latter is larger because sets and rules
	// take little memory, and a node with some hundred pods has thousands of usual policies.
	nodeBudgets, nodeObjects = 2, 10
)

// maxWalk is how many rules of policies a packet may meet in one direction of a pod. Rules
// for the other address family count as well. The kernel takes some 0.1 µs for each rule.
const maxWalk = 1000

// walks says for each Direction how many of a policy's kernel rules a packet meets,
// including the jump to them. It is zero where the policy allows nothing.
func (p *Policy) walks() (w [len(Directions)]int) {
	for _, d := range Directions {
		if rules := p.walk(d); rules > 0 {
			w[d] = 1 + rules
		}
	}
	return w
}

// rules is how many kernel rules change with a policy. Its ranges are counted as the number
// of rules that take the kernel as long. A policy that is nil has none. The rules inside
// sections do not count, because the sections are handed out before the policy.
func (p *Policy) rules() (rules int) {
	if p == nil {
		return 0
	}
	for _, d := range Directions {
		if n := len(p.Sections[d]); n > 0 {
			rules += n
			continue
		}
		for i := range p.Rules[d] {
			rules += p.Rules[d][i].weight() / ruleCost
		}
	}
	return rules
}

// ranges are how many ranges of addresses and of ports a policy has.
func (p *Policy) ranges() (n int) {
	for _, d := range Directions {
		for _, r := range p.Rules[d] {
			n += len(r.Blocks) + len(r.Ports)
		}
	}
	return n
}

// walk is how many kernel rules one direction of a policy takes, or somewhat more.
func (p *Policy) walk(d Direction) (rules int) {
	for i := range p.Rules[d] {
		rules += p.Rules[d][i].walk()
	}
	return rules
}

// walk is how many kernel rules the rule takes: in each address family, one for each
// combination of a way to match the peer and a way to match the port.
func (r *Rule) walk() int {
	peers, ports := 2*len(r.Peers), len(r.NamedPorts)
	if len(r.Blocks) > 0 {
		peers += 2
	}
	if len(r.Domains) > 0 {
		peers += domainSets
	}
	if r.AnyPeer {
		peers, ports = 1, 2*ports
	}
	if r.AnyPort || len(r.Ports) > 0 {
		ports++
	}
	return peers * ports
}

// shorten closes the policies of a pod with the most rules until a packet to or from it
// meets no more than maxWalk.
func (m *Model) shorten(subject Key) {
	ns := m.namespaces[subject.Namespace]
	if ns == nil {
		return
	}
	for _, d := range Directions {
		total := 0
		by := slices.Clone(ns.subjects[subject])
		for _, s := range by {
			total += s.walks[d]
		}
		if total <= maxWalk {
			continue
		}
		slices.SortFunc(by, func(a, b *selecting) int {
			return cmp.Or(cmp.Compare(b.walks[d], a.walks[d]), compareKey(a.Key, b.Key))
		})
		for _, s := range by {
			if total <= maxWalk {
				break
			}
			total -= s.walks[d]
			m.over[s.Key] = overspent{cost: s.least(), least: s.least(), walk: true}
			m.news = append(m.news, s.Key)
			m.Quarantine(*s.given, fmt.Sprintf("a packet may meet %d rules of policies in one direction of a pod, and at pod %s it would meet more with this one: it isolates its pods and allows nothing until there is room", maxWalk, subject))
		}
	}
}

// SetBudget sets what the policies of one namespace may take of the node, in elements. It
// must be called first.
func (m *Model) SetBudget(elements int) { m.budget = elements }

// OverBudget is how many policies are quarantined because their namespace has no room for them.
func (m *Model) OverBudget() int { return len(m.over) }

// News are the policies that the budget has quarantined or released since the last call, in order.
func (m *Model) News() []Key {
	news := m.news
	m.news = nil
	sortedKeys(news)
	return slices.Compact(news)
}

// cost is what a namespace's policies take, in elements.
func (ns *namespace) cost() int { return ns.elements + objectCost*ns.objects }

// least is what a policy takes at least, whatever its selectors mean.
func (s *selecting) least() int { return objectCost*(s.objects+s.jumps()) + rangeCost*s.ranges }

// jumps is how many rules in the chains of its pods jump to a policy. For a policy that
// selects very many pods these are more than the policy's own rules.
func (s *selecting) jumps() int { return s.jumpsOf(s.subjects) }

func (s *selecting) jumpsOf(subjects int) (jumps int) {
	for _, walk := range s.walks {
		if walk > 0 {
			jumps += subjects
		}
	}
	return jumps
}

// cost is what a policy takes on its own, as far as that is known. Whole says that all of it
// is known.
func (m *Model) cost(s *selecting) (cost int, whole bool) {
	peers, names := map[Selector]struct{}{}, map[NamedPort]struct{}{}
	for _, d := range Directions {
		for _, rule := range s.Rules[d] {
			for _, selector := range rule.Peers {
				peers[selector] = struct{}{}
			}
			for _, name := range rule.NamedPorts {
				names[name] = struct{}{}
			}
		}
	}
	cost, whole = s.least(), true
	for selector := range peers {
		cost, whole = cost+m.peers[selector].size, whole && !m.peers[selector].fresh
	}
	for name := range names {
		cost, whole = cost+m.named[name].size, whole && !m.named[name].fresh
	}
	return cost, whole
}

// overspent is a policy that the budget has quarantined.
type overspent struct {
	// cost is what the policy took, as far as that was known; least is what it takes at least.
	cost, least int
	// walk: the policy was quarantined because of the number of rules that a packet would meet.
	walk bool
}

// economise quarantines policies until a namespace keeps to its budget. ClusterNetworkPolicies have no
// budget: who may write them may deny everything in any case.
func (m *Model) economise(ns *namespace) {
	fits := func() bool { return ns.cost() <= m.budget }
	if fits() || ns == m.namespaces[""] {
		return
	}
	m.closeLargest(ns, fits, fmt.Sprintf("the policies of a namespace may take %d elements of a node, a set or a rule counted as %d, and with this one they would take more",
		m.budget, objectCost))
}

// economiseNode does nothing unless all policies together take more than the given number of
// times the node's budget. Then it closes policies of the namespaces that take most, until
// all together keep to the node's budget.
func (m *Model) economiseNode(times int) {
	if !m.overNode(times) {
		return
	}
	why := fmt.Sprintf("the policies of all namespaces may take %d elements of a node and %d sets and rules, and those of this one take most", nodeBudgets*m.budget, nodeObjects*m.budget/objectCost)
	for before := -1; m.overNode(1) && m.total+m.objects != before; {
		before = m.total + m.objects
		budgeted := slices.DeleteFunc(slices.Collect(maps.Values(m.namespaces)), func(ns *namespace) bool { return ns == m.namespaces[""] })
		if len(budgeted) == 0 {
			return
		}
		most := slices.MaxFunc(budgeted, func(a, b *namespace) int { return cmp.Compare(a.cost(), b.cost()) })
		cost := most.cost()
		m.closeLargest(most, func() bool { return most.cost() < cost }, why)
	}
}

// overNode reports whether all policies together take more than the given number of times the
// node's budget.
func (m *Model) overNode(times int) bool {
	elements, objects := m.budgeted()
	return elements > times*nodeBudgets*m.budget || objectCost*objects > times*nodeObjects*m.budget
}

// budgeted are the elements, and the sets and rules, that count for the node's budget: all but those
// of ClusterNetworkPolicies.
func (m *Model) budgeted() (elements, objects int) {
	elements, objects = m.total, m.objects
	if ns := m.namespaces[""]; ns != nil {
		elements, objects = elements-ns.elements, objects-ns.objects
	}
	return elements, objects
}

// closeLargest closes the largest policies of a namespace until that is enough. Policies
// whose members are not all counted yet come first: they are new, and still grow.
func (m *Model) closeLargest(ns *namespace, enough func() bool, why string) {
	type priced struct {
		*selecting
		cost  int // as far as it is known
		whole bool
	}
	var open []priced
	for _, s := range ns.policies {
		if s.subjects > 0 && s.hasRules() {
			cost, whole := m.cost(s)
			open = append(open, priced{s, cost, whole})
		}
	}
	slices.SortFunc(open, func(a, b priced) int {
		if a.whole != b.whole {
			if b.whole {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.cost, a.cost), compareKey(a.Key, b.Key))
	})
	for _, p := range open {
		if enough() {
			return
		}
		m.over[p.Key] = overspent{cost: p.cost, least: p.least()}
		m.news = append(m.news, p.Key)
		m.Quarantine(*p.given, why+": it isolates its pods and allows nothing until there is room (see --namespace-budget)")
	}
}

// relax releases policies that the budget has quarantined, if there is room for them again:
// for as much as they took when they were quarantined, which may be less than they would take
// in full. A tenth of the budget stays free, so that one more pod does not close them again
// at once.
func (m *Model) relax() {
	if len(m.over) == 0 {
		return
	}
	walkers := map[Key]struct{}{}
	for key := range m.dirtyPolicies {
		if ns := m.namespaces[key.Namespace]; ns != nil && !ns.looked {
			ns.looked = true
			m.addWalkers(ns, walkers)
		}
	}
	for key := range m.dirtyPolicies {
		if ns := m.namespaces[key.Namespace]; ns != nil {
			ns.looked = false
		}
	}
	hasRoom := func(key Key) bool {
		price, most := m.over[key], m.budget-m.budget/10
		if _, may := walkers[key]; price.walk && !may {
			return false
		}
		ns := m.in(key.Namespace)
		elements, objects := m.budgeted()
		return price.cost <= most-ns.cost() && price.cost <= nodeBudgets*most-elements && price.cost <= nodeObjects*most-objectCost*objects
	}
	var candidates []Key // collected before sorting: thousands may have no room
	for key := range m.over {
		if hasRoom(key) {
			candidates = append(candidates, key)
		}
	}
	for _, key := range sortedKeys(candidates) {
		if hasRoom(key) {
			m.news = append(m.news, key)
			m.Release(key)
		}
	}
}

// addWalkers adds those policies of a namespace that were quarantined because of the number of
// rules that a packet would meet, and that need not be quarantined for this any more.
func (m *Model) addWalkers(ns *namespace, walkers map[Key]struct{}) {
	walks := map[Key][len(Directions)]int{} // of the quarantined policies
	for key, s := range ns.policies {
		if m.over[key].walk {
			walks[key], walkers[key] = s.given.walks(), struct{}{}
		}
	}
	if len(walks) == 0 {
		return
	}
	for _, by := range ns.subjects {
		for _, d := range Directions {
			total := 0
			for _, s := range by {
				total += s.walks[d]
			}
			for _, s := range by {
				if walk, closed := walks[s.Key]; closed && total+walk[d] > maxWalk {
					delete(walkers, s.Key)
				}
			}
		}
	}
}

// Reconsider has the policies that the budget has quarantined tried again: if their selectors
// mean fewer pods by now, there may be room for them.
func (m *Model) Reconsider() {
	for key, price := range m.over {
		price.cost = price.least
		m.over[key] = price
		m.dirtyPolicies[key] = struct{}{} // so that relax counts anew the rules that a packet would meet
	}
}
