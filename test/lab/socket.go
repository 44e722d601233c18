package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
)

// socket is a raw socket, not blocking. Its lock keeps a packet from being
// read by one batch and not yet counted while another decides that the packet
// has not arrived.
type socket struct {
	mu   sync.Mutex
	fd   int
	host *Host
}

func (s *socket) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := unix.Close(s.fd)
	s.fd = -1
	return err
}

// tapKind is a way to receive: the zero value is a packet socket, which sees
// all protocols.
type tapKind struct {
	family   int
	protocol policy.Protocol
}

// tapFor says how the host receives a packet. A node's packet socket would see
// a packet before the input hook; its raw IP sockets get what has passed. Who has no key
// reads no further than an authentication header.
func (h *Host) tapFor(p policy.Packet, w Wire) tapKind {
	if !h.isNode {
		return tapKind{}
	}
	if slices.Contains(w.Extensions, policy.AH) {
		return tapKind{family: family(p.Dst), protocol: policy.AH}
	}
	return tapKind{family: family(p.Dst), protocol: p.Protocol}
}

func family(a netip.Addr) int {
	if a.Unmap().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// receiveBuffer holds some ten thousand probes; the system's limit is for
// those without CAP_NET_ADMIN.
const receiveBuffer = 8 << 20

// tap returns the host's receiving socket of a kind.
func (h *Host) tap(kind tapKind) (*socket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if s := h.taps[kind]; s != nil {
		return s, nil
	}
	s := &socket{fd: -1, host: h}
	err := h.ns.inside(func() (err error) {
		if kind == (tapKind{}) {
			s.fd, err = openPacketTap(h.lab.run)
		} else {
			s.fd, err = openRawTap(h.lab.run, kind)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	h.taps[kind] = s
	return s, nil
}

const socketFlags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK

func openPacketTap(run uint32) (int, error) {
	// Protocol 0 receives nothing: first the filter, then the packets.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|socketFlags, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	err = errors.Join(
		filterTags(fd, run),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
	)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

func openRawTap(run uint32, kind tapKind) (int, error) {
	fd, err := unix.Socket(kind.family, unix.SOCK_RAW|socketFlags, int(kind.protocol))
	if err != nil {
		return -1, fmt.Errorf("raw socket for %s: %w", kind.protocol, err)
	}
	err = errors.Join(
		filterTags(fd, run),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
	)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("raw socket for %s: %w", kind.protocol, err)
	}
	return fd, nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// packetOtherHost is PACKET_OTHERHOST of linux/if_packet.h.
const packetOtherHost = 3

// filterTags makes the kernel deliver only packets that end with a tag of this
// run, so that an idle tap costs next to nothing under other traffic. Frames
// for other hosts, which a bridge has flooded, have not arrived.
func filterTags(fd int, run uint32) error {
	// SKF_AD_OFF + SKF_AD_PKTTYPE of linux/filter.h: not in the packet itself.
	const packetType = 1<<32 - 0x1000 + 4
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: packetType},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: packetOtherHost, Jt: 8},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_ALU | unix.BPF_SUB | unix.BPF_K, K: tagSize},
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_IND, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: magic, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_IND, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: run, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// sender returns the host's socket for sending whole packets of a family.
func (h *Host) sender(family int) (*socket, error) {
	return h.open(family, func() (int, error) {
		// IPPROTO_RAW implies that the packet brings its own header.
		fd, err := unix.Socket(family, unix.SOCK_RAW|socketFlags, unix.IPPROTO_RAW)
		if err != nil {
			return -1, err
		}
		// It also receives protocol 255, which nobody reads.
		return fd, errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		)
	})
}

// open returns the host's sending socket of a family, which is made if there is none yet.
func (h *Host) open(family int, make func() (fd int, err error)) (*socket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if s := h.senders[family]; s != nil {
		return s, nil
	}
	s := &socket{fd: -1, host: h}
	if err := h.ns.inside(func() (err error) { s.fd, err = make(); return err }); err != nil {
		if s.fd >= 0 {
			unix.Close(s.fd)
		}
		return nil, fmt.Errorf("raw socket: %w", err)
	}
	h.senders[family] = s
	return s, nil
}

// Send sends a whole IP packet, such as Craft makes, whatever its source. The
// host's routes decide the way; link-local and multicast packets leave by
// eth0, so a node can send none over IPv6. A packet that the host's own output
// hook drops is unix.EPERM.
func (h *Host) Send(packet []byte) error {
	h.lab.mu.RLock()
	defer h.lab.mu.RUnlock()
	if err := h.send(packet); err != nil {
		return fmt.Errorf("send from %s: %w", h.Name, err)
	}
	return nil
}

func (h *Host) send(packet []byte) error {
	var to unix.Sockaddr
	var fam int
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		fam, to = unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
	case len(packet) >= 40 && packet[0]>>4 == 6:
		dst := &unix.SockaddrInet6{Addr: [16]byte(packet[24:40])}
		if a := netip.AddrFrom16(dst.Addr); a.IsLinkLocalUnicast() || a.IsMulticast() {
			// Such an address means nothing without a link.
			dst.ZoneId = uint32(h.eth0)
		}
		fam, to = unix.AF_INET6, dst
	default:
		return errors.New("not an IP packet")
	}
	s, err := h.sender(fam)
	if err != nil {
		return err
	}
	return retry(func() error { return unix.Sendto(s.fd, packet, unix.MSG_DONTWAIT, to) })
}

// sendIn sends a packet in a frame that has more around it than usual, to where the host's
// route leads.
func (h *Host) sendIn(wrap Wrap, packet []byte) error {
	if wrap == Plain {
		return h.send(packet)
	}
	if h.isNode {
		return errors.New("a node sends plain frames only")
	}
	s, err := h.frameSender()
	if err != nil {
		return err
	}
	frame := wrap.Around(slices.Concat(h.nextHop(destinationOf(packet)), h.MAC), packet)
	return retry(func() error {
		return unix.Sendto(s.fd, frame, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: h.eth0})
	})
}

// destinationOf is where a packet goes to.
func destinationOf(packet []byte) netip.Addr {
	if packet[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(packet[16:20]))
	}
	return netip.AddrFrom16([16]byte(packet[24:40]))
}

// nextHop is the hardware address of who gets the host's packets to an address: a neighbour
// on the same bridge, or the node.
func (h *Host) nextHop(dst netip.Addr) net.HardwareAddr {
	if to := h.lab.owner(dst); to != nil && h.attach == Bridged && to.attach == Bridged && to.node == h.node && to != h {
		return to.MAC
	}
	return h.gateway
}

// frameSender returns the host's socket for sending whole frames.
func (h *Host) frameSender() (*socket, error) {
	return h.open(unix.AF_PACKET, func() (int, error) {
		// Protocol 0 receives nothing.
		return unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|socketFlags, 0)
	})
}

// retry sends, and again where too much is under way, until some of it has been received.
func retry(send func() error) error {
	for try := 0; ; try++ {
		err := send()
		full := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS)
		if !errors.Is(err, unix.EINTR) && (!full || try == sendTries) {
			return err
		}
		if full {
			time.Sleep(time.Millisecond)
		}
	}
}

// sendTries bounds the wait for room to send, to about a second.
const sendTries = 1000
