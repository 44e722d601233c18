package stage

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/test/lab"
)

// Arrivals say, for each frame of a round, which actors have received it: a bit each, and
// another one each if it was in an ICMP error.
type Arrivals []uint32

// inError is how far the bits are from the others that say who got the frame in an error.
const inError = 16

// At says whether somebody has received frame i.
func (a Arrivals) At(i int, who ActorID) bool { return a[i]&(1<<who|1<<(who+inError)) != 0 }

// InError says whether somebody has received frame i as what an ICMP error quotes, and not
// otherwise.
func (a Arrivals) InError(i int, who ActorID) bool {
	return a[i]&(1<<who) == 0 && a[i]&(1<<(who+inError)) != 0
}

// Watch receives marked frames at all actors.
type Watch struct {
	first    int
	arrivals Arrivals
	untyped  func(i int) bool
	received atomic.Int64
	taps     []*tap
	stop     atomic.Bool
	wait     sync.WaitGroup
}

// tap is a socket by which frames are received at an actor's.
type tap struct {
	at ActorID
	fd int
	// untyped says that only frames count that are neither IP nor ARP: what else there
	// is has its rules still before it.
	untyped bool
	logs    bool // it is of nfnetlink_log
	err     error
}

// socketTimeout is how long a tap waits before it looks whether to stop.
const socketTimeout = 20 * time.Millisecond

// receiveBuffer holds what comes while nobody reads.
const receiveBuffer = 64 << 20

// Watch begins to receive count frames that are marked with first and the numbers that
// follow. Untyped says of which of them, from 0, the node's bridge alone can tell that they
// have come: those that are neither IP nor ARP.
func (s *Stage) Watch(first, count int, untyped func(i int) bool) *Watch {
	s.T.Helper()
	w := &Watch{first: first, untyped: untyped, arrivals: make(Arrivals, count)}
	for _, id := range s.Present() {
		if id != TheNode {
			s.Must(s.Actors[id].Host.Do(func() error { return w.tap(id, false, func() (int, error) { return packetSocket(0) }) }))
		}
	}
	s.Must(s.Node.Do(func() error {
		if err := w.tap(TheNode, false, logSocket); err != nil {
			return err
		}
		w.taps[len(w.taps)-1].logs = true
		if s.Mode.Device() == "" {
			return nil
		}
		bridge := s.Actors[Isolated].Device.Attrs().Index
		return w.tap(TheNode, true, func() (int, error) { return packetSocket(bridge) })
	}))
	for _, t := range w.taps {
		w.wait.Go(func() { t.err = w.read(t) })
	}
	return w
}

func (w *Watch) tap(at ActorID, untyped bool, open func() (int, error)) error {
	fd, err := open()
	if err != nil {
		return fmt.Errorf("receive at the %s: %w", at, err)
	}
	w.taps = append(w.taps, &tap{at: at, fd: fd, untyped: untyped})
	timeout := unix.NsecToTimeval(int64(socketTimeout))
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
	)
}

// packetSocket receives all frames that come in by a link, 0 for any, whomever they are
// for, but not those that leave by it.
func packetSocket(link int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) /* in network order */, Ifindex: link}),
	)
}

// logGroup is where the node's last rules report to.
const logGroup = 7

// logSocket receives what those rules report (linux/netfilter/nfnetlink_log.h).
func logSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	const (
		subsystem, configure                 = 4, 1 // NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG
		command, mode, timeout, queue        = 1, 2, 4, 5
		bind, copyPacket, wholePacket        = 1, 2, 0xffff
		request                       uint16 = unix.NLM_F_REQUEST | unix.NLM_F_ACK
	)
	attributes := func(kind uint16, value []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	for _, attribute := range [][]byte{
		attributes(command, []byte{bind}),
		attributes(mode, append(binary.BigEndian.AppendUint32(nil, wholePacket), copyPacket, 0)),
		attributes(queue, binary.BigEndian.AppendUint32(nil, 16)),
		attributes(timeout, binary.BigEndian.AppendUint32(nil, 1)), // in hundredths of a second
	} {
		body := append([]byte{unix.AF_UNSPEC, 0, 0, logGroup}, attribute...)
		b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
		b = binary.NativeEndian.AppendUint16(b, subsystem<<8|configure)
		b = binary.NativeEndian.AppendUint16(b, request)
		b = append(append(b, make([]byte, 8)...), body...)
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return fd, err
		}
		if err := acknowledged(fd); err != nil {
			return fd, err
		}
	}
	return fd, nil
}

// acknowledged reads the kernel's answer: an error message with the number 0.
func acknowledged(fd int) error {
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errors.New("no answer from nfnetlink_log")
	}
	if number := int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])); number != 0 {
		return fmt.Errorf("nfnetlink_log: %w", unix.Errno(-number))
	}
	return nil
}

// read notes what a tap receives, until it is to stop.
func (w *Watch) read(t *tap) error {
	b := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(t.fd, b, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) && w.stop.Load():
			return nil
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ENOBUFS: something is lost
			return err
		}
		for _, packet := range t.packets(b[:n]) {
			quoting := isError(packet)
			for rest := packet; ; {
				number, behind, found := ReadMark(rest)
				if !found {
					break
				}
				w.land(t, number, quoting)
				rest = behind
			}
		}
	}
}

// packets are what is in a frame behind its header, or in the messages of nfnetlink_log.
func (t *tap) packets(b []byte) (all [][]byte) {
	if !t.logs {
		return [][]byte{b[min(14, len(b)):]}
	}
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return [][]byte{b}
	}
	for _, m := range messages {
		const general, payload = 4, 9 // of struct nfgenmsg; NFULA_PAYLOAD
		for rest := m.Data[min(general, len(m.Data)):]; len(rest) >= 4; {
			length := int(binary.NativeEndian.Uint16(rest))
			if length < 4 || length > len(rest) {
				break
			}
			if binary.NativeEndian.Uint16(rest[2:]) == payload {
				all = append(all, rest[4:length])
			}
			rest = rest[min((length+3)&^3, len(rest)):]
		}
	}
	return all
}

// isError says whether an IP packet is an ICMP error, such as quote a packet. It has options if
// that has (ip_options_echo).
func isError(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	header := int(b[0]&15) * 4
	switch {
	case len(b) > max(header, 20) && b[0]>>4 == 4 && b[9] == unix.IPPROTO_ICMP:
		return b[header] == 3 || b[header] == 11 || b[header] == 12
	case len(b) > 40 && b[0]>>4 == 6 && b[6] == unix.IPPROTO_ICMPV6:
		return b[40] < 128
	}
	return false
}

func (w *Watch) land(t *tap, number int, quoted bool) {
	i := number - w.first
	if i < 0 || i >= len(w.arrivals) || t.untyped && !w.untyped(i) {
		return
	}
	bit := uint32(1) << t.at
	if quoted {
		bit <<= inError
	}
	atomic.OrUint32(&w.arrivals[i], bit)
	w.received.Add(1)
}

// quiet waits until nothing more has come for a while.
func (w *Watch) quiet(while time.Duration) {
	for last, now := int64(-1), w.received.Load(); now != last; now = w.received.Load() {
		last = now
		time.Sleep(while)
	}
}

// End waits for the last frames and returns what has come.
func (w *Watch) End() (Arrivals, error) {
	w.quiet(200 * time.Millisecond)
	w.stop.Store(true)
	w.wait.Wait()
	var errs []error
	for _, t := range w.taps {
		errs = append(errs, t.lost(), unix.Close(t.fd))
	}
	return w.arrivals, errors.Join(errs...)
}

// lost says whether something may have come that was not read.
func (t *tap) lost() error {
	if t.err != nil {
		return fmt.Errorf("receive at the %s: %w", t.at, t.err)
	}
	statistics, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && statistics.Drops > 0 {
		return fmt.Errorf("receive at the %s: %d frames lost", t.at, statistics.Drops)
	}
	return nil // a netlink socket has no such statistics, but an error
}

// volley is how many frames are sent before the receivers get time to read them.
const volley = 2000

// Shot is a frame to send, or several that are one.
type Shot struct {
	From   ActorID
	Link   int // the index of the link that they leave by; 0: eth0
	Frames [][]byte
}

// Round sends count shots, which are marked as Watch has it, and returns what has arrived.
func (s *Stage) Round(first, count int, untyped func(i int) bool, shot func(i int) Shot) Arrivals {
	s.T.Helper()
	w := s.Watch(first, count, untyped)
	senders := map[ActorID]int{}
	for _, id := range s.Present() {
		s.Must(s.Actors[id].Host.Do(func() (err error) {
			senders[id], err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			return err
		}))
	}
	for i := range count {
		f := shot(i)
		for _, b := range f.Frames {
			s.Must(send(senders[f.From], cmp.Or(f.Link, s.Actors[f.From].Eth0), b))
		}
		if i%volley == volley-1 {
			w.quiet(time.Millisecond)
		}
	}
	result, err := w.End()
	s.Must(err)
	for _, fd := range senders {
		s.Must(unix.Close(fd))
	}
	return result
}

// Send sends frames of somebody's.
func (s *Stage) Send(from ActorID, frames ...[]byte) { s.T.Helper(); s.sendBy(from, 0, frames) }

// SendLarge sends frames of TCP over IPv4 that the card is to cut up, with a header that
// says so (linux/virtio_net.h): they may be larger than any on the link.
func (s *Stage) SendLarge(from ActorID, frames ...[]byte) {
	s.T.Helper()
	const transport = 14 + 20
	header := []byte{unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_TCPV4}
	for _, n := range []uint16{transport + 20, lab.PerFragment, transport, 16} { // headers, each part, where the checksum begins and is
		header = binary.NativeEndian.AppendUint16(header, n)
	}
	var all [][]byte
	for _, b := range frames {
		all = append(all, append(bytes.Clone(header), b...))
	}
	s.sendBy(from, 1, all)
}

// sendBy sends frames by a socket of its own, with PACKET_VNET_HDR as given.
func (s *Stage) sendBy(from ActorID, withHeader int, frames [][]byte) {
	s.T.Helper()
	s.Must(s.Actors[from].Host.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, withHeader); err != nil {
			return err
		}
		for _, b := range frames {
			if err := send(fd, s.Actors[from].Eth0, b); err != nil {
				return err
			}
		}
		return nil
	}))
}

func send(fd, link int, b []byte) error {
	for {
		err := unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: link})
		if errors.Is(err, unix.ENOBUFS) {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("send %x: %w", b, err)
		}
		return nil
	}
}
