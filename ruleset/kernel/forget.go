package kernel

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Forget ends all flows that one of the addresses has begun, or that lead to it, whatever
// NAT makes of them. It must be called while nothing gets through to or from the addresses,
// or once the rules are the next pod's: what is under way could begin them anew. It may be called from any goroutine.
//
// The kernel filters (CTA_FILTER, since Linux 5.8), so only what is to be ended is told. But
// it goes through its whole hash table each time, of all network namespaces: some 10 ms with
// the default size of large machines, twice for each address. Many addresses are looked for in
// one listing of all flows.
func (f *Flows) Forget(addrs []netip.Addr) error {
	f.forgetting.Lock()
	defer f.forgetting.Unlock()
	if len(addrs) > fewAddrs {
		return f.forgetMany(addrs)
	}
	for _, addr := range addrs {
		for _, tuple := range []uint16{ctaTupleOrig, ctaTupleReply} {
			if err := f.forget(addr, tuple); err != nil {
				return &OpError{Op: "end the flows of " + addr.String(), Err: err}
			}
		}
	}
	return nil
}

// fewAddrs is up to how many addresses are looked for one by one.
const fewAddrs = 8

// forgetMany goes through all flows once.
func (f *Flows) forgetMany(addrs []netip.Addr) error {
	gone := map[netip.Addr]bool{}
	for _, addr := range addrs {
		gone[addr] = true
	}
	if err := f.deleteAll(unix.AF_UNSPEC, nil, func(e flow) bool { return gone[e.packet.Src] || gone[e.packet.Dst] }); err != nil {
		return &OpError{Op: "end the flows of many addresses", Err: err}
	}
	return nil
}

// deleteAll ends the flows that match, of those that the attributes ask for. It keeps those
// until the list has ended, for both need the connection.
func (f *Flows) deleteAll(family byte, attributes []byte, match func(flow) bool) error {
	var matched []flow
	_, _, err := f.deletions.flowsOf(family, attributes, func(e flow) error {
		if match(e) {
			e.tuple, e.zone, e.master = slices.Clone(e.tuple), slices.Clone(e.zone), nil
			matched = append(matched, e)
		}
		return nil
	})
	for _, entry := range matched {
		err = errors.Join(err, f.delete(entry))
	}
	return err
}

const (
	ctMessageDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 + 2

	ctaFilter           = 25
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	// filterSource is CTA_FILTER_F_CTA_IP_SRC of net/netfilter/nf_internals.h.
	filterSource = 1 << 0
)

// forget ends the flows that have an address as the source of a tuple: of the original one,
// who has begun it; of the reply's, where it leads to.
func (f *Flows) forget(addr netip.Addr, tuple uint16) error {
	filter, err := sourceFilter(addr, tuple)
	if err != nil {
		return err
	}
	// A kernel that does not filter tells of all.
	return f.deleteAll(familyOf(addr), filter, func(e flow) bool { return e.packet.Src == addr || e.packet.Dst == addr })
}

func familyOf(addr netip.Addr) byte {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// sourceFilter are the attributes that ask for the flows with an address as the source of a
// tuple.
func sourceFilter(addr netip.Addr, tuple uint16) ([]byte, error) {
	kind, flags := uint16(ctaIPv4Src), uint16(ctaFilterOrigFlags)
	if addr.Is6() {
		kind = ctaIPv6Src
	}
	if tuple == ctaTupleReply {
		flags = ctaFilterReplyFlags
	}
	ae := netlink.NewAttributeEncoder()
	ae.Nested(netlink.Nested|tuple, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(netlink.Nested|ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(kind, addr.AsSlice())
			return nil
		})
		return nil
	})
	ae.Nested(netlink.Nested|ctaFilter, func(ae *netlink.AttributeEncoder) error {
		ae.Uint32(flags, filterSource) // in the order of the machine
		return nil
	})
	return ae.Encode()
}

// delete ends a flow. That it has ended is no error.
func (f *Flows) delete(entry flow) error {
	attributes, err := entry.name(entry.tuple)
	if err != nil {
		return err
	}
	err = f.deletions.ask(netlink.Message{
		Header: netlink.Header{Type: ctMessageDelete, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(nfgenmsg(entry.family), attributes...),
	}, ignore)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
