package nft

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy/packet"
)

// Text is the table as nft reads it: `nft -f` makes it, in place of the one
// that is there.
func (t *Table) Text() string { return t.TextAs(TableName) }

// TextAs is the text of a table of that name.
func (t *Table) TextAs(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s\ndelete table %s %s\ntable %s %s {\n", t.Family, name, t.Family, name, t.Family, name)
	for _, name := range slices.Sorted(maps.Keys(t.Sets)) {
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
		for _, e := range SortedElements(s.Verdicts) {
			elements = append(elements, s.Type.Text(e)+" : "+s.Verdicts[e].String())
		}
	}
	for _, e := range SortedElements(s.Elements) {
		elements = append(elements, s.Type.Text(e))
	}
	for _, e := range s.timedElements() {
		elements = append(elements, e.text(s.Type))
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", kind, s.Name, s.Type, data)
	if s.Dynamic {
		for _, line := range dynamicText(s.Timeout) {
			fmt.Fprintf(b, "\t\t%s\n", line)
		}
	}
	if s.Timed != nil {
		b.WriteString("\t\tflags timeout\n")
	}
	if s.Type.Interval() {
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
		words = append(words, m.String())
	}
	if r.Counter {
		words = append(words, "counter")
	}
	if r.Log != (Log{}) {
		words = append(words, r.Log.String())
	}
	words = append(words, r.Verdict.String())
	if comment := r.Comment(); comment != "" {
		words = append(words, fmt.Sprintf("comment %q", comment))
	}
	return strings.Join(words, " ")
}

func (l Log) String() string {
	text := fmt.Sprintf("log prefix %q group %d", l.Prefix, l.Group)
	if !l.Whole {
		text += fmt.Sprintf(" snaplen %d", LogSnaplen)
	}
	return text
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
	case Queue:
		return fmt.Sprintf("queue flags bypass to %d", v.Number)
	}
	return fmt.Sprintf("%s vmap @%s", v.Field, v.Map)
}

func (Loopback) String() string  { return `iifname "lo"` }
func (g InGroup) String() string { return fmt.Sprintf("iifgroup %d", uint32(g)) }

func (ICMPv6) String() string        { return "meta l4proto ipv6-icmp" }
func (Authenticated) String() string { return "meta l4proto ah" }
func (n NextHeader) String() string {
	name, not := "ipv6-icmp", ""
	if n.Protocol == 0 {
		name = "hopopt"
	}
	if n.Not {
		not = "!= "
	}
	return "ip6 nexthdr " + not + name
}

func (Elsewhere) String() string { return "fib saddr . iif oif missing" }
func (DNAT) String() string      { return "ct status dnat" }
func (Begun) String() string     { return "ct direction original" }

func (h HopLimit) String() string { return fmt.Sprintf("ip6 hoplimit %d", uint8(h)) }
func (m Mark) String() string     { return fmt.Sprintf("ct mark & 0x%08x == 0x%08x", uint32(m), uint32(m)) }

func (m Midstream) String() string {
	if packet.Protocol(m) == packet.TCP {
		return "tcp flags ! syn"
	}
	return "meta l4proto sctp @th,96,8 != 0x1"
}

func (p PacketType) String() string {
	return "meta pkttype " + map[PacketType]string{Host: "host", Broadcast: "broadcast", Multicast: "multicast"}[p]
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

func (f OfFamily) String() string { return fmt.Sprintf("meta nfproto ipv%d", int(f)) }

func (l Limit) String() string {
	over := ""
	if l.Over {
		over = "over "
	}
	if l.Octets {
		return fmt.Sprintf("update @%s { %s limit rate %s%s/second burst %s }", l.Set, l.Field, over, octetsText(l.PerSecond), octetsText(l.Burst))
	}
	return fmt.Sprintf("update @%s { %s limit rate %s%d/second burst %d packets }", l.Set, l.Field, over, l.PerSecond, l.Burst)
}

// octetsText is a number of octets in the unit that nft chooses: the largest unit of which the
// number is a multiple.
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

func (n Noted) String() string {
	verb, counter := "add", ""
	if n.Renew {
		verb = "update"
	}
	if n.Count {
		counter = " counter"
	}
	return fmt.Sprintf("%s @%s { %s%s }", verb, n.Set, fieldsText(n.Fields), counter)
}

func (m MessageType) String() string { return "icmpv6 type " + named(icmpv6Types, uint8(m), "%d") }

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
	not := ""
	if l.Not {
		not = "!= "
	}
	return fmt.Sprintf("%s %s@%s", fieldsText(l.Fields), not, l.Set)
}

// fieldsText is fields, concatenated.
func fieldsText(fields []Field) string {
	texts := make([]string, len(fields))
	for i, f := range fields {
		texts[i] = f.String()
	}
	return strings.Join(texts, " . ")
}
