package plugin_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/plugin"
)

// interfaceOf is another interface of the same pod, as Multus adds it by the same
// configuration.
func (p *pod) interfaceOf(name string) *pod {
	rt := *p.rt
	rt.IfName = name
	return &pod{space: p.space, rt: &rt}
}

// defaults are the links of the pod's default routes, IPv4 before IPv6.
func (p *pod) defaults() (names []string) {
	p.t.Helper()
	p.must(func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				link, err := netlink.LinkByIndex(r.LinkIndex)
				if err != nil {
					return err
				}
				names = append(names, link.Attrs().Name)
			}
		}
		return nil
	})
	return names
}

// ownRules counts the pod's rules that are the plugin's.
func (p *pod) ownRules() (n int) {
	p.t.Helper()
	p.must(func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		for _, r := range rules {
			if r.Priority == 28774 {
				n++
			}
		}
		return err
	})
	return n
}

// TestSecondInterface: it takes nothing from the first, both work, and each ends alone.
func TestSecondInterface(t *testing.T) {
	n := newNode(t, nil)
	eth0 := newPod(t, "a")
	net1, net2 := eth0.interfaceOf("net1"), eth0.interfaceOf("net2")
	other := newPod(t, "other")
	n.mustAdd(other)
	if routes := n.mustAdd(eth0).Routes; len(routes) != 2 {
		t.Errorf("routes of the first interface: %v", routes)
	}
	port := uint16(8000)
	works := func(when string, interfaces ...*pod) {
		t.Helper()
		if have := eth0.defaults(); !slices.Equal(have, []string{"eth0", "eth0"}) {
			t.Errorf("%s, the pod's default routes are by %v", when, have)
		}
		for _, p := range interfaces {
			if err := n.check(p); err != nil {
				t.Errorf("%s, CHECK of %s: %v", when, p.rt.IfName, err)
			}
			for _, ip := range p.ips {
				port++
				eth0.serve(ip, port)
				for from, s := range map[string]*space{"the node": n.space, "another pod": other.space} {
					if _, err := s.talk(ip, port); err != nil {
						t.Errorf("%s, from %s to %s of %s: %v", when, from, ip, p.rt.IfName, err)
					}
				}
			}
		}
	}
	works("one", eth0)
	for _, p := range []*pod{net1, net2} {
		if result := n.mustAdd(p); len(result.Routes) > 0 || len(result.IPs) != 2 {
			t.Errorf("%s: routes %v, addresses %v", p.rt.IfName, result.Routes, result.IPs)
		}
	}
	works("three", eth0, net1, net2)
	// Not every runtime lists what Multus has added.
	if err := n.gc(eth0, other); err != nil {
		t.Errorf("GC: %v", err)
	}
	works("three, after a GC", eth0, net1, net2)
	if rules := eth0.ownRules(); rules != 8 {
		t.Errorf("%d rules, want 4 of each", rules)
	}
	// What is bound to an interface leaves by it.
	other.serve(other.ips[0], 9000)
	seen, err := eth0.talkBound("net1", other.ips[0], 9000)
	if err != nil || seen != net1.ips[0] {
		t.Errorf("bound to net1: seen as %v, %v", seen, err)
	}
	// CHECK sees what is missing.
	eth0.must(func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_V4)
		for i := range rules {
			if rules[i].Priority == 28774 && rules[i].OifName == "net2" {
				err = errors.Join(err, netlink.RuleDel(&rules[i]))
			}
		}
		return err
	})
	if err := n.check(net2); code(err) != int(plugin.CodeDrift) {
		t.Errorf("CHECK without a rule: %v", err)
	}
	n.mustDel(net2)
	works("two", eth0, net1)
	n.mustDel(net1)
	works("alone", eth0)
	// The rules of interfaces that are gone go with the next.
	n.mustAdd(net1)
	works("two again", eth0, net1)
	if rules := eth0.ownRules(); rules != 4 {
		t.Errorf("%d rules, want net1's alone", rules)
	}
	// Without its link it is gone, whoever lists it.
	n.must(func() error {
		link, err := netlink.LinkByName(plugin.LinkName("c-a", "net1"))
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	if err := n.gc(eth0, other); err != nil {
		t.Fatal(err)
	}
	works("after GC", eth0)
	for _, ip := range net1.ips {
		if slices.Contains(n.leases(), ip.String()) {
			t.Errorf("net1 still has %s", ip)
		}
	}
	n.mustDel(net1)
	n.mustDel(eth0)
	n.mustDel(other)
	n.clean("at the end")
}

// TestInterfaceBesideAnothers: the first interface is another plugin's, of one family;
// the default route of the other family is there for the taking.
func TestInterfaceBesideAnothers(t *testing.T) {
	n := newNode(t, nil)
	p := newPod(t, "a").interfaceOf("net1")
	p.must(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "away"}); err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.9.0.7/24")
		return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link),
			netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: netip.MustParseAddr("10.9.0.1").AsSlice()}))
	})
	result := n.mustAdd(p)
	if have := p.defaults(); !slices.Equal(have, []string{"eth0", "net1"}) {
		t.Errorf("default routes by %v", have)
	}
	if got := routesOf(result); got != "[::/0]" {
		t.Errorf("routes %s", got)
	}
	if err := n.check(p); err != nil {
		t.Error(err)
	}
	for i, ip := range p.ips {
		p.serve(ip, uint16(8000+i))
		if _, err := n.talk(ip, uint16(8000+i)); err != nil {
			t.Errorf("to %s: %v", ip, err)
		}
	}
}

func routesOf(r *current.Result) string {
	var all []string
	for _, route := range r.Routes {
		all = append(all, route.Dst.String())
	}
	return fmt.Sprint(all)
}
