package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// round is one Reconcile: what it saw, did, and could not do.
type round struct {
	*netlink.Handle
	options Options
	self    Node

	links  []netlink.Link
	addrs  []netlink.Addr
	locals map[netip.Addr]bool
	ipv6   bool

	tunnel  bool
	changes []string
	errs    []error      // about this node
	failed  PartialError // about others, about pods, and about this node's ranges
}

// run goes from what others depend on to what depends on it, and removes in the
// opposite order, so that no packet meets a route that leads nowhere.
func (r *round) run(self Node, others []Node, pods []Pod) error {
	var err error
	if self, err = self.normal(); err != nil {
		r.errs = append(r.errs, err)
	}
	r.self = self
	if err := r.observe(); err != nil {
		return errors.Join(append(r.errs, err)...)
	}
	r.remember()
	r.forwarding()
	r.guardPorts()
	if bridge := r.bridge(); bridge != nil && len(pods) > 0 {
		r.pods(bridge, pods)
	}
	plan := newPlan(r.options.Mode, r.self, others, view{r.direct, func(a netip.Addr) bool { return r.locals[a] }})
	r.failed.Nodes = plan.failed
	r.tunnel = plan.tunnels() || r.options.Mode == VXLAN
	device := r.device(plan)
	r.setRemotes(device, plan)
	r.setRoutes(device, plan)
	r.cleanDevice(device, plan)
	var partial error
	if len(r.failed.Nodes)+len(r.failed.Pods)+len(r.failed.Ranges) > 0 {
		partial = &r.failed
	}
	if len(r.errs) == 0 {
		return partial
	}
	return errors.Join(append(r.errs, partial)...)
}

// did notes a change, or the error because of which there is none. It returns whether there is a
// change.
func (r *round) did(err error, format string, args ...any) bool {
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err))
		return false
	}
	r.changes = append(r.changes, fmt.Sprintf(format, args...))
	return true
}

// remember keeps a Node whose InternalIP is missing for a while as the tunnel's end that it was: the
// VXLAN device still has the address.
func (r *round) remember() {
	if device, is := r.linkByName(r.options.VXLANDevice).(*netlink.Vxlan); is && len(r.self.Addrs) == 0 {
		if a := addrOf(device.SrcAddr); a.IsGlobalUnicast() {
			r.self.Addrs = []netip.Addr{a}
		}
	}
}

// watched are the links whose neighbours and forwarding entries are podfence's.
func (r *round) watched() map[int]bool {
	all := map[int]bool{}
	for _, l := range r.links {
		if r.own(l.Attrs().Index) || madeLink(l) {
			all[l.Attrs().Index] = true
		}
	}
	return all
}

// dump repeats a request for a list that changed while the kernel gave it.
func dump[T any](what string, list func() ([]T, error)) ([]T, error) {
	for tries := 0; ; tries++ {
		all, err := list()
		switch {
		case err == nil:
			return all, nil
		case !errors.Is(err, netlink.ErrDumpInterrupted) || tries == 10:
			return nil, fmt.Errorf("list %s: %w", what, err)
		}
	}
}

// observe lists links and addresses.
func (r *round) observe() (err error) {
	if r.links, err = dump("links", r.LinkList); err != nil {
		return err
	}
	r.addrs, err = dump("addresses", func() ([]netlink.Addr, error) { return r.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	r.locals = map[netip.Addr]bool{}
	for _, a := range r.addrs {
		// The kernel takes no tentative address for a route's source.
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 || a.Flags&unix.IFA_F_OPTIMISTIC != 0 {
			r.locals[addrOf(a.IP)] = true
		}
	}
	r.ipv6 = r.exists("net/ipv6/conf/all/forwarding")
	return nil
}

func (r *round) linkByName(name string) netlink.Link {
	for _, l := range r.links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

func (r *round) linkByIndex(index int) netlink.Link {
	for _, l := range r.links {
		if l.Attrs().Index == index {
			return l
		}
	}
	return nil
}

// own says whether a link is one of podfence's.
func (r *round) own(index int) bool {
	l := r.linkByIndex(index)
	return l != nil && (l.Attrs().Name == r.options.Bridge || l.Attrs().Name == r.options.VXLANDevice)
}

// uplinks are the links with this node's InternalIPs and, behind them, those
// of the default routes, IPv4 before IPv6. Where the InternalIPs are on the
// loopback link and there is no default route, they are the links of the routes
// that have an InternalIP as their source.
func (r *round) uplinks() ([]netlink.Link, error) {
	var links, sources []netlink.Link
	add := func(to *[]netlink.Link, index int) {
		if l := r.linkByIndex(index); l != nil && !r.own(index) && l.Attrs().Flags&net.FlagLoopback == 0 {
			*to = append(*to, l)
		}
	}
	for _, want := range r.self.Addrs {
		for _, a := range r.addrs {
			if addrOf(a.IP) == want {
				add(&links, a.LinkIndex)
			}
		}
	}
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump("routes", func() ([]netlink.Route, error) { return r.RouteList(nil, f) })
		if err != nil {
			return nil, err
		}
		for _, route := range routes {
			to := &links
			switch {
			case route.Type != unix.RTN_UNICAST:
				continue
			case prefixOf(route.Dst).Bits() == 0:
			case route.Src != nil && slices.Contains(r.self.Addrs, addrOf(route.Src)):
				to = &sources
			default:
				continue
			}
			add(to, route.LinkIndex)
			for _, hop := range route.MultiPath {
				add(to, hop.LinkIndex)
			}
		}
	}
	if len(links) == 0 {
		links = sources
	}
	return links, nil
}

func (r *round) uplinkMTU() (int, error) {
	links, err := r.uplinks()
	if err != nil {
		return 0, err
	}
	if len(links) == 0 {
		return 0, errors.New("no link has this node's InternalIP or a default route")
	}
	return links[0].Attrs().MTU, nil
}

// errNoRoute says that an address can't be reached at all, as while the uplink is down: not
// by the tunnel either.
var errNoRoute = errors.New("no route")

// direct finds the link that an address is on, by the kernel's own choice of
// route: one with a prefix, and without a gateway. The links' addresses don't
// say it: what DHCPv6 gives has no prefix but 128, and two links may have the
// same.
func (r *round) direct(to netip.Addr) (int, error) {
	routes, err := r.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil {
		return 0, fmt.Errorf("%w to InternalIP %s: %w", errNoRoute, to, err)
	}
	if len(routes) == 0 {
		return 0, fmt.Errorf("%w to InternalIP %s", errNoRoute, to)
	}
	route := routes[0]
	link := r.linkByIndex(route.LinkIndex)
	switch {
	case route.Type == unix.RTN_LOCAL:
		return 0, fmt.Errorf("InternalIP %s is this node's, too", to)
	case route.Type != unix.RTN_UNICAST || link == nil || len(route.MultiPath) > 0 || route.Via != nil:
		return 0, fmt.Errorf("InternalIP %s is on no link of this node", to)
	case route.Gw != nil:
		return 0, fmt.Errorf("InternalIP %s is on no link of this node, but behind %s", to, route.Gw)
	// A default route into a tunnel has no gateway, and the other side of it
	// does not route to pods.
	case prefixOf(route.Dst).Bits() == 0 || r.own(route.LinkIndex):
		return 0, fmt.Errorf("InternalIP %s is not on the link %s, but behind it", to, link.Attrs().Name)
	case r.options.Mode == Auto && link.Attrs().RawFlags&(unix.IFF_POINTOPOINT|unix.IFF_NOARP) != 0:
		return 0, fmt.Errorf("InternalIP %s is behind %s, which is no link of many nodes", to, link.Attrs().Name)
	}
	return route.LinkIndex, nil
}
