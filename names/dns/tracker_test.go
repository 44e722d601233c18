package dns_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/names/dns"
)

const api = "api.example.com."

var (
	answer4 = answerOf("api.example.com", address("192.0.2.1", 60))
	answer6 = answerOf("api.example.com", address("2001:db8::1", 60))
)

// TestGlibc: A and AAAA at once from one socket, with IDs of their own, answered in any order.
func TestGlibc(t *testing.T) {
	tracker := dns.NewTracker()
	ask(t, tracker, query(1, api, a), query(2, api, aaaa))
	got, ignored := tracker.Reply(datagram(reply(2, api, aaaa, at(api, 60, "2001:db8::1")).pack(t)), now)
	expect(t, got, ignored, []dns.Answer{answer6})
	got, ignored = tracker.Reply(datagram(reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t)), now)
	expect(t, got, ignored, []dns.Answer{answer4})
}

// TestMusl: the same query to several resolvers from one socket.
func TestMusl(t *testing.T) {
	tracker := dns.NewTracker()
	second := datagram(query(1, api, a).pack(t))
	second.Resolver = netip.MustParseAddrPort("10.96.0.11:53")
	ask(t, tracker, query(1, api, a))
	answer := datagram(reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t))
	answer.Resolver = second.Resolver
	got, ignored := tracker.Reply(answer, now)
	expect(t, got, ignored, nil, dns.NotAsked)
	tracker.Query(second, now)
	got, ignored = tracker.Reply(answer, now)
	expect(t, got, ignored, []dns.Answer{answer4})
}

// TestSameID: several questions have one ID.
func TestSameID(t *testing.T) {
	tracker := dns.NewTracker()
	ask(t, tracker, query(0, "www.example.com.", a), query(0, api, aaaa), query(0, api, a))
	got, ignored := tracker.Reply(datagram(reply(0, api, a, at(api, 60, "192.0.2.1")).pack(t)), now)
	expect(t, got, ignored, []dns.Answer{answer4})
	got, ignored = tracker.Reply(datagram(reply(0, "www.example.com.", a, at("www.example.com.", 60, "192.0.2.1")).pack(t)), now)
	expect(t, got, ignored, []dns.Answer{answerOf("www.example.com", address("192.0.2.1", 60))})
	got, ignored = tracker.Reply(datagram(reply(0, "other.example.com.", a, at("other.example.com.", 60, "192.0.2.1")).pack(t)), now)
	expect(t, got, ignored, nil, dns.WrongQuestion)
}

// TestOnlyWhoAsked: an answer is for a flow, whatever else is the same.
func TestOnlyWhoAsked(t *testing.T) {
	answer := datagram(reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t))
	for what, change := range map[string]func(*dns.Flow){
		"pod":             func(f *dns.Flow) { f.Pod = netip.MustParseAddrPort("10.244.1.8:40000") },
		"pod's port":      func(f *dns.Flow) { f.Pod = netip.MustParseAddrPort("10.244.1.7:40001") },
		"resolver":        func(f *dns.Flow) { f.Resolver = netip.MustParseAddrPort("10.96.0.11:53") },
		"resolver's port": func(f *dns.Flow) { f.Resolver = netip.MustParseAddrPort("10.96.0.10:5353") },
	} {
		tracker := dns.NewTracker()
		ask(t, tracker, query(1, api, a))
		other := answer
		change(&other.Flow)
		if got, ignored := tracker.Reply(other, now); len(got) > 0 || !slices.Equal(ignored, []dns.Reason{dns.NotAsked}) {
			t.Errorf("another %s: %v, ignored %v", what, got, ignored)
		}
	}
	tracker := dns.NewTracker()
	ask(t, tracker, query(1, api, a))
	answer.TCP = true
	got, ignored := tracker.Reply(answer, now)
	expect(t, got, ignored, nil, dns.NotFollowed)
}

// TestTimes: a question waits for 30 s, and for 5 s more answers once it was answered.
func TestTimes(t *testing.T) {
	good := reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t)
	failed := reply(1, api, a).with(func(m *message) { m.RCode = 2 }).pack(t)
	type packet struct {
		after time.Duration
		reply []byte // nil is the query
		want  bool
	}
	for what, packets := range map[string][]packet{
		"late":                        {{0, nil, false}, {30*time.Second - 1, good, true}},
		"too late":                    {{0, nil, false}, {30 * time.Second, good, false}},
		"asked again":                 {{0, nil, false}, {20 * time.Second, nil, false}, {40 * time.Second, good, true}},
		"answered twice":              {{0, nil, false}, {time.Second, good, true}, {6*time.Second - 1, good, true}, {6 * time.Second, good, false}},
		"asked again when answered":   {{0, nil, false}, {time.Second, good, true}, {2 * time.Second, nil, false}, {31 * time.Second, good, true}},
		"answered at the last moment": {{0, nil, false}, {29 * time.Second, good, true}, {30 * time.Second, good, false}},
		"failed before":               {{0, nil, false}, {time.Second, failed, false}, {29 * time.Second, good, true}},
		"answered before it asks":     {{0, good, false}, {0, nil, false}, {0, good, true}},
	} {
		tracker := dns.NewTracker()
		for _, p := range packets {
			if p.reply == nil {
				tracker.Query(datagram(query(1, api, a).pack(t)), now.Add(p.after))
			} else if got, ignored := tracker.Reply(datagram(p.reply), now.Add(p.after)); (len(got) == 1) != p.want {
				t.Errorf("%s, after %v: %v, ignored %v", what, p.after, got, ignored)
			}
		}
	}
}

func TestForget(t *testing.T) {
	tracker := dns.NewTracker()
	ask(t, tracker, query(1, api, a))
	other := datagram(query(1, api, a).pack(t))
	other.Pod = netip.MustParseAddrPort("10.244.1.8:40000")
	tracker.Query(other, now)
	tracker.Forget(flow.Pod.Addr())
	tracker.Forget(flow.Pod.Addr())
	answer := datagram(reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t))
	got, ignored := tracker.Reply(answer, now)
	expect(t, got, ignored, nil, dns.NotAsked)
	answer.Pod = other.Pod
	got, ignored = tracker.Reply(answer, now)
	expect(t, got, ignored, []dns.Answer{answer4})
}

// TestConcurrent: one goroutine reads queries, and another replies (the race detector looks).
func TestConcurrent(t *testing.T) {
	tracker := dns.NewTracker()
	asked, answer := datagram(query(1, api, a).pack(t)), datagram(reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t))
	tracker.Query(asked, now)
	var both sync.WaitGroup
	both.Go(func() {
		for i := range 1000 {
			tracker.Query(asked, now.Add(time.Duration(i)*time.Millisecond))
			tracker.Forget(netip.MustParseAddr("10.244.1.8"))
		}
	})
	both.Go(func() {
		for range 1000 {
			if got, ignored := tracker.Reply(answer, now); len(got) != 1 {
				t.Errorf("ignored %v", ignored)
			}
		}
	})
	both.Wait()
}

// TestManyQuestionsOfOneFlow: of those the oldest go.
func TestManyQuestionsOfOneFlow(t *testing.T) {
	tracker := dns.NewTracker()
	const asked, room = 3000, 1024
	tooMany := 0
	for id := range uint16(asked) {
		tooMany += len(tracker.Query(datagram(query(id, api, a).pack(t)), now))
	}
	if tooMany != asked-room {
		t.Errorf("%d had to go", tooMany)
	}
	ask(t, tracker, query(asked-1, api, a)) // which makes nothing go, as it was asked before
	late := now.Add(29 * time.Second)
	if ignored := tracker.Query(datagram(query(asked, api, a).pack(t)), late); !slices.Equal(ignored, []dns.Reason{dns.TooMany}) {
		t.Errorf("one more: ignored %v", ignored)
	}
	answers := func(id uint16) int {
		got, _ := tracker.Reply(datagram(reply(id, api, a, at(api, 60, "192.0.2.1")).pack(t)), late)
		return len(got)
	}
	if answers(asked-room) != 0 || answers(asked-room+1) != 1 || answers(asked-1) != 1 || answers(asked) != 1 {
		t.Error("others went")
	}
	// What nobody waits for any more makes room.
	if ignored := tracker.Query(datagram(query(asked+1, api, a).pack(t)), now.Add(31*time.Second)); len(ignored) != 0 {
		t.Errorf("there is no room again: %v", ignored)
	}
}

// TestTimesOfOneFlow: each question of a flow has a time of its own.
func TestTimesOfOneFlow(t *testing.T) {
	tracker := dns.NewTracker()
	ask(t, tracker, query(1, api, a))
	tracker.Query(datagram(query(2, api, aaaa).pack(t)), now.Add(20*time.Second))
	got, ignored := tracker.Reply(datagram(reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t)), now.Add(40*time.Second))
	expect(t, got, ignored, nil, dns.WrongID)
	got, ignored = tracker.Reply(datagram(reply(2, api, aaaa, at(api, 60, "2001:db8::1")).pack(t)), now.Add(40*time.Second))
	expect(t, got, ignored, []dns.Answer{answer6})
}

// BenchmarkReply is a usual answer: two aliases and four addresses.
func BenchmarkReply(b *testing.B) {
	tracker := dns.NewTracker()
	ask(b, tracker, query(1, api, a), query(2, api, aaaa))
	answer := datagram(reply(1, api, a,
		cname(api, 300, "api-example.edge.cdn.net."), cname("api-example.edge.cdn.net.", 20, "e7.cdn.net."),
		at("e7.cdn.net.", 20, "192.0.2.1"), at("e7.cdn.net.", 20, "192.0.2.2"), at("e7.cdn.net.", 20, "192.0.2.3"), at("e7.cdn.net.", 20, "192.0.2.4"),
	).pack(b))
	b.ReportAllocs()
	for b.Loop() {
		if got, _ := tracker.Reply(answer, now); len(got) != 1 {
			b.Fatal("nothing learned")
		}
	}
}

// BenchmarkLargestReply has as many addresses as a message can have: what a resolver can make the agent do.
func BenchmarkLargestReply(b *testing.B) {
	tracker := dns.NewTracker()
	ask(b, tracker, query(1, api, a))
	largest := reply(1, api, a)
	for i := range 4090 {
		largest.Answers = append(largest.Answers, at(api, 60, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String()))
	}
	answer := datagram(largest.pack(b))
	b.ReportAllocs()
	for b.Loop() {
		if got, _ := tracker.Reply(answer, now); len(got) != 1 {
			b.Fatal("nothing learned")
		}
	}
}

// BenchmarkQuery is a pod that asks from a new socket each time.
func BenchmarkQuery(b *testing.B) {
	tracker := dns.NewTracker()
	asked := datagram(query(1, api, a).pack(b))
	at := now
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		asked.Pod = netip.AddrPortFrom(flow.Pod.Addr(), uint16(i))
		at = at.Add(100 * time.Microsecond)
		tracker.Query(asked, at)
	}
}

// TestWaits: a flow waits from its query until the answer's time is over.
func TestWaits(t *testing.T) {
	tracker := dns.NewTracker()
	q := query(7, api, dnsmessage.TypeA)
	flow := datagram(q.pack(t)).Flow
	if tracker.Waits(flow, now) {
		t.Error("it waits for what nobody has asked")
	}
	ask(t, tracker, q)
	if !tracker.Waits(flow, now) || tracker.Waits(flow, now.Add(time.Minute)) {
		t.Error("it does not wait, or for ever")
	}
}
