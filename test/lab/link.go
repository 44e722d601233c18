package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newMAC returns a unicast address, locally administered, new in the lab.
func (l *Lab) newMAC() net.HardwareAddr {
	i := l.macs.Add(1)
	return net.HardwareAddr{0x02, 0x1a, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

// network is a prefix in the form that netlink takes.
func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// scope is that of a route without a gateway; IPv6 has none.
func scope(a netip.Addr) netlink.Scope {
	if a.Is4() {
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}

func addAddress(handle *netlink.Handle, link netlink.Link, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: network(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := handle.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("add address %s to link %s: %w", p, link.Attrs().Name, err)
	}
	return awaitLocal(handle, link, p.Addr())
}

// awaitLocal waits until packets to a new address are delivered. For an IPv6
// one, the kernel adds the local route, and joins the solicited-node group,
// only in the work queue of duplicate address detection, detection or not
// (addrconf_dad_work); a first reply would be lost.
func awaitLocal(handle *netlink.Handle, link netlink.Link, a netip.Addr) error {
	if a.Is4() {
		return nil
	}
	options := &netlink.RouteGetOptions{}
	if a.IsLinkLocalUnicast() {
		options.OifIndex = link.Attrs().Index
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Microsecond) {
		routes, err := handle.RouteGetWithOptions(a.AsSlice(), options)
		// Before there is a local route, there may be none at all.
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("address %s on link %s does not become local: %w", a, link.Attrs().Name, errors.Join(err, os.ErrDeadlineExceeded))
		}
	}
}

// patience is how long the kernel may take to make a link or an address work.
const patience = 5 * time.Second

func neighbour(link netlink.Link, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	family := netlink.FAMILY_V6
	if a.Is4() {
		family = netlink.FAMILY_V4
	}
	return &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT,
		IP: a.AsSlice(), HardwareAddr: mac,
	}
}

// reach routes an address over a link on the node. The neighbour entry is
// permanent, so that no probe waits, or is lost, for address resolution.
func (n *Node) reach(link netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	if err := n.handle.NeighSet(neighbour(link, a, mac)); err != nil {
		return fmt.Errorf("add neighbour %s on link %s: %w", a, link.Attrs().Name, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: network(netip.PrefixFrom(a, a.BitLen())), Scope: scope(a)}
	// The link has no address of its own: say which of the node's is the
	// source of the node's packets.
	if own := n.IP(a); own.IsValid() {
		route.Src = own.AsSlice()
	}
	if err := n.handle.RouteReplace(route); err != nil {
		return fmt.Errorf("add route to %s over link %s: %w", a, link.Attrs().Name, err)
	}
	return nil
}

// awaitUp waits until links forward packets. Of a veth pair, the end that was
// set up first gets its queue only when the kernel has noticed, later, that
// the other end is up, too; until then it drops everything. That may be a
// second if both ends have the same index, as those of a node's first pod do:
// the kernel then takes them for one link, and its events for less urgent
// (linkwatch_urgent_event). Kernels since 6.9 settle it when they are asked.
func awaitUp(handle *netlink.Handle, links ...netlink.Link) error {
	deadline := time.Now().Add(patience)
	for _, link := range links {
		for {
			now, err := handle.LinkByIndex(link.Attrs().Index)
			if err != nil {
				return fmt.Errorf("link %s: %w", link.Attrs().Name, err)
			}
			if now.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("link %s stays %s", link.Attrs().Name, now.Attrs().OperState)
			}
			time.Sleep(200 * time.Microsecond)
		}
	}
	return nil
}
