package agreement

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
)

// trace is the packet's way through the tables: as a frame on its sender's port, before
// connection tracking, and at its hook. It ends where it is denied. The kernel's own rules are run for
// the same, and must do the same.
func (c *Cluster) trace(r *Result) nft.Trace {
	from := r.Probe.From
	p := nft.TracePacket{
		Packet: r.Seen, State: r.State, Midstream: r.Midstream, DNAT: r.isTranslated(), Elsewhere: c.linkTo(r.Src) != c.linkOf(from),
	}
	if r.tracked() {
		p.Mark = c.marks(r)
		p.Flow = nft.Flow{OriginalSrc: r.Seen.Src, ReplySrc: r.Seen.Dst}
	}
	if r.Of != nil && r.tracked() {
		p.Flow = nft.Flow{OriginalSrc: r.Of.Seen.Src, ReplySrc: r.Of.Seen.Dst}
	}
	var last nft.Trace
	if c.guard != nil && c.onBridge(from) {
		frame := p
		frame.State, frame.Flow, frame.Dst = 0, nft.Flow{}, r.addressed()
		frame.HopLimit = r.HopLimit
		frame.Frame = frameOf(r)
		frame.Fragment = nft.Whole
		if r.Wire.Fragments != lab.Uncut {
			if frame.Fragment = nft.First; headerless(r.Wire) {
				frame.Fragment = nft.Headerless
			}
			if r.Wire.Fragments == lab.LaterAlone {
				frame.Fragment = nft.Later
			}
		}
		if last = c.at(r, &c.guard.Table, nft.Prerouting, frame); last.Verdict != nft.Accept {
			return last
		}
	}
	before := p
	before.Dst, before.DstPort = r.addressed(), r.Probe.Packet.DstPort
	before.Frame.Port = c.linkOf(from)
	if last = c.at(r, &c.table.Table, nft.Prerouting, before); last.Verdict != nft.Accept {
		return last
	}
	return c.at(r, &c.table.Table, r.Hook, p)
}

// at runs a packet through a table, and through the table that the kernel has. If the two differ, the
// result gets that.
func (c *Cluster) at(r *Result, table *nft.Table, hook nft.HookPoint, p nft.TracePacket) nft.Trace {
	trace := table.Trace(hook, p)
	if c.reader == nil { // nobody is connected, or another one whose table this is not
		return trace
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	visited, err := c.reader.Trace(ctx, []nft.Visit{{Family: table.Family, Hook: hook, Packet: p}})
	if err != nil {
		r.ReadBack = err.Error()
		return trace
	}
	var want, have strings.Builder
	for _, step := range trace.Steps {
		fmt.Fprintf(&want, "%s %q\n", step.Chain, step.Rule.Comment())
	}
	for _, step := range visited[0].Steps {
		fmt.Fprintf(&have, "%s %q\n", step.Chain, step.Comment)
	}
	if visited[0].Verdict != trace.Verdict || have.String() != want.String() {
		r.ReadBack = fmt.Sprintf("at %s %s: %v by\n%s", table.Family, hook, nft.Verdict{Action: visited[0].Verdict}, have.String())
	}
	return trace
}

// frameOf is the frame that a packet of a guarded host comes in.
func frameOf(r *Result) nft.Frame {
	from := r.Probe.From
	f := nft.Frame{Port: from.Link, Group: ruleset.LinkGroup, Src: [6]byte(from.MAC), Dst: [6]byte(from.Gateway()), Type: nft.TypeIPv4}
	dst := r.addressed()
	switch {
	case r.Wire.Wrap != lab.Plain:
		f.Type = 0x8100
		return f
	case dst.Is6():
		f.Type = nft.TypeIPv6
	}
	switch {
	case dst.Is6() && dst.IsMulticast():
		b := dst.As16()
		f.Dst = [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
	case dst.IsMulticast():
		b := dst.As4()
		f.Dst = [6]byte{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	case dst.Is4() && dst.As4() == [4]byte{255, 255, 255, 255}:
		f.Dst = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return f
}

// attachments are the guarded hosts, as the plugin that has connected them reports them.
func (c *Cluster) attachments() (all []policy.Attachment) {
	for _, h := range c.Node.Hosts() {
		if c.onBridge(h) {
			all = append(all, policy.Attachment{
				ContainerID: h.Name, IfName: "eth0", HostInterface: h.Link, MAC: [6]byte(h.MAC), IPs: h.IPs,
			})
		}
	}
	return all
}
