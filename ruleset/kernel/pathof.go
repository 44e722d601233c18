package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Link is a link of the node by which packets come or go.
type Link struct {
	Name  string
	Group uint32
	// Master is the bridge, or another link, that it is a port of; nil: it is none's.
	Master *Link
	// Local: the address is the node's own, and the link is the loopback device.
	Local bool
}

// LinkTo is the link that the route to an address leads to. It is nil if there is no route.
func (r *Reader) LinkTo(addr netip.Addr) (*Link, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	header := make([]byte, rtmsgLength)
	header[0], header[rtmsgDstLength] = familyOf(addr), byte(addr.BitLen())
	destination, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: rtaDst, Data: addr.AsSlice()}})
	if err != nil {
		return nil, err
	}
	index, local := uint32(0), false
	err = r.route.ask(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Acknowledge}, Data: append(header, destination...),
	}, func(m netlink.Message) error {
		if len(m.Data) < rtmsgLength {
			return errors.New("a route cannot be read")
		}
		local = m.Data[rtmsgType] == unix.RTN_LOCAL
		ad, err := netlink.NewAttributeDecoder(m.Data[rtmsgLength:])
		if err != nil {
			return err
		}
		for ad.Next() {
			if ad.Type() == unix.RTA_OIF {
				index = ad.Uint32()
			}
		}
		return ad.Err()
	})
	_, errno, refused := refusedBy(err)
	switch {
	case refused && (errno == unix.ENETUNREACH || errno == unix.EHOSTUNREACH || errno == unix.EINVAL || errno == unix.EACCES || errno == unix.EAFNOSUPPORT):
		return nil, nil
	case err != nil:
		return nil, &OpError{Op: "look the route to " + addr.String() + " up", Err: err}
	case index == 0:
		return nil, nil
	}
	link, err := r.link(index)
	if link != nil {
		link.Local = local
	}
	return link, err
}

// link reads a link and its master. The caller holds mu.
func (r *Reader) link(index uint32) (*Link, error) {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], index)
	link, master := &Link{}, uint32(0)
	err := r.route.ask(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Acknowledge}, Data: header,
	}, func(m netlink.Message) error {
		if len(m.Data) < unix.SizeofIfInfomsg {
			return errors.New("a link cannot be read")
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return err
		}
		for ad.Next() {
			switch ad.Type() {
			case unix.IFLA_IFNAME:
				link.Name = ad.String()
			case unix.IFLA_GROUP:
				link.Group = ad.Uint32()
			case unix.IFLA_MASTER:
				master = ad.Uint32()
			}
		}
		return ad.Err()
	})
	if err == nil && master != 0 {
		link.Master, err = r.link(master)
	}
	if err != nil {
		return nil, &OpError{Op: "read a link", Err: err}
	}
	return link, nil
}
