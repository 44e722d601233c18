package policy_test

import (
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestSupposed: what is supposed of a random cluster is, once all addresses have been looked up, what a model has
// that was told of all objects and then of the same changes. Before that it has the same policies and pods of
// the node, and no pod's address is a peer that would be none. The model that was asked stays as it was.
func TestSupposed(t *testing.T) {
	changed, learned := 0, 0
	for i := range int64(*histories) {
		r := rand.New(rand.NewSource(*seed + i))
		s := random.Cluster(r, 12, 8)
		changes := supposedChanges(r, s)
		m, changing := modelOf(s), modelOf(s)
		before := changing.Intent()
		changing.Apply(changes...)
		want := changing.Intent()

		supposed := m.Excerpt().Suppose(changes...)
		first := supposed.Intent()
		for what, diff := range map[string]string{"policies": differ(want.Policies, first.Policies), "pods": differ(want.Subjects, first.Subjects)} {
			if diff != "" {
				t.Fatalf("seed %d: the node's %s (-want +have):\n%s", *seed+i, what, diff)
			}
		}
		for peer, members := range first.Peers {
			if peer.OfNodes {
				continue // a pod that has a node's address as well is known once that is looked up, as of each packet
			}
			for ip := range members {
				if _, is := want.Peers[peer][ip]; !is {
					t.Fatalf("seed %d: %s is a peer of %s, and would not be", *seed+i, ip, peer)
				}
			}
		}
		pods, others := random.Addresses(s)
		supposed.Learn(m.HoldersAt(append(pods, others...)...)...)
		for _, members := range want.Peers { // what agents announce has odd spellings
			supposed.Learn(m.HoldersAt(slices.Collect(maps.Keys(members))...)...)
		}
		all := supposed.Intent()
		for what, diff := range map[string]string{
			"peers": differ(want.Peers, all.Peers), "ports": differ(want.NamedPorts, all.NamedPorts), "orphans": differ(want.Orphans, all.Orphans),
			"doubtful": differ(want.Doubtful, all.Doubtful), "ranges": differ(want.PodCIDRs, all.PodCIDRs), "pods": differ(want.Subjects, all.Subjects),
			"sections": differ(want.Sections, all.Sections),
		} {
			if diff != "" {
				t.Fatalf("seed %d: the %s after all was looked up (-want +have):\n%s", *seed+i, what, diff)
			}
		}
		if diff := differ(before, m.Intent()); diff != "" {
			t.Fatalf("seed %d: the model has changed by being asked:\n%s", *seed+i, diff)
		}
		if differ(before.Policies, want.Policies) != "" && differ(before.Peers, want.Peers) != "" {
			changed++
		}
		if differ(first.Peers, all.Peers) != "" {
			learned++
		}
	}
	if n := *histories; changed < n/2 || learned < n/10 {
		t.Errorf("of %d clusters %d would be another, and of %d more was looked up: the test says little", n, changed, learned)
	}
}

// supposedChanges are changes of policies, Namespaces and the labels and ports of pods.
func supposedChanges(r *rand.Rand, s policy.Snapshot) (changes []policy.Change) {
	other := random.Cluster(r, 12, 8)
	for _, np := range other.Policies {
		changes = append(changes, policy.ChangeOf(np))
	}
	for _, cnp := range other.ClusterPolicies {
		changes = append(changes, policy.ChangeOf(cnp))
	}
	for _, np := range s.Policies[:len(s.Policies)/4] {
		changes = append(changes, policy.Gone(np))
	}
	for i, ns := range s.Namespaces {
		if r.Intn(3) == 0 {
			changes = append(changes, policy.ChangeOf(random.Namespace(r, i)))
		} else if r.Intn(8) == 0 {
			changes = append(changes, policy.Gone(ns))
		}
	}
	for _, pod := range s.Pods {
		if r.Intn(3) == 0 {
			pod = pod.DeepCopy()
			pod.Labels, pod.Spec.Containers = random.Labels(r), nil
			changes = append(changes, policy.ChangeOf(pod))
		}
	}
	return changes
}

// modelOf is a model that was told of a snapshot.
func modelOf(s policy.Snapshot) *policy.Model {
	m := policy.NewModel(s.Node)
	m.RememberPodCIDRs(s.LastPodCIDRs)
	for _, o := range s.Nodes {
		m.Apply(policy.ChangeOf(o))
	}
	for _, o := range s.Namespaces {
		m.Apply(policy.ChangeOf(o))
	}
	for _, o := range s.Pods {
		m.Apply(policy.ChangeOf(o))
	}
	for _, o := range s.Policies {
		m.Apply(policy.ChangeOf(o))
	}
	for _, o := range s.ClusterPolicies {
		m.Apply(policy.ChangeOf(o))
	}
	for _, o := range s.PodAddresses {
		m.Apply(policy.ChangeOf(o))
	}
	for _, a := range s.Attachments {
		m.Apply(policy.SetAttachment(a))
	}
	return m
}

// TestSupposedQuarantine: a policy that is quarantined stays so if the change is not about it, and holds again
// if it is.
func TestSupposedQuarantine(t *testing.T) {
	pod := &policy.Pod{Key: types.NamespacedName{Namespace: "shop", Name: "web"}, Node: "here", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	of := func(name string) policy.Policy {
		return policy.Policy{Key: types.NamespacedName{Namespace: "shop", Name: name}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false}, Rules: [2][]policy.Rule{{{AnyPeer: true, AnyPort: true}}}}
	}
	m := policy.NewModel("here")
	m.Apply(policy.SetPod(pod), policy.SetPolicy(of("bad")))
	m.Quarantine(of("bad"), "the kernel refuses it")
	rules := func(changes ...policy.Change) int {
		return len(m.Excerpt().Suppose(changes...).Intent().Policies[of("bad").Key].Rules[policy.Ingress])
	}
	if n := rules(policy.SetPolicy(of("other"))); n != 0 {
		t.Errorf("a policy that is quarantined has %d rules", n)
	}
	if n := rules(policy.SetPolicy(of("bad"))); n != 0 {
		t.Errorf("one that is quarantined and given once more has %d rules", n)
	}
	changed := of("bad")
	changed.Isolates[policy.Egress] = true
	if n := rules(policy.SetPolicy(changed)); n != 1 {
		t.Errorf("one that has changed has %d rules", n)
	}
}
