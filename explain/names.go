package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podfence/podfence/policy"
)

// Domain is by which domain name a rule means an address.
type Domain struct {
	// Name is the rule's, such as "*.example.com", and Asked the name that was resolved, such as "api.example.com".
	Name  string `json:"name"`
	Asked string `json:"asked"`
	// By is who was told that the name has the address: Pod or Agent.
	By string `json:"by"`
	// Until is when this counts for new connections no more; zero: it is not known.
	Until time.Time `json:"until,omitzero"`
}

// Who may have been told what a domain name's addresses are.
const (
	ByPod   = "Pod"
	ByAgent = "Agent"
)

// told is an address that somebody was told of: a pod, by its own address, or the agent, which has none.
type told struct{ addr, by netip.Addr }

// domainsIn are the domain names that policies of a cluster have, each once.
func domainsIn(c *Cluster) (names []policy.DomainName) {
	for _, cnp := range c.ClusterPolicies {
		for _, r := range clusterRules(cnp, policy.Egress) {
			for _, p := range r.peers {
				for _, text := range p.domains {
					if name := policy.DomainNameOf(text); name.Valid() {
						names = append(names, name)
					}
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// meant are those of some resolutions whose names policies have, which is few of what a cluster's pods are told.
func (x *Explainer) meant(all []policy.Resolution) (meant []policy.Resolution) {
	if len(x.domains) == 0 {
		return nil
	}
	names := map[string]bool{}
	for _, r := range all {
		is, known := names[r.Name]
		if !known {
			is = slices.ContainsFunc(x.domains, func(d policy.DomainName) bool { return d.Matches(r.Name) })
			names[r.Name] = is
		}
		if is {
			meant = append(meant, r)
		}
	}
	return meant
}

// resolutionsOf are what decides by names about packets between some addresses.
func (x *Explainer) resolutionsOf(addrs ...netip.Addr) (all []policy.Resolution) {
	for _, addr := range addrs {
		all = append(all, x.resolved[told{addr: addr}]...)
		for _, by := range addrs {
			all = append(all, x.resolved[told{addr, by}]...)
		}
	}
	return all
}

// NamesDomains reports whether a policy of a cluster has domain names, so that verdicts depend on what these are resolved to.
func NamesDomains(c *Cluster) bool { return len(domainsIn(c)) > 0 }

// NodesOf are the nodes of the pods that a target stands for, in order; there are none of a target that is not there.
func (x *Explainer) NodesOf(t Target) (nodes []string) {
	ends, _, _ := x.ends(t) // who asks about it is told of the error
	for _, e := range ends {
		if e.pod != nil && e.Node != "" {
			nodes = append(nodes, e.Node)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// Resolving answers questions about the same Cluster as if every pod, and the agents, had been told that names have these
// addresses, and nothing else.
func (x *Explainer) Resolving(addrs map[string][]netip.Addr) *Explainer {
	c := *x.cluster
	c.Resolutions, c.Lapsed, c.NamesKnown = nil, nil, true
	for name, all := range addrs {
		for _, addr := range all {
			c.Resolutions = append(c.Resolutions, policy.Resolution{Name: name, Addr: addr})
			for pod := range x.holders {
				if pod.Is4() == addr.Is4() {
					c.Resolutions = append(c.Resolutions, policy.Resolution{Name: name, Addr: addr, Pod: pod})
				}
			}
		}
	}
	slices.SortFunc(c.Resolutions, policy.CompareResolutions)
	return New(&c, x.options)
}

// domainOf is by which name a peer of a rule means the packet's; nil: by none. Of several it is the one that counts
// longest.
func (x *Explainer) domainOf(ref policy.RuleRef, p packet) *Domain {
	var found policy.Resolution
	var by string
	for _, r := range x.rulesOf(ref.Policy, ref.Direction) {
		if r.ref.Rule != ref.Rule || ref.Peer < 0 || ref.Peer >= len(r.peers) {
			continue
		}
		for _, name := range r.peers[ref.Peer].domains {
			for _, one := range x.resolutionsOf(p.peerAddr, p.Src) {
				if one.Addr == p.peerAddr && countsFor(name, one, p) && (by == "" || one.Expires.IsZero() || one.Expires.After(found.Expires) && !found.Expires.IsZero()) {
					found, by = one, name
				}
			}
		}
	}
	if by == "" {
		return nil
	}
	d := &Domain{Name: by, Asked: found.Name, By: ByPod, Until: found.Expires}
	if !found.Pod.IsValid() {
		d.By = ByAgent
	}
	return d
}

// countsFor reports whether what somebody was told counts for a rule's name, and for the pod that sends a packet.
func countsFor(name string, r policy.Resolution, p packet) bool {
	domain := policy.DomainNameOf(name)
	return domain.Valid() && domain.Matches(r.Name) && (r.Pod == p.Src || !r.Pod.IsValid() && !domain.Wildcard())
}

// String is by which name, who was told so, and until when it counts.
func (d Domain) String() string {
	who := "the pod"
	if d.By == ByAgent {
		who = "the agent"
	}
	text := fmt.Sprintf("by %s, which %s was told has this address", d.Asked, who)
	if !d.Until.IsZero() {
		text += ", until " + clock(d.Until)
	}
	return text
}

// clock is a time as texts have it.
func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// missedDomains is nothing if a domain name of a peer means the packet's peer, and else what is nearest to that.
func (x *Explainer) missedDomains(entry peer, p packet) (nearest []mismatch) {
	for i, name := range entry.domains {
		failed, means := x.missedDomain(name, fmt.Sprintf("%s.domainNames[%d]", entry.path, i), p)
		if means {
			return nil
		}
		if i == 0 || failed.distance < nearest[0].distance {
			nearest = []mismatch{failed}
		}
	}
	return nearest
}

// mostAddresses is how many addresses of a name are listed.
const mostAddresses = 4

// missedDomain says why a domain name does not mean the packet's peer.
func (x *Explainer) missedDomain(name, path string, p packet) (mismatch, bool) {
	say := func(distance int, format string, args ...any) (mismatch, bool) {
		return mismatch{Mismatch{path, fmt.Sprintf(format, args...)}, distance}, false
	}
	domain := policy.DomainNameOf(name)
	if !domain.Valid() {
		return say(9, "%q is not a domain name, nor one behind *., so that it means nobody", name)
	}
	var others []netip.Addr    // what the name has for the pod
	var another, agents string // the name that another pod was told has the address, or the agent
	for _, r := range x.all {
		switch {
		case !domain.Matches(r.Name):
		case r.Addr == p.peerAddr && countsFor(name, r, p):
			return mismatch{}, true
		case r.Addr == p.peerAddr && r.Pod.IsValid():
			another = r.Name
		case r.Addr == p.peerAddr:
			agents = r.Name
		case r.Addr.Is4() == p.peerAddr.Is4() && countsFor(name, r, p) && !slices.Contains(others, r.Addr):
			others = append(others, r.Addr)
		}
	}
	if was, is := x.lapsed(name, p); is {
		return say(1, "%s had the address %s until %s, which is over: the pod has to resolve it again, and does not, or not by the cluster's DNS", was.Name, p.peerAddr, clock(was.Expires))
	}
	switch {
	case another != "":
		return say(2, "%s has the address %s for another pod, and what one pod is told does not count for others: has this pod asked the cluster's DNS for it?", another, p.peerAddr)
	case agents != "":
		return say(2, "the agent knows that %s has the address %s, and that does not count for *: has the pod asked the cluster's DNS for it?", agents, p.peerAddr)
	case len(others) > 0:
		return say(3, "%s has other addresses for the pod: %s", domain, addressesText(others))
	case !x.cluster.NamesKnown:
		return say(4, "which addresses %s has is not known here: it means nobody", domain)
	}
	return say(4, "no answer to the pod says that %s has the address %s: does the pod ask the cluster's DNS, and for this name?", domain, p.peerAddr)
}

// lapsed is what the sender of a packet, or the agent, was told of a name and the packet's peer last, and counts no more.
func (x *Explainer) lapsed(name string, p packet) (last policy.Resolution, is bool) {
	for _, r := range x.cluster.Lapsed {
		if r.Addr == p.peerAddr && countsFor(name, r, p) && (!is || r.Expires.After(last.Expires)) {
			last, is = r, true
		}
	}
	return last, is
}

// addressesText lists a few addresses.
func addressesText(addrs []netip.Addr) string {
	slices.SortFunc(addrs, netip.Addr.Compare)
	texts := make([]string, 0, mostAddresses+1)
	for i, addr := range addrs {
		if i == mostAddresses {
			texts = append(texts, fmt.Sprintf("and %d more", len(addrs)-i))
			break
		}
		texts = append(texts, addr.String())
	}
	return strings.Join(texts, ", ")
}

// domainEnds are the addresses that anybody was told a domain name has.
func (x *Explainer) domainEnds(name string) (ends []end, notes []Note) {
	var addrs []netip.Addr
	for _, r := range x.cluster.Resolutions {
		if r.Name == name && !slices.Contains(addrs, r.Addr) {
			addrs = append(addrs, r.Addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, addr := range addrs {
		ends = append(ends, x.addressEnd(addr))
	}
	if len(ends) == 0 {
		notes = []Note{{"NoAddress", fmt.Sprintf("Which addresses %s has is not known here.", name)}}
	}
	return ends, notes
}

// textsByAddress says of each address which names mean it, for whom, and which names mean what others for it.
// Addresses of which it says the same are alike to all names.
func textsByAddress(meant []policy.Resolution) map[netip.Addr]string {
	of := map[netip.Addr][]string{}
	for _, r := range meant {
		of[r.Addr] = append(of[r.Addr], fmt.Sprintf(" %s<%s", r.Name, r.Pod))
		if r.Pod.IsValid() {
			of[r.Pod] = append(of[r.Pod], fmt.Sprintf(" %s>%s", r.Name, r.Addr))
		}
	}
	texts := make(map[netip.Addr]string, len(of))
	for addr, all := range of {
		slices.Sort(all)
		texts[addr] = strings.Join(slices.Compact(all), "")
	}
	return texts
}

// outsideNames are the names that policies of some clusters mean, each with those of its addresses that are nobody's in
// them, in order.
func outsideNames(clusters []*Explainer) (names []string, addrs map[string][]netip.Addr) {
	addrs = map[string][]netip.Addr{}
	for _, x := range clusters {
		for _, r := range x.all {
			inside := slices.ContainsFunc(clusters, func(x *Explainer) bool { return x.isInside(r.Addr) })
			if !inside && !slices.Contains(addrs[r.Name], r.Addr) {
				addrs[r.Name] = append(addrs[r.Name], r.Addr)
			}
		}
	}
	for name, all := range addrs {
		slices.SortFunc(all, netip.Addr.Compare)
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names, addrs
}

// isInside reports whether an address is a pod's, a node's or a Service's.
func (x *Explainer) isInside(addr netip.Addr) bool {
	return len(x.holders[addr]) > 0 || x.serviceAt[addr] != nil || slices.ContainsFunc(x.nodes, func(n policy.Node) bool { return nodeHas(n, addr) })
}

// withNames are parties outside of the cluster that are networks, and behind them those that policies mean by domain
// names: each with the addresses that anybody was told it has.
func (s *survey) withNames(networks []member) []member {
	all := slices.Clip(networks)
	names, addrs := outsideNames(s.clusters)
	for _, name := range names {
		var units []unit
		var like []int
		for _, addr := range addrs[name] {
			u := make(unit, len(s.clusters))
			for at, x := range s.clusters {
				u[at] = x.addressEnd(addr)
			}
			units = append(units, u)
			for i := len(networks) - 1; i >= 0; i-- { // the smallest comes last
				if networks[i].Network.Contains(addr) {
					like = append(like, len(all)-i)
					break
				}
			}
		}
		m := s.member(Party{Kind: KindDomain, Name: name}, units)
		slices.Sort(like)
		m.like = slices.Compact(like)
		all = append(all, m)
	}
	return all
}

// isAsAround reports whether what is said of a peer, which is the i-th, is what is said of the networks that a domain
// name's addresses are in, so that it goes without saying.
func isAsAround(peer member, i int, said [][]string) bool {
	var around []string
	for _, back := range peer.like {
		around = append(around, said[i-back]...)
	}
	slices.Sort(around)
	return len(peer.like) > 0 && slices.Equal(said[i], slices.Compact(around))
}
