package controllers

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// told is a Kernel that keeps what it is told, per table.
type told struct {
	mu    sync.Mutex
	texts strings.Builder
	fail  error
}

func (k *told) Apply(p nft.Plan) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	k.texts.WriteString(p.Text())
	return nil
}

func (k *told) Check(nft.Plan) error { return nil }

func (k *told) holds(text string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Contains(k.texts.String(), text)
}

// answering is an enforcer with Attachments, as an agent has them; state is the
// folder that outlives it, and flows are nil where none are to be ended.
func answering(t *testing.T, state string, flows Flows) (*Attachments, *told) {
	t.Helper()
	kernel := &told{}
	o := Options{Node: "node", Log: logr.Discard(), Flows: flows, CNI: &CNI{State: state, Bridge: &Bridge{
		Kernel: kernel, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Gateway: func(p netip.Prefix) netip.Addr { return p.Addr().Next() },
	}}}
	e := newEnforcer(kernel, o, newMetrics(prometheus.NewRegistry()), nil)
	a, err := newAttachments(o, e, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Feed(policy.SetNode(policy.Node{Name: "node", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Start(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	e.Begin()
	return a, kernel
}

func add(container, pod, uid, ip string) handshake.Request {
	return handshake.Request{
		Op: handshake.OpAdd, ContainerID: container, IfName: "eth0", Pod: handshake.Pod{Namespace: "shop", Name: pod, UID: uid},
		IPs: []netip.Addr{netip.MustParseAddr(ip)}, MAC: "02:00:00:00:01:02", HostInterface: "pf" + container,
	}
}

func known(name string, uid types.UID) *policy.Pod {
	return &policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, UID: uid, Node: "node"}
}

// TestAddAnswersWhenCommitted: the answer comes with the rules of both tables,
// and not before the pod is known.
func TestAddAnswersWhenCommitted(t *testing.T) {
	a, kernel := answering(t, t.TempDir(), nil)
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	err := a.handle(short, add("c1", "web", "uid-1", "10.244.1.7"))
	if err == nil || !strings.Contains(err.Error(), "shop/web") || kernel.holds("10.244.1.7 : ") {
		t.Fatalf("a pod that nobody knows: %v", err)
	}
	answered := make(chan error)
	go func() { answered <- a.handle(t.Context(), add("c1", "web", "uid-1", "10.244.1.7")) }()
	a.enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if !kernel.holds("add element inet podfence ingress-pods-4 { 10.244.1.7 : accept }") || !kernel.holds("02:00:00:00:01:02 . 10.244.1.7") {
		t.Errorf("answered before both tables have the pod:\n%s", kernel.texts.String())
	}
	// Another pod of that name: its policies may be other ones.
	other := add("c2", "web", "uid-2", "10.244.1.8")
	short, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := a.handle(short, other); err == nil {
		t.Error("an attachment of another UID was confirmed")
	}
}

// TestAddFails: what was not confirmed leaves nothing behind.
func TestAddFails(t *testing.T) {
	state := t.TempDir()
	a, kernel := answering(t, state, nil)
	a.enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	if err := a.enforcer.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	kernel.mu.Lock()
	kernel.fail = errors.New("no")
	kernel.mu.Unlock()
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := a.handle(short, add("c1", "web", "uid-1", "10.244.1.7")); err == nil {
		t.Fatal("confirmed what the kernel refused")
	}
	files, err := os.ReadDir(state)
	if err != nil || len(files) != 0 || len(a.known) != 0 {
		t.Errorf("%v is left (%v)", files, err)
	}
	if a.handle(t.Context(), handshake.Request{Op: handshake.OpStatus}) == nil {
		t.Error("an add could not succeed now, but the status says so")
	}
}

// TestAddAfterItsDel: an add that still waits when its del has come takes nothing from
// the container that was given its address, or its name, since.
func TestAddAfterItsDel(t *testing.T) {
	a, _ := answering(t, t.TempDir(), nil)
	begin := func(r handshake.Request, kept int) chan error {
		answered := make(chan error, 1)
		go func() { answered <- a.handle(t.Context(), r) }()
		for told := false; !told; time.Sleep(time.Millisecond) {
			a.mu.Lock()
			told = len(a.known) == kept && a.known[handshake.Attachment{ContainerID: r.ContainerID, IfName: r.IfName}].UID == types.UID(r.Pod.UID)
			a.mu.Unlock()
		}
		return answered
	}
	before := begin(add("c1", "web", "", "10.244.1.7"), 1)
	if err := a.handle(t.Context(), handshake.Request{Op: handshake.OpDel, ContainerID: "c1", IfName: "eth0"}); err != nil {
		t.Fatal(err)
	}
	after := begin(add("c2", "web", "uid-1", "10.244.1.7"), 1)
	again := begin(add("c3", "web", "", "10.244.1.8"), 2)
	anew := begin(add("c3", "web", "uid-1", "10.244.1.8"), 2)
	a.enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	for name, c := range map[string]struct {
		answered chan error
		fails    bool
	}{"before": {before, true}, "after": {after, false}, "again": {again, true}, "anew": {anew, false}} {
		if err := <-c.answered; (err != nil) != c.fails {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, container := range []string{"c2", "c3"} {
		if _, is := a.known[handshake.Attachment{ContainerID: container, IfName: "eth0"}]; !is {
			t.Errorf("%s is forgotten: %v", container, a.known)
		}
	}
}

// TestAttachmentsSurvive: what was confirmed is there after a restart, until it
// is removed, by name or by not being valid any more; an address that is given
// out again is its former owner's no more.
func TestAttachmentsSurvive(t *testing.T) {
	state := t.TempDir()
	first, _ := answering(t, state, nil)
	first.enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	for _, r := range []handshake.Request{add("c1", "web", "uid-1", "10.244.1.7"), add("c2", "web", "uid-1", "10.244.1.8"), add("c3", "web", "uid-1", "10.244.1.7")} {
		if err := first.handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(state, "torn.json"), []byte(`{"Contai`), 0o600); err != nil {
		t.Fatal(err)
	}
	second, kernel := answering(t, state, nil)
	if len(second.known) != 2 {
		t.Fatalf("%v survived, want c2 and c3", second.known)
	}
	second.enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	if err := second.enforcer.Sync(t.Context()); err != nil || !kernel.holds("10.244.1.8 : accept") {
		t.Errorf("a pod that the API shows without address is closed (%v)", err)
	}
	if err := second.handle(t.Context(), handshake.Request{Op: handshake.OpDel, ContainerID: "c2", IfName: "eth0"}); err != nil {
		t.Error(err)
	}
	if err := second.handle(t.Context(), handshake.Request{Op: handshake.OpGC, Attachments: []handshake.Attachment{}}); err != nil {
		t.Error(err)
	}
	if err := second.enforcer.Sync(t.Context()); err != nil || !kernel.holds("delete element inet podfence ingress-pods-4") {
		t.Errorf("removed attachments still pass (%v)", err)
	}
	if third, _ := answering(t, state, nil); len(third.known) != 0 {
		t.Errorf("%v came back", third.known)
	}
}

// TestPendingEvent: a pod that has waited for half a minute gets one Event, not
// one a try, and another only after it has been connected in between.
func TestPendingEvent(t *testing.T) {
	a, _ := answering(t, t.TempDir(), nil)
	a.events = newEvents(nil, logr.Discard(), newMetrics(prometheus.NewRegistry()))
	created := func() (all []*corev1.Event) { return slices.Collect(maps.Values(a.events.waiting)) }
	waits := policy.Attachment{Pod: policy.Key{Namespace: "shop", Name: "web"}, UID: "uid-1"}
	failed := errors.New("the rules of pod shop/web are not in the kernel")
	a.report(waits, failed)
	if len(created()) != 0 {
		t.Fatal("an Event at the first failure")
	}
	for range 2 {
		for _, p := range a.pending {
			p.since = time.Now().Add(-pendingLong)
		}
		a.report(waits, failed)
		a.report(waits, failed)
		if len(created()) != 1 {
			t.Fatalf("%d Events, want 1", len(created()))
		}
		e := created()[0]
		if e.Type != corev1.EventTypeWarning || e.Reason != ReasonNotFenced || e.InvolvedObject.UID != "uid-1" || e.InvolvedObject.Kind != "Pod" || e.Message != failed.Error() {
			t.Errorf("%+v", e)
		}
		a.events.drop(e)
		a.report(waits, nil)
		if len(a.pending) != 0 {
			t.Error("a connected pod is still waited for")
		}
		a.report(waits, failed)
	}
}
