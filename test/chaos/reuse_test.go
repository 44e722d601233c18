package chaos

import (
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// TestAddressReused: a pod ends and the next one has its address at once. The news of the
// two comes in any order: the old one may be heard of last, and its end never if the new
// one has its name. From when the new one's address is known, it is treated as that, and
// while the API also shows the old one there, as if it stayed, as both of them: neither
// opens what the other's policies close.
func TestAddressReused(t *testing.T) {
	n := newFedNode(t)
	hosts := map[string]*lab.Host{}
	for i, name := range []string{"server", "asker", "reused", "control"} {
		hosts[name] = check.Value(n.AddPod(name, lab.PodOptions{IPs: random.PodAddrs(i, random.Node)}))(t)
	}
	start := time.Unix(1700000000, 0)
	n.feed(
		namespaceOf("shop", nil), namespaceOf("db", nil), namespaceOf("open", nil),
		random.Event{Object: podAt("open", "control", "uid", nil, start, hosts["control"].IPs...)},
		random.Event{Object: podAt("db", "server", "uid", nil, start, hosts["server"].IPs...)},
		random.Event{Object: podAt("shop", "asker", "uid", nil, start, hosts["asker"].IPs...)},
		policyOf(t, "db", "server", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}]}]}`),
		policyOf(t, "shop", "other", `{podSelector: {matchLabels: {app: other}}, ingress: []}`),
	)
	n.sync(t)
	r := rand.New(rand.NewSource(1))
	o := outcome{times: times(300)}
	// A client reaches the server and is open to all; another pod neither. All reach control.
	control := listenForSources(t, hosts["control"], 9000)
	ways := []*way{
		{from: hosts["reused"], to: listenForSources(t, hosts["server"], 9000), control: control},
		{from: hosts["asker"], to: listenForSources(t, hosts["reused"], 9000), control: control},
	}
	enforced := func(app string, both bool, when string) {
		t.Helper()
		open := app == "client" && !both // the other one is no client
		for i, way := range ways {
			sent, arrived := way.try(t, open)
			if open {
				o.allowed, o.broken = o.allowed+int64(sent), o.broken+int64(sent-arrived)
			} else {
				o.denied, o.leaked = o.denied+int64(sent), o.leaked+int64(arrived)
			}
			if open != (arrived == sent) {
				t.Errorf("%s, app=%s, both=%t, way %d: %d of %d arrive", when, app, both, i, arrived, sent)
			}
		}
	}
	for i := range o.times {
		s := newSuccession(r, i, start.Add(time.Duration(i)*time.Second), hosts["reused"].IPs)
		n.feed(random.Event{Object: s.old})
		n.sync(t)
		if s.old.Spec.NodeName == random.Node { // else another node closes it to others
			enforced(s.old.Labels["app"], false, "before")
		}
		both := s.old.Spec.NodeName == random.Node
		when := fmt.Sprintf("succession %d", i)
		together := r.Intn(3) == 0
		for _, event := range s.events {
			n.feed(event)
			if p := event.Object.(*corev1.Pod); p.UID == s.new.UID {
				both = both && p.Name != s.old.Name // the new one of its name has taken its place
			} else if event.Delete || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded {
				both = false
			}
			when += ", " + describe(event)
			if s.known = s.known || event.Object == s.at; s.known && !together {
				n.sync(t)
				enforced(s.new.Labels["app"], both, when)
			}
		}
		n.sync(t)
		enforced(s.new.Labels["app"], both, when+" together")
		n.feed(random.Event{Object: s.at, Delete: true})
	}
	record(t, "an address reused within a second, events out of order", o)
}

// succession is how one pod follows another at its address.
type succession struct {
	old, new *corev1.Pod
	// events are the news of both; at is when the new one is seen at the address.
	events []random.Event
	at     *corev1.Pod
	known  bool
}

func newSuccession(r *rand.Rand, i int, born time.Time, ips []netip.Addr) *succession {
	apps := []string{"client", "other"}
	r.Shuffle(2, func(a, b int) { apps[a], apps[b] = apps[b], apps[a] })
	names := []string{fmt.Sprintf("a-%d", i), fmt.Sprintf("b-%d", i)}
	r.Shuffle(2, func(a, b int) { names[a], names[b] = names[b], names[a] })
	sameName := r.Intn(4) == 0
	if sameName {
		names[1] = names[0]
	}
	s := &succession{
		old: podAt("shop", names[0], "old", map[string]string{"app": apps[0]}, born, ips...),
		new: podAt("shop", names[1], "new", map[string]string{"app": apps[1]}, born.Add(time.Second)),
	}
	if r.Intn(3) == 0 {
		s.old.Spec.NodeName = random.OtherNode
	}
	var ofOld, ofNew []random.Event
	old := s.old
	say := func(change func(*corev1.Pod)) {
		if r.Intn(2) == 0 {
			old = old.DeepCopy()
			change(old)
			ofOld = append(ofOld, random.Event{Object: old})
		}
	}
	say(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: born.Add(time.Second)} })
	say(func(p *corev1.Pod) { p.Labels = map[string]string{"app": apps[0], "late": "news"} })
	say(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	if r.Intn(2) == 0 {
		ofNew = append(ofNew, random.Event{Object: s.new}) // not at its address yet
	}
	s.at = s.new.DeepCopy()
	for _, ip := range ips {
		s.at.Status.PodIPs = append(s.at.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	ofNew = append(ofNew, random.Event{Object: s.at})
	if sameName { // news of one name comes in order, but its end may be missed
		if r.Intn(2) == 0 {
			ofOld = append(ofOld, random.Event{Object: old, Delete: true})
		}
		s.events = slices.Concat(ofOld, ofNew)
		return s
	}
	ofOld = append(ofOld, random.Event{Object: old, Delete: true})
	for len(ofOld)+len(ofNew) > 0 {
		next := &ofOld
		if len(ofOld) == 0 || len(ofNew) > 0 && r.Intn(2) == 0 {
			next = &ofNew
		}
		s.events, *next = append(s.events, (*next)[0]), (*next)[1:]
	}
	return s
}

// describe is an event in a few words.
func describe(e random.Event) string {
	p := e.Object.(*corev1.Pod)
	word := p.Name + " " + string(p.UID)
	switch {
	case e.Delete:
		return word + " deleted"
	case p.Status.Phase == corev1.PodSucceeded:
		return word + " succeeded"
	case p.DeletionTimestamp != nil:
		return word + " terminating"
	case len(p.Status.PodIPs) == 0:
		return word + " without address"
	}
	return word + " running"
}

// way is from a host to a listener, with a new flow for each packet. The control hears
// whatever the host says.
type way struct {
	from        *lab.Host
	to, control *sources
	next        int
}

// try sends a few packets and returns how many arrive: all, or who comes until it is sure
// that nobody does.
func (w *way) try(t *testing.T, expect bool) (sent, arrived int) {
	t.Helper()
	const few, firstPort, ports = 6, 10_000, 50_000
	began := time.Now()
	for range few {
		check.NoError(t, w.to.say(w.from, firstPort+w.next%ports))
		w.next++
	}
	if expect {
		for w.to.since(w.from, began) < few && time.Since(began) < soon {
			time.Sleep(time.Millisecond)
		}
	} else {
		if w.control.reached(t, w.from, []int{firstPort + w.next%ports}) > 0 {
			t.Error("the control hears nothing: nothing can be told by silence")
		}
		time.Sleep(w.control.lasts())
	}
	return few, w.to.since(w.from, began)
}
