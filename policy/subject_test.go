package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/podfence/podfence/policy"
)

// rulers notes by which pods each policy selected the pods that it isolates are under its
// rules: a pod must never be under rules that were written for others.
type rulers map[[2]policy.Key]policy.Selector

// check goes through the subjects after a delta. Want is what the cluster is by now.
func (r rulers) check(t *testing.T, have, want policy.Intent, d policy.Delta) {
	t.Helper()
	for _, s := range have.Subjects {
		_, handedOut := d.Subjects[s.Key]
		for _, direction := range policy.Directions {
			for _, key := range s.Isolating[direction] {
				p := have.Policies[key]
				if p.Subject == nil || len(p.Rules[direction])+len(p.Sections[direction]) == 0 {
					continue
				}
				by, was := r[[2]policy.Key{s.Key, key}]
				selected := slices.Contains(want.Subjects[s.Key].Isolating[direction], key)
				if !selected && (!was || by != *p.Subject) {
					t.Errorf("%s is under the rules of %s, which are for %s and not for it", s.Key, key, p.Subject)
				}
				if selected || handedOut {
					r[[2]policy.Key{s.Key, key}] = *p.Subject
				}
			}
		}
	}
}

// town is a model of so many pods of this node in one namespace, each under so many policies.
func town(pods, policies int) *policy.Model {
	m := policy.NewModel("node")
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "bank"}))
	for i := range pods {
		m.Apply(policy.SetPod(citizen("shop", i)))
	}
	for i := range policies {
		m.Apply(policy.SetPolicy(wide("shop", fmt.Sprintf("policy-%d", i), 1)))
	}
	return m
}

// citizen is the i-th pod of this node.
func citizen(namespace string, i int) *policy.Pod {
	p := onNode(pod(namespace, fmt.Sprint(i), i))
	p.Labels = policy.LabelsOf(map[string]string{"half": fmt.Sprint(i % 2)})
	return p
}

// moved are how many jumps a delta changes.
func moved(d policy.Delta) (n int) {
	for _, s := range d.Subjects {
		if s != nil {
			n += len(s.Isolating[policy.Ingress]) + len(s.Isolating[policy.Egress])
		}
	}
	return n
}

// under are how many of the pods of a half a policy isolates.
func under(in policy.Intent, key policy.Key, half int) (pods int) {
	for _, s := range in.Subjects {
		if i, _ := strconv.Atoi(s.Name); i%2 == half && slices.Contains(s.Isolating[policy.Ingress], key) {
			pods++
		}
	}
	return pods
}

// TestSubjectsInTurns: where a policy comes to select all pods of its namespace, or ceases to,
// each is isolated anew in its turn, and somebody else's pod need not wait.
func TestSubjectsInTurns(t *testing.T) {
	last := policy.Key{Namespace: "shop", Name: "last"}
	for name, change := range map[string]func(*policy.Model){
		"comes": func(m *policy.Model) { m.Apply(policy.SetPolicy(wide("shop", "last", 1))) },
		"goes":  func(m *policy.Model) { m.Apply(policy.DeletePolicy(policy.Key{Namespace: "shop", Name: "policy-7"})) },
		"selects none": func(m *policy.Model) {
			p := wide("shop", "policy-7", 1)
			p.Subject = &policy.Selector{Namespace: "shop", Pods: "no=pod"}
			m.Apply(policy.SetPolicy(p))
		},
	} {
		m := town(100, 17)
		m.Apply(policy.SetPod(citizen("bank", 200)))
		m.Apply(policy.SetPolicy(wide("bank", "own", 1)))
		have := m.Intent()
		change(m)
		deltas := 0
		for first := true; first || m.PendingOf("shop", nil); first = false {
			// Bank's policy comes and goes, too.
			own := policy.Key{Namespace: "bank", Name: "own"}
			if deltas%2 == 0 {
				m.Apply(policy.DeletePolicy(own))
			} else {
				m.Apply(policy.SetPolicy(wide("bank", "own", 1)))
			}
			d := m.Take()
			apply(t, &have, d)
			if n := moved(d); n > 250 {
				t.Errorf("%s: %d jumps at once", name, n)
			}
			if m.PendingOf("bank", nil) || len(have.Subjects[policy.Key{Namespace: "bank", Name: "200"}].Isolating[policy.Ingress]) != deltas%2 {
				t.Errorf("%s: it keeps another namespace's pod waiting", name)
			}
			if deltas++; deltas == 100 {
				t.Fatalf("%s: no end", name)
			}
		}
		drained(t, m, &have)
		if deltas < 10 || under(have, last, 0)+under(have, last, 1) != map[string]int{"comes": 100}[name] {
			t.Errorf("%s: after %d deltas it isolates %d and %d", name, deltas, under(have, last, 0), under(have, last, 1))
		}
	}
}

// TestReselects: a policy that comes to select other pods stays as it was until the pods that it
// selected before have left it. A pod that is new in the meantime is closed to what the policy
// does not say yet; pods that existed before stay open until the policy says it.
func TestReselects(t *testing.T) {
	half := func(i int) *policy.Selector {
		return &policy.Selector{Namespace: "shop", Pods: fmt.Sprintf("half=%d", i)}
	}
	m := town(100, 0)
	key := policy.Key{Namespace: "shop", Name: "moves"}
	before, after := wide("shop", "moves", 1), wide("shop", "moves", 2)
	before.Subject, after.Subject = half(0), half(1)
	m.Apply(policy.SetPolicy(before))
	have := m.Intent()
	m.Apply(policy.SetPolicy(after))
	m.Apply(policy.SetPod(citizen("shop", 301)))
	latecomer := policy.Key{Namespace: "shop", Name: "301"}
	held := 0
	for first := true; first || m.Pending(); first = false {
		apply(t, &have, policy.TakeSome(m, 5))
		old, now := under(have, key, 0), under(have, key, 1)
		subject := have.Subjects[latecomer]
		if old > 0 {
			held++
			if *have.Policies[key].Subject != *before.Subject || now > 0 {
				t.Errorf("it is %v, and isolates %d of its pods of before and %d others", have.Policies[key], old, now)
			}
			if have.Subjects[citizen("shop", 1).Key].Isolated[policy.Ingress] {
				t.Error("a pod is closed before the policy that comes to select it says what it allows")
			}
		}
		if !subject.Isolated[policy.Ingress] || !slices.Equal(subject.IPs, []netip.Addr{citizen("shop", 301).IPs[0]}) {
			t.Errorf("a pod that is new is open: %v", subject)
		}
	}
	if held < 5 || under(have, key, 0) != 0 || under(have, key, 1) != 51 {
		t.Errorf("after %d deltas it isolates %d and %d", held, under(have, key, 0), under(have, key, 1))
	}
}
