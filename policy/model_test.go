package policy_test

import (
	"flag"
	"fmt"
	"math/rand"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

var (
	histories = flag.Int("histories", 100, "random histories that a property test goes through")
	seed      = flag.Int64("seed", 1, "seed of the first of them; the others follow")
)

// differ is how two values differ, with the absent and the empty list the same: an Intent says
// nothing by that difference. cmp takes long, so it is asked only where reflection sees one.
func differ(want, have any) string {
	if reflect.DeepEqual(want, have) {
		return ""
	}
	return cmp.Diff(want, have, exact)
}

var exact = cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b policy.Labels) bool { return a == b })}

// apply applies a delta to an intent, in the plainest way, and fails on one
// that is not exact: what is added must not be there, what is removed must.
func apply(t *testing.T, in *policy.Intent, d policy.Delta) {
	t.Helper()
	if d.PodCIDRs != nil {
		in.PodCIDRs = *d.PodCIDRs
	}
	if d.Cluster != nil {
		in.Cluster = *d.Cluster
	}
	if d.NodeAddrs != nil {
		in.NodeAddrs = *d.NodeAddrs
	}
	replace(in.Nodes, d.Nodes)
	replace(in.Attachments, d.Attachments)
	flip(t, in.Orphans, d.Orphans)
	flip(t, in.Doubtful, d.Doubtful)
	replace(in.Subjects, d.Subjects)
	replace(in.Policies, d.Policies)
	applyMembers(t, in.Peers, d.Peers)
	applyMembers(t, in.NamedPorts, d.NamedPorts)
	for key, until := range d.Resolutions {
		if _, elapsed := d.Elapsed[key]; in.Resolutions[key].Equal(until) && !until.IsZero() || elapsed != (elapsed && until.IsZero()) {
			t.Errorf("%v counts until %v, as before, or its time is over", key, until)
		}
		if delete(in.Resolutions, key); !until.IsZero() {
			in.Resolutions[key] = until
		}
	}
	for key, rules := range d.Sections {
		if _, was := in.Sections[key]; was != (rules == nil) {
			t.Errorf("section %s comes, or goes, though it was there: %v", key, was)
		}
		if delete(in.Sections, key); rules != nil {
			in.Sections[key] = rules
		}
	}
}

// flip puts addresses in, or takes them out.
func flip(t *testing.T, in map[netip.Addr]struct{}, changed map[netip.Addr]bool) {
	t.Helper()
	for ip, is := range changed {
		if _, was := in[ip]; was == is {
			t.Errorf("%v is an orphan, or in doubt: %v, as before", ip, is)
		}
		if delete(in, ip); is {
			in[ip] = struct{}{}
		}
	}
}

// replace puts in, or takes out, what a delta replaces by key.
func replace[K comparable, V any](in map[K]V, by map[K]*V) {
	for key, value := range by {
		if delete(in, key); value != nil {
			in[key] = *value
		}
	}
}

func applyMembers[K, T comparable](t *testing.T, sets map[K]map[T]struct{}, changes map[K]policy.Members[T]) {
	t.Helper()
	for name, change := range changes {
		if change.Gone {
			delete(sets, name)
			continue
		}
		if change.New {
			if _, there := sets[name]; there {
				t.Errorf("%v is new, but was there", name)
			}
			sets[name] = map[T]struct{}{}
		}
		for _, member := range change.Add {
			if _, in := sets[name][member]; in || sets[name] == nil {
				t.Errorf("%v gets %v twice", name, member)
				continue
			}
			sets[name][member] = struct{}{}
		}
		for _, member := range change.Remove {
			if _, in := sets[name][member]; !in {
				t.Errorf("%v loses %v, which it has not", name, member)
			}
			delete(sets[name], member)
		}
	}
}

// TestModelEqualsCompile goes through random histories: the deltas, taken
// after each of random stretches, add up to what Compile says from scratch,
// and to what the model says whole.
func TestModelEqualsCompile(t *testing.T) {
	for seed := range random.Seeds(*seed, *histories) {
		r := rand.New(rand.NewSource(seed))
		history := random.History(r, 60)
		m := policy.NewModel(random.Node)
		have, now := m.Intent(), random.Epoch
		for done := 0; done < len(history); {
			next := min(len(history), done+1+r.Intn(6))
			for _, event := range history[done:next] {
				m.Apply(event.Change())
				if r.Intn(2) == 0 {
					m.Apply(policy.Resolved([]policy.Resolution{random.Resolution(r, 12, now)}))
				}
			}
			if r.Intn(4) == 0 {
				now = now.Add(time.Duration(r.Intn(300)) * time.Second)
				m.Apply(policy.Elapsed(now))
			}
			done = next
			drained(t, m, &have)
			s := random.Snapshot(history[:done])
			s.Resolutions = m.Resolutions()
			want, _ := policy.Compile(s, random.Node)
			if diff := differ(want, have); diff != "" || t.Failed() {
				t.Fatalf("seed %d, after %d events: deltas differ from Compile (-want +have):\n%s", seed, done, diff)
			}
			if counts := m.Counts(); counts.Pods != len(want.Subjects) || counts.Active != len(want.Policies) || counts.Policies < counts.Active || counts.Isolated > counts.Pods {
				t.Fatalf("seed %d, after %d events: %+v, but %d pods and %d policies", seed, done, counts, len(want.Subjects), len(want.Policies))
			}
		}
		if diff := differ(have, m.Intent()); diff != "" {
			t.Fatalf("seed %d: Intent differs from the deltas' sum:\n%s", seed, diff)
		}
		if d := m.Take(); !d.Empty() {
			t.Fatalf("seed %d: nothing changed since Intent, but Take gives %+v", seed, d)
		}
	}
}

// TestHistoryOrder: only where a history ends matters, not the way there.
func TestHistoryOrder(t *testing.T) {
	orders := map[string]func(*rand.Rand, []random.Event) []random.Event{
		"squashed": func(_ *rand.Rand, h []random.Event) []random.Event { return random.Final(h) },
		"reversed": func(_ *rand.Rand, h []random.Event) []random.Event {
			final := random.Final(h)
			slices.Reverse(final)
			return final
		},
		"shuffled": func(r *rand.Rand, h []random.Event) []random.Event {
			final := random.Final(h)
			r.Shuffle(len(final), func(i, j int) { final[i], final[j] = final[j], final[i] })
			return final
		},
		"repeated": func(_ *rand.Rand, h []random.Event) []random.Event { return slices.Concat(h, random.Final(h)) },
		"split": func(_ *rand.Rand, h []random.Event) []random.Event { // through an empty cluster
			var undo []random.Event
			for _, event := range random.Final(h) {
				event.Delete = true
				undo = append(undo, event)
			}
			return slices.Concat(h, undo, h)
		},
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			for seed := range random.Seeds(*seed, *histories/3) {
				r := rand.New(rand.NewSource(seed))
				history := random.History(r, 60)
				events := order(r, history)
				s := random.Snapshot(history)
				s.LastPodCIDRs = random.LastPodCIDRs(events)
				want, _ := policy.Compile(s, random.Node)
				m := policy.NewModel(random.Node)
				have := m.Intent()
				for _, event := range events {
					m.Apply(event.Change())
					if r.Intn(5) == 0 {
						drained(t, m, &have)
					}
				}
				drained(t, m, &have)
				if diff := differ(want, have); diff != "" {
					t.Fatalf("seed %d (-want +have):\n%s", seed, diff)
				}
			}
		})
	}
}

// TestModelUnchanged: news that changes nothing leaves nothing to do.
func TestModelUnchanged(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	history := random.History(r, 200)
	m := policy.NewModel(random.Node)
	for _, event := range history {
		m.Apply(event.Change())
	}
	m.Intent()
	for _, event := range random.Final(history) {
		m.Apply(event.Change())
		if d := m.Take(); !d.Empty() {
			t.Errorf("%+v again: %+v", event, d)
		}
	}
}

// TestModelForgets: an emptied cluster leaves an empty model, but for the node's ranges.
func TestModelForgets(t *testing.T) {
	r := rand.New(rand.NewSource(2))
	history := random.History(r, 200)
	m := policy.NewModel(random.Node)
	have := m.Intent()
	for _, event := range history {
		m.Apply(event.Change())
		drained(t, m, &have)
	}
	for _, event := range random.Final(history) {
		event.Delete = true
		m.Apply(event.Change())
	}
	drained(t, m, &have)
	want, _ := policy.Compile(policy.Snapshot{LastPodCIDRs: random.LastPodCIDRs(history)}, random.Node)
	if diff := differ(want, have); diff != "" {
		t.Errorf("left over:\n%s", diff)
	}
	m.ChangedAttached() // nobody has asked before
	if left := fmt.Sprint(policy.Held(m)); left != "0" {
		t.Errorf("the model still holds %s things", left)
	}
}

// TestManyPolicies: a namespace's policies cost their number, whichever comes first,
// they or the pods that all of them select. (By the square of it, these took 13 s.)
func TestManyPolicies(t *testing.T) {
	began := time.Now()
	m := policy.NewModel("node")
	for i := range 100 {
		m.Apply(policy.SetPod(&policy.Pod{
			Key: policy.Key{Namespace: "shop", Name: fmt.Sprint(i)}, Node: "node",
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(i)})},
		}))
	}
	set := func(i int, types [2]bool) {
		m.Apply(policy.SetPolicy(policy.Policy{Key: policy.Key{Namespace: "shop", Name: fmt.Sprint(i)}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: types}))
	}
	for _, types := range [][2]bool{{true, true}, {false, true}} {
		for i := range 1000 {
			set(i, types)
		}
	}
	if in := m.Intent(); len(in.Policies) != 1000 || len(in.Subjects) != 100 || !in.Subjects[policy.Key{Namespace: "shop", Name: "7"}].Isolated[policy.Egress] {
		t.Errorf("%d policies, %d subjects", len(in.Policies), len(in.Subjects))
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}
