package attachments

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// endedFlows is connection tracking that notes of which addresses flows have been ended.
type endedFlows struct {
	mu    sync.Mutex
	ended []netip.Addr
	fails error
}

func (*endedFlows) Revoke(func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return 0, 0, nil
}

func (*endedFlows) RevokeOf([]netip.Addr, func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return 0, 0, nil
}

func (f *endedFlows) Forget(addrs []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails != nil {
		return f.fails
	}
	f.ended = append(f.ended, addrs...)
	return nil
}

func (f *endedFlows) take() (ended []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ended, f.ended = f.ended, nil
	return ended
}

// TestFlowsEndWithAttachments: no pod inherits the flows of its address's last one, whether
// the runtime has said that it is gone, or only the address's next pod shows it.
func TestFlowsEndWithAttachments(t *testing.T) {
	flows := &endedFlows{}
	a, _ := answering(t, t.TempDir(), flows)
	a.Enforcer.Feed(
		policy.SetPod(known("web", "uid-1")),
		policy.SetPod(known("db", "uid-2")),
	)
	handle := func(r handshake.Request) {
		t.Helper()
		if err := a.Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when string, want ...string) {
		t.Helper()
		var texts []string
		for _, addr := range flows.take() {
			texts = append(texts, addr.String())
		}
		if !slices.Equal(texts, want) {
			t.Errorf("%s: ended the flows of %v, want %v", when, texts, want)
		}
	}
	handle(add("c1", "web", "uid-1", "10.244.1.7"))
	expect("nobody is known to have had the address", "10.244.1.7")
	handle(add("c2", "db", "uid-2", "10.244.1.7"))
	expect("somebody had the address", "10.244.1.7", "10.244.1.7")
	handle(handshake.Request{Op: handshake.OpDel, ContainerID: "c2", IfName: "eth0"})
	expect("a DEL", "10.244.1.7")
	handle(add("c3", "web", "uid-1", "10.244.1.7"))
	expect("after the DEL", "10.244.1.7")
	handle(handshake.Request{Op: handshake.OpGC})
	expect("a GC", "10.244.1.7")

	// What cannot be ended stays known, so that nobody gets the address with it.
	handle(add("c4", "web", "uid-1", "10.244.1.7"))
	flows.take()
	flows.fails = errors.New("connection tracking does not answer")
	if err := a.Handle(t.Context(), handshake.Request{Op: handshake.OpDel, ContainerID: "c4", IfName: "eth0"}); err == nil {
		t.Error("a DEL whose flows go on succeeds")
	}
	if err := a.Handle(t.Context(), add("c5", "db", "uid-2", "10.244.1.7")); !errors.Is(err, flows.fails) {
		t.Errorf("an ADD at its address: %v", err)
	}

	if err := a.Handle(t.Context(), add("c6", "db", "uid-2", "10.244.1.9")); !errors.Is(err, flows.fails) {
		t.Errorf("an ADD at an address that nobody has had: %v", err)
	}
	if _, known := a.known[handshake.Attachment{ContainerID: "c6", IfName: "eth0"}]; !known {
		t.Error("an ADD whose flows go on is forgotten, and its address with them")
	}

	// Another plugin has led the address to the pod before ADD.
	flows.fails = nil
	a.Bridge = nil
	handle(add("c6", "db", "uid-2", "10.244.1.8"))
	expect("behind another plugin", "10.244.1.8")
}
