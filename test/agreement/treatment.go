package agreement

import (
	"fmt"
	"strings"

	"github.com/podfence/podfence/test/random"
)

// Treatment is what others' rules of the node do with a packet, which others of a cluster
// do: a cache for DNS, another plugin, a service proxy. A packet says by its traffic class
// which it is to get.
type Treatment uint8

// The treatments.
const (
	NoTreatment   Treatment = iota
	NoTrack                 // it is exempted from connection tracking
	OtherZone               // it is tracked in a zone of its own
	OtherMarks              // its flow has all marks but the one that says that it is revoked
	MarkedRevoked           // its flow has that mark
	SourceNAT               // it leaves with the node's address, if it is forwarded
	endTreatments           // how many there are
)

// Treatments are all of them, but none.
func Treatments() (all []Treatment) {
	for t := NoTrack; t < endTreatments; t++ {
		all = append(all, t)
	}
	return all
}

func (t Treatment) String() string {
	return [...]string{"", "not tracked", "tracked in another zone", "with others' marks", "with the mark of what is revoked", "with the node's address given to it"}[t]
}

// trafficClass asks for a treatment: its number is the codepoint (RFC 2474).
func (t Treatment) trafficClass() uint8 { return uint8(t) << 2 }

// mark is what the flow's conntrack mark is then.
func (t Treatment) mark() uint32 {
	switch t {
	case OtherMarks:
		return ^uint32(RevokedMark)
	case MarkedRevoked:
		return RevokedMark
	}
	return 0
}

// treatments are the rules. Zones and exemptions come before connection tracking, marks after.
func treatments() string {
	var before, after, away strings.Builder
	for i, family := range []string{"ip", "ip6"} {
		fmt.Fprintf(&before, "\t\t%s dscp %d notrack\n\t\t%s dscp %d ct zone set 7\n", family, NoTrack, family, OtherZone)
		for _, t := range []Treatment{OtherMarks, MarkedRevoked} {
			fmt.Fprintf(&after, "\t\t%s dscp %d ct mark set ct mark or %#x\n", family, t, t.mark())
		}
		fmt.Fprintf(&away, "\t\t%s dscp %d snat %s to %s\n", family, SourceNAT, family, random.NodeAddrs[i])
	}
	return fmt.Sprintf(`table inet treatments {
	chain before {
		type filter hook prerouting priority raw - 10
%s	}
	chain after {
		type filter hook prerouting priority mangle
%s	}
	chain away {
		type nat hook postrouting priority srcnat - 10
%s	}
}
`, &before, &after, &away)
}

// Mute keeps hosts' stacks from ending the TCP connections that packets begin, as no socket has
// made those: connection tracking would forget them at once. What a Probe sends is longer.
func (c *Cluster) Mute() error {
	return c.NFT(`table inet mute {
	chain resets {
		type filter hook prerouting priority raw - 20
		meta nfproto ipv4 meta length 40 tcp flags & rst != 0 drop
		meta nfproto ipv6 meta length 60 tcp flags & rst != 0 drop
	}
	chain own {
		type filter hook output priority raw - 20
		meta nfproto ipv4 meta length 40 tcp flags & rst != 0 drop
		meta nfproto ipv6 meta length 60 tcp flags & rst != 0 drop
	}
}`)
}
