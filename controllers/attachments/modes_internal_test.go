package attachments

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
)

// A plugin whose configuration is of another mode than the agent's connects no pod: it
// would be Running, and get nothing through.
func TestAddOfAnotherModeIsRefused(t *testing.T) {
	for _, c := range []struct {
		bridge  bool
		mode    string
		refused bool
	}{
		{true, handshake.ModeBridge, false},
		{true, "", false}, // a plugin that does not say
		{true, handshake.ModeChained, true},
		{false, handshake.ModeChained, false},
		{false, "", false},
		{false, handshake.ModeBridge, true},
	} {
		a, _ := answering(t, t.TempDir(), nil)
		if !c.bridge {
			a.Bridge = nil
		}
		a.Enforcer.Feed(policy.SetPod(known("web", "uid-1")))
		request := add("c1", "web", "uid-1", "10.244.1.7")
		request.Mode = c.mode
		err := a.Handle(t.Context(), request)
		if c.refused != (err != nil) {
			t.Errorf("bridge %v, %q: %v", c.bridge, c.mode, err)
		}
		if c.refused && (len(a.known) > 0 || !strings.Contains(err.Error(), "--cni") || !strings.Contains(err.Error(), "MODES.md")) {
			t.Errorf("bridge %v, %q: kept are %v, and it does not say what to do: %v", c.bridge, c.mode, a.known, err)
		}
	}
}

// While pods of another mode run, none is attached: it might get the address of one.
func TestAddIsRefusedWhilePodsOfAnotherModeRun(t *testing.T) {
	a, _ := answering(t, t.TempDir(), nil)
	a.Bridge, a.Refuse = nil, errors.New("drain the node")
	a.Enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	request := add("c1", "web", "uid-1", "10.244.1.7")
	request.Mode = handshake.ModeChained
	if err := a.Handle(t.Context(), request); !errors.Is(err, a.Refuse) || len(a.known) > 0 {
		t.Errorf("it says %v, and keeps %v", err, a.known)
	}
	if err := a.Handle(t.Context(), handshake.Request{Op: handshake.OpDel, ContainerID: "c0", IfName: "eth0"}); err != nil {
		t.Errorf("a pod that goes: %v", err)
	}
}

// An address that another plugin's pod has is not given to a second one: which of them the
// API shows, or an agent of another mode was told of, keeps it.
func TestAddOfAnAddressInUseIsRefused(t *testing.T) {
	a, _ := answering(t, t.TempDir(), nil)
	at := map[netip.Addr]node.PodLink{}
	a.Bridge.Port = func(containerID, _ string) string { return "pf" + containerID }
	var asked []netip.Addr
	a.Bridge.Find = func(_ context.Context, addrs []netip.Addr) (map[netip.Addr]node.PodLink, error) {
		asked = append(asked, addrs...)
		return at, nil
	}
	old := known("old", "uid-0")
	old.IPs = []netip.Addr{netip.MustParseAddr("10.244.1.7")}
	a.Enforcer.Feed(policy.SetPod(old), policy.SetPod(known("new", "uid-1")), policy.SetPod(known("next", "uid-2")))
	at[netip.MustParseAddr("10.244.1.7")] = node.PodLink{Names: []string{"veth7"}, Own: true}
	err := a.Handle(t.Context(), add("c1", "new", "uid-1", "10.244.1.7"))
	if err == nil || !strings.Contains(err.Error(), "veth7") || !strings.Contains(err.Error(), "10.244.1.7") || len(a.known) > 0 {
		t.Errorf("it says %v, and keeps %v", err, a.known)
	}
	// What the API shows of before a reboot leads nowhere.
	clear(at)
	if err := a.Handle(t.Context(), add("c1", "new", "uid-1", "10.244.1.7")); err != nil {
		t.Error(err)
	}
	// Nobody is asked about an address that no other may have.
	asked = nil
	if err := a.Handle(t.Context(), add("c2", "next", "uid-2", "10.244.1.9")); err != nil || len(asked) > 0 {
		t.Errorf("asked about %v, %v", asked, err)
	}
	// An attachment of another mode's counts as much.
	at[netip.MustParseAddr("10.244.1.9")] = node.PodLink{Names: []string{"veth9"}, Own: true}
	if err := a.Handle(t.Context(), add("c3", "next", "uid-2", "10.244.1.9")); err == nil || len(a.known) != 2 {
		t.Errorf("it says %v, and keeps %v", err, a.known)
	}
}

// Where podfence connects the pods, one that is reached by another link is said; one that
// the API shows and nothing leads to, as after a reboot, is not, nor one by its own port.
func TestPodsOfAnotherPluginAreSaid(t *testing.T) {
	a, _ := answering(t, t.TempDir(), nil)
	e := a.Enforcer
	at := map[netip.Addr]node.PodLink{}
	var broken error
	a.Bridge.Port = func(containerID, _ string) string { return "pf" + containerID }
	a.Bridge.Find = func(context.Context, []netip.Addr) (map[netip.Addr]node.PodLink, error) { return at, broken }
	for i, name := range []string{"own", "shown"} {
		pod := known(name, "uid-1")
		pod.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(7 + i)})}
		e.Feed(policy.SetPod(pod))
	}
	if err := a.Handle(t.Context(), add("c1", "own", "uid-1", "10.244.1.7")); err != nil {
		t.Fatal(err)
	}
	own, shown := netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.1.8")
	at[own] = node.PodLink{Names: []string{"pfc1"}}
	if err := a.ConnectedOtherwise(); err != nil {
		t.Errorf("with a pod by podfence's port and one that is nowhere: %v", err)
	}
	at[shown] = node.PodLink{Names: []string{"veth8"}, Own: true}
	if err := a.ConnectedOtherwise(); err == nil || !strings.Contains(err.Error(), "10.244.1.8") || !strings.Contains(err.Error(), "veth8") {
		t.Errorf("with a pod by another's link: %v", err)
	}
	// By the handshake of a chained plugin it has come, too.
	if err := a.Handle(t.Context(), add("c2", "shown", "uid-1", "10.244.1.8")); err != nil {
		t.Fatal(err)
	}
	a.Bridge.Port = func(string, string) string { return "pfc1" }
	if err := a.ConnectedOtherwise(); err == nil || !strings.Contains(err.Error(), "10.244.1.8") {
		t.Errorf("with an attachment of another's link: %v", err)
	}
	broken = errors.New("netlink is away")
	if err := a.ConnectedOtherwise(); !errors.Is(err, broken) {
		t.Errorf("when nobody can tell: %v", err)
	}
}
