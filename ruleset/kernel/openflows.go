package kernel

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// WouldCut tells of the flows that pass now, and would be cut by other rules: Flows.Revoke would mark
// them. The judges asIs and wouldBe say whether the first packet of a flow passes a hook, by the rules that there are and
// by those. bit is that of the mark that revokes; flows that have it are left out, as they are cut already. Flows of TCP
// connections that have ended are told as well. WouldCut returns how many flows it has looked at that have neither
// ended nor were cut.
//
// It changes nothing and holds up nobody, but the kernel goes through all its flows, and it is told of all.
// It ends when ctx does. A flow may be told twice, if the kernel's table of flows changes its size meanwhile.
func (r *Reader) WouldCut(ctx context.Context, bit uint32, asIs, wouldBe func(nft.HookPoint, packet.Packet) bool, tell func(nft.OpenFlow)) (open int, err error) {
	by := newJudging(r.netns)
	defer func() {
		for _, l := range by.lines() {
			err = errors.Join(err, l.close())
		}
	}()
	local, err := by.localRanges()
	if err != nil {
		return 0, &OpError{Op: "list the node's addresses", Err: err}
	}
	j := &judgement{judging: &by, local: local}
	timeouts := flowTimeouts{settings: settings{proc: "/proc/sys", netns: r.netns}, seconds: map[string]uint32{}}
	_, unreadable, err := by.listing.flows(nil, func(entry flow) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if bit != 0 && entry.mark&bit != 0 {
			return nil
		}
		if !entry.ended {
			open++
		}
		own := entry.packet
		if entry.packet, err = j.judgedBy(entry); err != nil {
			return err
		}
		hook := j.hookOf(entry.packet)
		if wouldBe(hook, entry.packet) || !asIs(hook, entry.packet) && !j.passesByProxy(entry, hook, asIs) || j.passesByProxy(entry, hook, wouldBe) {
			return nil
		}
		f := nft.OpenFlow{
			ID: string(entry.tuple) + string(entry.zone) + string(entry.id), Packet: own, JudgedBy: entry.packet, Hook: hook, Ended: entry.ended,
			Idle: timeouts.idle(entry),
		}
		f.Bytes, f.Counted = entry.carried()
		tell(f)
		return nil
	})
	if err == nil && unreadable > 0 {
		err = fmt.Errorf("%d of the kernel's flows cannot be read", unreadable)
	}
	if err != nil {
		return 0, &OpError{Op: "list flows", Err: err}
	}
	return open, nil
}

// Counts reports whether the kernel counts what flows carry that begin from now on.
func (r *Reader) Counts() bool {
	value, err := (settings{proc: "/proc/sys", netns: r.netns}).read(settingCounts)
	return err == nil && value == "1"
}

// carried is how many bytes a flow has carried in both directions, if the kernel counts them.
func (f *flow) carried() (bytes uint64, counted bool) {
	for _, data := range f.counts {
		if data == nil {
			return 0, false
		}
		var counts nft.ConnCounts
		if parseCounts(attributeReader{rest: data}, &counts).broken {
			return 0, false
		}
		bytes += counts.Bytes
	}
	return bytes, true
}

// flowTimeouts are after how many seconds without a packet the kernel forgets flows.
type flowTimeouts struct {
	settings settings
	seconds  map[string]uint32 // those that were read, by the end of the setting's name
}

// tcpTimeouts are the settings of the states of TCP connections, by the state's number.
var tcpTimeouts = [...]string{
	1: "tcp_timeout_syn_sent", 2: "tcp_timeout_syn_recv", tcpEstablished: "tcp_timeout_established", 4: "tcp_timeout_fin_wait",
	5: "tcp_timeout_close_wait", tcpLastAck: "tcp_timeout_last_ack", tcpTimeWait: "tcp_timeout_time_wait", tcpClose: "tcp_timeout_close",
}

const (
	tcpEstablished = 3
	// statusAssured is the bit of the status that a UDP flow has once it has become a stream (IPS_ASSURED).
	statusAssured = 1 << 2
)

// idle is for how long no packet of a flow has passed; negative: the kernel does not tell. Each packet sets the time
// that remains to what its protocol, and state, has as the whole.
//
// An established TCP connection gets less for as long as data is not acknowledged, or was sent again and again
// (nf_conntrack_tcp_packet in net/netfilter/nf_conntrack_proto_tcp.c). If no more than that remains, nobody can tell.
func (t *flowTimeouts) idle(f flow) time.Duration {
	name := ""
	switch f.packet.Protocol {
	case packet.TCP:
		if int(f.state) < len(tcpTimeouts) {
			name = tcpTimeouts[f.state]
		}
	case packet.UDP:
		if name = "udp_timeout"; f.status&statusAssured != 0 {
			name = "udp_timeout_stream"
		}
	case packet.ICMP:
		name = "icmp_timeout"
	case packet.ICMPv6:
		name = "icmpv6_timeout"
	}
	whole := t.of(name)
	if f.state == tcpEstablished && f.timeout <= max(t.of("tcp_timeout_unacknowledged"), t.of("tcp_timeout_max_retrans")) {
		return -1
	}
	if whole == 0 || f.timeout > whole { // the setting was another when the last packet came
		return -1
	}
	return time.Duration(whole-f.timeout) * time.Second
}

// of reads a setting; 0: there is none, or it cannot be read.
func (t *flowTimeouts) of(name string) uint32 {
	if name == "" {
		return 0
	}
	seconds, known := t.seconds[name]
	if !known {
		if text, err := t.settings.read("net/netfilter/nf_conntrack_" + name); err == nil {
			if n, err := strconv.ParseUint(text, 10, 32); err == nil {
				seconds = uint32(n)
			}
		}
		t.seconds[name] = seconds
	}
	return seconds
}
