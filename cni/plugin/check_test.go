package plugin_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/plugin"
)

// TestCheck changes one thing at a time.
func TestCheck(t *testing.T) {
	host := func(change func(port, bridge netlink.Link) error) func(*node, *pod) {
		return func(n *node, p *pod) {
			n.must(func() error {
				port, err := netlink.LinkByName(plugin.LinkName(p.rt.ContainerID, "eth0"))
				if err != nil {
					return err
				}
				bridge, err := netlink.LinkByName("podfence0")
				if err != nil {
					return err
				}
				return change(port, bridge)
			})
		}
	}
	inside := func(change func(link netlink.Link) error) func(*node, *pod) {
		return func(_ *node, p *pod) {
			p.must(func() error {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				return change(link)
			})
		}
	}
	_, pod6, _ := net.ParseCIDR("fd00:10:244:1::2/128")
	_, pod4, _ := net.ParseCIDR("10.244.1.2/32")
	_, gateway4, _ := net.ParseCIDR("10.244.1.1/32")
	_, all6, _ := net.ParseCIDR("::/0")
	for _, c := range []struct {
		name    string
		change  func(*node, *pod)
		code    uint
		message string
	}{
		{"nothing", func(*node, *pod) {}, 0, ""},
		{"lease", func(n *node, p *pod) {
			if err := os.Remove(filepath.Join(n.conf["dataDir"].(string), "pods", p.ips[0].String())); err != nil {
				t.Fatal(err)
			}
		}, plugin.CodeDrift, "10.244.1.2 is not leased"},
		{"leases", func(n *node, p *pod) {
			if err := os.RemoveAll(n.conf["dataDir"].(string)); err != nil {
				t.Fatal(err)
			}
		}, 3, "no addresses"},
		{"bridge", host(func(_, b netlink.Link) error { return netlink.LinkDel(b) }), plugin.CodeDrift, "podfence0 is missing"},
		{"bridge's MAC", host(func(_, b netlink.Link) error {
			return netlink.LinkSetHardwareAddr(b, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		}), plugin.CodeDrift, "MAC"},
		{"bridge down", host(func(_, b netlink.Link) error { return netlink.LinkSetDown(b) }), plugin.CodeDrift, "podfence0 is down"},
		{"gateway", host(func(_, b netlink.Link) error { return netlink.AddrDel(b, &netlink.Addr{IPNet: gateway4}) }), plugin.CodeDrift, "10.244.1.1 is missing"},
		{"link", host(func(p, _ netlink.Link) error { return netlink.LinkDel(p) }), plugin.CodeDrift, "is missing"},
		{"port", host(func(p, _ netlink.Link) error { return netlink.LinkSetNoMaster(p) }), plugin.CodeDrift, "is not in bridge podfence0"},
		{"port down", host(func(p, _ netlink.Link) error { return netlink.LinkSetDown(p) }), plugin.CodeDrift, "is down"},
		{"port's MTU", host(func(p, _ netlink.Link) error { return netlink.LinkSetMTU(p, 1400) }), plugin.CodeDrift, "its MTU is 1400, not 1450"},
		{"learning", host(func(p, _ netlink.Link) error { return netlink.LinkSetLearning(p, true) }), plugin.CodeDrift, "learning is 1"},
		{"hairpin", host(func(p, _ netlink.Link) error { return netlink.LinkSetHairpin(p, false) }), plugin.CodeDrift, "hairpin mode is 0"},
		{"flooding", host(func(p, _ netlink.Link) error { return netlink.LinkSetFlood(p, true) }), plugin.CodeDrift, "unicast flooding is 1"},
		{"FDB", host(func(p, _ netlink.Link) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: p.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, HardwareAddr: plugin.PodMAC("c-a", "eth0")})
		}), plugin.CodeDrift, "static address"},
		{"route", host(func(_, b netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: b.Attrs().Index, Dst: pod6})
		}), plugin.CodeDrift, "route to fd00:10:244:1::2/128"},
		{"neighbour", host(func(_, b netlink.Link) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: b.Attrs().Index, IP: pod4.IP})
		}), plugin.CodeDrift, "permanent neighbour 10.244.1.2"},
		{"pod's link down", inside(netlink.LinkSetDown), plugin.CodeDrift, "eth0 is down"},
		{"pod's MTU", inside(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1400) }), plugin.CodeDrift, "eth0: its MTU is 1400"},
		{"pod's MAC", inside(func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		}), plugin.CodeDrift, "its MAC is 02:00:00:00:00:01"},
		{"pod's address", inside(func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: pod6}) }), plugin.CodeDrift, "fd00:10:244:1::2 is missing"},
		{"pod's route", inside(func(l netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: all6})
		}), plugin.CodeDrift, "route to default"},
		{"pod's neighbour", inside(func(l netlink.Link) error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: gateway4.IP, State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
		}), plugin.CodeDrift, "permanent neighbour 10.244.1.1"},
		{"namespace", func(_ *node, p *pod) { p.close() }, 4, "CNI_NETNS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, nil)
			p := newPod(t, "a")
			n.mustAdd(p)
			c.change(n, p)
			err := n.check(p)
			if c.code == 0 && err == nil {
				return
			}
			if code(err) != int(c.code) || !strings.Contains(err.Error(), c.message) {
				t.Errorf("CHECK: code %d, %v", code(err), err)
			}
			// Whatever has happened, it can be undone.
			if err := n.del(p); err != nil && !strings.Contains(c.name, "MAC") {
				t.Errorf("DEL: %v", err)
			}
			if c.name != "lease" && c.name != "leases" {
				n.clean("after DEL")
			}
		})
	}
}

// TestErrorCodes is about what a runtime may get wrong.
func TestErrorCodes(t *testing.T) {
	n := newNode(t, nil)
	p := newPod(t, "a")
	const args = "CNI_ARGS=K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a"
	env := func(replace ...string) []string {
		return append([]string{"CNI_CONTAINERID=c-a", "CNI_IFNAME=eth0", "CNI_NETNS=" + p.path, args}, replace...)
	}
	conf := func(key string, value any) map[string]any {
		c := map[string]any{}
		for k, v := range n.conf {
			c[k] = v
		}
		if c[key] = value; value == nil {
			delete(c, key)
		}
		return c
	}
	taken := newPod(t, "taken")
	taken.must(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	for _, c := range []struct {
		name    string
		command string
		env     []string
		conf    any
		code    int
		message string
	}{
		{"unknown version", "ADD", env(), conf("cniVersion", "9.9.9"), 1, "incompatible"},
		{"no version", "ADD", env(), conf("cniVersion", nil), 1, "incompatible"},
		{"GC before 1.1", "GC", nil, conf("cniVersion", "1.0.0"), 1, ""},
		{"STATUS before 1.1", "STATUS", nil, conf("cniVersion", "1.0.0"), 1, ""},
		{"unknown command", "DANCE", env(), n.conf, 4, "CNI_COMMAND"},
		{"no container", "ADD", env("CNI_CONTAINERID="), n.conf, 4, "CNI_CONTAINERID"},
		{"no namespace", "ADD", env("CNI_NETNS="), n.conf, 4, "CNI_NETNS"},
		{"missing namespace", "ADD", env("CNI_NETNS=/nonexistent"), n.conf, 4, "CNI_NETNS"},
		{"file for namespace", "ADD", env("CNI_NETNS=/etc/passwd"), n.conf, 4, "CNI_NETNS"},
		{"other namespace", "ADD", env("CNI_NETNS=/proc/self/ns/uts"), n.conf, 4, "CNI_NETNS"},
		{"own namespace", "ADD", env("CNI_NETNS=" + n.path), n.conf, 8, "CNI_NETNS"},
		{"no pod", "ADD", env("CNI_ARGS=K8S_POD_NAME=a"), n.conf, 4, "K8S_POD_NAMESPACE"},
		{"no args", "ADD", env("CNI_ARGS="), n.conf, 4, "CNI_ARGS"},
		{"bad args", "ADD", env("CNI_ARGS=K8S_POD_NAME"), n.conf, 4, "not of the form"},
		{"no JSON", "ADD", env(), "}", 6, ""},
		{"wrong type", "ADD", env(), conf("mtu", "big"), 6, "mtu"},
		{"no name", "ADD", env(), conf("name", nil), 7, "name"},
		{"mode", "ADD", env(), conf("mode", "turbo"), 7, "turbo"},
		{"mtu", "ADD", env(), conf("mtu", 100), 7, "mtu 100"},
		{"bridge", "ADD", env(), conf("bridge", "a/b"), 7, "bridge"},
		{"timeout", "ADD", env(), conf("timeout", -1), 7, "timeout"},
		{"dataDir", "ADD", env(), conf("dataDir", "leases"), 7, "dataDir"},
		{"socket", "ADD", env(), conf("socket", "agent.sock"), 7, "socket"},
		{"no ranges", "ADD", env(), conf("podCIDRs", nil), 7, "podCIDRs"},
		{"host bits", "ADD", env(), conf("podCIDRs", []string{"10.244.1.7/24"}), 7, "10.244.1.0/24"},
		{"too small", "ADD", env(), conf("podCIDRs", []string{"10.244.1.0/31"}), 7, "too small"},
		{"two of a family", "ADD", env(), conf("podCIDRs", []string{"10.244.1.0/24", "10.244.2.0/24"}), 7, "one range of each family"},
		{"multicast", "ADD", env(), conf("podCIDRs", []string{"ff02::/16"}), 7, "unicast"},
		{"mapped", "ADD", env(), conf("podCIDRs", []string{"::ffff:10.0.0.0/104"}), 7, "IPv4"},
		{"CHECK without a result", "CHECK", env(), n.conf, 7, "prevResult"},
		{"bad result", "CHECK", env(), conf("prevResult", map[string]any{"cniVersion": "1.1.0", "ips": "many"}), 7, "prevResult"},
		{"link is taken", "ADD", env("CNI_NETNS=" + taken.path), n.conf, 999, "another one of that name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := n.raw(c.command, c.env, c.conf)
			if code(err) != c.code || !strings.Contains(err.Error(), c.message) {
				t.Errorf("code %d, %v", code(err), err)
			}
			n.clean("after the error")
		})
	}
	// What others want of a plugin is no error.
	if _, err := n.raw("ADD", env(args+";IP=1.2.3.4;X=a=b;"), conf("runtimeConfig", map[string]any{"portMappings": []int{1}})); err != nil {
		t.Errorf("unknown arguments: %v", err)
	}
	n.mustDel(p)
}

// TestForeignBridge has another's bridge, or no bridge, under the name.
func TestForeignBridge(t *testing.T) {
	for _, kind := range []string{"bridge", "veth"} {
		n, p := newNode(t, nil), newPod(t, "a")
		n.must(func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "podfence0"
			if kind == "bridge" {
				return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
			}
			veth := netlink.NewVeth(attrs)
			veth.PeerName = "other"
			return netlink.LinkAdd(veth)
		})
		if _, err := n.add(p); err == nil || !strings.Contains(err.Error(), "bridge podfence0") {
			t.Errorf("%s: ADD: %v", kind, err)
		}
		if err := errors.Join(n.del(p), n.gcUnless(kind)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		n.clean("after DEL")
	}
}

// gcUnless expects GC to refuse what is not podfence's.
func (n *node) gcUnless(kind string) error {
	if err := n.gc(); err == nil || !strings.Contains(err.Error(), "bridge podfence0") {
		return errors.Join(errors.New("GC on another's "+kind), err)
	}
	return nil
}
