package kernel_test

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// sender is the element of a port, a hardware address by its last byte, and the
// address of another element.
func sender(port string, last byte, addr nft.Element) nft.Element {
	addr.MAC = [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, last}
	copy(addr.Port[:], port)
	return addr
}

// bridgeRule is rule in a table of family bridge.
func bridgeRule(text string, rule nft.Rule) part {
	return part{
		family: nft.Bridge,
		ops: []nft.Op{
			nft.AddSet{Name: "macs", Type: nft.Of(nft.EtherAddr)},
			nft.AddSet{Name: "addrs-4", Type: nft.Of(nft.IPv4Addr)},
			nft.AddSet{Name: "addrs-6", Type: nft.Of(nft.IPv6Addr)},
			nft.AddSet{Name: "senders-4", Type: nft.Of(nft.IfName, nft.EtherAddr, nft.IPv4Addr)},
			nft.AddSet{Name: "senders-6", Type: nft.Of(nft.IfName, nft.EtherAddr, nft.IPv6Addr)},
			nft.AddSet{Name: "messages", Type: nft.Of(nft.ICMPv6Type)},
			nft.AddSet{Name: "links", Type: nft.Of(nft.IfName)},
			nft.AddSet{Name: "types", Type: nft.Of(nft.EtherType), Map: true},
			nft.AddChain{Name: "c"},
			nft.SetRules{Chain: "c", Rules: []nft.Rule{rule}},
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
	accept, drop := nft.Verdict{}, nft.Verdict{Action: nft.Drop}
	all := map[string]part{
		"bridge ether_addr": set(nft.Of(nft.EtherAddr), `type ether_addr; elements = { 0a:58:0a:f4:01:01, ff:ff:ff:ff:ff:ff }`,
			nft.Element{MAC: [6]byte{0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x01}}, nft.Element{MAC: [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}),
		"bridge ether_type": set(nft.Of(nft.EtherType), `type ether_type; elements = { ip, arp, 8021q, 0x88cc }`,
			nft.Element{First: 0x0800}, nft.Element{First: 0x0806}, nft.Element{First: 0x8100}, nft.Element{First: 0x88cc}),
		"bridge senders4": set(nft.Of(nft.IfName, nft.EtherAddr, nft.IPv4Addr), `type ifname . ether_addr . ipv4_addr; elements = { "pf0123456789abc" . 0a:58:0a:f4:01:02 . 10.0.0.2, "pf1" . 0a:58:0a:f4:01:03 . 10.0.0.3 }`,
			sender("pf0123456789abc", 2, addrs("10.0.0.2")[0]), sender("pf1", 3, addrs("10.0.0.3")[0])),
		"bridge senders6": set(nft.Of(nft.IfName, nft.EtherAddr, nft.IPv6Addr), `type ifname . ether_addr . ipv6_addr; elements = { "pf1" . 0a:58:0a:f4:01:02 . fd00::2 }`,
			sender("pf1", 2, addrs("fd00::2")[0])),
		"bridge frames": {
			ops: []nft.Op{
				nft.AddChain{Name: "frames-arp"},
				nft.AddSet{Name: "m", Type: nft.Of(nft.EtherType), Map: true},
				nft.AddVerdicts{Map: "m", Type: nft.Of(nft.EtherType), Entries: verdicts(jump("frames-arp"), nft.Element{First: nft.TypeARP})},
			},
			text: `chain frames-arp { }
				map m { type ether_type : verdict; elements = { arp : jump frames-arp } }`,
		},
		"bridge prerouting": {
			ops:  []nft.Op{nft.AddChain{Name: "c", Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.DstNAT, Priority: -10}}},
			text: `chain c { type filter hook prerouting priority dstnat - 10; policy accept; }`,
		},
		"bridge forward": {
			ops:  []nft.Op{nft.AddChain{Name: "c", Hook: &nft.Hook{Point: nft.Forward, Priority: -10}}},
			text: `chain c { type filter hook forward priority filter - 10; policy accept; }`,
		},
		"bridge postrouting": {
			ops:  []nft.Op{nft.AddChain{Name: "c", Hook: &nft.Hook{Point: nft.Postrouting, Base: nft.SrcNAT}}},
			text: `chain c { type filter hook postrouting priority srcnat; policy accept; }`,
		},
	}
	own4 := lookup("senders-4", nft.InPort, nft.SrcMAC, nft.SrcAddr4)
	own6 := lookup("senders-6", nft.InPort, nft.SrcMAC, nft.SrcAddr6)
	ownARP := lookup("senders-4", nft.InPort, nft.ARPSrcMAC, nft.ARPSrcAddr)
	for text, r := range map[string]nft.Rule{
		`oifname @links meta pkttype multicast drop`: matches(drop, lookup("links", nft.OutPort), nft.Multicast),
		`iifname @links meta pkttype broadcast drop`: matches(drop, lookup("links", nft.InPort), nft.Broadcast),
		`icmpv6 type nd-router-advert iifname @links return`: {
			Matches: []nft.Match{nft.MessageType(134), lookup("links", nft.InPort)}, Verdict: nft.Verdict{Action: nft.Return},
		},
		`iifgroup 28774 counter drop`: {Matches: []nft.Match{nft.InGroup(ruleset.LinkGroup)}, Counter: true, Verdict: drop},
		`iifgroup 28774 ether type vmap @types`: matches(nft.Verdict{Action: nft.Dispatch, Map: "types", Field: nft.FrameType},
			nft.InGroup(ruleset.LinkGroup)),
		`iifgroup 28774 ether daddr != @macs drop`:                                                                            matches(drop, nft.InGroup(ruleset.LinkGroup), nft.Lookup{Fields: []nft.Field{nft.DstMAC}, Set: "macs", Not: true}),
		`ether saddr @macs drop`:                                                                                              matches(drop, lookup("macs", nft.SrcMAC)),
		`iifname . ether saddr . ip saddr @senders-4 accept`:                                                                  matches(accept, own4),
		`ether daddr @macs iifname . ether saddr . ip saddr @senders-4 accept`:                                                matches(accept, lookup("macs", nft.DstMAC), own4),
		`ether daddr @macs iifname . ether saddr . ip6 saddr @senders-6 accept`:                                               matches(accept, lookup("macs", nft.DstMAC), own6),
		`arp daddr ip @addrs-4 accept`:                                                                                        matches(accept, lookup("addrs-4", nft.ARPDstAddr)),
		`ether daddr @macs arp daddr ip @addrs-4 iifname . arp saddr ether . arp saddr ip @senders-4 accept`:                  matches(accept, lookup("macs", nft.DstMAC), lookup("addrs-4", nft.ARPDstAddr), ownARP),
		`iifname . ether saddr . arp saddr ip @senders-4 iifname . arp saddr ether . arp saddr ip @senders-4 accept`:          matches(accept, lookup("senders-4", nft.InPort, nft.SrcMAC, nft.ARPSrcAddr), ownARP),
		`icmpv6 type @messages counter drop`:                                                                                  {Matches: []nft.Match{lookup("messages", nft.ICMPv6MessageType)}, Counter: true, Verdict: drop},
		`icmpv6 type nd-neighbor-solicit ip6 daddr @addrs-6 iifname . ether saddr . ip6 saddr @senders-6 accept`:              matches(accept, nft.MessageType(135), lookup("addrs-6", nft.DstAddr6), own6),
		`ether daddr @macs ip6 daddr @addrs-6 iifname . ether saddr . ip6 saddr @senders-6 counter accept comment "as it is"`: {Matches: []nft.Match{lookup("macs", nft.DstMAC), lookup("addrs-6", nft.DstAddr6), own6}, Counter: true, Origin: nft.Sentence("as it is")},
	} {
		all["bridge rule "+text] = bridgeRule(text, r)
	}
	for name, p := range all {
		p.family = nft.Bridge
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
