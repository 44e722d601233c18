package agreement_test

import (
	"fmt"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// features are what a packet may have, of which all must come up in pods that are attached
// so: by what was really sent, and by what it was taken for.
func features(r *agreement.Result, attach lab.Attach) map[string]bool {
	p, w := r.Seen, r.Wire
	six := p.Src.Is6()
	f := map[string]bool{
		"state: related":     r.State == nft.Related,
		"state: established": r.State == nft.Established,
		"state: invalid":     r.State == nft.Invalid,
		"state: untracked":   r.State == nft.Untracked,
		"state: new":         r.State == nft.New,
		"state: new, from the middle of a TCP connection":    r.Midstream && p.Protocol == policy.TCP,
		"state: new, from the middle of an SCTP association": r.Midstream && p.Protocol == policy.SCTP,
		"flow: more of it":                           r.Of != nil && r.Follow == agreement.More,
		"flow: answered":                             r.Of != nil && r.Follow == agreement.Answer,
		"flow: an answer to nothing":                 r.Begun != nil && r.Of == nil && r.Follow == agreement.Answer,
		"flow: an error by its end":                  r.Of != nil && r.Follow == agreement.OwnError && r.Judged,
		"flow: an error by another pod":              r.Of != nil && r.Follow == agreement.OthersError && !r.Judged,
		"flow: an error by a host outside":           r.Of != nil && r.Follow == agreement.OthersError && r.Judged,
		"flow: an error about nothing":               r.Begun != nil && r.Of == nil && r.Follow == agreement.OwnError,
		"flow: an error with an extension header":    r.Of != nil && (r.Follow == agreement.OwnError || r.Follow == agreement.OthersError) && len(w.Extensions) > 0,
		"flow: revoked":                              r.Of != nil && r.Of.Revoked,
		"port: none":                                 p.Protocol <= policy.UDP && p.Protocol != policy.ICMP && p.DstPort == 0,
		"port: the last":                             p.DstPort == 65535,
		"port: the tunnel's":                         p.Protocol == policy.UDP && p.DstPort == random.TunnelPort,
		"port: none as source":                       w.ZeroPort,
		"port: a low one as source":                  w.SrcPort > 0 && w.SrcPort < 1024,
		"address: multicast":                         r.Probe.Packet.Dst.IsMulticast(),
		"address: broadcast":                         p.Dst == random.Groups4[3],
		"address: link-local":                        six && p.Dst.IsLinkLocalUnicast(),
		"address: 169.254/16":                        !six && (p.Dst.IsLinkLocalUnicast() || p.Src.IsLinkLocalUnicast()),
		"address: none as source":                    p.Src.IsUnspecified(),
		"address: spoofed":                           !slices.Contains(r.Probe.From.IPs, p.Src),
		"way: node to pod":                           r.Own,
		"way: to the node":                           r.Hook == nft.Input && !random.OfLink(p.Dst),
		"way: to itself, by a Service":               p.Hairpin,
		"way: by a Service":                          r.Service.IsValid() && r.Of == nil,
		"way: with the node's address":               r.Probe.Arrived && r.Of == nil && len(r.Sources) == 1 && r.Sources[0] != r.Src && r.Treatment == agreement.SourceNAT,
		"way: masqueraded":                           r.Probe.Arrived && r.Of == nil && len(r.Sources) > 1,
		"way: the node's address, without ports":     r.Probe.Arrived && r.Of == nil && !slices.Contains(r.Sources, r.Src) && len(r.Sources) > 0 && (p.Protocol == random.GRE || p.Protocol == random.ESP),
		"hop limit: 2":                               r.HopLimit == 2,
		"hop limit: 255":                             r.HopLimit == 255,
		"TCP: flags that cannot be":                  p.Protocol == policy.TCP && (w.Flags == lab.SYN|lab.FIN || w.Flags == lab.FIN|lab.PSH|lab.URG),
		"TCP: a reset":                               p.Protocol == policy.TCP && w.Flags&lab.RST != 0,
		"TCP: SYN and ACK":                           p.Protocol == policy.TCP && w.Flags == lab.SYN|lab.ACK && r.Of == nil,
		"checksum: wrong":                            w.BadChecksum,
		"ICMP: discovery as its RFC has it":          six && r.Judged && r.State == nft.Untracked && p.Protocol == policy.ICMPv6 && p.HopLimit == 255,
		"ICMP: discovery, but not as its RFC has it": six && p.Protocol == policy.ICMPv6 && p.ICMPType >= 133 && p.ICMPType <= 136 && p.HopLimit == 254,
		"ICMP: listener discovery":                   p.Protocol == policy.ICMPv6 && slices.Contains(random.MulticastListener, p.ICMPType) && p.HopLimit == 1,
	}
	cluster := func(rules []policy.RuleRef) bool { return len(rules) > 0 && rules[0].Policy.Namespace == "" }
	sides := func(is func(policy.Judgement) bool) bool { return is(r.Verdict.Egress) || is(r.Verdict.Ingress) }
	f["verdict: a ClusterNetworkPolicy accepts"] = sides(func(j policy.Judgement) bool { return cluster(j.By) })
	f["verdict: a ClusterNetworkPolicy denies"] = sides(func(j policy.Judgement) bool { return cluster(j.DeniedBy) })
	f["verdict: ClusterNetworkPolicies leave it to NetworkPolicies"] = sides(func(j policy.Judgement) bool {
		return len(j.Selecting) > 0 && len(j.Isolating) > 0 && !cluster(j.By) && !cluster(j.DeniedBy)
	})
	for number, name := range map[policy.Protocol]string{
		policy.TCP: "TCP", policy.UDP: "UDP", policy.SCTP: "SCTP", policy.ICMP: "ICMP", policy.ICMPv6: "ICMPv6",
		random.GRE: "GRE", random.ESP: "ESP", random.DCCP: "DCCP", random.UDPLite: "UDP-Lite",
	} {
		f["protocol: "+name] = p.Protocol == number
		f["protocol: "+name+", in fragments"] = p.Protocol == number && w.Fragments != lab.Uncut
	}
	for first := 0; first < 256; first += 64 { // each type comes in time, but not in a thousand packets
		for protocol, name := range map[policy.Protocol]string{policy.ICMP: "ICMP", policy.ICMPv6: "ICMPv6"} {
			f[fmt.Sprintf("%s: types %d to %d", name, first, first+63)] = p.Protocol == protocol && int(p.ICMPType)/64 == first/64
		}
	}
	for _, kind := range lab.AllFragments() {
		f["wire: "+kind.String()] = w.Fragments == kind
	}
	for _, t := range agreement.Treatments() {
		f["treatment: "+t.String()] = r.Treatment == t
	}
	for _, kind := range options {
		f[fmt.Sprintf("wire: IPv4 option %d", kind[0])] = len(w.Options) > 0 && w.Options[0] == kind[0]
	}
	for _, number := range []policy.Protocol{0, 43, policy.AH, 60} {
		f[fmt.Sprintf("wire: IPv6 extension header %d", number)] = slices.Contains(w.Extensions, number)
	}
	query := p.Protocol == policy.ICMPv6 && p.ICMPType == 130 && p.Dst.IsMulticast()
	f["ICMP: a query of listeners that arrives"] = query && r.Probe.Arrived
	if attach == lab.Bridged {
		f["bridge: a query of listeners that it drops"] = query && r.Refused != "" && r.Judged
	}
	if attach != lab.Bridged {
		f["wire: a tag of no VLAN"] = w.Wrap == lab.Tag0 || w.Wrap == lab.Service0
		f["wire: a tag of a VLAN"] = w.Wrap == lab.Tag5
		f["wire: another frame"] = w.Wrap == lab.PPPoE || w.Wrap == lab.SNAP || w.Wrap == lab.MPLS
	}
	if attach == lab.Guarded {
		f["guard: a first fragment without header"] = w.Fragments == lab.Tiny && len(w.Extensions) > 0 && r.Probe.From.Attach() == lab.Guarded
	}
	return f
}

// optionFeatures are what the agent's options may be.
func optionFeatures(o ruleset.Options, attach lab.Attach) map[string]bool {
	f := map[string]bool{"option: guard": o.Guard}
	if attach != lab.Guarded {
		f = map[string]bool{"option: no guard": !o.Guard}
	}
	for name, on := range map[string]bool{
		"reject": o.Reject, "to-node": o.AllowToNode, "masquerade": o.Masquerade, "tunnel": o.TunnelPort != 0, "check of sources": o.SourceCheck,
		"revocation": o.RevokedMark != 0, "bound on connections": o.MaxConnections != 0,
	} {
		f["option: "+name], f["option: no "+name] = on, !on
	}
	return f
}
