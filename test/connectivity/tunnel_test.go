package connectivity_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// TestOnlyNodesSendThroughTheTunnel: a pod that wraps a packet up as a node does, in
// the name of a pod that the policy lets in, gets it unwrapped nowhere, not by a
// Service either; nor does a host outside. A node does.
func TestOnlyNodesSendThroughTheTunnel(t *testing.T) {
	s := newSiege(t, settings{mode: node.VXLAN})
	outside, err := s.nodes[1].AddExternal("outside", netip.MustParseAddr("198.51.100.7"))
	s.must(err)
	taps := []*tap{s.tap(s.vaults[0].Host), s.tap(s.vaults[1].Host)}
	received := func() (counts [2]int) {
		t.Helper()
		for i, tap := range taps {
			n, _, err := tap.forged()
			s.must(err)
			counts[i] = n
		}
		return counts
	}

	const often = 20
	for _, from := range []*lab.Host{s.attacker.Host, outside} {
		src := from.IPs[0]
		for i, n := range s.nodes {
			for _, to := range []netip.Addr{nodeAddrs(i)[0], netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 1})} {
				for range often {
					s.must(tunnel(from, src, to, s.wrapped(n, s.client.IPs[0], s.vaults[i].IPs[0])))
				}
			}
		}
	}
	// A Service that leads there, whose proxy gives the packet the node's address.
	service := netip.MustParseAddr("10.96.0.99")
	s.nft(&s.nodes[0].Host, fmt.Sprintf(`table inet services {
		chain pods { type nat hook prerouting priority dstnat; ip daddr %[1]s dnat ip to %[2]s; }
		chain away { type nat hook postrouting priority srcnat; ip daddr %[2]s ct status dnat snat ip to %[3]s; }
	}`, service, nodeAddrs(1)[0], nodeAddrs(0)[0]))
	for range often {
		s.must(tunnel(s.attacker.Host, s.attacker.IPs[0], service, s.wrapped(s.nodes[1], s.client.IPs[0], s.vaults[1].IPs[0])))
	}
	s.settle()
	if counts := received(); counts != [2]int{} {
		t.Errorf("packets that pods have put into the tunnel: received %d", counts)
	}

	s.must(tunnel(&s.nodes[0].Host, nodeAddrs(0)[0], nodeAddrs(1)[0], s.wrapped(s.nodes[1], s.client.IPs[0], s.vaults[1].IPs[0])))
	s.eventually("a node's packet", func() error {
		if received()[1] == 0 {
			return errNotYet
		}
		return nil
	})
	s.unmoved()
}

// wrapped is what a node puts into a datagram of the tunnel (RFC 7348 section 5): an
// Ethernet frame for the other end's device.
func (s *siege) wrapped(to *lab.Node, src, dst netip.Addr) []byte {
	s.t.Helper()
	kind, b, err := packet(policy.Packet{Src: src, Dst: dst, Protocol: policy.TCP, DstPort: allowedPort})
	s.must(err)
	const header = "\x08\x00\x00\x00" + "\x00\x00\x01\x00" // there is a VNI; it is 1
	return append([]byte(header), frame(node.VTEPMAC(to.Name, false), node.VTEPMAC("any", false), nil, kind, b)...)
}

// tunnel sends a datagram to where nodes take the tunnel's.
func tunnel(from *lab.Host, src, to netip.Addr, payload []byte) error {
	return datagram(from, src, netip.AddrPortFrom(to, node.DefaultVXLANPort), payload)
}

func datagram(from *lab.Host, src netip.Addr, to netip.AddrPort, payload []byte) error {
	return from.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: src.As4()})
		if err == nil {
			err = unix.Sendto(fd, payload, 0, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
		}
		return errors.Join(err, unix.Close(fd))
	})
}
