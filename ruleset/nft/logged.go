package nft

import (
	"net/netip"
	"time"
)

// Logged is a packet that the kernel has told an nflog group of.
type Logged struct {
	// Time is when the kernel told it, as far as it says so, or when it was read.
	Time time.Time
	// Family is that of the table whose rule has told it, and Hook is where.
	Family Family
	Hook   HookPoint
	// Prefix is the prefix of the rule's Log.
	Prefix string
	// InLink and OutLink are the indexes of the links that it came in by and goes out by; 0: none.
	InLink, OutLink int
	// Packet is what could be read of it. Tracked: its State, Mark, Flow and DNAT are what connection
	// tracking has said of it. Otherwise they are what it says of the flow by now, or what can be told by the
	// packet alone.
	Packet  TracePacket
	Tracked bool
	// ICMPCode is an ICMP message's code, and TCPFlags the octet of a TCP header that has FIN as its lowest bit.
	ICMPCode uint8
	TCPFlags uint8
	// Asked is its flow's destination before destination NAT; the zero value if nobody says.
	Asked netip.AddrPort
}
