package policy_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestUnread: a pod whose labels are not kept is meant by no selector that any label could
// make mean it or not, and isolated where it runs, but for what those policies allow that
// select all pods. It does not matter whether it was kept before, or is again.
func TestUnread(t *testing.T) {
	one := policy.Selector{Namespace: "shop", Pods: "app=web"}
	unproven := []policy.Selector{
		one, {Namespace: "shop", Pods: "app!=web"}, {Namespace: "shop", Pods: "!app"}, {Namespace: "shop", Pods: "app notin (x)"},
		{Pods: "app!=web"}, {Pods: "!other"}, {Namespaces: "team=a", Pods: "app"},
	}
	proven := []policy.Selector{{Namespace: "shop"}, {}, {Namespaces: "team=a"}}
	key := func(name string) policy.Key { return policy.Key{Namespace: "shop", Name: name} }
	pod := func(name, node string, last byte) *policy.Pod {
		return &policy.Pod{
			Key: key(name), Node: node, Labels: policy.LabelsOf(map[string]string{"app": "web"}),
			IPs:   []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, last})},
			Ports: []policy.ContainerPort{{Name: "http", Protocol: policy.TCP, Number: 80}},
		}
	}
	here, there, reader := pod("here", random.Node, 1), pod("there", "elsewhere", 2), pod("reader", random.Node, 3)
	reader.Labels = policy.LabelsOf(map[string]string{"role": "reader"})
	http := policy.NamedPort{Protocol: policy.TCP, Name: "http", Scope: policy.Cluster}
	cluster := func() *policy.Model {
		m := policy.NewModel(random.Node)
		m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop", Labels: map[string]string{"team": "a"}}))
		m.Apply(policy.SetPod(reader))
		m.Apply(policy.SetPolicy(policy.Policy{
			Key: key("reads"), Subject: &policy.Selector{Namespace: "shop", Pods: "role=reader"}, Isolates: [2]bool{true, false},
			Rules: [2][]policy.Rule{{{Peers: slices.Concat(unproven, proven), AnyPort: true}, {AnyPeer: true, NamedPorts: []policy.NamedPort{http}}}},
		}))
		return m
	}
	isolating := func(m *policy.Model) {
		for _, subject := range []policy.Selector{{Namespace: "shop"}, one, {Namespace: "shop", Pods: "app!=web"}, {Namespace: "shop", Pods: "!app"}} {
			m.Apply(policy.SetPolicy(policy.Policy{Key: key("policy " + subject.Pods), Subject: &subject, Isolates: [2]bool{true, false}}))
		}
	}

	m := cluster()
	m.Apply(policy.SetPod(here.Unkept()))
	m.Apply(policy.SetPod(there.Unkept()))
	in := m.Intent()
	for _, s := range unproven {
		for _, p := range []*policy.Pod{here, there} {
			if _, is := in.Peers[s][p.IPs[0]]; is {
				t.Errorf("%s means %s", s, p.Name)
			}
		}
	}
	for _, s := range proven {
		if len(in.Peers[s]) != 3 {
			t.Errorf("%s, which means all pods, means %v", s, in.Peers[s])
		}
	}
	if len(in.NamedPorts[http]) != 1 {
		t.Errorf("%s is of %v", http, in.NamedPorts[http])
	}
	if s := in.Subjects[here.Key]; s.Isolated != [2]bool{true, true} || len(s.Isolating[0])+len(s.Isolating[1]) != 0 {
		t.Errorf("with no policy for it, the pod is %+v", s)
	}
	for _, local := range policy.NewLocals(in).Addrs() {
		if unread := local.Addr == here.IPs[0]; unread != (local.Closed == [2]bool{true, true}) {
			t.Errorf("by its link, %s is closed %v", local.Addr, local.Closed)
		}
	}
	if m.Counts().Isolated != 2 {
		t.Errorf("counted are %+v", m.Counts())
	}
	isolating(m)
	if s := m.Intent().Subjects[here.Key]; s.Isolated != [2]bool{true, true} || !slices.Equal(s.Isolating[0], []policy.Key{key("policy ")}) {
		t.Errorf("the pod is %+v", s)
	}

	for name, history := range map[string][]*policy.Pod{
		"kept":                {here, there},
		"kept again":          {here.Unkept(), there.Unkept(), here, there},
		"not any more":        {here, there, here.Unkept(), there.Unkept()},
		"not, kept, and not":  {here.Unkept(), there.Unkept(), here, there, here.Unkept(), there.Unkept()},
		"one of two that are": {here, there, there.Unkept()},
	} {
		stepwise, fresh := cluster(), cluster()
		isolating(stepwise)
		isolating(fresh)
		final := map[policy.Key]*policy.Pod{}
		for _, p := range history {
			stepwise.Apply(policy.SetPod(p))
			stepwise.Take()
			final[p.Key] = p
		}
		for _, p := range final {
			fresh.Apply(policy.SetPod(p))
		}
		if have, want := stepwise.Intent(), fresh.Intent(); !reflect.DeepEqual(have, want) {
			t.Errorf("%s: %+v, want %+v", name, have, want)
		}
	}
}
