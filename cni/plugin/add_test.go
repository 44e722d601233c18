package plugin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/cni/plugin"
)

func TestConnectivity(t *testing.T) {
	n := newNode(t, nil)
	a, b := newPod(t, "a"), newPod(t, "b")
	for _, p := range []*pod{a, b} {
		n.mustAdd(p)
		// No waiting: the first packet counts.
		for _, ip := range p.ips {
			p.serve(ip, 80)
			n.reaches(ip)
		}
	}
	for _, ip := range nodeIPs {
		n.serve(ip, 80)
	}
	for _, pair := range [][2]*pod{{a, b}, {b, a}, {a, a}} {
		for _, ip := range pair[1].ips {
			pair[0].reaches(ip, pair[0].ips...)
		}
	}
	for _, ip := range nodeIPs {
		a.reaches(ip, a.ips...)
	}
	// Nobody had to ask for an address, and nobody was told of another way.
	for _, p := range []*pod{a, b} {
		p.must(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, neigh := range neighbours {
				if neigh.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) == 0 {
					t.Errorf("neighbour %v", neigh)
				}
			}
			return nil
		})
	}
	for _, p := range []*pod{a, b} {
		if err := n.check(p); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		n.mustDel(p)
	}
	n.clean("after DEL")
}

func TestResult(t *testing.T) {
	n := newNode(t, map[string]any{"dns": map[string]any{"nameservers": []string{"10.96.0.10"}}})
	p := newPod(t, "a")
	r := n.mustAdd(p)
	if want := parse("10.244.1.2", "fd00:10:244:1::2"); !slices.Equal(p.ips, want) {
		t.Errorf("addresses %v, want %v", p.ips, want)
	}
	if len(r.Interfaces) != 3 || r.Interfaces[2].Sandbox != p.path || r.Interfaces[2].Mtu != uplinkMTU {
		t.Errorf("interfaces %v", r.Interfaces)
	}
	for i, gateway := range []string{"10.244.1.1", "fd00:10:244:1::1"} {
		ones, bits := r.IPs[i].Address.Mask.Size()
		if *r.IPs[i].Interface != 2 || ones != bits || r.IPs[i].Gateway.String() != gateway || r.Routes[i].GW.String() != gateway {
			t.Errorf("address %v, route %v", r.IPs[i], r.Routes[i])
		}
	}
	if len(r.DNS.Nameservers) != 1 {
		t.Errorf("DNS %v", r.DNS)
	}
	want := handshake.Request{
		Version: handshake.Version, Op: handshake.OpAdd, ContainerID: "c-a", IfName: "eth0", Mode: handshake.ModeBridge,
		Pod: handshake.Pod{Namespace: "shop", Name: "a", UID: "uid-a"}, IPs: p.ips,
		MAC: plugin.PodMAC("c-a", "eth0").String(), HostInterface: plugin.LinkName("c-a", "eth0"), NetNS: p.path,
	}
	if said := n.agent.said(p); fmt.Sprint(said) != fmt.Sprint(want) {
		t.Errorf("the agent was told\n%+v, want\n%+v", said, want)
	}
	if r.Interfaces[1].Name != want.HostInterface || r.Interfaces[2].Mac != want.MAC {
		t.Errorf("interfaces %v", r.Interfaces)
	}
	p.must(func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil && (link.Attrs().MTU != uplinkMTU || link.Attrs().HardwareAddr.String() != want.MAC) {
			t.Errorf("link in the pod %+v", link.Attrs())
		}
		return err
	})
}

// The node's bridge keeps its MAC, and its ports don't learn or get flooded.
func TestBridge(t *testing.T) {
	n := newNode(t, map[string]any{"bridge": "br.pods"})
	a, b := newPod(t, "a"), newPod(t, "b")
	for _, p := range []*pod{a, b} {
		n.mustAdd(p)
	}
	n.mustDel(a)
	n.must(func() error {
		link, err := netlink.LinkByName("br.pods")
		if err != nil {
			return err
		}
		bridge := link.(*netlink.Bridge)
		if !bytes.Equal(bridge.HardwareAddr, plugin.BridgeMAC("br.pods")) || bridge.MulticastSnooping != nil && *bridge.MulticastSnooping {
			t.Errorf("bridge %+v", bridge)
		}
		for name, want := range map[string]string{"ipv4/conf/br.pods/send_redirects": "0", "ipv4/conf/br.pods/forwarding": "1", "ipv4/conf/br.pods/accept_source_route": "0", "ipv6/conf/br.pods/accept_source_route": "-1", "ipv6/conf/br.pods/forwarding": "1"} {
			if got, err := os.ReadFile("/proc/sys/net/" + name); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: %s %v", name, got, err)
			}
		}
		port, err := netlink.LinkByName(plugin.LinkName("c-b", "eth0"))
		if err != nil {
			return err
		}
		if info, err := netlink.LinkGetProtinfo(port); err != nil || info.Learning || info.Flood {
			t.Errorf("port %+v: %v", info, err)
		}
		return nil
	})
}

// TestClosedUntilAnswered has a pod that sends from before ADD on.
func TestClosedUntilAnswered(t *testing.T) {
	n, p := newNode(t, nil), newPod(t, "a")
	var mu sync.Mutex
	var answered, first time.Time
	n.agent.setAnswer(func(_ context.Context, r handshake.Request) error {
		time.Sleep(200 * time.Millisecond)
		err := n.do(func() error {
			link, err := netlink.LinkByName(r.HostInterface)
			if err == nil && (link.Attrs().MasterIndex != 0 || link.Attrs().Flags&net.FlagUp != 0) {
				err = errors.New("the pod's link can pass frames before the agent has answered")
			}
			return err
		})
		mu.Lock()
		answered = time.Now()
		mu.Unlock()
		return err
	})
	var receiver net.PacketConn
	n.must(func() (err error) {
		receiver, err = net.ListenPacket("udp", "192.0.2.1:53")
		return err
	})
	defer receiver.Close()
	received := make(chan struct{})
	go func() {
		defer close(received)
		if _, _, err := receiver.ReadFrom(make([]byte, 64)); err == nil {
			mu.Lock()
			first = time.Now()
			mu.Unlock()
		}
	}()
	var socket int
	p.must(func() (err error) {
		socket, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	defer unix.Close(socket)
	sent, stop := 0, make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				if unix.Sendto(socket, []byte("x"), 0, &unix.SockaddrInet4{Port: 53, Addr: [4]byte{192, 0, 2, 1}}) == nil {
					sent++
				}
			}
		}
	})
	n.mustAdd(p)
	<-received
	close(stop)
	wait.Wait()
	if first.Before(answered) || sent == 0 {
		t.Errorf("first packet of %d %v after the agent's answer", sent, first.Sub(answered))
	}
}

func TestConcurrentAdds(t *testing.T) {
	const count = 50
	// So many processes at once take a while on a slow machine, and none of them
	// has anybody here that would try again.
	n := newNode(t, map[string]any{"timeout": 60})
	pods := make([]*pod, count)
	for i := range pods {
		pods[i] = newPod(t, fmt.Sprint(i))
	}
	each := func(f func(p *pod) error) {
		var wait sync.WaitGroup
		for i, p := range pods {
			wait.Go(func() {
				if err := f(p); err != nil {
					t.Errorf("pod %d: %v", i, err)
				}
			})
		}
		wait.Wait()
	}
	each(func(p *pod) error { _, err := n.add(p); return err })
	seen := map[netip.Addr]bool{}
	for _, p := range pods {
		for _, ip := range p.ips {
			if seen[ip] {
				t.Errorf("%s is given twice", ip)
			}
			seen[ip] = true
		}
	}
	if len(seen) != 2*count || len(n.leases()) != 2*count {
		t.Fatalf("%d addresses, %d leases", len(seen), len(n.leases()))
	}
	for i, p := range pods {
		next := pods[(i+1)%count]
		next.serve(next.ips[i%2], 80)
		p.reaches(next.ips[i%2], p.ips...)
	}
	each(n.check)
	each(n.del)
	n.clean("after DEL")
}

func TestExhaustion(t *testing.T) {
	for _, c := range []struct {
		cidrs   []string
		pods    int
		message string
	}{
		{[]string{"10.244.1.8/29", "fd00::/64"}, 5, "10.244.1.8/29: 5 of 5 are in use"},
		{[]string{"10.244.1.0/24", "fd00::4/126"}, 2, "fd00::4/126: 2 of 2 are in use"},
	} {
		n := newNode(t, map[string]any{"podCIDRs": c.cidrs})
		var pods []*pod
		for i := range c.pods {
			pods = append(pods, newPod(t, fmt.Sprint(i)))
			n.mustAdd(pods[i])
		}
		before := n.traces()
		late := newPod(t, "late")
		_, err := n.add(late)
		if code(err) != int(plugin.CodeExhausted) || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%v: error %v", c.cidrs, err)
		}
		if after := n.traces(); !slices.Equal(before, after) {
			t.Errorf("%v: before %v, after %v", c.cidrs, before, after)
		}
		n.mustDel(pods[0])
		n.mustAdd(late)
	}
}

// An address that is given back is given again as late as possible.
func TestRoundRobin(t *testing.T) {
	n := newNode(t, map[string]any{"podCIDRs": []string{"10.244.1.0/29"}})
	var got []netip.Addr
	for i := range 6 {
		p := newPod(t, fmt.Sprint(i))
		n.mustAdd(p)
		got = append(got, p.ips...)
		n.mustDel(p)
	}
	if want := parse("10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6", "10.244.1.2"); !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}

func TestMTU(t *testing.T) {
	n := newNode(t, map[string]any{"mtu": 1300})
	p := newPod(t, "a")
	if r := n.mustAdd(p); r.Interfaces[2].Mtu != 1300 {
		t.Errorf("MTU %d", r.Interfaces[2].Mtu)
	}
	n = newNode(t, nil)
	n.must(func() error {
		link, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	p = newPod(t, "a")
	if r := n.mustAdd(p); r.Interfaces[2].Mtu != 1500 {
		t.Errorf("MTU without an uplink %d", r.Interfaces[2].Mtu)
	}
}

func TestOneFamily(t *testing.T) {
	for _, cidr := range []string{"10.244.1.0/24", "fd00:10:244:1::/64"} {
		n := newNode(t, map[string]any{"podCIDRs": []string{cidr}})
		a, b := newPod(t, "a"), newPod(t, "b")
		n.mustAdd(a)
		n.mustAdd(b)
		if len(b.ips) != 1 {
			t.Fatalf("addresses %v", b.ips)
		}
		b.serve(b.ips[0], 80)
		a.reaches(b.ips[0], a.ips...)
		n.reaches(b.ips[0])
		if err := n.check(a); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
}
