package plugin

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A pod has one default route for each family. If it has a second interface, such as Multus
// makes, the addresses of that must work, too: what the pod answers from them has to leave by that
// interface, because only its port may send from them. So the interface has a routing table of its
// own, and two rules for each family lead what has its address, or is bound to it, there:
//
//	ip rule add from 10.244.1.9 lookup 28777 priority 28774
//	ip rule add oif net1 lookup 28777 priority 28774
//	ip route add default via 10.244.1.1 dev net1 onlink table 28777

// ownTables is the priority of these rules. The number of a link's table is this plus the link's
// index.
const ownTables = 28774

func ownTable(link netlink.Link) int { return ownTables + link.Attrs().Index }

// hasOtherDefault says whether the pod has a default route of this family by another
// link, and so another interface that came first.
func (p *podNS) hasOtherDefault(gateway netip.Addr) (bool, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return p.handle.RouteListFiltered(family(gateway), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return false, fmt.Errorf("default routes of the pod: %w", err)
	}
	for _, r := range routes {
		// "unreachable default" is what the kernel itself has for IPv6.
		if r.Type == unix.RTN_UNICAST && outLink(r) != p.link.Attrs().Index {
			return true, nil
		}
	}
	return false, nil
}

// routeApart leads what has the address, or is bound to the interface, to its gateway.
func (p *podNS) routeApart(addr, gateway netip.Addr) error {
	if err := p.deleteOldRules(addr); err != nil {
		return err
	}
	route := defaultRoute(p.link, gateway)
	route.Table = ownTable(p.link)
	if err := p.handle.RouteReplace(route); err != nil {
		return fmt.Errorf("add default route via %s to table %d: %w", gateway, route.Table, err)
	}
	for _, rule := range p.ownRules(addr) {
		if err := p.handle.RuleAdd(rule); err != nil {
			return fmt.Errorf("add rule for %s of %s: %w", addr, p.ifName, err)
		}
	}
	return nil
}

// ownRules lead to an interface's own table.
func (p *podNS) ownRules(addr netip.Addr) []*netlink.Rule {
	from, bound := netlink.NewRule(), netlink.NewRule()
	for _, rule := range []*netlink.Rule{from, bound} {
		rule.Family, rule.Priority, rule.Table = family(addr), ownTables, ownTable(p.link)
	}
	from.Src = network(netip.PrefixFrom(addr, addr.BitLen()))
	bound.OifName = p.ifName
	return []*netlink.Rule{from, bound}
}

// deleteOldRules deletes the rules of interfaces that are gone. Unlike their tables, which
// are empty then, they stay when a link goes.
func (p *podNS) deleteOldRules(addr netip.Addr) error {
	rules, err := dump(func() ([]netlink.Rule, error) { return p.handle.RuleList(family(addr)) })
	if err != nil {
		return fmt.Errorf("rules of the pod: %w", err)
	}
	for i := range rules {
		if rules[i].Priority != ownTables {
			continue
		}
		if _, err := p.handle.LinkByIndex(rules[i].Table - ownTables); err == nil && rules[i].OifName != p.ifName {
			continue
		}
		if err := p.handle.RuleDel(&rules[i]); err != nil && !gone(err) {
			return fmt.Errorf("delete rule %v of an interface that is gone: %w", rules[i], err)
		}
	}
	return nil
}

// checkApart compares with what routeApart has made.
func (p *podNS) checkApart(addr, gateway netip.Addr) error {
	route := defaultRoute(p.link, gateway)
	route.Dst, route.Table = nil, ownTable(p.link)
	if err := checkRoute(p.handle, route, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST|netlink.RT_FILTER_GW|netlink.RT_FILTER_TABLE); err != nil {
		return err
	}
	rules, err := dump(func() ([]netlink.Rule, error) { return p.handle.RuleList(family(addr)) })
	if err != nil {
		return fmt.Errorf("rules of the pod: %w", err)
	}
	for _, want := range p.ownRules(addr) {
		found := false
		for _, have := range rules {
			found = found || have.Priority == want.Priority && have.Table == want.Table && have.OifName == want.OifName &&
				fmt.Sprint(have.Src) == fmt.Sprint(want.Src)
		}
		if !found {
			return drift("the rule that leads what %s sends to table %d is missing", addr, want.Table)
		}
	}
	return nil
}
