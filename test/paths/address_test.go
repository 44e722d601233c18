package paths_test

import (
	"net"
	"net/netip"

	"github.com/podfence/podfence/test/stage"
)

// source is the address that a frame claims to come from; the zero Addr if there is no
// such address in the scene.
func (s *scene) source(f frame) netip.Addr {
	return s.address(f, f.src, f.from)
}

// destination is the address that a frame goes to.
func (s *scene) destination(f frame) netip.Addr {
	return s.address(f, f.dst, f.to)
}

func (s *scene) address(f frame, what scope, of stage.ActorID) netip.Addr {
	six := f.class.is6()
	switch {
	case what == nowhere:
		return netip.Addr{}
	case what >= pretended:
		return s.Actors[what-pretended].Addr[six]
	case what == global:
		return s.Actors[of].Addr[six]
	case what == internal:
		return s.Node.IP(map[bool]netip.Addr{true: netip.IPv6Unspecified(), false: netip.IPv4Unspecified()}[six])
	case what == linkLocal:
		return s.linkLocal(f, of, six)
	case what == solicited:
		return solicitedNode(s.solicitable(f))
	}
	return groups[six][what]
}

// solicitable is the address whose group is asked: the global one if there is one.
func (s *scene) solicitable(f frame) netip.Addr {
	if addr := s.Actors[f.to].Addr[true]; addr.IsValid() {
		return addr
	}
	return s.linkLocal(f, f.to, true)
}

func solicitedNode(a netip.Addr) netip.Addr {
	b := netip.MustParseAddr("ff02::1:ff00:0").As16()
	last := a.As16()
	copy(b[13:], last[13:])
	return netip.AddrFrom16(b)
}

// linkLocal is an actor's link-local address. The node's is that of its side of the
// sender's or receiver's link.
func (s *scene) linkLocal(f frame, of stage.ActorID, six bool) netip.Addr {
	if six {
		mac := s.macOf(f, of)
		return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
	}
	if of == stage.TheNode {
		return netip.MustParseAddr(stage.NodeLinkLocal4)
	}
	return netip.AddrFrom4([4]byte{169, 254, 7, byte(of) + 1})
}

// macOf is an actor's hardware address; the node's is that of the link to the frame's
// other end.
func (s *scene) macOf(f frame, of stage.ActorID) net.HardwareAddr {
	if of != stage.TheNode {
		return s.Actors[of].MAC
	}
	return s.Actors[f.otherEnd()].Device.Attrs().HardwareAddr
}

// otherEnd is who is linked to the node where it sends or receives a frame. What it sends
// to nobody it sends where the isolated pod is.
func (f frame) otherEnd() stage.ActorID {
	switch {
	case f.from != stage.TheNode:
		return f.from
	case f.to == stage.Nobody:
		return stage.Isolated
	}
	return f.to
}

func (s *scene) senderMAC(f frame) net.HardwareAddr { return s.macOf(f, f.from) }

// stationMAC is the hardware address that a frame goes to.
func (s *scene) stationMAC(f frame, dst netip.Addr) net.HardwareAddr {
	switch {
	case f.mac >= reserved:
		return reservedMAC(f.mac)
	case f.mac == everybody:
		return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	case f.mac == group:
		return groupMAC(dst)
	case f.mac == theirs:
		return s.macOf(f, f.to)
	case f.from == stage.TheNode:
		return s.macOf(f, f.otherEnd())
	}
	return s.macOf(f, stage.TheNode)
}

// groupMAC is the hardware address of a group; of an address that is none, that of all
// nodes (RFC 1112, RFC 2464 section 7).
func groupMAC(dst netip.Addr) net.HardwareAddr {
	if dst.Is4() {
		b := dst.As4()
		if !dst.IsMulticast() {
			b = groups[false][allNodes].As4()
		}
		return net.HardwareAddr{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := groups[true][allNodes].As16()
	if dst.IsMulticast() {
		b = dst.As16()
	}
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}
