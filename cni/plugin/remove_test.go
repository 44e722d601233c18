package plugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/cni/plugin"
)

// TestAgentFails has ADD undo itself, and say why.
func TestAgentFails(t *testing.T) {
	for _, c := range []struct {
		name    string
		fail    func(n *node)
		message string
	}{
		{"absent", func(n *node) { n.agent.stop() }, "does not answer on "},
		{"no socket", func(n *node) { n.conf["socket"] = "/nonexistent/agent.sock" }, "no such file"},
		{"slow, with a reason", func(n *node) {
			n.conf["timeout"] = 1
			n.agent.setAnswer(func(ctx context.Context, _ handshake.Request) error {
				<-ctx.Done()
				return errors.New("the pod is not known yet")
			})
		}, "refused: the pod is not known yet"},
		{"slow", func(n *node) {
			n.conf["timeout"] = 1
			n.agent.setAnswer(func(context.Context, handshake.Request) error {
				time.Sleep(3 * time.Second)
				return nil
			})
		}, "deadline exceeded; kubelet tries again"},
		{"refusing", func(n *node) {
			n.agent.setAnswer(func(context.Context, handshake.Request) error { return errors.New("no table") })
		}, "refused: no table"},
		{"killed half-way", func(n *node) {
			// A listener that hangs up when it was asked.
			n.agent.stop()
			l, err := net.Listen("unix", n.agent.socket)
			if err != nil {
				n.t.Fatal(err)
			}
			n.t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Read(make([]byte, 8))
					c.Close()
				}
			}()
		}, "does not answer on "},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, nil)
			neighbour, p := newPod(t, "neighbour"), newPod(t, "a")
			n.mustAdd(neighbour)
			socket, agent := n.conf["socket"], n.agent
			before := n.traces()
			c.fail(n)
			start := time.Now()
			_, err := n.add(p)
			if code(err) != 11 || !strings.Contains(err.Error(), c.message) {
				t.Errorf("ADD: code %d, %v", code(err), err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("ADD took %v", took)
			}
			if after := n.traces(); !slices.Equal(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
			if _, err := n.raw("STATUS", nil, n.conf); !strings.HasPrefix(c.name, "slow") && c.name != "refusing" && code(err) != 50 {
				t.Errorf("STATUS: code %d, %v", code(err), err)
			}
			// DEL needs no agent, and an agent that comes back hears of GC.
			if err := errors.Join(n.del(p), n.del(neighbour)); err != nil {
				t.Errorf("DEL: %v", err)
			}
			agent.stop()
			_ = os.Remove(agent.socket)
			agent.setAnswer(nil)
			agent.start()
			n.conf["socket"] = socket
			if err := n.gc(); err != nil {
				t.Errorf("GC: %v", err)
			}
			n.clean("after GC")
			n.mustAdd(p)
		})
	}
}

func TestDel(t *testing.T) {
	n := newNode(t, nil)
	p, gone := newPod(t, "a"), newPod(t, "gone")
	// Never added.
	n.mustDel(p)
	n.mustAdd(p)
	n.mustDel(p)
	n.mustDel(p)
	n.clean("after DEL")
	// The namespace, and with it the link, is gone.
	n.mustAdd(gone)
	gone.close()
	n.mustDel(gone)
	n.clean("after DEL without a namespace")
	// No CNI_NETNS, no podCIDRs, and no agent.
	n.mustAdd(p)
	n.agent.stop()
	conf := map[string]any{}
	for k, v := range n.conf {
		if k != "podCIDRs" {
			conf[k] = v
		}
	}
	if _, err := n.raw("DEL", []string{"CNI_CONTAINERID=c-a", "CNI_IFNAME=eth0"}, conf); err != nil {
		t.Errorf("DEL: %v", err)
	}
	n.agent.start()
	if err := n.gc(); err != nil {
		t.Errorf("GC: %v", err)
	}
	n.clean("after DEL without anything")
}

func TestGC(t *testing.T) {
	n := newNode(t, nil)
	stay, leave, gone, lost := newPod(t, "stay"), newPod(t, "leave"), newPod(t, "gone"), newPod(t, "lost")
	for _, p := range []*pod{stay, leave, gone, lost} {
		n.mustAdd(p)
	}
	gone.close()
	// What another has made.
	n.must(func() error {
		link, err := netlink.LinkByName("podfence0")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = "pfotherslink", link.Attrs().Index
		veth := netlink.NewVeth(attrs)
		veth.PeerName = "other"
		_, subnet, _ := net.ParseCIDR("10.77.0.0/24")
		return errors.Join(
			netlink.LinkAdd(veth),
			netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: subnet, Scope: netlink.SCOPE_LINK}))
	})
	// Leases that a disk has lost.
	for _, ip := range lost.ips {
		if err := os.Remove(filepath.Join(n.conf["dataDir"].(string), "pods", ip.String())); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.gc(stay); err != nil {
		t.Fatal(err)
	}
	want := []string{"link pfotherslink", "link " + plugin.LinkName("c-stay", "eth0")}
	for _, kind := range []string{"route ", "neighbour ", "lease "} {
		for _, ip := range stay.ips {
			suffix := ""
			if kind == "route " {
				suffix = map[bool]string{true: "/32", false: "/128"}[ip.Is4()]
			}
			want = append(want, kind+ip.String()+suffix)
		}
	}
	want = append(want, "agent c-stay/eth0")
	have := n.traces()
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("after GC\n%v, want\n%v", have, want)
	}
	n.must(func() error {
		_, subnet, _ := net.ParseCIDR("10.77.0.0/24")
		if routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: subnet}, netlink.RT_FILTER_DST); err != nil || len(routes) != 1 {
			t.Errorf("another's route: %v %v", routes, err)
		}
		return nil
	})
	stay.serve(stay.ips[0], 80)
	n.reaches(stay.ips[0])
	if err := n.check(stay); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	// The agent can't be told: the rest is done, and said.
	n.agent.stop()
	if err := n.gc(); code(err) != 11 {
		t.Errorf("GC without an agent: %v", err)
	}
	if left := n.leases(); len(left) > 0 {
		t.Errorf("leases %v", left)
	}
	// libcni's own, with attachments of its cache.
	n.agent.start()
	if err := n.cni.GCNetworkList(context.Background(), n.list(), &libcni.GCArgs{}); err != nil {
		t.Errorf("GC of libcni: %v", err)
	}
	if _, err := n.raw("GC", nil, n.conf); code(err) != 7 {
		t.Errorf("GC without a list: %v", err)
	}
}

// TestGCOfManyPods has as many attachments as CRI-O would list on a crowded node.
func TestGCOfManyPods(t *testing.T) {
	n := newNode(t, nil)
	stays, goes := newPod(t, "stays"), newPod(t, "goes")
	n.mustAdd(stays)
	n.mustAdd(goes)
	pods := []*pod{stays}
	for i := range 1000 {
		pods = append(pods, &pod{rt: &libcni.RuntimeConf{ContainerID: fmt.Sprintf("%064x", i), IfName: "eth0"}})
	}
	if err := n.gc(pods...); err != nil {
		t.Fatal(err)
	}
	if known := n.agent.known(); !slices.Equal(known, []string{"c-stays/eth0"}) {
		t.Errorf("the agent knows %v", known)
	}
	if err := n.check(stays); err != nil || len(n.leases()) != 2 {
		t.Errorf("CHECK: %v, leases %v", err, n.leases())
	}
}

func TestStatusAndVersion(t *testing.T) {
	n := newNode(t, nil)
	if err := n.cni.GetStatusNetworkList(context.Background(), n.list()); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	out, err := n.raw("VERSION", nil, "")
	var versions struct{ SupportedVersions []string }
	if err == nil {
		err = json.Unmarshal(out, &versions)
	}
	if err != nil || !slices.Contains(versions.SupportedVersions, "1.1.0") || !slices.Contains(versions.SupportedVersions, "0.3.1") {
		t.Errorf("VERSION: %v %v", versions, err)
	}
	delete(n.conf, "podCIDRs")
	if _, err := n.raw("STATUS", nil, n.conf); code(err) != 50 || !strings.Contains(err.Error(), "podCIDRs") {
		t.Errorf("STATUS without podCIDRs: %v", err)
	}
}
