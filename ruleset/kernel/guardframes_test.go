package kernel_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// markMagic begins the mark at the end of each frame; its number follows.
const markMagic = "pfGd"

func markOf(number int) []byte {
	return binary.BigEndian.AppendUint32([]byte("\x00\x00\x00\x00\x00\x00"+markMagic), uint32(number))
}

// watch notes where marked frames arrive.
type watch struct {
	mu      sync.Mutex
	arrived map[int][]string
}

func (w *watch) note(data []byte, where string) {
	if len(data) < 8 || string(data[len(data)-8:len(data)-4]) != markMagic {
		return
	}
	number := int(binary.BigEndian.Uint32(data[len(data)-4:]))
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.arrived[number], where) {
		w.arrived[number] = append(w.arrived[number], where)
	}
}

func (w *watch) at(number int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.arrived[number])
	return slices.Clone(w.arrived[number])
}

// packets notes all frames that come in by a link of the namespace.
func (w *watch) packets(n *namespace, link, where string) {
	n.t.Helper()
	fd := -1
	n.do("packet socket", func() (err error) {
		index, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) /* in network order */, Ifindex: index.Index})
	})
	stop, done := make(chan struct{}), make(chan struct{})
	n.t.Cleanup(func() { close(stop); <-done; _ = unix.Close(fd) })
	go func() {
		defer close(done)
		buffer := make([]byte, 2048)
		for {
			if count, _, err := unix.Recvfrom(fd, buffer, 0); err == nil {
				w.note(buffer[:count], where)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
}

// datagrams notes what the node's own stack receives, by whatever link.
func (w *watch) datagrams(n *namespace, where string) {
	n.t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		var conn net.PacketConn
		n.do("listen", func() (err error) {
			conn, err = net.ListenPacket(network, ":9999")
			return err
		})
		n.t.Cleanup(func() { _ = conn.Close() })
		go func() {
			buffer := make([]byte, 2048)
			for {
				count, _, err := conn.ReadFrom(buffer)
				if err != nil {
					return
				}
				w.note(buffer[:count], where)
			}
		}()
	}
}

// send sends a whole frame from the pod.
func (p *guardPod) send(frame []byte) {
	p.t.Helper()
	p.do("send a frame", func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index})
	})
}

type mac = [6]byte

func ether(dst, src mac, etherType uint16, payload []byte) []byte {
	return slices.Concat(dst[:], src[:], binary.BigEndian.AppendUint16(nil, etherType), payload)
}

// packet is a whole IP packet to UDP port 9999, or an ICMPv6 message, with a mark.
func packet(t *testing.T, number int, src, dst string, icmpType uint8) []byte {
	t.Helper()
	p := policy.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: policy.UDP, DstPort: 9999}
	if icmpType != 0 {
		p.Protocol, p.ICMPType, p.HopLimit = policy.ICMPv6, icmpType, 255
	}
	data, err := lab.Craft(p, 4711, markOf(number))
	if err != nil {
		t.Fatal(err)
	}
	if p.Src.Is4() {
		sum := uint32(0)
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(data[i:]))
		}
		binary.BigEndian.PutUint16(data[10:], ^uint16(sum+sum>>16))
	}
	return data
}

func arp(number int, operation uint16, senderMAC mac, sender string, target string) []byte {
	from, to := netip.MustParseAddr(sender).As4(), netip.MustParseAddr(target).As4()
	message := binary.BigEndian.AppendUint16([]byte{0, 1, 8, 0, 6, 4}, operation)
	return slices.Concat(message, senderMAC[:], from[:], make([]byte, 6), to[:], markOf(number))
}

// frame is one that a pod sends, and where it arrives without the guard, if it is
// known; with the guard, nowhere, or there too.
type frame struct {
	name    string
	bytes   func(number int) []byte
	without string
	with    bool
}

// frames are what the pod a sends.
func (l *guardLab) frames(t *testing.T) []frame {
	a, b, gw := l.a.MAC, l.b.MAC, l.gateway.MAC
	const a4, b4, gw4, node4, a6, b6, gw6 = "10.244.1.2", "10.244.1.3", "10.244.1.1", "192.0.2.1", "fd00:10:244:1::2", "fd00:10:244:1::3", "fd00:10:244:1::1"
	all, allNodes, asked := mac{255, 255, 255, 255, 255, 255}, mac{0x33, 0x33, 5: 1}, mac{0x33, 0x33, 0xff, 0, 0, 1}
	reserved := mac{0x01, 0x80, 0xc2, 0, 0, 3}
	ip4 := func(dst, src mac, from, to string) func(int) []byte {
		return func(n int) []byte { return ether(dst, src, unix.ETH_P_IP, packet(t, n, from, to, 0)) }
	}
	ip6 := func(dst, src mac, from, to string, icmpType uint8) func(int) []byte {
		return func(n int) []byte { return ether(dst, src, unix.ETH_P_IPV6, packet(t, n, from, to, icmpType)) }
	}
	ask := func(dst, src mac, operation uint16, senderMAC mac, sender, target string) func(int) []byte {
		return func(n int) []byte {
			return ether(dst, src, unix.ETH_P_ARP, arp(n, operation, senderMAC, sender, target))
		}
	}
	tagged := func(outer, vid uint16, inner func(int) []byte) func(int) []byte {
		return func(n int) []byte {
			f := inner(n)
			tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, outer), vid)
			return slices.Concat(f[:12], tag, f[12:])
		}
	}
	raw := func(dst mac, etherType uint16) func(int) []byte {
		return func(n int) []byte { return ether(dst, a, etherType, slices.Concat(make([]byte, 46), markOf(n))) }
	}
	own, own6 := ip4(gw, a, a4, node4), ip6(gw, a, a6, gw6, 0)
	return []frame{
		{"IPv4 to the node", own, "bridge node", true},
		{"IPv4 to a pod", ip4(gw, a, a4, b4), "b bridge", true},
		{"IPv6 to the node", own6, "bridge node", true},
		{"IPv6 to a pod", ip6(gw, a, a6, b6, 0), "b bridge", true},
		{"ARP for the gateway, to the gateway", ask(gw, a, 1, a, a4, gw4), "bridge", true},
		{"ARP answer to the gateway", ask(gw, a, 2, a, a4, node4), "bridge", true},
		{"advertisement to the gateway", ip6(gw, a, a6, gw6, 136), "bridge", true},

		{"IPv4 to the neighbour's MAC", ip4(b, a, a4, b4), "b", false},
		{"IPv6 to the neighbour's MAC", ip6(b, a, a6, b6, 0), "b", false},
		{"IPv4 from another MAC", ip4(gw, mac{2, 5: 9}, a4, node4), "bridge node", false},
		{"IPv4 from the neighbour's MAC", ip4(gw, b, a4, node4), "", false},
		{"IPv4 from the gateway's MAC", ip4(b, gw, a4, b4), "", false},
		{"IPv4 from the neighbour's address", ip4(gw, a, b4, node4), "bridge node", false},
		{"IPv4 from the neighbour, all of it", ip4(gw, b, b4, node4), "", false},
		{"IPv4 from an address of nobody", ip4(gw, a, "10.9.9.9", "10.244.2.2"), "bridge outside", false},
		{"IPv4 from the gateway's address", ip4(gw, a, gw4, b4), "", false},
		{"IPv6 from the neighbour's address", ip6(gw, a, b6, gw6, 0), "bridge node", false},
		{"IPv6 from a link-local address", ip6(gw, a, "fe80::858:aff:fef4:102", gw6, 0), "bridge node", false},
		{"IPv4 broadcast", ip4(all, a, a4, "255.255.255.255"), "b bridge node", false},
		{"IPv4 to a pod, broadcast", ip4(all, a, a4, b4), "b bridge", false},
		{"IPv4 multicast", ip4(mac{1, 0, 0x5e, 0, 0, 251}, a, a4, "224.0.0.251"), "b bridge", false},
		{"IPv6 to all nodes", ip6(allNodes, a, a6, "ff02::1", 0), "b bridge node", false},
		{"DHCP", ip4(all, a, "0.0.0.0", "255.255.255.255"), "b bridge node", false},
		{"router advertisement", ip6(allNodes, a, "fe80::858:aff:fef4:102", "ff02::1", 134), "b bridge", false},
		{"router advertisement to the gateway", ip6(gw, a, a6, gw6, 134), "bridge", false},
		{"router solicitation", ip6(mac{0x33, 0x33, 5: 2}, a, a6, "ff02::2", 133), "b bridge", false},
		{"redirect to the gateway", ip6(gw, a, a6, gw6, 137), "bridge", false},
		{"listener report", ip6(mac{0x33, 0x33, 5: 22}, a, a6, "ff02::16", 143), "b bridge", false},
		{"solicitation for the neighbour", ip6(mac{0x33, 0x33, 0xff, 0, 0, 3}, a, a6, "ff02::1:ff00:3", 135), "b bridge", false},
		{"solicitation for the gateway to the neighbour", ip6(b, a, a6, "ff02::1:ff00:1", 135), "b", false},
		{"solicitation from the neighbour", ip6(asked, a, b6, "ff02::1:ff00:1", 135), "b bridge", false},
		{"solicitation from nobody yet", ip6(asked, a, "::", "ff02::1:ff00:1", 135), "b bridge", false},
		{"advertisement to all", ip6(allNodes, a, a6, "ff02::1", 136), "b bridge", false},
		{"advertisement to the neighbour", ip6(b, a, gw6, b6, 136), "b", false},
		{"datagram to the gateway's group", ip6(asked, a, a6, "ff02::1:ff00:1", 0), "", false},
		{"ARP for the neighbour", ask(all, a, 1, a, a4, b4), "b bridge", false},
		{"ARP to the neighbour", ask(b, a, 2, a, gw4, b4), "b", false},
		{"ARP from the neighbour's address", ask(gw, a, 2, a, b4, gw4), "bridge", false},
		{"ARP from the gateway's address", ask(all, a, 1, a, gw4, gw4), "b bridge", false},
		{"ARP with the neighbour's MAC in it", ask(gw, a, 2, b, a4, gw4), "bridge", false},
		{"ARP from another MAC", ask(gw, mac{2, 5: 9}, 2, a, a4, gw4), "bridge", false},
		{"ARP to tell all", ask(all, a, 1, a, a4, a4), "b bridge", false},
		{"VLAN tag 5", tagged(0x8100, 5, own), "bridge", false},
		{"VLAN tag 0", tagged(0x8100, 0, own), "bridge node", false},
		{"VLAN tag 0 on IPv6", tagged(0x8100, 0, own6), "bridge node", false},
		{"VLAN tag 0 to the neighbour", tagged(0x8100, 0, ip4(b, a, a4, b4)), "b", false},
		{"802.1ad tag 0", tagged(0x88a8, 0, own), "bridge node", false},
		{"two tags", tagged(0x88a8, 0, tagged(0x8100, 0, own)), "", false},
		{"EAPOL", raw(reserved, unix.ETH_P_PAE), "", false},
		{"IPv4 to a reserved group", ip4(reserved, a, a4, node4), "node", false},
		{"IPv4 to a reserved group from the neighbour", ip4(reserved, a, b4, node4), "node", false},
		{"IPv6 to a reserved group from the neighbour", ip6(mac{0x01, 0x80, 0xc2, 0, 0, 0x0e}, a, b6, gw6, 0), "node", false},
		{"spanning tree", raw(mac{0x01, 0x80, 0xc2}, 39), "", false},
		{"LLDP", raw(mac{0x01, 0x80, 0xc2, 0, 0, 0x0e}, 0x88cc), "", false},
		{"PPPoE", raw(gw, unix.ETH_P_PPP_SES), "bridge", false},
		{"IPX to all", raw(all, unix.ETH_P_IPX), "b bridge", false},
		{"local experimental, to the neighbour", raw(b, 0x88b5), "b", false},
	}
}

// TestGuardFrames sends frames as a pod with all rights in its own namespace can,
// without the guard, to see that they would arrive, and with it.
func TestGuardFrames(t *testing.T) {
	withAndWithout(t, func(t *testing.T, l *guardLab) {
		w := &watch{arrived: map[int][]string{}}
		w.packets(l.b.namespace, "eth0", "b")
		w.packets(l.node, bridgeName, "bridge")
		w.packets(l.outside, "eth0", "outside")
		w.datagrams(l.node, "node")
		w.datagrams(l.b.namespace, "b") // or it would send them back, in an error
		frames := l.frames(t)
		send := func(first int) {
			for i, f := range frames {
				l.a.send(f.bytes(first + i))
			}
			time.Sleep(300 * time.Millisecond)
		}
		send(0)
		l.guard()
		send(1000)
		for i, f := range frames {
			without, with := strings.Join(w.at(i), " "), strings.Join(w.at(1000+i), " ")
			if f.without != "" && without != f.without {
				t.Errorf("%s: without the guard, arrives at %q, want %q", f.name, without, f.without)
			}
			if want := map[bool]string{true: f.without}[f.with]; with != want {
				t.Errorf("%s: with the guard, arrives at %q, want %q", f.name, with, want)
			}
		}
		l.node.expectDrops(t, true)
	})
}

// TestGuardLearning: with learning off, a frame that no rule of the bridge's
// family sees does not draw a neighbour's traffic to the port that it came by.
func TestGuardLearning(t *testing.T) {
	withAndWithout(t, func(t *testing.T, l *guardLab) {
		l.guard()
		l.b.listen()
		for _, group := range []byte{0, 3, 0x0e} {
			l.a.send(ether(mac{0x01, 0x80, 0xc2, 0, 0, group}, l.b.MAC, unix.ETH_P_IP, packet(t, 1, "10.244.1.2", "192.0.2.1", 0)))
			expect(t, l.node, "10.244.1.3", "10.244.1.1")
		}
	})
}

// TestGuardQuestions: what a pod asks all for the gateway reaches only the node.
func TestGuardQuestions(t *testing.T) {
	withAndWithout(t, func(t *testing.T, l *guardLab) {
		l.guard()
		w := &watch{arrived: map[int][]string{}}
		w.packets(l.b.namespace, "eth0", "b")
		w.packets(l.node, bridgeName, "bridge")
		a := l.a.MAC
		l.a.send(ether(mac{255, 255, 255, 255, 255, 255}, a, unix.ETH_P_ARP, arp(1, 1, a, "10.244.1.2", "10.244.1.1")))
		l.a.send(ether(mac{0x33, 0x33, 0xff, 0, 0, 1}, a, unix.ETH_P_IPV6, packet(t, 2, "fd00:10:244:1::2", "ff02::1:ff00:1", 135)))
		time.Sleep(200 * time.Millisecond)
		for number := range 2 {
			if at := w.at(number + 1); !slices.Equal(at, []string{"bridge"}) {
				t.Errorf("question %d arrives at %v", number+1, at)
			}
		}
	})
}

// TestGuardAroundGateway has a pod use its kernel to go round: routes to its
// neighbours on the link, another hardware address, another address.
func TestGuardAroundGateway(t *testing.T) {
	withAndWithout(t, func(t *testing.T, l *guardLab) {
		l.b.listen()
		l.node.listen()
		onLink := func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			for _, addr := range l.b.IPs {
				if err := netlink.RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: hostPrefix(addr), Scope: netlink.SCOPE_LINK}); err != nil {
					return err
				}
				if err := neighbour(eth0, addr, l.b.MAC); err != nil {
					return err
				}
			}
			return nil
		}
		l.a.do("routes on the link", onLink)
		// The way back goes by the gateway, as it should; one way is enough.
		expect(t, l.a.namespace, "10.244.1.3", "10.244.1.2")
		expect(t, l.a.namespace, "fd00:10:244:1::3", "fd00:10:244:1::2")
		l.guard()
		expect(t, l.a.namespace, "10.244.1.3", "")
		expect(t, l.a.namespace, "fd00:10:244:1::3", "")
		expect(t, l.a.namespace, "10.244.1.1", "10.244.1.2")
		l.a.do("another hardware address", func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.LinkSetHardwareAddr(eth0, net.HardwareAddr{2, 0, 0, 0, 0, 9})
		})
		expect(t, l.a.namespace, "10.244.1.1", "")
		l.a.do("the own again, another address", func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetHardwareAddr(eth0, l.a.MAC[:]); err != nil {
				return err
			}
			if err := address(eth0, "10.244.1.77/32"); err != nil {
				return err
			}
			return netlink.AddrDel(eth0, &netlink.Addr{IPNet: hostPrefix(l.a.IPs[0])})
		})
		expect(t, l.a.namespace, "10.244.1.1", "")
		l.node.expectDrops(t, true)
	})
}
