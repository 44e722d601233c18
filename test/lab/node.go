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

// Node is a Host that forwards for the hosts attached to it.
type Node struct {
	Host

	// handle is a netlink connection into the node's namespace.
	handle *netlink.Handle
	hosts  []*Host
	links  int
	bridge *netlink.Bridge
	// uplinks are the ways to other nodes.
	uplinks []uplink
}

// uplink is one side of the veth pair between two nodes.
type uplink struct {
	to   *Node
	link netlink.Link
	// mac is the other side's.
	mac net.HardwareAddr
}

// AddNode adds a node with these addresses, which are on its loopback link.
func (l *Lab) AddNode(name string, addrs ...netip.Addr) (*Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.newNode(name, addrs)
	if err != nil {
		return nil, fmt.Errorf("add node %s: %w", name, err)
	}
	l.nodes = append(l.nodes, n)
	return n, nil
}

func (l *Lab) newNode(name string, addrs []netip.Addr) (*Node, error) {
	host, err := l.newHost(name, addrs)
	if err != nil {
		return nil, err
	}
	n := &Node{Host: Host{
		Name: host.Name, IPs: host.IPs, lab: l, ns: host.ns, isNode: true,
		senders: host.senders, taps: host.taps, servers: host.servers,
	}}
	n.node = n
	err = n.Do(func() error {
		for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/forwarding"} {
			if err := writeSysctl(s, "1"); err != nil {
				return err
			}
		}
		if n.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		return n.ownAddresses()
	})
	if err != nil {
		if n.handle != nil {
			n.handle.Close()
		}
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *Node) ownAddresses() error {
	lo, err := n.handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	for _, a := range n.IPs {
		if err := addAddress(n.handle, lo, netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	return nil
}

// Hosts returns the hosts attached to the node, in the order they were added.
func (n *Node) Hosts() []*Host {
	n.lab.mu.RLock()
	defer n.lab.mu.RUnlock()
	return slices.Clone(n.hosts)
}

// Connect links two nodes by a veth pair, with routes to each other's
// addresses and hosts, also to those added later.
func (l *Lab) Connect(a, b *Node) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.connect(a, b); err != nil {
		return fmt.Errorf("connect nodes %s and %s: %w", a.Name, b.Name, err)
	}
	return nil
}

func (l *Lab) connect(a, b *Node) error {
	if l.closed {
		return ErrClosed
	}
	l.peers++
	name := fmt.Sprintf("peer%d", l.peers)
	macA, macB := l.newMAC(), l.newMAC()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, macA
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerHardwareAddr: macB, PeerNamespace: netlink.NsFd(b.ns.fd)}
	if err := a.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", name, err)
	}
	var both []uplink
	for _, side := range []struct {
		from, to *Node
		mac      net.HardwareAddr
	}{{a, b, macB}, {b, a, macA}} {
		link, err := side.from.handle.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		if err := side.from.handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("set link %s up: %w", name, err)
		}
		up := uplink{to: side.to, link: link, mac: side.mac}
		side.from.uplinks = append(side.from.uplinks, up)
		both = append(both, up)
		for _, h := range append([]*Host{&side.to.Host}, side.to.hosts...) {
			if err := side.from.reachOver(up, h); err != nil {
				return err
			}
		}
	}
	return errors.Join(awaitUp(a.handle, both[0].link), awaitUp(b.handle, both[1].link))
}

// reachOver routes a host of another node.
func (n *Node) reachOver(up uplink, h *Host) error {
	for _, a := range h.IPs {
		if err := n.reach(up.link, a, up.mac); err != nil {
			return err
		}
	}
	return nil
}

// announce routes a new host on the nodes that this one is connected to.
func (n *Node) announce(h *Host) error {
	for _, other := range n.lab.nodes {
		for _, up := range other.uplinks {
			if up.to == n {
				if err := other.reachOver(up, h); err != nil {
					return fmt.Errorf("node %s: %w", other.Name, err)
				}
			}
		}
	}
	return nil
}

// withdraw removes what announce has added.
func (n *Node) withdraw(h *Host) error {
	var errs []error
	for _, other := range n.lab.nodes {
		for _, up := range other.uplinks {
			if up.to != n {
				continue
			}
			for _, a := range h.IPs {
				err := other.handle.RouteDel(&netlink.Route{
					LinkIndex: up.link.Attrs().Index, Dst: network(netip.PrefixFrom(a, a.BitLen())), Scope: scope(a),
				})
				if err != nil && !errors.Is(err, unix.ESRCH) {
					errs = append(errs, fmt.Errorf("node %s: remove route to %s: %w", other.Name, a, err))
				}
				err = other.handle.NeighDel(neighbour(up.link, a, up.mac))
				if err != nil && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, fmt.Errorf("node %s: remove neighbour %s: %w", other.Name, a, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// FlushConntrack empties the node's connection tracking table.
func (n *Node) FlushConntrack() error {
	err := n.conntrack(func(h *netlink.Handle) error { return h.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		return fmt.Errorf("node %s: flush conntrack: %w", n.Name, err)
	}
	return nil
}

// conntrack runs f with a netlink connection to connection tracking.
func (n *Node) conntrack(f func(*netlink.Handle) error) error {
	return n.Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer handle.Close()
		return f(handle)
	})
}
