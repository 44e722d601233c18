package answers

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// end is where a packet comes from, or goes to, as this node sees it.
type end struct {
	// link is the one that the route leads to; nil: there is no route.
	link *nft.Link
	// port is the bridge's port that the address is at, and mac its hardware address, if it is a pod's
	// that the plugin has told of and a bridge connects; nil: there is none.
	port *nft.Link
	mac  [6]byte
}

// endOf looks an address up in the routes, and among the pods that the plugin has told of.
func (s *Server) endOf(addr netip.Addr, attachments []policy.Attachment) (e end, err error) {
	if e.link, err = s.options.Kernel.LinkTo(addr); err != nil {
		return e, err
	}
	for _, a := range attachments {
		if !slices.Contains(a.IPs, addr) || a.HostInterface == "" {
			continue
		}
		port, err := s.options.Kernel.Link(a.HostInterface)
		if err != nil {
			return e, err
		}
		if port != nil && port.Master != "" {
			e.port, e.mac = port, a.MAC
		}
	}
	return e, nil
}

// wayOf are the hooks of podfence's tables that the first packet of a connection meets on this node, in
// order: those of the bridge that the sender is at; prerouting, before connection tracking; forward, or
// input if the destination is the node's own address; postrouting; and those of the bridge that the
// receiver is at. What the node sends itself begins with output. What two ports of one bridge send to
// each other meets the bridge's forward hook, and then as IP the others, by br_netfilter; podfence's own
// bridge passes nothing from port to port. assumed says what was taken for granted.
func (s *Server) wayOf(p packet.Packet) (way []nft.Visit, assumed string, err error) {
	attachments := s.options.Model.Attachments()
	from, err := s.endOf(p.Src, attachments)
	if err != nil {
		return nil, "", err
	}
	to, err := s.endOf(p.Dst, attachments)
	if err != nil {
		return nil, "", err
	}
	ip := nft.TracePacket{
		Packet: p, State: nft.New, Elsewhere: from.link == nil, Flow: nft.Flow{OriginalSrc: p.Src, ReplySrc: p.Dst},
	}
	own := from.link != nil && from.link.Local
	ip.Loopback = own && to.link != nil && to.link.Local
	if from.link != nil && !own {
		ip.Frame.Port, ip.Frame.Group = from.link.Name, from.link.Group
	}
	if to.link != nil {
		ip.Frame.Out = to.link.Name
	}
	inet := true
	if s.oneBridge(from, to) {
		inet, assumed = s.bridgeNetfilter(p.Src.Is6(), from.link.Name)
	}
	bridged := s.options.Choices.Guard || s.options.BridgeTable
	if bridged && from.port != nil {
		way = append(way, nft.Visit{Family: nft.Bridge, Hook: nft.Prerouting, Packet: s.frame(p, from, to)})
	}
	between := !s.options.Choices.Guard && from.port != nil && to.port != nil && from.port.Master == to.port.Master
	if bridged && between {
		way = append(way, nft.Visit{Family: nft.Bridge, Hook: nft.Forward, Packet: s.frame(p, from, to)})
	}
	for _, hook := range hooksOf(own, to.link != nil && to.link.Local) {
		if !inet {
			break
		}
		visit := nft.Visit{Family: nft.Inet, Hook: hook, Packet: ip}
		if hook == nft.Prerouting {
			visit.Packet.Frame.Out = ""
		}
		way = append(way, visit)
	}
	if bridged && !between && to.port != nil {
		out := s.frame(p, end{}, to)
		way = append(way, nft.Visit{Family: nft.Bridge, Hook: nft.Output, Packet: out})
	}
	return way, assumed, nil
}

// oneBridge reports whether a bridge of another plugin passes the packet from one of its ports to another:
// both ends are behind the same link, and that is not podfence's bridge, which passes nothing so.
func (s *Server) oneBridge(from, to end) bool {
	return !s.options.Choices.Guard && from.link != nil && to.link != nil && !from.link.Local && !to.link.Local && from.link.Name == to.link.Name
}

// bridgeNetfilter reports whether what a bridge passes between its ports meets the hooks of family inet, which
// br_netfilter does, and what has been taken for granted if that is not known.
func (s *Server) bridgeNetfilter(v6 bool, bridge string) (meets bool, assumed string) {
	setting := "bridge-nf-call-iptables"
	if v6 {
		setting = "bridge-nf-call-ip6tables"
	}
	if s.options.ProcSys == "" {
		return true, "net.bridge." + setting + " is 1, so that what " + bridge + " passes between its ports is policed"
	}
	value, err := os.ReadFile(filepath.Join(s.options.ProcSys, "net/bridge", setting))
	switch {
	case errors.Is(err, fs.ErrNotExist): // br_netfilter is not loaded
		return false, ""
	case err != nil:
		return true, fmt.Sprintf("net.bridge.%s is 1, which could not be read: %v", setting, err)
	}
	return strings.TrimSpace(string(value)) != "0", ""
}

// hooksOf are the hooks of family inet for what comes from, or goes to, the node itself, or passes.
func hooksOf(fromNode, toNode bool) []nft.HookPoint {
	switch {
	case fromNode && toNode:
		return []nft.HookPoint{nft.Output, nft.Postrouting, nft.Prerouting, nft.Input}
	case fromNode:
		return []nft.HookPoint{nft.Output, nft.Postrouting}
	case toNode:
		return []nft.HookPoint{nft.Prerouting, nft.Input}
	}
	return []nft.HookPoint{nft.Prerouting, nft.Forward, nft.Postrouting}
}

// frame is the packet in a frame of the bridge.
func (s *Server) frame(p packet.Packet, from, to end) nft.TracePacket {
	f := nft.Frame{Src: from.mac, Dst: to.mac, Type: nft.TypeIPv4}
	if p.Src.Is6() {
		f.Type = nft.TypeIPv6
	}
	if from.port != nil {
		f.Port, f.Group = from.port.Name, from.port.Group
	}
	if to.port != nil {
		f.Out = to.port.Name
	}
	if s.options.Choices.Guard {
		if from.port != nil {
			f.Dst, f.Out = s.options.BridgeMAC, "" // it is sent to its gateway
		} else {
			f.Src = s.options.BridgeMAC
		}
	}
	return nft.TracePacket{Packet: p, Frame: f}
}
