package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// survey goes over all pairs of parties in one cluster, or in two for what differs. Ends that are alike in
// all of these are asked about once.
type survey struct {
	clusters    []*Explainer
	classifiers []classifier
	views       []map[netip.Addr]*view
}

// unit is a pod, a node or a network: an end in each cluster of the survey.
type unit []end

// member is a party with its units.
type member struct {
	Party
	classes []class
	// around is, of a network, by how many places in the list of networks the one around it comes
	// before; 0: there is none.
	around int
	// like are, of a domain name, by how many places in the list the networks come before that its addresses are in.
	like []int
}

// class is units that are alike to all policies.
type class struct {
	party Party
	key   string
	units []unit
	// host: they have nodes' addresses, so that it matters which other ends are on the same node.
	host bool
	// same: nothing about them differs between the clusters of the survey.
	same bool
}

func newSurvey(clusters ...*Explainer) *survey {
	s := &survey{clusters: clusters}
	blocks := blocksOf(clusters)
	for _, x := range clusters {
		c := x.classifier()
		c.blocks = blocks
		s.classifiers = append(s.classifiers, c)
		s.views = append(s.views, map[netip.Addr]*view{})
	}
	return s
}

// view is what decides about packets of an address in one of the clusters.
func (s *survey) view(cluster int, addr netip.Addr) *view {
	v := s.views[cluster][addr]
	if v == nil {
		v = s.clusters[cluster].viewOf(addr)
		s.views[cluster][addr] = v
	}
	return v
}

// member makes a party of units.
func (s *survey) member(p Party, units []unit) member {
	m := member{Party: p}
	if p.Kind != KindNetwork {
		m.Size = len(units)
	}
	for _, alike := range group(units, s.classOf) {
		c := class{party: p, key: s.classOf(alike[0]), units: alike, same: s.same(alike[0])}
		for _, e := range alike[0] {
			c.host = c.host || onHost(e)
		}
		m.classes = append(m.classes, c)
	}
	return m
}

// onHost reports whether an end has a node's addresses, or one of a node's pod range that is no pod's.
func onHost(e end) bool { return e.pod == nil && (e.Kind != KindAddress || e.Node != "") }

func (s *survey) classOf(u unit) string {
	texts := make([]string, len(u))
	for i, e := range u {
		if e.pod == nil && e.Kind != KindAddress {
			texts[i] = "host " + s.classifiers[i].ofHost(e)
		} else {
			texts[i] = s.classifiers[i].ofEnd(e)
		}
	}
	return strings.Join(texts, "\n")
}

// same reports whether the very same objects are about a unit in both clusters.
func (s *survey) same(u unit) bool {
	if len(u) < 2 || s.clusters[0].options != s.clusters[1].options || !slices.Equal(u[0].addrs, u[1].addrs) {
		return false
	}
	for _, addr := range u[0].addrs {
		a, b := s.view(0, addr), s.view(1, addr)
		if s.classifiers[0].names[addr] != s.classifiers[1].names[addr] ||
			!slices.Equal(a.about.Pods, b.about.Pods) || !slices.Equal(a.about.Nodes, b.about.Nodes) ||
			!slices.Equal(a.about.Namespaces, b.about.Namespaces) || !reflect.DeepEqual(a.about.PodAddresses, b.about.PodAddresses) ||
			!slices.Equal(a.from.policies, b.from.policies) || !slices.Equal(a.from.cluster, b.from.cluster) ||
			!slices.Equal(a.to.policies, b.to.policies) || !slices.Equal(a.to.cluster, b.to.cluster) {
			return false
		}
	}
	return true
}

// nameOf is the same for what is one pod, node or network, however it was asked for.
func nameOf(e end) string {
	if e.Kind == KindAddress {
		return e.Address.String()
	}
	return fmt.Sprintf("%s %s/%s", e.Kind, e.Namespace, e.Name)
}

// namesOf are the names of units in a cluster.
func namesOf(units []unit, cluster int) []string {
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = nameOf(u[cluster])
	}
	return names
}

// sample is two units that stand for a number of pairs.
type sample struct {
	from, to unit
	pairs    int
}

// samples are all pairs of units of two classes: one for them all or, where it matters, one for those of
// the same node and one for the others. Pairs of a pod or node and itself, in any cluster, are left out.
func samples(from, to class) (all []sample) {
	if !from.host && !to.host && from.key != to.key && from.party != to.party {
		return []sample{{from.units[0], to.units[0], len(from.units) * len(to.units)}}
	}
	clusters := len(from.units[0])
	var names, others [2][]string
	for i := range clusters {
		names[i], others[i] = namesOf(from.units, i), namesOf(to.units, i)
	}
	var by [4]sample // by the clusters in which the two are on the same node
	for i, a := range from.units {
		for j, b := range to.units {
			if names[0][i] == others[0][j] || clusters > 1 && names[1][i] == others[1][j] {
				continue
			}
			one := &by[0]
			if from.host || to.host {
				one = &by[sameNodes(a, b)]
			}
			if one.pairs == 0 {
				one.from, one.to = a, b
			}
			one.pairs++
		}
	}
	for _, one := range by {
		if one.pairs > 0 {
			all = append(all, one)
		}
	}
	return all
}

// sameNodes says in which clusters two units are on the same node, a bit for each.
func sameNodes(a, b unit) (bits int) {
	for i := range a {
		if a[i].Node != "" && a[i].Node == b[i].Node {
			bits |= 1 << i
		}
	}
	return bits
}

// crossings are the ways from one unit to another in a cluster, one for each address family that both have.
func (s *survey) crossings(cluster int, from, to unit) (all []crossing) {
	for _, src := range from[cluster].addrs {
		for _, dst := range to[cluster].addrs {
			if src.Is4() == dst.Is4() {
				all = append(all, s.clusters[cluster].crossing(s.view(cluster, src), s.view(cluster, dst)))
			}
		}
	}
	return all
}

// partyOf is the party that a pod's end belongs to.
func partyOf(e end) Party {
	switch {
	case e.Kind == KindAddress:
		return Party{Kind: KindAddress, Name: e.Address.String()}
	case e.Workload != nil:
		return Party{Kind: Kind(e.Workload.Kind), Namespace: e.Workload.Namespace, Name: e.Workload.Name}
	}
	return Party{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name}
}

// compareParties orders by namespace, name and kind. What has no namespace comes last.
func compareParties(a, b Party) int {
	if (a.Namespace == "") != (b.Namespace == "") {
		return -cmp.Compare(a.Namespace, b.Namespace)
	}
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
}

// compareEnds orders by namespace and name.
func compareEnds(a, b end) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// podsByName are the ends of pods in order of their names, and how many pods are none.
func (x *Explainer) podsByName(pods []*corev1.Pod) (ends []end, left []Note) {
	ends, notes := x.podEnds(pods)
	slices.SortFunc(ends, compareEnds)
	reasons := map[string]int{}
	for _, note := range notes {
		reasons[note.Reason]++
	}
	for _, of := range []struct{ reason, why string }{
		{"NoAddress", "have no address yet"}, {"HostNetwork", "are on the network of a node (hostNetwork) whose addresses are not known"},
	} {
		if n := reasons[of.reason]; n > 0 {
			left = append(left, Note{of.reason, fmt.Sprintf("%d pods %s, and are left out.", n, of.why)})
		}
	}
	return ends, left
}

// byParty puts ends together that are of one party.
func byParty(ends []end) map[Party][]end {
	all := map[Party][]end{}
	for _, e := range ends {
		p := partyOf(e)
		all[p] = append(all[p], e)
	}
	return all
}

// workloadsOf are the parties that ends belong to, in order.
func (s *survey) workloadsOf(ends []end) (all []member) {
	for p, of := range byParty(ends) {
		units := make([]unit, len(of))
		for i, e := range of {
			units[i] = unit{e}
		}
		all = append(all, s.member(p, units))
	}
	slices.SortFunc(all, func(a, b member) int { return compareParties(a.Party, b.Party) })
	return all
}

// nodeEnds are the ends that nodes are, in order of their names.
func (x *Explainer) nodeEnds() (ends []end) {
	for i := range x.nodes {
		if e := x.nodeEnd(i); len(e.addrs) > 0 {
			ends = append(ends, e)
		}
	}
	slices.SortFunc(ends, func(a, b end) int { return cmp.Compare(a.Name, b.Name) })
	return ends
}

// networks are the networks outside that policies tell apart, larger ones before those within them, and then the domain
// names.
func (s *survey) networks() (all []member) {
	networks := networks(s.classifiers[0].blocks, s.clusters)
	for i, n := range networks {
		u := make(unit, len(s.clusters))
		for at, x := range s.clusters {
			u[at] = x.addressEnd(n.one)
		}
		m := s.member(Party{Kind: KindNetwork, Network: n.prefix}, []unit{u})
		if n.around >= 0 {
			m.around = i - n.around
		}
		all = append(all, m)
	}
	return s.withNames(all)
}
