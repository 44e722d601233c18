//go:build e2e

package e2e

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/netns"
)

// sniffer sees all packets that arrive in a network namespace, as a packet socket has them: before
// any socket of a program, and whether or not one is there.
type sniffer struct {
	socket int
	done   chan error

	mu sync.Mutex
	by map[uint16]seen // by source port
}

// seen is what has arrived from one port.
type seen struct {
	packets, syns, datagrams int
	sources                  []netip.Addr
}

// sniff starts one, for all packets of TCP and UDP in both families.
func sniff(t *testing.T, podNetNS string) *sniffer {
	t.Helper()
	s := &sniffer{done: make(chan error, 1), by: map[uint16]seen{}}
	err := netns.InsidePath(podNetNS, func() (err error) {
		all := int(binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff}))
		s.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
		return err
	})
	if err == nil {
		err = unix.SetsockoptInt(s.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	}
	if err == nil { // so that it sees when it is to end
		err = unix.SetsockoptTimeval(s.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
	}
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() { s.done <- s.read(stop) }()
	t.Cleanup(sync.OnceFunc(func() { close(stop); <-s.done; unix.Close(s.socket) }))
	return s
}

func (s *sniffer) read(stop chan struct{}) error {
	packet := make([]byte, 256)
	for {
		n, from, err := unix.Recvfrom(s.socket, packet, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			select {
			case <-stop:
				return nil
			default:
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			if ll, is := from.(*unix.SockaddrLinklayer); is && ll.Pkttype != unix.PACKET_OUTGOING {
				s.take(packet[:n])
			}
		}
	}
}

// take counts a packet, if it is one of TCP or UDP. Nobody here sends extension headers.
func (s *sniffer) take(packet []byte) {
	var source netip.Addr
	var protocol byte
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		source, protocol = netip.AddrFrom4([4]byte(packet[12:16])), packet[9]
		packet = packet[min(int(packet[0]&0xf)*4, len(packet)):]
	case len(packet) >= 40 && packet[0]>>4 == 6:
		source, protocol = netip.AddrFrom16([16]byte(packet[8:24])), packet[6]
		packet = packet[40:]
	}
	if protocol != unix.IPPROTO_TCP && protocol != unix.IPPROTO_UDP || len(packet) < 8 {
		return
	}
	port := binary.BigEndian.Uint16(packet)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.by[port]
	now.packets++
	switch {
	case protocol == unix.IPPROTO_UDP:
		now.datagrams++
	case len(packet) >= 14 && packet[13]&0x12 == 0x02: // SYN, and not ACK
		now.syns++
	}
	if !slices.Contains(now.sources, source) {
		now.sources = append(now.sources, source)
	}
	s.by[port] = now
}

// from is what has arrived from a port so far.
func (s *sniffer) from(port uint16) seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[port]
}

// missedNone fails the test if the socket's buffer was ever full.
func (s *sniffer) missedNone(t *testing.T) {
	t.Helper()
	stats, err := unix.GetsockoptTpacketStats(s.socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Drops > 0 || stats.Packets == 0 {
		t.Errorf("the packet socket has seen %d packets, and missed %d", stats.Packets, stats.Drops)
	}
}
