package observer

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/utils/lru"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
)

// Ends says what is known of the two ends of a packet, as it is, and with the staged policies in force. It may be
// called from any goroutine.
type Ends interface {
	EndsOf(src, dst netip.Addr) policy.Ends
	StagedEndsOf(src, dst netip.Addr) policy.Ends
}

// Policies has policies as the API, or a folder, has them. Both methods may be called from any goroutine. They
// return nil for a policy that is not there; nobody changes what they return.
type Policies interface {
	NetworkPolicy(key policy.Key) *networkingv1.NetworkPolicy
	ClusterNetworkPolicy(name string) *clusterv1beta1.ClusterNetworkPolicy
}

const (
	// nearestLongest is how many octets a near miss may have: what a policy says may be long, and thousands of
	// flows are kept.
	nearestLongest = 300
	// nearestRemembered is of how many kinds of packets the near miss is remembered. Each takes up to 1 KiB.
	nearestRemembered = 1024
)

// Nearest finds the near miss of denials, in the words of package explain. It remembers it for as long as no
// policy, namespace or node changes, neither of the two pods, and no domain name of the destination. Its methods may be called from any goroutine.
type Nearest struct {
	ends     Ends
	policies Policies
	// resolutions is nil where nobody knows any.
	resolutions Resolutions
	remembered  *lru.Cache // of nearestKey and nearMiss
}

// NewNearest returns a Nearest that looks pods, namespaces and nodes up in ends. resolutions is nil where nobody knows any.
func NewNearest(ends Ends, policies Policies, resolutions Resolutions) *Nearest {
	return &Nearest{ends: ends, policies: policies, resolutions: resolutions, remembered: lru.New(nearestRemembered)}
}

// nearestKey is a kind of packet, and why it is denied. The source's port makes no difference.
type nearestKey struct {
	src, dst  netip.Addr
	direction flows.Direction
	protocol  string
	port      uint16
	icmpType  uint8
	denied    string
}

// nearMiss is what is remembered of a kind of packet.
type nearMiss struct {
	ends policy.Ends
	resolved
	text string
}

// resolved is by which domain names the source of a packet, or the agent, was told of its destination.
type resolved struct{ counting, lapsed []policy.Resolution }

func (r resolved) sameAs(other resolved) bool {
	return slices.Equal(r.counting, other.counting) && slices.Equal(r.lapsed, other.lapsed)
}

// Of is the near miss of a denial, as flows.Flow has it; empty if there is none.
func (n *Nearest) Of(f *flows.Flow) string {
	if !mayBeMissed(f) {
		return ""
	}
	key := nearestKey{src: f.Source.IP, dst: f.Destination.IP, direction: f.Direction, protocol: f.Protocol, port: f.Destination.Port, denied: deniedBy(f)}
	if f.ICMPType != nil {
		key.icmpType = *f.ICMPType
	}
	endsOf := n.ends.EndsOf
	if f.Verdict == flows.WouldDeny {
		endsOf = n.ends.StagedEndsOf
	}
	ends := endsOf(f.Source.IP, f.Destination.IP)
	var names resolved
	if n.resolutions != nil && f.Direction == flows.Egress {
		names.counting, names.lapsed = n.resolutions.ResolutionsTo(f.Source.IP, f.Destination.IP)
	}
	if before, is := n.remembered.Get(key); is && before.(nearMiss).ends.SameAs(ends) && before.(nearMiss).sameAs(names) {
		return before.(nearMiss).text
	}
	d := n.packet(f, ends)
	d.Resolutions, d.Lapsed = names.counting, names.lapsed
	text := cut(explain.NearMiss(d), nearestLongest)
	n.remembered.Add(key, nearMiss{ends, names, text})
	return text
}

// mayBeMissed reports whether policies have denied a packet, or would with the staged ones in force, so that a rule may
// have missed it.
func mayBeMissed(f *flows.Flow) bool {
	return (f.Verdict == flows.Denied || f.Verdict == flows.WouldDeny) && (f.Reason == flows.DefaultDeny || f.Reason == flows.ByRule) && len(f.Policies) > 0
}

// deniedBy says whether a packet is denied or would be, and names the policies that deny, with the rule that does.
func deniedBy(f *flows.Flow) string {
	var b strings.Builder
	b.WriteString(string(f.Verdict) + " ")
	for _, p := range f.Policies {
		b.WriteString(p.Namespace + "/" + p.Name)
		if p.Rule != nil {
			b.WriteString("#" + strconv.Itoa(*p.Rule))
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// packet is a denial as package explain takes it.
func (n *Nearest) packet(f *flows.Flow, ends policy.Ends) explain.DeniedPacket {
	d := explain.DeniedPacket{Direction: policy.Ingress, Ends: ends, Staged: f.Verdict == flows.WouldDeny}
	subject := ends.Dst
	if f.Direction == flows.Egress {
		d.Direction, subject = policy.Egress, ends.Src
	}
	// What is denied on its way to oneself has gone round by a Service.
	d.Packet = policy.Packet{
		Src: f.Source.IP, Dst: f.Destination.IP, Protocol: protocolNamed(f.Protocol), DstPort: f.Destination.Port,
		HopLimit: 64, Hairpin: f.Source.IP == f.Destination.IP,
	}
	if f.ICMPType != nil {
		d.Packet.ICMPType = *f.ICMPType
	}
	for _, p := range f.Policies {
		key := policy.Key{Namespace: p.Namespace, Name: p.Name}
		if p.Rule != nil {
			d.Rule = &policy.RuleRef{Policy: key, Direction: d.Direction, Rule: *p.Rule}
		} else if np := n.policies.NetworkPolicy(key); np != nil {
			d.Policies = append(d.Policies, np)
		}
	}
	for _, key := range subject.ClusterPolicies {
		if cnp := n.policies.ClusterNetworkPolicy(key.Name); cnp != nil {
			d.ClusterPolicies = append(d.ClusterPolicies, cnp)
		}
	}
	return d
}

// protocolNamed is the protocol that protocolName names so.
func protocolNamed(name string) packet.Protocol {
	for _, p := range []packet.Protocol{packet.TCP, packet.UDP, packet.SCTP, packet.ICMP, packet.ICMPv6} {
		if p.String() == name {
			return p
		}
	}
	number, _ := strconv.ParseUint(name, 10, 8) // of what is no number, 0: no rule names it
	return packet.Protocol(number)
}

// cut is a text without what is beyond so many octets.
func cut(text string, octets int) string {
	const more = "…"
	if len(text) <= octets {
		return text
	}
	end := octets - len(more)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}
