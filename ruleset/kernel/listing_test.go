package kernel_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

func addrs(texts ...string) []nft.Element {
	var elements []nft.Element
	for _, text := range texts {
		elements = append(elements, nft.AddrElement(netip.MustParseAddr(text)))
	}
	return elements
}

func prefixes(texts ...string) []nft.Element {
	var elements []nft.Element
	for _, text := range texts {
		elements = append(elements, nft.PrefixElement(netip.MustParsePrefix(text)))
	}
	return elements
}

func ports(protocol policy.Protocol, first, last uint16) nft.Element {
	return ruleset.PortRangeElement(policy.PortRange{Protocol: protocol, First: first, Last: last})
}

func endpoint(addr string, protocol policy.Protocol, port uint16) nft.Element {
	return ruleset.EndpointElement(policy.Endpoint{Addr: netip.MustParseAddr(addr), Protocol: protocol, Port: port})
}

func jump(chain string) nft.Verdict { return nft.Verdict{Action: nft.Jump, Chain: chain} }

func lookup(set string, fields ...nft.Field) nft.Match {
	return nft.Lookup{Fields: fields, Set: set}
}

// set is the operations that make a set, and its text.
func set(t nft.SetType, words string, elements ...nft.Element) part {
	return part{
		ops: []nft.Op{
			nft.AddSet{Name: "s", Type: t, Comment: "namespaces{team=a}"},
			nft.AddElements{Set: "s", Type: t, Elements: elements},
		},
		text: `set s { comment "namespaces{team=a}"; ` + words + ` }`,
	}
}

// rule is the operations that make a chain of one rule, the sets that rules look
// up, and their text.
func rule(text string, rule nft.Rule) part {
	return part{
		ops: []nft.Op{
			nft.AddChain{Name: "other"},
			nft.AddSet{Name: "addrs-4", Type: nft.Of(nft.IPv4Addr)},
			nft.AddSet{Name: "addrs-6", Type: nft.Of(nft.IPv6Addr)},
			nft.AddSet{Name: "block-4", Type: nft.RangesOf(nft.IPv4Addr)},
			nft.AddSet{Name: "ports", Type: nft.RangesOf(nft.InetProto, nft.InetService)},
			nft.AddSet{Name: "named-4", Type: nft.Of(nft.IPv4Addr, nft.InetProto, nft.InetService)},
			nft.AddSet{Name: "named-6", Type: nft.Of(nft.IPv6Addr, nft.InetProto, nft.InetService)},
			nft.AddSet{Name: "nd", Type: nft.Of(nft.ICMPv6Type)},
			nft.AddSet{Name: "pods-4", Type: nft.Of(nft.IPv4Addr), Map: true},
			nft.AddSet{Name: "pods-6", Type: nft.Of(nft.IPv6Addr), Map: true},
			nft.AddChain{Name: "egress-x/y"},
			nft.SetRules{Chain: "egress-x/y", Rules: []nft.Rule{rule}},
		},
		text: `
			chain other { }
			set addrs-4 { type ipv4_addr; }
			set addrs-6 { type ipv6_addr; }
			set block-4 { type ipv4_addr; flags interval; }
			set ports { type inet_proto . inet_service; flags interval; }
			set named-4 { type ipv4_addr . inet_proto . inet_service; }
			set named-6 { type ipv6_addr . inet_proto . inet_service; }
			set nd { type icmpv6_type; }
			map pods-4 { type ipv4_addr : verdict; }
			map pods-6 { type ipv6_addr : verdict; }
			chain egress-x/y { ` + text + `; }`,
	}
}

func matches(verdict nft.Verdict, matches ...nft.Match) nft.Rule {
	return nft.Rule{Matches: matches, Verdict: verdict}
}

// part is a part of a table, as operations and as text.
type part struct {
	ops  []nft.Op
	text string
	// family is the table's.
	family nft.Family
}

func parts() map[string]part {
	accept, drop := nft.Verdict{}, nft.Verdict{Action: nft.Drop}
	reject := nft.Verdict{Action: nft.Reject}
	all := map[string]part{
		"no set":     {},
		"empty set":  {ops: []nft.Op{nft.AddSet{Name: "s", Type: nft.Of(nft.IPv4Addr)}}, text: `set s { type ipv4_addr; }`},
		"addr4":      set(nft.Of(nft.IPv4Addr), `type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2, 255.255.255.255, 0.0.0.0 }`, addrs("10.0.0.1", "10.0.0.2", "255.255.255.255", "0.0.0.0")...),
		"addr6":      set(nft.Of(nft.IPv6Addr), `type ipv6_addr; elements = { fd00::1, ::1 }`, addrs("fd00::1", "::1")...),
		"prefix4":    set(nft.RangesOf(nft.IPv4Addr), `type ipv4_addr; flags interval; elements = { 192.168.0.0/16, 10.0.0.0/24, 10.0.2.0/31, 10.9.9.9/32 }`, prefixes("192.168.0.0/16", "10.0.0.0/24", "10.0.2.0/31", "10.9.9.9/32")...),
		"adjacent":   set(nft.RangesOf(nft.IPv4Addr), `type ipv4_addr; flags interval; elements = { 10.0.0.0/24, 10.0.1.0/25, 10.0.1.128/32 }`, prefixes("10.0.1.128/32", "10.0.1.0/25", "10.0.0.0/24")...),
		"open4":      set(nft.RangesOf(nft.IPv4Addr), `type ipv4_addr; flags interval; elements = { 224.0.0.0/3, 10.0.0.0/8 }`, prefixes("224.0.0.0/3", "10.0.0.0/8")...),
		"last addr4": set(nft.RangesOf(nft.IPv4Addr), `type ipv4_addr; flags interval; elements = { 255.255.255.255/32, 0.0.0.0/32 }`, prefixes("255.255.255.255/32", "0.0.0.0/32")...),
		"halves4":    set(nft.RangesOf(nft.IPv4Addr), `type ipv4_addr; flags interval; elements = { 0.0.0.0/1, 128.0.0.0/1 }`, prefixes("0.0.0.0/1", "128.0.0.0/1")...),
		"all4":       set(nft.RangesOf(nft.IPv4Addr), `type ipv4_addr; flags interval; elements = { 0.0.0.0/0 }`, prefixes("0.0.0.0/0")...),
		"prefix6":    set(nft.RangesOf(nft.IPv6Addr), `type ipv6_addr; flags interval; elements = { fd00::/64, fd00:0:0:1::/64, fd00:1::/33, ::1/128 }`, prefixes("fd00::/64", "fd00:0:0:1::/64", "fd00:1::/33", "::1/128")...),
		"open6":      set(nft.RangesOf(nft.IPv6Addr), `type ipv6_addr; flags interval; elements = { ff00::/8, fc00::/7 }`, prefixes("ff00::/8", "fc00::/7")...),
		"all6":       set(nft.RangesOf(nft.IPv6Addr), `type ipv6_addr; flags interval; elements = { ::/0 }`, prefixes("::/0")...),
		"port": set(nft.Of(nft.InetProto, nft.InetService), `type inet_proto . inet_service; elements = { tcp . 80, udp . 53, sctp . 0 }`,
			nft.PortElement(policy.TCP, 80), nft.PortElement(policy.UDP, 53), nft.PortElement(policy.SCTP, 0)),
		"ports": set(nft.RangesOf(nft.InetProto, nft.InetService), `type inet_proto . inet_service; flags interval; elements = { tcp . 80, udp . 53-60, sctp . 0-65535 }`,
			ports(policy.TCP, 80, 80), ports(policy.UDP, 53, 60), ports(policy.SCTP, 0, 65535)),
		"endpoint4": set(nft.Of(nft.IPv4Addr, nft.InetProto, nft.InetService), `type ipv4_addr . inet_proto . inet_service; elements = { 10.0.0.1 . tcp . 8080, 10.0.0.2 . udp . 53 }`,
			endpoint("10.0.0.1", policy.TCP, 8080), endpoint("10.0.0.2", policy.UDP, 53)),
		"endpoint6": set(nft.Of(nft.IPv6Addr, nft.InetProto, nft.InetService), `type ipv6_addr . inet_proto . inet_service; elements = { fd00::1 . sctp . 443 }`,
			endpoint("fd00::1", policy.SCTP, 443)),
		"icmpv6 type": set(nft.Of(nft.ICMPv6Type), `type icmpv6_type; elements = { nd-router-solicit, nd-neighbor-solicit, 143 }`,
			nft.Element{Protocol: 133}, nft.Element{Protocol: 135}, nft.Element{Protocol: 143}),
		"map4": {
			ops: []nft.Op{
				nft.AddChain{Name: "egress-abc-shop/web-0.x"},
				nft.AddSet{Name: "m", Type: nft.Of(nft.IPv4Addr), Map: true, Comment: "pods"},
				nft.AddVerdicts{Map: "m", Type: nft.Of(nft.IPv4Addr), Entries: []nft.VerdictEntry{
					{Key: addrs("10.0.0.1")[0], Verdict: jump("egress-abc-shop/web-0.x")},
					{Key: addrs("10.0.0.2")[0], Verdict: accept},
					{Key: addrs("10.0.0.3")[0], Verdict: drop},
				}},
			},
			text: `chain egress-abc-shop/web-0.x { }
				map m { type ipv4_addr : verdict; comment "pods"
					elements = { 10.0.0.1 : jump egress-abc-shop/web-0.x, 10.0.0.2 : accept, 10.0.0.3 : drop } }`,
		},
		"map6": {
			ops: []nft.Op{
				nft.AddSet{Name: "m", Type: nft.Of(nft.IPv6Addr), Map: true},
				nft.AddVerdicts{Map: "m", Type: nft.Of(nft.IPv6Addr), Entries: []nft.VerdictEntry{{Key: addrs("fd00::1")[0]}}},
			},
			text: `map m { type ipv6_addr : verdict; elements = { fd00::1 : accept } }`,
		},
		"forward": {
			ops:  []nft.Op{nft.AddChain{Name: "c", Hook: &nft.Hook{Point: nft.Forward, Priority: -10}}},
			text: `chain c { type filter hook forward priority filter - 10; policy accept; }`,
		},
		"input": {
			ops:  []nft.Op{nft.AddChain{Name: "c", Hook: &nft.Hook{Point: nft.Input, Priority: 7}}},
			text: `chain c { type filter hook input priority filter + 7; policy accept; }`,
		},
		"raw": {
			ops:  []nft.Op{nft.AddChain{Name: "c", Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.Raw}}},
			text: `chain c { type filter hook prerouting priority raw; policy accept; }`,
		},
		"masquerade": {
			ops: []nft.Op{
				nft.AddChain{Name: "c", Hook: &nft.Hook{NAT: true, Point: nft.Postrouting, Base: nft.SrcNAT}},
				nft.SetRules{Chain: "c", Rules: []nft.Rule{{Counter: true, Verdict: nft.Verdict{Action: nft.Masquerade}}}},
			},
			text: `chain c { type nat hook postrouting priority srcnat; policy accept; counter masquerade fully-random; }`,
		},
	}
	for text, r := range map[string]nft.Rule{
		`accept`:                             {},
		`drop`:                               matches(drop),
		`jump other`:                         matches(jump("other")),
		`reject with icmpx admin-prohibited`: matches(reject),
		`counter drop`:                       {Counter: true, Verdict: drop},
		`counter accept comment "allow: from web"`:                               {Counter: true, Origin: nft.Sentence("allow: from web")},
		`counter reject with icmpx admin-prohibited`:                             {Counter: true, Verdict: reject},
		`iifname "lo" accept`:                                                    matches(accept, nft.Loopback{}),
		`ct state established,related accept`:                                    matches(accept, nft.Established|nft.Related),
		`ct state invalid drop`:                                                  matches(drop, nft.Invalid),
		`ct state new accept`:                                                    matches(accept, nft.New),
		`ct mark & 0x1 == 0x1 drop`:                                              matches(drop, nft.Mark(1)),
		`ct mark & 0x80000000 == 0x80000000 drop`:                                matches(drop, nft.Mark(1<<31)),
		`ip saddr @block-4 ip daddr != @addrs-4 drop`:                            matches(drop, lookup("block-4", nft.SrcAddr4), nft.Lookup{Fields: []nft.Field{nft.DstAddr4}, Set: "addrs-4", Not: true}),
		`tcp flags ! syn counter drop`:                                           {Matches: []nft.Match{nft.Midstream(policy.TCP)}, Counter: true, Verdict: drop},
		`meta l4proto sctp @th,96,8 != 0x1 counter drop`:                         {Matches: []nft.Match{nft.Midstream(policy.SCTP)}, Counter: true, Verdict: drop},
		`icmpv6 type nd-neighbor-solicit accept`:                                 matches(accept, nft.MessageType(135)),
		`iifgroup 28774 counter drop`:                                            {Matches: []nft.Match{nft.InGroup(ruleset.LinkGroup)}, Counter: true, Verdict: drop},
		`ip6 hoplimit 255 accept`:                                                matches(accept, nft.HopLimit(255)),
		`ip saddr @addrs-4 accept`:                                               matches(accept, lookup("addrs-4", nft.SrcAddr4)),
		`ip daddr @block-4 accept`:                                               matches(accept, lookup("block-4", nft.DstAddr4)),
		`ip6 saddr @addrs-6 accept`:                                              matches(accept, lookup("addrs-6", nft.SrcAddr6)),
		`ip6 daddr @addrs-6 accept`:                                              matches(accept, lookup("addrs-6", nft.DstAddr6)),
		`ip saddr @addrs-4 ip daddr @addrs-4 drop`:                               matches(drop, lookup("addrs-4", nft.SrcAddr4), lookup("addrs-4", nft.DstAddr4)),
		`ct state related meta l4proto ah accept`:                                matches(accept, nft.Related, nft.Authenticated{}),
		`meta l4proto . th dport @ports accept`:                                  matches(accept, lookup("ports", nft.L4Protocol, nft.DstPort)),
		`ip daddr @addrs-4 meta l4proto . th dport @ports counter accept`:        {Matches: []nft.Match{lookup("addrs-4", nft.DstAddr4), lookup("ports", nft.L4Protocol, nft.DstPort)}, Counter: true},
		`ip daddr . meta l4proto . th dport @named-4 accept`:                     matches(accept, lookup("named-4", nft.DstAddr4, nft.L4Protocol, nft.DstPort)),
		`ip6 daddr . meta l4proto . th dport @named-6 accept`:                    matches(accept, lookup("named-6", nft.DstAddr6, nft.L4Protocol, nft.DstPort)),
		`ip6 saddr @addrs-6 ip6 daddr . meta l4proto . th dport @named-6 accept`: matches(accept, lookup("addrs-6", nft.SrcAddr6), lookup("named-6", nft.DstAddr6, nft.L4Protocol, nft.DstPort)),
		`icmpv6 type @nd accept`:                                                 matches(accept, lookup("nd", nft.ICMPv6MessageType)),
		`ip6 hoplimit 255 icmpv6 type @nd accept`:                                matches(accept, nft.HopLimit(255), lookup("nd", nft.ICMPv6MessageType)),
		`icmpv6 type @nd ip6 hoplimit 1 accept`:                                  matches(accept, lookup("nd", nft.ICMPv6MessageType), nft.HopLimit(1)),
		`ip6 saddr @addrs-6 ip6 hoplimit 1 icmpv6 type @nd counter accept`:       {Matches: []nft.Match{lookup("addrs-6", nft.SrcAddr6), nft.HopLimit(1), lookup("nd", nft.ICMPv6MessageType)}, Counter: true},
		`ip saddr vmap @pods-4`:                                                  matches(nft.Verdict{Action: nft.Dispatch, Map: "pods-4", Field: nft.SrcAddr4}),
		`ip6 daddr vmap @pods-6`:                                                 matches(nft.Verdict{Action: nft.Dispatch, Map: "pods-6", Field: nft.DstAddr6}),
		`ip saddr @block-4 ip saddr vmap @pods-4`:                                matches(nft.Verdict{Action: nft.Dispatch, Map: "pods-4", Field: nft.SrcAddr4}, lookup("block-4", nft.SrcAddr4)),
		`ct state new ip saddr @addrs-4 ct mark & 0x3 == 0x3 drop`:               matches(drop, nft.New, lookup("addrs-4", nft.SrcAddr4), nft.Mark(3)),
		`ct state invalid ip6 saddr @addrs-6 counter reject with icmpx admin-prohibited comment "` + strings.Repeat("x", 128) + `"`: {
			Matches: []nft.Match{nft.Invalid, lookup("addrs-6", nft.SrcAddr6)}, Counter: true, Verdict: reject, Origin: nft.Sentence(strings.Repeat("x", 128)),
		},
	} {
		all["rule "+text] = rule(text, r)
	}
	return all
}

// TestListing loads each part of a table twice, by Apply and by nft -f, into a
// namespace each: the kernel must hold the same, and nft print it and take it
// back.
func TestListing(t *testing.T) {
	all := parts()
	maps.Copy(all, bridgeParts())
	for name, part := range all {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			have, want := newNamespace(t), newNamespace(t)
			g.Expect(have.open().Apply(nft.Plan{Family: part.family, Replace: true, Ops: part.ops})).To(Succeed())
			want.load(fmt.Sprintf("table %s podfence {\n%s\n}\n", part.family, part.text))
			expectSame(t, have, want)
		})
	}
}

// expectSame expects two namespaces to hold the same.
func expectSame(t *testing.T, have, want *namespace) {
	t.Helper()
	g := NewWithT(t)
	listing := have.list()
	g.Expect(listing).To(Equal(want.list()))
	g.Expect(have.bytecode()).To(Equal(want.bytecode()))
	g.Expect(have.objects()).To(Equal(want.objects()))
	have.nft("flush ruleset\n"+listing, "-c", "-f", "-")
	var parsed map[string]any
	g.Expect(json.Unmarshal([]byte(have.nft("", "-j", "list", "ruleset")), &parsed)).To(Succeed())
}

// objects are the table, its sets and its chains as the kernel dumps them, byte
// for byte but for handles.
func (n *namespace) objects() []string {
	n.t.Helper()
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: n.fd})
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var objects []string
	for _, of := range []struct{ get, handle int }{
		{unix.NFT_MSG_GETTABLE, 4 /* NFTA_TABLE_HANDLE */},
		{unix.NFT_MSG_GETSET, 16 /* NFTA_SET_HANDLE */},
		{unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_HANDLE},
	} {
		answers, err := c.Execute(netlink.Message{
			Header: netlink.Header{
				Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | of.get),
				Flags: netlink.Request | netlink.Dump,
			},
			Data: []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0},
		})
		if err != nil {
			n.t.Fatal(err)
		}
		for _, answer := range answers {
			attributes, err := netlink.UnmarshalAttributes(answer.Data[4:])
			if err != nil {
				n.t.Fatal(err)
			}
			text := fmt.Sprintf("answer to %d, family %d:", of.get, answer.Data[0])
			for _, a := range attributes {
				if of.get == unix.NFT_MSG_GETSET && a.Type == unix.NFTA_SET_USERDATA {
					a.Data = readUserData(a.Data, attributes)
				}
				counts := of.get == unix.NFT_MSG_GETSET && a.Type == 0x14 /* NFTA_SET_COUNT: with nft's null element */
				if int(a.Type) != of.handle && !counts && len(a.Data) > 0 {
					text += fmt.Sprintf("\n  %#x %s", a.Type, hex.EncodeToString(a.Data))
				}
			}
			objects = append(objects, text)
		}
	}
	slices.Sort(objects)
	return objects
}

// readUserData leaves of a set's user data what nft reads, or nil. It also writes, and
// makes nothing of, a byte order for verdicts (1) and for what has none (0), an
// expression for the key that holds no more than the type does (3), and that
// verdicts are no ranges (6).
func readUserData(data []byte, set []netlink.Attribute) []byte {
	var kept []byte
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		length := 2 + int(data[1])
		orderless := slices.ContainsFunc(set, func(a netlink.Attribute) bool {
			if a.Type != unix.NFTA_SET_KEY_TYPE {
				return false
			}
			kind := binary.BigEndian.Uint32(a.Data)
			return kind >= 1<<nftables.SetConcatTypeBits || kind == nftables.TypeInetProto.GetNFTMagic()
		})
		switch kind := userdata.Type(data[0]); {
		case kind == userdata.NFTNL_UDATA_SET_KEYBYTEORDER && orderless,
			kind == userdata.NFTNL_UDATA_SET_DATABYTEORDER,
			kind == userdata.NFTNL_UDATA_SET_KEY_TYPEOF,
			kind == userdata.NFTNL_UDATA_SET_DATA_INTERVAL:
		default:
			kept = append(kept, data[:length]...)
		}
		data = data[length:]
	}
	return kept
}

// TestIntervals loads random sets of disjoint prefixes, in random order, some
// in two transactions, and takes some out again.
func TestIntervals(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		g := NewWithT(t)
		have, want := newNamespace(t), newNamespace(t)
		c := have.open()
		setType, words := nft.RangesOf(nft.IPv4Addr), "ipv4_addr"
		if i%2 == 1 {
			setType, words = nft.RangesOf(nft.IPv6Addr), "ipv6_addr"
		}
		all := randomPrefixes(random, setType)
		var elements []nft.Element
		for _, p := range all {
			elements = append(elements, nft.PrefixElement(p))
		}
		random.Shuffle(len(elements), func(i, j int) {
			elements[i], elements[j] = elements[j], elements[i]
			all[i], all[j] = all[j], all[i]
		})
		half, gone := len(all)/2, len(all)/3
		g.Expect(c.Apply(nft.Plan{Replace: true, Ops: []nft.Op{
			nft.AddSet{Name: "s", Type: setType},
			nft.AddElements{Set: "s", Type: setType, Elements: elements[:half]},
		}})).To(Succeed())
		g.Expect(c.Apply(nft.Plan{Ops: []nft.Op{
			nft.AddElements{Set: "s", Type: setType, Elements: elements[half:]},
		}})).To(Succeed())
		g.Expect(c.Apply(nft.Plan{Ops: []nft.Op{
			nft.DeleteElements{Set: "s", Type: setType, Elements: elements[:gone]},
		}})).To(Succeed())

		var texts []string
		for _, p := range all[gone:] {
			texts = append(texts, p.String())
		}
		want.nft(fmt.Sprintf("table inet podfence { set s { type %s; flags interval; elements = { %s }; }\n}\n",
			words, strings.Join(texts, ", ")), "-f", "-")
		expectSame(t, have, want)
	}
}

// randomPrefixes returns disjoint prefixes, with none that could be merged,
// which nft's listing would print as a range.
func randomPrefixes(random *rand.Rand, t nft.SetType) []netip.Prefix {
	var b netipx.IPSetBuilder
	for range 60 {
		var bytes [16]byte
		for i := range bytes {
			bytes[i] = byte(random.UintN(256))
		}
		if t == nft.RangesOf(nft.IPv4Addr) {
			p, _ := netip.AddrFrom4([4]byte(bytes[:4])).Prefix(3 + random.IntN(30))
			b.AddPrefix(p)
		} else {
			p, _ := netip.AddrFrom16(bytes).Prefix(3 + random.IntN(126))
			b.AddPrefix(p)
		}
	}
	s, err := b.IPSet()
	if err != nil {
		return nil
	}
	return s.Prefixes()
}
