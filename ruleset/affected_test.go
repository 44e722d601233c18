package ruleset_test

import (
	"maps"
	"math/rand"
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// TestAffected: a packet that passes only after a delta has an end that Affected names, and a packet
// that is denied only after it has an end for which Affected says that flows may be denied.
func TestAffected(t *testing.T) {
	changed, opening, asked, all := 0, 0, 0, 0
	for seed := range random.Seeds(*seed, *histories/2) {
		r := rand.New(rand.NewSource(seed))
		o := ruleset.Options{AllowToNode: seed%3 == 0, RevokedMark: uint32(seed % 2), LongRun: int(seed % 4)}
		history := random.History(r, 60)
		m := policy.NewModel(random.Node)
		table := ruleset.Build(m.Intent(), o)
		for done, event := range history {
			m.Apply(event.Change())
			if r.Intn(3) == 0 {
				continue // the next delta has both
			}
			s := random.Snapshot(history[:done+1])
			type flow struct {
				hook   nft.HookPoint
				packet policy.Packet
				passed bool
			}
			var flows []flow
			passes := func(f flow) bool {
				return table.Trace(f.hook, nft.TracePacket{Packet: f.packet, State: nft.New}).Verdict == nft.Accept
			}
			for range 80 {
				p := random.Packet(r, s)
				if hook, seen := random.Hook(s, p); seen {
					f := flow{hook: hook, packet: p}
					f.passed = passes(f)
					flows = append(flows, f)
				}
			}
			delta := m.Take()
			addrs := table.Affected(delta)
			table.Update(delta)
			if asked++; addrs == nil {
				all++
				continue
			}
			for _, closes := range addrs {
				if !closes {
					opening++
				}
			}
			is := func(addr netip.Addr, denied bool) bool { closes, is := addrs[addr]; return is && (closes || !denied) }
			for _, f := range flows {
				if passes(f) == f.passed {
					continue
				}
				changed++
				if !is(f.packet.Src, f.passed) && !is(f.packet.Dst, f.passed) {
					t.Fatalf("seed %d after %d events: %s at %s passed: %t, and does not go on so, though only %v are affected", seed, done+1, f.packet, f.hook, f.passed, addrs)
				}
			}
		}
	}
	t.Logf("%d packets were judged otherwise after %d deltas, of which %d were about all; %d addresses only gained", changed, asked, all, opening)
	if changed < 100 || opening < 15 || all > asked/2 {
		t.Error("too few to tell")
	}
}

// TestAffectedByRules: if only the rules of a policy change, the pods that it isolates are affected.
func TestAffectedByRules(t *testing.T) {
	m := policy.NewModel("node")
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	web, db := netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.1.8")
	m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "web"}, Node: "node", IPs: []netip.Addr{web}, Labels: policy.LabelsOf(map[string]string{"app": "web"})}))
	m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "db"}, Node: "node", IPs: []netip.Addr{db}}))
	allow := func(port uint16) {
		m.Apply(policy.SetPolicy(policy.Policy{
			Key: policy.Key{Namespace: "shop", Name: "web"}, Subject: &policy.Selector{Namespace: "shop", Pods: "app=web"}, Isolates: [2]bool{true, false},
			Rules: [2][]policy.Rule{{{AnyPeer: true, Ports: []policy.PortRange{{Protocol: policy.TCP, First: port, Last: port}}}}},
		}))
	}
	allow(80)
	table := ruleset.Build(m.Intent(), ruleset.Options{})
	allow(81)
	delta := m.Take()
	delta.Subjects = nil // whether or not they come along
	if addrs := table.Affected(delta); len(delta.Policies) != 1 || len(addrs) != 1 {
		t.Errorf("%d policies have changed, and %v are affected, not %s", len(delta.Policies), addrs, web)
	} else if _, is := addrs[web]; !is {
		t.Errorf("%v are affected, not %s", addrs, web)
	}
}

// TestWhatSetsGainOnlyOpens: a flow may be denied because a set of peers or endpoints loses a member,
// even where another set gains it.
func TestWhatSetsGainOnlyOpens(t *testing.T) {
	addr := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, last}) }
	endpoint := func(last byte) policy.Endpoint {
		return policy.Endpoint{Addr: addr(last), Protocol: policy.TCP, Port: 80}
	}
	delta := policy.Delta{
		Peers: map[policy.Selector]policy.Members[netip.Addr]{
			{Pods: "a"}: {Add: []netip.Addr{addr(1), addr(3)}, Remove: []netip.Addr{addr(2)}},
			{Pods: "b"}: {Add: []netip.Addr{addr(2)}, Remove: []netip.Addr{addr(3)}},
			{Pods: "c"}: {New: true, Add: []netip.Addr{addr(9)}},
		},
		NamedPorts: map[policy.NamedPort]policy.Members[policy.Endpoint]{
			{Name: "a"}: {Add: []policy.Endpoint{endpoint(4), endpoint(6)}, Remove: []policy.Endpoint{endpoint(5)}},
			{Name: "b"}: {Add: []policy.Endpoint{endpoint(5)}, Remove: []policy.Endpoint{endpoint(6)}},
			{Name: "c"}: {New: true, Add: []policy.Endpoint{endpoint(9)}},
		},
	}
	want := map[netip.Addr]bool{addr(1): false, addr(2): true, addr(3): true, addr(4): false, addr(5): true, addr(6): true}
	have := ruleset.Build(policy.NewModel("node").Intent(), ruleset.Options{}).Affected(delta)
	if !maps.Equal(have, want) {
		t.Errorf("have %v, want %v", have, want)
	}
}
