package network

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
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// fakeRoutes is a node's network that somebody else changes.
type fakeRoutes struct {
	changed chan struct{}
	mu      sync.Mutex
	damage  []string // what the next round has to repair
	err     error
	takes   time.Duration
	rounds  []time.Time
	pods    []node.Pod
}

func (f *fakeRoutes) Changed() <-chan struct{} { return f.changed }

// breaks has the next round find something to repair.
func (f *fakeRoutes) breaks(damage ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.damage = damage
}

// times are when there were rounds.
func (f *fakeRoutes) times() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rounds)
}

func (f *fakeRoutes) Reconcile(_ node.Node, _ []node.Node, pods []node.Pod) ([]string, error) {
	f.mu.Lock()
	f.rounds, f.pods = append(f.rounds, time.Now()), pods
	f.mu.Unlock()
	time.Sleep(f.takes)
	f.mu.Lock()
	defer f.mu.Unlock()
	done := f.damage
	f.damage = nil
	if len(done) > 0 {
		signal(f.changed) // its own changes are told of as well
	}
	return done, f.err
}

// with is how many lines have a text in them.
func with(lines []string, text string) (n int) {
	for _, line := range lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// lines are those of a log.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) add(_, args string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, args)
}

// take returns the lines since it was called last.
func (l *lines) take() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, l.all = l.all, nil
	return all
}

// harness is a Network that is told of changes.
type harness struct {
	*Network
	model    *policy.Model
	registry *prometheus.Registry
}

// feed has changes be committed.
func (h *harness) feed(changes ...policy.Change) {
	h.model.Apply(changes...)
	h.Committed(enforcer.Committed{Delta: h.model.Take()})
}

// networkOf is a Network about a node with pod ranges, whose rules are in the kernel.
func networkOf(routes *fakeRoutes) (h *harness, published *int, logged *lines) {
	published, logged = new(int), &lines{}
	log := funcr.New(logged.add, funcr.Options{})
	h = &harness{model: policy.NewModel("node"), registry: prometheus.NewRegistry()}
	reports := report.New(report.Options{Node: "node", Log: log, Registry: h.registry})
	reports.Health.Set(report.NotStarted, nil)
	reports.Health.Set(report.NetworkFailed, ErrNoRound)
	logged.take()
	routes.changed = make(chan struct{}, 1)
	h.Network = New(Options{
		Node: "node", Routes: routes, Connects: func(policy.Attachment) bool { return false },
		Publish: func(node.Node) error { *published++; return nil },
		Fenced:  func(context.Context) error { return nil }, Report: reports, Log: log,
	})
	h.feed(policy.SetNode(policy.Node{Name: "node", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}))
	<-h.committed.nodesChanged
	return h, published, logged
}

// repaired is what the metric counts.
func repaired(h *harness) float64 {
	families, err := h.registry.Gather()
	if err != nil {
		return -1
	}
	for _, family := range families {
		if family.GetName() == "podfence_network_repairs_total" {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return -1
}

// TestNetworkRepairs: what others change is made again within a second, counted, and named
// in one line; what podfence changes itself, it does not repair.
func TestNetworkRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		routes := &fakeRoutes{damage: []string{"add route to 10.244.2.0/24"}, takes: 50 * time.Millisecond}
		n, _, logged := networkOf(routes)
		g.Expect(n.Report.Health.Err()).To(MatchError(ErrNoRound))
		go func() { _ = n.Start(t.Context()) }()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		g.Expect(routes.times()).To(HaveLen(2), "the first one, and one for what that has changed")
		g.Expect(n.Report.Health.Err()).To(Succeed())
		g.Expect(repaired(n)).To(BeZero())

		logged.take()
		routes.breaks("set up link podfence0", "add route to 10.244.1.2 for pod shop/web")
		struck := time.Now()
		signal(routes.changed)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		g.Expect(routes.times()).To(HaveLen(4))
		g.Expect(routes.times()[2].Sub(struck)).To(BeNumerically("<", time.Second))
		g.Expect(repaired(n)).To(BeEquivalentTo(2))
		g.Expect(logged.take()).To(ConsistOf(And(ContainSubstring("Somebody else has changed"),
			ContainSubstring("set up link podfence0; add route to 10.244.1.2 for pod shop/web"))))

		// Without news, once a minute.
		before := len(routes.times())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		g.Expect(len(routes.times()) - before).To(BeNumerically("~", 10, 1))

		// What breaks next is no fight with what has broken before.
		for i := range 20 {
			routes.breaks(fmt.Sprintf("add route to 10.244.%d.0/24", i))
			before, struck := len(routes.times()), time.Now()
			signal(routes.changed)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			g.Expect(routes.times()[before].Sub(struck)).To(BeNumerically("<=", 500*time.Millisecond))
		}

		// Whoever changes it all the time does not get all of a processor, nor of the log.
		logged.take()
		before = len(routes.times())
		for range 600 {
			routes.breaks("add route to 10.244.2.0/24")
			signal(routes.changed)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		g.Expect(len(routes.times()) - before).To(And(BeNumerically(">", 5), BeNumerically("<", 60)))
		g.Expect(len(logged.take())).To(BeNumerically("<=", len(routes.times())-before))
	})
}

// TestNetworkRepairsAfterPublishing: however long the plugin and its configuration take to
// install, the next repair is no later for it, and rounds that take long themselves are.
func TestNetworkRepairsAfterPublishing(t *testing.T) {
	for _, test := range []struct {
		name                string
		round, publish, due time.Duration
	}{
		{"slow to publish", 0, 10 * time.Second, networkSettle},
		{"slow rounds", 3 * time.Second, 0, 27 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewWithT(t)
				routes := &fakeRoutes{takes: test.round}
				n, _, _ := networkOf(routes)
				n.Publish = func(node.Node) error { time.Sleep(test.publish); return nil }
				began := time.Now()
				go func() { _ = n.Start(t.Context()) }()
				time.Sleep(test.round + test.publish)
				synctest.Wait()
				signal(routes.changed)
				time.Sleep(time.Minute)
				synctest.Wait()
				g.Expect(len(routes.times())).To(BeNumerically(">=", 2))
				g.Expect(routes.times()[1].Sub(began) - test.round - test.publish).To(Equal(test.due))
			})
		})
	}
}

// TestNetworkRetries: what is wrong with one Node or pod is tried again less and less
// often, and puts off nothing else; that of pods, and of this node, shows in readiness.
func TestNetworkRetries(t *testing.T) {
	g := NewWithT(t)
	routes := &fakeRoutes{}
	n, published, logged := networkOf(routes)
	now := time.Now()
	failing := func(nodes ...string) {
		partial := &node.PartialError{Nodes: map[string]error{}}
		for _, name := range nodes {
			partial.Nodes[name] = fmt.Errorf("node %s: no route", name)
		}
		routes.err = partial
	}
	failing("a")
	var waits []time.Duration
	for range 12 {
		again, _ := n.round(now)
		waits = append(waits, again)
		now = now.Add(again)
	}
	g.Expect(waits[:6]).To(Equal([]time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute}))
	g.Expect(waits[6:]).To(HaveEach(time.Minute))
	g.Expect(with(logged.take(), "node a: no route")).To(Equal(1), "said once")
	g.Expect(n.Report.Health.Err()).To(Succeed(), "it would be not ready on all nodes")
	g.Expect(*published).To(BeNumerically("<=", 9), "no more than once a minute: %v", waits)
	// Another one starts anew; the first keeps its pace.
	failing("a", "b")
	again, _ := n.round(now)
	g.Expect(again).To(Equal(2 * time.Second))
	g.Expect(n.retries["node a"].due.Sub(now)).To(Equal(time.Minute))
	// News do not shorten what is due.
	again, _ = n.round(now.Add(time.Second))
	g.Expect(again).To(Equal(time.Second))
	routes.err = nil
	again, _ = n.round(now)
	g.Expect(again).To(Equal(time.Minute))
	g.Expect(n.retries).To(BeEmpty())

	routes.err = &node.PartialError{Pods: map[string]error{"shop/web": errors.New("pod shop/web: route of others")}}
	n.round(now)
	g.Expect(n.Report.Health.Err()).To(MatchError(ContainSubstring("pod shop/web: route of others")))
	// So does a route of others to this node's own range; pods are connected all the same.
	routes.err = &node.PartialError{Ranges: map[string]error{"10.244.1.0/24": errors.New("route to 10.244.1.0/24: of cni0")}}
	logged.take()
	*published, n.publishedAt = 0, time.Time{}
	again, _ = n.round(now)
	g.Expect(again).To(Equal(networkRetry))
	g.Expect(n.Report.Health.Err()).To(MatchError(ContainSubstring("NetworkFailed: route to 10.244.1.0/24: of cni0")))
	g.Expect(with(logged.take(), "other nodes")).To(BeZero())
	g.Expect(*published).To(Equal(1))
	routes.err = errors.New("bridge podfence0: another's")
	again, _ = n.round(now)
	g.Expect(again).To(Equal(networkRetry))
	g.Expect(n.Report.Health.Err()).To(MatchError(ContainSubstring("podfence0")))
	routes.err = nil
	n.round(now)
	g.Expect(n.Report.Health.Err()).To(Succeed())
}

// TestNetworkPublishes when what it publishes may have changed; else it looks once a minute.
func TestNetworkPublishes(t *testing.T) {
	g := NewWithT(t)
	routes := &fakeRoutes{}
	n, published, _ := networkOf(routes)
	now := time.Now()
	expect := func(times int, why string) {
		t.Helper()
		*published = 0
		for range 50 {
			n.round(now)
		}
		g.Expect(*published).To(Equal(times), why)
	}
	expect(1, "the first")
	expect(0, "nothing has changed")
	now = now.Add(networkPeriod)
	expect(1, "a minute later")
	routes.damage = []string{"set MTU of link podfence-vxlan to 1400"}
	expect(1, "the MTU may be another")
	n.feed(policy.SetNode(policy.Node{Name: "node", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}}))
	expect(1, "another range")
	n.feed(policy.SetNode(policy.Node{Name: "other"}))
	expect(0, "another Node")
	publish := n.Publish
	n.Publish = func(node.Node) error { *published++; return errors.New("read-only file system") }
	now = now.Add(networkPeriod)
	expect(50, "until it works")
	g.Expect(n.Report.Health.Err()).To(MatchError(ContainSubstring("read-only")))
	n.Publish = publish
	expect(1, "it works again")
	g.Expect(n.Report.Health.Err()).To(Succeed())
}

// TestNetworkPods: the attachments that have a port of the bridge are the pods, in an order
// that does not change. Those of when another plugin connected the pods are its business.
func TestNetworkPods(t *testing.T) {
	g := NewWithT(t)
	routes := &fakeRoutes{}
	n, _, _ := networkOf(routes)
	bridge := &enforcer.Bridge{Port: func(containerID, ifName string) string { return "pf" + containerID + ifName }}
	n.Connects = bridge.Connects
	for i := range 30 {
		n.feed(policy.SetAttachment(policy.Attachment{
			ContainerID: fmt.Sprint("c", i), IfName: "eth0", Pod: policy.Key{Namespace: "shop", Name: fmt.Sprint("web-", i)},
			HostInterface: fmt.Sprintf("pfc%deth0", i), MAC: [6]byte{2, 0, 0, 0, 0, byte(i)}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(i)})},
		}))
	}
	n.feed(
		policy.SetAttachment(policy.Attachment{
			ContainerID: "old", IfName: "eth0", Pod: policy.Key{Namespace: "shop", Name: "old"},
			HostInterface: "cali0123456789a", IPs: []netip.Addr{netip.MustParseAddr("10.9.9.8")},
		}),
		policy.SetAttachment(policy.Attachment{ContainerID: "x", IfName: "eth0", Pod: policy.Key{Namespace: "shop", Name: "x"}, IPs: []netip.Addr{netip.MustParseAddr("10.9.9.9")}}),
	)
	for range 20 {
		routes.damage = []string{"add route"}
		_, repair, err := n.reconcile(n.world())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(routes.pods).To(HaveLen(30))
		if !routes.rounds[0].Equal(routes.rounds[len(routes.times())-1]) {
			g.Expect(repair).To(BeTrue(), "the same world")
		}
	}
	g.Expect(routes.pods[0].Name).To(Equal("shop/web-0"))
	g.Expect(routes.pods[0].MAC.String()).To(Equal("02:00:00:00:00:00"))
}

// TestHostPortsAreLogged: once, and again when it is something else; whether or not the
// rest of the round succeeds.
func TestHostPortsAreLogged(t *testing.T) {
	var lines []string
	note := "pods' hostPorts do nothing: there is no portmap plugin"
	n, _, _ := networkOf(&fakeRoutes{})
	n.Routes, n.HostPorts = nil, func() string { return note }
	n.Publish = func(node.Node) error { return errors.New("read-only") }
	n.Log = funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
	for range 2 {
		n.round(time.Now())
	}
	note = ""
	for range 2 {
		n.round(time.Now())
	}
	if len(lines) != 2 || !strings.Contains(lines[0], "there is no portmap plugin") || !strings.Contains(lines[1], "serves them") {
		t.Errorf("logged %s", slices.Compact(lines))
	}
}
