package plugin

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inspection is a CHECK under way.
type inspection struct {
	conf   *Config
	at     attachment
	host   *netlink.Handle
	inside *podNS

	addrs        []netip.Addr
	bridge, port netlink.Link
}

// Check is CHECK: it compares what there is with what ADD has made, and changes
// nothing. Its errors have the CNI codes 3 (the container has no addresses), 4
// (the environment), 6 and 7 (the configuration), CodeDrift, or 999.
func (p Plugin) Check(args *skel.CmdArgs) error {
	conf, err := ReadConfig(args.StdinData)
	if err != nil {
		return err
	}
	if conf.PrevResult == nil {
		return invalidConfig(errors.New("there is no prevResult"))
	}
	if conf.Chained() {
		return nil // all that there is to compare was made by the other plugin
	}
	inside, err := openPod(args.Netns, args.IfName)
	if err != nil {
		return err
	}
	defer inside.close()
	host, err := openHost()
	if err != nil {
		return err
	}
	defer host.Close()
	i := &inspection{conf: conf, at: attachment{args.ContainerID, args.IfName}, host: host, inside: inside}
	return run(p, "check", []step[*inspection]{
		{"leases", (*inspection).leases},
		{"bridge", (*inspection).checkBridge},
		{"port", (*inspection).checkPort},
		{"host", (*inspection).checkHost},
		{"pod link", (*inspection).checkPodLink},
		{"pod routes", (*inspection).checkPodRoutes},
	}, i)
}

// leases compares the addresses noted on disk with those that were reported to the runtime.
func (i *inspection) leases() error {
	l, err := openLeases(i.conf)
	if err != nil {
		return err
	}
	i.addrs = l.of(i.at)
	if err := l.close(); err != nil {
		return err
	}
	if len(i.addrs) == 0 {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("container %s has no addresses", i.at), "")
	}
	for _, ip := range i.conf.PrevResult.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		if in, err := inPod(i.conf.PrevResult, ip); err == nil && in != nil && !slices.Contains(i.addrs, addr.Unmap()) {
			return drift("address %s is not leased to container %s", addr.Unmap(), i.at)
		}
	}
	return nil
}

func (i *inspection) checkBridge() (err error) {
	if i.bridge, err = found(i.host, i.conf.Bridge); err != nil {
		return err
	}
	if err := checkBridge(i.bridge, i.conf.Bridge); err != nil {
		return drift("%v", err)
	}
	if err := checkUp(i.bridge); err != nil {
		return err
	}
	return checkAddresses(i.host, i.bridge, gateways(i.conf))
}

func (i *inspection) checkPort() (err error) {
	if i.port, err = found(i.host, LinkName(i.at.containerID, i.at.ifName)); err != nil {
		return err
	}
	name := i.port.Attrs().Name
	if !ours(i.port) {
		return drift("link %s is not podfence's", name)
	}
	if i.port.Attrs().MasterIndex != i.bridge.Attrs().Index {
		return drift("link %s is not in bridge %s", name, i.conf.Bridge)
	}
	if err := errors.Join(checkUp(i.port), i.checkMTU(i.port)); err != nil {
		return err
	}
	values, err := portValues(i.port)
	if err != nil {
		return err
	}
	for _, flag := range portFlags {
		if values[flag.attr] != flag.want {
			return drift("bridge port %s: %s is %d, not %d", name, flag.name, values[flag.attr], flag.want)
		}
	}
	entries, err := dump(func() ([]netlink.Neigh, error) { return i.host.NeighList(i.port.Attrs().Index, unix.AF_BRIDGE) })
	if err != nil {
		return fmt.Errorf("addresses behind bridge port %s: %w", name, err)
	}
	mac := PodMAC(i.at.containerID, i.at.ifName)
	if !slices.ContainsFunc(entries, func(n netlink.Neigh) bool {
		return n.State == netlink.NUD_NOARP && bytes.Equal(n.HardwareAddr, mac)
	}) {
		return drift("bridge port %s: the static address %s is missing", name, mac)
	}
	return nil
}

func (i *inspection) checkHost() error {
	mac := PodMAC(i.at.containerID, i.at.ifName)
	for _, a := range i.addrs {
		if err := checkNeighbour(i.host, i.bridge, a, mac); err != nil {
			return err
		}
		if err := checkRoute(i.host, hostRoute(i.bridge, a), netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE); err != nil {
			return err
		}
	}
	return nil
}

func (i *inspection) checkPodLink() (err error) {
	p := i.inside
	if p.link, err = found(p.handle, p.ifName); err != nil {
		return err
	}
	mac := PodMAC(i.at.containerID, i.at.ifName)
	if !bytes.Equal(p.link.Attrs().HardwareAddr, mac) {
		return drift("link %s of the pod: its MAC is %s, not %s", p.ifName, p.link.Attrs().HardwareAddr, mac)
	}
	if err := errors.Join(checkUp(p.link), i.checkMTU(p.link)); err != nil {
		return err
	}
	return checkAddresses(p.handle, p.link, i.addrs)
}

func (i *inspection) checkPodRoutes() error {
	for _, gateway := range gateways(i.conf) {
		if err := checkNeighbour(i.inside.handle, i.inside.link, gateway, i.bridge.Attrs().HardwareAddr); err != nil {
			return err
		}
		if !i.reportedDefault(gateway) {
			if err := i.checkApart(gateway); err != nil {
				return err
			}
			continue
		}
		route := defaultRoute(i.inside.link, gateway)
		route.Dst = nil // what the library takes for the default
		if err := checkRoute(i.inside.handle, route, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST|netlink.RT_FILTER_GW); err != nil {
			return err
		}
	}
	return nil
}

// reportedDefault says whether ADD reported to the runtime that the pod's default route is by this
// interface.
func (i *inspection) reportedDefault(gateway netip.Addr) bool {
	return slices.ContainsFunc(i.conf.PrevResult.Routes, func(r *types.Route) bool { return r.GW.Equal(gateway.AsSlice()) })
}

// checkApart looks for the routes of an interface that is not the pod's first.
func (i *inspection) checkApart(gateway netip.Addr) error {
	for _, addr := range i.addrs {
		if addr.Is4() == gateway.Is4() {
			if err := i.inside.checkApart(addr, gateway); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkMTU compares the link's MTU with the one that was reported to the runtime, because the
// configuration may have changed since. Results before CNI 1.1 don't have it.
func (i *inspection) checkMTU(link netlink.Link) error {
	attrs := link.Attrs()
	for _, reported := range i.conf.PrevResult.Interfaces {
		if reported.Name == attrs.Name && reported.Mtu != 0 && reported.Mtu != attrs.MTU {
			return drift("link %s: its MTU is %d, not %d", attrs.Name, attrs.MTU, reported.Mtu)
		}
	}
	return nil
}

// found is a link that must be there.
func found(handle *netlink.Handle, name string) (netlink.Link, error) {
	link, err := handle.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, drift("link %s is missing", name)
	}
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	return link, nil
}

func checkUp(link netlink.Link) error {
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return drift("link %s is down", link.Attrs().Name)
	}
	return nil
}

func checkAddresses(handle *netlink.Handle, link netlink.Link, want []netip.Addr) error {
	have, err := dump(func() ([]netlink.Addr, error) { return handle.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range want {
		if !slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IP.Equal(a.AsSlice()) }) {
			return drift("link %s: address %s is missing", link.Attrs().Name, a)
		}
	}
	return nil
}

func checkNeighbour(handle *netlink.Handle, link netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	have, err := dump(func() ([]netlink.Neigh, error) { return handle.NeighList(link.Attrs().Index, family(a)) })
	if err != nil {
		return fmt.Errorf("neighbours on %s: %w", link.Attrs().Name, err)
	}
	if !slices.ContainsFunc(have, func(n netlink.Neigh) bool {
		return n.IP.Equal(a.AsSlice()) && n.State == netlink.NUD_PERMANENT && bytes.Equal(n.HardwareAddr, mac)
	}) {
		return drift("link %s: the permanent neighbour %s with MAC %s is missing", link.Attrs().Name, a, mac)
	}
	return nil
}

func checkRoute(handle *netlink.Handle, want *netlink.Route, mask uint64) error {
	gateway, to := net.IP(want.Gw), "default"
	if want.Dst != nil {
		to = want.Dst.String()
	}
	family := netlink.FAMILY_V6
	if want.Dst != nil && want.Dst.IP.To4() != nil || gateway.To4() != nil {
		family = netlink.FAMILY_V4
	}
	have, err := dump(func() ([]netlink.Route, error) { return handle.RouteListFiltered(family, want, mask) })
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	if len(have) == 0 {
		return drift("the route to %s is missing", to)
	}
	return nil
}
