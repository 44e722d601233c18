package node

import (
	"bytes"
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ConnectedPods are the node's ends of pods' links that the plugin has made. Each is there
// as long as its pod's network namespace.
func (n *Network) ConnectedPods() (names []string, err error) {
	err = n.observed(func(r *round) error {
		for _, link := range r.podLinks() {
			names = append(names, link.Attrs().Name)
		}
		return nil
	})
	return names, err
}

// DisconnectPods deletes the links of ConnectedPods. The pods keep nothing but their lo.
func (n *Network) DisconnectPods() (count int, err error) {
	err = n.observed(func(r *round) error {
		for _, link := range r.podLinks() {
			r.deleteLink(link)
		}
		count = r.changes
		return errors.Join(r.errs...)
	})
	return count, err
}

// Remove deletes what Reconcile and the plugin have made besides pods' links: rules,
// routes, the VXLAN device and the bridge, in this order, so that no packet meets a route
// that leads nowhere. Pods must be disconnected before: they would be left with half a
// network. What others have made stays, as do settings in /proc/sys, which others may
// have come to need. It returns how many things it deleted.
func (n *Network) Remove() (count int, err error) {
	err = n.observed(func(r *round) error {
		r.removeRules()
		r.removeRoutes()
		if device, is := r.linkByName(r.options.VXLANDevice).(*netlink.Vxlan); is {
			r.deleteLink(device)
		}
		name := r.options.Bridge
		if link := r.linkByName(name); link != nil && bytes.Equal(link.Attrs().HardwareAddr, bridgeMAC(name)) {
			r.deleteLink(link)
		}
		count = r.changes
		return errors.Join(r.errs...)
	})
	return count, err
}

// observed calls f with a round that has listed links and addresses.
func (n *Network) observed(f func(*round) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle == nil {
		return ErrClosed
	}
	return inside(n.options.NetNS, func() error {
		r := &round{Handle: n.handle, options: n.options}
		if err := r.observe(); err != nil {
			return err
		}
		return f(r)
	})
}

func (r *round) podLinks() (links []netlink.Link) {
	for _, link := range r.links {
		attrs := link.Attrs()
		if link.Type() == "veth" && bytes.Equal(attrs.HardwareAddr, derivedMAC("link "+attrs.Name)) {
			links = append(links, link)
		}
	}
	return links
}

// deleteLink deletes a link that may be going by itself, with a pod's namespace.
func (r *round) deleteLink(link netlink.Link) {
	err := r.LinkDel(link)
	if errors.Is(err, unix.ENODEV) {
		return
	}
	r.did(err, "remove link %s", link.Attrs().Name)
}

func (r *round) removeRules() {
	for _, f := range r.families() {
		rules, err := dump("rules", func() ([]netlink.Rule, error) { return r.RuleList(f) })
		if err != nil {
			r.errs = append(r.errs, err)
			continue
		}
		for _, rule := range rules {
			if rule.Protocol == RouteProtocol && rule.Table == NodesTable {
				r.did(r.RuleDel(&rule), "remove rule of link %s", rule.IifName)
			}
		}
	}
}

func (r *round) removeRoutes() {
	have, err := r.listRoutes()
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	for _, routes := range have {
		for _, route := range routes {
			if route.Protocol == RouteProtocol {
				r.removeRoute(&route)
			}
		}
	}
}
