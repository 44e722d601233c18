package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Whoever may write policies in one namespace can have them mean all pods of the cluster
// by a thousand selectors. What a namespace's policies take of a node has a budget,
// counted in elements: the members of each selector and port name that they use, once, the
// ranges of addresses and ports, and objectCost for each set and rule. Over it, the largest of its policies are quarantined until
// the rest fits. So it is for the node as a whole: then it is the namespace that takes
// most whose policies are quarantined.

const (
	// DefaultBudget is what the policies of one namespace may take of a node: half a
	// million addresses. The kernel takes some 50 MB for them, and the agent as much.
	DefaultBudget = 500_000
	// objectCost is how many elements a set or a rule counts as: it takes the kernel more time
	// than memory, and 2,000 of them are what it can change at once while others wait.
	objectCost = 250
	// rangeCost is how many elements take as much as a range of addresses or of ports does.
	rangeCost = 10
	// nodeBudgets is how many namespaces' budgets a node has of elements, and nodeObjects
	// of sets and rules: these take little memory, and a node with some hundred pods has
	// thousands of usual policies.
	nodeBudgets, nodeObjects = 2, 10
)

// maxWalk is how many rules of policies a packet may meet in one direction of a pod, those
// for the other family of addresses included. The kernel takes some 0.1 µs for each.
const maxWalk = 1000

// walks are how many rules of the kernel a packet meets of a policy, per Direction, the
// jump to them included; none where it allows nothing.
func (p *Policy) walks() (w [len(Directions)]int) {
	for _, d := range Directions {
		if rules := p.walk(d); rules > 0 {
			w[d] = 1 + rules
		}
	}
	return w
}

// rules are how many rules of the kernel change with a policy, its ranges counted as what
// takes as long; nil: none. Those of sections are there before.
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

// walk is how many rules of the kernel a direction of a policy takes, or somewhat more.
func (p *Policy) walk(d Direction) (rules int) {
	for i := range p.Rules[d] {
		rules += p.Rules[d][i].walk()
	}
	return rules
}

// walk is how many rules of the kernel it takes: one for each way, in each family, that a
// peer and a port can both match.
func (r *Rule) walk() int {
	peers, ports := 2*len(r.Peers), len(r.NamedPorts)
	if len(r.Blocks) > 0 {
		peers += 2
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

// least is what a policy takes whatever its selectors mean.
func (s *selecting) least() int { return objectCost*(s.objects+s.jumps()) + rangeCost*s.ranges }

// jumps are the rules of the chains of its pods that lead to a policy, which are more than
// those of its own where it selects very many.
func (s *selecting) jumps() int { return s.jumpsOf(s.subjects) }

func (s *selecting) jumpsOf(subjects int) (jumps int) {
	for _, walk := range s.walks {
		if walk > 0 {
			jumps += subjects
		}
	}
	return jumps
}

// cost is what a policy takes on its own, as far as it is known. Whole says that it is.
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
	// cost is what it took, as far as it was known; least what it takes at least.
	cost, least int
	// walk: it was quarantined for the rules that a packet would meet.
	walk bool
}

// economise quarantines policies until a namespace keeps to its budget.
func (m *Model) economise(ns *namespace) {
	fits := func() bool { return ns.cost() <= m.budget }
	if fits() {
		return
	}
	m.closeLargest(ns, fits, fmt.Sprintf("the policies of a namespace may take %d elements of a node, a set or a rule counted as %d, and with this one they would take more",
		m.budget, objectCost))
}

// economiseNode closes policies of the namespaces that take most until all together keep
// to the node's budget, if they take more than so many times that.
func (m *Model) economiseNode(times int) {
	if !m.overNode(times) {
		return
	}
	why := fmt.Sprintf("the policies of all namespaces may take %d elements of a node and %d sets and rules, and those of this one take most", nodeBudgets*m.budget, nodeObjects*m.budget/objectCost)
	for before := -1; m.overNode(1) && m.total+m.objects != before; {
		before = m.total + m.objects
		most := slices.MaxFunc(slices.Collect(maps.Values(m.namespaces)), func(a, b *namespace) int { return cmp.Compare(a.cost(), b.cost()) })
		cost := most.cost()
		m.closeLargest(most, func() bool { return most.cost() < cost }, why)
	}
}

// overNode reports whether all policies take more than so many times what the node has.
func (m *Model) overNode(times int) bool {
	return m.total > times*nodeBudgets*m.budget || objectCost*m.objects > times*nodeObjects*m.budget
}

// closeLargest closes the largest policies of a namespace until that is enough, those
// first whose members are not all counted yet: they are new, and still grow.
func (m *Model) closeLargest(ns *namespace, enough func() bool, why string) {
	type priced struct {
		*selecting
		cost  int // as far as it is known
		whole bool
	}
	var open []priced
	for _, s := range ns.policies {
		if s.subjects > 0 && s.allows() {
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

// relax releases policies that the budget has quarantined and that have room again: as much as
// they took when they were quarantined, which may be less than they would have. A tenth of the
// budget stays free, so that a pod more does not close them at once.
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
		return price.cost <= most-ns.cost() && price.cost <= nodeBudgets*most-m.total && price.cost <= nodeObjects*most-objectCost*m.objects
	}
	var candidates []Key // there may be thousands that are none
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

// addWalkers adds the policies of a namespace that were quarantined for the rules that a packet
// would meet, and need not be any more.
func (m *Model) addWalkers(ns *namespace, walkers map[Key]struct{}) {
	walks := map[Key][len(Directions)]int{} // of those that are quarantined
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

// Reconsider has the policies that the budget has quarantined tried again: there may be room
// where fewer pods are meant.
func (m *Model) Reconsider() {
	for key, price := range m.over {
		price.cost = price.least
		m.over[key] = price
		m.dirtyPolicies[key] = struct{}{} // what a packet would meet is looked at too
	}
}
