package generate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// after is the cluster with the policies in force.
func (g *generator) after(policies []Policy) *explain.Explainer {
	var enforced []*networkingv1.NetworkPolicy
	for _, p := range policies {
		np := p.DeepCopy()
		delete(np.Annotations, policy.EnforcementAnnotation)
		enforced = append(enforced, np)
	}
	c, err := explain.Apply(g.cluster, &explain.Cluster{Snapshot: policy.Snapshot{Policies: enforced}})
	if err != nil { // nothing is deleted, of which alone it has errors
		c = g.cluster
	}
	with := *c
	with.Pods = append(slices.Clone(c.Pods), g.standIns()...)
	return explain.New(&with, g.options.Judge)
}

// The first addresses of pods that stand for those that are gone: reserved for future use (RFC 1112 section 4) and
// for documentation (RFC 3849), so that no policy has a reason to name them.
var (
	standIn4 = netip.MustParseAddr("241.0.0.1")
	standIn6 = netip.MustParseAddr("2001:db8:fffe::1")
)

// standIns are pods for units that were seen and have none that runs: each the first of the unit's, as it was, with
// addresses that nobody has.
func (g *generator) standIns() (pods []*corev1.Pod) {
	four, six := standIn4, standIn6
	for _, u := range g.units {
		if !u.seen || slices.ContainsFunc(u.pods, func(pod *corev1.Pod) bool { return len(addressesOf(pod)) > 0 }) {
			continue
		}
		pod := u.pods[0].DeepCopy()
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: four.String()}, {IP: six.String()}}}
		four, six = four.Next(), six.Next()
		u.standIn = pod
		pods = append(pods, pod)
	}
	return pods
}

// addressesOf are the addresses of a pod that runs.
func addressesOf(pod *corev1.Pod) []netip.Addr {
	seen, live := policy.PodOf(pod)
	if !live {
		return nil
	}
	return seen.IPs
}

// address is where an end is now: a pod that is gone is represented by another of its unit.
func (g *generator) address(e end) netip.Addr {
	if !e.isPod() {
		return e.addr
	}
	u := g.unitOf[e.pod]
	pods := append([]*corev1.Pod{g.podOf(e.pod)}, u.pods...)
	if u.standIn != nil {
		pods = append(pods, u.standIn)
	}
	for _, pod := range pods {
		addrs := addressesOf(pod)
		if slices.Contains(addrs, e.addr) {
			return e.addr
		}
		if at := slices.IndexFunc(addrs, func(addr netip.Addr) bool { return addr.Is4() == e.addr.Is4() }); at >= 0 {
			return addrs[at]
		}
	}
	return netip.Addr{}
}

// packet is the first packet of a connection; false: its pods have no address of its family any more.
func (g *generator) packet(c *connection) (policy.Packet, bool) {
	p := policy.Packet{
		Src: g.address(c.source), Dst: g.address(c.destination), Protocol: c.protocol, DstPort: c.port, ICMPType: c.icmpType, HopLimit: 64,
	}
	p.Hairpin = p.Src == p.Dst
	return p, p.Src.IsValid() && p.Dst.IsValid()
}

// check has each connection judged.
func (g *generator) check(after *explain.Explainer) {
	for _, c := range g.connections {
		p, is := g.packet(c)
		if !is {
			g.report.Left[NoAddress] += c.flows
			continue
		}
		reason := g.denial(c, after.Judge(p))
		if reason == "" {
			g.report.Covered += c.flows
			continue
		}
		g.report.Denied = append(g.report.Denied, Uncovered{From: g.nameOf(c.source), To: g.nameOf(c.destination), Port: c.portText(), Flows: c.flows, Reason: reason})
	}
	slices.SortFunc(g.report.Denied, func(a, b Uncovered) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Reason, b.Reason))
	})
	g.report.Denied = sums(g.report.Denied)
}

// sums adds up those that differ in their flows alone, as pods of one workload do. They are in order.
func sums(all []Uncovered) (out []Uncovered) {
	for _, one := range all {
		if n := len(out) - 1; n >= 0 && out[n].From == one.From && out[n].To == one.To && out[n].Port == one.Port && out[n].Reason == one.Reason {
			out[n].Flows += one.Flows
			continue
		}
		out = append(out, one)
	}
	return out
}

// denial is why a connection does not pass any more; empty: it does.
func (g *generator) denial(c *connection, v policy.Verdict) string {
	denied := []policy.Judgement{}
	if c.source.isPod() && !v.Egress.Allowed {
		denied = append(denied, v.Egress)
	}
	if c.destination.isPod() && !v.Ingress.Allowed {
		denied = append(denied, v.Ingress)
	}
	if len(denied) == 0 {
		return ""
	}
	if !c.hasPort() {
		return "NetworkPolicies name ports of TCP, UDP and SCTP, and nothing of this protocol"
	}
	for _, e := range []end{c.source, c.destination} {
		if u := g.unitOf[e.pod]; u != nil && u.selector == nil {
			return u.name() + " has no label that stays and that all of its pods have, so that no rule can mean it"
		}
	}
	texts := make([]string, len(denied))
	for i, j := range denied {
		texts[i] = j.String()
	}
	return strings.Join(texts, "; ")
}

// nameOf is an end as people write it: the workload of a pod.
func (g *generator) nameOf(e end) string {
	switch {
	case e.isPod():
		return g.unitOf[e.pod].name()
	case e.node != "":
		return explain.Target{Kind: explain.KindNode, Name: e.node}.String()
	}
	return e.addr.String()
}

// portText is the port as people write it, or the protocol where there is none.
func (p pairing) portText() string {
	if !p.hasPort() {
		return p.protocol.String()
	}
	return fmt.Sprintf("%d/%s", p.port, p.protocol)
}
