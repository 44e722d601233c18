package policy_test

import (
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestSharedAddresses goes through the lives of pods that have few names and fewer addresses
// between them. The events of each name come in order, as in a watch, but the events of different
// names are mixed in any order. After each event the model says what Compile says, and an address
// belongs to the pods that may have it.
func TestSharedAddresses(t *testing.T) {
	shared := 0
	for seed := range random.Seeds(*seed, *histories) {
		r := rand.New(rand.NewSource(seed))
		lives := [][]random.Event{spaceLives(r, "shop"), spaceLives(r, "db")}
		for _, key := range []policy.Key{{Namespace: "shop", Name: "web-0"}, {Namespace: "shop", Name: "job"}, {Namespace: "db", Name: "web-0"}, {Namespace: "db", Name: "pg"}} {
			lives = append(lives, podLives(r, key))
		}
		history := []random.Event{{Object: random.Nodes()[0]}, {Object: random.Nodes()[1]}, fromApps("shop"), fromApps("db")}
		m := policy.NewModel(random.Node)
		for _, event := range history {
			m.Apply(event.Change())
		}
		have := m.Intent()
		for len(lives) > 0 {
			i := r.Intn(len(lives))
			event := lives[i][0]
			if lives[i] = lives[i][1:]; len(lives[i]) == 0 {
				lives = slices.Delete(lives, i, i+1)
			}
			history = append(history, event)
			m.Apply(event.Change())
			apply(t, &have, m.Take())
			s := random.Snapshot(history)
			want, _ := policy.Compile(s, random.Node)
			if diff := differ(want, have); diff != "" || t.Failed() {
				t.Fatalf("seed %d, after %d events: the model differs from Compile (-want +have):\n%s", seed, len(history), diff)
			}
			shared += checkOwners(t, s, have)
			if t.Failed() {
				t.Fatalf("seed %d, after %d events", seed, len(history))
			}
		}
	}
	if shared < *histories {
		t.Errorf("only %d addresses were claimed by two pods: shows nothing", shared)
	}
}

// checkOwners checks whose addresses an intent says they are: of the pods that claim one,
// those of this node's before others', those that stay before those that terminate, and
// all that are left. It returns how many addresses several pods claim.
func checkOwners(t *testing.T, s policy.Snapshot, in policy.Intent) (shared int) {
	t.Helper()
	claims := map[netip.Addr][]*corev1.Pod{}
	for _, p := range s.Pods {
		if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			claims[netip.MustParseAddr(ip.IP)] = append(claims[netip.MustParseAddr(ip.IP)], p)
		}
	}
	local := func(p *corev1.Pod) bool { return p.Spec.NodeName == random.Node }
	stays := func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil }
	subjects := map[netip.Addr][]string{}
	for key, subject := range in.Subjects {
		for _, addr := range subject.IPs {
			subjects[addr] = append(subjects[addr], key.String())
		}
	}
	for addr, pods := range claims {
		if len(pods) > 1 {
			shared++
		}
		for _, preferred := range []func(*corev1.Pod) bool{local, stays} {
			if slices.ContainsFunc(pods, preferred) {
				pods = slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return !preferred(p) })
			}
		}
		var want []string
		for _, p := range pods {
			if local(p) {
				want = append(want, p.Namespace+"/"+p.Name)
			}
		}
		if have := slices.Sorted(slices.Values(subjects[addr])); !slices.Equal(have, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s is %v's, not %v's", addr, have, want)
		}
		delete(subjects, addr)
		for selector, members := range in.Peers {
			if _, is := members[addr]; !is {
				continue
			}
			for _, p := range pods {
				if app := "app=" + p.Labels["app"]; selector.Pods != app {
					t.Errorf("%s is a peer of %s, though %s/%s has %s", addr, selector, p.Namespace, p.Name, app)
				}
			}
		}
	}
	if len(subjects) > 0 {
		t.Errorf("addresses that nobody claims: %v", subjects)
	}
	for selector, members := range in.Peers {
		for addr := range maps.Keys(members) {
			if claims[addr] == nil {
				t.Errorf("%s is a peer of %s, though nobody has it", addr, selector)
			}
		}
	}
	return shared
}

// fromApps is a policy that lets each of the apps in, from namespaces of the team store.
func fromApps(namespace string) random.Event {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "apps"}}
	for _, app := range []string{"a", "b"} {
		peer := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}
		if app == "a" {
			peer.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "store"}}
		}
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{peer}})
	}
	return random.Event{Object: np}
}

// spaceLives are a namespace's: it comes, changes its labels, goes and comes again,
// while pods of that name's are still there, or already.
func spaceLives(r *rand.Rand, name string) (events []random.Event) {
	for range 1 + r.Intn(4) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if r.Intn(2) == 0 {
			ns.Labels = map[string]string{"team": "store"}
		}
		events = append(events, random.Event{Object: ns, Delete: r.Intn(3) == 0})
	}
	return events
}

// podLives are those of one to three pods, one after the other, of one name.
func podLives(r *rand.Rand, key policy.Key) (events []random.Event) {
	for i := range 1 + r.Intn(3) {
		node := random.Node
		if r.Intn(4) == 0 {
			node = random.OtherNode
		}
		born := time.Unix(1700000000+r.Int63n(10), 0) // the API has whole seconds: some are of the same
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: key.Namespace, Name: key.Name, UID: types.UID(fmt.Sprint("uid-", i)),
				CreationTimestamp: metav1.NewTime(born), Labels: map[string]string{"app": []string{"a", "b", "c"}[r.Intn(3)]},
			},
			Spec:   corev1.PodSpec{NodeName: node, HostNetwork: r.Intn(10) == 0},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		}
		say := func(change func()) {
			p = p.DeepCopy()
			change()
			events = append(events, random.Event{Object: p})
		}
		maybe := func(change func()) {
			if r.Intn(3) > 0 {
				say(change)
			}
		}
		ips := func(count int) {
			p.Status.PodIPs = nil
			addrs := random.PodAddrs(r.Intn(2), node)
			if p.Spec.HostNetwork {
				addrs = random.NodeAddrs
			}
			for _, addr := range addrs[:count] {
				p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: addr.String()})
			}
		}
		maybe(func() {}) // without an address yet
		say(func() {
			ips(1)
			p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &metav1.Time{Time: born.Add(time.Second)}
		})
		maybe(func() { ips(2) }) // the other family's comes later, or both are others now
		maybe(func() { p.Labels = map[string]string{"app": []string{"a", "b", "c"}[r.Intn(3)]} })
		maybe(func() { p.DeletionTimestamp = &metav1.Time{Time: born.Add(time.Minute)} })
		maybe(func() { p.Annotations = map[string]string{"late": "news"} })
		maybe(func() { p.Status.Phase = []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed}[r.Intn(2)] })
		if r.Intn(3) > 0 { // else nobody hears of the end: the next of that name is just there
			events = append(events, random.Event{Object: p, Delete: true})
		}
	}
	return events
}
