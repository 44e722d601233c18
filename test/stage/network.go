package stage

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/test/lab"
)

// NodeLinkLocal4 is an address of the node as DNS caches and the like have.
const NodeLinkLocal4 = "169.254.20.10"

func prepareNode() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(NodeLinkLocal4 + "/32")
	if err != nil {
		return err
	}
	// The InternalIPs are on the loopback link, whose MTU would be the pods'.
	return errors.Join(netlink.LinkSetMTU(lo, 1500), netlink.AddrAdd(lo, address))
}

func byFamily(addrs []netip.Addr) map[bool]netip.Addr {
	all := map[bool]netip.Addr{}
	for _, a := range addrs {
		all[a.Is6()] = a
	}
	return all
}

func (s *Stage) external(id ActorID, name string, addrs ...netip.Addr) {
	s.T.Helper()
	h, err := s.Node.AddExternal(name, addrs...)
	s.Must(err)
	s.Actors[id] = s.newActor(h, "")
}

// newActor finds a host's link, and the node's side of it.
func (s *Stage) newActor(h *lab.Host, bridge string) *Actor {
	s.T.Helper()
	a := &Actor{Host: h, Addr: byFamily(h.IPs)}
	other := 0
	s.Must(h.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a.Eth0, a.MAC, other = eth0.Attrs().Index, eth0.Attrs().HardwareAddr, eth0.Attrs().ParentIndex
		return nil
	}))
	s.Must(s.Node.Do(func() (err error) {
		if bridge != "" {
			a.Device, err = netlink.LinkByName(bridge)
		} else {
			a.Device, err = netlink.LinkByIndex(other)
		}
		return err
	}))
	return a
}

// bridgeBeside makes the bridge, with the node's address on a pair of links into it, which
// is what the plugin bridge does about a VLAN.
func (s *Stage) bridgeBeside() error {
	commands := [][]string{
		{"link", "add", ForeignBridge, "up", "type", "bridge"},
		{"link", "add", besideBridge, "up", "type", "veth", "peer", "name", "beside"},
		{"link", "set", "beside", "up", "master", ForeignBridge},
	}
	for _, a := range s.Actors[TheNode].Addr {
		bits := map[bool]string{false: "/24", true: "/64"}[a.Is6()]
		commands = append(commands, []string{"address", "add", a.String() + bits, "dev", besideBridge, "nodad"})
	}
	for _, c := range commands {
		if err := Run("ip", c...); err != nil {
			return err
		}
	}
	return nil
}

// filtersVLANs says why a bridge of this kernel filters no VLANs, if it does not.
func filtersVLANs() error {
	return Run("unshare", "--net", "ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1")
}

// bridgeWire makes the wire's link a port of the bridge, as an uplink can be.
func (s *Stage) bridgeWire() error {
	w := s.Actors[Wire]
	bridge, err := netlink.LinkByName(ForeignBridge)
	if err != nil {
		return err
	}
	port := w.Device
	// The node reaches it by the bridge from now on.
	if err := errors.Join(netlink.LinkSetDown(port), netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port)); err != nil {
		return err
	}
	if s.Mode.VLAN > 0 {
		if err := Run("bridge", "vlan", "add", "dev", port.Attrs().Name, "vid", fmt.Sprint(s.Mode.VLAN), "pvid", "untagged"); err != nil {
			return err
		}
	}
	if w.Device, err = netlink.LinkByName(s.Mode.Device()); err != nil {
		return err
	}
	for _, addr := range w.Addr {
		route := &netlink.Route{LinkIndex: w.Device.Attrs().Index, Dst: network(addr)}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", addr, err)
		}
	}
	return nil
}

func network(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// quieten sees to it that nobody answers, and that nobody has to ask where a frame goes:
// all that moves are the frames that are sent.
func (s *Stage) quieten() {
	s.T.Helper()
	for _, id := range s.Present() {
		if id == TheNode {
			continue
		}
		s.deafen(s.Actors[id])
	}
	s.Must(s.Node.Do(func() error {
		if s.Mode.Foreign() {
			// What is multicast goes to all ports, whatever queries and reports
			// of the frames before have taught the bridge.
			if err := Run("ip", "link", "set", ForeignBridge, "type", "bridge", "mcast_snooping", "0"); err != nil {
				return err
			}
		}
		return NFT(reporting)
	}))
}

// deafen has an actor not answer, nor be asked for its hardware address.
func (s *Stage) deafen(a *Actor) {
	s.T.Helper()
	s.Must(a.Host.Do(func() error { return NFT(deaf) }))
	s.Must(s.Node.Do(func() error { return s.introduce(a) }))
}

// introduce tells the node an actor's hardware address, for good.
func (s *Stage) introduce(a *Actor) error {
	for _, addr := range a.Addr {
		family := netlink.FAMILY_V4
		if addr.Is6() {
			family = netlink.FAMILY_V6
		}
		entry := &netlink.Neigh{LinkIndex: a.Device.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: a.MAC}
		if err := netlink.NeighSet(entry); err != nil {
			return err
		}
	}
	return nil
}

// deaf are the rules of those who receive by packet sockets, which come before.
const deaf = `
table inet deaf {
	chain nothing { type filter hook prerouting priority raw; policy drop; }
}
table arp deaf {
	chain nothing { type filter hook input priority 0; policy drop; }
}
`

// reporting are the node's rules that come last: they say what has come so far, and let
// nothing be answered.
var reporting = fmt.Sprintf(`
table inet reporting {
	chain input {
		type filter hook input priority 1000
		log group %[1]d snaplen 512
		drop
	}
	chain output { type filter hook output priority 1000; policy drop; }
}
table arp reporting {
	chain input {
		type filter hook input priority 1000
		log group %[1]d snaplen 512
		drop
	}
	chain output { type filter hook output priority 1000; policy drop; }
}
`, logGroup)
