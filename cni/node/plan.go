package node

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// routeKey is what there may be one route for.
type routeKey struct {
	table int
	dst   netip.Prefix
}

// route is how to get there.
type route struct {
	// unreachable routes have nothing else.
	unreachable bool
	// tunnel routes use the VXLAN device, others the link.
	tunnel  bool
	link    int
	gateway netip.Addr
	// src is the source of the node's own packets, or the zero Addr.
	src netip.Addr
}

// plan is what the kernel should have.
type plan struct {
	routes map[routeKey]route
	// neighbours and remotes are entries of the VXLAN device: the MACs of the
	// tunnelled routes' gateways, and the nodes that have the MACs.
	neighbours map[netip.Addr]net.HardwareAddr
	remotes    map[string]netip.Addr // by net.HardwareAddr.String
	// spared are the pod CIDRs, tunnel gateways and MACs of nodes that something is wrong with:
	// what the kernel has for them stays. By the gateways, the routes to the nodes themselves are
	// known, as their addresses may be what is missing.
	spared     map[netip.Prefix]bool
	sparedVia  map[netip.Addr]bool
	sparedMACs map[string]bool
	// failed are the nodes that something is wrong with, by name, and what.
	failed map[string]error
}

// tunnels says whether the VXLAN device is needed.
func (p *plan) tunnels() bool { return len(p.remotes) > 0 }

// view is what a plan needs to know of the kernel.
type view struct {
	// direct returns the link that an address is on. An error says why it is
	// on none.
	direct func(netip.Addr) (link int, err error)
	// local says whether an address is the node's and ready.
	local func(netip.Addr) bool
}

// underlay says whether the tunnel runs over IPv6: the first InternalIP decides.
func (n *Node) underlay() (v6 bool) { return len(n.Addrs) > 0 && n.Addrs[0].Is6() }

// addr returns the first InternalIP of a family, or the zero Addr.
func (n *Node) addr(v6 bool) netip.Addr {
	i := slices.IndexFunc(n.Addrs, func(a netip.Addr) bool { return a.Is6() == v6 })
	if i < 0 {
		return netip.Addr{}
	}
	return n.Addrs[i]
}

// cidr returns the first pod CIDR of a family, or the zero Prefix.
func (n *Node) cidr(v6 bool) netip.Prefix {
	i := slices.IndexFunc(n.PodCIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() == v6 })
	if i < 0 {
		return netip.Prefix{}
	}
	return n.PodCIDRs[i]
}

// normal returns the node without what can't be used. An address is no reason to fail: it
// is left out, and whoever read the Node says so. A range is, and the error names it.
func (n Node) normal() (Node, error) {
	var errs []error
	result := Node{Name: n.Name}
	for _, a := range n.Addrs {
		a = a.Unmap()
		// A link-local address means something else on each link.
		if a.IsGlobalUnicast() && a.Zone() == "" {
			result.Addrs = append(result.Addrs, a)
		}
	}
	for _, p := range n.PodCIDRs {
		switch {
		case !p.IsValid() || p.Bits() == 0 || p.Addr().Is4In6() || p.Addr().BitLen()-p.Bits() < 2 || !p.Addr().IsGlobalUnicast():
			errs = append(errs, fmt.Errorf("podCIDR %s can't be used", p))
			continue
		// The tunnel to the node would lead through itself.
		case slices.ContainsFunc(result.Addrs, p.Contains):
			errs = append(errs, fmt.Errorf("podCIDR %s contains the node's InternalIP", p))
			continue
		}
		result.PodCIDRs = append(result.PodCIDRs, p.Masked())
	}
	if len(result.PodCIDRs) == 0 {
		errs = append(errs, errors.New("no podCIDR"))
	}
	if len(errs) > 0 {
		return result, fmt.Errorf("node %s: %w", n.Name, errors.Join(errs...))
	}
	return result, nil
}

// newPlan decides about each node. Those that failed are not in it, but spared. Self is
// normal.
func newPlan(mode Mode, self Node, others []Node, v view) *plan {
	p := &plan{
		routes: map[routeKey]route{}, neighbours: map[netip.Addr]net.HardwareAddr{}, remotes: map[string]netip.Addr{},
		spared: map[netip.Prefix]bool{}, sparedVia: map[netip.Addr]bool{}, sparedMACs: map[string]bool{},
		failed: map[string]error{},
	}
	// What is sent to a pod that is gone must not follow the default route, because the network
	// might send it back.
	for _, c := range self.PodCIDRs {
		p.routes[routeKey{unix.RT_TABLE_MAIN, c}] = route{unreachable: true}
	}
	others = slices.Clone(others)
	slices.SortStableFunc(others, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, raw := range others {
		if raw.Name == self.Name {
			continue
		}
		other, err := raw.normal()
		if err == nil {
			if err = p.add(mode, self, other, v); err != nil {
				err = fmt.Errorf("node %s: %w", other.Name, err)
			}
		}
		if err != nil {
			p.failed[other.Name] = err
			p.spare(self, other)
		}
	}
	// A range that another node has after all is not to be left as it is.
	for key := range p.routes {
		delete(p.spared, key.dst)
	}
	return p
}

func (p *plan) spare(self, other Node) {
	for _, c := range other.PodCIDRs {
		p.spared[c] = true
		p.sparedVia[gateway(c)] = true
	}
	mac := VTEPMAC(other.Name, self.underlay())
	p.sparedVia[linkLocal(mac)] = true
	p.sparedMACs[mac.String()] = true
}

// add plans for one node, wholly or, with an error, not at all.
func (p *plan) add(mode Mode, self, other Node, v view) error {
	for _, c := range other.PodCIDRs {
		if i := slices.IndexFunc(self.PodCIDRs, c.Overlaps); i >= 0 {
			return fmt.Errorf("podCIDR %s overlaps with this node's %s", c, self.PodCIDRs[i])
		}
		if _, taken := p.routes[routeKey{unix.RT_TABLE_MAIN, c}]; taken {
			return fmt.Errorf("podCIDR %s is another node's, too", c)
		}
		if i := slices.IndexFunc(self.Addrs, c.Contains); i >= 0 {
			return fmt.Errorf("podCIDR %s contains this node's InternalIP %s", c, self.Addrs[i])
		}
	}
	var why error
	if mode != VXLAN {
		routes, err := hostGW(self, other, v)
		if err == nil {
			for key, r := range routes {
				p.routes[key] = r
			}
			return nil
		}
		if mode == HostGW || errors.Is(err, errNoRoute) {
			return err
		}
		why = err
	}
	err := p.addTunnel(self, other, v)
	if err != nil && why != nil {
		return fmt.Errorf("neither host-gw (%w) nor VXLAN: %w", why, err)
	}
	return err
}

// hostGW returns the routes to a node that is on a link with this one, in each
// family that its pods have.
func hostGW(self, other Node, v view) (map[routeKey]route, error) {
	routes := map[routeKey]route{}
	for _, c := range other.PodCIDRs {
		v6 := c.Addr().Is6()
		to := other.addr(v6)
		if !to.IsValid() {
			return nil, fmt.Errorf("podCIDR %s: the node has no InternalIP of this family", c)
		}
		link, err := v.direct(to)
		if err != nil {
			return nil, err
		}
		routes[routeKey{unix.RT_TABLE_MAIN, c}] = route{link: link, gateway: to, src: source(self, v6, v)}
	}
	return routes, nil
}

// source is this node's InternalIP, if the kernel will take it.
func source(self Node, v6 bool, v view) netip.Addr {
	if a := self.addr(v6); a.IsValid() && v.local(a) {
		return a
	}
	return netip.Addr{}
}

// addTunnel plans a tunnel to a node, which carries both families.
func (p *plan) addTunnel(self, other Node, v view) error {
	if len(self.Addrs) == 0 {
		return errors.New("this node has no InternalIP for a tunnel")
	}
	v6 := self.underlay()
	remote := other.addr(v6)
	switch {
	case !remote.IsValid():
		return fmt.Errorf("the node has no InternalIP of the same family as this node's %s", self.Addrs[0])
	case v.local(remote):
		return fmt.Errorf("the node's InternalIP %s is this node's, too", remote)
	}
	mac := VTEPMAC(other.Name, v6)
	p.remotes[mac.String()] = remote
	via := func(c netip.Prefix) netip.Addr {
		if c.Addr().Is6() {
			return linkLocal(mac)
		}
		return gateway(c)
	}
	for _, c := range other.PodCIDRs {
		p.neighbours[via(c)] = mac
		p.routes[routeKey{unix.RT_TABLE_MAIN, c}] = route{tunnel: true, gateway: via(c), src: source(self, c.Addr().Is6(), v)}
	}
	for _, a := range other.Addrs {
		// Without pods of this family there, no answer would come back.
		if c := other.cidr(a.Is6()); c.IsValid() && self.cidr(a.Is6()).IsValid() {
			p.routes[routeKey{NodesTable, whole(a)}] = route{tunnel: true, gateway: via(c)}
		}
	}
	return nil
}
