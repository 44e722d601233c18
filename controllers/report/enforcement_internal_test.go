package report

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
)

// asking is a policy that asks for metrics of its own.
func asking(namespace, name string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{CountAnnotation: "true"}}}
}

// measured is an Enforcement with a clock of its own, which has reported a first commit.
type measured struct {
	*Enforcement
	registry *prometheus.Registry
	clock    time.Time
}

func newMeasured() *measured {
	m := &measured{registry: prometheus.NewRegistry(), clock: time.Unix(1_000_000, 0)}
	m.Enforcement = newEnforcement(newMetrics(m.registry))
	m.now = func() time.Time { return m.clock }
	m.committed(enforcer.Committed{Fed: 1, Intent: &policy.Intent{}})
	return m
}

// observed are the number and the sum of what was observed, from the change and from the watch.
func (m *measured) observed(t *testing.T) (n uint64, change, watch float64) {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "podfence_policy_enforcement_seconds" {
			continue
		}
		for _, metric := range family.GetMetric() {
			h := metric.GetHistogram()
			if n = h.GetSampleCount(); metric.GetLabel()[0].GetValue() == "change" {
				change = h.GetSampleSum()
			} else {
				watch = h.GetSampleSum()
			}
		}
	}
	return n, change, watch
}

func (m *measured) expect(t *testing.T, what string, n uint64, change, watch float64) {
	t.Helper()
	if haveN, haveChange, haveWatch := m.observed(t); haveN != n || haveChange != change || haveWatch != watch {
		t.Errorf("%s: %d observed, %v s from the change and %v s from the watch; not %d, %v, %v", what, haveN, haveChange, haveWatch, n, change, watch)
	}
}

var shopWeb = policy.Key{Namespace: "shop", Name: "web"}

// changed is the policy, changed so long ago.
func (m *measured) changed(ago time.Duration) *networkingv1.NetworkPolicy {
	np := asking("shop", "web")
	np.CreationTimestamp = metav1.NewTime(m.clock.Add(-time.Hour))
	at := metav1.NewTime(m.clock.Add(-ago))
	later := metav1.NewTime(m.clock.Add(time.Minute))
	np.ManagedFields = []metav1.ManagedFieldsEntry{{Time: &np.CreationTimestamp}, {Time: &at}, {Time: &later, Subresource: "status"}, {}}
	return np
}

func commitOf(fed uint64, keys ...policy.Key) enforcer.Committed {
	c := enforcer.Committed{Fed: fed, Delta: policy.Delta{Policies: map[policy.Key]*policy.Policy{}}}
	for _, key := range keys {
		c.Delta.Policies[key] = &policy.Policy{Key: key}
	}
	return c
}

// TestEnforcementIsMeasured: from the change, and from when the watch told of it, to the first commit that
// has it.
func TestEnforcementIsMeasured(t *testing.T) {
	m := newMeasured()
	np := m.changed(3 * time.Second)
	m.Arrived(shopWeb)
	m.clock = m.clock.Add(time.Second)
	m.Arrived(shopWeb) // again, before it was fed
	m.Fed(np, 7)
	m.clock = m.clock.Add(time.Second)
	m.committed(commitOf(6, shopWeb)) // an earlier change of it
	m.expect(t, "before its commit", 0, 0, 0)
	m.clock = m.clock.Add(time.Second)
	m.committed(commitOf(8, shopWeb))
	m.expect(t, "after its commit", 1, 6, 3)
	m.committed(commitOf(9, shopWeb))
	m.expect(t, "when a pod comes that it selects", 1, 6, 3)

	m.Arrived(shopWeb)
	m.committed(commitOf(11, shopWeb)) // before Fed is called
	m.Fed(m.changed(0), 10)
	m.expect(t, "when the commit was faster than the note", 2, 6, 3)
}

// TestEnforcementOfLargePolicies: what is handed out bit by bit is in force when all of it is.
func TestEnforcementOfLargePolicies(t *testing.T) {
	m := newMeasured()
	m.Arrived(shopWeb)
	m.Fed(m.changed(0), 2)
	part := commitOf(2, shopWeb)
	part.Delta.Unfinished = map[policy.Key]struct{}{shopWeb: {}}
	m.committed(part)
	m.clock = m.clock.Add(2 * time.Second)
	m.expect(t, "after a part", 0, 0, 0)
	m.committed(commitOf(3)) // all of it was handed out before, as it turns out
	m.expect(t, "after all", 1, 2, 2)
}

// TestEnforcementAfterFailures: a table that is built anew has all policies, and counts only for those that
// wait.
func TestEnforcementAfterFailures(t *testing.T) {
	m := newMeasured()
	m.Arrived(shopWeb)
	m.Fed(m.changed(0), 2)
	m.clock = m.clock.Add(4 * time.Second)
	m.committed(enforcer.Committed{Fed: 2, Intent: &policy.Intent{Policies: map[policy.Key]policy.Policy{shopWeb: {}, {Name: "other"}: {}}}})
	m.expect(t, "built anew", 1, 4, 4)
}

// TestEnforcementOfNoNews: what there was at the start, what selects no pod of the node and what is gone do
// not count.
func TestEnforcementOfNoNews(t *testing.T) {
	m := newMeasured()
	m.began = time.Time{}
	m.Arrived(shopWeb)
	m.clock = m.clock.Add(time.Second)
	m.committed(commitOf(1))
	m.Fed(m.changed(time.Hour), 2) // its turn comes after the first commit
	m.committed(commitOf(2, shopWeb))
	m.expect(t, "of the start", 0, 0, 0)

	m.Arrived(shopWeb)
	m.Fed(m.changed(0), 3)
	m.committed(commitOf(3))
	m.clock = m.clock.Add(time.Hour)
	m.committed(commitOf(4, shopWeb))
	m.expect(t, "that selects a pod only later", 0, 0, 0)

	m.Arrived(shopWeb)
	m.Fed(m.changed(0), 5)
	m.Gone(shopWeb)
	m.committed(commitOf(5, shopWeb))
	m.expect(t, "that is gone", 0, 0, 0)
	if len(m.fed)+len(m.arrived) > 0 {
		t.Errorf("%v and %v are left", m.fed, m.arrived)
	}
}

// TestChangeTime: what caches keep of the managed fields says the same as all of them.
func TestChangeTime(t *testing.T) {
	m := newMeasured()
	np := m.changed(3 * time.Second)
	kept := asking("shop", "web")
	kept.CreationTimestamp, kept.ManagedFields = np.CreationTimestamp, ChangeTime(np)
	if !ChangedAt(kept).Equal(ChangedAt(np)) || !ChangedAt(np).Equal(m.clock.Add(-3*time.Second)) || len(kept.ManagedFields) != 1 {
		t.Errorf("it was changed at %v, by what is kept at %v", ChangedAt(np), ChangedAt(kept))
	}
	np.ManagedFields = np.ManagedFields[:1]
	if kept := ChangeTime(np); kept != nil {
		t.Errorf("of one that was never changed, %v is kept", kept)
	}
}

// TestEnforcementWithoutADate: of a policy of which nobody says when it was changed, only the time from when it
// has arrived is measured.
func TestEnforcementWithoutADate(t *testing.T) {
	m := newMeasured()
	m.Arrived(shopWeb)
	m.clock = m.clock.Add(2 * time.Second)
	m.FedUndated(shopWeb, 7)
	m.clock = m.clock.Add(time.Second)
	m.committed(commitOf(7, shopWeb))
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "podfence_policy_enforcement_seconds" {
			continue
		}
		for _, metric := range family.GetMetric() {
			of, h := metric.GetLabel()[0].GetValue(), metric.GetHistogram()
			if of == "change" && h.GetSampleCount() != 0 || of == "watch" && (h.GetSampleCount() != 1 || h.GetSampleSum() != 3) {
				t.Errorf("from the %s: %d observed, %v s", of, h.GetSampleCount(), h.GetSampleSum())
			}
		}
	}
}
