package ruleset

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"

	"github.com/podfence/podfence/policy"
)

// Text is the table as nft reads it: `nft -f` makes it, in place of the one
// that is there.
func (t *Table) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s\ndelete table %s %s\ntable %s %s {\n", t.Family, TableName, t.Family, TableName, t.Family, TableName)
	for _, name := range sortedBy(t.Sets, func(s string) string { return s }) {
		t.Sets[name].text(&b)
		b.WriteString("\n")
	}
	for i, chain := range t.sortedChains() {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n", chain.Name)
		if chain.Hook != nil {
			fmt.Fprintf(&b, "\t\t%s\n", chain.Hook)
		}
		for _, rule := range chain.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *Set) text(b *strings.Builder) {
	kind, data := "set", ""
	var elements []string
	if s.IsMap() {
		kind, data = "map", " : verdict"
		for _, e := range sortedElements(s.Verdicts) {
			elements = append(elements, s.Type.text(e)+" : "+s.Verdicts[e].String())
		}
	}
	for _, e := range sortedElements(s.Elements) {
		elements = append(elements, s.Type.text(e))
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", kind, s.Name, s.Type, data)
	if s.Dynamic {
		for _, line := range dynamicText(s.Timeout) {
			fmt.Fprintf(b, "\t\t%s\n", line)
		}
	}
	if s.Type.interval() {
		b.WriteString("\t\tflags interval\n")
	}
	if s.Comment != "" {
		fmt.Fprintf(b, "\t\tcomment %q\n", s.Comment)
	}
	if len(elements) > 0 {
		separator := ", "
		if s.IsMap() || len(strings.Join(elements, separator)) > 100 {
			separator = ",\n\t\t             "
		}
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(elements, separator))
	}
	b.WriteString("\t}\n")
}

func (h *Hook) String() string {
	kind, priority := "filter", h.Base.String()
	if h.NAT {
		kind = "nat"
	}
	switch {
	case h.Priority > 0:
		priority += fmt.Sprintf(" + %d", h.Priority)
	case h.Priority < 0:
		priority += fmt.Sprintf(" - %d", -h.Priority)
	}
	return fmt.Sprintf("type %s hook %s priority %s; policy accept;", kind, h.Point, priority)
}

// String is the rule as nft writes it.
func (r Rule) String() string {
	var words []string
	for _, m := range r.Matches {
		words = append(words, fmt.Sprint(m))
	}
	if r.Counter {
		words = append(words, "counter")
	}
	words = append(words, r.Verdict.String())
	if r.Comment != "" {
		words = append(words, fmt.Sprintf("comment %q", r.Comment))
	}
	return strings.Join(words, " ")
}

func (v Verdict) String() string {
	switch v.Action {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Reject:
		return "reject with icmpx admin-prohibited"
	case Jump:
		return "jump " + v.Chain
	case Return:
		return "return"
	case Masquerade:
		return "masquerade fully-random"
	}
	return fmt.Sprintf("%s vmap @%s", v.Field, v.Map)
}

func (Loopback) String() string      { return `iifname "lo"` }
func (PodPort) String() string       { return fmt.Sprintf("iifgroup %d", LinkGroup) }
func (ICMPv6) String() string        { return "meta l4proto ipv6-icmp" }
func (Authenticated) String() string { return "meta l4proto ah" }
func (n NextHeader) String() string {
	name, not := "ipv6-icmp", ""
	if n.Protocol == hopByHop {
		name = "hopopt"
	}
	if n.Not {
		not = "!= "
	}
	return "ip6 nexthdr " + not + name
}

func (Elsewhere) String() string { return "fib saddr . iif oif missing" }
func (DNAT) String() string      { return "ct status dnat" }

func (h HopLimit) String() string { return fmt.Sprintf("ip6 hoplimit %d", uint8(h)) }
func (m Mark) String() string     { return fmt.Sprintf("ct mark & 0x%08x == 0x%08x", uint32(m), uint32(m)) }

func (m Midstream) String() string {
	if policy.Protocol(m) == policy.TCP {
		return "tcp flags ! syn"
	}
	return "meta l4proto sctp @th,96,8 != 0x1"
}

func (p PacketType) String() string {
	if p == Broadcast {
		return "meta pkttype broadcast"
	}
	return "meta pkttype multicast"
}

func (ICMPv6Error) String() string { return "icmpv6 type < echo-request" }
func (Redirect) String() string    { return "icmp type redirect" }
func (UpperLayer) String() string  { return "@th,56,8 >= 0x0" }
func (Atomic) String() string      { return "frag frag-off 0 frag more-fragments 0" }

func (f Fragment) String() string {
	switch f {
	case Fragment{}:
		return "ip frag-off & 16383 != 0"
	case Fragment{First: true}:
		return "ip frag-off & 8191 == 0"
	case Fragment{V6: true}:
		return "exthdr frag exists"
	}
	return "frag frag-off 0"
}

func (l Limit) String() string {
	if l.Octets {
		return fmt.Sprintf("update @%s { %s limit rate %s/second burst %s }", l.Set, l.Field, octetsText(l.PerSecond), octetsText(l.Burst))
	}
	return fmt.Sprintf("update @%s { %s limit rate %d/second burst %d packets }", l.Set, l.Field, l.PerSecond, l.Burst)
}

// octetsText is a number of octets in the unit that nft chooses: the largest that it is a
// multiple of.
func octetsText(n uint32) string {
	unit := 0
	for ; unit < 2 && n > 0 && n%1024 == 0; unit++ {
		n /= 1024
	}
	return fmt.Sprintf("%d %s", n, [...]string{"bytes", "kbytes", "mbytes"}[unit])
}

func (Unconfirmed) String() string { return "ct status ! confirmed" }

func (c Connections) String() string {
	return fmt.Sprintf("add @%s { %s ct count over %d }", c.Set, c.Field, c.Over)
}

func (n Noted) String() string { return fmt.Sprintf("add @%s { %s }", n.Set, n.Field) }

func (m MessageType) String() string { return "icmpv6 type " + messageTypeTexts[uint8(m)] }

func (s CtState) String() string {
	var states []string
	for i, name := range []string{"established", "related", "invalid", "new", "untracked"} {
		if s&(1<<i) != 0 {
			states = append(states, name)
		}
	}
	return "ct state " + strings.Join(states, ",")
}

func (l Lookup) String() string {
	fields := make([]string, len(l.Fields))
	for i, f := range l.Fields {
		fields[i] = f.String()
	}
	not := ""
	if l.Not {
		not = "!= "
	}
	return fmt.Sprintf("%s %s@%s", strings.Join(fields, " . "), not, l.Set)
}

func (f Field) String() string {
	return [...]string{
		SrcAddr4: "ip saddr", DstAddr4: "ip daddr", SrcAddr6: "ip6 saddr", DstAddr6: "ip6 daddr",
		L4Protocol: "meta l4proto", DstPort: "th dport", ICMPv6MessageType: "icmpv6 type",
		InPort: "iifname", OutPort: "oifname", SrcMAC: "ether saddr", DstMAC: "ether daddr", FrameType: "ether type",
		ICMPMessageType: "icmp type", CtOriginalSrc4: "ct original ip saddr", CtOriginalSrc6: "ct original ip6 saddr",
		CtReplySrc4: "ct reply ip saddr", CtReplySrc6: "ct reply ip6 saddr",
		ARPSrcMAC: "arp saddr ether", ARPSrcAddr: "arp saddr ip", ARPDstAddr: "arp daddr ip",
	}[f]
}

func (t SetType) String() string {
	return [...]string{
		Addr4: "ipv4_addr", Addr6: "ipv6_addr", Range4: "ipv4_addr", Range6: "ipv6_addr",
		Port: "inet_proto . inet_service", PortRange: "inet_proto . inet_service",
		Endpoint4: "ipv4_addr . inet_proto . inet_service", Endpoint6: "ipv6_addr . inet_proto . inet_service",
		ICMPv6Type: "icmpv6_type", EtherAddr: "ether_addr", EtherType: "ether_type",
		Sender4: "ifname . ether_addr . ipv4_addr", Sender6: "ifname . ether_addr . ipv6_addr", IfName: "ifname",
		LinkAddr4: "ifname . ipv4_addr", LinkAddr6: "ifname . ipv6_addr",
		ICMPType: "icmp_type", Pair4: "ipv4_addr . ipv4_addr", Pair6: "ipv6_addr . ipv6_addr",
	}[t]
}

func (t SetType) interval() bool { return t == Range4 || t == Range6 || t == PortRange }

// text is an element as nft writes it.
func (t SetType) text(e Element) string {
	switch t {
	case Range4, Range6:
		first, last := t.addrOf(e), t.addrOf(Element{Addr: e.LastAddr})
		if prefix, is := netipx.IPRangeFrom(first, last).Prefix(); !is {
			return fmt.Sprintf("%s-%s", first, last)
		} else if !prefix.IsSingleIP() {
			return prefix.String()
		}
		return first.String()
	case Port:
		return fmt.Sprintf("%s . %d", protocolText(e.Protocol), e.First)
	case PortRange:
		if e.First == e.Last {
			return fmt.Sprintf("%s . %d", protocolText(e.Protocol), e.First)
		}
		return fmt.Sprintf("%s . %d-%d", protocolText(e.Protocol), e.First, e.Last)
	case Endpoint4, Endpoint6:
		return fmt.Sprintf("%s . %s . %d", t.addrOf(e), protocolText(e.Protocol), e.First)
	case ICMPv6Type:
		return messageTypeTexts[e.Protocol]
	case ICMPType:
		return errorTexts[e.Protocol]
	case Pair4, Pair6:
		return fmt.Sprintf("%s . %s", t.addrOf(e), t.addrOf(Element{Addr: e.LastAddr}))
	case EtherAddr:
		return macText(e.MAC)
	case EtherType:
		return etherTypeTexts[e.First]
	case Sender4, Sender6:
		return fmt.Sprintf("%q . %s . %s", portText(e), macText(e.MAC), t.addrOf(e))
	case LinkAddr4, LinkAddr6:
		return fmt.Sprintf("%q . %s", portText(e), t.addrOf(e))
	case IfName:
		return fmt.Sprintf("%q", portText(e))
	}
	return t.addrOf(e).String()
}

// portText is the name of an element's link.
func portText(e Element) string { return strings.TrimRight(string(e.Port[:]), "\x00") }

// addrOf is the address of an element.
func (t SetType) addrOf(e Element) netip.Addr {
	if t == Addr4 || t == Range4 || t == Endpoint4 || t == Sender4 || t == LinkAddr4 || t == Pair4 {
		return netip.AddrFrom4([4]byte(e.Addr[:4]))
	}
	return netip.AddrFrom16(e.Addr)
}

func protocolText(p uint8) string {
	switch p {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return fmt.Sprint(p)
}

// messageTypeTexts are nft's names of the ICMPv6 types in the table.
var messageTypeTexts = map[uint8]string{
	130: "mld-listener-query", 131: "mld-listener-report", 132: "mld-listener-done", 143: "mld2-listener-report",
	133: "nd-router-solicit", 134: "nd-router-advert", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert", 137: "nd-redirect",
}

// errorTexts are nft's names of ICMP's error messages.
var errorTexts = map[uint8]string{
	3: "destination-unreachable", 4: "source-quench", 5: "redirect", 11: "time-exceeded", 12: "parameter-problem",
}

// etherTypeTexts are nft's names of the EtherTypes in the table.
var etherTypeTexts = map[uint16]string{TypeIPv4: "ip", TypeARP: "arp", TypeIPv6: "ip6"}

func macText(mac [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])
}
