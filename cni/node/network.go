package node

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/netns"
)

// RouteProtocol marks the routes and rules that podfence has made (rtm_protocol
// in rtnetlink(7), "proto 112" in ip(8)). Neither the kernel nor iproute2's
// rt_protos use the number.
const RouteProtocol = 112

// NodesTable is the routing table of the nodes that pods reach inside the
// tunnel, and the priority of the rules that lead there: "pf" in ASCII.
const NodesTable = 0x7066

// The defaults of Options.
const (
	DefaultBridge      = "podfence0"
	DefaultVXLANDevice = "podfence-vxlan"
	DefaultVNI         = 1
	// DefaultVXLANPort is what Linux has by default and most networks for pods
	// use, not the 4789 that was assigned later (RFC 7348).
	DefaultVXLANPort = 8472
)

// ErrClosed is what every call on a closed Network returns.
var ErrClosed = errors.New("closed")

// Mode is how packets reach the pods of other nodes.
type Mode int

const (
	// Auto is HostGW to nodes on a link of this node, VXLAN to others. Nodes on
	// one link must agree on its prefix.
	Auto Mode = iota
	// HostGW routes to the other node's InternalIP, and fails for a node that is
	// not on a link of this one.
	HostGW
	// VXLAN sends everything through the tunnel.
	VXLAN
)

var modes = map[Mode]string{Auto: "auto", HostGW: "host-gw", VXLAN: "vxlan"}

// String is what ParseMode reads.
func (m Mode) String() string {
	if name, ok := modes[m]; ok {
		return name
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

// ParseMode reads auto, host-gw or vxlan.
func ParseMode(text string) (Mode, error) {
	for m, name := range modes {
		if text == name {
			return m, nil
		}
	}
	return 0, fmt.Errorf("mode %q: it is auto, host-gw or vxlan", text)
}

// Options are a Network's settings. They must be the same on all nodes. The
// zero value of each but Node is its default.
type Options struct {
	// NetNS is an open file of a network namespace; 0 is the process's own. It
	// must stay open as long as the Network.
	NetNS int
	// Node is the name of this node, as in Reconcile's self; empty is whichever
	// that is.
	Node string
	// Mode is how packets reach other nodes.
	Mode Mode
	// Bridge is the name of the pods' bridge, as in the CNI configuration.
	Bridge string
	// VXLANPort is the UDP port of the tunnel. Only nodes may be let send to it.
	VXLANPort int
	// VNI is the tunnel's VXLAN network identifier.
	VNI int
	// VXLANDevice is the name of the tunnel's device.
	VXLANDevice string
	// ProcSys is where settings can be written: /proc/sys, or in a container,
	// where that is read-only, a mount of the host's.
	ProcSys string
}

// Node is what matters here of a cluster's Node.
type Node struct {
	// Name is the Node's.
	Name string
	// Addrs are its InternalIPs, the preferred one first.
	Addrs []netip.Addr
	// PodCIDRs are the ranges of its pods' addresses.
	PodCIDRs []netip.Prefix
}

// Network is the pods' network on a node. Its methods may be called
// concurrently; they wait for each other, but for Changed and LastAddr.
type Network struct {
	options Options

	notices *notices
	// watched are the indices of the links whose neighbours are podfence's.
	watched atomic.Pointer[map[int]bool]
	// last are the nodes that the tunnel led to when the Network was opened, by VTEPMAC; nil
	// from the end of the first Reconcile on, which makes them anew.
	last atomic.Pointer[map[string]netip.Addr]

	mu     sync.Mutex
	handle *netlink.Handle // nil when closed
	// self is the node of the last Reconcile; tunnel says whether that found the tunnel necessary.
	self   Node
	tunnel bool
}

// Pod is a pod of this node, as the CNI plugin has connected it.
type Pod struct {
	// Name is whose the pod is, for messages.
	Name string
	// Link is the name of the node's end of its link.
	Link string
	// MAC is the pod's own.
	MAC net.HardwareAddr
	// Addrs are its addresses.
	Addrs []netip.Addr
}

// Open connects to the kernel, and begins to listen to what others do. It changes
// nothing.
func Open(options Options) (*Network, error) {
	options.Bridge = cmp.Or(options.Bridge, DefaultBridge)
	options.ProcSys = cmp.Or(options.ProcSys, "/proc/sys")
	options.VXLANPort = cmp.Or(options.VXLANPort, DefaultVXLANPort)
	options.VNI = cmp.Or(options.VNI, DefaultVNI)
	options.VXLANDevice = cmp.Or(options.VXLANDevice, DefaultVXLANDevice)
	if err := options.check(); err != nil {
		return nil, err
	}
	n := &Network{options: options}
	err := netns.Inside(options.NetNS, func() (err error) {
		if n.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		last, err := lastRemotes(n.handle, options.VXLANDevice)
		if err == nil {
			n.last.Store(&last)
			n.notices, err = listen(n.concerns, noticed...)
		}
		if err != nil {
			n.handle.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to rtnetlink: %w", err)
	}
	return n, nil
}

func (o *Options) check() error {
	if _, ok := modes[o.Mode]; !ok {
		return fmt.Errorf("mode %d: unknown", int(o.Mode))
	}
	if o.VXLANPort < 1 || o.VXLANPort > 65535 {
		return fmt.Errorf("VXLAN port %d: not from 1 to 65535", o.VXLANPort)
	}
	if o.VNI < 1 || o.VNI >= 1<<24 {
		return fmt.Errorf("VNI %d: not from 1 to %d", o.VNI, 1<<24-1)
	}
	for _, name := range []string{o.Bridge, o.VXLANDevice} {
		if len(name) >= unix.IFNAMSIZ {
			return fmt.Errorf("device %s: the name is longer than %d", name, unix.IFNAMSIZ-1)
		}
	}
	if o.Bridge == o.VXLANDevice {
		return fmt.Errorf("bridge and VXLAN device have the same name, %s", o.Bridge)
	}
	return nil
}

// Close closes the connection; what Reconcile has made stays. It may be called
// again.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle != nil {
		n.notices.close()
		n.handle.Close()
		n.handle = nil
	}
	return nil
}

// LastAddr is the address that another node had in the tunnel when the Network was opened, or the
// zero Addr; the Node may have lost it since. It is known only until the first Reconcile has
// ended. LastAddr does not wait for a Reconcile, because its caller may hold up everything else.
func (n *Network) LastAddr(node string) netip.Addr {
	last := n.last.Load()
	if last == nil {
		return netip.Addr{}
	}
	for _, v6 := range []bool{false, true} {
		if a, is := (*last)[VTEPMAC(node, v6).String()]; is {
			return a
		}
	}
	return netip.Addr{}
}

// noticed are the groups that tell of all that a round looks at, except some settings. Messages
// about a bridge's ports come with those about links. Messages about the forwarding databases of
// the bridge and of the VXLAN device come with those about neighbours.
var noticed = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_NETCONF,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV6_NETCONF,
}

// Changed has a token when something may not be as the last Reconcile left it, whoever has changed
// it. The changes of Reconcile itself count as well.
func (n *Network) Changed() <-chan struct{} { return n.notices.tokens }

// concerns leaves out the neighbours of other links, which come and go all the time.
func (n *Network) concerns(message syscall.NetlinkMessage) bool {
	kind := message.Header.Type
	watched := n.watched.Load()
	if kind != unix.RTM_NEWNEIGH && kind != unix.RTM_DELNEIGH || watched == nil || len(message.Data) < unix.SizeofNdMsg {
		return true
	}
	return (*watched)[int(int32(binary.NativeEndian.Uint32(message.Data[4:])))] // ndm_ifindex
}

// PartialError says what is wrong with some other Nodes, with some pods of this one, or with
// the routes to its ranges. All else that this node's pods need is there.
type PartialError struct {
	// Nodes are about other Nodes, by their names, or by ranges of theirs; Pods are about
	// this node's pods, and Ranges about this node's own PodCIDRs.
	Nodes, Pods, Ranges map[string]error
}

// partialErrors is how many of a kind Error tells of: a link that is down may be the way to
// thousands of Nodes.
const partialErrors = 5

func (e *PartialError) Error() string {
	var texts []string
	for _, about := range []map[string]error{e.Ranges, e.Pods, e.Nodes} {
		for i, name := range slices.Sorted(maps.Keys(about)) {
			if i == partialErrors {
				texts = append(texts, fmt.Sprintf("and %d more", len(about)-i))
				break
			}
			texts = append(texts, about[name].Error())
		}
	}
	return strings.Join(texts, "\n")
}

// Reconcile makes bridge, VXLAN device, addresses, neighbours, routes and
// settings of the kernel what the nodes need, and removes what they no longer
// need. It makes again what is gone of what the CNI plugin made for the pods. It
// returns what it did, one sentence for each change. Others may contain self.
//
// If a node can't be reached, or its data are wrong, or somebody else has made a route to
// its pods, the error names that node. All other nodes are still taken care of, and routes to
// its pods that existed before stay. It is the same with pods, and with somebody else's route in
// the place of the one to this node's own range. The error joins all that went wrong. To call
// again later is right for all of these errors. It is a *PartialError if nothing else went wrong.
func (n *Network) Reconcile(self Node, others []Node, pods []Pod) (changes []string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle == nil {
		return nil, ErrClosed
	}
	if self.Name == "" || n.options.Node != "" && n.options.Node != self.Name {
		return nil, fmt.Errorf("this node is %q, not %q", n.options.Node, self.Name)
	}
	r := &round{Handle: n.handle, options: n.options, failed: PartialError{
		Nodes: map[string]error{}, Pods: map[string]error{}, Ranges: map[string]error{},
	}}
	err = netns.Inside(n.options.NetNS, func() error { return r.run(self, others, pods) })
	n.self = r.self
	n.tunnel = r.tunnel
	n.last.Store(nil)
	watched := r.watched()
	n.watched.Store(&watched)
	return r.changes, err
}

// MTU is the MTU that a pod's link must have: that of the link with this node's InternalIP or,
// before the first Reconcile and where there is no such link, of the link of the default route,
// less the tunnel's headers. In Mode Auto the headers count from the first Reconcile that had a
// node behind a router; pods from before that learn the smaller MTU by path MTU discovery.
func (n *Network) MTU() (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle == nil {
		return 0, ErrClosed
	}
	r := &round{Handle: n.handle, options: n.options, self: n.self}
	if err := r.observe(); err != nil {
		return 0, err
	}
	mtu, err := r.uplinkMTU()
	if err != nil {
		return 0, err
	}
	if n.tunnel || n.options.Mode == VXLAN {
		mtu -= overhead(n.self.underlay())
	}
	return mtu, nil
}
