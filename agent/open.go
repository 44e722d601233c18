package agent

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/podfence/podfence/cni/install"
	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/cni/plugin"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// Host is the node that an agent works on, and how its pods are connected.
type Host struct {
	// NetNS is an open file of the node's network namespace, which must stay open as long as the
	// agent; 0 is the process's own.
	NetNS int
	// ProcSys is where sysctls can be written.
	ProcSys string
	// Connect is how the pods are connected.
	Connect Connect
	// Routing is how packets reach other nodes, where podfence connects the pods.
	Routing node.Mode
	// Socket is where podfence-cni asks, State the folder that keeps what it said, and Leases the
	// one where it keeps which addresses are taken.
	Socket, State, Leases string
	// Places are where the plugin and its configuration are installed. Without a Plugin, it is the
	// one beside this program.
	Places install.Places
	// Own has the tables owned by this agent where the kernel can do that.
	Own bool
	// Refuse is why no pod can be attached as long as this agent runs; nil: pods can.
	Refuse error
}

// Connect is how a node's pods are connected.
type Connect string

// The ways to connect pods, as --cni has them.
const (
	ConnectNone    Connect = "none"    // by another plugin, and nobody tells the agent
	ConnectBridge  Connect = "bridge"  // by podfence's bridge
	ConnectChained Connect = "chained" // by another plugin, and podfence-cni after it tells the agent
)

// connEventsLimit is how many beginnings and ends of connections a second are told to who observes them. Of
// more, those of a sample of the connections are.
const connEventsLimit = 2000

// Node are the connections to a node's kernel.
type Node struct {
	// Kernel carries out plans, for New.
	Kernel enforcer.Kernel
	// Owns: the kernel lets nobody else change the tables.
	Owns   bool
	opened []func() error
}

// Open opens the connections to the node's kernel that an agent works by, and fills in the Options
// that are about them. Of these, Ruleset must be given: it says which tables there are.
func (h *Host) Open(o *Options) (n *Node, err error) {
	n = &Node{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	tables := kernel.Options{
		NetNS: h.NetNS, Guard: o.Ruleset.Guard || o.Ruleset.Links, Masquerade: o.Ruleset.Masquerade, SourceCheck: o.Ruleset.SourceCheck,
		MaxConnections: o.Ruleset.MaxConnections != 0, Log: o.Ruleset.LogGroup != 0, Own: h.Own,
	}
	conn, err := kernel.Open(tables)
	if err != nil {
		return n, err
	}
	n.add(conn.Close)
	n.Kernel, n.Owns = conn, conn.Owns()
	if h.NetNS == 0 { // else links of the process's own namespace would be named
		o.LinkName = (&observer.LinkNames{}).Name
	}
	o.OwnsTables, o.ProcSys = conn.Owns(), h.ProcSys
	if o.QueryAddress != "0" && o.QueryAddress != "" {
		reader, err := conn.OpenReader(tables)
		if err != nil {
			return n, err
		}
		n.add(reader.Close)
		o.Query = reader
	}
	staged, err := h.openStaged(o, n, tables)
	if err != nil {
		return n, err
	}
	if err := h.openNames(o, n, tables); err != nil {
		return n, err
	}
	counters, err := conn.OpenCounters(tables)
	if err != nil {
		return n, err
	}
	n.add(counters.Close)
	o.Counters = counters.Read
	if tables.Guard {
		o.FrameCounters = counters.ReadFrames
	}
	o.Drops = func() (map[string]uint64, error) { return counters.Drops(ruleset.DropChains[:]...) }
	if o.LastPodCIDRs, err = conn.Ranges(ruleset.PodRangeSets[:]...); err != nil {
		return n, err
	}
	connections, err := kernel.OpenConnEvents(kernel.Options{NetNS: h.NetNS}, cmp.Or(h.ProcSys, "/proc/sys"), connEventsLimit)
	if err != nil {
		return n, err
	}
	n.add(connections.Close)
	o.Connections = connections
	if group := o.Ruleset.LogGroup; group != 0 {
		o.Denials = func() (observer.Log, error) {
			log, err := kernel.OpenLog(kernel.Options{NetNS: h.NetNS}, group)
			if err != nil {
				return nil, err
			}
			return log, nil
		}
		if o.Repeats, err = n.repeats(conn, staged, tables); err != nil {
			return n, err
		}
	}
	watch, err := conn.Watch(tables)
	if err != nil {
		return n, err
	}
	n.add(watch.Close)
	o.Watch = watch
	if bit := o.Ruleset.RevokedMark; bit != 0 {
		flows, err := kernel.OpenFlows(kernel.Options{NetNS: h.NetNS}, bit)
		if err != nil {
			return n, fmt.Errorf("%w (--revoked-mark 0 does without)", err)
		}
		n.add(flows.Close)
		o.Flows = flows
	}
	if o.CNI, err = h.connect(o.Node, n); err != nil {
		return n, err
	}
	if h.Connect == ConnectBridge {
		o.Routing = h.Routing.String()
	}
	if o.Ruleset.Links {
		links, err := node.OpenPodLinks()
		if err != nil {
			return n, err
		}
		n.add(func() error { links.Close(); return nil })
		o.PodLinks = links
	}
	return n, nil
}

// openStaged opens the connection for the table of staged policies. It is one of its own, so that what takes long there
// keeps nobody waiting.
func (h *Host) openStaged(o *Options, n *Node, tables kernel.Options) (*kernel.Conn, error) {
	conn, err := kernel.Open(kernel.Options{NetNS: tables.NetNS, Table: nft.StagedTableName, Log: tables.Log, Own: tables.Own})
	if err != nil {
		return nil, err
	}
	n.add(conn.Close)
	reader, err := conn.OpenReader(tables)
	if err != nil {
		return nil, err
	}
	n.add(reader.Close)
	counters, err := conn.OpenCounters(tables)
	if err != nil {
		return nil, err
	}
	n.add(counters.Close)
	o.StagedCounters = counters.Read
	o.Staged, o.OpenFlows = &enforcer.Staged{Kernel: conn, Uninstall: conn.Uninstall, Flows: reader}, reader
	return conn, nil
}

// repeats returns what reads how many packets of a flow came after the one that was told: in the table that has told it.
func (n *Node) repeats(conn, staged *kernel.Conn, tables kernel.Options) (func(nft.Logged) (uint64, error), error) {
	of := map[bool]*kernel.ElementCounters{}
	for isStaged, conn := range map[bool]*kernel.Conn{false: conn, true: staged} {
		elements, err := conn.OpenElementCounters(tables)
		if err != nil {
			return nil, err
		}
		n.add(elements.Close)
		of[isStaged] = elements
	}
	return func(l nft.Logged) (uint64, error) {
		set, kind, element := ruleset.ToldIn(l)
		counted, _, err := of[ruleset.IsStaged(l)].Read(l.Family, set, kind, element)
		return max(counted, 1) - 1, err // it has counted the packet that was told, too
	}, nil
}

func (n *Node) add(close func() error) { n.opened = append(n.opened, close) }

// Close closes the connections, the last first. What the agent has made stays.
func (n *Node) Close() (err error) {
	for _, close := range slices.Backward(n.opened) {
		err = errors.Join(err, close())
	}
	n.opened = nil
	return err
}

// connect opens what the agent needs for its part of connecting pods; nil: it has none.
func (h *Host) connect(nodeName string, n *Node) (*CNI, error) {
	if h.Connect == ConnectNone {
		return nil, nil
	}
	places := h.Places
	if places.Plugin == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding podfence-cni: %w", err)
		}
		places.Plugin = filepath.Join(filepath.Dir(self), "podfence-cni")
	}
	o := &CNI{Socket: h.Socket, State: h.State, Refuse: h.Refuse}
	if h.NetNS == 0 {
		o.Links = node.LinksThere // which looks in the process's own namespace
	}
	if h.Connect == ConnectChained {
		o.Publish = func(node.Node) error {
			_, err := install.Binary(places.Plugin, places.BinDir)
			return err
		}
		return o, nil
	}
	routes, err := node.Open(node.Options{NetNS: h.NetNS, Node: nodeName, Mode: h.Routing, ProcSys: h.ProcSys})
	if err != nil {
		return nil, err
	}
	n.add(routes.Close)
	// The ports of pods that an older plugin has connected are guarded before anything depends on
	// that.
	if err := routes.GuardPorts(); err != nil {
		return nil, err
	}
	o.Bridge = &enforcer.Bridge{
		Kernel: n.Kernel, MAC: [6]byte(plugin.BridgeMAC(node.DefaultBridge)), Gateway: plugin.Gateway, GuardPort: routes.GuardPort,
		Port: plugin.LinkName, Find: routes.Find,
	}
	o.Routes, o.LastAddr = routes, routes.LastAddr
	o.Publish = func(self node.Node) error {
		mtu, err := routes.MTU()
		if err != nil {
			return err
		}
		return places.Publish(install.Conf{PodCIDRs: self.PodCIDRs, MTU: mtu, Bridge: node.DefaultBridge, Socket: h.Socket, DataDir: h.Leases})
	}
	o.HostPorts = func() string { return places.HostPorts().Note() }
	return o, nil
}
