package agreement

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// RevokedMark is the bit that Revoke marks flows with, for Options of a Cluster
// whose rules are to drop those.
const RevokedMark = 1 << 29

// LogGroup is the nflog group that denials are told to, where the table tells them.
const LogGroup = 28774

// Revoked is a flow that the node tracks, with what two say of it.
type Revoked struct {
	// Packet is the first of the flow, as the hook has seen it.
	Packet policy.Packet
	// Verdict is Judge's by now, and Judged what it means at this node.
	Verdict policy.Verdict
	Judged  bool
	// Marked says that the kernel has it marked as revoked.
	Marked bool
}

func (r Revoked) String() string {
	return fmt.Sprintf("flow %s\n  judged  %-5t %s\n  marked  %t", r.Packet, r.Judged, r.Verdict, r.Marked)
}

// Revoke has the node judge anew what flows it tracks, by the table, as the agent
// does after a commit, and compares the marks with the verdicts by the snapshot.
// It returns how many flows it has compared, and those that are marked and allowed,
// or neither. Flows that the node itself has begun it leaves out, and those that the
// snapshot says too little of.
func (c *Cluster) Revoke(s policy.Snapshot) (compared int, wrong []Revoked, err error) {
	if c.flows == nil {
		if c.flows, err = kernel.OpenFlows(kernel.Options{NetNS: c.Node.NetNS()}, RevokedMark); err != nil {
			return 0, nil, err
		}
	}
	if _, _, err := c.flows.Revoke(func(hook nft.HookPoint, p policy.Packet) bool {
		return c.table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New}).Verdict == nft.Accept
	}); err != nil {
		return 0, nil, err
	}
	tracked, err := c.tracked()
	if err != nil {
		return 0, nil, err
	}
	for _, flow := range tracked {
		hook, seen := random.Hook(s, flow.Packet)
		if !seen {
			continue
		}
		// What would begin it now: a new packet to a node's tunnel may not pass, whatever policies say.
		begins := &Result{Case: Case{Packet: flow.Packet}, Seen: flow.Packet, Hook: hook, State: nft.New}
		flow.Verdict = policy.Judge(s, flow.Packet, policy.JudgeOptions{AllowToNode: c.options.AllowToNode})
		flow.Judged = flow.Verdict.At(random.Node) && c.intoTunnel(s, begins) == ""
		compared++
		if flow.Marked == flow.Judged {
			wrong = append(wrong, flow)
		}
	}
	return compared, wrong, nil
}

// tracked are the flows between hosts of the lab that the node's kernel knows.
func (c *Cluster) tracked() (flows []Revoked, err error) {
	err = c.Node.Do(func() error {
		for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			entries, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return fmt.Errorf("list flows: %w", err)
			}
			for _, entry := range entries {
				src, _ := netip.AddrFromSlice(entry.Forward.SrcIP)
				dst, _ := netip.AddrFromSlice(entry.Reverse.SrcIP) // after destination NAT
				p := policy.Packet{Src: src.Unmap(), Dst: dst.Unmap(), Protocol: policy.Protocol(entry.Forward.Protocol), HopLimit: 64}
				switch p.Protocol {
				case policy.TCP, policy.UDP:
					p.DstPort = entry.Reverse.SrcPort
				case policy.SCTP:
					continue // the library does not read its ports
				case policy.ICMP:
					p.ICMPType = 8
				case policy.ICMPv6:
					p.ICMPType = 128
				}
				p.Hairpin = p.Src == p.Dst
				if c.Lab.Owner(p.Src) != nil && c.Lab.Owner(p.Dst) != nil && !slices.Contains(random.OwnAddrs, p.Src) {
					flows = append(flows, Revoked{Packet: p, Marked: entry.Mark&RevokedMark != 0})
				}
			}
		}
		return nil
	})
	return flows, err
}
