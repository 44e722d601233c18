package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// PodLinks finds the node's ends of pods' links that another plugin has made, by the
// routes to the pods' addresses. Its methods may be called concurrently.
type PodLinks struct {
	handle *netlink.Handle
	*notices
}

// OpenPodLinks connects to the kernel, in the network namespace of the calling thread, and
// begins to listen for changes of links and routes.
func OpenPodLinks() (*PodLinks, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("connect to rtnetlink: %w", err)
	}
	notices, err := listen(nil, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		handle.Close()
		return nil, err
	}
	return &PodLinks{handle: handle, notices: notices}, nil
}

// Close ends the connections.
func (p *PodLinks) Close() {
	p.close()
	p.handle.Close()
}

// Changed has a token when links or routes may have changed.
func (p *PodLinks) Changed() <-chan struct{} { return p.tokens }

// PodLink is where a pod's address is.
type PodLink struct {
	// Names are the links by which the node reaches it: the one link that is the pod's
	// own, or all pods' ports of the bridge that the pod is somewhere behind.
	Names []string
	// Own: it is the pod's own link.
	Own bool
}

// Find returns where the addresses are. One that the node has no route to, or not one to a
// pod on this node, is left out: it may be reached by a gateway, like any other host.
func (p *PodLinks) Find(ctx context.Context, addrs []netip.Addr) (map[netip.Addr]PodLink, error) {
	links, err := p.links()
	if err != nil {
		return nil, err
	}
	found := map[netip.Addr]PodLink{}
	for _, addr := range addrs {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		routes, err := p.handle.RouteGetWithOptions(net.IP(addr.AsSlice()), &netlink.RouteGetOptions{FIBMatch: true})
		if err != nil && !noRoute(err) { // else its port would open
			return nil, fmt.Errorf("route to pod address %s: %w", addr, err)
		}
		if len(routes) == 0 {
			continue
		}
		if at, here := links.at(routes[0], addr); here {
			found[addr] = at
		}
	}
	return found, nil
}

// noRoute says whether an error of a look-up is the answer: there is no route, or one that
// is unreachable, prohibited or a blackhole (fib_props in net/ipv4/fib_semantics.c). In a
// kernel without IPv6 there is none of its addresses.
func noRoute(err error) bool {
	for _, answer := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// linkTable are the node's links.
type linkTable struct {
	byIndex map[int]netlink.Link
	// ports are the pods' ports of each bridge.
	ports map[int][]string
}

func (p *PodLinks) links() (t linkTable, err error) {
	all, err := dump("links", p.handle.LinkList)
	if err != nil {
		return t, err
	}
	t.byIndex, t.ports = map[int]netlink.Link{}, map[int][]string{}
	for _, link := range all {
		attrs := link.Attrs()
		t.byIndex[attrs.Index] = link
	}
	for _, link := range all {
		attrs := link.Attrs()
		if attrs.MasterIndex != 0 && paired(link) && t.peer(link) == nil {
			t.ports[attrs.MasterIndex] = append(t.ports[attrs.MasterIndex], attrs.Name)
		}
	}
	return t, nil
}

// paired says whether a link is of a kind that has its other end in a pod.
func paired(link netlink.Link) bool { return link.Type() == "veth" || link.Type() == "netkit" }

// peer is a pair's other end, if that is on the node itself. Then it is no pod's.
func (t linkTable) peer(link netlink.Link) netlink.Link {
	attrs := link.Attrs()
	if attrs.NetNsID >= 0 || attrs.ParentIndex == 0 { // in another network namespace
		return nil
	}
	return t.byIndex[attrs.ParentIndex]
}

// bridge is the bridge that a link leads into, if it does: the bridge itself, a VLAN or a
// MACVLAN on it, or a pair whose other end is its port, as the reference plugin bridge has
// it where it is given a VLAN.
func (t linkTable) bridge(link netlink.Link) netlink.Link {
	switch link.Type() {
	case "bridge":
		return link
	case "vlan", "macvlan":
		if parent := t.byIndex[link.Attrs().ParentIndex]; parent != nil && parent != link {
			return t.bridge(parent)
		}
	case "veth", "netkit":
		if peer := t.peer(link); peer != nil {
			if master := t.byIndex[peer.Attrs().MasterIndex]; master != nil && master.Type() == "bridge" {
				return master
			}
		}
	}
	return nil
}

// at is where a route leads: to a pod's own link, if it is to that one address, or to a
// bridge. A route by a gateway leads elsewhere.
func (t linkTable) at(route netlink.Route, addr netip.Addr) (PodLink, bool) {
	link := t.byIndex[route.LinkIndex]
	if link == nil || route.Gw != nil || route.Via != nil || route.Type != unix.RTN_UNICAST {
		return PodLink{}, false
	}
	if bridge := t.bridge(link); bridge != nil {
		ports := slices.Clone(t.ports[bridge.Attrs().Index])
		slices.Sort(ports)
		return PodLink{Names: ports}, len(ports) > 0
	}
	if !paired(link) || route.Dst == nil {
		return PodLink{}, false
	}
	if bits, _ := route.Dst.Mask.Size(); bits == addr.BitLen() {
		return PodLink{Names: []string{link.Attrs().Name}, Own: true}, true
	}
	return PodLink{}, false
}
