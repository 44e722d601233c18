package generate

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// used are the ports at which two parties were seen, by their texts; addresses outside are parties of their own.
type used map[[2]string]map[port]bool

func (u used) add(from, to string, at port) {
	if u[[2]string{from, to}] == nil {
		u[[2]string{from, to}] = map[port]bool{}
	}
	u[[2]string{from, to}][at] = true
}

// findOpen finds what is open to and from workloads that have a policy though nothing was seen of it: by other
// policies, by rules that mean several workloads, and by the DNS's.
func (g *generator) findOpen(after *explain.Explainer, policies []Policy) {
	seen := g.used(after)
	fenced := map[string]bool{}
	var namespaces []string
	for _, p := range policies {
		for _, u := range g.units {
			if slices.Equal(u.of, p.Of) {
				for _, pod := range u.pods {
					fenced[after.PartyOf(pod).String()] = true
				}
			}
		}
		if !slices.Contains(namespaces, p.Namespace) {
			namespaces = append(namespaces, p.Namespace)
		}
	}
	told := map[string]bool{}
	for _, namespace := range namespaces {
		reach, err := after.Reach(explain.Target{Kind: explain.KindNamespace, Name: namespace})
		if err != nil {
			continue // it has no pods, so that nothing is open
		}
		for _, row := range append(slices.DeleteFunc(reach.Ingress, func(row explain.ReachRow) bool { return !fenced[row.To.String()] }),
			slices.DeleteFunc(reach.Egress, func(row explain.ReachRow) bool { return !fenced[row.From.String()] })...) {
			if row.From.Kind == explain.KindNodes || row.To.Kind == explain.KindNodes || row.From.Kind == explain.KindDomain || row.To.Kind == explain.KindDomain {
				continue // nodes reach their own pods, whatever policies say; others' rules have their addresses
			}
			ports := unused(row.Open, seen.between(row.From, row.To))
			text := row.From.String() + " -> " + row.To.String() + "  " + ports
			if ports != "" && !told[text] {
				told[text] = true
				g.report.Open = append(g.report.Open, text)
			}
		}
	}
	slices.Sort(g.report.Open)
}

// used are the ports that were seen, and those of the DNS, which everyone may ask.
func (g *generator) used(x *explain.Explainer) used {
	seen := used{}
	for _, c := range g.connections {
		var names [2]string
		for i, e := range []end{c.source, c.destination} {
			names[i] = e.addr.String()
			if e.isPod() {
				names[i] = x.PartyOf(g.podOf(e.pod)).String()
			}
		}
		seen.add(names[0], names[1], port{c.protocol, c.port})
	}
	if g.dns.nodeLocal {
		for _, p := range dnsProtocols {
			seen.add("", nodeLocalDNS.String(), port{p, dnsPort})
		}
	}
	for _, u := range g.dns.units {
		for _, pod := range u.pods {
			for _, at := range g.dns.ports {
				seen.add("", x.PartyOf(pod).String(), at)
			}
		}
	}
	return seen
}

// between are the ports at which two parties were seen.
func (u used) between(from, to explain.Party) map[port]bool {
	ports := maps.Clone(u[[2]string{from.String(), to.String()}])
	if ports == nil {
		ports = map[port]bool{}
	}
	maps.Copy(ports, u[[2]string{"", to.String()}])
	if from.Kind != explain.KindNetwork && to.Kind != explain.KindNetwork {
		return ports
	}
	for at, these := range u {
		if (at[0] == "" || means(from, at[0])) && means(to, at[1]) {
			maps.Copy(ports, these)
		}
	}
	return ports
}

// means reports whether a party has a name, or is a network with this address.
func means(p explain.Party, name string) bool {
	if p.Kind != explain.KindNetwork {
		return p.String() == name
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && p.Network.Contains(addr)
}

// unused is what is open beside the ports that were seen, as people read it.
func unused(open []explain.OpenPorts, seen map[port]bool) string {
	var texts []string
	for _, of := range open {
		for _, text := range of.Ports {
			if !isUsed(of.Protocol, text, seen) {
				texts = append(texts, text+"/"+of.Protocol)
			}
		}
	}
	return strings.Join(texts, " ")
}

// isUsed reports whether all ports of a range were seen.
func isUsed(protocol, text string, seen map[port]bool) bool {
	first, last, isRange := strings.Cut(text, "-")
	low, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return false // all of them
	}
	high := low
	if isRange {
		if high, err = strconv.ParseUint(last, 10, 16); err != nil {
			return false
		}
	}
	for number := low; number <= high; number++ {
		if !slices.ContainsFunc([]policy.Protocol{policy.TCP, policy.UDP, policy.SCTP}, func(p policy.Protocol) bool {
			return p.String() == protocol && seen[port{p, uint16(number)}]
		}) {
			return false
		}
	}
	return true
}
