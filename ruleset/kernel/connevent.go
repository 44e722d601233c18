package kernel

import (
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"

	"github.com/podfence/podfence/ruleset/nft"
)

// ctnetlink's numbers that only events have (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaStatus        = 3
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaTimestamp     = 20

	ctaCountersPackets = 1
	ctaCountersBytes   = 2
	ctaTimestampStart  = 1
	ctaTimestampStop   = 2

	// statusExpected is the bit of the status that says that another connection has announced this one
	// (IPS_EXPECTED in include/uapi/linux/netfilter/nf_conntrack_common.h).
	statusExpected = 1
)

// parseConnEvent reads an event that was heard of at some time into e, of which it leaves Hook and SampledOf
// alone. It allocates nothing. It reports whether it could read it.
func parseConnEvent(kind netlink.HeaderType, data []byte, heard time.Time, e *nft.ConnEvent) bool {
	if len(data) < nfgenmsgLength || kind != ctMessageNew && kind != ctMessageDelete {
		return false
	}
	*e = nft.ConnEvent{Ended: kind == ctMessageDelete, Time: heard, Hook: e.Hook, SampledOf: e.SampledOf}
	var original, reply tuple
	counted := [2]bool{}
	a := attributeReader{rest: data[nfgenmsgLength:]}
	for a.next() {
		switch a.kind {
		case ctaTupleOrig:
			a.also(original.parse(a.nested()))
		case ctaTupleReply:
			a.also(reply.parse(a.nested()))
		case ctaStatus:
			e.Announced = a.uint32()&statusExpected != 0
		case ctaMark:
			e.Mark = a.uint32()
		case ctaCountersOrig:
			counted[0] = true
			a.also(parseCounts(a.nested(), &e.OriginalCounts))
		case ctaCountersReply:
			counted[1] = true
			a.also(parseCounts(a.nested(), &e.ReplyCounts))
		case ctaTimestamp:
			a.also(parseConnTime(a.nested(), e))
		}
	}
	e.Counted = counted == [2]bool{true, true}
	e.Original, e.Reply = original.ends(), reply.ends()
	e.Protocol, e.ICMPType, e.ICMPCode = original.protocol, original.icmpType, original.icmpCode
	return !a.broken && original.whole() && reply.whole()
}

// ends are the tuple's addresses with its ports.
func (t *tuple) ends() nft.ConnEnds {
	return nft.ConnEnds{Src: netip.AddrPortFrom(t.src, t.srcPort), Dst: netip.AddrPortFrom(t.dst, t.dstPort)}
}

// whole reports whether the tuple has both addresses.
func (t *tuple) whole() bool { return t.src.IsValid() && t.dst.IsValid() }

func parseCounts(a attributeReader, c *nft.ConnCounts) attributeReader {
	for a.next() {
		switch a.kind {
		case ctaCountersPackets:
			c.Packets = a.uint64()
		case ctaCountersBytes:
			c.Bytes = a.uint64()
		}
	}
	return a
}

// parseConnTime reads when a connection has begun and, if that is what the event is about, ended.
func parseConnTime(a attributeReader, e *nft.ConnEvent) attributeReader {
	for a.next() {
		if a.kind == ctaTimestampStart && !e.Ended || a.kind == ctaTimestampStop && e.Ended {
			if at := a.uint64(); at != 0 {
				e.Time = time.Unix(0, int64(at))
			}
		}
	}
	return a
}

// connTuple is the original tuple of an event as it is written, by which a connection is known; nil if there
// is none. The kernel writes it first, so this reads next to nothing.
func connTuple(data []byte) []byte {
	if len(data) < nfgenmsgLength {
		return nil
	}
	for a := (attributeReader{rest: data[nfgenmsgLength:]}); a.next(); {
		if a.kind == ctaTupleOrig {
			return a.data
		}
	}
	return nil
}
