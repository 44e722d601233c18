package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Forget ends all flows that one of the addresses has begun, or that lead to one, whatever NAT
// does to them. It must be called while nothing gets through to or from the addresses, or once
// the rules are those of the next pod; otherwise packets that are under way could begin the flows
// again. It may be called from any goroutine. Callers that come while another caller's addresses
// are looked for are served together, by one search after that.
//
// The kernel filters IPv4 flows (CTA_FILTER, since Linux 5.8), so of these it lists only those
// that are to be ended. But each time it goes through its whole hash table, of all network
// namespaces. That takes some 10 ms with the default size of large machines, and 50 ms if the
// table is full, and is needed twice for each address. Where there are few flows, or many
// addresses, a single listing of all flows takes less.
func (f *Flows) Forget(addrs []netip.Addr) error {
	f.joiningMu.Lock()
	if f.joining == nil {
		f.joining = &forgetting{}
	}
	round := f.joining
	round.addrs = append(round.addrs, addrs...)
	f.joiningMu.Unlock()

	f.forgetting.Lock()
	defer f.forgetting.Unlock()
	if !round.done {
		f.joiningMu.Lock()
		f.joining = nil
		f.joiningMu.Unlock()
		round.done, round.err = true, f.forgetAll(round.addrs)
	}
	return round.err
}

// forgetting is one round of Forget: for all who called while another round was under way.
type forgetting struct {
	addrs []netip.Addr // guarded by joiningMu until nobody can join any more
	done  bool         // this and err are guarded by Flows.forgetting
	err   error
}

// listedInAWalk is how many flows are listed in the time in which the kernel goes through a
// hash table of 262,144 buckets once.
const listedInAWalk = 5_000

// forgetAll looks for the addresses one by one, or in a list of all flows, whichever takes less.
func (f *Flows) forgetAll(addrs []netip.Addr) error {
	entries, err := f.deletions.entries()
	switch {
	case err != nil:
		return &OpError{Op: "count flows", Err: err}
	case oneByOne(addrs, entries, listedInAWalk):
		return f.forgetEach(addrs)
	}
	return f.forgetListed(addrs)
}

// ends are the tuples of an entry whose sources are its two ends: the source of the original tuple
// has begun the flow, and the source of the reply's tuple is where it leads.
var ends = [...]uint16{ctaTupleOrig, ctaTupleReply}

// oneByOne reports whether it takes less time to look for the addresses one by one, in walks in
// which the kernel filters, than in a list of all entries. inAWalk is how many entries of such a
// list are handled in the time that a walk takes.
func oneByOne(addrs []netip.Addr, entries uint32, inAWalk int) bool {
	walks := 0
	for _, addr := range addrs {
		if addr.Is4() {
			walks += len(ends)
		}
	}
	if slices.ContainsFunc(addrs, netip.Addr.Is6) {
		walks++ // one for all IPv6 addresses: see flowsOfAddrs
	}
	return (walks-1)*inAWalk <= int(entries)
}

// forgetEach looks for the addresses one by one.
func (f *Flows) forgetEach(addrs []netip.Addr) error {
	return f.end(addrs, func(do func(flow) error) (listed, unreadable int, err error) {
		return f.deletions.flowsOfAddrs(addrs, do)
	})
}

// forgetListed looks for all addresses in a list of all flows.
func (f *Flows) forgetListed(addrs []netip.Addr) error {
	return f.end(addrs, func(do func(flow) error) (listed, unreadable int, err error) { return f.deletions.flows(nil, do) })
}

// end ends the flows of the addresses that are in a list, which may also have other flows. It keeps
// the flows until the list has ended, because to list and to end flows need the same connection.
func (f *Flows) end(addrs []netip.Addr, list func(do func(flow) error) (listed, unreadable int, err error)) error {
	targets := setOf(addrs)
	var matched []flow
	listed, unreadable, err := list(func(e flow) error {
		if e.endsAt(targets) {
			e.tuple, e.zone, e.master = slices.Clone(e.tuple), slices.Clone(e.zone), nil
			matched = append(matched, e)
		}
		return nil
	})
	if unreadable > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d cannot be read", unreadable, unreadable+listed))
	}
	for _, entry := range matched {
		err = errors.Join(err, f.delete(entry))
	}
	if err != nil {
		return &OpError{Op: fmt.Sprintf("end the flows of %v", addrs), Err: err}
	}
	return nil
}

// flowsOfAddrs calls do with each flow of which an address is an end, and also with other flows of
// IPv6.
//
// The kernel compares IPv6 addresses the wrong way round, and lists the flows that do not match
// (ctnetlink_filter_match_tuple in net/netfilter/nf_conntrack_netlink.c, up to Linux 6.18 at
// least). So it is asked for all flows of that family, once.
func (l *line) flowsOfAddrs(addrs []netip.Addr, do func(flow) error) (listed, unreadable int, err error) {
	by := func(family byte, filter []byte) error {
		of, not, err := l.flowsOf(family, filter, do)
		listed, unreadable = listed+of, unreadable+not
		return err
	}
	if slices.ContainsFunc(addrs, netip.Addr.Is6) {
		if err := by(unix.AF_INET6, nil); err != nil {
			return listed, unreadable, err
		}
	}
	for _, addr := range addrs {
		for _, end := range ends {
			if addr.Is6() {
				continue
			}
			filter, err := sourceFilter(addr, end)
			if err == nil {
				err = by(unix.AF_INET, filter)
			}
			if err != nil {
				return listed, unreadable, err
			}
		}
	}
	return listed, unreadable, nil
}

// entries is how many flows there are in the network namespace.
func (l *line) entries() (entries uint32, err error) {
	request := netlink.Message{
		Header: netlink.Header{Type: ctMessageGetCounts, Flags: netlink.Request | netlink.Acknowledge}, Data: nfgenmsg(unix.AF_UNSPEC),
	}
	err = l.ask(request, func(m netlink.Message) error {
		return eachAttribute(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == ctaCountsEntries {
				entries = ad.Uint32()
			}
		})
	})
	return entries, err
}

const (
	ctMessageDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 + 2
	// ctMessageGetCounts asks how many flows there are (IPCTNL_MSG_CT_GET_STATS).
	ctMessageGetCounts = unix.NFNL_SUBSYS_CTNETLINK<<8 + 5
	ctaCountsEntries   = 1 // CTA_STATS_GLOBAL_ENTRIES

	ctaFilter           = 25
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	// filterSource is CTA_FILTER_F_CTA_IP_SRC of net/netfilter/nf_internals.h.
	filterSource = 1 << 0
)

// setOf is a set of addresses.
func setOf(addrs []netip.Addr) map[netip.Addr]bool {
	set := map[netip.Addr]bool{}
	for _, addr := range addrs {
		set[addr] = true
	}
	return set
}

// endsAt reports whether an address of a set is an end of the flow.
func (f *flow) endsAt(addrs map[netip.Addr]bool) bool {
	return addrs[f.packet.Src] || addrs[f.packet.Dst]
}

func familyOf(addr netip.Addr) byte {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// sourceFilter returns the attributes that ask for the flows with an IPv4 address as the source of a
// tuple.
func sourceFilter(addr netip.Addr, tuple uint16) ([]byte, error) {
	flags := uint16(ctaFilterOrigFlags)
	if tuple == ctaTupleReply {
		flags = ctaFilterReplyFlags
	}
	ae := netlink.NewAttributeEncoder()
	ae.Nested(netlink.Nested|tuple, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(netlink.Nested|ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(ctaIPv4Src, addr.AsSlice())
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

// delete ends a flow. It is no error if the flow has ended already.
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
