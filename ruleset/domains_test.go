package ruleset_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

var (
	webAddr = netip.MustParseAddr("10.244.1.7") // of testdata/domain-names.yaml
	login   = netip.MustParseAddr("203.0.113.1")
	mirror  = netip.MustParseAddr("203.0.113.2")
)

// namedTable is the model and the table of testdata/domain-names.yaml.
func namedTable(t *testing.T) (*policy.Model, *ruleset.Table) {
	t.Helper()
	objects, err := manifests.Load("testdata/domain-names.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := policy.NewModel("node-1")
	m.Apply(random.Changes(random.Events(objects.Snapshot))...)
	return m, ruleset.Build(m.Intent(), ruleset.Options{})
}

// passes reports whether a connection from the pod passes: one that begins, or one that is open.
func passes(t *ruleset.Table, to netip.Addr, port uint16, open bool) bool {
	p := policy.Packet{Src: webAddr, Dst: to, Protocol: policy.TCP, DstPort: port}
	return t.Trace(nft.Forward, nft.TracePacket{Packet: p, State: nft.New, Open: open}).Verdict == nft.Accept
}

func answer(pod, to netip.Addr, name string, in time.Duration) policy.Change {
	return policy.Resolved([]policy.Resolution{{Name: name, Addr: to, Pod: pod, Expires: random.Epoch.Add(in)}})
}

// TestNamesLetPass: a name lets pass what the pod, or the agent, was told, on the rule's ports, until that expires; open
// connections go on, until another pod has the address.
func TestNamesLetPass(t *testing.T) {
	m, table := namedTable(t)
	expect := func(when string, to netip.Addr, port uint16, begins, open bool) {
		t.Helper()
		if passes(table, to, port, false) != begins || passes(table, to, port, true) != open {
			t.Errorf("%s: a connection to %s begins: %t, goes on: %t", when, to, !begins, !open)
		}
	}
	expect("nothing is known", login, 443, false, false)
	m.Apply(answer(webAddr, login, "login.example.com", time.Minute), answer(netip.MustParseAddr("10.244.1.8"), mirror, "a.mirrors.example.net", time.Hour))
	table.Update(m.Take())
	expect("the pod was told", login, 443, true, true)
	expect("the pod was told, but not of this port", login, 80, false, false)
	expect("another pod was told", mirror, 80, false, false)
	m.Apply(policy.Elapsed(random.Epoch.Add(time.Minute)))
	table.Update(m.Take())
	expect("the time is over", login, 443, false, true)
	rebuilt := ruleset.Build(m.Intent(), ruleset.Options{})
	rebuilt.Inherit(table)
	table = rebuilt
	expect("the table was built anew", login, 443, false, true)

	m.Apply(answer(netip.Addr{}, login, "login.example.com", 2*time.Minute), answer(netip.Addr{}, mirror, "a.mirrors.example.net", 2*time.Minute))
	table.Update(m.Take())
	expect("the agent was told", login, 443, true, true)
	expect("the agent was told, but wildcards mean what pods were told", mirror, 80, false, false)

	m.Apply(policy.Elapsed(random.Epoch.Add(time.Hour)), policy.DeletePod(policy.Key{Namespace: "shop", Name: "web-0"}))
	table.Update(m.Take())
	m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "other"}, Node: "node-1", IPs: []netip.Addr{webAddr}}))
	table.Update(m.Take())
	m.Apply(policy.DeletePolicy(policy.Key{Name: "outside"}))
	table.Update(m.Take())
	if sets := len(table.Sets) - len(ruleset.Build(m.Intent(), ruleset.Options{}).Sets); sets != 0 {
		t.Errorf("%d sets are left over", sets)
	}
}

// TestLapsedOfAnAddress: what the pod before was told lets nothing pass of the next one, open or not.
func TestLapsedOfAnAddress(t *testing.T) {
	m, table := namedTable(t)
	m.Apply(answer(webAddr, mirror, "a.mirrors.example.net", time.Minute))
	table.Update(m.Take())
	m.Apply(policy.Elapsed(random.Epoch.Add(time.Hour)))
	table.Update(m.Take())
	if !passes(table, mirror, 80, true) {
		t.Fatal("an open connection does not go on")
	}
	m.Apply(policy.DeletePod(policy.Key{Namespace: "shop", Name: "web-0"}), policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "other"}, Node: "node-1", IPs: []netip.Addr{webAddr}}))
	table.Update(m.Take())
	if passes(table, mirror, 80, true) {
		t.Error("the next pod has what the pod before it had open")
	}
}

// TestOpenedBefore: what was open before the agent came goes on where a name may have let it pass, and nothing else does.
func TestOpenedBefore(t *testing.T) {
	_, table := namedTable(t)
	table.Opened(webAddr, login)
	table.Opened(netip.MustParseAddr("10.244.1.8"), mirror)
	if !passes(table, login, 443, true) || passes(table, login, 443, false) {
		t.Error("what was open does not go on, or begins anew")
	}
	if passes(table, mirror, 443, true) {
		t.Error("what another has open lets the pod go on")
	}
}

// TestRemembered: the next agent reads back what it finds in the kernel, but not what a pod was told whose address another has.
func TestRemembered(t *testing.T) {
	m, table := namedTable(t)
	m.Apply(
		answer(webAddr, login, "login.example.com", time.Minute), answer(netip.Addr{}, login, "login.example.com", time.Hour),
		answer(webAddr, netip.MustParseAddr("2001:db8::1"), "x.api.example.com", time.Minute), answer(webAddr, mirror, "a.mirrors.example.net", time.Minute),
	)
	table.Update(m.Take())
	sets := map[string][]nft.TimedElement{}
	for name, set := range table.Sets {
		for e, timed := range set.Timed {
			sets[name] = append(sets[name], nft.TimedElement{Element: e, Timed: timed})
		}
	}
	holder := policy.Key{Namespace: "shop", Name: "web-0"}
	read := ruleset.Remembered(sets, func(netip.Addr) []policy.Key { return []policy.Key{holder} })
	if diff := cmp.Diff(m.Resolutions(), read, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("read back (-want +read):\n%s", diff)
	}
	holder.Name = "web-1"
	read = ruleset.Remembered(sets, func(netip.Addr) []policy.Key { return []policy.Key{holder} })
	if len(m.Resolutions()) != 4 || len(read) != 1 || read[0].Pod.IsValid() {
		t.Errorf("another pod has the address, and read back is %v", read)
	}
}
