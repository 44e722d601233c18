package agreement_test

import (
	"context"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// TestFlowsWithoutPortsClash: where NAT is to give two flows without ports one address towards
// one host, a kernel drops the later one's packet. Check finds that, as nobody has denied it, so
// no two such packets are drawn. Those that have ports, or lead elsewhere, are.
func TestFlowsWithoutPortsClash(t *testing.T) {
	c := open(t, lab.Routed, lab.Options{Patience: settle}) // what should arrive and does not is what is looked for
	s := webAllowed()                                       // pg is isolated
	web, cron, pg := netip.MustParseAddr("10.244.1.10"), netip.MustParseAddr("10.244.1.11"), netip.MustParseAddr("10.244.1.12")
	world, elsewhere, node := random.Outside[0], random.Outside[1], random.NodeAddrs[0]
	packet := func(src, dst netip.Addr, p policy.Protocol, then ...agreement.Follow) agreement.Case {
		one := agreement.Case{Packet: policy.Packet{Src: src, Dst: dst, Protocol: p, HopLimit: 64}, Then: then}
		if p == policy.UDP {
			if one.DstPort = 9; len(then) > 0 {
				one.Wire.SrcPort = firstFollowed
			}
		}
		return one
	}
	given := func(one agreement.Case) agreement.Case { one.Treatment = agreement.SourceNAT; return one }
	answer := agreement.Follow{Kind: agreement.Answer}
	for _, p := range []policy.Protocol{random.GRE, random.ESP, policy.UDP} {
		for _, test := range []struct {
			name       string
			masquerade bool
			first      agreement.Case
			second     agreement.Case
			elsewhere  bool
		}{
			{"two get the node's address", false, given(packet(web, world, p)), given(packet(cron, world, p)), false},
			{"two are masqueraded", true, packet(web, world, p), packet(cron, world, p), false},
			{"the node is spoken to", false, packet(world, node, p), given(packet(web, world, p)), false},
			{"the node speaks", true, packet(node, world, p), packet(web, world, p), false},
			{"an answer to what is denied is masqueraded", true, packet(web, world, p), packet(world, pg, p, answer), false},
			{"two get it towards two hosts", false, given(packet(web, world, p)), given(packet(cron, elsewhere, p)), true},
			{"two are masqueraded towards two hosts", true, packet(web, world, p), packet(cron, elsewhere, p), true},
		} {
			t.Run(p.String()+", "+test.name, func(t *testing.T) {
				if err := c.Node.FlushConntrack(); err != nil {
					t.Fatal(err)
				}
				if err := c.Replace(s, ruleset.Options{Masquerade: test.masquerade}); err != nil {
					t.Fatal(err)
				}
				report, err := c.Check(context.Background(), s, []agreement.Case{test.first, test.second})
				if err != nil {
					t.Fatal(err)
				}
				passes := p == policy.UDP || test.elsewhere
				last, wrong := report[len(report)-1], report.Disagreements()
				if passes && len(wrong) > 0 || !passes && (len(wrong) != 1 || wrong[0] != last || !last.Judged || !last.Traced || last.Probe.Arrived) {
					t.Errorf("of\n%s\ndisagree\n%s", report, wrong)
				}
				d := &drawer{c: c, s: s, flows: map[flow]bool{}}
				if first, second := d.fresh(test.first), d.fresh(test.second); !first || second != passes {
					t.Errorf("drawn: %t and %t, want %t", first, second, passes)
				}
			})
		}
	}
}

// TestQueriesOfListeners: which of them a bridge that looks into multicast hands to its node,
// and a link of the node's own. The three agree on all.
func TestQueriesOfListeners(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			c, s := open(t, attach, lab.Options{}), webAllowed()
			own := netip.MustParseAddr("fd00:244:0:1::10")
			s.Pods[0].Status.PodIPs = []corev1.PodIP{{IP: own.String()}}
			if err := c.Replace(s, ruleset.Options{}); err != nil {
				t.Fatal(err)
			}
			all, routers := random.Groups6[0], random.Groups6[1]
			routed := attach == lab.Routed
			for _, test := range []struct {
				name     string
				kind     uint8
				src, dst netip.Addr
				header   bool // a hop-by-hop header
				arrives  bool
			}{
				{"from an address of the pod's", 130, own, all, true, routed},
				{"from none", 130, netip.IPv6Unspecified(), all, true, routed},
				{"from an address of the pod's, without a header", 130, own, all, false, true},
				{"from none, to routers, without a header", 130, netip.IPv6Unspecified(), routers, false, true},
				{"a report from an address of the pod's", 131, own, routers, true, true},
				{"a report from none", 143, netip.IPv6Unspecified(), routers, true, true},
				{"from a link-local address, to routers", 130, linkLocal, routers, true, routed},
				// From here on the bridge knows of somebody who asks.
				{"from a link-local address", 130, linkLocal, all, true, true},
			} {
				one := agreement.Case{
					Packet: policy.Packet{Src: test.src, Dst: test.dst, Protocol: policy.ICMPv6, ICMPType: test.kind, HopLimit: 1, HopByHop: test.header},
					From:   c.Lab.Owner(own), To: &c.Node.Host, Input: true,
				}
				if test.header {
					one.Wire.Extensions = []policy.Protocol{0}
				}
				report, err := c.Check(context.Background(), s, []agreement.Case{one})
				if err != nil {
					t.Fatal(err)
				}
				if len(report) != 1 || !report[0].Agree() || report[0].Probe.Arrived != test.arrives {
					t.Errorf("%s: arrives must be %t:\n%s", test.name, test.arrives, report)
				}
			}
		})
	}
}

// TestNodeThatShowsOneFamily: what an isolated pod says to a group of its node's passes where
// pods reach their node, though the node's object shows no address of the family.
func TestNodeThatShowsOneFamily(t *testing.T) {
	c, s := open(t, lab.Bridged, lab.Options{}), webAllowed()
	own := netip.MustParseAddr("fd00:244:0:1::10")
	s.Nodes[0].Status.Addresses = s.Nodes[0].Status.Addresses[:1]
	s.Pods[0].Status.PodIPs = []corev1.PodIP{{IP: own.String()}}
	s.Policies[0].Spec = networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}}
	for _, allow := range []bool{true, false} {
		if err := c.Replace(s, ruleset.Options{AllowToNode: allow}); err != nil {
			t.Fatal(err)
		}
		report, err := c.Check(context.Background(), s, []agreement.Case{{
			Packet: policy.Packet{Src: own, Dst: random.Groups6[0], Protocol: policy.ICMPv6, ICMPType: 136, HopLimit: 254}, // no discovery
			From:   c.Lab.Owner(own), To: &c.Node.Host, Input: true,
		}})
		if err != nil {
			t.Fatal(err)
		}
		if len(report) != 1 || !report[0].Agree() || report[0].Probe.Arrived != allow {
			t.Errorf("arrives must be %t:\n%s", allow, report)
		}
	}
}
