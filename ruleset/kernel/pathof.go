package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// LinkTo is the link that the route to an address leads to. It is nil if there is no route.
func (r *Reader) LinkTo(addr netip.Addr) (*nft.Link, error) {
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
	link, err := r.link(index, "")
	if link != nil {
		link.Local = local
	}
	return link, err
}

// Link is the link of a name. It is nil if there is none.
func (r *Reader) Link(name string) (*nft.Link, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.link(0, name)
}

// link reads a link by its index or, if that is 0, its name. The caller holds mu.
func (r *Reader) link(index uint32, name string) (*nft.Link, error) {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], index)
	var by []netlink.Attribute
	if index == 0 {
		by = append(by, netlink.Attribute{Type: unix.IFLA_IFNAME, Data: append([]byte(name), 0)})
	}
	attributes, err := netlink.MarshalAttributes(by)
	if err != nil {
		return nil, err
	}
	var link *nft.Link
	master := uint32(0)
	err = r.route.ask(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Acknowledge}, Data: append(header, attributes...),
	}, func(m netlink.Message) error {
		if len(m.Data) < unix.SizeofIfInfomsg {
			return errors.New("a link cannot be read")
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return err
		}
		link = &nft.Link{}
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
	if _, errno, refused := refusedBy(err); refused && errno == unix.ENODEV {
		return nil, nil
	}
	if err != nil {
		return nil, &OpError{Op: "read link " + name, Err: err}
	}
	if link != nil && master != 0 {
		bridge, err := r.link(master, "")
		if err != nil {
			return nil, err
		}
		if bridge != nil {
			link.Master = bridge.Name
		}
	}
	return link, nil
}
