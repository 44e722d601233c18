package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// remote is an entry of the VXLAN device's forwarding database: which node has
// this MAC. Only REPLACE, which NeighSet is, can give a MAC to another node
// without a gap (vxlan_fdb_update_existing).
func remote(device netlink.Link, mac net.HardwareAddr, node netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: device.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
		State: netlink.NUD_PERMANENT, IP: node.AsSlice(), HardwareAddr: mac,
	}
}

func neighbour(device netlink.Link, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: device.Attrs().Index, Family: family(a),
		State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
	}
}

// entries lists what the VXLAN device has in one of three families: FDB, IPv4
// and IPv6 neighbours. Only permanent ones are podfence's; the kernel adds
// others, for multicast.
func (r *round) entries(device netlink.Link, family int) []netlink.Neigh {
	all, err := dump("neighbours", func() ([]netlink.Neigh, error) { return r.NeighList(device.Attrs().Index, family) })
	if err != nil {
		r.errs = append(r.errs, err)
	}
	var permanent []netlink.Neigh
	for _, n := range all {
		if n.State&netlink.NUD_PERMANENT != 0 {
			permanent = append(permanent, n)
		}
	}
	return permanent
}

// lastRemotes are the nodes that the VXLAN device of this name leads to, if there is one.
func lastRemotes(handle *netlink.Handle, device string) (map[string]netip.Addr, error) {
	link, err := handle.LinkByName(device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", device, err)
	}
	r := &round{Handle: handle}
	last := map[string]netip.Addr{}
	for _, n := range r.entries(link, unix.AF_BRIDGE) {
		last[n.HardwareAddr.String()] = addrOf(n.IP)
	}
	return last, errors.Join(r.errs...)
}

// setRemotes tells the VXLAN device where nodes are, before routes lead there.
func (r *round) setRemotes(device netlink.Link, p *plan) {
	if device == nil || !p.tunnels() {
		return
	}
	have := map[string]netip.Addr{}
	for _, n := range r.entries(device, unix.AF_BRIDGE) {
		have[n.HardwareAddr.String()] = addrOf(n.IP)
	}
	for text, to := range p.remotes {
		if have[text] == to {
			continue
		}
		mac, _ := net.ParseMAC(text) // it is one's String
		r.did(r.NeighSet(remote(device, mac, to)), "set node %s of MAC %s", to, text)
	}
	known := map[netip.Addr]string{}
	for _, f := range r.families() {
		for _, n := range r.entries(device, f) {
			known[addrOf(n.IP)] = n.HardwareAddr.String()
		}
	}
	for a, mac := range p.neighbours {
		if known[a] != mac.String() {
			r.did(r.NeighSet(neighbour(device, a, mac)), "set neighbour %s of link %s", a, device.Attrs().Name)
		}
	}
}

// families are those that the kernel has.
func (r *round) families() []int {
	if !r.ipv6 {
		return []int{unix.AF_INET}
	}
	return []int{unix.AF_INET, unix.AF_INET6}
}

// cleanDevice removes what nodes that have gone have left, once no route leads
// there: entries, or the whole device.
func (r *round) cleanDevice(device netlink.Link, p *plan) {
	if device == nil {
		return
	}
	remotes := r.entries(device, unix.AF_BRIDGE)
	spared := false
	for _, n := range remotes {
		spared = spared || p.sparedMACs[n.HardwareAddr.String()]
	}
	if !r.tunnel && !spared {
		r.did(r.LinkDel(device), "remove VXLAN device %s", device.Attrs().Name)
		return
	}
	// As long as it is there, packets may go through it.
	r.tunnel = true
	for _, f := range r.families() {
		for _, n := range r.entries(device, f) {
			if p.neighbours[addrOf(n.IP)] == nil && !p.sparedMACs[n.HardwareAddr.String()] {
				r.did(r.NeighDel(&n), "remove neighbour %s of link %s", n.IP, device.Attrs().Name)
			}
		}
	}
	for _, n := range remotes {
		mac := n.HardwareAddr.String()
		if p.remotes[mac] == addrOf(n.IP) || p.sparedMACs[mac] {
			continue
		}
		// Without this flag, the kernel would look for a bridge's entry.
		n.Flags = netlink.NTF_SELF
		r.did(r.NeighDel(&n), "remove node %s of MAC %s", n.IP, mac)
	}
}
