package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Whoever may write policies in one namespace can have them mean all pods of the cluster
// by a thousand selectors. What a namespace's policies take of a node has a budget,
// counted in elements: the members of each selector and port name that they use, once,
// and setCost for each set and rule. Over it, the largest of its policies are closed until
// the rest fits. So it is for the node as a whole: then it is the namespace that takes
// most whose policies are closed.

const (
	// DefaultBudget is what the policies of one namespace may take of a node: half a
	// million addresses, or five thousand sets and rules. The kernel takes some 50 MB
	// for the addresses, and the agent as much.
	DefaultBudget = 500_000
	// nodeBudgets is how many namespaces' budgets a node has.
	nodeBudgets = 2
)

// maxWalk is how many rules of policies a packet may meet in one direction of a pod, those
// for the other family of addresses included. The kernel takes some 0.1 µs for each.
const maxWalk = 2000

// walk is how many rules of the kernel a direction of a policy takes.
func (p *Policy) walk(d Direction) (rules int) {
	for _, r := range p.Rules[d] {
		peers, ports := 2*len(r.Peers), len(r.NamedPorts)
		if len(r.Blocks) > 0 {
			peers += 2
		}
		if r.AnyPeer {
			peers, ports = 1, 2*ports
		}
		switch n := len(r.Ports); {
		case r.AnyPort:
			ports++
		case n == 0:
		case SinglePorts(r.Ports):
			ports++
		default:
			ports += 1 + (n-1)/RangesPerSet
		}
		rules += peers * ports
	}
	return rules
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
			m.over[s.Key] = overspent{cost: unlimited / 2, least: setCost * s.objects}
			m.news = append(m.news, s.Key)
			m.Close(*s.given, fmt.Sprintf("a packet may meet %d rules of policies in one direction of a pod, and at pod %s it would meet more with this one: it isolates its pods and allows nothing until there is room", maxWalk, subject))
		}
	}
}

// SetBudget sets what the policies of one namespace may take of the node, in elements. It
// must be called first.
func (m *Model) SetBudget(elements int) { m.budget = elements }

// OverBudget is how many policies are closed because their namespace has no room for them.
func (m *Model) OverBudget() int { return len(m.over) }

// News are the policies that the budget has closed or opened since the last call, in order.
func (m *Model) News() []Key {
	news := m.news
	m.news = nil
	sortedKeys(news)
	return slices.Compact(news)
}

// cost is what a namespace's policies take, in elements.
func (ns *namespace) cost() int { return ns.elements + setCost*ns.objects }

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
	cost, whole = setCost*s.objects, true
	for selector := range peers {
		cost, whole = cost+m.peers[selector].size, whole && !m.peers[selector].fresh
	}
	for name := range names {
		cost, whole = cost+m.named[name].size, whole && !m.named[name].fresh
	}
	return cost, whole
}

// overspent is a policy that the budget has closed.
type overspent struct {
	// cost is what it took, or more than any budget if that is not known.
	cost int
	// least is what it takes at least.
	least int
}

// economise closes policies until the namespaces of a set keep to their budgets. It costs
// nothing where they do.
func (m *Model) economise(by map[*namespace]int) {
	for _, ns := range slices.Collect(maps.Keys(by)) {
		m.closeLargest(ns, func() bool { return ns.cost() <= m.budget },
			fmt.Sprintf("the policies of a namespace may take %d elements of a node, a set or a rule counted as %d, and with this one they would take more", m.budget, setCost))
	}
}

// economiseNode closes policies of the namespaces that take most until all together keep
// to the node's budget.
func (m *Model) economiseNode() {
	taken := func() int { return m.total + setCost*m.objects }
	node := nodeBudgets * m.budget
	why := fmt.Sprintf("the policies of all namespaces may take %d elements of a node, a set or a rule counted as %d, and those of this one take most", node, setCost)
	for before := 0; taken() > node && taken() != before; {
		before = taken()
		most := slices.MaxFunc(slices.Collect(maps.Values(m.namespaces)), func(a, b *namespace) int { return cmp.Compare(a.cost(), b.cost()) })
		cost := most.cost()
		m.closeLargest(most, func() bool { return most.cost() < cost }, why)
	}
}

// closeLargest closes the largest policies of a namespace until that is enough.
func (m *Model) closeLargest(ns *namespace, enough func() bool, why string) {
	if enough() {
		return
	}
	type priced struct {
		*selecting
		overspent
	}
	var open []priced
	for _, s := range ns.policies {
		if s.subjects == 0 || !s.open() {
			continue
		}
		cost, whole := m.cost(s)
		price := overspent{cost: cost, least: setCost * s.objects}
		if !whole {
			price.cost = unlimited / 2
		}
		open = append(open, priced{s, price})
	}
	slices.SortFunc(open, func(a, b priced) int { return cmp.Or(cmp.Compare(b.cost, a.cost), compareKey(a.Key, b.Key)) })
	for _, p := range open {
		if enough() {
			return
		}
		m.over[p.Key] = p.overspent
		m.news = append(m.news, p.Key)
		m.Close(*p.given, why+": it isolates its pods and allows nothing until there is room (see --namespace-budget)")
	}
}

// relax opens policies that the budget has closed and that have room again. A tenth of
// the budget stays free, so that a pod more does not close them at once.
func (m *Model) relax() {
	for _, key := range sortedKeys(slices.Collect(maps.Keys(m.over))) {
		cost, ns := m.over[key].cost, m.in(key.Namespace)
		if cost <= m.budget-m.budget/10-ns.cost() && cost <= nodeBudgets*(m.budget-m.budget/10)-m.total-setCost*m.objects {
			m.news = append(m.news, key)
			m.Reopen(key)
		}
	}
}

// Reconsider has the policies that the budget has closed tried again: there may be room
// where fewer pods are meant.
func (m *Model) Reconsider() {
	for key, price := range m.over {
		price.cost = price.least
		m.over[key] = price
	}
}

// reconsider has policies of a namespace tried again whose cost was not known when the
// budget closed them, as another of its policies has changed.
func (m *Model) reconsider(namespace string) {
	for key, price := range m.over {
		if key.Namespace == namespace && price.cost > m.budget {
			price.cost = price.least
			m.over[key] = price
		}
	}
}
