package observer_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// source is a kernel whose events a test sends.
type source struct {
	events    chan nft.ConnEvent
	listening atomic.Bool
	// fails is an error that it begins with; uncounted is why it does not count.
	fails, uncounted error
	tries            int
	lost             atomic.Uint64
}

func (s *source) Observe(ctx context.Context, began func(error), tell func(*nft.ConnEvent)) error {
	s.tries++
	if s.fails != nil {
		return s.fails
	}
	s.listening.Store(true)
	defer s.listening.Store(false)
	began(s.uncounted)
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.events:
			tell(&e)
		}
	}
}

func (s *source) Lost() uint64 { return s.lost.Load() }

// pods are names of pods.
type pods map[string]string

func (p pods) Endpoint(addr netip.Addr, port uint16) flows.Endpoint {
	e := flows.Endpoint{IP: addr, Port: port}
	if name := p[addr.String()]; name != "" {
		e.Namespace, e.Pod = "shop", name
	}
	return e
}

// observed is Connections that tell a store.
type observed struct {
	*observer.Connections
	store  *observer.Store
	source *source
	said   []string
}

// observedBy runs Connections until ctx is done, whose rules are these.
func observedBy(ctx context.Context, allowedBy func(nft.HookPoint, policy.Packet) []ruleset.Decided, resolutions observer.Resolutions) *observed {
	o := &observed{source: &source{events: make(chan nft.ConnEvent)}}
	o.Connections = observer.NewConnections(observer.ConnectionsOptions{
		Node: "node", Events: o.source, Names: pods{"10.0.0.1": "client", "10.0.0.2": "server"}, Resolutions: resolutions, AllowedBy: allowedBy,
		Tell: func(f *flows.Flow) { o.store.Add(f) },
		Log:  funcr.New(func(_, args string) { o.said = append(o.said, args) }, funcr.Options{}),
	})
	o.store = observer.NewStore(100, o.Observing)
	go func() { _ = o.Start(ctx) }()
	synctest.Wait()
	return o
}

// told are the flows so far.
func (o *observed) told() (told []flows.Flow) {
	for from := uint64(0); ; {
		f, number := o.store.Get(from)
		if f == nil {
			return told
		}
		told, from = append(told, *f), number+1
	}
}

func nothing(nft.HookPoint, policy.Packet) []ruleset.Decided { return nil }

// event is a connection from src to asked, which is led to real.
func event(protocol policy.Protocol, src, asked, real string) nft.ConnEvent {
	from := netip.MustParseAddrPort(src)
	return nft.ConnEvent{
		Time: time.Unix(1_800_000_000, 0), Protocol: protocol, Hook: nft.Forward, SampledOf: 1,
		Original: nft.ConnEnds{Src: from, Dst: netip.MustParseAddrPort(asked)}, Reply: nft.ConnEnds{Src: netip.MustParseAddrPort(real), Dst: from},
	}
}

// resolved is what pods were told.
type resolved []policy.Resolution

func (r resolved) ResolutionsTo(pod, addr netip.Addr) (counting, lapsed []policy.Resolution) {
	for _, one := range r {
		if one.Addr == addr && (one.Pod == pod || !one.Pod.IsValid()) {
			counting = append(counting, one)
		}
	}
	return counting, []policy.Resolution{{Name: "lapsed.example.com", Addr: addr, Pod: pod}}
}

// TestDestinationNames: what a pod sends has the names that the pod, or the agent, was told the destination has, each once.
func TestDestinationNames(t *testing.T) {
	client, outside := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("203.0.113.7")
	all := resolved{
		{Name: "a.example.com", Addr: outside}, {Name: "a.example.com", Addr: outside, Pod: client}, {Name: "b.example.com", Addr: outside, Pod: client},
		{Name: "c.example.com", Addr: outside, Pod: netip.MustParseAddr("10.0.0.2")}, {Name: "d.example.com", Addr: netip.MustParseAddr("203.0.113.8"), Pod: client},
	}
	var many resolved
	for i := range 2 * flows.MaxNames {
		many = append(many, policy.Resolution{Name: fmt.Sprintf("%d.example.com", i), Addr: outside, Pod: client})
	}
	for _, test := range []struct {
		name     string
		known    observer.Resolutions
		src, dst string
		want     int
	}{
		{"some", all, "10.0.0.1", "203.0.113.7", 2}, {"another address", all, "10.0.0.1", "203.0.113.9", 0}, {"nobody knows", nil, "10.0.0.1", "203.0.113.7", 0},
		{"from outside", all, "203.0.113.9", "203.0.113.7", 0}, {"many", many, "10.0.0.1", "203.0.113.7", flows.MaxNames},
	} {
		var told []*flows.Flow
		d := observer.NewDenials(observer.DenialsOptions{
			Names: pods{"10.0.0.1": "client", "10.0.0.2": "server"}, Resolutions: test.known, LinkName: func(int) string { return "" },
			DenialOf: func(nft.Logged) ruleset.Denial {
				return ruleset.Denial{Reason: flows.DefaultDeny, Direction: flows.Egress}
			},
			Tell: func(f *flows.Flow) { told = append(told, f) },
		})
		d.Tell(nft.Logged{Packet: nft.TracePacket{Packet: policy.Packet{Src: netip.MustParseAddr(test.src), Dst: netip.MustParseAddr(test.dst), Protocol: policy.TCP, DstPort: 443}}})
		if got := told[0].DestinationNames; len(got) != test.want || test.want == 2 && fmt.Sprint(got) != "[a.example.com b.example.com]" {
			t.Errorf("%s: the names are %q", test.name, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		o := observedBy(ctx, nothing, all)
		o.store.Observe()
		synctest.Wait()
		o.source.events <- event(policy.TCP, "10.0.0.1:40000", "203.0.113.7:443", "203.0.113.7:443")
		synctest.Wait()
		if told := o.told(); len(told) != 1 || fmt.Sprint(told[0].DestinationNames) != "[a.example.com b.example.com]" {
			t.Errorf("told is %+v", told)
		}
	})
}

// TestConnectionsAreFlows: each event becomes the flows that operators expect of it.
func TestConnectionsAreFlows(t *testing.T) {
	client, server := flows.Endpoint{IP: netip.MustParseAddr("10.0.0.1"), Port: 40000, Namespace: "shop", Pod: "client"}, flows.Endpoint{IP: netip.MustParseAddr("10.0.0.2"), Port: 80, Namespace: "shop", Pod: "server"}
	outside := flows.Endpoint{IP: netip.MustParseAddr("203.0.113.7"), Port: 80}
	flow := func(source, destination flows.Endpoint, change func(*flows.Flow)) flows.Flow {
		f := flows.Flow{
			Time: time.Unix(1_800_000_000, 0), Node: "node", Verdict: flows.Allowed, Event: flows.Began,
			Source: source, Destination: destination, Protocol: "TCP", SampledOf: 1,
		}
		if change != nil {
			change(&f)
		}
		return f
	}
	second, rules := 1, map[nft.HookPoint][]ruleset.Decided{
		nft.Forward: {
			{PolicyRule: ruleset.PolicyRule{Policy: policy.Key{Namespace: "shop", Name: "out"}, Direction: policy.Egress, Index: 1}},
			{PolicyRule: ruleset.PolicyRule{Policy: policy.Key{Name: "admin"}, Direction: policy.Ingress, Index: -1, Name: "let in"}, Tier: policy.AdminTier},
		},
		nft.Prerouting: {{PolicyRule: ruleset.PolicyRule{Policy: policy.Key{Namespace: "shop", Name: "out"}, Direction: policy.Egress, Index: 0, Merged: "0,2"}}},
		nft.Output:     {{PolicyRule: ruleset.PolicyRule{Policy: policy.Key{Name: "base"}, Direction: policy.Ingress, Index: 1}, Tier: policy.BaselineTier}},
	}
	egress := func(f *flows.Flow) {
		f.Direction, f.Policies = flows.Egress, []flows.Policy{{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "out", Rule: &second}}
	}
	ingress := func(f *flows.Flow) {
		f.Direction, f.Policies = flows.Ingress, []flows.Policy{{Kind: "ClusterNetworkPolicy", Tier: "Admin", Name: "admin", RuleName: "let in"}}
	}
	asked := &flows.Asked{IP: netip.MustParseAddr("10.96.0.1"), Port: 443}
	const tcp, pod1, pod2, far = policy.TCP, "10.0.0.1:40000", "10.0.0.2:80", "203.0.113.7:80"
	with := func(e nft.ConnEvent, change func(*nft.ConnEvent)) nft.ConnEvent { change(&e); return e }
	for name, c := range map[string]struct {
		event nft.ConnEvent
		want  []flows.Flow
	}{
		"both directions": {event(tcp, pod1, pod2, pod2), []flows.Flow{flow(client, server, egress), flow(client, server, ingress)}},
		"to a service": {event(tcp, pod1, "10.96.0.1:443", pod2), []flows.Flow{
			flow(client, server, func(f *flows.Flow) { egress(f); f.Asked = asked }), flow(client, server, func(f *flows.Flow) { ingress(f); f.Asked = asked }),
		}},
		"no rule": {with(event(tcp, pod1, far, far), func(e *nft.ConnEvent) { e.Hook = nft.Input }), []flows.Flow{flow(client, outside, nil)}},
		"another hook": {with(event(tcp, "203.0.113.7:80", pod2, pod2), func(e *nft.ConnEvent) { e.Hook = nft.Output }), []flows.Flow{
			flow(outside, server, func(f *flows.Flow) {
				f.Direction, f.Policies = flows.Ingress, []flows.Policy{{Kind: "ClusterNetworkPolicy", Tier: "Baseline", Name: "base", Rule: &second}}
			}),
		}},
		"announced": {with(event(tcp, pod1, pod2, pod2), func(e *nft.ConnEvent) { e.Announced = true }), []flows.Flow{flow(client, server, nil)}},
		"rules made one": {with(event(tcp, pod1, pod2, pod2), func(e *nft.ConnEvent) { e.Hook = nft.Prerouting }), []flows.Flow{
			flow(client, server, func(f *flows.Flow) {
				egress(f)
				f.Policies[0].Rule = nil
				f.Text = "allowed by one of the egress rules 0,2 of out"
			}),
		}},
		"nobody's":      {event(tcp, far, "203.0.113.8:80", "203.0.113.8:80"), nil},
		"in the sample": {with(event(tcp, pod1, far, far), func(e *nft.ConnEvent) { e.SampledOf, e.Hook = 8, nft.Input }), []flows.Flow{flow(client, outside, func(f *flows.Flow) { f.SampledOf = 8 })}},
		"ended": {with(event(tcp, pod1, pod2, pod2), func(e *nft.ConnEvent) {
			e.Ended, e.Counted, e.OriginalCounts, e.ReplyCounts = true, true, nft.ConnCounts{Packets: 5, Bytes: 500}, nft.ConnCounts{Packets: 4, Bytes: 4000}
		}), []flows.Flow{flow(client, server, func(f *flows.Flow) { f.Event, f.Packets, f.Bytes = flows.Ended, 9, 4500 })}},
		"a ping": {with(event(policy.ICMP, "10.0.0.1:0", "203.0.113.7:0", "203.0.113.7:0"), func(e *nft.ConnEvent) { e.ICMPType, e.Hook = 8, nft.Input }), []flows.Flow{
			flow(flows.Endpoint{IP: client.IP, Namespace: "shop", Pod: "client"}, flows.Endpoint{IP: outside.IP}, func(f *flows.Flow) {
				f.Protocol, f.ICMPType, f.ICMPCode = "ICMP", new(uint8), new(uint8)
				*f.ICMPType = 8
			}),
		}},
		"another protocol": {with(event(47, "10.0.0.1:0", "203.0.113.7:0", "203.0.113.7:0"), func(e *nft.ConnEvent) { e.Hook = nft.Input }), []flows.Flow{
			flow(flows.Endpoint{IP: client.IP, Namespace: "shop", Pod: "client"}, flows.Endpoint{IP: outside.IP}, func(f *flows.Flow) { f.Protocol = "47" }),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := observedBy(t.Context(), func(hook nft.HookPoint, p policy.Packet) []ruleset.Decided {
					if p != c.event.First() || c.event.Ended {
						t.Errorf("it asks about %+v", p)
					}
					return rules[hook]
				}, nil)
				o.store.Observe()
				o.source.events <- c.event
				synctest.Wait()
				if diff := cmp.Diff(c.want, o.told(), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestConnectionsWhileObserved: it listens from when the first observer comes until the last has gone, each
// time.
func TestConnectionsWhileObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := observedBy(t.Context(), nothing, nil)
		listens := func(want bool, when string) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if o.source.listening.Load() != want {
				t.Errorf("%s it listens: %t", when, !want)
			}
		}
		listens(false, "before anybody observes")
		first := o.store.Observe()
		second := o.store.Observe()
		listens(true, "while two observe")
		first()
		listens(true, "while one observes")
		second()
		listens(false, "when all have gone")
		for range 100 { // in a hurry
			o.store.Observe()()
		}
		listens(false, "when all have gone again")
		done := o.store.Observe()
		for range 100 {
			o.store.Observe()()
		}
		listens(true, "while one is left")
		o.source.lost.Add(7)
		o.source.uncounted = errors.New("a reason")
		done()
		listens(false, "in the end")
		if last := o.said[len(o.said)-1]; !strings.Contains(last, `"lost"=7`) {
			t.Errorf("it says %s", last)
		}
		if o.Lost() != 7 {
			t.Errorf("%d are lost", o.Lost())
		}
		o.store.Observe()
		listens(true, "without counts")
		if !slices.ContainsFunc(o.said, func(s string) bool { return strings.Contains(s, "a reason") }) {
			t.Errorf("it does not say why nothing is counted: %s", o.said)
		}
	})
}

// TestConnectionsFail: where there is nothing to hear it says why, once, and tries again as long as somebody
// observes.
func TestConnectionsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := observedBy(t.Context(), nothing, nil)
		o.source.fails = errors.New("no events here")
		done := o.store.Observe()
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries := o.source.tries; tries < 5 || tries > 20 {
			t.Errorf("it has tried %d times in a minute", tries)
		}
		if len(o.said) != 1 || !strings.Contains(o.said[0], "no events here") {
			t.Errorf("it says %q", o.said)
		}
		done()
		synctest.Wait()
		tries := o.source.tries
		time.Sleep(time.Minute)
		synctest.Wait()
		if o.source.tries > tries+1 {
			t.Error("it tries though nobody observes")
		}
		o.source.fails = nil
		o.store.Observe()
		synctest.Wait()
		if !o.source.listening.Load() {
			t.Error("it does not listen")
		}
	})
}
