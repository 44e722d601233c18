package agreement

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// Homes say which hosts of the node there really are, and with which addresses, by name.
type Homes map[string][]netip.Addr

// homes are those of a snapshot that is true: each address of an attachment is at its pod's
// host, and each other one of a pod, shown or announced, at the first pod's that claims it.
func homes(s policy.Snapshot) Homes {
	want, claimed := Homes{}, map[netip.Addr]bool{}
	give := func(name string, addrs []netip.Addr) {
		for _, addr := range addrs {
			if !claimed[addr] {
				want[name], claimed[addr] = append(want[name], addr), true
			}
		}
	}
	for _, a := range s.Attachments {
		give(a.Pod.String(), a.IPs)
	}
	for _, pod := range s.Pods {
		give(pod.Namespace+"/"+pod.Name, random.PodAddrsOf(pod))
	}
	for _, o := range s.PodAddresses {
		for _, said := range o.Pods {
			give(said.Namespace+"/"+said.Name, random.Readable(said.IPs))
		}
	}
	return want
}

// Settle has the lab be so from now on, whatever the snapshots say that are put in place
// afterwards: who really has an address is the lab's word. Nil: the snapshots are true.
//
// Addresses of hosts that the lab always has are left out. Where the snapshots are taken for
// true, hosts of pods that have gone stay, until somebody else needs the name or an address:
// packets to and from addresses that nobody has any more are worth checking too.
func (c *Cluster) Settle(truth Homes) error {
	if c.truth = truth; truth == nil {
		return nil
	}
	return c.house(truth)
}

// house gives the lab a host for each home.
func (c *Cluster) house(all Homes) error {
	want, claimed := Homes{}, map[netip.Addr]bool{}
	for name, addrs := range all {
		for _, addr := range addrs {
			at := name
			if c.attach != lab.Routed && !InPodRange(addr) && slices.ContainsFunc(addrs, InPodRange) {
				at += "-routed" // its neighbours on the bridge would look for all its addresses there
			}
			if owner := c.Lab.Owner(addr); owner == nil || c.pods[owner.Name] == owner {
				want[at], claimed[addr] = append(want[at], addr), true
			}
		}
	}
	moved := false
	for name, host := range c.pods {
		_, wanted := want[name]
		keep := !wanted && c.truth == nil && !slices.ContainsFunc(host.IPs, func(addr netip.Addr) bool { return claimed[addr] })
		if keep || slices.Equal(host.IPs, want[name]) {
			continue
		}
		if err := c.Node.RemovePod(name); err != nil {
			return err
		}
		delete(c.pods, name)
		moved = true
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if addrs := want[name]; c.pods[name] == nil {
			host, err := c.Node.AddPod(name, lab.PodOptions{IPs: addrs, Attach: c.attachOf(addrs)})
			if err != nil {
				return err
			}
			c.pods[name] = host
			if err := c.furnishPort(host); err != nil {
				return err
			}
		}
	}
	if moved && c.attach != lab.Routed {
		return c.FlushNeighbours()
	}
	return nil
}

// furnishPort lets a bridge send a frame back out of the port that it came
// from, as network plugins do (hairpinMode): a Service may lead a pod to itself. A guarded
// port is in the group of those that podfence's plugin makes.
func (c *Cluster) furnishPort(h *lab.Host) error {
	if !c.onBridge(h) {
		return nil
	}
	return c.Node.Do(func() error {
		link, err := netlink.LinkByName(h.Link)
		if err != nil {
			return fmt.Errorf("link %s: %w", h.Link, err)
		}
		if err := netlink.LinkSetHairpin(link, true); err != nil {
			return fmt.Errorf("hairpin mode of link %s: %w", h.Link, err)
		}
		if c.attach != lab.Guarded {
			return nil
		}
		if err := netlink.LinkSetGroup(link, ruleset.LinkGroup); err != nil {
			return fmt.Errorf("group of link %s: %w", h.Link, err)
		}
		return nil
	})
}

// attachOf is how a host with these addresses is attached.
func (c *Cluster) attachOf(addrs []netip.Addr) lab.Attach {
	if c.attach != lab.Routed && !slices.ContainsFunc(addrs, func(addr netip.Addr) bool { return !InPodRange(addr) }) {
		return c.attach
	}
	return lab.Routed
}

// InPodRange says whether an address is one that the node's pods may have.
func InPodRange(addr netip.Addr) bool {
	return slices.ContainsFunc(random.PodRanges, func(cidr netip.Prefix) bool { return cidr.Contains(addr) })
}

// bridged reports whether packets between two hosts are bridged, not routed.
func (c *Cluster) bridged(a, b *lab.Host) bool {
	return a != nil && b != nil && a != b && c.isBridged(a) && c.isBridged(b)
}

func (c *Cluster) isBridged(h *lab.Host) bool { return h.Attach() == lab.Bridged }

// onBridge says whether a host is at a port of the node's bridge.
func (c *Cluster) onBridge(h *lab.Host) bool { return h.Attach() != lab.Routed }

// FlushNeighbours makes all hosts forget the link addresses that they have
// learnt.
func (c *Cluster) FlushNeighbours() error {
	var errs []error
	for _, h := range c.Lab.Hosts() {
		if err := h.Do(flushNeighbours); err != nil {
			errs = append(errs, fmt.Errorf("host %s: %w", h.Name, err))
		}
	}
	return errors.Join(errs...)
}

func flushNeighbours() error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer handle.Close()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		neighbours, err := handle.NeighList(0, family)
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		for _, n := range neighbours {
			if n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 {
				continue
			}
			// It may have gone by itself meanwhile.
			if err := handle.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete neighbour %s: %w", n.IP, err)
			}
		}
	}
	return nil
}

// difference is what must be told of b to who knows a, in the order of names.
func difference(a, b policy.Snapshot) (events []random.Event) {
	was, is := objects(a), objects(b)
	for name, object := range was {
		if _, there := is[name]; !there {
			events = append(events, random.Event{Object: object, Delete: true})
		}
	}
	for name, object := range is {
		if !reflect.DeepEqual(was[name], object) {
			events = append(events, random.Event{Object: object})
		}
	}
	slices.SortFunc(events, func(a, b random.Event) int { return strings.Compare(identity(a.Object), identity(b.Object)) })
	// Those that stay are not told again: an agent is told of an attachment once.
	tell := func(attachments, among []policy.Attachment, gone bool) {
		for _, one := range attachments {
			if !slices.ContainsFunc(among, func(other policy.Attachment) bool { return reflect.DeepEqual(one, other) }) {
				events = append(events, random.Event{Attachment: &one, Delete: gone})
			}
		}
	}
	tell(a.Attachments, b.Attachments, true)
	tell(b.Attachments, a.Attachments, false)
	return events
}

func objects(s policy.Snapshot) map[string]client.Object {
	all := map[string]client.Object{}
	for _, event := range random.Events(s) {
		all[identity(event.Object)] = event.Object
	}
	return all
}

func identity(o client.Object) string {
	return fmt.Sprintf("%T %s", o, client.ObjectKeyFromObject(o))
}
