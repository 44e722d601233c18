package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

const (
	rtmsgLength = 12
	// The places of these fields in rtmsg (rtnetlink(7)).
	rtmsgDstLength, rtmsgTable, rtmsgType = 1, 4, 7

	rtaDst   = 1
	rtaTable = 15
)

// localRanges are the addresses that the namespace takes for its own: those of its links, and those
// that local routes accept besides (AnyIP: ip route add local). Only routes of the table local
// count, in which the kernel looks before all other tables, for every packet. A local route in the
// tables main or default gives way to narrower routes, such as those to pods. Other tables, which
// have rules for some packets, are those of a transparent proxy, for which each address of the
// world may be local, or of a VRF, whose addresses are among those of the links.
func (j *judging) localRanges() (*netipx.IPSet, error) {
	var ranges netipx.IPSetBuilder
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, rtmsgLength)
		header[0], header[rtmsgType] = family, unix.RTN_LOCAL
		err := j.route.dump(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETROUTE}, Data: header}, func(m netlink.Message) error {
			prefix, local, ok := parseLocal(m.Data)
			if !ok {
				// Without it, the node's own flows would be taken for others'.
				return errors.New("a route cannot be read")
			}
			if local {
				ranges.AddPrefix(prefix)
			}
			return nil
		})
		if err == nil {
			err = j.linkAddrs(family, &ranges)
		}
		// A kernel without IPv6 has no IPv6 addresses.
		if err != nil && !(family == unix.AF_INET6 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT))) {
			return nil, err
		}
	}
	return ranges.IPSet()
}

// linkAddrs adds the addresses of the namespace's links.
func (j *judging) linkAddrs(family byte, ranges *netipx.IPSetBuilder) error {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0] = family
	return j.route.dump(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETADDR}, Data: header}, func(m netlink.Message) error {
		addr, ok := parseLinkAddr(m.Data)
		if !ok {
			return errors.New("an address cannot be read")
		}
		ranges.Add(addr)
		return nil
	})
}

// parseLinkAddr reads an address of a link. For a point-to-point link that is the link's own address,
// not the peer's.
func parseLinkAddr(data []byte) (addr netip.Addr, ok bool) {
	if len(data) < unix.SizeofIfAddrmsg {
		return addr, false
	}
	ad, err := netlink.NewAttributeDecoder(data[unix.SizeofIfAddrmsg:])
	if err != nil {
		return addr, false
	}
	for ad.Next() {
		if ad.Type() == unix.IFA_LOCAL || ad.Type() == unix.IFA_ADDRESS && !addr.IsValid() {
			if addr, ok = netip.AddrFromSlice(ad.Bytes()); !ok {
				return addr, false
			}
		}
	}
	return addr, ad.Err() == nil && addr.IsValid()
}

// parseLocal reads a route, and says whether that makes a range local. Of a route that does not, it
// reads no more than it needs to see that.
func parseLocal(data []byte) (prefix netip.Prefix, local, ok bool) {
	if len(data) < rtmsgLength {
		return prefix, false, false
	}
	if family := data[0]; data[rtmsgType] != unix.RTN_LOCAL || family != unix.AF_INET && family != unix.AF_INET6 {
		return prefix, false, true
	}
	ad, err := netlink.NewAttributeDecoder(data[rtmsgLength:])
	if err != nil {
		return prefix, false, false
	}
	table := uint32(data[rtmsgTable])
	addr := netip.IPv4Unspecified()
	if data[0] == unix.AF_INET6 {
		addr = netip.IPv6Unspecified()
	}
	for ad.Next() {
		switch ad.Type() {
		case rtaDst:
			var is bool
			if addr, is = netip.AddrFromSlice(ad.Bytes()); !is {
				return prefix, false, false
			}
		case rtaTable:
			table = ad.Uint32()
		}
	}
	prefix = netip.PrefixFrom(addr, int(data[rtmsgDstLength]))
	if ad.Err() != nil || !prefix.IsValid() {
		return prefix, false, false
	}
	return prefix, table == unix.RT_TABLE_LOCAL, true
}

// proxied says at which hook the kernel judges a flow. If a socket of the node itself has the flow
// under somebody else's address, that is the hook for what the node sends, or for what it
// receives; otherwise the flow is forwarded. A UDP socket that is not connected does not tell
// which flows it has.
func (j *judging) proxied(entry flow) nft.HookPoint {
	switch {
	case j.hasSocket(entry.packet.Protocol, entry.sender, entry.receiver):
		return nft.Output
	case j.hasSocket(entry.packet.Protocol, entry.receiver, entry.sender):
		return nft.Input
	}
	return nft.Forward
}

// sameEnds reports whether the identity of a socket of this family has these ends. The IPv4
// connections of a dual-stack listener are IPv6 sockets with mapped addresses.
func sameEnds(family byte, id []byte, own, peer netip.AddrPort) bool {
	for i, end := range []netip.AddrPort{own, peer} {
		octets := id[4+16*i:][:16]
		addr := netip.AddrFrom16([16]byte(octets)).Unmap()
		if family == unix.AF_INET {
			addr = netip.AddrFrom4([4]byte(octets[:4]))
		}
		if addr != end.Addr().Unmap() || binary.BigEndian.Uint16(id[2*i:]) != end.Port() {
			return false
		}
	}
	return true
}

// Numbers of inet_diag (include/uapi/linux/inet_diag.h).
const (
	sockDiagByFamily = 20
	// The identity of a socket is its ports, its addresses of 16 octets each, in network order,
	// its link and a cookie. In a request and in an answer it comes after other fields.
	diagIDLength    = 48
	diagIDInRequest = 8
	diagIDInAnswer  = 4
)

// hasSocket reports whether the namespace has a socket with these very ends. The kernel may answer
// with another socket that would receive the packets, that of a listener; this does not count. If
// the kernel cannot be asked, there is no such socket.
func (j *judging) hasSocket(protocol packet.Protocol, own, peer netip.AddrPort) (has bool) {
	if protocol != packet.TCP && protocol != packet.UDP {
		return false
	}
	id := make([]byte, 0, diagIDLength)
	id = binary.BigEndian.AppendUint16(id, own.Port())
	id = binary.BigEndian.AppendUint16(id, peer.Port())
	for _, end := range []netip.AddrPort{own, peer} {
		var octets [16]byte
		copy(octets[:], end.Addr().AsSlice())
		id = append(id, octets[:]...)
	}
	id = append(id, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // any link, no cookie
	request := make([]byte, diagIDInRequest, diagIDInRequest+diagIDLength)
	request[0], request[1] = familyOf(own.Addr()), byte(protocol)
	binary.NativeEndian.PutUint32(request[4:], 1<<32-1) // in any state
	err := j.sockets.ask(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(request, id...),
	}, func(m netlink.Message) error {
		has = len(m.Data) >= diagIDInAnswer+diagIDLength && sameEnds(m.Data[0], m.Data[diagIDInAnswer:], own, peer)
		return nil
	})
	return has && err == nil
}
