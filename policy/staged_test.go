package policy_test

import (
	"fmt"
	"math/rand"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestStagedModelEqualsCompile: a model with the staged policies in force, which was made at a random time of a
// random history and then fed all that came, ends up where CompileStaged says. It needs not be made anew when the
// last staged policy goes.
func TestStagedModelEqualsCompile(t *testing.T) {
	rehearsed := 0
	for seed := range random.Seeds(*seed, *histories) {
		r := rand.New(rand.NewSource(seed))
		history := random.History(r, 60)
		made := r.Intn(len(history))
		m := policy.NewModel(random.Node)
		var staged *policy.Model
		var have policy.Intent
		for done, event := range history {
			m.Apply(event.Change())
			if staged != nil {
				staged.Apply(event.Change())
			}
			if done == made {
				staged = m.NewStaged()
				have = staged.Intent()
			}
			if staged == nil || r.Intn(4) > 0 && done+1 < len(history) {
				continue
			}
			drained(t, staged, &have)
			want, _ := policy.CompileStaged(random.Snapshot(history[:done+1]), random.Node)
			if diff := differ(want, have); diff != "" || t.Failed() {
				t.Fatalf("seed %d, made after %d events, after %d events (-want +have):\n%s", seed, made, done, diff)
			}
			for _, s := range have.Subjects {
				if s.Fenced(policy.Ingress) || s.Fenced(policy.Egress) {
					rehearsed++
				}
			}
			if wrong := policy.Recount(staged); len(wrong) > 0 {
				t.Fatalf("seed %d, after %d events: %v", seed, done, wrong)
			}
		}
	}
	if rehearsed == 0 {
		t.Error("no staged policy was about a pod")
	}
}

// TestStagedIsNotInForce: what is enforced is the same with staged policies as without them.
func TestStagedIsNotInForce(t *testing.T) {
	staged := 0
	for seed := range random.Seeds(*seed, *histories) {
		s := random.Snapshot(random.History(rand.New(rand.NewSource(seed)), 60))
		want := s
		want.Policies, want.ClusterPolicies = nil, nil
		stages := map[string]bool{}
		for _, ns := range s.Namespaces {
			stages[ns.Name], _ = policy.StagedBy(ns.Annotations)
		}
		for _, np := range s.Policies {
			if is, _ := policy.StagedBy(np.Annotations); !is && !stages[np.Namespace] {
				want.Policies = append(want.Policies, np)
			}
		}
		for _, cnp := range s.ClusterPolicies {
			if is, _ := policy.StagedBy(cnp.Annotations); !is {
				want.ClusterPolicies = append(want.ClusterPolicies, cnp)
			}
		}
		staged += len(s.Policies) + len(s.ClusterPolicies) - len(want.Policies) - len(want.ClusterPolicies)
		with, _ := policy.Compile(s, random.Node)
		without, _ := policy.Compile(want, random.Node)
		if diff := differ(without, with); diff != "" {
			t.Fatalf("seed %d (-without +with):\n%s", seed, diff)
		}
	}
	if staged == 0 {
		t.Error("no policy was staged")
	}
}

// TestStagedInForce: the pods that a staged policy is about have in the staged model what they would have with all
// policies in force, and others have none.
func TestStagedInForce(t *testing.T) {
	for seed := range random.Seeds(*seed, *histories) {
		s := random.Snapshot(random.History(rand.New(rand.NewSource(seed)), 60))
		now, _ := policy.Compile(s, random.Node)
		staged, _ := policy.CompileStaged(s, random.Node)
		enforced, _ := policy.Compile(random.Enforced(s), random.Node)
		for key, want := range enforced.Subjects {
			have, is := staged.Subjects[key], now.Subjects[key]
			if diff := differ(have, want); diff != "" && (differ(have, policy.Subject{Key: key, IPs: have.IPs}) != "" || differ(want, is) != "") {
				t.Fatalf("seed %d, %s: it has\n%+v now, would have\n%+v with all in force, and has\n%+v in the staged model", seed, key, is, want, have)
			}
		}
	}
}

// TestEnforcementAnnotation: one value stages a policy, and any other is a problem and leaves it in force.
func TestEnforcementAnnotation(t *testing.T) {
	for value, staged := range map[string]bool{"staged": true, "Staged": false, "": false, "enforced": false, "staged ": false} {
		p, problems := policy.Parse(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web", Annotations: map[string]string{policy.EnforcementAnnotation: value},
		}})
		if p.Staged != staged || (len(problems) == 0) != staged {
			t.Errorf("%q: staged %t, %v", value, p.Staged, problems)
		}
		ns := policy.NamespaceOf(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: map[string]string{policy.EnforcementAnnotation: value}}})
		if ns.Staged != staged {
			t.Errorf("namespace, %q: staged %t", value, ns.Staged)
		}
	}
}

// TestStagedIsTakenWhole: a staged policy that names more than is handed out at once of one in force is never closed
// meanwhile, as that would be told as a denial of what it allows.
func TestStagedIsTakenWhole(t *testing.T) {
	m := policy.NewModel("node")
	changes := []policy.Change{policy.SetNamespace(policy.Namespace{Name: "shop"}), policy.SetNamespace(policy.Namespace{Name: "bank"})}
	for i := range 2000 {
		p := policy.Pod{Key: policy.Key{Namespace: "bank", Name: fmt.Sprint(i)}, Node: "other", IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}}
		changes = append(changes, policy.SetPod(&p))
	}
	web := policy.Pod{Key: policy.Key{Namespace: "shop", Name: "web"}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.2.0.1")}}
	staging := func(name string, peers ...policy.Selector) policy.Change {
		return policy.SetPolicy(policy.Policy{
			Key: policy.Key{Namespace: "shop", Name: name}, Staged: true, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false},
			Rules: [2][]policy.Rule{{{Peers: peers}}},
		})
	}
	m.Apply(append(changes, policy.SetPod(&web), staging("none"))...)
	staged := m.NewStaged()
	staged.Intent()
	staged.Apply(staging("all", policy.Selector{Namespace: "bank"}))
	d := staged.Take()
	if staged.Pending() || len(d.Peers[policy.Selector{Namespace: "bank"}].Add) != 2000 {
		t.Errorf("part of it waits: %d members are handed out", len(d.Peers[policy.Selector{Namespace: "bank"}].Add))
	}
}
