package policy_test

import (
	"math/rand"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// withoutRules is a policy that isolates the same pods for the same directions.
func withoutRules(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	parsed, _ := policy.Parse(np)
	np = np.DeepCopy()
	np.Spec.Ingress, np.Spec.Egress = nil, nil
	np.Spec.PolicyTypes = nil
	for d, t := range map[policy.Direction]networkingv1.PolicyType{policy.Ingress: networkingv1.PolicyTypeIngress, policy.Egress: networkingv1.PolicyTypeEgress} {
		if parsed.Isolates[d] {
			np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, t)
		}
	}
	return np
}

// TestClosedModelEqualsCompile goes through random histories in which policies are
// closed, and some opened again: the deltas add up to what Compile says of the same
// policies without rules. One that changes is open again, one that is repeated is
// not.
func TestClosedModelEqualsCompile(t *testing.T) {
	closings, repetitions := 0, 0
	for seed := range random.Seeds(*seed, *histories/3) {
		r := rand.New(rand.NewSource(seed))
		history := random.History(r, 60)
		m := policy.NewModel(random.Node)
		have := m.Intent()
		closed := map[policy.Key]policy.Policy{} // as it was
		for done := range history {
			event := history[done]
			m.Apply(event.Change())
			if np, is := event.Object.(*networkingv1.NetworkPolicy); is {
				parsed, _ := policy.Parse(np)
				if event.Delete || !reflect.DeepEqual(parsed, closed[parsed.Key]) {
					delete(closed, parsed.Key)
				}
			}
			if done%6 != 5 {
				continue
			}
			snapshot := random.Snapshot(history[:done+1])
			there := map[policy.Key]policy.Policy{}
			for _, np := range snapshot.Policies {
				parsed, _ := policy.Parse(np)
				there[parsed.Key] = parsed
			}
			for key, now := range there {
				switch _, is := closed[key]; {
				case !is && r.Intn(4) == 0:
					closings++
					m.Quarantine(now, "test")
					closed[key] = now
				case !is:
					stale := now
					stale.Isolates[0] = !stale.Isolates[0]
					m.Quarantine(stale, "it has changed since")
				case r.Intn(4) == 0:
					repetitions++
					m.Apply(policy.SetPolicy(now))
				case r.Intn(8) == 0:
					m.Release(key)
					delete(closed, key)
				}
			}
			open := snapshot
			snapshot.Policies = nil
			for _, np := range open.Policies {
				parsed, _ := policy.Parse(np)
				_, is := closed[parsed.Key]
				if is {
					np = withoutRules(np)
				}
				snapshot.Policies = append(snapshot.Policies, np)
				if got := len(m.Problems(parsed.Key)) > 0; got != is {
					t.Fatalf("seed %d: problems with %s: %v, closed: %v", seed, parsed.Key, got, is)
				}
			}
			if m.Quarantined() != len(closed) {
				t.Fatalf("seed %d: %d are closed, want %d", seed, m.Quarantined(), len(closed))
			}
			drained(t, m, &have)
			want, _ := policy.Compile(snapshot, random.Node)
			if diff := differ(want, have); diff != "" || t.Failed() {
				t.Fatalf("seed %d, after %d events: deltas differ from Compile (-want +have):\n%s", seed, done+1, diff)
			}
			keys := map[policy.Key]struct{}{}
			for key := range closed {
				keys[key] = struct{}{}
			}
			whole, _ := policy.Compile(open, random.Node)
			if diff := differ(want, whole.Quarantine(keys)); diff != "" {
				t.Fatalf("seed %d, after %d events: Intent.Close differs from Compile (-want +have):\n%s", seed, done+1, diff)
			}
		}
	}
	if closings < *histories || repetitions < *histories/4 {
		t.Errorf("%d closings and %d repetitions are too few to tell", closings, repetitions)
	}
}

// TestCloseKeepsTheRest: of what is no policy's nothing is lost, nor will be of what an
// Intent has one day.
func TestCloseKeepsTheRest(t *testing.T) {
	var in policy.Intent
	for _, field := range reflect.VisibleFields(reflect.TypeOf(in)) {
		value := reflect.ValueOf(&in).Elem().FieldByIndex(field.Index)
		switch value.Kind() {
		case reflect.Slice:
			value.Set(reflect.MakeSlice(value.Type(), 1, 1))
		case reflect.Map:
			value.Set(reflect.MakeMap(value.Type()))
		default:
			t.Fatalf("%s is a %s: have this test make one", field.Name, value.Kind())
		}
	}
	in.Subjects[policy.Key{Name: "pod"}] = policy.Subject{}
	if diff := differ(in, in.Quarantine(nil)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// TestClosedThroughRecreation: a policy whose namespace goes and comes, and that is the
// same each time it is seen, stays closed; opened, it is as if it had never been. Once
// it was seen to be gone, it is open.
func TestClosedThroughRecreation(t *testing.T) {
	space := func(label string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": label}}}
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.PodSpec{NodeName: random.Node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.244.1.7"}}},
	}
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "team"}}
	np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
		{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}},
	}}}
	parsed, _ := policy.Parse(np)
	m := policy.NewModel(random.Node)
	have := m.Intent()
	is := func(when string, closed bool, spaces ...*corev1.Namespace) {
		t.Helper()
		s := policy.Snapshot{Namespaces: spaces, Pods: []*corev1.Pod{pod}, Policies: []*networkingv1.NetworkPolicy{np}}
		if closed {
			s.Policies = []*networkingv1.NetworkPolicy{withoutRules(np)}
		}
		drained(t, m, &have)
		want, _ := policy.Compile(s, random.Node)
		if diff := differ(want, have); diff != "" || (len(m.Problems(parsed.Key)) > 0) != closed {
			t.Fatalf("%s: problems %v, (-want +have)\n%s", when, m.Problems(parsed.Key), diff)
		}
	}
	here, _ := policy.PodOf(pod)
	m.Apply(policy.SetNamespace(policy.NamespaceOf(space("a"))))
	m.Apply(policy.SetPod(here))
	m.Apply(policy.SetPolicy(parsed))
	m.Quarantine(parsed, "test")
	is("closed", true, space("a"))
	m.Apply(policy.DeleteNamespace("shop"))
	m.Apply(policy.SetPolicy(parsed))
	is("its namespace is gone", true)
	m.Apply(policy.SetNamespace(policy.NamespaceOf(space("b"))))
	m.Apply(policy.SetPolicy(parsed))
	is("its namespace has come again", true, space("b"))
	m.Release(parsed.Key)
	is("opened", false, space("b"))
	m.Quarantine(parsed, "test")
	m.Apply(policy.DeletePolicy(parsed.Key))
	m.Apply(policy.SetPolicy(parsed))
	is("made anew", false, space("b"))
}
