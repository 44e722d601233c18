package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/handshake"
)

// collection is a GC under way.
type collection struct {
	conf  *Config
	host  *netlink.Handle
	valid map[attachment]bool
	// alive are the containers that have a valid attachment. Their other interfaces stay
	// as long as the links are there: Multus' are not in every runtime's list.
	alive map[string]bool
	// leases are open, and so locked, until all but the agent is done: no ADD
	// can take an address that is being cleared.
	leases *leases
	bridge netlink.Link // nil if there is none
}

var collectionSteps = []step[*collection]{
	{"containers", (*collection).removeContainers},
	{"links", (*collection).removeLinks},
	{"routes", (*collection).removeRoutes},
	{"neighbours", (*collection).removeNeighbours},
}

// GC frees what containers have left that the runtime doesn't list as valid
// attachments, and tells the agent which those are. It does as much as it can and
// returns what it could not. Its errors have the CNI codes 6 and 7 (the
// configuration), 11 (the agent), or 999.
//
// The specification has the runtime run no ADD or DEL meanwhile (section 3): what
// an ADD has made so far can't be told from what a killed one has left.
func (p Plugin) GC(args *skel.CmdArgs) error {
	conf, err := ReadConfig(args.StdinData)
	if err != nil {
		return err
	}
	if conf.Valid == nil {
		return invalidConfig(errors.New("cni.dev/valid-attachments is missing: that is not the same as none"))
	}
	if !conf.Chained() {
		err = p.collect(conf)
	}
	// That the agent can't be told does not keep the addresses from being freed,
	// but the runtime should know that GC is not complete.
	if tellErr := tellValid(conf); tellErr != nil {
		if err == nil {
			return agentError(tellErr)
		}
		return errors.Join(err, tellErr)
	}
	return err
}

func (p Plugin) collect(conf *Config) error {
	host, err := openHost()
	if err != nil {
		return err
	}
	defer host.Close()
	c := &collection{conf: conf, host: host, valid: map[attachment]bool{}, alive: map[string]bool{}}
	for _, v := range conf.Valid {
		c.valid[attachment{v.ContainerID, v.IfName}] = true
		c.alive[v.ContainerID] = true
	}
	c.bridge, err = host.LinkByName(conf.Bridge)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("bridge %s: %w", conf.Bridge, err)
	}
	if err == nil {
		if err := checkBridge(c.bridge, conf.Bridge); err != nil {
			return err
		}
	} else {
		c.bridge = nil
	}
	if c.leases, err = openLeases(conf); err != nil {
		return err
	}
	var errs []error
	for i := range collectionSteps {
		// One step that fails doesn't keep the next ones from freeing more.
		errs = append(errs, run(p, "gc", collectionSteps[i:i+1], c))
	}
	return errors.Join(append(errs, c.leases.close())...)
}

// tellValid tells the agent which attachments are still valid.
func tellValid(conf *Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), conf.Timeout())
	defer cancel()
	attachments := []handshake.Attachment{}
	for _, v := range conf.Valid {
		attachments = append(attachments, handshake.Attachment{ContainerID: v.ContainerID, IfName: v.IfName})
	}
	return handshake.Call(ctx, conf.Socket, handshake.Request{Op: handshake.OpGC, Attachments: attachments})
}

// removeContainers removes all that belongs to leases of attachments that are not valid.
func (c *collection) removeContainers() error {
	stale := map[attachment]bool{}
	var errs []error
	for _, l := range c.leases.all {
		keeps, err := c.keeps(l.owner)
		if errs = append(errs, err); err == nil && !keeps {
			stale[l.owner] = true
		}
	}
	for owner := range stale {
		errs = append(errs, c.leases.end(c.host, c.conf.Bridge, owner))
	}
	return errors.Join(errs...)
}

// keeps says whether an attachment stays.
func (c *collection) keeps(at attachment) (bool, error) {
	if c.valid[at] || !c.alive[at.containerID] {
		return c.valid[at], nil
	}
	_, err := c.host.LinkByName(LinkName(at.containerID, at.ifName))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	return err == nil, err
}

// removeLinks removes those of podfence's ports of the bridge that belong to no valid
// attachment and have no leases any more: their leases were lost.
func (c *collection) removeLinks() error {
	if c.bridge == nil {
		return nil
	}
	names := map[string]bool{}
	for at := range c.valid {
		names[LinkName(at.containerID, at.ifName)] = true
	}
	for _, l := range c.leases.all {
		names[LinkName(l.owner.containerID, l.owner.ifName)] = true
	}
	links, err := dump(c.host.LinkList)
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	var errs []error
	for _, link := range links {
		if link.Attrs().MasterIndex == c.bridge.Attrs().Index && ours(link) && !names[link.Attrs().Name] {
			errs = append(errs, deleteLink(c.host, link.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}

// removeRoutes removes the routes to addresses that nobody has leased.
func (c *collection) removeRoutes() error {
	return c.eachFamily(func(family int) error {
		routes, err := dump(func() ([]netlink.Route, error) {
			return c.host.RouteListFiltered(family,
				&netlink.Route{LinkIndex: c.bridge.Attrs().Index, Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN},
				netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return fmt.Errorf("routes over %s: %w", c.conf.Bridge, err)
		}
		var errs []error
		for _, r := range routes {
			if r.Dst == nil || c.leased(r.Dst.IP) {
				continue
			}
			if err := c.host.RouteDel(&r); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("delete route to %s over %s: %w", r.Dst, c.conf.Bridge, err))
			}
		}
		return errors.Join(errs...)
	})
}

// removeNeighbours removes the permanent neighbours, which on podfence's own
// bridge are podfence's, that nobody has leased.
func (c *collection) removeNeighbours() error {
	return c.eachFamily(func(family int) error {
		neighbours, err := dump(func() ([]netlink.Neigh, error) {
			return c.host.NeighList(c.bridge.Attrs().Index, family)
		})
		if err != nil {
			return fmt.Errorf("neighbours on %s: %w", c.conf.Bridge, err)
		}
		var errs []error
		for _, n := range neighbours {
			if n.State != netlink.NUD_PERMANENT || c.leased(n.IP) {
				continue
			}
			if err := c.host.NeighDel(&n); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("delete neighbour %s on %s: %w", n.IP, c.conf.Bridge, err))
			}
		}
		return errors.Join(errs...)
	})
}

func (c *collection) eachFamily(f func(family int) error) error {
	if c.bridge == nil {
		return nil
	}
	return errors.Join(f(netlink.FAMILY_V4), f(netlink.FAMILY_V6))
}

// leased says whether somebody has an address.
func (c *collection) leased(ip []byte) bool {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return false
	}
	for _, l := range c.leases.all {
		if l.addr == addr.Unmap() {
			return true
		}
	}
	return false
}
