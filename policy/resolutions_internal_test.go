package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

var resolutionsEpoch = time.Unix(1_800_000_000, 0)

// namer is a model with a pod that a policy with domain names is about, and another pod.
func namer(t *testing.T) *Model {
	t.Helper()
	m := NewModel("node-1")
	m.Apply(SetNamespace(Namespace{Name: "shop"}))
	for i, name := range []string{"web", "db"} {
		m.Apply(SetPod(&Pod{Key: Key{Namespace: "shop", Name: name}, Node: "node-1", Labels: LabelsOf(map[string]string{"app": name}), IPs: []netip.Addr{addr(i + 2)}}))
	}
	p := Policy{
		Key: Key{Name: "names"}, Tier: AdminTier, Subject: &Selector{Pods: "app=web"},
		Rules: [len(Directions)][]Rule{Egress: {{Domains: []DomainName{"*.example.com", "api.example.net"}, AnyPort: true}}},
	}
	m.Apply(SetPolicy(p.Divided()))
	m.Take()
	return m
}

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}) }

func outside(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)})
}

func told(pod netip.Addr, name string, to netip.Addr, seconds int) Resolution {
	return Resolution{Name: name, Addr: to, Pod: pod, Expires: resolutionsEpoch.Add(time.Duration(seconds) * time.Second)}
}

func TestNamers(t *testing.T) {
	m := namer(t)
	if got := fmt.Sprint(m.Namers()); got != "map[10.244.1.2:[*.example.com api.example.net]]" {
		t.Errorf("namers are %s", got)
	}
	m.Apply(DeletePolicy(Key{Name: "names"}))
	if got := m.Namers(); len(got) != 0 {
		t.Errorf("without a policy, namers are %v", got)
	}
}

// TestResolutionsCount: each counts until the later of its times, for pods of this node and for the agent, and no longer.
func TestResolutionsCount(t *testing.T) {
	m := namer(t)
	stranger := netip.MustParseAddr("10.244.2.9")
	m.Apply(Resolved([]Resolution{
		told(addr(2), "www.example.com", outside(1), 30), told(addr(2), "www.example.com", outside(1), 20), told(addr(2), "www.example.com", outside(1), 60),
		told(netip.Addr{}, "api.example.net", outside(2), 10), told(stranger, "www.example.com", outside(3), 60),
	}))
	d := m.Take()
	if len(d.Resolutions) != 2 || !d.Resolutions[told(addr(2), "www.example.com", outside(1), 0).untimed()].Equal(resolutionsEpoch.Add(time.Minute)) {
		t.Errorf("handed out is %v", d.Resolutions)
	}
	if next := m.NextElapsed(); !next.Equal(resolutionsEpoch.Add(10 * time.Second)) {
		t.Errorf("the next to expire does so at %v", next)
	}
	m.Apply(Elapsed(resolutionsEpoch.Add(10 * time.Second)))
	d = m.Take()
	if _, elapsed := d.Elapsed[told(netip.Addr{}, "api.example.net", outside(2), 0).untimed()]; !elapsed || len(d.Resolutions) != 1 || len(m.Resolutions()) != 1 {
		t.Errorf("after 10 s: %v, elapsed %v; left %v", d.Resolutions, d.Elapsed, m.Resolutions())
	}
	if d = m.Take(); !d.Empty() {
		t.Errorf("nothing has changed, but %v", d)
	}
}

func lapsedOf(m *Model) []Resolution {
	_, lapsed := m.KnownNames()
	slices.SortFunc(lapsed, CompareResolutions)
	return lapsed
}

// TestLapsedResolutions: what is over is remembered until somebody is told so again or the pod loses its address; a bounded
// number, those that ended last.
func TestLapsedResolutions(t *testing.T) {
	m := namer(t)
	www, api := told(addr(2), "www.example.com", outside(1), 10), told(netip.Addr{}, "api.example.net", outside(2), 60)
	m.Apply(Resolved([]Resolution{www, api}), Elapsed(resolutionsEpoch.Add(10*time.Second)))
	if got := lapsedOf(m); len(got) != 1 || got[0] != www {
		t.Errorf("lapsed are %v", got)
	}
	m.Apply(Resolved([]Resolution{told(addr(2), "www.example.com", outside(1), 20)}))
	if got := lapsedOf(m); len(got) != 0 {
		t.Errorf("told again, and lapsed are %v", got)
	}
	m.Apply(Elapsed(resolutionsEpoch.Add(time.Hour)))
	if got := lapsedOf(m); len(got) != 2 {
		t.Errorf("after an hour lapsed are %v", got)
	}
	m.Take()
	m.Apply(DeletePod(Key{Namespace: "shop", Name: "web"}))
	m.Take()
	if got := lapsedOf(m); len(got) != 1 || got[0] != api {
		t.Errorf("without the pod lapsed are %v", got)
	}
	if counting, lapsed := m.ResolutionsTo(addr(2), outside(2)); len(counting) != 0 || len(lapsed) != 1 || lapsed[0] != api {
		t.Errorf("to the address of a name that has lapsed: %v, %v", counting, lapsed)
	}
	for i := range maxLapsed {
		m.resolutions.lapse(told(outside(i), "www.example.com", outside(i), 0).untimed(), resolutionsEpoch.Add(time.Duration(i)*time.Second))
	}
	if got := lapsedOf(m); len(got) != maxLapsed+1-maxLapsed/10 || slices.ContainsFunc(got, func(r Resolution) bool { return r.Addr == outside(0) && r.Pod == outside(0) }) {
		t.Errorf("%d are remembered", len(got))
	}
}

// TestResolutionsTo: of an address is found what a pod and the agent were told of it, and nothing is left of what is gone.
func TestResolutionsTo(t *testing.T) {
	m := namer(t)
	www, api, other := told(addr(2), "www.example.com", outside(1), 10), told(netip.Addr{}, "api.example.net", outside(1), 60), told(addr(3), "db.example.com", outside(1), 60)
	m.Apply(Resolved([]Resolution{www, api, other, told(addr(2), "www.example.com", outside(2), 60)}))
	expect := func(when string, counting, lapsed []Resolution) {
		t.Helper()
		c, l := m.ResolutionsTo(addr(2), outside(1))
		if !slices.Equal(c, counting) || !slices.Equal(l, lapsed) {
			t.Errorf("%s: %v, and lapsed %v", when, c, l)
		}
	}
	expect("told", []Resolution{api, www}, nil)
	m.Apply(Elapsed(resolutionsEpoch.Add(10 * time.Second)))
	expect("after its time", []Resolution{api}, []Resolution{www})
	www = told(addr(2), "www.example.com", outside(1), 90)
	m.Apply(Resolved([]Resolution{www}))
	expect("told again", []Resolution{api, www}, nil)
	m.Take()
	m.Apply(DeletePod(Key{Namespace: "shop", Name: "web"}))
	m.Take()
	expect("without the pod", []Resolution{api}, nil)
	m.resolutions.evict([]Resolution{api.untimed()}, 0)
	expect("evicted", nil, nil)
	for of := range m.resolutions.byAddr {
		if of.pod == addr(2) || of.pod == (netip.Addr{}) {
			t.Errorf("%v is left in the index", of)
		}
	}
}

// TestResolutionsEndWithTheAddress: whoever gets an address next has not been told what the pod before was told.
func TestResolutionsEndWithTheAddress(t *testing.T) {
	for name, change := range map[string]Change{
		"the pod is gone":             DeletePod(Key{Namespace: "shop", Name: "web"}),
		"the pod has another address": SetPod(&Pod{Key: Key{Namespace: "shop", Name: "web"}, Node: "node-1", Labels: LabelsOf(map[string]string{"app": "web"}), IPs: []netip.Addr{addr(7)}}),
		"the pod is another node's":   SetPod(&Pod{Key: Key{Namespace: "shop", Name: "web"}, Node: "node-2", Labels: LabelsOf(map[string]string{"app": "web"}), IPs: []netip.Addr{addr(2)}}),
	} {
		m := namer(t)
		m.Apply(Resolved([]Resolution{told(addr(2), "www.example.com", outside(1), 60), told(netip.Addr{}, "api.example.net", outside(2), 60)}))
		m.Take()
		m.Apply(change)
		d := m.Take()
		if until, changed := d.Resolutions[told(addr(2), "www.example.com", outside(1), 0).untimed()]; !changed || !until.IsZero() || len(d.Elapsed) != 0 {
			t.Errorf("%s: handed out is %v, elapsed %v", name, d.Resolutions, d.Elapsed)
		}
		if len(m.Resolutions()) != 1 {
			t.Errorf("%s: left are %v", name, m.Resolutions())
		}
	}
}

// TestResolutionsAreBounded: however many there are, a bounded number is kept, of a pod and of all, and those that expire
// last; a pod takes nobody else's place.
func TestResolutionsAreBounded(t *testing.T) {
	m := namer(t)
	m.Apply(Resolved([]Resolution{told(addr(3), "db.example.com", outside(0), 1)}))
	for i := range maxOfPod + 1 {
		m.resolutions.resolved(told(addr(2), "www.example.com", outside(i), 10+i))
	}
	if n := len(m.Resolutions()); n != 1+maxOfPod-maxOfPod/10 || m.Evicted() != maxOfPod/10+1 {
		t.Errorf("%d are kept, %d evicted", n, m.Evicted())
	}
	if next := m.NextElapsed(); !next.Equal(resolutionsEpoch.Add(time.Second)) {
		t.Errorf("what another pod was told is gone: the next expires at %v", next)
	}
	m = namer(t)
	m.resolutions.resolved(told(addr(3), "db.example.com", outside(0), 1))
	for pod := range 8 {
		for i := range maxOfPod {
			m.resolutions.resolved(told(outside(1_000_000+pod), "www.example.com", outside(i), 10+i))
		}
	}
	m.Apply(Resolved(nil))
	if n := len(m.Resolutions()); n > maxResolutions || n < maxResolutions-maxResolutions/50 {
		t.Errorf("%d are kept of all", n)
	}
	if next := m.NextElapsed(); !next.Equal(resolutionsEpoch.Add(time.Second)) {
		t.Errorf("what a pod with little was told is gone: the next expires at %v", next)
	}
}

// TestResolutionsOfTheNext: before anything was handed out as well, the pod that gets an address next has not been told what
// the one before was, and keeps what it was told itself; and no more does it of a pod of the same name.
func TestResolutionsOfTheNext(t *testing.T) {
	web := func(name, uid string) Change {
		return SetPod(&Pod{Key: Key{Namespace: "shop", Name: name}, UID: types.UID(uid), Node: "node-1", Labels: LabelsOf(map[string]string{"app": "web"}), IPs: []netip.Addr{addr(2)}})
	}
	for _, next := range []string{"other", "web"} {
		m := NewModel("node-1")
		m.Apply(web("web", "a"), Resolved([]Resolution{told(addr(2), "www.example.com", outside(1), 60)}), DeletePod(Key{Namespace: "shop", Name: "web"}))
		m.Apply(web(next, "b"), Resolved([]Resolution{told(addr(2), "www.example.com", outside(2), 60)}))
		m.Take()
		if got := fmt.Sprint(m.Resolutions()); got != "[www.example.com is 203.0.0.2 for 10.244.1.2]" {
			t.Errorf("%s has %s", next, got)
		}
	}
}

// TestResolutionsOfASharedAddress: what a pod was told at an address of its own does not count at one that others may have.
func TestResolutionsOfASharedAddress(t *testing.T) {
	m := namer(t)
	shared := netip.MustParseAddr("fd00:10:244:1::2")
	for i, name := range []string{"web", "db"} {
		m.Apply(SetPod(&Pod{Key: Key{Namespace: "shop", Name: name}, Node: "node-1", Labels: LabelsOf(map[string]string{"app": name}), IPs: []netip.Addr{addr(i + 2), shared}}))
	}
	m.Apply(Resolved([]Resolution{told(addr(2), "www.example.com", netip.MustParseAddr("2001:db8::1"), 60)}))
	if got := m.Resolutions(); len(got) != 0 {
		t.Errorf("it counts: %v", got)
	}
}

// TestResolutionsOfBothFamilies: a pod that asks from one of its addresses reaches what it was told from that of the family.
func TestResolutionsOfBothFamilies(t *testing.T) {
	m := namer(t)
	six := netip.MustParseAddr("fd00:10:244:1::2")
	m.Apply(SetPod(&Pod{Key: Key{Namespace: "shop", Name: "web"}, Node: "node-1", Labels: LabelsOf(map[string]string{"app": "web"}), IPs: []netip.Addr{addr(2), six}}))
	to := netip.MustParseAddr("2001:db8::1")
	change := Resolved([]Resolution{told(addr(2), "www.example.com", to, 60), told(six, "www.example.com", outside(1), 60)})
	if m.Knows(change) {
		t.Error("it knows what it was not told")
	}
	m.Apply(change)
	if got := fmt.Sprint(m.Resolutions()); got != "[www.example.com is 203.0.0.1 for 10.244.1.2 www.example.com is 2001:db8::1 for fd00:10:244:1::2]" {
		t.Errorf("resolutions are %s", got)
	}
	if !m.Knows(change) {
		t.Error("it does not know what it was told")
	}
}
