package plugin

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/netns"
)

// podSettings are the kernel settings in the pod's namespace.
func podSettings(ifName string) []setting {
	var settings []setting
	for _, which := range []string{"all", "default", ifName} {
		v4, v6 := "net/ipv4/conf/"+which+"/", "net/ipv6/conf/"+which+"/"
		settings = append(settings,
			// Addresses work at once: nobody else can have them.
			setting{v6 + "accept_dad", "0"},
			// The one router there is needs no announcing.
			setting{v6 + "accept_ra", "0"},
			// The gateway is the only way, whatever anyone says.
			setting{v6 + "accept_redirects", "0"},
			setting{v4 + "accept_redirects", "0"},
		)
	}
	return settings
}

// podNS is the inside of a pod.
type podNS struct {
	fd     int
	ifName string
	handle *netlink.Handle
	link   netlink.Link
}

// openPod opens the pod's namespace. The caller closes it.
func openPod(path, ifName string) (*podNS, error) {
	fd, err := openNetNS(path)
	if err != nil {
		return nil, err
	}
	p := &podNS{fd: fd, ifName: ifName}
	err = netns.Inside(fd, func() (err error) {
		p.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return p, nil
}

func (p *podNS) close() {
	p.handle.Close()
	unix.Close(p.fd)
}

// prepare makes the settings, before the pod's link is up for the first time.
func (p *podNS) prepare(v6 bool) (err error) {
	if p.link, err = p.handle.LinkByName(p.ifName); err != nil {
		return fmt.Errorf("link %s: %w", p.ifName, err)
	}
	settings := podSettings(p.ifName)
	if v6 {
		// A runtime may have switched IPv6 off in the namespaces it makes.
		settings = append(settings, setting{"net/ipv6/conf/" + p.ifName + "/disable_ipv6", "0"})
	}
	return netns.Inside(p.fd, func() error { return apply(settings) })
}

// addressed gives the pod its addresses, and sets its links up.
func (p *podNS) addressed(addrs []netip.Addr) error {
	lo, err := p.handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	for _, a := range addrs {
		if err := addAddress(p.handle, p.link, a); err != nil {
			return err
		}
	}
	for _, link := range []netlink.Link{lo, p.link} {
		if err := p.handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("set link %s up: %w", link.Attrs().Name, err)
		}
	}
	return nil
}

// routed leads all that the pod sends to its gateways, and so to the bridge; by an
// interface that is not its first, only what has this one's addresses. It returns, for
// each address, whether the default route is by this interface. The gateways are those
// of the addresses' ranges, in their order.
func (p *podNS) routed(addrs, gateways []netip.Addr, bridgeMAC net.HardwareAddr) (first []bool, err error) {
	for i, gateway := range gateways {
		if err := p.handle.NeighSet(neighbour(p.link, gateway, bridgeMAC)); err != nil {
			return nil, fmt.Errorf("add neighbour %s: %w", gateway, err)
		}
		other, err := p.hasOtherDefault(gateway)
		if err != nil {
			return nil, err
		}
		first = append(first, !other)
		if other {
			if err := p.routeApart(addrs[i], gateway); err != nil {
				return nil, err
			}
			continue
		}
		if err := p.handle.RouteReplace(defaultRoute(p.link, gateway)); err != nil {
			return nil, fmt.Errorf("add default route via %s: %w", gateway, err)
		}
	}
	return first, nil
}

// awaitReady waits until the first packet to or from the pod isn't lost.
func (p *podNS) awaitReady(addrs []netip.Addr) error {
	if err := awaitUp(p.handle, p.link); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := awaitLocal(p.handle, a); err != nil {
			return err
		}
	}
	return nil
}
