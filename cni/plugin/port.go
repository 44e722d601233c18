package plugin

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// stateForwarding is BR_STATE_FORWARDING of linux/if_bridge.h.
const stateForwarding = 3

// portFlags are the flags of a pod's port. It must not learn addresses from what the pod
// sends, nor get frames that are not for its own address. In hairpin mode a frame may go back
// to where it came from. A Service that leads a pod back to itself needs that, where
// br_netfilter is on.
var portFlags = []struct {
	attr int
	name string
	want byte
}{
	{nl.IFLA_BRPORT_LEARNING, "learning", 0},
	{nl.IFLA_BRPORT_UNICAST_FLOOD, "unicast flooding", 0},
	{nl.IFLA_BRPORT_MCAST_FLOOD, "multicast flooding", 0},
	{nl.IFLA_BRPORT_BCAST_FLOOD, "broadcast flooding", 0},
	{nl.IFLA_BRPORT_MODE, "hairpin mode", 1},
}

// makeLink makes the pair: the host's end down and in no bridge, the pod's end in the pod's
// namespace. A link that a killed ADD of the same container has left is deleted first; its other
// end goes with it.
func makeLink(host *netlink.Handle, at attachment, netns, mtu int) (netlink.Link, error) {
	name := LinkName(at.containerID, at.ifName)
	if err := deleteLink(host, name); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU, attrs.Group = name, hostMAC(name), mtu, LinkGroup
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr = at.ifName, PodMAC(at.containerID, at.ifName)
	veth.PeerMTU, veth.PeerNamespace = uint32(mtu), netlink.NsFd(netns)
	if err := host.LinkAdd(veth); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("link %s of the pod, or %s of the node: there is another one of that name", at.ifName, name)
		}
		return nil, fmt.Errorf("add link %s, %s in the pod: %w", name, at.ifName, err)
	}
	return veth, nil
}

// ours says whether the plugin has made a link.
func ours(link netlink.Link) bool {
	attrs := link.Attrs()
	return link.Type() == "veth" && bytes.Equal(attrs.HardwareAddr, hostMAC(attrs.Name))
}

// deleteLink deletes the host's end of a pair, and so the pod's end. It is no error if the link
// does not exist.
func deleteLink(host *netlink.Handle, name string) error {
	link, err := host.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if !ours(link) {
		return fmt.Errorf("link %s: not podfence's, its MAC is %s", name, link.Attrs().HardwareAddr)
	}
	// The kernel may be deleting it at this moment, with the pod's namespace.
	if err := host.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// makePort puts the host's end, which is down, into the bridge. When it is set
// up, it has never learned or been flooded.
func makePort(host *netlink.Handle, link, bridge netlink.Link, podMAC net.HardwareAddr) error {
	name := link.Attrs().Name
	if err := host.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("add %s to bridge %s: %w", name, bridge.Attrs().Name, err)
	}
	// Frames to the groups that a bridge does not pass on (01:80:c2:00:00:0X)
	// come in by the port's own link, past all rules of the bridge. Without ARP
	// there, none makes the node answer, or note a neighbour (arp_rcv).
	if err := host.LinkSetARPOff(link); err != nil {
		return fmt.Errorf("bridge port %s: ARP off: %w", name, err)
	}
	// The library sets one flag at a time, and not all of these.
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for _, flag := range portFlags {
		info.AddRtAttr(flag.attr, []byte{flag.want})
	}
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("bridge port %s: set learning, flooding, hairpin: %w", name, err)
	}
	if err := host.NeighSet(fdbEntry(link, podMAC)); err != nil {
		return fmt.Errorf("bridge port %s: add static address %s: %w", name, podMAC, err)
	}
	return nil
}

// fdbEntry says that the pod's MAC is behind the port. NUD_NOARP is "static":
// NUD_PERMANENT would be an address of the bridge itself (fdb_add_entry).
func fdbEntry(port netlink.Link, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP,
		Flags: netlink.NTF_MASTER, HardwareAddr: mac,
	}
}

// awaitForwarding waits until the port passes frames: the bridge takes it in
// when it is told, in the kernel, that the link is up.
func awaitForwarding(link netlink.Link) error {
	return await("bridge port "+link.Attrs().Name+" does not come up", func() (bool, error) {
		values, err := portValues(link)
		return err == nil && values[nl.IFLA_BRPORT_STATE] == stateForwarding, err
	})
}

// portValues are a bridge port's attributes that are one octet. It is an error
// if the link is in no bridge.
func portValues(link netlink.Link) (map[int]byte, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, err
	}
	values := map[int]byte{}
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		data, err := nested(m[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO, nl.IFLA_INFO_SLAVE_DATA)
		if err != nil {
			return nil, err
		}
		attrs, err := nl.ParseRouteAttr(data)
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			if len(a.Value) == 1 {
				values[int(a.Attr.Type)] = a.Value[0]
			}
		}
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("link %s is in no bridge", link.Attrs().Name)
	}
	return values, nil
}

// nested follows a path of attributes.
func nested(b []byte, path ...uint16) ([]byte, error) {
	for _, want := range path {
		attrs, err := nl.ParseRouteAttr(b)
		if err != nil {
			return nil, err
		}
		b = nil
		for _, a := range attrs {
			if a.Attr.Type&^unix.NLA_F_NESTED == want {
				b = a.Value
			}
		}
	}
	return b, nil
}
