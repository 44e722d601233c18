package policy

import (
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Held counts what a model holds.
func Held(m *Model) int {
	return len(m.namespaces) + len(m.claims) + len(m.attached) + len(m.orphans) + len(m.changedOrphans) + len(m.doubtful) + len(m.changedDoubtful) + len(m.listers) + len(m.followed) + len(m.closedMeanwhile) + len(m.made) + len(m.changedAttached) + len(m.attachments) + len(m.announced) + len(m.shownIPs) + len(m.peers) + len(m.byLabel) + len(m.named) +
		len(m.changedPeers) + len(m.changedNamed) + len(m.dirtyNodes) + len(m.dirtyAttachments) + len(m.dirtySubjects) + len(m.dirtyPolicies) + len(m.nodes) + len(m.quarantined) + len(m.over) + len(m.handed) + len(m.handedSubjects) + m.total + m.objects
}

// RuleKey tells rules apart.
func RuleKey(r Rule) string { return r.key() }

// AsksForLabel reports whether a canonical text asks for a label, by the text alone, and read.
func AsksForLabel(text string) (byText, read bool) {
	return asksForLabel(text), matcherOf(Selector{Pods: text}).asks() != ""
}

// TakeSome is Take with room for so many elements.
func TakeSome(m *Model, room int) Delta {
	s := newPortion(room)
	s.jumps = room
	return m.take(s)
}

// TakeMet is Take with room for so many elements of sets that packets meet.
func TakeMet(m *Model, room int) Delta {
	s := newPortion(portionSize)
	s.met = room
	return m.take(s)
}

// PodsByLabel are the pods by the labels that selectors not yet handed out ask for.
func PodsByLabel(m *Model) map[string][]*Pod { return m.podsByLabel() }

// TakeAll is what Intent takes.
func TakeAll(m *Model) Delta { return m.take(m.wholePortion()) }

// Recount counts from scratch what the model counts as it goes, and returns where the two differ,
// and what is over a budget.
func Recount(m *Model) (wrong []string) {
	check := func(what string, have, want any) {
		if have != want {
			wrong = append(wrong, fmt.Sprintf("%s: counted are %v, there are %v", what, have, want))
		}
	}
	users, by := map[any]int{}, map[any]map[*namespace]int{}
	count := func(ns *namespace, p *Policy) {
		use := func(name any) {
			if users[name]++; ns == nil {
				return
			}
			if by[name] == nil {
				by[name] = map[*namespace]int{}
			}
			by[name][ns]++
		}
		for _, d := range Directions {
			for _, rule := range p.Rules[d] {
				for _, s := range rule.Peers {
					use(s)
				}
				for _, n := range rule.NamedPorts {
					use(n)
				}
			}
		}
	}
	objects, total, elements := 0, 0, map[*namespace]int{}
	for name, ns := range m.namespaces {
		of := 0
		for key, s := range ns.policies {
			selects := 0
			for _, of := range m.namespaces {
				for _, selecting := range of.subjects {
					if slices.Contains(selecting, s) {
						selects++
					}
				}
			}
			check(key.String()+"'s subjects", s.subjects, selects)
			if selects > 0 {
				count(ns, &s.Policy)
				of += s.objects + s.jumps()
				elements[ns] += rangeCost * s.Policy.ranges()
				total += rangeCost * s.Policy.ranges()
			}
		}
		check("sets and rules of "+name, ns.objects, of)
		objects += of
	}
	check("sets and rules", m.objects, objects)
	for _, p := range m.handed {
		count(nil, p)
	}
	size := func(name any, t int, fresh bool, members int, at map[*namespace]int) {
		if fresh {
			members = 0
		}
		check(fmt.Sprint("members of ", name), t, members)
		if len(at) > 0 {
			total += members
		}
		for ns := range at {
			elements[ns] += members
		}
	}
	for s, g := range m.peers {
		check(fmt.Sprint("users of ", s), g.users, users[s])
		check(fmt.Sprint("namespaces of ", s), maps.Equal(g.by, by[s]), true)
		size(s, g.size, g.fresh, len(m.meant(g, nil)), by[s])
		delete(users, s)
	}
	for n, t := range m.named {
		check(fmt.Sprint("users of ", n), t.users, users[n])
		check(fmt.Sprint("namespaces of ", n), maps.Equal(t.by, by[n]), true)
		size(n, t.size, t.fresh, len(m.endpoints(n)), by[n])
		delete(users, n)
	}
	check("names that are not followed", len(users), 0)
	check("members of all", m.total, total)
	for name, ns := range m.namespaces {
		check("members of "+name, ns.elements, elements[ns])
		if name != "" { // ClusterNetworkPolicies have no budget
			check(name+" over its budget", max(ns.cost(), m.budget), m.budget)
		}
	}
	check("the node over its budget", m.overNode(1), false)
	for key := range m.over {
		_, closed := m.quarantined[key]
		check(key.String()+" over a budget, but closed", closed, true)
	}
	return wrong
}

// Over are the policies that a budget has closed.
func Over(m *Model) map[Key]struct{} {
	over := map[Key]struct{}{}
	for key := range m.over {
		over[key] = struct{}{}
	}
	return over
}

// SameAddr reports whether Judge reads an address as the judged code does, and SameRange reports
// the same for a range.
func SameAddr(text string) bool {
	read, ok := readAddr(text)
	parsed, valid := parseAddr(text)
	return ok == valid && (!ok || read == parsed)
}

func SameRange(text string) bool {
	read, ok := readRange(text)
	parsed, err := ParsePrefix(text)
	return ok == (err == nil) && (!ok || read == parsed)
}

// SameSelector reports whether a selector means the same pods to Judge and to the judged code, and is
// valid to both or to none.
func SameSelector(s *metav1.LabelSelector, of map[string]string) bool {
	text, err := canonical(s)
	return readableSelector(s) == (err == nil) && selects(s, of) == (err == nil && parseCanonical(text).Matches(LabelsOf(of)))
}
