package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attach says how a host is attached to its node.
type Attach uint8

const (
	// Routed hosts have their own link to the node, and /32 and /128 addresses.
	Routed Attach = iota
	// Bridged hosts share the node's bridge br0, and a /24 and a /64; the node
	// has their subnets' first addresses.
	Bridged
	// Guarded hosts share the bridge too, but have /32 and /128 addresses, and send
	// everything to the bridge, which routes it: as podfence's own plugin has its pods.
	Guarded
)

func (a Attach) String() string {
	return [...]string{"routed", "bridged", "guarded"}[a]
}

// PodOptions are a pod's settings.
type PodOptions struct {
	IPs    []netip.Addr
	Attach Attach
}

// The gateways of routed hosts. The IPv4 one is nobody's address: a permanent
// neighbour entry leads to the node's side of the link.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

// Bridge is the name of a node's bridge.
const Bridge = "br0"

// The prefix lengths of bridged hosts' addresses.
const (
	bridgeBits4 = 24
	bridgeBits6 = 64
)

// AddPod attaches a pod to the node. The name may be a namespace/name.
func (n *Node) AddPod(name string, options PodOptions) (*Host, error) {
	h, err := n.attach(name, "veth", options)
	if err != nil {
		return nil, fmt.Errorf("add pod %s: %w", name, err)
	}
	return h, nil
}

// AddExternal attaches a host outside the cluster, routed. It differs from a
// pod in nothing but its link's name.
func (n *Node) AddExternal(name string, addrs ...netip.Addr) (*Host, error) {
	h, err := n.attach(name, "ext", PodOptions{IPs: addrs})
	if err != nil {
		return nil, fmt.Errorf("add external host %s: %w", name, err)
	}
	return h, nil
}

// RemovePod removes a pod, or an external host, its link and its routes. Its
// addresses may then be used again. It waits for batches of probes under way.
func (n *Node) RemovePod(name string) error {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	i := slices.IndexFunc(n.hosts, func(h *Host) bool { return h.Name == name })
	if i < 0 {
		return fmt.Errorf("remove pod %s from node %s: no such pod", name, n.Name)
	}
	h := n.hosts[i]
	n.hosts = slices.Delete(n.hosts, i, i+1)
	if err := errors.Join(n.withdraw(h), n.unlink(h), h.close()); err != nil {
		return fmt.Errorf("remove pod %s from node %s: %w", name, n.Name, err)
	}
	return nil
}

// unlink deletes the host's veth pair, and so the node's routes over it.
func (n *Node) unlink(h *Host) error {
	if h.Link == "" {
		return nil
	}
	if h.attach == Guarded { // the bridge stays, and would its routes
		for _, a := range h.IPs {
			route := &netlink.Route{LinkIndex: n.bridge.Attrs().Index, Dst: network(netip.PrefixFrom(a, a.BitLen())), Scope: scope(a)}
			if err := n.handle.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route to %s: %w", a, err)
			}
		}
	}
	link, err := n.handle.LinkByName(h.Link)
	if err != nil {
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return fmt.Errorf("link %s: %w", h.Link, err)
	}
	if err := n.handle.LinkDel(link); err != nil {
		return fmt.Errorf("delete link %s: %w", h.Link, err)
	}
	return nil
}

func (n *Node) attach(name, kind string, options PodOptions) (*Host, error) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	h, err := n.lab.newHost(name, options.IPs)
	if err != nil {
		return nil, err
	}
	h.node = n
	n.links++
	h.MAC = n.lab.newMAC()
	name = fmt.Sprintf("%s%d", kind, n.links)
	h.attach = options.Attach
	switch options.Attach {
	case Bridged:
		err = n.bridged(h, name)
	case Guarded:
		err = n.guarded(h, name)
	default:
		err = n.routed(h, name)
	}
	if err == nil {
		err = n.announce(h)
	}
	if err != nil {
		return nil, errors.Join(err, n.withdraw(h), n.unlink(h), h.close())
	}
	n.hosts = append(n.hosts, h)
	return h, nil
}

// link makes the host's veth pair, one end directly in the host's namespace.
func (n *Node) link(h *Host, name string, master netlink.Link) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, n.lab.newMAC()
	if master != nil {
		attrs.MasterIndex = master.Attrs().Index
	}
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: h.MAC, PeerNamespace: netlink.NsFd(h.ns.fd)}
	if err := n.handle.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("add veth %s: %w", name, err)
	}
	h.Link = name
	if err := n.handle.LinkSetUp(veth); err != nil {
		return nil, fmt.Errorf("set link %s up: %w", name, err)
	}
	return veth, nil
}

func (n *Node) routed(h *Host, name string) error {
	link, err := n.link(h, name, nil)
	if err != nil {
		return err
	}
	return n.reachBy(h, link, link)
}

// guarded hosts have the bridge for what routed ones have their own link for.
func (n *Node) guarded(h *Host, name string) error {
	if err := n.ensureBridge(); err != nil {
		return err
	}
	link, err := n.link(h, name, n.bridge)
	if err != nil {
		return err
	}
	return n.reachBy(h, n.bridge, link)
}

// reachBy gives a host its addresses and routes, and the node routes to them, by a device
// of the node's that is its link to the host, or the bridge of that.
func (n *Node) reachBy(h *Host, device, link netlink.Link) error {
	h.gateway = device.Attrs().HardwareAddr
	if err := addAddress(n.handle, device, netip.PrefixFrom(gateway6, 64)); err != nil {
		return err
	}
	for _, a := range h.IPs {
		if err := n.reach(device, a, h.MAC); err != nil {
			return err
		}
	}
	return h.inside([]netlink.Link{link}, func(own *netlink.Handle, eth0 netlink.Link) error {
		for _, a := range h.IPs {
			if err := addAddress(own, eth0, netip.PrefixFrom(a, a.BitLen())); err != nil {
				return err
			}
		}
		for _, gateway := range []netip.Addr{gateway4, gateway6} {
			if !h.IP(gateway).IsValid() {
				continue
			}
			if err := own.NeighSet(neighbour(eth0, gateway, h.gateway)); err != nil {
				return fmt.Errorf("add neighbour %s: %w", gateway, err)
			}
			if err := addDefault(own, eth0, gateway); err != nil {
				return err
			}
		}
		return nil
	})
}

func (n *Node) bridged(h *Host, name string) error {
	if err := n.ensureBridge(); err != nil {
		return err
	}
	link, err := n.link(h, name, n.bridge)
	if err != nil {
		return err
	}
	h.gateway = n.bridge.Attrs().HardwareAddr
	var prefixes, gateways []netip.Prefix
	for _, a := range h.IPs {
		bits := bridgeBits6
		if a.Is4() {
			bits = bridgeBits4
		}
		p := netip.PrefixFrom(a, bits)
		prefixes = append(prefixes, p)
		gateways = append(gateways, netip.PrefixFrom(p.Masked().Addr().Next(), bits))
	}
	for _, g := range gateways {
		if err := addAddress(n.handle, n.bridge, g); err != nil {
			return err
		}
	}
	return h.inside([]netlink.Link{link, n.bridge}, func(own *netlink.Handle, eth0 netlink.Link) error {
		for i, p := range prefixes {
			if err := addAddress(own, eth0, p); err != nil {
				return err
			}
			if err := addDefault(own, eth0, gateways[i].Addr()); err != nil {
				return err
			}
			// A pod that podfence closes does not find its gateway by itself.
			if err := own.NeighSet(neighbour(eth0, gateways[i].Addr(), h.gateway)); err != nil {
				return fmt.Errorf("add neighbour %s: %w", gateways[i].Addr(), err)
			}
		}
		return nil
	})
}

// ensureBridge makes the node's bridge. Its own address is fixed: a bridge
// otherwise takes over its ports', and changes it as they come and go.
func (n *Node) ensureBridge() error {
	if n.bridge != nil {
		return nil
	}
	for _, s := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if err := n.SetSysctl(s, "1"); err != nil {
			return fmt.Errorf("bridged pods need the kernel module br_netfilter: %w", err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = Bridge, n.lab.newMAC()
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := n.handle.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge br0: %w", err)
	}
	n.bridge = bridge
	if err := n.handle.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set bridge br0 up: %w", err)
	}
	return nil
}

// inside runs f in the host's namespace, with eth0, and the node's links to
// it, up.
func (h *Host) inside(nodeLinks []netlink.Link, f func(*netlink.Handle, netlink.Link) error) error {
	return h.Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer handle.Close()
		eth0, err := handle.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("link eth0: %w", err)
		}
		if err := handle.LinkSetUp(eth0); err != nil {
			return fmt.Errorf("set link eth0 up: %w", err)
		}
		if err := errors.Join(awaitUp(handle, eth0), awaitUp(h.node.handle, nodeLinks...)); err != nil {
			return err
		}
		h.eth0 = eth0.Attrs().Index
		return f(handle, eth0)
	})
}

func addDefault(handle *netlink.Handle, link netlink.Link, gateway netip.Addr) error {
	all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if gateway.Is4() {
		all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: network(all), Gw: net.IP(gateway.AsSlice()), Flags: int(netlink.FLAG_ONLINK),
	}
	if err := handle.RouteReplace(route); err != nil {
		return fmt.Errorf("add default route via %s: %w", gateway, err)
	}
	return nil
}
