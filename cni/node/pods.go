package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/plugin"
)

// podState is what the kernel has for pods.
type podState struct {
	bridge netlink.Link
	// ports are the flags of bridge ports, by the index of their link.
	ports map[int]map[int]byte
	// behind has the static entries of the bridge's forwarding database.
	behind map[fdbKey]bool
	// neighbours are the permanent ones of the bridge.
	neighbours map[netip.Addr]string
	routes     map[routeKey][]netlink.Route
}

type fdbKey struct {
	port int
	mac  string
}

// pods makes again what is gone of what the CNI plugin made on the node's side of pods' links.
// It does so in the plugin's order, so that a port passes nothing before it is what it should be.
// The addresses' routes and neighbours go when a bridge is set down, and do not come back when it
// is set up.
//
// Nothing is done for a pod that the plugin is still connecting: its link must stay down until the
// agent has answered, and the plugin is about to make what is missing after that. The link shows
// both, because an ADD begins with a link, and always with a new one. Only after the answer does
// the plugin put it into the bridge, and turn ARP off, and it sets it up last. A pod whose link is
// gone is one that the plugin is about to remove.
func (r *round) pods(bridge netlink.Link, pods []Pod) {
	s, err := r.podState(bridge)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	links := map[string]netlink.Link{}
	for _, l := range r.links {
		links[l.Attrs().Name] = l
	}
	for _, pod := range pods {
		link := links[pod.Link]
		if link == nil {
			continue
		}
		if !madeLink(link) {
			r.failed.Pods[pod.Name] = fmt.Errorf("pod %s: link %s is a %s with MAC %s that podfence did not make",
				pod.Name, pod.Link, link.Type(), link.Attrs().HardwareAddr)
			continue
		}
		attrs := link.Attrs()
		if attrs.MasterIndex != bridge.Attrs().Index && attrs.RawFlags&unix.IFF_NOARP == 0 {
			continue
		}
		waits, err := connecting(link)
		if err == nil && !waits {
			err = r.pod(pod, link, s)
		}
		if err != nil && !gone(err) {
			r.failed.Pods[pod.Name] = fmt.Errorf("pod %s: %w", pod.Name, err)
		}
	}
}

// madeLink says whether the CNI plugin has made a link: a name alone may be chance.
func madeLink(link netlink.Link) bool {
	attrs := link.Attrs()
	return link.Type() == "veth" && bytes.Equal(attrs.HardwareAddr, portMAC(attrs.Name))
}

// connecting says whether the plugin may be at work on a link. It sets it up last, so it is
// while a link has never been up with its other end, of which the kernel keeps count: that
// outlives the agent, and whoever sets the link down. If the link has come up since links
// were listed, the next round is told of it, and looks at all that the plugin has made.
func connecting(link netlink.Link) (bool, error) {
	if link.Attrs().RawFlags&unix.IFF_UP != 0 {
		return false, nil
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(link.Attrs().Index)
	request.AddData(message)
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return false, fmt.Errorf("link %s: %w", link.Attrs().Name, err)
	}
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return false, fmt.Errorf("link %s: %w", link.Attrs().Name, err)
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_CARRIER_UP_COUNT && len(a.Value) == 4 {
				never := binary.NativeEndian.Uint32(a.Value) == 0
				return never || nl.DeserializeIfInfomsg(m).Flags&unix.IFF_UP != 0, nil
			}
		}
	}
	return false, fmt.Errorf("link %s: the kernel does not say how often it has been up", link.Attrs().Name)
}

// gone says whether an error means that a link, or what was on it, does not exist any more.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT)
}

// podState lists what the kernel has for pods.
func (r *round) podState(bridge netlink.Link) (*podState, error) {
	s := &podState{bridge: bridge, behind: map[fdbKey]bool{}, neighbours: map[netip.Addr]string{}}
	var err error
	if s.ports, err = portFlags(); err != nil {
		return nil, err
	}
	entries, err := dump("forwarding entries", func() ([]netlink.Neigh, error) { return r.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		return nil, err
	}
	for _, n := range entries {
		if n.State == netlink.NUD_NOARP && n.Flags&netlink.NTF_SELF == 0 {
			s.behind[fdbKey{n.LinkIndex, n.HardwareAddr.String()}] = true
		}
	}
	for _, f := range r.families() {
		for _, n := range r.entries(bridge, f) {
			s.neighbours[addrOf(n.IP)] = n.HardwareAddr.String()
		}
	}
	s.routes, err = r.listRoutes()
	return s, err
}

// pod makes again what is gone of what the plugin made for one pod.
func (r *round) pod(pod Pod, link netlink.Link, s *podState) error {
	attrs := link.Attrs()
	steps := []step{
		{attrs.MasterIndex != s.bridge.Attrs().Index, "put link %s into the bridge", func() error { return r.LinkSetMaster(link, s.bridge) }},
		{attrs.RawFlags&unix.IFF_NOARP == 0, "turn ARP of link %s off", func() error { return r.LinkSetARPOff(link) }},
		{!samePort(s.ports[attrs.Index]), "set the flags of bridge port %s", func() error { return setPortFlags(link) }},
		{!s.behind[fdbKey{attrs.Index, pod.MAC.String()}], "set the pod's MAC behind bridge port %s", func() error { return r.NeighSet(behind(link, pod.MAC)) }},
	}
	for _, do := range steps {
		if err := r.restore(do, pod, pod.Link); err != nil {
			return err
		}
	}
	for _, a := range pod.Addrs {
		if a.Is6() && !r.ipv6 {
			continue
		}
		if err := r.podAddr(pod, a, link, s); err != nil {
			return err
		}
	}
	return r.restore(step{attrs.RawFlags&unix.IFF_UP == 0, "set up link %s", func() error { return r.LinkSetUp(link) }}, pod, pod.Link)
}

// step is something that may be missing, how to say that it was done, and how to do it.
type step struct {
	missing bool
	format  string
	do      func() error
}

func (r *round) restore(s step, pod Pod, what any) error {
	if !s.missing {
		return nil
	}
	done := fmt.Sprintf(s.format, what) + " for pod " + pod.Name
	if err := s.do(); err != nil {
		return fmt.Errorf("%s: %w", done, err)
	}
	r.changes = append(r.changes, done)
	return nil
}

// podAddr makes the node find one of a pod's addresses. A route that somebody else has made stays.
func (r *round) podAddr(pod Pod, a netip.Addr, link netlink.Link, s *podState) error {
	there := false
	for _, have := range s.routes[routeKey{unix.RT_TABLE_MAIN, whole(a)}] {
		if have.Protocol != RouteProtocol {
			return fmt.Errorf("route to %s: there is one that podfence did not make, %s", a, r.describe(&have))
		}
		there = there || have.LinkIndex == s.bridge.Attrs().Index && have.Type == unix.RTN_UNICAST && have.Gw == nil
	}
	known := s.neighbours[a] == pod.MAC.String()
	if there && known {
		return nil
	}
	route, near := podRoute(s.bridge, a), neighbour(s.bridge, a, pod.MAC)
	err := errors.Join(
		r.restore(step{!known, "set neighbour %s", func() error { return r.NeighSet(near) }}, pod, a),
		r.restore(step{!there, "add route to %s", func() error { return r.RouteReplace(route) }}, pod, a))
	// DEL deletes the link, and then the route and the neighbour. If it has deleted the link, it may
	// have been faster than this, and nobody else would remove what was made after it.
	if _, missing := r.LinkByIndex(link.Attrs().Index); errors.As(missing, &netlink.LinkNotFoundError{}) {
		for _, undo := range []error{r.RouteDel(route), r.NeighDel(near)} {
			if undo != nil && !gone(undo) {
				err = errors.Join(err, fmt.Errorf("remove route and neighbour %s: %w", a, undo))
			}
		}
	}
	return err
}

// podRoute leads the node's packets for a pod to the bridge.
func podRoute(bridge netlink.Link, a netip.Addr) *netlink.Route {
	route := &netlink.Route{
		LinkIndex: bridge.Attrs().Index, Dst: ipNet(whole(a)), Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN,
	}
	if a.Is4() {
		route.Scope = netlink.SCOPE_LINK // IPv6 has none
	}
	return route
}

// behind is the entry that a pod's MAC is behind a port. NUD_NOARP is "static".
func behind(port netlink.Link, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac,
	}
}

// samePort says whether a bridge port's flags are those that the CNI plugin gives it. In a
// set of VLANs, or with an isolated port, some frames of the pod's would not pass.
func samePort(have map[int]byte) bool {
	for attr, want := range wantedFlags() {
		if value, there := have[attr]; there && value != want || !there && want != 0 {
			return false
		}
	}
	return have != nil
}

// wantedFlags are those that the CNI plugin sets, and those that it leaves off.
func wantedFlags() map[int]byte {
	flags := plugin.PortFlags()
	flags[nl.IFLA_BRPORT_ISOLATED] = 0
	return flags
}

// setPortFlags sets them all in one request.
func setPortFlags(link netlink.Link) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_BRIDGE)
	message.Index = int32(link.Attrs().Index)
	request.AddData(message)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for attr, value := range wantedFlags() {
		info.AddRtAttr(attr, []byte{value})
	}
	request.AddData(info)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// portFlags lists the one-octet attributes of all bridge ports of the thread's network
// namespace; the library has those of one port only.
func portFlags() (map[int]map[int]byte, error) {
	messages, err := dump("bridge ports", func() ([][]byte, error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return nil, err
	}
	ports := map[int]map[int]byte{}
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, fmt.Errorf("list bridge ports: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type != unix.IFLA_PROTINFO|unix.NLA_F_NESTED {
				continue
			}
			flags, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return nil, fmt.Errorf("list bridge ports: %w", err)
			}
			values := map[int]byte{}
			for _, flag := range flags {
				if len(flag.Value) == 1 {
					values[int(flag.Attr.Type)] = flag.Value[0]
				}
			}
			ports[int(nl.DeserializeIfInfomsg(m).Index)] = values
		}
	}
	return ports, nil
}
