package resolver

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/names/dns"
	"github.com/podfence/podfence/policy"
)

// TestRead: for how long replies count, and what is wrong with them.
func TestRead(t *testing.T) {
	var chain []dnsmessage.Resource
	for i := range 20 {
		chain = append(chain, cname(fmt.Sprintf("c%d.example.com", i), 100, fmt.Sprintf("c%d.example.com", i+1)))
	}
	rcode := func(code dnsmessage.RCode) dnsmessage.Header { return dnsmessage.Header{RCode: code} }
	for _, c := range []struct {
		name  string
		reply dnsmessage.Message
		cut   int // so many octets are missing
		addrs int
		ttl   time.Duration
		err   error
	}{
		{"addresses of different TTLs", dnsmessage.Message{Answers: []dnsmessage.Resource{at("c0.example.com", 70, "192.0.2.1"), at("c0.example.com", 60, "192.0.2.2"), at("c0.example.com", 80, "192.0.2.3")}}, 0, 3, time.Minute, nil},
		{"an alias to nothing", dnsmessage.Message{Answers: chain[:2], Authorities: []dnsmessage.Resource{soa(60, 20)}}, 0, 0, 20 * time.Second, nil},
		{"an alias to a name that there is not", dnsmessage.Message{Header: rcode(dnsmessage.RCodeNameError), Answers: chain[:2], Authorities: []dnsmessage.Resource{soa(10, 20)}}, 0, 0, 10 * time.Second, nil},
		{"an address that no peer can have", dnsmessage.Message{Answers: []dnsmessage.Resource{at("c0.example.com", 70, "127.0.0.1")}}, 0, 0, noSOA, nil},
		{"the uppermost bit", dnsmessage.Message{Authorities: []dnsmessage.Resource{soa(math.MaxUint32, math.MaxInt32+1)}}, 0, 0, 0, nil},
		{"too many aliases", dnsmessage.Message{Answers: chain}, 0, 0, 0, Malformed},
		{"SERVFAIL", dnsmessage.Message{Header: rcode(dnsmessage.RCodeServerFailure), Authorities: []dnsmessage.Resource{soa(10, 20)}}, 0, 0, 0, Refused},
		{"REFUSED", dnsmessage.Message{Header: rcode(dnsmessage.RCodeRefused)}, 0, 0, 0, Refused},
		{"half a SOA record", dnsmessage.Message{Authorities: []dnsmessage.Resource{soa(60, 20)}}, 2, 0, 0, Malformed},
		{"half of another record", dnsmessage.Message{Authorities: []dnsmessage.Resource{record("example.com", 7, &dnsmessage.NSResource{NS: name("ns.example.com")})}}, 2, 0, 0, Malformed},
		{"truncated", dnsmessage.Message{Header: dnsmessage.Header{Truncated: true}}, 0, 0, 0, errTruncated},
		{"another question", dnsmessage.Message{Questions: []dnsmessage.Question{asking(dnsmessage.TypeAAAA, "c0.example.com")}}, 0, 0, 0, errOther},
		{"nothing", dnsmessage.Message{}, 99, 0, 0, errOther},
	} {
		query, err := dns.NewQuery("c0.example.com", dnsmessage.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		octets := zone(func(dnsmessage.Question, bool) *dnsmessage.Message { return &c.reply }).answer(t, query.Message(), true)
		a, err := read(query, octets[:max(0, len(octets)-c.cut)])
		if len(a.Addresses) != c.addrs || a.ttl != c.ttl && err == nil || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v, %v", c.name, a, err)
		}
	}
}

// TestOutbox: of what is put in twice, the later time counts.
func TestOutbox(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	o := newOutbox(nil)
	for _, until := range []time.Duration{5 * time.Second, 9 * time.Second, 7 * time.Second} {
		o.put([]policy.Resolution{{Name: "a.example.com", Expires: now.Add(until)}})
	}
	if all := o.take(now); len(all) != 1 || !all[0].Expires.Equal(now.Add(9*time.Second)) {
		t.Errorf("taken: %v", all)
	}
	if all := o.take(now); len(all) != 0 {
		t.Errorf("taken twice: %v", all)
	}
}
