package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/policy"
)

// sink keeps what it gets, by name and address: until when, the last time.
type sink struct {
	mu    sync.Mutex
	known map[policy.Resolution]time.Time
}

func (s *sink) get(all []policy.Resolution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[policy.Resolution]time.Time{}
	}
	for _, r := range all {
		until := r.Expires
		r.Expires = time.Time{}
		s.known[r] = until
	}
}

// texts are what it has, each as "name address", in order.
func (s *sink) texts() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.known {
		all = append(all, r.Name+" "+r.Addr.String())
	}
	slices.Sort(all)
	return all
}

// until is when an address of a name expires.
func (s *sink) until(name, addr string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[policy.Resolution{Name: name, Addr: netip.MustParseAddr(addr)}]
}

// start runs a resolver until the test ends, or stop is called, which waits for it.
func start(t *testing.T, r *Resolver) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Start(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits until something is so, in real time.
func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not after 30 seconds")
		}
	}
}

// example is a zone with what there can be: names with addresses of one family or both, aliases in capitals, an answer that
// is too long for UDP, and negative ones.
func example(q dnsmessage.Question, _ bool) *dnsmessage.Message {
	m := &dnsmessage.Message{Authorities: []dnsmessage.Resource{soa(3600, 30)}}
	both := func(owner, four, six string) {
		if m.Authorities = nil; q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, at(owner, 100, four))
		} else {
			m.Answers = append(m.Answers, at(owner, 100, six))
		}
	}
	switch q.Name.String() {
	case "v4.example.com.":
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{at("v4.example.com", 100, "192.0.2.1"), at("v4.example.com", 100, "192.0.2.2"), at("v4.example.com", 1, "2001:db8::1")}
		}
	case "both.example.com.":
		both("both.example.com", "192.0.2.3", "2001:db8::3")
	case "www.example.com.":
		m.Answers = []dnsmessage.Resource{cname("WWW.example.com", 50, "Web.Example.NET"), cname("web.example.net", 200, "edge.example.net")}
		both("Edge.example.net", "192.0.2.4", "2001:db8::4")
		m.Answers = append(m.Answers, at("other.example.net", 100, "192.0.2.99"))
	case "many.example.com.":
		if q.Type == dnsmessage.TypeA {
			for i := range 40 {
				m.Answers = append(m.Answers, at("many.example.com", 100, fmt.Sprintf("198.51.100.%d", i)))
			}
		}
	default:
		m.RCode = dnsmessage.RCodeNameError
	}
	return m
}

// TestResolves: each name that is asked for is resolved, over real sockets.
func TestResolves(t *testing.T) {
	var got sink
	r := New(Options{Sink: got.get})
	r.SetNames([]policy.DomainName{"v4.example.com", "both.example.com", "www.example.com", "many.example.com", "none.example.com", policy.DomainName(strings.Repeat("a.", 200) + "com")})
	r.SetResolvers([]netip.AddrPort{serve(t, example)})
	begun := time.Now()
	start(t, r)
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprintf("many.example.com 198.51.100.%d", i))
	}
	want = append(want, "both.example.com 192.0.2.3", "both.example.com 2001:db8::3", "v4.example.com 192.0.2.1", "v4.example.com 192.0.2.2",
		"www.example.com 192.0.2.4", "www.example.com 2001:db8::4")
	slices.Sort(want)
	eventually(t, func() bool { return len(got.texts()) >= len(want) })
	if diff := cmp.Diff(want, got.texts()); diff != "" {
		t.Error(diff)
	}
	eventually(t, func() bool { s := r.Stats(); return s.Answered+s.Negative+s.Failed[Malformed] >= 12 })
	stats := r.Stats()
	if stats.NextDue.Before(begun) || stats.NextDue.After(begun.Add(time.Minute)) {
		t.Errorf("the next question is due %s after the start", stats.NextDue.Sub(begun))
	}
	stats.NextDue, stats.Asked, stats.Failed = time.Time{}, 0, nil // the name that is too long is tried again
	if diff := cmp.Diff(Stats{Names: 6, Answered: 6, Negative: 4, OverTCP: 1}, stats); diff != "" {
		t.Error(diff)
	}
	for _, expires := range []struct {
		name, addr string
		after      time.Duration
	}{
		{"v4.example.com", "192.0.2.1", 100*time.Second + grace},
		{"www.example.com", "192.0.2.4", 50*time.Second + grace}, // as the first alias
	} {
		if after := got.until(expires.name, expires.addr).Sub(begun); after < expires.after || after > expires.after+30*time.Second {
			t.Errorf("%s expires after %s, not %s", expires.name, after, expires.after)
		}
	}
}

// TestForged: datagrams that do not answer the question are passed over.
func TestForged(t *testing.T) {
	asked := asks{}
	server := serve(t, asked.count(addresses(100, "192.0.2.1")),
		func([]byte) []byte { return nil },
		func([]byte) []byte { return []byte("not DNS") },
		func(reply []byte) []byte { reply[0]++; return reply[:12] },                          // another id, and the end is missing
		func(reply []byte) []byte { reply[1]++; reply[len(reply)-1]++; return reply },        // another id
		func(reply []byte) []byte { reply[2] &^= 0x80; reply[len(reply)-1]++; return reply }, // a question
		func(reply []byte) []byte { reply[13]++; reply[len(reply)-1]++; return reply },       // another name
		func(reply []byte) []byte { // two questions
			reply[5] = 2
			return reply
		},
	)
	var got sink
	r := New(Options{Sink: got.get})
	r.SetNames([]policy.DomainName{"a.example.com"})
	r.SetResolvers([]netip.AddrPort{server})
	start(t, r)
	eventually(t, func() bool { return r.Stats().Answered == 1 })
	eventually(t, func() bool { return len(got.texts()) > 0 })
	if diff := cmp.Diff([]string{"a.example.com 192.0.2.1"}, got.texts()); diff != "" {
		t.Error(diff)
	}
	if n := len(asked.times(asking(dnsmessage.TypeA, "a.example.com"))); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestUnreachable: what no socket reaches fails at once, and the end does not wait for an answer.
func TestUnreachable(t *testing.T) {
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	mute := serve(t, silent)
	r := New(Options{Sink: func([]policy.Resolution) { t.Error("resolved") }})
	r.SetNames([]policy.DomainName{"a.example.com"})
	r.SetResolvers([]netip.AddrPort{closed, mute})
	stop := start(t, r)
	eventually(t, func() bool { s := r.Stats(); return s.Failed[Network] >= 2 && s.Asked-s.Failed[Network] >= 2 }) // the mute one is asked
	begun := time.Now()
	stop()
	if took := time.Since(begun); took > answerWithin/2 {
		t.Errorf("the end took %s", took)
	}
}

// TestResponseCodes: a resolver that fails for a name is not asked for it again before another one, and stays the first for
// other names. Short streams are failures.
func TestResponseCodes(t *testing.T) {
	var first, second asks
	refusing := func(q dnsmessage.Question, overTCP bool) *dnsmessage.Message {
		switch {
		case q.Name.String() == "broken.example.com.":
			return &dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeServerFailure}}
		case q.Name.String() == "short.example.com." && !overTCP:
			return &dnsmessage.Message{Header: dnsmessage.Header{Truncated: true}}
		case q.Name.String() == "short.example.com.":
			return &dnsmessage.Message{Questions: []dnsmessage.Question{asking(q.Type, "long.example.com")}}
		}
		return addresses(100, "192.0.2.1")(q, overTCP)
	}
	var got sink
	r := New(Options{Sink: got.get})
	r.SetNames([]policy.DomainName{"broken.example.com", "short.example.com"})
	r.SetResolvers([]netip.AddrPort{serve(t, first.count(refusing)), serve(t, second.count(addresses(100, "192.0.2.2")))})
	start(t, r)
	eventually(t, func() bool { return r.Stats().Answered == 2 })
	r.SetNames([]policy.DomainName{"good.example.com"})
	eventually(t, func() bool { return slices.Contains(got.texts(), "good.example.com 192.0.2.1") })
	want := []string{"broken.example.com 192.0.2.2", "good.example.com 192.0.2.1", "short.example.com 192.0.2.2"}
	if diff := cmp.Diff(want, got.texts()); diff != "" {
		t.Error(diff)
	}
	stats := r.Stats()
	if diff := cmp.Diff(map[Failure]uint64{Refused: 2, Malformed: 2}, stats.Failed); diff != "" {
		t.Error(diff)
	}
}
