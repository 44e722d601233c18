package truth

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// check is the oracle: what the package promises, for every address in use. A pod that
// ended by the API server, while its container runs, may be fenced or closed. There may
// be no table.
func (w *world) check(t *ruleset.Table) (err error) {
	for _, x := range w.inUse() {
		for _, ip := range x.ips {
			p := podOf(x)
			if x.lost && w.unpromised(ip) {
				continue
			}
			if x.lost || p == nil || ended(p) && !mapped(t, ip) {
				p, err = nil, errors.Join(err, w.checkClosed(t, ip))
			} else {
				err = errors.Join(err, w.checkFenced(t, ip, p))
			}
			if err = errors.Join(err, w.checkMembers(t, ip, p), w.checkPackets(t, ip, end{pod: p, closed: p == nil})); err != nil {
				return fmt.Errorf("%s of %s (UID %s): %w", ip, x, x.uid, err)
			}
		}
	}
	return errors.Join(err, w.checkFree(t))
}

// checkFree makes sure that an address that nobody has, by all that the agent was told,
// is nobody's, and that the node's own are no pod's.
func (w *world) checkFree(t *ruleset.Table) error {
	for _, ip := range random.NodeAddrs {
		if t == nil {
			break
		}
		if mapped(t, ip) {
			return fmt.Errorf("%s is the node's, but in a map", ip)
		}
		if err := w.checkMembers(t, ip, nil); err != nil {
			return fmt.Errorf("%s is the node's, but %w", ip, err)
		}
	}
	for i := 2; t != nil && i < 7; i++ {
		for _, v4 := range w.families {
			ip := w.address(v4, false, i)
			had := func(x *iface) bool { return (x.noted || x.state != over) && slices.Contains(x.ips, ip) }
			prefix, ranged := w.ranges[ip.Is4()]
			ours := ranged && prefix.Contains(ip) // whatever others say of it
			shown := func(t *thing) bool {
				p := podKnown(t)
				return p != nil && shows(p, ip) && !w.noted(t) && (p.Spec.NodeName == random.Node || !ours)
			}
			announced := func(t *thing) bool { return !ours && announces(t, ip) }
			if slices.ContainsFunc(w.ifaces, had) || slices.ContainsFunc(w.pods, shown) || slices.ContainsFunc(w.things, announced) {
				continue
			}
			if mapped(t, ip) || member(t, setOf("orphans", ip), ip) {
				return fmt.Errorf("%s is nobody's, but in a map, or an orphan", ip)
			}
			if err := w.checkMembers(t, ip, nil); err != nil {
				return fmt.Errorf("%s is nobody's, but %w", ip, err)
			}
		}
	}
	return nil
}

// announces reports whether a thing is what an agent announces, with an address in it.
func announces(t *thing, ip netip.Addr) bool {
	o, is := t.known().(*v1alpha1.PodAddresses)
	return is && slices.ContainsFunc(o.Pods, func(said v1alpha1.PodAddress) bool { return slices.Contains(said.IPs, ip.String()) })
}

// unpromised reports whether nothing is promised of a container that the agent has lost
// its note of: its address is in no range, or the API server, which is believed then,
// shows it at a pod of this node of which the agent has no other note.
func (w *world) unpromised(ip netip.Addr) bool {
	prefix, there := w.ranges[ip.Is4()]
	return !there || !prefix.Contains(ip) || slices.ContainsFunc(w.pods, func(t *thing) bool {
		p := podKnown(t)
		return p != nil && p.Spec.NodeName == random.Node && !ended(p) && shows(p, ip) && !w.noted(t)
	})
}

// noted reports whether the agent has a note of the attachment, of a pod that it knows, that
// the API's addresses are about: not of a second interface.
func (w *world) noted(t *thing) bool {
	return slices.ContainsFunc(w.ifaces, func(x *iface) bool {
		return x.noted && x.name == "eth0" && x.pod == t && podOf(x) != nil
	})
}

// checkFenced makes sure that an address is a pod's, in both maps.
func (w *world) checkFenced(t *ruleset.Table, ip netip.Addr, p *corev1.Pod) error {
	for _, d := range policy.Directions {
		if v, in := verdict(t, d, ip); !in || !w.isVerdict(v, d, p) {
			return fmt.Errorf("is %s/%s's (UID %s), but for %s the map has %v (%t)", p.Namespace, p.Name, uidOf(p), d, v, in)
		}
	}
	return nil
}

// isVerdict reports whether a map's entry is what a pod's must be.
func (w *world) isVerdict(v nft.Verdict, d policy.Direction, p *corev1.Pod) bool {
	switch {
	case len(w.fences(d, p)) > 0:
		return v.Action == nft.Jump && strings.HasPrefix(v.Chain, d.String()+"-") && strings.HasSuffix(v.Chain, "-"+p.Namespace+"/"+p.Name)
	case len(w.fences(d.Opposite(), p)) > 0 && w.ruleset.RevokedMark != 0:
		return v == nft.Verdict{Action: nft.Jump, Chain: "beginnings"}
	}
	return v == nft.Verdict{Action: nft.Accept}
}

// checkClosed makes sure that an address is in no map, and what is in none ends.
func (w *world) checkClosed(t *ruleset.Table, ip netip.Addr) error {
	orphan := member(t, setOf("orphans", ip), ip)
	w.count("an orphan", orphan)
	switch {
	case mapped(t, ip):
		in, _ := verdict(t, policy.Ingress, ip)
		out, _ := verdict(t, policy.Egress, ip)
		return fmt.Errorf("is nobody's that is known, but in a map: ingress %v, egress %v", in, out)
	case !orphan && !member(t, setOf("pod-ranges", ip), ip):
		return errors.New("is nobody's that is known, but neither an orphan nor in the ranges")
	case orphan && passes(t, nft.Output, policy.Packet{Src: own(ip), Dst: ip, Protocol: policy.TCP, DstPort: 80}):
		return errors.New("is an orphan, but gets what the node sends")
	}
	return nil
}

// checkMembers makes sure that an address is in the sets that mean its pod, and in no
// other.
func (w *world) checkMembers(t *ruleset.Table, ip netip.Addr, p *corev1.Pod) error {
	for name, set := range t.Sets {
		switch {
		case strings.HasPrefix(name, setOf("peers", ip)):
			_, in := set.Elements[nft.AddrElement(ip)]
			if in != w.meant(set.Comment, p) {
				return fmt.Errorf("in the peers %q: %t", set.Comment, in)
			}
		case strings.HasPrefix(name, setOf("named", ip)):
			for port := range uint16(3) {
				packet := policy.Packet{Protocol: policy.TCP, DstPort: numbers[port]}
				_, in := set.Elements[ruleset.EndpointElement(policy.Endpoint{Addr: ip, Protocol: policy.TCP, Port: packet.DstPort})]
				if in != hasPort(p, "http", packet) {
					return fmt.Errorf("in the named ports %q, number %d: %t", set.Comment, packet.DstPort, in)
				}
			}
		}
	}
	return nil
}

// meant reports whether a set of peers means a pod.
func (w *world) meant(comment string, p *corev1.Pod) bool {
	for _, f := range fences {
		for _, d := range policy.Directions {
			for _, r := range f.rules[d] {
				if !r.anybody && r.selector(f) == comment {
					return w.means(f, r, p)
				}
			}
		}
	}
	panic("the oracle does not know " + comment)
}

// numbers are the ports that pods have, and one that none has.
var numbers = [...]uint16{80, 8080, 443}

// end is one of the two that packets are between: a pod, somebody outside (the zero
// end), or an address that is closed.
type end struct {
	pod    *corev1.Pod
	closed bool
}

// passes reports whether a packet passes from one to the other, by what both's fences say.
func (w *world) passes(from, to end, packet policy.Packet) bool {
	return !from.closed && !to.closed &&
		(from.pod == nil || w.lets(policy.Egress, from.pod, to.pod, to.pod, packet)) &&
		(to.pod == nil || w.lets(policy.Ingress, to.pod, from.pod, to.pod, packet))
}

// checkPackets traces a handful of packets to and from an address.
func (w *world) checkPackets(t *ruleset.Table, ip netip.Addr, self end) error {
	for _, packet := range packets(ip, own(ip)) {
		if want := w.passes(self, end{}, packet) || w.ruleset.AllowToNode && !self.closed; passes(t, nft.Input, packet) != want {
			return fmt.Errorf("%v, to the node, passes: %t", packet, !want)
		}
	}
	for other, its := range w.others(ip) {
		for _, packet := range packets(ip, other) {
			if want := w.passes(self, its, packet); passes(t, nft.Forward, packet) != want {
				return fmt.Errorf("%v passes: %t", packet, !want)
			}
		}
		for _, packet := range packets(other, ip) {
			if want := w.passes(its, self, packet); passes(t, nft.Forward, packet) != want {
				return fmt.Errorf("%v passes: %t", packet, !want)
			}
		}
	}
	return nil
}

// others are somebody outside and a few other addresses in use.
func (w *world) others(ip netip.Addr) map[netip.Addr]end {
	some := map[netip.Addr]end{random.Outside[map[bool]int{true: 0, false: 2}[ip.Is4()]]: {}}
	for _, x := range w.inUse() {
		for _, other := range x.ips {
			p := podOf(x)
			if other != ip && other.Is4() == ip.Is4() && len(some) < 4 && !x.lost && (p == nil || !ended(p)) {
				some[other] = end{pod: p, closed: p == nil}
			}
		}
	}
	return some
}

// packets are the first ones of some connections.
func packets(src, dst netip.Addr) []policy.Packet {
	echo := policy.Packet{Src: src, Dst: dst, Protocol: policy.ICMP, ICMPType: 8, HopLimit: 64}
	if !src.Is4() {
		echo.Protocol, echo.ICMPType = policy.ICMPv6, 128
	}
	return []policy.Packet{
		{Src: src, Dst: dst, Protocol: policy.TCP, DstPort: 80, HopLimit: 64},
		{Src: src, Dst: dst, Protocol: policy.TCP, DstPort: 8080, HopLimit: 64},
		{Src: src, Dst: dst, Protocol: policy.UDP, DstPort: 53, HopLimit: 64},
		echo,
	}
}

func passes(t *ruleset.Table, hook nft.HookPoint, p policy.Packet) bool {
	return t.Trace(hook, nft.TracePacket{Packet: p, State: nft.New}).Verdict == nft.Accept
}

// verdict is what the map of a direction has for an address.
func verdict(t *ruleset.Table, d policy.Direction, ip netip.Addr) (nft.Verdict, bool) {
	v, in := t.Sets[setOf(d.String()+"-pods", ip)].Verdicts[nft.AddrElement(ip)]
	return v, in
}

// mapped reports whether an address is in one of the maps.
func mapped(t *ruleset.Table, ip netip.Addr) bool {
	_, in := verdict(t, policy.Ingress, ip)
	_, out := verdict(t, policy.Egress, ip)
	return in || out
}

// member reports whether an address is in a set, of addresses or of ranges.
func member(t *ruleset.Table, name string, ip netip.Addr) bool {
	e := nft.AddrElement(ip)
	for r := range t.Sets[name].Elements {
		if r == e || bytes.Compare(r.Addr[:], e.Addr[:]) <= 0 && bytes.Compare(e.Addr[:], r.LastAddr[:]) <= 0 {
			return true
		}
	}
	return false
}

// setOf is the name of a family's set, or how the names of its sets begin.
func setOf(name string, ip netip.Addr) string {
	if ip.Is4() {
		return name + "-4"
	}
	return name + "-6"
}

// own is the node's address of an address's family.
func own(ip netip.Addr) netip.Addr {
	return random.NodeAddrs[map[bool]int{true: 0, false: 1}[ip.Is4()]]
}

// shows reports whether a pod's status has an address.
func shows(p *corev1.Pod, ip netip.Addr) bool {
	return slices.Contains(addrsOf(p), ip.String())
}
