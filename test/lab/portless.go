package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
)

// portless says whether connection tracking tells connections of the protocol
// apart by nothing but the addresses.
func portless(p policy.Protocol) bool {
	switch p {
	case policy.TCP, policy.UDP, policy.SCTP, policy.ICMP, policy.ICMPv6:
		return false
	}
	return true
}

// waves splits flights so that none has packets of a portless protocol in both
// directions between two addresses: the second would be a reply to the first.
func waves(flights []*flight) [][]*flight {
	type direction struct {
		src, dst netip.Addr
		protocol policy.Protocol
	}
	var all [][]*flight
	var used []map[direction]bool
	for _, f := range flights {
		p := f.probe.Packet
		i := 0
		if portless(p.Protocol) && !f.probe.Follows {
			for i < len(all) && used[i][direction{p.Dst, p.Src, p.Protocol}] {
				i++
			}
		}
		if i == len(all) {
			all, used = append(all, nil), append(used, map[direction]bool{})
		}
		all[i] = append(all[i], f)
		if portless(p.Protocol) {
			used[i][direction{p.Src, p.Dst, p.Protocol}] = true
		}
	}
	return all
}

// forgetPortless deletes what connection tracking on the nodes remembers of
// portless protocols, if the wave has any.
func (l *Lab) forgetPortless(wave []*flight) error {
	found := map[bool]bool{} // by: is IPv4
	for _, f := range wave {
		if portless(f.probe.Packet.Protocol) && !f.probe.Follows {
			found[f.probe.Packet.Dst.Is4()] = true
		}
	}
	for v4 := range found {
		family := netlink.InetFamily(unix.AF_INET6)
		if v4 {
			family = unix.AF_INET
		}
		for _, n := range l.nodes {
			err := n.conntrack(func(h *netlink.Handle) error {
				_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, portlessFlows{})
				return err
			})
			// EINVAL: the kernel has no conntrack netlink, so tracks nothing
			// that could be deleted.
			if err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("node %s: delete from conntrack: %w", n.Name, err)
			}
		}
	}
	return nil
}

type portlessFlows struct{}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (portlessFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return portless(policy.Protocol(f.Forward.Protocol))
}
