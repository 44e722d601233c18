package enforcer

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestJudgeKeepsUpWithTheTable: a judge of flows gives the verdicts of the table as it is, whether it was
// asked for the same flow before the table was there, before another took its place, or before it changed.
func TestJudgeKeepsUpWithTheTable(t *testing.T) {
	m := policy.NewModel("node")
	web := pod("web")
	web.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, 7})}
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	m.Apply(policy.SetPod(web))
	deny := policy.SetPolicy(policy.Policy{
		Key: policy.Key{Namespace: "shop", Name: "deny"}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false},
	})
	flow := policy.Packet{Src: netip.AddrFrom4([4]byte{192, 0, 2, 9}), Dst: web.IPs[0], Protocol: policy.TCP, DstPort: 80, HopLimit: 64}

	table := &sharedTable{}
	update := func() { delta := m.Take(); table.change(func(r *ruleset.Table) { r.Update(delta) }) }
	passes := table.judge()
	for i, step := range []struct {
		change func()
		want   bool
	}{
		{func() {}, true}, // nothing is known
		{func() { m.Take(); table.put(ruleset.Build(m.Intent(), ruleset.Options{})) }, true},
		{func() { m.Apply(deny); update() }, false},
		{func() {}, false},
		{func() { m.Apply(policy.DeletePolicy(policy.Key{Namespace: "shop", Name: "deny"})); update() }, true},
	} {
		step.change()
		for range 2 {
			if have := passes(nft.Forward, flow); have != step.want {
				t.Errorf("after step %d it lets pass: %v, want %v", i, have, step.want)
			}
		}
	}
}
