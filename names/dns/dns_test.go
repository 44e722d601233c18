package dns_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/names/dns"
	"github.com/podfence/podfence/test/check"
)

const (
	a    = dnsmessage.TypeA
	aaaa = dnsmessage.TypeAAAA
)

var (
	now  = time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	flow = dns.Flow{Pod: netip.MustParseAddrPort("10.244.1.7:40000"), Resolver: netip.MustParseAddrPort("10.96.0.10:53")}
)

// message is what a message says. Its parts may be changed before it is packed.
type message struct{ dnsmessage.Message }

func query(id uint16, name string, kind dnsmessage.Type) *message {
	m := &message{}
	m.ID, m.RecursionDesired = id, true
	m.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}
	return m
}

func reply(id uint16, name string, kind dnsmessage.Type, answers ...dnsmessage.Resource) *message {
	m := query(id, name, kind)
	m.Response, m.RecursionAvailable, m.Answers = true, true, answers
	return m
}

// with is the message after a change.
func (m *message) with(change func(*message)) *message {
	change(m)
	return m
}

func (m *message) pack(t testing.TB) []byte {
	t.Helper()
	return check.Value(m.Pack())(t)
}

func header(name string, ttl uint32) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: ttl}
}

func cname(name string, ttl uint32, target string) dnsmessage.Resource {
	return dnsmessage.Resource{Header: header(name, ttl), Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(target)}}
}

// at is a record A or AAAA, by the address's family; one of IPv4 in IPv6 is AAAA.
func at(name string, ttl uint32, addr string) dnsmessage.Resource {
	parsed := netip.MustParseAddr(addr)
	r := dnsmessage.Resource{Header: header(name, ttl)}
	if parsed.Is4() {
		r.Body = &dnsmessage.AResource{A: parsed.As4()}
	} else {
		r.Body = &dnsmessage.AAAAResource{AAAA: parsed.As16()}
	}
	return r
}

func answerOf(name string, addresses ...dns.Address) dns.Answer {
	return dns.Answer{Name: name, Addresses: addresses}
}

func address(addr string, seconds int) dns.Address {
	return dns.Address{Addr: netip.MustParseAddr(addr), TTL: time.Duration(seconds) * time.Second}
}

func datagram(payload []byte) dns.Packet { return dns.Packet{Flow: flow, Payload: payload} }

// ask has a tracker see queries.
func ask(t testing.TB, tracker *dns.Tracker, queries ...*message) {
	t.Helper()
	for _, q := range queries {
		if ignored := tracker.Query(datagram(q.pack(t)), now); len(ignored) > 0 {
			t.Fatalf("the query is ignored: %v", ignored)
		}
	}
}

func sameAnswers(got, want []dns.Answer) bool {
	return slices.EqualFunc(got, want, func(x, y dns.Answer) bool { return x.Name == y.Name && slices.Equal(x.Addresses, y.Addresses) })
}

// expect holds what comes of a reply against what should.
func expect(t *testing.T, got []dns.Answer, ignored []dns.Reason, want []dns.Answer, wantIgnored ...dns.Reason) {
	t.Helper()
	if !sameAnswers(got, want) {
		t.Errorf("answers %v, want %v", got, want)
	}
	if !slices.Equal(ignored, wantIgnored) {
		t.Errorf("ignored %v, want %v", ignored, wantIgnored)
	}
}

// framed are messages as TCP carries them.
func framed(messages ...[]byte) (stream []byte) {
	for _, m := range messages {
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(m))), m...)
	}
	return stream
}
