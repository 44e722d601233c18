package explain

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/podfence/podfence/policy"
)

// protocols are those whose ports are told apart, and others.
var protocols = []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP, others}

// others is ICMP and ICMPv6, and stands for every protocol whose ports policies do not know: only rules without
// ports mean it, so that all of these get the same verdict. For ranges of ports it has all of them.
const others = policy.ICMP

// OtherProtocols is what OpenPorts calls ICMP and every other protocol but TCP, UDP and SCTP.
const OtherProtocols = "other"

// toPort is a packet to a port of one of the protocols; of others an echo request, which has no port.
func toPort(p policy.Packet, protocol policy.Protocol, number uint16) policy.Packet {
	p.Protocol, p.DstPort, p.ICMPType = protocol, number, 0
	switch {
	case protocol == others && p.Src.Is4():
		p.DstPort, p.ICMPType = 0, 8
	case protocol == others:
		p.Protocol, p.DstPort, p.ICMPType = policy.ICMPv6, 0, 128
	}
	return p
}

// ports are the ports of each verdict between the ends of an answer, and by which rules nobody knows of some.
// p has the two addresses. All ports between two bounds, which no rule tells apart, get the same verdict, so
// one of them is asked about.
func (x *Explainer) ports(a *Answer, bounds map[policy.Protocol][]int, p policy.Packet) (ports map[Verdict][]policy.PortRange, doubts []Note) {
	egress, ingress := x.seen(a, p)
	ports = portsByVerdict(bounds, func(protocol policy.Protocol, first uint16) Verdict {
		egress.Packet = toPort(p, protocol, first)
		ingress.Packet = egress.Packet
		w, by := x.weigh(x.Judge(egress.Packet), egress, ingress)
		if w.both == Unknown {
			doubts = union(doubts, by)
		}
		return w.both
	})
	return ports, doubts
}

// overall is the verdict on all ports together.
func overall(ports map[Verdict][]policy.PortRange) Verdict {
	switch {
	case allOpen(ports[Allowed]):
		return Allowed
	case len(ports[Allowed]) > 0:
		return Mixed
	case len(ports[Unknown]) > 0:
		return Unknown
	}
	return Denied
}

// portsByVerdict are the ports of each verdict, in disjoint ranges and in order. Within bounds one port is
// asked about.
func portsByVerdict(bounds map[policy.Protocol][]int, verdict func(policy.Protocol, uint16) Verdict) map[Verdict][]policy.PortRange {
	ports := map[Verdict][]policy.PortRange{}
	for _, protocol := range protocols {
		for i, first := range bounds[protocol] {
			last := 65535
			if i+1 < len(bounds[protocol]) {
				last = bounds[protocol][i+1] - 1
			}
			v := verdict(protocol, uint16(first))
			ports[v] = appendRange(ports[v], policy.PortRange{Protocol: protocol, First: uint16(first), Last: uint16(last)})
		}
	}
	return ports
}

// appendRange appends a range that is behind all others, joined with the last if nothing is between.
func appendRange(open []policy.PortRange, r policy.PortRange) []policy.PortRange {
	if n := len(open) - 1; n >= 0 && open[n].Protocol == r.Protocol && int(open[n].Last)+1 == int(r.First) {
		open[n].Last = r.Last
		return open
	}
	return append(open, r)
}

// bounds are, for each protocol, the first ports of ranges that no rule of the two ends' policies divides.
func (x *Explainer) bounds(from, to end) map[policy.Protocol][]int {
	named := declaredPorts(to.pod)
	if to.pod == nil && len(to.addrs) > 0 {
		for _, pod := range x.Holder(to.addrs[0]).Pods {
			named = append(named, declaredPorts(pod)...)
		}
	}
	return bounds(x.portsOf(from, to), named)
}

// bounds are, for each protocol, the first ports of ranges that ports do not divide, in order. named are
// what names mean where packets go to.
func bounds(ports []port, named []policy.ContainerPort) map[policy.Protocol][]int {
	bounds := map[policy.Protocol][]int{}
	for _, protocol := range protocols {
		bounds[protocol] = []int{1}
	}
	add := func(protocol policy.Protocol, first, last int) {
		for _, at := range []int{first, last + 1} {
			if 1 < at && at <= 65535 {
				bounds[protocol] = append(bounds[protocol], at)
			}
		}
	}
	for _, p := range ports {
		if p.named == "" {
			add(p.protocol, int(p.first), int(p.last))
		}
		for _, declared := range named {
			if p.named == declared.Name {
				add(declared.Protocol, int(declared.Number), int(declared.Number))
			}
		}
	}
	for protocol := range bounds {
		slices.Sort(bounds[protocol])
		bounds[protocol] = slices.Compact(bounds[protocol])
	}
	return bounds
}

// portsOf are the ports that rules name which may be about two ends.
func (x *Explainer) portsOf(ends ...end) (ports []port) {
	seen := map[string]bool{}
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		for _, e := range ends {
			for _, addr := range e.addrs {
				for _, pod := range x.holders[addr] {
					if key := fmt.Sprint(d, pod.Namespace); !seen[key] {
						seen[key] = true
						for _, np := range x.policies[pod.Namespace] {
							for _, r := range networkRules(np, d) {
								ports = append(ports, r.ports...)
							}
						}
					}
				}
			}
		}
		for _, cnp := range x.cluster.ClusterPolicies {
			for _, r := range clusterRules(cnp, d) {
				ports = append(ports, r.ports...)
			}
		}
	}
	return ports
}

// allOpen reports whether every port of every protocol is open, and all protocols without ports.
func allOpen(open []policy.PortRange) bool {
	return len(open) == len(protocols) && !slices.ContainsFunc(open, func(r policy.PortRange) bool { return r.First != 1 || r.Last != 65535 })
}

// openPorts are ranges of ports as people read them.
func openPorts(open []policy.PortRange) (all []OpenPorts) {
	for _, r := range open {
		text := fmt.Sprintf("%d-%d", r.First, r.Last)
		switch {
		case r.First == r.Last:
			text = fmt.Sprint(r.First)
		case r.First == 1 && r.Last == 65535:
			text = "all"
		}
		protocol := r.Protocol.String()
		if r.Protocol == others {
			protocol = OtherProtocols
		}
		if n := len(all) - 1; n >= 0 && all[n].Protocol == protocol {
			all[n].Ports = append(all[n].Ports, text)
			continue
		}
		all = append(all, OpenPorts{Protocol: protocol, Ports: []string{text}})
	}
	return all
}

// representative is a port by which to explain an answer about all ports: one that is open and, if there
// is such, declared by a container; if none is open, one that is declared.
func representative(open []policy.PortRange, to end) (policy.Protocol, uint16) {
	declared := declaredPorts(to.pod)
	slices.SortFunc(declared, func(a, b policy.ContainerPort) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
	})
	for _, d := range declared {
		if len(open) == 0 || slices.ContainsFunc(open, func(r policy.PortRange) bool {
			return r.Protocol == d.Protocol && r.First <= d.Number && d.Number <= r.Last
		}) {
			return d.Protocol, d.Number
		}
	}
	if len(open) > 0 {
		return open[0].Protocol, open[0].First
	}
	return policy.TCP, 80
}
