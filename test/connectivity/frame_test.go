package connectivity_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/lab"
)

// frame is an Ethernet frame; tags are those of VLANs, outermost first.
func frame(dst, src net.HardwareAddr, tags []uint16, kind uint16, payload []byte) []byte {
	b := append(bytes.Clone(dst), src...)
	for _, tag := range tags {
		b = binary.BigEndian.AppendUint16(b, tag)
		b = binary.BigEndian.AppendUint16(b, 1)
	}
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

// mark is in each forged packet. Its length lets neighbour discovery have it in
// an option.
var mark = []byte("forged by pods")

// packet is an IP packet, and the type of the frames that it goes in.
func packet(p policy.Packet) (kind uint16, b []byte, err error) {
	if b, err = lab.Craft(p, 4321, mark); err != nil {
		return 0, nil, err
	}
	if p.Dst.Is6() {
		return unix.ETH_P_IPV6, b, nil
	}
	var sum uint32 // the header's own, which the kernel does not fill in here
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	return unix.ETH_P_IP, b, nil
}

// arp is a message that says that an address has a MAC (RFC 826).
func arp(operation uint16, mac net.HardwareAddr, sender netip.Addr, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(operation >> 8), byte(operation)}
	b = append(append(b, mac...), sender.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

// inject sends frames by a host's interface, past its IP stack.
func inject(h *lab.Host, frames [][]byte) error {
	return h.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: eth0.Attrs().Index}); err != nil {
				return fmt.Errorf("frame %x: %w", f, err)
			}
		}
		return nil
	})
}

// tap is a socket that receives each frame that comes to a host's interface,
// whomever it is for.
type tap struct {
	host *lab.Host
	fd   int
}

func (c *cluster) tap(h *lab.Host) *tap {
	c.t.Helper()
	t := &tap{host: h}
	c.must(h.Do(func() (err error) {
		t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	c.t.Cleanup(func() { unix.Close(t.fd) })
	c.must(errors.Join(
		unix.SetsockoptInt(t.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) /* in network order */}),
	))
	return t
}

// forged counts what has come from a pod by injection, and all ARP, which nobody
// has a reason to send. The node's end of a pod's link says a few things of its
// own accord.
func (t *tap) forged() (count int, first []byte, err error) {
	buffer := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(t.fd, buffer, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return count, first, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return count, first, err
		}
		if f := buffer[:n]; bytes.Contains(f, mark) || n >= 14 && binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_ARP {
			if count++; count == 1 {
				first = bytes.Clone(f)
			}
		}
	}
}

// neighbours are a node's entries for who has which address, and the bridge's
// for who is behind which port. Not those of the pods' ports: nothing is sent by
// what a port itself knows.
func neighbours(t *testing.T, n *lab.Node) map[string]int {
	t.Helper()
	all := map[string]int{}
	err := n.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		ports := map[int]bool{}
		for _, l := range links {
			ports[l.Attrs().Index] = l.Attrs().Group == ruleset.LinkGroup
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE} {
			entries, err := netlink.NeighList(0, family)
			if err != nil {
				return err
			}
			for _, e := range entries {
				group := len(e.HardwareAddr) == 6 && e.HardwareAddr[0]&1 != 0
				if !group && (family == unix.AF_BRIDGE || !ports[e.LinkIndex]) {
					all[fmt.Sprintf("%d: %s has %s", e.LinkIndex, e.HardwareAddr, e.IP)] = e.State
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
