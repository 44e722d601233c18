package observer_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy"
)

// registry is an API server with Services.
type registry struct {
	mu       sync.Mutex
	services []observer.Service
	asked    []string
	// takes is how long it takes for an answer; more: it has more Services in each namespace.
	takes time.Duration
	more  bool
	err   error
}

func (r *registry) answer(ctx context.Context, question string, is func(observer.Service) bool) (some []observer.Service, err error) {
	r.mu.Lock()
	r.asked = append(r.asked, question)
	takes := r.takes
	r.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, errors.New("the time is up")
	case <-time.After(takes):
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.services {
		if is(s) {
			some = append(some, s)
		}
	}
	return some, r.err
}

// questions are what it was asked, in order.
func (r *registry) questions() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// becomes changes it.
func (r *registry) becomes(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *registry) InNamespace(ctx context.Context, namespace string) ([]observer.Service, bool, error) {
	some, err := r.answer(ctx, namespace, func(s observer.Service) bool { return s.Namespace == namespace })
	return some, r.more, err
}

func (r *registry) WithClusterIP(ctx context.Context, addr netip.Addr) ([]observer.Service, error) {
	return r.answer(ctx, addr.String(), func(s observer.Service) bool { return s.Addresses[0] == addr })
}

// service is a Service with a port of TCP at each address, and with a node's port if that is not 0.
func service(namespace, name string, port, nodePort uint16, addrs ...string) observer.Service {
	s := observer.Service{Key: policy.Key{Namespace: namespace, Name: name}, Ports: []observer.ServicePort{{Protocol: "TCP", Port: port, NodePort: nodePort}}}
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(a))
	}
	return s
}

// asking is a flow to a pod of a namespace, or to none, that has asked for an address.
func asking(namespace, asked string, change func(*flows.Flow)) *flows.Flow {
	at := netip.MustParseAddrPort(asked)
	f := &flows.Flow{Protocol: "TCP", Verdict: flows.Denied, Text: asked, Asked: &flows.Asked{IP: at.Addr(), Port: at.Port()}, Destination: flows.Endpoint{Namespace: namespace}}
	if change != nil {
		change(f)
	}
	return f
}

// namedFlows are flows, as "NAMESPACE/SERVICE" and how late they were told.
type namedFlows struct {
	mu    sync.Mutex
	begun time.Time
	flows []string
}

func (t *namedFlows) tell(f *flows.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := "-"
	if f.Asked != nil && f.Asked.Service != "" {
		name = f.Asked.Namespace + "/" + f.Asked.Service
	}
	t.flows = append(t.flows, fmt.Sprintf("%s after %s", name, time.Since(t.begun)))
}

// take returns what was told since the last call, and takes the time anew.
func (t *namedFlows) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.flows
	t.flows, t.begun = nil, time.Now()
	return all
}

// nodes have addresses.
type nodes []string

func (n nodes) Endpoint(addr netip.Addr, _ uint16) (e flows.Endpoint) {
	if slices.Contains(n, addr.String()) {
		e.Node = "node"
	}
	return e
}

// naming runs what a test does with a Naming that runs, in a time of its own, and returns what it has logged.
func naming(t *testing.T, r *registry, do func(n *observer.Naming, out *namedFlows)) (log []string) {
	synctest.Test(t, func(t *testing.T) {
		out := &namedFlows{begun: time.Now()}
		n := observer.NewNaming(observer.NamingOptions{
			Services: r, Names: nodes{"192.0.2.1"}, Tell: out.tell, Log: funcr.New(func(_, text string) { log = append(log, text) }, funcr.Options{}),
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Start(ctx) }()
		synctest.Wait()
		do(n, out)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return log
}

// TestServicesAreNamed: of each kind of address, the Service is named that has led there, and no other; nobody is
// asked for more than it takes.
func TestServicesAreNamed(t *testing.T) {
	services := []observer.Service{
		service("shop", "db", 5432, 0, "10.96.0.7", "fd00::7"),
		service("shop", "web", 80, 30080, "10.96.0.8", "203.0.113.1", "198.51.100.5"),
		service("shop", "tls", 443, 30443, "10.96.0.9", "198.51.100.5"),
		service("shop", "twice", 99, 0, "10.96.0.10", "198.51.100.9"),
		service("shop", "thrice", 99, 0, "10.96.0.11", "198.51.100.9"),
		service("default", "kubernetes", 443, 0, "10.96.0.1", "fd00::1"),
	}
	for name, c := range map[string]struct {
		flow *flows.Flow
		want string
		asks string // in order
	}{
		"cluster IP":                       {asking("shop", "10.96.0.7:5432", nil), "shop/db", "shop"},
		"the second family's":              {asking("shop", "[fd00::7]:5432", nil), "shop/db", "shop"},
		"IPv4 in IPv6's form":              {asking("shop", "[::ffff:10.96.0.7]:5432", nil), "shop/db", "shop"},
		"external IP":                      {asking("shop", "203.0.113.1:80", nil), "shop/web", "shop"},
		"load balancer's":                  {asking("shop", "198.51.100.5:80", nil), "shop/web", "shop"},
		"the same, of another Service":     {asking("shop", "198.51.100.5:443", nil), "shop/tls", "shop"},
		"one that two have":                {asking("shop", "198.51.100.9:99", nil), "-", "shop"},
		"node port":                        {asking("shop", "192.0.2.1:30080", nil), "shop/web", "shop"},
		"host port":                        {asking("shop", "192.0.2.1:8080", nil), "-", "shop"},
		"another host's port":              {asking("shop", "192.0.2.9:30080", nil), "-", "shop 192.0.2.9"},
		"another port":                     {asking("shop", "10.96.0.7:5433", nil), "-", "shop 10.96.0.7"},
		"another protocol":                 {asking("shop", "10.96.0.7:5432", func(f *flows.Flow) { f.Protocol = "UDP" }), "-", "shop 10.96.0.7"},
		"endpoints outside":                {asking("", "10.96.0.1:443", nil), "default/kubernetes", "10.96.0.1"},
		"endpoints in another namespace":   {asking("shop", "10.96.0.1:443", nil), "default/kubernetes", "shop 10.96.0.1"},
		"endpoints outside, second family": {asking("", "[fd00::1]:443", nil), "-", "fd00::1"},
		"node port to a node":              {asking("", "192.0.2.1:30080", nil), "-", ""},
		"a message without a port":         {asking("shop", "10.96.0.7:0", nil), "-", ""},
		"nobody asked for":                 {asking("shop", "10.96.0.7:5432", func(f *flows.Flow) { f.Asked = nil }), "-", ""},
		"named already": {asking("shop", "10.96.0.7:5432", func(f *flows.Flow) {
			f.Asked.Namespace, f.Asked.Service = "other", "one"
		}), "other/one", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := &registry{services: services, takes: 10 * time.Millisecond}
			naming(t, r, func(n *observer.Naming, out *namedFlows) {
				asks := len(strings.Fields(c.asks))
				for again := range 2 { // the second time, all is known
					n.Tell(c.flow)
					time.Sleep(900 * time.Millisecond)
					want := fmt.Sprintf("%s after %s", c.want, time.Duration(asks*(1-again))*10*time.Millisecond)
					if got := out.take(); len(got) != 1 || got[0] != want {
						t.Errorf("it is told %q, want %q", got, want)
					}
				}
				if got := strings.Join(r.questions(), " "); got != c.asks || n.Answered() != uint64(asks) || n.Failed() != 0 {
					t.Errorf("the API server is asked %q, want %q; %d answers are counted, %d failures", got, c.asks, n.Answered(), n.Failed())
				}
			})
			if c.want != "other/one" && c.flow.Asked != nil && c.flow.Asked.Service != "" {
				t.Error("the flow is changed that was handed on")
			}
		})
	}
}

// TestNamingIsNeverLate: an API server that does not answer keeps no flow for more than a second, those that have
// asked for nobody not at all, and is left alone for a while.
func TestNamingIsNeverLate(t *testing.T) {
	for _, c := range []struct {
		name string
		r    *registry
		want []string
		says string
	}{
		{"hangs", &registry{takes: time.Hour}, []string{"- after 0s", "- after 1s", "- after 1s"}, "the time is up"},
		{"is slow", &registry{takes: 1500 * time.Millisecond}, []string{"- after 0s", "- after 1s", "- after 1s"}, ""},
		{"refuses", &registry{err: errors.New("services is forbidden")}, []string{"- after 0s", "- after 0s", "- after 0s"}, "services is forbidden"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := c.r
			r.services = []observer.Service{service("shop", "db", 5432, 0, "10.96.0.7")}
			log := naming(t, r, func(n *observer.Naming, out *namedFlows) {
				n.Tell(asking("shop", "10.96.0.7:5432", nil))
				n.Tell(asking("", "10.96.0.8:5432", nil))
				n.Tell(asking("shop", "10.96.0.7:5432", func(f *flows.Flow) { f.Asked = nil }))
				time.Sleep(5 * time.Second)
				got := out.take()
				slices.Sort(got)
				if !slices.Equal(got, c.want) {
					t.Errorf("they are told %q, want %q", got, c.want)
				}
				n.Tell(asking("shop", "10.96.0.7:5432", nil))
				time.Sleep(2 * time.Second)
				want, asked := "- after 0s", 1
				if c.says == "" {
					want = "shop/db after 0s"
				}
				if got := out.take(); len(got) != 1 || got[0] != want || len(r.questions()) != asked {
					t.Errorf("then it is told %q, want %q, and the API server was asked %q", got, want, r.questions())
				}
				if c.says == "" {
					return
				}
				r.becomes(func() { r.takes, r.err = 0, nil })
				time.Sleep(30 * time.Second)
				out.take()
				n.Tell(asking("shop", "10.96.0.7:5432", nil))
				time.Sleep(time.Second)
				if got := out.take(); len(got) != 1 || got[0] != "shop/db after 0s" || n.Failed() != 1 || n.Answered() != 1 {
					t.Errorf("when it answers again, it is told %q; %d failures, %d answers", got, n.Failed(), n.Answered())
				}
			})
			if c.says == "" && len(log) != 0 || c.says != "" && (len(log) != 1 || !strings.Contains(log[0], c.says)) {
				t.Errorf("it says %q", log)
			}
		})
	}
}

// TestNamingKeepsTheOrder: of flows that have asked for somebody, none overtakes another, and those that are known
// are named however much is to be asked for the first.
func TestNamingKeepsTheOrder(t *testing.T) {
	r := &registry{takes: 400 * time.Millisecond, services: []observer.Service{service("a", "one", 1, 0, "10.96.0.1"), service("b", "two", 2, 0, "10.96.0.2")}}
	naming(t, r, func(n *observer.Naming, out *namedFlows) {
		n.Tell(asking("a", "10.96.0.1:1", nil))
		time.Sleep(500 * time.Millisecond)
		out.take()
		n.Tell(asking("b", "10.96.0.2:2", nil))
		n.Tell(asking("a", "10.96.0.1:1", nil))
		n.Tell(asking("b", "10.96.0.2:2", nil))
		time.Sleep(5 * time.Second)
		if got, want := out.take(), []string{"b/two after 400ms", "a/one after 400ms", "b/two after 400ms"}; !slices.Equal(got, want) {
			t.Errorf("they are told %q, want %q", got, want)
		}
	})
}

// TestNamingIsBounded: whatever flows ask for, the API server is asked twenty times and then once in two seconds; what
// cannot wait is told; and what is kept is forgotten.
func TestNamingIsBounded(t *testing.T) {
	t.Run("requests", func(t *testing.T) {
		r := &registry{}
		naming(t, r, func(n *observer.Naming, out *namedFlows) {
			for i := range 1000 {
				n.Tell(asking(fmt.Sprint("ns-", i), "192.0.2.1:30000", nil))
				time.Sleep(20 * time.Millisecond)
			}
			if asked := len(r.questions()); asked != 20+20/2-1 && asked != 20+20/2 {
				t.Errorf("in 20 s, the API server is asked %d times", asked)
			}
			if got := len(out.take()); got != 1000 {
				t.Errorf("%d flows are told", got)
			}
		})
	})
	t.Run("requests for cluster IPs", func(t *testing.T) {
		r := &registry{}
		naming(t, r, func(n *observer.Naming, out *namedFlows) {
			for i := range 1000 {
				n.Tell(asking("", fmt.Sprintf("10.96.%d.%d:80", i/256, i%256), nil))
				time.Sleep(30 * time.Millisecond)
			}
			if asked := len(r.questions()); asked != 4+30/10-1 && asked != 4+30/10 {
				t.Errorf("in 30 s, the API server is asked %d times", asked)
			}
			if got := len(out.take()); got != 1000 {
				t.Errorf("%d flows are told", got)
			}
		})
	})
	t.Run("flows that wait", func(t *testing.T) {
		naming(t, &registry{takes: time.Hour}, func(n *observer.Naming, out *namedFlows) {
			for range 5000 {
				n.Tell(asking("shop", "10.96.0.7:5432", nil))
			}
			if got := out.take(); len(got) != 5000-2048 {
				t.Errorf("%d do not wait", len(got))
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if got := out.take(); len(got) != 2048 {
				t.Errorf("%d have waited", len(got))
			}
			n.Tell(asking("shop", "10.96.0.7:5432", nil)) // which its end does not lose
		})
	})
	t.Run("time", func(t *testing.T) {
		r := &registry{services: []observer.Service{service("shop", "db", 5432, 0, "10.96.0.7")}}
		naming(t, r, func(n *observer.Naming, out *namedFlows) {
			for _, after := range []time.Duration{0, 4 * time.Minute, 2 * time.Minute} {
				time.Sleep(after)
				n.Tell(asking("shop", "10.96.0.7:5432", nil))
				synctest.Wait()
				n.Tell(asking(fmt.Sprint("other-", after), "192.0.2.1:8080", nil)) // so that it has something to do
				synctest.Wait()
			}
			if got := strings.Join(r.questions(), " "); got != "shop other-0s other-4m0s shop other-2m0s" {
				t.Errorf("after 0, 4 and 6 minutes, the API server was asked %q", got)
			}
			r.becomes(func() { r.services = append(r.services, service("shop", "new", 5432, 0, "10.96.0.8")) })
			out.take()
			for range 4 {
				n.Tell(asking("shop", "10.96.0.8:5432", nil))
				time.Sleep(11 * time.Second)
			}
			got := out.take()
			for i := range got {
				got[i], _, _ = strings.Cut(got[i], " ")
			}
			// The first cluster IP is asked for at once, and knows of it.
			if !slices.Equal(got, []string{"shop/new", "shop/new", "shop/new", "shop/new"}) || len(r.questions()) != 6 {
				t.Errorf("a new Service is told %q, and the API server was asked %q", got, r.questions())
			}
		})
	})
	t.Run("large namespaces", func(t *testing.T) {
		r := &registry{more: true, services: []observer.Service{service("shop", "db", 5432, 0, "10.96.0.7")}}
		naming(t, r, func(n *observer.Naming, out *namedFlows) {
			for range 4 {
				n.Tell(asking("shop", "10.96.0.9:80", nil))
				time.Sleep(time.Minute)
			}
			if got := strings.Join(r.questions(), " "); got != "shop 10.96.0.9 10.96.0.9 10.96.0.9 10.96.0.9" {
				t.Errorf("the API server was asked %q", got)
			}
		})
	})
}

// TestNamingBeforeAndAfter: while it does not run, nobody waits.
func TestNamingBeforeAndAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &namedFlows{begun: time.Now()}
		r := &registry{takes: 300 * time.Millisecond, services: []observer.Service{service("shop", "db", 5432, 0, "10.96.0.7")}}
		n := observer.NewNaming(observer.NamingOptions{Services: r, Names: nodes{}, Tell: out.tell, Log: funcr.New(func(_, text string) { t.Error(text) }, funcr.Options{})})
		n.Tell(asking("shop", "10.96.0.7:5432", nil))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Start(ctx) }()
		synctest.Wait()
		n.Tell(asking("shop", "10.96.0.7:5432", nil))
		time.Sleep(100 * time.Millisecond)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		n.Tell(asking("shop", "10.96.0.7:5432", nil))
		if got, want := out.take(), []string{"- after 0s", "- after 100ms", "- after 100ms"}; !slices.Equal(got, want) {
			t.Errorf("they are told %q, want %q", got, want)
		}
	})
}

// TestNamingForgetsTheOldest: of more than there is room for, the last are known.
func TestNamingForgetsTheOldest(t *testing.T) {
	r := &registry{}
	for n := range 6 {
		for i := range 6000 { // of which 5,000 are kept
			addr := netip.AddrFrom4([4]byte{10, byte(100 + n), byte(i >> 8), byte(i)})
			r.services = append(r.services, service(fmt.Sprint("ns-", n), fmt.Sprint("s-", i), 80, 0, addr.String()))
		}
	}
	naming(t, r, func(n *observer.Naming, out *namedFlows) {
		tell := func(i int, addr string) {
			n.Tell(asking(fmt.Sprint("ns-", i), fmt.Sprintf("10.%d.%s:80", 100+i, addr), nil))
			time.Sleep(3 * time.Second)
		}
		for i := range 6 {
			tell(i, "0.1")
		}
		before := len(r.questions())
		tell(5, "0.2")
		if len(r.questions()) != before {
			t.Errorf("the last is forgotten: %q", r.questions())
		}
		tell(0, "0.2")
		if len(r.questions()) != before+1 {
			t.Errorf("the first is known still: %q", r.questions())
		}
		tell(0, "23.111") // the 6,000th
		if got := r.questions()[before+1:]; len(got) != 1 || got[0] != "10.100.23.111" {
			t.Errorf("what there was no room for is asked for as %q", got)
		}
	})
}
