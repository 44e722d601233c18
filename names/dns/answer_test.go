package dns_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/names/dns"
	"github.com/podfence/podfence/policy"
)

// TestAnswers: what is learned of replies to a query for api.example.com with the ID 7.
func TestAnswers(t *testing.T) {
	const name, id = "api.example.com.", 7
	ok := func(addresses ...dns.Address) []dns.Answer {
		return []dns.Answer{answerOf("api.example.com", addresses...)}
	}
	for _, c := range []struct {
		what    string
		kind    dnsmessage.Type
		reply   *message
		want    []dns.Answer
		ignored []dns.Reason
	}{
		{"an address", a, reply(id, name, a, at(name, 30, "192.0.2.1")), ok(address("192.0.2.1", 30)), nil},
		{"several, of IPv6", aaaa, reply(id, name, aaaa, at(name, 30, "2001:db8::1"), at(name, 20, "fd00::1")), ok(address("2001:db8::1", 30), address("fd00::1", 20)), nil},
		{"aliases, with the least time", a, reply(id, name, a,
			cname(name, 300, "edge.cdn.net."), cname("edge.cdn.net.", 20, "e7.cdn.net."), at("e7.cdn.net.", 60, "192.0.2.1"), at("e7.cdn.net.", 5, "192.0.2.2"),
		), ok(address("192.0.2.1", 20), address("192.0.2.2", 5)), nil},
		{"aliases behind the addresses", a, reply(id, name, a,
			at("e7.cdn.net.", 60, "192.0.2.1"), cname("edge.cdn.net.", 20, "e7.cdn.net."), cname(name, 300, "edge.cdn.net."),
		), ok(address("192.0.2.1", 20)), nil},
		{"aliases in a loop", a, reply(id, name, a,
			cname(name, 300, "edge.cdn.net."), cname("edge.cdn.net.", 20, name), at("edge.cdn.net.", 60, "192.0.2.1"),
		), ok(address("192.0.2.1", 60)), nil},
		{"an alias of itself", a, reply(id, name, a, cname(name, 300, name)), nil, []dns.Reason{dns.NoAddresses}},
		{"any case", a, reply(id, "aPi.ExamplE.coM.", a, cname("API.example.COM.", 300, "Edge.CDN.net."), at("eDGE.cdn.nET.", 60, "192.0.2.1")), ok(address("192.0.2.1", 60)), nil},
		{"somebody else's address", a, reply(id, name, a, at(name, 30, "192.0.2.1"), at("evil.example.org.", 30, "192.0.2.66")), ok(address("192.0.2.1", 30)), nil},
		{"only somebody else's address", a, reply(id, name, a, at("evil.example.org.", 30, "192.0.2.66")), nil, []dns.Reason{dns.NoAddresses}},
		{"somebody else's alias", a, reply(id, name, a, cname("evil.example.org.", 30, name), at("evil.example.org.", 30, "192.0.2.66")), nil, []dns.Reason{dns.NoAddresses}},
		{"the other family's address", a, reply(id, name, a, at(name, 30, "2001:db8::1")), nil, []dns.Reason{dns.NoAddresses}},
		{"another class", a, reply(id, name, a, at(name, 30, "192.0.2.1")).with(func(m *message) { m.Answers[0].Header.Class = dnsmessage.ClassCHAOS }), nil, []dns.Reason{dns.NoAddresses}},
		{"an alias of another class", a, reply(id, name, a, cname(name, 30, "edge.cdn.net."), at("edge.cdn.net.", 30, "192.0.2.1")).
			with(func(m *message) { m.Answers[0].Header.Class = dnsmessage.ClassCHAOS }), nil, []dns.Reason{dns.NoAddresses}},
		{"other sections", a, reply(id, name, a).with(func(m *message) {
			m.Authorities, m.Additionals = []dnsmessage.Resource{at(name, 30, "192.0.2.1")}, []dnsmessage.Resource{at(name, 30, "192.0.2.2")}
		}), nil, []dns.Reason{dns.NoAddresses}},
		{"a time of 0", a, reply(id, name, a, at(name, 0, "192.0.2.1")), ok(address("192.0.2.1", 0)), nil},
		{"a time with the highest bit", a, reply(id, name, a, at(name, 1<<31+5, "192.0.2.1")), ok(address("192.0.2.1", 0)), nil},
		{"the longest time", a, reply(id, name, a, at(name, 1<<31-1, "192.0.2.1")), ok(address("192.0.2.1", 1<<31-1)), nil},
		{"records of other types", a, reply(id, name, a,
			dnsmessage.Resource{Header: header(name, 9), Body: &dnsmessage.TXTResource{TXT: []string{"192.0.2.66"}}}, at(name, 30, "192.0.2.1"),
		), ok(address("192.0.2.1", 30)), nil},

		{"no such name", a, reply(id, name, a).with(func(m *message) { m.RCode = dnsmessage.RCodeNameError }), nil, []dns.Reason{dns.ErrorCode}},
		{"an error with an address", a, reply(id, name, a, at(name, 30, "192.0.2.1")).with(func(m *message) { m.RCode = dnsmessage.RCodeServerFailure }), nil, []dns.Reason{dns.ErrorCode}},
		{"truncated", a, reply(id, name, a, at(name, 30, "192.0.2.1")).with(func(m *message) { m.Truncated = true }), ok(address("192.0.2.1", 30)), []dns.Reason{dns.Truncated}},
		{"truncated, with nothing in it", a, reply(id, name, a).with(func(m *message) { m.Truncated = true }), nil, []dns.Reason{dns.Truncated, dns.NoAddresses}},
		{"no address", a, reply(id, name, a), nil, []dns.Reason{dns.NoAddresses}},
		{"another ID", a, reply(8, name, a, at(name, 30, "192.0.2.1")), nil, []dns.Reason{dns.WrongID}},
		{"another name", a, reply(id, "api.example.org.", a, at("api.example.org.", 30, "192.0.2.1")), nil, []dns.Reason{dns.WrongQuestion}},
		{"another type of addresses", a, reply(id, name, aaaa, at(name, 30, "2001:db8::1")), nil, []dns.Reason{dns.WrongQuestion}},
		{"another type", a, reply(id, name, dnsmessage.TypeTXT, at(name, 30, "192.0.2.1")), nil, []dns.Reason{dns.OtherQuestion}},
		{"another class of question", a, reply(id, name, a, at(name, 30, "192.0.2.1")).with(func(m *message) { m.Questions[0].Class = dnsmessage.ClassANY }), nil, []dns.Reason{dns.OtherQuestion}},
		{"two questions", a, reply(id, name, a, at(name, 30, "192.0.2.1")).with(func(m *message) { m.Questions = append(m.Questions, m.Questions[0]) }), nil, []dns.Reason{dns.QuestionCount}},
		{"no question", a, reply(id, name, a, at(name, 30, "192.0.2.1")).with(func(m *message) { m.Questions = nil }), nil, []dns.Reason{dns.QuestionCount}},
		{"a query", a, query(id, name, a), nil, []dns.Reason{dns.WrongDirection}},
		{"an update", a, reply(id, name, a, at(name, 30, "192.0.2.1")).with(func(m *message) { m.OpCode = 5 }), nil, []dns.Reason{dns.OtherOperation}},

		{"this network", a, reply(id, name, a, at(name, 30, "0.0.0.0"), at(name, 30, "0.1.2.3"), at(name, 30, "192.0.2.1")), ok(address("192.0.2.1", 30)), []dns.Reason{dns.UnspecifiedAddress, dns.UnspecifiedAddress}},
		{"loopback", a, reply(id, name, a, at(name, 30, "127.0.0.1"), at(name, 30, "127.8.9.1")), nil, []dns.Reason{dns.LoopbackAddress, dns.LoopbackAddress, dns.NoAddresses}},
		{"multicast", a, reply(id, name, a, at(name, 30, "224.0.0.1"), at(name, 30, "239.1.1.1")), nil, []dns.Reason{dns.MulticastAddress, dns.MulticastAddress, dns.NoAddresses}},
		{"broadcast", a, reply(id, name, a, at(name, 30, "255.255.255.255")), nil, []dns.Reason{dns.BroadcastAddress, dns.NoAddresses}},
		{"link-local", a, reply(id, name, a, at(name, 30, "169.254.169.254")), nil, []dns.Reason{dns.LinkLocalAddress, dns.NoAddresses}},
		{"private", a, reply(id, name, a, at(name, 30, "10.0.0.1"), at(name, 30, "192.168.1.1"), at(name, 30, "172.16.0.1"), at(name, 30, "100.64.0.1")),
			ok(address("10.0.0.1", 30), address("192.168.1.1", 30), address("172.16.0.1", 30), address("100.64.0.1", 30)), nil},
		{"of IPv6, none of a peer", aaaa, reply(id, name, aaaa, at(name, 30, "::"), at(name, 30, "::1"), at(name, 30, "ff02::1"), at(name, 30, "fe80::1"), at(name, 30, "::ffff:192.0.2.1"), at(name, 30, "::ffff:127.0.0.1")),
			nil, []dns.Reason{dns.UnspecifiedAddress, dns.LoopbackAddress, dns.MulticastAddress, dns.LinkLocalAddress, dns.MappedAddress, dns.MappedAddress, dns.NoAddresses}},
	} {
		t.Run(c.what, func(t *testing.T) {
			tracker := dns.NewTracker()
			ask(t, tracker, query(id, name, c.kind))
			got, ignored := tracker.Reply(datagram(c.reply.pack(t)), now)
			expect(t, got, ignored, c.want, c.ignored...)
		})
	}
}

// TestOctets: a reply as resolvers write it, octet by octet, with compression; and what others may make of it.
func TestOctets(t *testing.T) {
	const (
		head     = "\x00\x07\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00"
		asked    = "\x03www\x07example\x03com\x00\x00\x01\x00\x01"
		alias    = "\xc0\x0c\x00\x05\x00\x01\x00\x00\x01\x2c\x00\x06\x03cdn\xc0\x10" // www.example.com CNAME cdn.example.com
		addr     = "\xc0\x2d\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01"
		question = "\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + asked
	)
	good := []dns.Answer{answerOf("www.example.com", address("192.0.2.1", 60))}
	for _, c := range []struct {
		what, reply string
		want        []dns.Answer
		ignored     []dns.Reason
	}{
		{"as it is", head + asked + alias + addr, good, nil},
		{"with octets behind its end", head + asked + alias + addr + "\x00\x07", good, nil},
		{"nothing", "", nil, []dns.Reason{dns.Malformed}},
		{"part of a header", head[:11], nil, []dns.Reason{dns.Malformed}},
		{"a header alone", head, nil, []dns.Reason{dns.Malformed}},
		{"part of the question", head + asked[:20], nil, []dns.Reason{dns.Malformed}},
		{"one record of two", head + asked + alias, nil, []dns.Reason{dns.Malformed}},
		{"part of an address", head + asked + alias + addr[:15], nil, []dns.Reason{dns.Malformed}},
		{"a name that points at itself", head + asked + "\xc0\x21" + alias[2:] + addr, nil, []dns.Reason{dns.Malformed}},
		{"two that point at each other", head + asked + "\xc0\x23\xc0\x21" + alias[4:] + addr, nil, []dns.Reason{dns.Malformed}},
		{"a name that points behind the end", head + asked + "\xcf\xff" + alias[2:] + addr, nil, []dns.Reason{dns.Malformed}},
		{"an alias that points at itself", head + asked + alias[:12] + "\xc0\x2d" + alias[14:] + addr, nil, []dns.Reason{dns.Malformed}},
		{"a label of a reserved kind", head + asked + "\x80\x0c" + alias[2:] + addr, nil, []dns.Reason{dns.Malformed}},
		{"an address of three octets", head + asked + alias + addr[:10] + "\x00\x03" + addr[12:], nil, []dns.Reason{dns.NoAddresses}},
		{"an address of none, before four octets", head + asked + alias + addr[:10] + "\x00\x00" + addr[12:], nil, []dns.Reason{dns.NoAddresses}},
		{"an address of 16", head + asked + alias + addr[:10] + "\x00\x10" + addr[12:] + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", nil, []dns.Reason{dns.NoAddresses}},
		{"a dot inside of a label", head + "\x0bwww.example\x03com\x00\x00\x01\x00\x01" + alias + addr, nil, []dns.Reason{dns.Malformed}},
		{"a dot inside of an alias", head + asked + alias[:12] + "\x03c.n" + alias[16:] + addr, nil, []dns.Reason{dns.Malformed}},
		{"a NUL inside of a label", head + "\x03www\x07exampl\x00\x03com\x00\x00\x01\x00\x01" + alias + addr, nil, []dns.Reason{dns.OddName}},
		{"the question compressed", head + "\x03www\x07example\x03com\xc0\x0a\x00\x01\x00\x01" + "\xc0\x0c" + addr[2:] + "\xc0\x0c" + addr[2:], []dns.Answer{answerOf("www.example.com", address("192.0.2.1", 60), address("192.0.2.1", 60))}, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			tracker := dns.NewTracker()
			if ignored := tracker.Query(datagram([]byte(question)), now); len(ignored) > 0 {
				t.Fatal(ignored)
			}
			got, ignored := tracker.Reply(datagram([]byte(c.reply)), now)
			expect(t, got, ignored, c.want, c.ignored...)
		})
	}
}

// TestOddNames: names that no host has are not asked for, so that no policy can be taken to mean them.
func TestOddNames(t *testing.T) {
	for name, want := range map[string]dns.Reason{
		"\x03api\x07example\x03com\x00":     0,
		"\x03API\x07exAmple\x03COM\x00":     0,
		"\x04_dns\x07example\x03com\x00":    0,
		"\x0bapi.example\x03com\x00":        dns.Malformed,
		"\x03api\x0bexample.com\x00":        dns.Malformed,
		"\x01*\x07example\x03com\x00":       dns.OddName,
		"\x04a\\.b\x07example\x03com\x00":   dns.Malformed,
		"\x06a\\046b\x07example\x03com\x00": dns.OddName,
		"\x03a b\x07example\x03com\x00":     dns.OddName,
		"\x03a\x00b\x07example\x03com\x00":  dns.OddName,
		"\x05caf\xc3\xa9\x03com\x00":        dns.OddName,
		// The sign for kelvin, which Unicode's lower case makes a k.
		"\x03\xe2\x84\xaa\x03com\x00": dns.OddName,
		"\x00":                        dns.OddName,
	} {
		tracker := dns.NewTracker()
		query := []byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x01\x00\x01")
		ignored := tracker.Query(datagram(query), now)
		if want == 0 && len(ignored) > 0 || want != 0 && !slices.Equal(ignored, []dns.Reason{want}) {
			t.Errorf("%q: ignored %v, want %v", name, ignored, want)
		}
		// The same as a reply, with an address.
		reply := slices.Concat(query[:2], []byte("\x81\x80\x00\x01\x00\x01"), query[8:], []byte("\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01"))
		if got, _ := tracker.Reply(datagram(reply), now); (len(got) == 1) != (want == 0) {
			t.Errorf("%q: learned %v", name, got)
		}
	}
}

// TestChainIsBounded: 16 aliases are followed, and of more there is nothing to be learned.
func TestChainIsBounded(t *testing.T) {
	for aliases, want := range map[int]bool{16: true, 17: false, 2000: false} {
		r := reply(7, "n0.example.com.", a)
		for i := range aliases {
			r.Answers = append(r.Answers, cname(fmt.Sprintf("n%d.example.com.", i), uint32(100+i), fmt.Sprintf("n%d.example.com.", i+1)))
		}
		slices.Reverse(r.Answers)
		r.Answers = append(r.Answers, at(fmt.Sprintf("n%d.example.com.", aliases), 600, "192.0.2.1"))
		tracker := dns.NewTracker()
		ask(t, tracker, query(7, "n0.example.com.", a))
		got, ignored := tracker.Reply(datagram(r.pack(t)), now)
		if want {
			expect(t, got, ignored, []dns.Answer{answerOf("n0.example.com", address("192.0.2.1", 100))})
		} else {
			expect(t, got, ignored, nil, dns.LongChain)
		}
	}
}

// TestManyAddresses: as many as fit into a message.
func TestManyAddresses(t *testing.T) {
	for addresses, want := range map[int]int{999: 999, 1000: 1000, 1001: 1000, 4090: 1000} {
		r := reply(7, "api.example.com.", a)
		for i := range addresses {
			r.Answers = append(r.Answers, at("api.example.com.", 60, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String()))
		}
		tracker := dns.NewTracker()
		ask(t, tracker, query(7, "api.example.com.", a))
		got, ignored := tracker.Reply(datagram(r.pack(t)), now)
		if len(got) != 1 || len(got[0].Addresses) != want || got[0].Addresses[want-1].Addr != netip.AddrFrom4([4]byte{198, 18, byte((want - 1) >> 8), byte(want - 1)}) {
			t.Fatalf("%d addresses: %d answers", addresses, len(got))
		}
		if told := slices.Equal(ignored, []dns.Reason{dns.TooManyAddresses}); told != (addresses > want) {
			t.Errorf("%d addresses: ignored %v", addresses, ignored)
		}
	}
}

func TestResolutions(t *testing.T) {
	answer := answerOf("api.example.com", address("192.0.2.1", 0), address("192.0.2.2", 60), address("192.0.2.3", 1<<31-1))
	pod := netip.MustParseAddr("10.244.1.7")
	want := []policy.Resolution{
		{Name: "api.example.com", Addr: netip.MustParseAddr("192.0.2.1"), Pod: pod, Expires: now.Add(5 * time.Second)},
		{Name: "api.example.com", Addr: netip.MustParseAddr("192.0.2.2"), Pod: pod, Expires: now.Add(time.Minute)},
		{Name: "api.example.com", Addr: netip.MustParseAddr("192.0.2.3"), Pod: pod, Expires: now.Add(time.Hour)},
	}
	if got := answer.Resolutions(pod, now, 5*time.Second, time.Hour); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestReasons: each has a text of its own that may be a label.
func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for r := dns.Malformed; r <= dns.MappedAddress; r++ {
		text := r.String()
		if seen[text] || strings.ContainsFunc(text, func(c rune) bool { return c != '-' && (c < 'a' || c > 'z') }) {
			t.Errorf("reason %d is %q", uint8(r), text)
		}
		seen[text] = true
	}
	if got := (dns.MappedAddress + 1).String(); got != fmt.Sprintf("reason %d", dns.MappedAddress+1) {
		t.Errorf("there is one more: %q", got)
	}
}
