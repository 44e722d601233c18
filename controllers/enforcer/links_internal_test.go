package enforcer

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/recorder"
)

// routes are where addresses are, as a node's routes say.
type routes struct {
	at      map[netip.Addr]node.PodLink
	fails   error
	changed chan struct{}
}

func (r *routes) Find(context.Context, []netip.Addr) (map[netip.Addr]node.PodLink, error) {
	return r.at, r.fails
}

func (r *routes) Changed() <-chan struct{} { return r.changed }

// TestLinksFromTheFirstCommit: an agent that starts puts its table in place of the one before
// with the links in it, so that what they close is never open; and not at all if it cannot
// find them.
func TestLinksFromTheFirstCommit(t *testing.T) {
	addr := netip.MustParseAddr("10.244.1.7")
	finder := &routes{at: map[netip.Addr]node.PodLink{addr: {Names: []string{"veth7"}, Own: true}}, fails: errors.New("no answer")}
	kernel := &recorder.Kernel{}
	o := Options{Node: "node", PodLinks: finder, Ruleset: ruleset.Options{Links: true}}
	e := New(kernel, o)
	pod := *pod("web")
	pod.IPs = []netip.Addr{addr}
	e.Feed(
		policy.SetPod(&pod),
		policy.SetPolicy(policy.Policy{Key: policy.Key{Namespace: "shop", Name: "deny"}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, true}}),
	)
	if err := e.loop.commit(); !errors.Is(err, finder.fails) || kernel.Holds("add") {
		t.Errorf("links that cannot be found: %v, and in the kernel is\n%s", err, texts(kernel))
	}
	finder.fails = nil
	if err := e.loop.commit(); err != nil {
		t.Fatal(err)
	}
	first := kernel.Plans()[0]
	if !first.Replace || first.Family != nft.Inet {
		t.Fatalf("the first plan is\n%s", first.Text())
	}
	if !kernel.Holds("add element bridge podfence egress-addresses-4 { 10.244.1.7 }") || !kernel.Holds("add element bridge podfence ingress-addresses-4 { 10.244.1.7 }") {
		t.Errorf("the bridges' table does not have the isolated pod's address\n%s", texts(kernel))
	}
	for _, set := range []string{`egress-links { "veth7" }`, `ingress-links { "veth7" }`, `pod-links { "veth7" }`, `link-addresses-4 { "veth7" . 10.244.1.7 }`} {
		if !strings.Contains(first.Text(), "add element inet podfence "+set) {
			t.Errorf("no %s in the first plan\n%s", set, first.Text())
		}
		if !kernel.Holds("add element bridge podfence " + set) {
			t.Errorf("no %s in the bridges' table\n%s", set, texts(kernel))
		}
	}
}

// TestLinksOf: a link is closed unless it is known to be of pods that are open.
func TestLinksOf(t *testing.T) {
	addr := func(text string) netip.Addr { return netip.MustParseAddr(text) }
	open, closed := [2]bool{}, [2]bool{true, true}
	ingress := [2]bool{true, false}
	locals := []policy.LocalAddr{
		{Addr: addr("10.0.0.1"), HostInterface: "told", Closed: ingress},
		{Addr: addr("10.0.0.2"), Closed: open},
		{Addr: addr("10.0.0.3"), Closed: closed},
		{Addr: addr("10.0.0.4"), Closed: open},
		{Addr: addr("10.0.0.5"), Closed: closed},
	}
	found := map[netip.Addr]node.PodLink{
		addr("10.0.0.2"): {Names: []string{"routed"}, Own: true},
		addr("10.0.0.3"): {Names: []string{"routed"}, Own: true}, // two pods by one link: the closed one counts
		addr("10.0.0.4"): {Names: []string{"port-a", "port-b", "told"}},
		addr("10.0.0.5"): {}, // nowhere
	}
	have := linksOf(locals, found)
	slices.SortFunc(have.Addrs, func(a, b ruleset.LinkAddr) int { return a.Addr.Compare(b.Addr) })
	want := ruleset.Links{
		ClosedAddrs: [2][]netip.Addr{{addr("10.0.0.1"), addr("10.0.0.3"), addr("10.0.0.5")}, {addr("10.0.0.3"), addr("10.0.0.5")}},
		All:         []string{"port-a", "port-b", "routed", "told"},
		Closed: [2][]string{
			{"port-a", "port-b", "routed", "told"}, {"port-a", "port-b", "routed"},
		},
		Addrs: []ruleset.LinkAddr{
			{Link: "told", Addr: addr("10.0.0.1")}, {Link: "routed", Addr: addr("10.0.0.2")}, {Link: "routed", Addr: addr("10.0.0.3")},
		},
		Somewhere: []string{"port-a", "port-b"}, SomewhereAddrs: []netip.Addr{addr("10.0.0.4")},
	}
	if diff := cmp.Diff(want, have, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("-want +have\n%s", diff)
	}
}

// TestPodsBehindBridge: it is known whether a bridge passes packets between pods of this node: as long as some
// pod of it is behind one.
func TestPodsBehindBridge(t *testing.T) {
	addr := netip.MustParseAddr("10.244.1.7")
	finder := &routes{at: map[netip.Addr]node.PodLink{addr: {Names: []string{"port-a", "port-b"}}}}
	e := New(&recorder.Kernel{}, Options{Node: "node", PodLinks: finder, Ruleset: ruleset.Options{Links: true}})
	commit := func(changes ...policy.Change) {
		t.Helper()
		e.Feed(changes...)
		if err := e.loop.commit(); err != nil {
			t.Fatal(err)
		}
	}
	if e.PodsBehindBridge() {
		t.Error("there are pods before there are any")
	}
	pod := *pod("web")
	pod.IPs = []netip.Addr{addr}
	if commit(policy.SetPod(&pod)); !e.PodsBehindBridge() {
		t.Error("a pod behind one of two ports of a bridge")
	}
	if commit(policy.DeletePod(pod.Key)); e.PodsBehindBridge() {
		t.Error("it has gone")
	}
	finder.at[addr] = node.PodLink{Names: []string{"veth7"}, Own: true}
	if commit(policy.SetPod(&pod)); e.PodsBehindBridge() {
		t.Error("it is by a link of its own")
	}
	if New(&recorder.Kernel{}, Options{Node: "node"}).PodsBehindBridge() {
		t.Error("podfence connects the pods")
	}
}
