package node

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// priority is the metric of podfence's routes: the kernel's own for routes that
// say none (IP6_RT_PRIO_USER).
func priority(p netip.Prefix) int {
	if p.Addr().Is6() {
		return 1024
	}
	return 0
}

// kernelRoute is a route in the form that netlink takes.
func (r *round) kernelRoute(key routeKey, want route, device netlink.Link) *netlink.Route {
	k := &netlink.Route{
		Table: key.table, Dst: ipNet(key.dst), Priority: priority(key.dst), Protocol: RouteProtocol,
		Family: family(key.dst.Addr()), Type: unix.RTN_UNICAST,
	}
	if want.unreachable {
		k.Type = unix.RTN_UNREACHABLE
		return k
	}
	k.LinkIndex, k.Gw = want.link, want.gateway.AsSlice()
	if want.tunnel {
		k.LinkIndex = device.Attrs().Index
		k.Flags = int(netlink.FLAG_ONLINK)
	}
	if want.src.IsValid() {
		k.Src = want.src.AsSlice()
	}
	return k
}

// sameRoute compares what podfence sets. The kernel adds flags, and an interface
// to an unreachable IPv6 route.
func sameRoute(have, want *netlink.Route) bool {
	if have.Type != want.Type || have.Priority != want.Priority || len(have.MultiPath) > 0 {
		return false
	}
	if want.Type == unix.RTN_UNREACHABLE {
		return true
	}
	return have.LinkIndex == want.LinkIndex && addrOf(have.Gw) == addrOf(want.Gw) && addrOf(have.Src) == addrOf(want.Src) &&
		(have.Flags^want.Flags)&int(netlink.FLAG_ONLINK) == 0
}

// listRoutes returns the routes of the main and of podfence's table.
func (r *round) listRoutes() (map[routeKey][]netlink.Route, error) {
	found := map[routeKey][]netlink.Route{}
	for _, f := range r.families() {
		for _, table := range []int{unix.RT_TABLE_MAIN, NodesTable} {
			routes, err := dump("routes", func() ([]netlink.Route, error) {
				return r.RouteListFiltered(f, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
			})
			if err != nil {
				return nil, err
			}
			for _, route := range routes {
				key := routeKey{table, prefixOf(route.Dst)}
				found[key] = append(found[key], route)
			}
		}
	}
	return found, nil
}

// setRoutes adds and replaces, then the rules, then removes.
func (r *round) setRoutes(device netlink.Link, p *plan) {
	have, err := r.listRoutes()
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	for _, key := range slices.SortedFunc(maps.Keys(p.routes), compareKeys) {
		want := p.routes[key]
		if key.dst.Addr().Is6() && !r.ipv6 || want.tunnel && device == nil {
			continue // why has been said
		}
		r.setRoute(key, r.kernelRoute(key, want, device), have[key])
	}
	r.setRules(p)
	var bridge int
	if link := r.linkByName(r.options.Bridge); link != nil {
		bridge = link.Attrs().Index
	}
	for _, key := range slices.SortedFunc(maps.Keys(have), compareKeys) {
		if _, wanted := p.routes[key]; wanted || p.spared[key.dst] {
			continue
		}
		for _, route := range have[key] {
			// Those to the bridge are the CNI plugin's.
			if route.Protocol != RouteProtocol || route.LinkIndex == bridge || key.table == NodesTable && p.sparedVia[addrOf(route.Gw)] {
				continue
			}
			r.removeRoute(&route)
		}
	}
}

// setRoute replaces a route of podfence's in one step, so that no packet finds
// none. If another has made a route to the same destination, with whatever
// metric, it does nothing: replacing takes the first one, whosever it is
// (fib_table_insert, fib6_add_rt2node).
func (r *round) setRoute(key routeKey, want *netlink.Route, have []netlink.Route) {
	for _, h := range have {
		if h.Protocol != RouteProtocol {
			about := r.failed.Nodes
			if slices.Contains(r.self.PodCIDRs, key.dst) {
				about = r.failed.Ranges
			}
			about[key.dst.String()] = fmt.Errorf("route to %s: there is one that podfence did not make, %s", key.dst, r.describe(&h))
			return
		}
	}
	switch {
	case len(have) == 0:
		r.did(r.RouteAdd(want), "add route to %s", key.dst)
		return
	case !slices.ContainsFunc(have, func(h netlink.Route) bool { return sameRoute(&h, want) }):
		if !r.did(r.RouteReplace(want), "replace route to %s", key.dst) {
			return
		}
	}
	for _, h := range have {
		if h.Priority != want.Priority {
			r.removeRoute(&h)
		}
	}
}

func (r *round) removeRoute(route *netlink.Route) {
	err := r.RouteDel(route)
	if errors.Is(err, unix.ESRCH) {
		return // it went with its device
	}
	r.did(err, "remove route to %s", prefixOf(route.Dst))
}

// describe says which route, as ip(8) would.
func (r *round) describe(route *netlink.Route) string {
	text := prefixOf(route.Dst).String()
	if route.Gw != nil {
		text += " via " + route.Gw.String()
	}
	if link := r.linkByIndex(route.LinkIndex); link != nil {
		text += " dev " + link.Attrs().Name
	}
	return fmt.Sprintf("%s proto %s metric %d", text, route.Protocol, route.Priority)
}

// setRules makes the rules that lead what pods send to NodesTable, in the families of which that
// has routes. The rules name the bridge, not its index, so that the kernel applies them whenever
// the bridge exists.
func (r *round) setRules(p *plan) {
	want := map[int]bool{}
	for key := range p.routes {
		if key.table == NodesTable {
			want[family(key.dst.Addr())] = true
		}
	}
	for _, f := range r.families() {
		rules, err := dump("rules", func() ([]netlink.Rule, error) { return r.RuleList(f) })
		if err != nil {
			r.errs = append(r.errs, err)
			continue
		}
		exists := false
		for _, rule := range rules {
			if rule.Protocol != RouteProtocol || rule.Table != NodesTable {
				continue
			}
			if want[f] && !exists && rule.IifName == r.options.Bridge && rule.Priority == NodesTable {
				exists = true
				continue
			}
			// There may be a node whose entries are spared.
			if want[f] || len(p.spared) == 0 {
				r.did(r.RuleDel(&rule), "remove rule of link %s", rule.IifName)
			}
		}
		if want[f] && !exists {
			rule := netlink.NewRule()
			rule.Family, rule.Table, rule.Priority = f, NodesTable, NodesTable
			rule.IifName, rule.Protocol = r.options.Bridge, RouteProtocol
			r.did(r.RuleAdd(rule), "add rule of link %s", rule.IifName)
		}
	}
}

func compareKeys(a, b routeKey) int {
	if a.table != b.table {
		return b.table - a.table
	}
	return a.dst.Compare(b.dst)
}
