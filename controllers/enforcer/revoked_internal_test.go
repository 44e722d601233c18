package enforcer

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// A round names the pods and policies of what it has cut, and not again what one before
// had cut already.
func TestRevocationsSayWhoseAndWhy(t *testing.T) {
	m := policy.NewModel("node")
	for i, name := range []string{"web", "db"} {
		pod := pod(name)
		pod.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(7 + i)})}
		m.Apply(policy.SetPod(pod))
	}
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	m.Apply(policy.SetPolicy(policy.Policy{
		Key: policy.Key{Namespace: "shop", Name: "deny"}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false},
	}))
	table := ruleset.Build(m.Intent(), ruleset.Options{})
	trace := func(hook nft.HookPoint, p policy.Packet) nft.Trace {
		return table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New})
	}
	passes := func(hook nft.HookPoint, p policy.Packet) bool { return trace(hook, p).Verdict == nft.Accept }
	denied := func(hook nft.HookPoint, p policy.Packet) string { return table.Denied(trace(hook, p)) }
	flow := func(last byte, port uint16) policy.Packet {
		return policy.Packet{Src: netip.AddrFrom4([4]byte{192, 0, 2, 9}), Dst: netip.AddrFrom4([4]byte{10, 244, 1, last}), Protocol: policy.TCP, DstPort: port, HopLimit: 64}
	}
	out := flow(7, 80)
	out.Src, out.Dst = out.Dst, out.Src

	r := newRevocations()
	judge := r.round(passes)
	if judge(nft.Forward, flow(7, 80)) || judge(nft.Forward, flow(7, 81)) || judge(nft.Forward, flow(8, 80)) || !judge(nft.Forward, out) {
		t.Fatalf("the table is not what the test is about: %s", trace(nft.Forward, out))
	}
	if got, want := r.why(denied), []Denial{{"ingress of shop/web, by shop/deny", 2}, {"ingress of shop/db, by shop/deny", 1}}; !slices.Equal(got, want) {
		t.Errorf("it says %v, want %v", got, want)
	}
	judge = r.round(passes)
	judge(nft.Forward, flow(7, 80))
	judge(nft.Forward, flow(8, 90))
	if got, want := r.why(denied), []Denial{{"ingress of shop/db, by shop/deny", 1}}; !slices.Equal(got, want) {
		t.Errorf("in the next round it says %v, want %v", got, want)
	}

	// Some are judged beside, before the next round of all and during it.
	some := func(flows ...policy.Packet) []Denial {
		judge, why := r.partialRound(passes)
		for _, flow := range flows {
			judge(nft.Forward, flow)
		}
		return why(denied)
	}
	if got, want := some(flow(7, 80), flow(7, 82)), []Denial{{"ingress of shop/web, by shop/deny", 1}}; !slices.Equal(got, want) {
		t.Errorf("of some it says %v, want %v", got, want)
	}
	judge = r.round(passes)
	if got, want := some(flow(7, 83)), []Denial{{"ingress of shop/web, by shop/deny", 1}}; !slices.Equal(got, want) {
		t.Errorf("of some, during a round of all, it says %v, want %v", got, want)
	}
	for _, port := range []uint16{80, 82, 83, 84} {
		judge(nft.Forward, flow(7, port))
	}
	if got, want := r.why(denied), []Denial{{"ingress of shop/web, by shop/deny", 1}}; !slices.Equal(got, want) {
		t.Errorf("of all, after some, it says %v, want %v", got, want)
	}
}

// A flow that the table lets pass again when it is asked why is named all the same.
func TestReasonsOfWhatHasChangedSince(t *testing.T) {
	cut := newDenials()
	cut.note(judged{packet: policy.Packet{DstPort: 80}})
	none := func(nft.HookPoint, policy.Packet) string { return "" }
	if got, want := denialsOf(cut, none), []Denial{{"by what has changed since", 1}}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}
