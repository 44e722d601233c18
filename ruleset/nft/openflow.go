package nft

import (
	"time"

	"github.com/podfence/podfence/policy/packet"
)

// OpenFlow is an entry of connection tracking, with what it is judged by. It is a plain value.
type OpenFlow struct {
	// ID tells it apart from all other entries, those that end before it begins included but for one in four
	// billion.
	ID string
	// Packet is its first packet, after destination NAT. JudgedBy is the packet that decides about it: the same or,
	// if another flow has announced it, as FTP's control connection does its data, the first packet of that one.
	Packet, JudgedBy packet.Packet
	// Hook is where that packet was judged: Input if it was for the node itself, Output if the node has sent it,
	// otherwise Forward.
	Hook HookPoint
	// Ended: the TCP connection is closed.
	Ended bool
	// Counted says that the kernel counts what it carries. Bytes are those of whole IP packets, in both
	// directions.
	Counted bool
	Bytes   uint64
	// Idle is for how long no packet of it has passed, to the second; negative: the kernel does not tell.
	Idle time.Duration
}
