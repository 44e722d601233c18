package semantics_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
)

// expect checks expectations, one to a line, in one batch of packets:
//
//	allow|deny FROM -> TO PROTOCOL [option value] ...
//
// FROM and TO are hosts or addresses. PROTOCOL is "tcp 80", "udp 53", "sctp
// 99", "ping" (an echo request of the family), "icmp6 TYPE", or "proto 47".
// A packet between hosts is sent over both families. The options:
//
//	family 4|6     only that one
//	hop N          hop limit
//	src ADDR       a source that is not FROM's own
//	behind N       an IPv6 extension header, by its number
//	as ADDR        what it comes from for its receiver, where rules of the test's see to that
//	via ADDR:PORT  where the sender addresses it; NAT of the test's own leads
//	               it to TO
//	at input       the node takes it in
//	reach HOST     where it would arrive, if that has not that address
func (c *fenced) expect(text string) {
	c.t.Helper()
	var cases []agreement.Case
	var want []bool
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		if line, _, _ = strings.Cut(strings.TrimSpace(line), " #"); line == "" {
			continue
		}
		for _, one := range c.cases(line) {
			cases, want, lines = append(cases, one), append(want, strings.HasPrefix(line, "allow ")), append(lines, line)
		}
	}
	report, err := c.Check(context.Background(), c.s, cases)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(report) != len(cases) {
		c.t.Fatalf("only %d of %d packets concern the node, in\n%s", len(report), len(cases), text)
	}
	for i, r := range report {
		if r.Judged != want[i] || !r.Agree() {
			c.t.Errorf("want: %s\n%s", strings.TrimSpace(lines[i]), r)
		}
	}
}

// cases are the packets of one line.
func (c *fenced) cases(line string) (cases []agreement.Case) {
	c.t.Helper()
	words := strings.Fields(line)
	if len(words) < 5 || words[0] != "allow" && words[0] != "deny" || words[2] != "->" {
		c.t.Fatalf("expectation: what is %q?", line)
	}
	kind, rest := words[4], words[5:]
	number := uint64(0)
	if kind != "ping" {
		if len(rest) == 0 {
			c.t.Fatalf("expectation %q: which %s?", line, kind)
		}
		number, rest = parseNumber(c.t, rest[0]), rest[1:]
	}
	options := map[string]string{}
	for ; len(rest) >= 2; rest = rest[2:] {
		options[rest[0]] = rest[1]
	}
	for _, family := range []string{"4", "6"} {
		from, fromAddr := c.end(words[1], family)
		to, toAddr := c.end(words[3], family)
		if !fromAddr.IsValid() || !toAddr.IsValid() || options["family"] != "" && options["family"] != family {
			continue
		}
		one := agreement.Case{Packet: policy.Packet{Src: fromAddr, Dst: toAddr}, From: from, To: to}
		switch kind {
		case "tcp", "udp", "sctp":
			one.Protocol = map[string]policy.Protocol{"tcp": policy.TCP, "udp": policy.UDP, "sctp": policy.SCTP}[kind]
			one.DstPort = uint16(number)
		case "ping":
			one.Protocol, one.ICMPType = policy.ICMP, 8
			if family == "6" {
				one.Protocol, one.ICMPType = policy.ICMPv6, 128
			}
		case "icmp6":
			if family == "4" {
				continue
			}
			one.Protocol, one.ICMPType = policy.ICMPv6, uint8(number)
		case "proto":
			one.Protocol = policy.Protocol(number)
		default:
			c.t.Fatalf("expectation: what is %q?", kind)
		}
		c.apply(&one, options)
		cases = append(cases, one)
	}
	if len(cases) == 0 {
		c.t.Fatalf("expectation %q: no packet", line)
	}
	return cases
}

func (c *fenced) apply(one *agreement.Case, options map[string]string) {
	c.t.Helper()
	for option, value := range options {
		switch option {
		case "family":
		case "hop":
			one.HopLimit = uint8(parseNumber(c.t, value))
		case "behind":
			number := policy.Protocol(parseNumber(c.t, value))
			one.Wire.Extensions, one.HopByHop, one.Extended = []policy.Protocol{number}, number == 0, number != 0
		case "src":
			one.Src = netip.MustParseAddr(value)
		case "via":
			one.Service = netip.MustParseAddrPort(value)
		case "as":
			one.As = netip.MustParseAddr(value)
		case "reach":
			one.To = c.host(value)
		case "at":
			one.Input, one.To = true, &c.Node.Host
		default:
			c.t.Fatalf("expectation: what is %q?", option)
		}
	}
}

// end is one end of a packet, if it is of that family. An address may be
// nobody's.
func (c *fenced) end(word, family string) (*lab.Host, netip.Addr) {
	c.t.Helper()
	like := netip.IPv4Unspecified()
	if family == "6" {
		like = netip.IPv6Unspecified()
	}
	if addr, err := netip.ParseAddr(word); err == nil {
		if addr.Is4() != like.Is4() {
			return nil, netip.Addr{}
		}
		return c.Lab.Owner(addr), addr
	}
	h := c.host(word)
	return h, h.IP(like)
}

func parseNumber(t *testing.T, word string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(word, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// problems are what Compile finds wrong with the cluster's policies, as
// "namespace/name field".
func (c *fenced) problems() (found []string) {
	c.t.Helper()
	_, problems := policy.Compile(c.s, "")
	for _, p := range problems {
		found = append(found, fmt.Sprintf("%s %s", p.Policy, p.Field))
	}
	return found
}

// found checks that the problems of the cluster's policies are just these.
func (c *fenced) found(want ...string) {
	c.t.Helper()
	if have := c.problems(); !slices.Equal(have, want) {
		c.t.Errorf("problems are %q, want %q", have, want)
	}
}
