package node

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridge makes the pods' bridge and gives it the gateways' addresses, just as
// the CNI plugin does if it comes first. To the plugin, that the bridge is up
// says that its settings are made. The MAC tells whether podfence has made it:
// pods know it, so one with another is left alone, and not returned.
func (r *round) bridge() netlink.Link {
	name := r.options.Bridge
	link := r.linkByName(name)
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		// A MAC that was set stays; another would change with the ports
		// (br_stp_recalculate_bridge_id).
		attrs.Name, attrs.HardwareAddr = name, bridgeMAC(name)
		// Without snooping, multicast goes to the ports that want flooding, and no port does.
		snooping := false
		if link = r.create(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); link == nil {
			return nil
		}
	}
	if mac := link.Attrs().HardwareAddr; link.Type() != "bridge" || !bytes.Equal(mac, bridgeMAC(name)) {
		r.errs = append(r.errs, fmt.Errorf("link %s is a %s with MAC %s that podfence did not make: its bridge has MAC %s",
			name, link.Type(), mac, bridgeMAC(name)))
		return nil
	}
	r.bridging(link)
	r.setLink(name)
	r.up(link)
	r.address(link)
	return link
}

// bridging turns off what podfence's bridge must not have: with VLANs, or with snooping, frames go
// other ways than those that the pods' ports were made for. Each request names only one setting,
// because a kernel that is built without a feature refuses to be told that it is off.
func (r *round) bridging(link netlink.Link) {
	bridge, is := link.(*netlink.Bridge)
	if !is {
		return
	}
	off := false
	attrs := netlink.NewLinkAttrs()
	// By its name alone: given both, a kernel before 6.2 takes the name for a new one, and refuses to give it to a
	// link that is up (dev_change_name).
	attrs.Name = bridge.Name
	if on := bridge.VlanFiltering; on != nil && *on {
		r.did(r.LinkModify(&netlink.Bridge{LinkAttrs: attrs, VlanFiltering: &off}), "turn VLAN filtering of link %s off", bridge.Name)
	}
	if on := bridge.MulticastSnooping; on != nil && *on {
		r.did(r.LinkModify(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}), "turn multicast snooping of link %s off", bridge.Name)
	}
}

// create makes a link and returns it as the kernel has it, or nil.
func (r *round) create(want netlink.Link) netlink.Link {
	name := want.Attrs().Name
	if !r.did(r.LinkAdd(want), "add %s %s", want.Type(), name) {
		return nil
	}
	link, err := r.LinkByName(name)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("link %s: %w", name, err))
		return nil
	}
	r.links = append(r.links, link)
	return link
}

func (r *round) up(link netlink.Link) {
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		r.did(r.LinkSetUp(link), "set up link %s", link.Attrs().Name)
	}
}

// address gives a link of podfence's the first address of each pod CIDR, and
// takes away those of ranges that the node no longer has. Without any range,
// which is an error, it leaves them.
func (r *round) address(link netlink.Link) {
	var want []netip.Prefix
	for _, c := range r.self.PodCIDRs {
		if c.Addr().Is4() || r.ipv6 {
			want = append(want, whole(gateway(c)))
		}
	}
	if len(want) == 0 {
		return
	}
	var have []netip.Prefix
	for _, a := range r.addrs {
		p := prefixOf(a.IPNet)
		if a.LinkIndex != link.Attrs().Index || !p.IsSingleIP() || !p.Addr().IsGlobalUnicast() {
			continue
		}
		have = append(have, p)
		if !slices.Contains(want, p) {
			r.did(r.AddrDel(link, &a), "remove address %s from link %s", p, link.Attrs().Name)
		}
	}
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			// The range is this node's alone, and until detection of duplicates
			// has ended no pod would get an answer.
			addr.Flags = unix.IFA_F_NODAD
		}
		r.did(r.AddrReplace(link, addr), "add address %s to link %s", p, link.Attrs().Name)
	}
}

// device makes the VXLAN device if it is needed. It returns the device, or nil
// if there is none or there should be none of a kind that can be used.
func (r *round) device(p *plan) netlink.Link {
	name := r.options.VXLANDevice
	link := r.linkByName(name)
	have, isVXLAN := link.(*netlink.Vxlan)
	switch {
	case link != nil && !isVXLAN:
		if r.tunnel {
			r.errs = append(r.errs, fmt.Errorf("link %s is no VXLAN device but a %s that podfence did not make", name, link.Type()))
		}
		return nil
	case !r.tunnel:
		// cleanDevice decides, once no route uses it.
		return link
	}
	want, err := r.vxlan()
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("VXLAN device %s: %w", name, err))
		return link
	}
	if have != nil && !same(have, want) {
		// Its routes go with it, and the rest of this round makes them again.
		// Most of what differs can't be changed (vxlan_changelink).
		if !r.did(r.LinkDel(have), "remove VXLAN device %s", name) {
			return link
		}
		r.links = slices.DeleteFunc(r.links, func(l netlink.Link) bool { return l == link })
		link = nil
	}
	if link == nil {
		if link = r.create(want); link == nil {
			if last := len(r.errs) - 1; errors.Is(r.errs[last], unix.EEXIST) {
				r.errs[last] = fmt.Errorf("%w: another device has VNI %d and port %d", r.errs[last], want.VxlanId, want.Port)
			}
			return nil
		}
	}
	if link.Attrs().MTU != want.MTU {
		r.did(r.LinkSetMTU(link, want.MTU), "set MTU of link %s to %d", name, want.MTU)
	}
	r.setLink(name)
	r.loosen(name)
	r.up(link)
	r.address(link)
	return link
}

// vxlan is the device as it should be. It learns nothing from what arrives:
// the API says where nodes are. It is bound to no link, so that the kernel
// routes the tunnel's packets like any of the node's.
func (r *round) vxlan() (*netlink.Vxlan, error) {
	if len(r.self.Addrs) == 0 {
		return nil, errors.New("this node has no InternalIP")
	}
	mtu, err := r.uplinkMTU()
	if err != nil {
		return nil, err
	}
	mtu -= overhead(r.self.underlay())
	if mtu < minIPv6MTU && r.uses(true) {
		return nil, fmt.Errorf("%d octets are left of the uplink's MTU, and IPv6 needs %d", mtu, minIPv6MTU)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = r.options.VXLANDevice, mtu
	attrs.HardwareAddr = VTEPMAC(r.self.Name, r.self.underlay())
	return &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: r.options.VNI, Port: r.options.VXLANPort, SrcAddr: r.self.Addrs[0].AsSlice(),
	}, nil
}

// minIPv6MTU is RFC 8200's; Linux ends IPv6 on a link with less.
const minIPv6MTU = 1280

// same says whether a device can stay.
func same(have, want *netlink.Vxlan) bool {
	return have.VxlanId == want.VxlanId && have.Port == want.Port && have.SrcAddr.Equal(want.SrcAddr) &&
		bytes.Equal(have.HardwareAddr, want.HardwareAddr) && have.Group == nil && have.VtepDevIndex == 0 &&
		!have.Learning && !have.Proxy && !have.FlowBased
}
