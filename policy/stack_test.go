package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
)

// denying is a ClusterNetworkPolicy about all pods that denies, or accepts, the pods of some label.
func denying(name string, action policy.Action, pods string) policy.Policy {
	p := policy.Policy{Key: policy.Key{Name: name}, Tier: policy.AdminTier, Subject: &policy.Selector{}}
	p.Rules[policy.Ingress] = []policy.Rule{{Action: action, Peers: []policy.Selector{{Pods: pods}}, AnyPort: true}}
	return p.Divided()
}

// TestClusterPolicyComesAtOnce: a ClusterNetworkPolicy that names thousands of pods comes into force for
// all of the node's pods at once. Until then those that are there go on as they were, and those that
// come are closed, if it denies.
func TestClusterPolicyComesAtOnce(t *testing.T) {
	for _, action := range []policy.Action{policy.Deny, policy.Pass, policy.Accept} {
		m := policy.NewModel("here")
		m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
		pod := func(name, node string, i int) policy.Change {
			return policy.SetPod(&policy.Pod{
				Key: policy.Key{Namespace: "shop", Name: name}, Node: node, Labels: policy.LabelsOf(map[string]string{"on": node}),
				IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})},
			})
		}
		for i := range 3000 {
			m.Apply(pod(fmt.Sprint("there-", i), "there", i))
		}
		old := []string{"old-0", "old-1"}
		for i, name := range old {
			m.Apply(pod(name, "here", 3000+i))
		}
		have := m.Intent()
		apply(t, &have, m.Take())

		m.Apply(policy.SetPolicy(denying("deny", action, "on=there")))
		portions, fresh := 0, []string{}
		for ; m.Pending(); portions++ {
			if portions%3 == 1 {
				name := fmt.Sprint("new-", portions)
				m.Apply(pod(name, "here", 4000+portions))
				fresh = append(fresh, name)
			}
			apply(t, &have, m.Take())
			in := func(name string) bool {
				s := have.Subjects[policy.Key{Namespace: "shop", Name: name}]
				return len(s.Admin[policy.Ingress]) > 0
			}
			_, there := have.Policies[policy.Key{Name: "deny"}]
			for _, name := range slices.Concat(old, fresh) {
				if in(name) != there {
					t.Fatalf("%s, portion %d: the policy is in force: %t, and at pod %s: %t", action, portions, there, name, in(name))
				}
			}
			for _, name := range fresh {
				s := have.Subjects[policy.Key{Namespace: "shop", Name: name}]
				if closed := s.Isolated[policy.Ingress]; closed != (!there && action != policy.Accept) {
					t.Fatalf("%s, portion %d: pod %s, which is new, is closed: %t", action, portions, name, closed)
				}
			}
		}
		if portions < 5 || len(fresh) < 2 {
			t.Errorf("%s: only %d portions, %d new pods", action, portions, len(fresh))
		}
	}
}

// TestClusterPolicyKeepsItsPods: while a ClusterNetworkPolicy that has changed waits, what it was holds,
// for the pods that it was about.
func TestClusterPolicyKeepsItsPods(t *testing.T) {
	m := policy.NewModel("here")
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "a", Labels: map[string]string{"name": "a"}}), policy.SetNamespace(policy.Namespace{Name: "b", Labels: map[string]string{"name": "b"}}))
	for i := range 3000 {
		m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "a", Name: fmt.Sprint("there-", i)}, Node: "there", IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}}))
	}
	here := []policy.Key{{Namespace: "a", Name: "here"}, {Namespace: "b", Name: "here"}}
	for i, key := range here {
		m.Apply(policy.SetPod(&policy.Pod{Key: key, Node: "here", IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})}}))
	}
	was := denying("deny", policy.Deny, "app=nobody")
	was.Subject = &policy.Selector{Namespaces: "name=a"}
	m.Apply(policy.SetPolicy(was))
	have := m.Intent()
	now := denying("deny", policy.Accept, "")
	now.Subject = &policy.Selector{Namespaces: "name=b"}
	m.Apply(policy.SetPolicy(now))
	portions := 0
	for ; m.Pending(); portions++ {
		apply(t, &have, m.Take())
		p := have.Policies[was.Key]
		at := 0
		if p.Rules[policy.Ingress][0].Action == policy.Accept {
			at = 1
		}
		for i, key := range here {
			s := have.Subjects[key]
			if about := len(s.Admin[policy.Ingress]) > 0; about != (i == at) {
				t.Fatalf("portion %d: the policy with %v is about %s: %t", portions, p.Rules[policy.Ingress][0].Action, key, about)
			}
		}
	}
	if portions < 5 {
		t.Errorf("only %d portions", portions)
	}
}

// TestUndecidedIsClosed: a pod of which nobody can tell whether a policy denies to it, because its
// namespace is not known or its labels were not kept, is closed.
func TestUndecidedIsClosed(t *testing.T) {
	for _, action := range []policy.Action{policy.Deny, policy.Pass, policy.Accept} {
		m := policy.NewModel("here")
		m.Apply(policy.SetPolicy(denying("deny", action, "app=a")))
		key := policy.Key{Namespace: "shop", Name: "web"}
		pod := &policy.Pod{Key: key, Node: "here", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
		m.Apply(policy.SetPod(pod))
		closed := func() (is, stacked bool) {
			s := m.Intent().Subjects[key]
			return s.Isolated[policy.Ingress], len(s.Admin[policy.Ingress]) > 0
		}
		if is, stacked := closed(); is != (action != policy.Accept) || stacked {
			t.Errorf("%s: closed %t, stacked %t, while the namespace is not known", action, is, stacked)
		}
		m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
		if is, stacked := closed(); is || !stacked {
			t.Errorf("%s: closed %t, stacked %t, once the namespace is known", action, is, stacked)
		}
		m.Apply(policy.SetPod(pod.Unkept()))
		if is, stacked := closed(); !is || stacked {
			t.Errorf("%s: closed %t, stacked %t, without labels", action, is, stacked)
		}
		m.Apply(policy.SetPod(pod), policy.DeleteNamespace("shop"))
		if is, stacked := closed(); is != (action != policy.Accept) || stacked {
			t.Errorf("%s: closed %t, stacked %t, once the namespace is gone", action, is, stacked)
		}
	}
}
