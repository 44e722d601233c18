package connectivity_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/plugin"
)

// linkNames are the links of the calling thread's namespace.
func linkNames(t *testing.T) (names []string) {
	links, err := netlink.LinkList()
	if err != nil {
		t.Error(err)
	}
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names
}

// whole is a prefix that has one address.
func whole(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// podMAC is the MAC of a pod's interface.
func podMAC(p *pod) net.HardwareAddr { return plugin.PodMAC(p.Name, "eth0") }

// addTo gives a link of the calling thread's namespace addresses.
func addTo(name string, addrs []netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: whole(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return err
		}
	}
	return nil
}

// routeTo routes addresses to a MAC on a link, in the calling thread's
// namespace.
func routeTo(name string, addrs []netip.Addr, mac net.HardwareAddr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		family, scope := netlink.FAMILY_V6, netlink.SCOPE_UNIVERSE
		if a.Is4() {
			family, scope = netlink.FAMILY_V4, netlink.SCOPE_LINK
		}
		err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac})
		if err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: whole(a), Scope: scope}); err != nil {
			return err
		}
	}
	return nil
}
