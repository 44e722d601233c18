package kernel_test

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
)

// sender is the element of a port, a hardware address by its last byte, and the
// address of another element.
func sender(port string, last byte, addr ruleset.Element) ruleset.Element {
	addr.MAC = [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, last}
	copy(addr.Port[:], port)
	return addr
}

// bridgeRule is rule in a table of family bridge.
func bridgeRule(text string, rule ruleset.Rule) part {
	return part{
		family: ruleset.Bridge,
		ops: []ruleset.Op{
			ruleset.AddSet{Name: "macs", Type: ruleset.EtherAddr},
			ruleset.AddSet{Name: "addrs-4", Type: ruleset.Addr4},
			ruleset.AddSet{Name: "addrs-6", Type: ruleset.Addr6},
			ruleset.AddSet{Name: "senders-4", Type: ruleset.Sender4},
			ruleset.AddSet{Name: "senders-6", Type: ruleset.Sender6},
			ruleset.AddSet{Name: "messages", Type: ruleset.ICMPv6Type},
			ruleset.AddSet{Name: "links", Type: ruleset.IfName},
			ruleset.AddSet{Name: "types", Type: ruleset.EtherType, Map: true},
			ruleset.AddChain{Name: "c"},
			ruleset.SetRules{Chain: "c", Rules: []ruleset.Rule{rule}},
		},
		text: `
			set macs { type ether_addr; }
			set addrs-4 { type ipv4_addr; }
			set addrs-6 { type ipv6_addr; }
			set senders-4 { type ifname . ether_addr . ipv4_addr; }
			set senders-6 { type ifname . ether_addr . ipv6_addr; }
			set messages { type icmpv6_type; }
			set links { type ifname; }
			map types { type ether_type : verdict; }
			chain c { ` + text + `; }`,
	}
}

// bridgeParts are parts of a table of family bridge.
func bridgeParts() map[string]part {
	accept, drop := ruleset.Verdict{}, ruleset.Verdict{Action: ruleset.Drop}
	all := map[string]part{
		"bridge ether_addr": set(ruleset.EtherAddr, `type ether_addr; elements = { 0a:58:0a:f4:01:01, ff:ff:ff:ff:ff:ff }`,
			ruleset.Element{MAC: [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x01}}, ruleset.Element{MAC: [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}),
		"bridge ether_type": set(ruleset.EtherType, `type ether_type; elements = { ip, arp, 8021q, 0x88cc }`,
			ruleset.Element{First: 0x0800}, ruleset.Element{First: 0x0806}, ruleset.Element{First: 0x8100}, ruleset.Element{First: 0x88cc}),
		"bridge senders4": set(ruleset.Sender4, `type ifname . ether_addr . ipv4_addr; elements = { "pf0123456789abc" . 0a:58:0a:f4:01:02 . 10.0.0.2, "pf1" . 0a:58:0a:f4:01:03 . 10.0.0.3 }`,
			sender("pf0123456789abc", 2, addrs("10.0.0.2")[0]), sender("pf1", 3, addrs("10.0.0.3")[0])),
		"bridge senders6": set(ruleset.Sender6, `type ifname . ether_addr . ipv6_addr; elements = { "pf1" . 0a:58:0a:f4:01:02 . fd00::2 }`,
			sender("pf1", 2, addrs("fd00::2")[0])),
		"bridge frames": {
			ops: []ruleset.Op{
				ruleset.AddChain{Name: "frames-arp"},
				ruleset.AddSet{Name: "m", Type: ruleset.EtherType, Map: true},
				ruleset.AddVerdicts{Map: "m", Type: ruleset.EtherType, Entries: verdicts(jump("frames-arp"), ruleset.Element{First: ruleset.TypeARP})},
			},
			text: `chain frames-arp { }
				map m { type ether_type : verdict; elements = { arp : jump frames-arp } }`,
		},
		"bridge prerouting": {
			ops:  []ruleset.Op{ruleset.AddChain{Name: "c", Hook: &ruleset.Hook{Point: ruleset.Prerouting, Base: ruleset.DstNAT, Priority: -10}}},
			text: `chain c { type filter hook prerouting priority dstnat - 10; policy accept; }`,
		},
		"bridge forward": {
			ops:  []ruleset.Op{ruleset.AddChain{Name: "c", Hook: &ruleset.Hook{Point: ruleset.Forward, Priority: -10}}},
			text: `chain c { type filter hook forward priority filter - 10; policy accept; }`,
		},
		"bridge postrouting": {
			ops:  []ruleset.Op{ruleset.AddChain{Name: "c", Hook: &ruleset.Hook{Point: ruleset.Postrouting, Base: ruleset.SrcNAT}}},
			text: `chain c { type filter hook postrouting priority srcnat; policy accept; }`,
		},
	}
	own4 := lookup("senders-4", ruleset.InPort, ruleset.SrcMAC, ruleset.SrcAddr4)
	own6 := lookup("senders-6", ruleset.InPort, ruleset.SrcMAC, ruleset.SrcAddr6)
	ownARP := lookup("senders-4", ruleset.InPort, ruleset.ARPSrcMAC, ruleset.ARPSrcAddr)
	for text, r := range map[string]ruleset.Rule{
		`oifname @links meta pkttype multicast drop`: matches(drop, lookup("links", ruleset.OutPort), ruleset.Multicast),
		`iifname @links meta pkttype broadcast drop`: matches(drop, lookup("links", ruleset.InPort), ruleset.Broadcast),
		`icmpv6 type nd-router-advert iifname @links return`: {
			Matches: []ruleset.Match{ruleset.MessageType(134), lookup("links", ruleset.InPort)}, Verdict: ruleset.Verdict{Action: ruleset.Return},
		},
		`iifgroup 28774 counter drop`: {Matches: []ruleset.Match{ruleset.PodPort{}}, Counter: true, Verdict: drop},
		`iifgroup 28774 ether type vmap @types`: matches(ruleset.Verdict{Action: ruleset.Dispatch, Map: "types", Field: ruleset.FrameType},
			ruleset.PodPort{}),
		`iifgroup 28774 ether daddr != @macs drop`:                                                                            matches(drop, ruleset.PodPort{}, ruleset.Lookup{Fields: []ruleset.Field{ruleset.DstMAC}, Set: "macs", Not: true}),
		`ether saddr @macs drop`:                                                                                              matches(drop, lookup("macs", ruleset.SrcMAC)),
		`iifname . ether saddr . ip saddr @senders-4 accept`:                                                                  matches(accept, own4),
		`ether daddr @macs iifname . ether saddr . ip saddr @senders-4 accept`:                                                matches(accept, lookup("macs", ruleset.DstMAC), own4),
		`ether daddr @macs iifname . ether saddr . ip6 saddr @senders-6 accept`:                                               matches(accept, lookup("macs", ruleset.DstMAC), own6),
		`arp daddr ip @addrs-4 accept`:                                                                                        matches(accept, lookup("addrs-4", ruleset.ARPDstAddr)),
		`ether daddr @macs arp daddr ip @addrs-4 iifname . arp saddr ether . arp saddr ip @senders-4 accept`:                  matches(accept, lookup("macs", ruleset.DstMAC), lookup("addrs-4", ruleset.ARPDstAddr), ownARP),
		`iifname . ether saddr . arp saddr ip @senders-4 iifname . arp saddr ether . arp saddr ip @senders-4 accept`:          matches(accept, lookup("senders-4", ruleset.InPort, ruleset.SrcMAC, ruleset.ARPSrcAddr), ownARP),
		`icmpv6 type @messages counter drop`:                                                                                  {Matches: []ruleset.Match{lookup("messages", ruleset.ICMPv6MessageType)}, Counter: true, Verdict: drop},
		`icmpv6 type nd-neighbor-solicit ip6 daddr @addrs-6 iifname . ether saddr . ip6 saddr @senders-6 accept`:              matches(accept, ruleset.MessageType(135), lookup("addrs-6", ruleset.DstAddr6), own6),
		`ether daddr @macs ip6 daddr @addrs-6 iifname . ether saddr . ip6 saddr @senders-6 counter accept comment "as it is"`: {Matches: []ruleset.Match{lookup("macs", ruleset.DstMAC), lookup("addrs-6", ruleset.DstAddr6), own6}, Counter: true, Comment: "as it is"},
	} {
		all["bridge rule "+text] = bridgeRule(text, r)
	}
	for name, p := range all {
		p.family = ruleset.Bridge
		all[name] = p
	}
	return all
}

// TestUninstallBoth: both tables are taken away, and nobody else's.
func TestUninstallBoth(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	n.nft("table bridge other { }\n", "-f", "-")
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	g.Expect(c.Apply(ruleset.BuildGuard(nil, ruleset.Gateway{}, ruleset.FragmentMemory{}).Replacement())).To(Succeed())
	g.Expect(n.list()).To(And(ContainSubstring("table inet podfence {"), ContainSubstring("table bridge podfence {")))
	g.Expect(c.Uninstall()).To(Succeed())
	g.Expect(n.list()).To(Equal("table bridge other {\n}\n"))
	g.Expect(c.Uninstall()).To(Succeed())
}

// TestOpenForAll: all that can be asked for is there, and trying it leaves
// nothing.
func TestOpenForAll(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c, err := kernel.Open(kernel.Options{NetNS: n.fd, Guard: true, Masquerade: true, SourceCheck: true})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(c.Close()).To(Succeed())
	g.Expect(n.list()).To(BeEmpty())
}

// TestGuardUpdates: one pod more or less leaves in the kernel what the new table
// says, by a few elements.
func TestGuardUpdates(t *testing.T) {
	g := NewWithT(t)
	have, want := newNamespace(t), newNamespace(t)
	c := have.open()
	at := gateway("10.244.1.1", "fd00:10:244:1::1")
	one := attachment("pf1", 2, "10.244.1.2", "fd00:10:244:1::2")
	two := attachment("pf2", 3, "10.244.1.3", "fd00:10:244:1::3")
	table := ruleset.BuildGuard(nil, ruleset.Gateway{}, ruleset.FragmentMemory{})
	g.Expect(c.Apply(table.Replacement())).To(Succeed())
	g.Expect(c.Apply(table.UpdateGuard([]policy.Attachment{one, two}, at))).To(Succeed())
	g.Expect(c.Apply(table.UpdateGuard([]policy.Attachment{two}, at))).To(Succeed())
	want.nft(table.Text(), "-f", "-")
	expectSame(t, have, want)
}
