package lab

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
)

// tracker knows which packets are under way, for all batches of a lab.
type tracker struct {
	mu      sync.Mutex
	flights map[uint64]*flight
	// ports are the source ports last used.
	ports map[flow]uint16
}

// flight is one probe on its way, over all packets sent for it.
type flight struct {
	probe Probe
	// replies go to this host: what it gets with the probe's tag in it is an
	// echo, or an ICMP error that quotes the packet.
	replies *Host
	numbers []uint64

	// Guarded by the tracker's lock.
	at []*Host
	// packet is what the receiver has got, if that is no node.
	packet []byte
}

// arrived says whether the probe has reached its receiver.
func (f *flight) arrived() bool {
	if f.probe.To == nil {
		return len(f.at) > 0
	}
	return slices.Contains(f.at, f.probe.To)
}

// flow is what tells connections apart besides the source port.
type flow struct {
	src, dst netip.Addr
	protocol policy.Protocol
	dstPort  uint16
	icmpType uint8
}

// Probes' source ports are outside the range that the kernel chooses from for
// real connections.
const (
	firstPort = 10000
	lastPort  = 31999
)

// takeOff numbers one more packet for a probe, and gives it a source port or
// ICMP identifier that makes it a new connection for connection tracking.
func (t *tracker) takeOff(f *flight, number uint64) (port uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flights[number] = f
	f.numbers = append(f.numbers, number)
	if wire := f.probe.Wire; wire.SrcPort != 0 || wire.ZeroPort {
		return wire.SrcPort
	}
	p := f.probe.Packet
	key := flow{p.Src, p.Dst, p.Protocol, p.DstPort, p.ICMPType}
	port = t.ports[key] + 1
	if port < firstPort || port > lastPort {
		port = firstPort
	}
	t.ports[key] = port
	return port
}

// land notes that a packet has arrived at a host.
func (t *tracker) land(number uint64, at *Host, packet []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flights[number]
	if f == nil || slices.Contains(f.at, at) {
		return
	}
	// What comes back to its sender may be the packet, or an error that quotes it.
	if at == f.replies && (at != f.probe.To || isError(packet) && !f.probe.Packet.ReportsError()) {
		return
	}
	f.at = append(f.at, at)
	if at == f.probe.To && !at.isNode {
		f.packet = bytes.Clone(packet)
	}
}

// isError says whether a packet is an ICMP error, as a host's stack sends them: without
// extension headers.
func isError(packet []byte) bool {
	switch {
	case len(packet) > 20 && packet[0] == 0x45:
		return policy.Packet{Protocol: policy.Protocol(packet[9]), ICMPType: packet[20]}.ReportsError()
	case len(packet) > 40 && packet[0]>>4 == 6:
		return policy.Packet{Protocol: policy.Protocol(packet[6]), ICMPType: packet[40]}.ReportsError()
	}
	return false
}

// landed counts arrivals, and says whether there can be no more of them.
func (t *tracker) landed(flights []*flight) (count int, complete bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	complete = true
	for _, f := range flights {
		count += len(f.at)
		complete = complete && f.probe.To != nil && f.arrived()
	}
	return count, complete
}

// missing returns the flights that have not arrived.
func (t *tracker) missing(flights []*flight) []*flight {
	t.mu.Lock()
	defer t.mu.Unlock()
	var missing []*flight
	for _, f := range flights {
		if !f.arrived() {
			missing = append(missing, f)
		}
	}
	return missing
}

// forget ends the flights: packets that arrive later are nobody's.
func (t *tracker) forget(flights []*flight) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range flights {
		for _, number := range f.numbers {
			delete(t.flights, number)
		}
	}
}

// drain reads all that a tap has received.
func (t *tracker) drain(s *socket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	buffer := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(s.fd, buffer, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue // ENETDOWN is told once, when a link has gone
		}
		if err != nil {
			return err
		}
		if number, ok := readTag(buffer[:n], s.host.lab.run); ok {
			t.land(number, s.host, buffer[:n])
		}
	}
}
