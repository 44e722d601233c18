package enforcer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/recorder"
)

// named are the changes for a node with a pod that may reach names of example.com alone.
func named(annotations ...func(*policy.Policy)) []policy.Change {
	web := pod("web")
	web.IPs = []netip.Addr{namedPod}
	p := policy.Policy{
		Key: policy.Key{Name: "names"}, Tier: policy.AdminTier, Subject: &policy.Selector{},
		Rules: [2][]policy.Rule{policy.Egress: {
			{Domains: []policy.DomainName{"*.example.com"}, AnyPort: true}, {Index: 1, Action: policy.Deny, AnyPeer: true, AnyPort: true},
		}},
	}
	for _, change := range annotations {
		change(&p)
	}
	return []policy.Change{policy.SetNamespace(policy.Namespace{Name: "shop"}), policy.SetPod(web), policy.SetPolicy(p), policy.Synced()}
}

var (
	namedPod = netip.MustParseAddr("10.244.1.7")
	namedTo  = netip.MustParseAddr("203.0.113.1")
)

// connections are the flows that connection tracking has; WouldCut tells of all.
type connections struct {
	open  []policy.Packet
	asked atomic.Int32
}

func (c *connections) WouldCut(_ context.Context, _ uint32, asIs, wouldBe func(nft.HookPoint, policy.Packet) bool, tell func(nft.OpenFlow)) (int, error) {
	c.asked.Add(1)
	for _, p := range c.open {
		if asIs(nft.Forward, p) && !wouldBe(nft.Forward, p) {
			tell(nft.OpenFlow{Packet: p, JudgedBy: p, Hook: nft.Forward})
		}
	}
	return len(c.open), nil
}

// TestConnectionsByNamesGoOn: a new agent lets connections go on that are open by a name, of whose address it does not know
// who was told it, also when the table is built anew; and no others.
func TestConnectionsByNamesGoOn(t *testing.T) {
	to := func(last byte, protocol policy.Protocol) policy.Packet {
		return policy.Packet{Src: namedPod, Dst: netip.AddrFrom4([4]byte{203, 0, 113, last}), Protocol: protocol, DstPort: 443}
	}
	flows := &connections{open: []policy.Packet{to(1, policy.TCP), {Src: netip.AddrFrom4([4]byte{10, 244, 1, 9}), Dst: namedTo, Protocol: policy.TCP}}}
	e := New(&recorder.Kernel{}, Options{Node: "node", OpenFlows: flows})
	start(t, e)
	e.Feed(named()...)
	check.NoError(t, e.Sync(t.Context()))
	judge := e.policies.judge()
	if !judge(nft.Forward, to(1, policy.TCP)) || judge(nft.Forward, to(2, policy.TCP)) {
		t.Error("what is open is cut, or another goes on")
	}
	e.loop.trust = unknown // as after a failure; the loop is idle
	e.Feed(policy.SetNamespace(policy.Namespace{Name: "other"}))
	check.NoError(t, e.Sync(t.Context()))
	if judge = e.policies.judge(); !judge(nft.Forward, to(1, policy.TCP)) || flows.asked.Load() != 1 {
		t.Errorf("with a table built anew, what is open is cut; connection tracking was asked %d times", flows.asked.Load())
	}
}

// start runs an enforcer until the test ends.
func start(t *testing.T, e *Enforcer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		check.NoError(t, <-done)
	})
}

// TestLearnedBefore: what the kernel has from an agent before is in the first table, as long as it would have counted; but
// not what another pod was told.
func TestLearnedBefore(t *testing.T) {
	kernel := &recorder.Kernel{}
	before := New(kernel, Options{Node: "node"})
	start(t, before)
	before.Feed(named()...)
	expires := time.Now().Add(time.Hour)
	before.Feed(policy.Resolved([]policy.Resolution{{Name: "www.example.com", Addr: namedTo, Pod: namedPod, Expires: expires}}))
	check.NoError(t, before.Sync(t.Context()))
	left := map[string][]nft.TimedElement{}
	for name, set := range before.policies.get().Sets {
		for e, timed := range set.Timed {
			left[name] = append(left[name], nft.TimedElement{Element: e, Timed: timed})
		}
	}
	if len(left) != 1 {
		t.Fatalf("the kernel has %v", left)
	}
	for _, same := range []bool{true, false} {
		e := New(&recorder.Kernel{}, Options{Node: "node", Remembered: left})
		start(t, e)
		changes := named()
		if !same {
			other := pod("other")
			other.IPs = []netip.Addr{namedPod}
			changes = slices.Replace(changes, 1, 2, policy.SetPod(other))
		}
		e.Feed(changes...)
		check.NoError(t, e.Sync(t.Context()))
		learned := e.Resolutions()
		if got := fmt.Sprint(learned); same != (got == "[www.example.com is 203.0.113.1 for 10.244.1.7]") || same && !learned[0].Expires.Equal(expires) {
			t.Errorf("the same pod: %t; learned is %s", same, got)
		}
	}
}

// TestNamersOfStaged: pods that a staged policy with names is about are learned for, too.
func TestNamersOfStaged(t *testing.T) {
	e := New(&recorder.Kernel{}, Options{Node: "node", Staged: &Staged{Kernel: &recorder.Kernel{}, Uninstall: func() error { return nil }}, Ruleset: ruleset.Options{}})
	start(t, e)
	e.Feed(named(func(p *policy.Policy) { p.Staged = true })...)
	check.NoError(t, e.Sync(t.Context()))
	if got := fmt.Sprint(e.Namers()); got != "map[10.244.1.7:[*.example.com]]" {
		t.Errorf("to learn for are %s", got)
	}
}
