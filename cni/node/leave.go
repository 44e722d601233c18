package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/netns"
)

// Connects returns the ports by which podfence's bridge connects pods, sorted, and whether
// the tunnel's device is there.
func (n *Network) Connects() (ports []string, tunnel bool, err error) {
	err = n.look(func(r *round) error {
		ports, tunnel = r.ports(), r.linkByName(r.options.VXLANDevice) != nil
		return nil
	})
	return ports, tunnel, err
}

// Find returns where addresses are that lead to pods, but not by links that podfence's
// plugin has made; see PodLinks.Find.
func (n *Network) Find(ctx context.Context, addrs []netip.Addr) (found map[netip.Addr]PodLink, err error) {
	err = n.look(func(r *round) error {
		if found, err = (&PodLinks{handle: r.Handle}).Find(ctx, addrs); err != nil {
			return err
		}
		maps.DeleteFunc(found, func(_ netip.Addr, at PodLink) bool {
			return slices.ContainsFunc(at.Names, func(name string) bool {
				link := r.linkByName(name)
				return link != nil && madeLink(link)
			})
		})
		return nil
	})
	return found, err
}

// Leave removes what Reconcile and the plugin have made on the node: rules, routes, the
// tunnel's device, the bridge. It returns what it did. It fails, and changes
// nothing, while the bridge connects pods. Settings of the kernel stay: others may rely on
// them by now.
func (n *Network) Leave() (changes []string, err error) {
	err = n.look(func(r *round) error {
		defer func() { changes = r.changes }()
		if ports := r.ports(); len(ports) > 0 {
			return fmt.Errorf("bridge %s connects %d pods, the first by %s", r.options.Bridge, len(ports), ports[0])
		}
		r.removeRules()
		r.removeRoutes()
		r.removeLinks()
		return errors.Join(r.errs...)
	})
	return changes, err
}

// look runs f on links and addresses as they are.
func (n *Network) look(f func(*round) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle == nil {
		return ErrClosed
	}
	r := &round{Handle: n.handle, options: n.options, self: n.self}
	return netns.Inside(n.options.NetNS, func() error {
		if err := r.observe(); err != nil {
			return err
		}
		return f(r)
	})
}

// ports are the pods' ports of podfence's bridge. It has no others.
func (r *round) ports() (names []string) {
	bridge := r.ownBridge()
	if bridge == nil {
		return nil
	}
	for _, link := range r.links {
		if link.Attrs().MasterIndex == bridge.Attrs().Index {
			names = append(names, link.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names
}

// ownBridge is the bridge, if podfence has made it; else nil.
func (r *round) ownBridge() netlink.Link {
	link := r.linkByName(r.options.Bridge)
	if link == nil || link.Type() != "bridge" || !bytes.Equal(link.Attrs().HardwareAddr, bridgeMAC(r.options.Bridge)) {
		return nil
	}
	return link
}

func (r *round) removeRules() {
	for _, f := range r.families() {
		rules, err := dump("rules", func() ([]netlink.Rule, error) { return r.RuleList(f) })
		if err != nil {
			r.errs = append(r.errs, err)
		}
		for _, rule := range rules {
			if rule.Protocol == RouteProtocol && rule.Table == NodesTable {
				rule.Family = f
				r.did(r.RuleDel(&rule), "remove rule to table %d", NodesTable)
			}
		}
	}
}

func (r *round) removeRoutes() {
	routes, err := r.listRoutes()
	if err != nil {
		r.errs = append(r.errs, err)
	}
	for _, same := range routes {
		for _, route := range same {
			if route.Protocol == RouteProtocol {
				r.removeRoute(&route)
			}
		}
	}
}

func (r *round) removeLinks() {
	own := []netlink.Link{r.ownBridge()}
	if device, is := r.linkByName(r.options.VXLANDevice).(*netlink.Vxlan); is {
		own = append(own, device)
	}
	for _, link := range own {
		if link == nil {
			continue
		}
		if err := r.LinkDel(link); !errors.Is(err, unix.ENODEV) {
			r.did(err, "remove link %s", link.Attrs().Name)
		}
	}
}
