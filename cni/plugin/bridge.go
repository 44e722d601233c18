package plugin

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridgeSettings are the kernel settings of the bridge only. The kernel combines the IPv4
// settings with those of conf/all, which the agent makes: redirects are sent unless both are
// off.
func bridgeSettings(bridge string, ipv6 bool) []setting {
	v4, v6 := "net/ipv4/conf/"+bridge+"/", "net/ipv6/conf/"+bridge+"/"
	settings := []setting{
		// A packet between two pods comes in where it goes out: without this,
		// the node tells the sender of a shorter way, which doesn't exist.
		{v4 + "send_redirects", "0"},
		{v4 + "forwarding", "1"},
		// A pod does not choose the way of its packets: no source routes, and no
		// routing header of any type.
		{v4 + "accept_source_route", "0"},
		{v6 + "accept_source_route", "-1"},
		{v6 + "accept_ra", "0"},
		{v6 + "accept_dad", "0"},
		// IPv6 has no setting for redirects, but they can only come from a
		// link-local address (ndisc_send_redirect). Nothing else needs one here.
		{v6 + "addr_gen_mode", "1"}, // IN6_ADDR_GEN_MODE_NONE
	}
	if ipv6 {
		settings = append(settings, setting{v6 + "disable_ipv6", "0"}, setting{v6 + "forwarding", "1"})
	}
	return settings
}

// ensureBridge returns the bridge, up and with the gateways' addresses. It makes
// what is missing. Any number of processes may do so at once, and any of them be
// killed: that the link is up says that its settings are made.
func ensureBridge(host *netlink.Handle, c *Config) (netlink.Link, error) {
	link, err := host.LinkByName(c.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		link, err = makeBridge(host, c.Bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", c.Bridge, err)
	}
	if err := checkBridge(link, c.Bridge); err != nil {
		return nil, err
	}
	up := link.Attrs().RawFlags&unix.IFF_UP != 0
	if !up {
		if err := apply(bridgeSettings(c.Bridge, hasIPv6(gateways(c)))); err != nil {
			return nil, fmt.Errorf("bridge %s: %w", c.Bridge, err)
		}
	}
	for _, gateway := range gateways(c) {
		if err := addAddress(host, link, gateway); err != nil {
			return nil, err
		}
	}
	if !up {
		if err := host.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("bridge %s: set up: %w", c.Bridge, err)
		}
	}
	return link, nil
}

// hasIPv6 says whether there is an IPv6 address among these.
func hasIPv6(addrs []netip.Addr) bool { return slices.ContainsFunc(addrs, netip.Addr.Is6) }

// makeBridge makes the bridge, or finds the one that another process has made.
func makeBridge(host *netlink.Handle, name string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	// A bridge keeps an address that was set, even when ports come and go
	// (br_stp_recalculate_bridge_id). To the pods it is their gateway's.
	attrs.Name, attrs.HardwareAddr = name, BridgeMAC(name)
	off := false
	// Without snooping, multicast goes to the ports that want flooding, and no port does.
	// A spanning tree and VLANs are off unless asked for; a kernel that is built
	// without VLANs refuses to be told that they are off (EOPNOTSUPP).
	err := host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("add: %w", err)
	}
	return host.LinkByName(name)
}

// checkBridge says whether a link is what makeBridge makes. Another's bridge, or
// one whose address changes, would cut off pods that have it as their gateway.
func checkBridge(link netlink.Link, name string) error {
	if link.Type() != "bridge" {
		return fmt.Errorf("bridge %s: there is a link of that name, of type %s", name, link.Type())
	}
	if mac := link.Attrs().HardwareAddr; !bytes.Equal(mac, BridgeMAC(name)) {
		return fmt.Errorf("bridge %s: its MAC is %s, podfence's has %s: another has made or changed it", name, mac, BridgeMAC(name))
	}
	return nil
}

// addAddress adds an address with its full length, if the link doesn't have it.
func addAddress(handle *netlink.Handle, link netlink.Link, a netip.Addr) error {
	addr := &netlink.Addr{IPNet: network(netip.PrefixFrom(a, a.BitLen()))}
	if a.Is6() {
		// Nobody else can have it, and detecting that takes a second.
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := handle.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s to %s: %w", a, link.Attrs().Name, err)
	}
	return nil
}

// fallbackMTU is Ethernet's, for a node without a default route.
const fallbackMTU = 1500

// uplinkMTU is the MTU of the link with the default route, the smaller one if
// the families differ.
func uplinkMTU(host *netlink.Handle) (int, error) {
	mtu := math.MaxInt
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		link, err := uplink(host, family)
		if err != nil {
			return 0, fmt.Errorf("default route: %w", err)
		}
		if link != nil && link.Attrs().MTU > 0 {
			mtu = min(mtu, link.Attrs().MTU)
		}
	}
	if mtu == math.MaxInt {
		return fallbackMTU, nil
	}
	return mtu, nil
}

// uplink is the link of a family's default route, nil if there is none.
func uplink(host *netlink.Handle, family int) (netlink.Link, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return host.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	best := -1
	for i, r := range routes {
		if r.Type == unix.RTN_UNICAST && outLink(r) > 0 && (best < 0 || r.Priority < routes[best].Priority) {
			best = i
		}
	}
	if best < 0 {
		return nil, nil
	}
	return host.LinkByIndex(outLink(routes[best]))
}

// outLink is the index of a route's link; of several, the first.
func outLink(r netlink.Route) int {
	if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	return r.LinkIndex
}

// dump repeats a listing that a change has interrupted, see NLM_F_DUMP_INTR in
// netlink(7).
func dump[T any](list func() ([]T, error)) (got []T, err error) {
	for range 10 {
		if got, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return got, err
}

// readyTimeout is how long the kernel may take to make a link or an address work.
const readyTimeout = 5 * time.Second

// await asks until the answer is yes, less and less often: many ADDs may wait at once, and
// the kernel needs the time, and the lock of its links, for what they wait for.
func await(what string, ready func() (bool, error)) error {
	const often, seldom = 100 * time.Microsecond, 10 * time.Millisecond
	deadline := time.Now().Add(readyTimeout)
	for pause := often; ; pause = min(2*pause, seldom) {
		ok, err := ready()
		if ok {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, os.ErrDeadlineExceeded)
		}
		time.Sleep(pause)
	}
}

// awaitUp waits until a link passes packets. The end of a new pair that was set up first
// gets its queue, and a bridge gets its first carrier, only when the kernel notices, some time
// later, that the other side is up. Until then it drops what is sent. Since Linux 6.9, to ask
// is enough.
func awaitUp(handle *netlink.Handle, link netlink.Link) error {
	return await("link "+link.Attrs().Name+" does not come up", func() (bool, error) {
		now, err := handle.LinkByIndex(link.Attrs().Index)
		if err != nil {
			return false, err
		}
		return now.Attrs().OperState == netlink.OperUp, nil
	})
}

// awaitLocal waits until packets to an IPv6 address are delivered: the kernel
// makes its local route in the work queue of duplicate address detection,
// detection or not (addrconf_dad_work).
func awaitLocal(handle *netlink.Handle, a netip.Addr) error {
	if a.Is4() {
		return nil
	}
	return await("address "+a.String()+" does not become local", func() (bool, error) {
		// Before there is a local route, there may be none at all.
		routes, err := handle.RouteGet(a.AsSlice())
		return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, nil
	})
}
