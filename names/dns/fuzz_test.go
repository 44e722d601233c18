package dns_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/names/dns"
)

// FuzzReply: whatever a resolver sends, only what was asked is learned, and not more than may be. The same is true
// over TCP, and of what the agent asks itself.
func FuzzReply(f *testing.F) {
	for _, m := range []*message{
		reply(1, api, a, at(api, 60, "192.0.2.1")),
		reply(2, api, aaaa, at(api, 60, "2001:db8::1")),
		reply(1, api, a, cname(api, 60, "e7.cdn.net."), cname("e7.cdn.net.", 60, api), at("e7.cdn.net.", 60, "127.0.0.1")),
		reply(1, "evil.example.org.", a, at(api, 60, "192.0.2.1")),
		query(1, api, a),
	} {
		f.Add(m.pack(f))
	}
	own, err := dns.NewQuery("api.example.com", a)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		tracker := dns.NewTracker()
		ask(t, tracker, query(1, api, a), query(2, api, aaaa))
		got, _ := tracker.Reply(datagram(octets), now)
		if len(octets) < 1<<16 {
			carry(tracker, append(slices.Clone(handshake), asks(0, framed(query(1, api, a).pack(t), query(2, api, aaaa).pack(t))))...)
			streamed, _ := carry(tracker, says(0, framed(octets)))
			if !sameAnswers(streamed, got) {
				t.Errorf("over TCP %v, over UDP %v", streamed, got)
			}
		}
		raw, _ := carry(dns.NewTracker(), append(slices.Clone(handshake), asks(0, octets), says(0, octets))...)
		if len(raw) > 0 {
			t.Errorf("a resolver's echo says %v", raw)
		}
		if len(octets) >= 2 {
			octets = append(slices.Clone(own.Message()[:2]), octets[2:]...)
		}
		if answer, ok, _ := own.Reply(octets); ok {
			got = append(got, answer)
		}
		for _, answer := range got {
			if answer.Name != "api.example.com" || len(answer.Addresses) == 0 || len(answer.Addresses) > 1000 {
				t.Fatalf("%d addresses of %q", len(answer.Addresses), answer.Name)
			}
			for _, address := range answer.Addresses {
				addr := address.Addr
				if !addr.IsGlobalUnicast() || addr.Is4In6() || addr.Is4() != answer.Addresses[0].Addr.Is4() || address.TTL < 0 || address.TTL >= 1<<31*time.Second {
					t.Fatalf("%v of %v", address, answer.Name)
				}
			}
		}
	})
}

// FuzzChain: of any records, those addresses count that a search along the aliases finds.
func FuzzChain(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	names := make([]string, 8)
	for i := range names {
		names[i] = fmt.Sprintf("n%d.example.com.", i)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 2))
		name := func() string { return names[random.IntN(len(names))] }
		r := reply(7, names[0], a)
		for range random.IntN(16) {
			if random.IntN(3) == 0 {
				r.Answers = append(r.Answers, at(name(), uint32(random.IntN(100)), fmt.Sprintf("192.0.2.%d", random.IntN(256))))
			} else {
				r.Answers = append(r.Answers, cname(name(), uint32(random.IntN(100)), name()))
			}
		}
		var want []netip.Addr
		for _, record := range r.Answers {
			if address, is := record.Body.(*dnsmessage.AResource); is && leads(r.Answers, names[0], record.Header.Name.String(), len(names)-1) {
				want = append(want, netip.AddrFrom4(address.A))
			}
		}
		tracker := dns.NewTracker()
		ask(t, tracker, query(7, names[0], a))
		answers, _ := tracker.Reply(datagram(r.pack(t)), now)
		var got []netip.Addr
		for _, answer := range answers {
			for _, address := range answer.Addresses {
				got = append(got, address.Addr)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v\n%v, want %v", r.Answers, got, want)
		}
	})
}

// leads reports whether a name leads to another by so many aliases at most.
func leads(records []dnsmessage.Resource, from, to string, aliases int) bool {
	if from == to {
		return true
	}
	return aliases > 0 && slices.ContainsFunc(records, func(r dnsmessage.Resource) bool {
		c, is := r.Body.(*dnsmessage.CNAMEResource)
		return is && r.Header.Name.String() == from && leads(records, c.CNAME.String(), to, aliases-1)
	})
}

// FuzzTracker: whatever comes in whatever order, it does not panic.
func FuzzTracker(f *testing.F) {
	f.Add(framed(query(1, api, a).pack(f)))
	f.Fuzz(func(_ *testing.T, octets []byte) {
		tracker, at := dns.NewTracker(), now
		for len(octets) >= 8 {
			p := dns.Packet{Flow: flow, Sequence: binary.BigEndian.Uint32(octets[2:]), Flags: octets[1]}
			p.Pod = netip.AddrPortFrom(flow.Pod.Addr(), uint16(octets[0]&3))
			p.TCP = octets[0]&4 != 0
			length := min(len(octets)-8, int(octets[6]))
			p.Payload = octets[8 : 8+length]
			at = at.Add(time.Duration(octets[7]) * 100 * time.Millisecond)
			switch {
			case octets[0]&0xf0 == 0xf0:
				tracker.Forget(flow.Pod.Addr())
			case octets[0]&8 != 0:
				tracker.Reply(p, at)
			default:
				tracker.Query(p, at)
			}
			octets = octets[8+length:]
		}
	})
}
