package kernel

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// FlowsOf lists the flows that packets like this one have begun: with its source, its destination after
// destination NAT, its protocol, and its destination port or ICMP type. It returns at most so many, and
// counts all, and those that are revoked. bit is that of the mark that revokes; 0: none does.
//
// The kernel goes through all its flows for that, and filters by the source (of IPv6 it cannot); it holds
// up nobody meanwhile. It ends when ctx does.
func (r *Reader) FlowsOf(ctx context.Context, p packet.Packet, bit uint32, most int) (flows []nft.TrackedFlow, all, revoked int, err error) {
	l := newLine(unix.NETLINK_NETFILTER, r.netns)
	defer func() {
		if also := l.close(); err == nil {
			err = also
		}
	}()
	var filter []byte
	if p.Src.Is4() {
		if filter, err = sourceFilter(p.Src, ctaTupleOrig); err != nil {
			return nil, 0, 0, err
		}
	}
	seen := map[string]bool{} // a list that has begun again has some of them twice
	_, unreadable, err := l.flowsOf(familyOf(p.Src), filter, func(e flow) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.packet.Src != p.Src || e.packet.Dst != p.Dst || e.packet.Protocol != p.Protocol || e.packet.DstPort != p.DstPort || e.packet.ICMPType != p.ICMPType {
			return nil
		}
		name := string(e.tuple) + string(e.zone)
		if seen[name] {
			return nil
		}
		seen[name] = true
		all++
		f := nft.TrackedFlow{
			Source: e.sender, Destination: netip.AddrPortFrom(e.packet.Dst, e.packet.DstPort), Addressed: e.receiver,
			Revoked: bit != 0 && e.mark&bit != 0, Ended: e.ended,
		}
		if f.Revoked {
			revoked++
		}
		if len(flows) < most {
			flows = append(flows, f)
		}
		return nil
	})
	if err == nil && unreadable > 0 {
		err = fmt.Errorf("%d of the kernel's flows cannot be read", unreadable)
	}
	if err != nil {
		return nil, 0, 0, &OpError{Op: "list the flows of " + p.String(), Err: err}
	}
	return flows, all, revoked, nil
}
