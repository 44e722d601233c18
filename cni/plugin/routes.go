package plugin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// neighbour is an entry that is never asked for or forgotten.
func neighbour(link netlink.Link, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family(a), State: netlink.NUD_PERMANENT,
		IP: a.AsSlice(), HardwareAddr: mac,
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// hostRoute leads the node's packets for a pod to the bridge.
func hostRoute(bridge netlink.Link, a netip.Addr) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: bridge.Attrs().Index, Dst: network(netip.PrefixFrom(a, a.BitLen())),
		Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN,
	}
	if a.Is4() {
		r.Scope = netlink.SCOPE_LINK // IPv6 has none
	}
	return r
}

// reach makes the node find a pod's addresses.
func reach(host *netlink.Handle, bridge netlink.Link, addrs []netip.Addr, mac net.HardwareAddr) error {
	for _, a := range addrs {
		if err := host.NeighSet(neighbour(bridge, a, mac)); err != nil {
			return fmt.Errorf("add neighbour %s on %s: %w", a, bridge.Attrs().Name, err)
		}
		if err := host.RouteReplace(hostRoute(bridge, a)); err != nil {
			return fmt.Errorf("add route to %s over %s: %w", a, bridge.Attrs().Name, err)
		}
	}
	return nil
}

// forget undoes reach, as far as it was done.
func forget(host *netlink.Handle, bridge string, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	link, err := host.LinkByName(bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil // with it, all that was on it has gone
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	var errs []error
	for _, a := range addrs {
		if err := host.RouteDel(hostRoute(link, a)); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("delete route to %s over %s: %w", a, bridge, err))
		}
		if err := host.NeighDel(neighbour(link, a, nil)); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("delete neighbour %s on %s: %w", a, bridge, err))
		}
	}
	return errors.Join(errs...)
}

// gone says whether there was nothing to delete, no link to delete it from, or
// a kernel without the family.
func gone(err error) bool {
	for _, errno := range []error{unix.ESRCH, unix.ENOENT, unix.ENODEV, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// defaultRoute leads all that a pod sends to the gateway. "onlink" says that the
// gateway is behind the link, though no address of the link says so.
func defaultRoute(link netlink.Link, gateway netip.Addr) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: network(everything(gateway)),
		Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}
}

// everything is the range of all addresses of one's family.
func everything(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
