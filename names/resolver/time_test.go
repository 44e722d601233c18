package resolver

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/policy"
)

// These tests have a time of their own, and so no sockets: wire stands for the network.

var first, second = netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("10.244.1.2:5353")

// onWire returns a resolver of names on a network with these resolvers, in order of preference.
func onWire(t *testing.T, sink func([]policy.Resolution), names []policy.DomainName, zones ...zone) *Resolver {
	w := wire{t: t, zones: map[string]zone{}}
	servers := []netip.AddrPort{first, second}[:len(zones)]
	for i, z := range zones {
		w.zones[servers[i].String()] = z
	}
	r := New(Options{Sink: sink, Dial: w.dial})
	r.SetNames(names)
	r.SetResolvers(servers)
	return r
}

// cover is a sink that fails the test if an address's time is over before it is handed over again.
type cover struct {
	t     *testing.T
	mu    sync.Mutex
	until map[policy.Resolution]time.Time
	gaps  int
}

func (c *cover) get(all []policy.Resolution) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range all {
		until := r.Expires
		r.Expires = time.Time{}
		if was, known := c.until[r]; known && !time.Now().Before(was) {
			if c.gaps++; c.gaps < 5 {
				c.t.Errorf("%s was not known for %s", r, time.Since(was))
			}
		}
		c.until[r] = until
	}
}

// counting is how many are known at a time, and fails if it is not that many.
func (c *cover) counting(want int) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, until := range c.until {
		if time.Now().Before(until) {
			n++
		}
	}
	if n != want {
		c.t.Errorf("%d addresses are known, not %d", n, want)
	}
}

// cached is a zone as a caching resolver has it: each name's time runs, and begins anew only when it is over.
func cached(ttl time.Duration) zone {
	var mu sync.Mutex
	until := map[string]time.Time{}
	return func(q dnsmessage.Question, overTCP bool) *dnsmessage.Message {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if !until[q.Name.String()].After(now) {
			until[q.Name.String()] = now.Add(ttl)
		}
		return addresses(uint32(until[q.Name.String()].Sub(now)/time.Second), "192.0.2.1")(q, overTCP)
	}
}

// TestNoGap: whatever TTL a name has, and however a cache counts it down, its address is known at any time once it is known,
// and is not asked for more often than that takes. So it is where the preferred resolver is dead.
func TestNoGap(t *testing.T) {
	for _, c := range []struct {
		name  string
		zones []zone
		most  int // questions for A in an hour
	}{
		{"zero", []zone{addresses(0, "192.0.2.1")}, 3600 * 100 / 85 / 5},
		{"half a minute", []zone{addresses(30, "192.0.2.1")}, 3600 * 100 / 85 / 30},
		{"half a minute, in a cache", []zone{cached(30 * time.Second)}, 2 * 3600 / 30},
		{"a day", []zone{addresses(86400, "192.0.2.1")}, 2},
		{"for ever", []zone{addresses(math.MaxInt32, "192.0.2.1")}, 2},
		{"none, by the uppermost bit", []zone{addresses(math.MaxUint32, "192.0.2.1")}, 3600 * 100 / 85 / 5},
		{"half a minute, with a dead resolver", []zone{silent, addresses(30, "192.0.2.1")}, 3600 * 100 / 85 / 30},
		{"five seconds, with a dead resolver", []zone{silent, addresses(5, "192.0.2.1")}, 3600 * 100 / 85 / 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				known := cover{t: t, until: map[policy.Resolution]time.Time{}}
				asked := asks{}
				c.zones[len(c.zones)-1] = asked.count(c.zones[len(c.zones)-1])
				stop := start(t, onWire(t, known.get, []policy.DomainName{"a.example.com"}, c.zones...))
				time.Sleep(4*answerWithin + time.Second)
				known.counting(1)
				time.Sleep(time.Hour)
				known.counting(1)
				if n := len(asked.times(asking(dnsmessage.TypeA, "a.example.com"))); n > c.most+2 || 2*n < c.most {
					t.Errorf("asked %d times, not %d", n, c.most)
				}
				stop()
			})
		})
	}
}

// names are so many names.
func names(n int) (all []policy.DomainName) {
	for i := range n {
		all = append(all, policy.DomainName(fmt.Sprintf("n%d.example.com", i)))
	}
	return all
}

// TestMany: ten thousand names are asked for at a bounded rate, and yet each is known at any time.
func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		known := cover{t: t, until: map[policy.Resolution]time.Time{}}
		asked := asks{}
		r := onWire(t, known.get, names(n), asked.count(addresses(5, "192.0.2.1")))
		stop := start(t, r)
		time.Sleep(2*n/perSecond*time.Second + time.Second)
		synctest.Wait()
		known.counting(n)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		known.counting(n)
		for i := range asked.when {
			if later := i + burst + perSecond; later < len(asked.when) && asked.when[later].Sub(asked.when[i]) < time.Second {
				t.Fatalf("more than %d questions in a second", burst+perSecond)
			}
		}
		t.Logf("%d questions in 5 minutes", len(asked.when))
		if most := 2 * n * 6; len(asked.when) > most {
			t.Errorf("%d questions, more than %d", len(asked.when), most)
		}
		stop()
	})
}

// TestManyMore: names that are known stay known while many new ones come.
func TestManyMore(t *testing.T) {
	for _, n := range []int{100, 4000} {
		synctest.Test(t, func(t *testing.T) {
			const more = 10_000
			known := cover{t: t, until: map[policy.Resolution]time.Time{}}
			r := onWire(t, known.get, names(n), addresses(5, "192.0.2.1"))
			stop := start(t, r)
			time.Sleep(2 * time.Minute)
			r.SetNames(names(n + more))
			for range 600 {
				time.Sleep(time.Second / 2)
				known.mu.Lock()
				for i := range n {
					if at := (policy.Resolution{Name: fmt.Sprintf("n%d.example.com", i), Addr: netip.MustParseAddr("192.0.2.1")}); !known.until[at].After(time.Now()) {
						t.Fatalf("%s is not known", at)
					}
				}
				known.mu.Unlock()
			}
			known.counting(n + more)
			stop()
		})
	}
}

// TestSpread: what came together does not stay together.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		asked := asks{}
		stop := start(t, onWire(t, func([]policy.Resolution) {}, names(n), asked.count(addresses(300, "192.0.2.1"))))
		time.Sleep(time.Hour)
		stop()
		late := slices.IndexFunc(asked.when, func(at time.Time) bool { return at.Sub(asked.when[0]) > 30*time.Minute })
		most := 0
		for i := late; i < len(asked.when); i++ {
			j := i
			for j < len(asked.when) && asked.when[j].Sub(asked.when[i]) < time.Second {
				j++
			}
			most = max(most, j-i)
		}
		if most > n/10 {
			t.Errorf("after half an hour, %d questions of %d names come within a second", most, n)
		}
	})
}

// TestNegative: that there is nothing counts as long as the SOA record says, but for 5 to 60 seconds, and a minute if there is
// none.
func TestNegative(t *testing.T) {
	for _, c := range []struct {
		authorities []dnsmessage.Resource
		rcode       dnsmessage.RCode
		every       time.Duration
	}{
		{nil, dnsmessage.RCodeNameError, time.Minute},
		{nil, dnsmessage.RCodeSuccess, time.Minute},
		{[]dnsmessage.Resource{record("example.com", 7, &dnsmessage.NSResource{NS: name("ns.example.com")}), soa(3600, 20)}, dnsmessage.RCodeNameError, 20 * time.Second},
		{[]dnsmessage.Resource{soa(20, 3600)}, dnsmessage.RCodeSuccess, 20 * time.Second},
		{[]dnsmessage.Resource{soa(3600, 3600)}, dnsmessage.RCodeNameError, time.Minute},
		{[]dnsmessage.Resource{soa(3600, 0)}, dnsmessage.RCodeNameError, 5 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			asked := asks{}
			z := asked.count(func(dnsmessage.Question, bool) *dnsmessage.Message {
				return &dnsmessage.Message{Header: dnsmessage.Header{RCode: c.rcode}, Authorities: slices.Clone(c.authorities)}
			})
			r := onWire(t, func([]policy.Resolution) { t.Error("resolved") }, names(1), z)
			stop := start(t, r)
			time.Sleep(time.Hour)
			stop()
			if at := asked.times(asking(dnsmessage.TypeA, "n0.example.com")); len(at) < int(time.Hour/c.every) || len(at) > int(time.Hour/c.every)*100/85+2 {
				t.Errorf("%v: asked %d times in an hour, not each %s", c.authorities, len(at), c.every)
			}
			if s := r.Stats(); s.Negative != s.Asked || len(s.Failed) != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestBackoff: where nobody answers, a name is asked for once a minute in the end, and at once when there are other resolvers.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, others := asks{}, asks{}
		w := wire{t: t, zones: map[string]zone{first.String(): asked.count(silent), second.String(): others.count(addresses(30, "192.0.2.1"))}}
		var got sink
		r := New(Options{Sink: got.get, Dial: w.dial})
		r.SetNames(names(1))
		r.SetResolvers([]netip.AddrPort{first})
		stop := start(t, r)
		time.Sleep(time.Hour)
		at := asked.times(asking(dnsmessage.TypeA, "n0.example.com"))
		if gap := at[1].Sub(at[0]); gap > answerWithin+2*firstDelay {
			t.Errorf("the second question comes after %s", gap)
		}
		if len(at) < 45 || len(at) > 90 {
			t.Errorf("asked %d times in an hour", len(at))
		}
		if s := r.Stats(); s.Failed[Timeout] < 90 || s.Answered != 0 {
			t.Errorf("%+v", s)
		}
		time.Sleep(answerWithin) // whatever is under way is over
		r.SetResolvers([]netip.AddrPort{first, second})
		time.Sleep(answerWithin + time.Second)
		if len(got.texts()) != 1 {
			t.Error("not resolved by the new resolver")
		}
		stop()
	})
}

// TestRecovers: a resolver that was away for long is asked again soon when it is away again.
func TestRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		away := func() bool {
			after := time.Since(begun)
			return after < 10*time.Minute || after > 20*time.Minute
		}
		asked := asks{}
		var got sink
		stop := start(t, onWire(t, got.get, names(1), asked.count(func(q dnsmessage.Question, overTCP bool) *dnsmessage.Message {
			if away() {
				return nil
			}
			return addresses(30, "192.0.2.1")(q, overTCP)
		})))
		time.Sleep(11*time.Minute + 30*time.Second)
		if len(got.texts()) != 1 {
			t.Error("not resolved when the resolver is back")
		}
		time.Sleep(10 * time.Minute)
		stop()
		at := asked.times(asking(dnsmessage.TypeA, "n0.example.com"))
		again := slices.IndexFunc(at, func(at time.Time) bool { return at.Sub(begun) > 20*time.Minute })
		if gap := at[again+1].Sub(at[again]); gap > answerWithin+2*firstDelay {
			t.Errorf("asked again after %s", gap)
		}
	})
}

// TestNothingAsked: without names, or without resolvers, nothing is asked, and nothing comes of an answer to what is not
// asked for any more.
func TestNothingAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := asks{}
		slow := asked.count(func(q dnsmessage.Question, overTCP bool) *dnsmessage.Message {
			time.Sleep(time.Second)
			return addresses(30, "192.0.2.1")(q, overTCP)
		})
		var got sink
		r := onWire(t, got.get, nil, slow)
		stop := start(t, r)
		time.Sleep(time.Hour)
		if s := r.Stats(); asked.number() != 0 || !s.NextDue.IsZero() {
			t.Errorf("%d questions without names, %+v", asked.number(), s)
		}
		r.SetResolvers(nil)
		r.SetNames(names(3))
		time.Sleep(time.Hour)
		if s := r.Stats(); s.Asked != 0 || s.NextDue.IsZero() {
			t.Errorf("without resolvers: %+v", s)
		}
		r.SetResolvers([]netip.AddrPort{first})
		time.Sleep(time.Second / 2)
		r.SetNames(names(1))
		time.Sleep(10 * time.Second)
		if texts := got.texts(); !slices.Equal(texts, []string{"n0.example.com 192.0.2.1"}) {
			t.Errorf("got %v", texts)
		}
		r.SetNames(nil)
		time.Sleep(2 * time.Second)
		before := asked.number()
		time.Sleep(time.Hour)
		if n := asked.number() - before; n != 0 {
			t.Errorf("%d questions for names that are not wanted any more", n)
		}
		if s := r.Stats(); s.Names != 0 || !s.NextDue.IsZero() {
			t.Errorf("%+v", s)
		}
		r.SetNames(names(1))
		time.Sleep(2 * time.Second)
		if asked.number() != before+2 {
			t.Error("a name that is back is not asked for at once")
		}
		stop()
	})
}

// TestBusySink: nothing waits for the sink, which gets together what has come meanwhile, but for what has expired.
func TestBusySink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lots [][]policy.Resolution
		asked := asks{}
		var r *Resolver
		zone := asked.count(func(q dnsmessage.Question, overTCP bool) *dnsmessage.Message {
			if strings.HasPrefix(q.Name.String(), "n0.") {
				return addresses(5, "192.0.2.1")(q, overTCP)
			}
			return addresses(3600, "192.0.2.2", "192.0.2.3")(q, overTCP)
		})
		r = onWire(t, func(lot []policy.Resolution) {
			lots = append(lots, lot)
			time.Sleep(time.Minute)
		}, names(1), zone)
		stop := start(t, r)
		time.Sleep(time.Second)
		r.SetNames(names(101))
		time.Sleep(10 * time.Second)
		if n := len(asked.times(asking(dnsmessage.TypeA, "n100.example.com"))); n != 1 {
			t.Errorf("while the sink is busy, a new name was asked for %d times", n)
		}
		r.SetNames(names(101)[1:]) // n0 expires while it waits
		time.Sleep(55 * time.Second)
		stop()
		if len(lots) != 2 || len(lots[0]) != 1 || len(lots[1]) != 200 || !slices.IsSortedFunc(lots[1], policy.CompareResolutions) {
			t.Errorf("handed over: %v", lots)
		}
	})
}
