package nft

import (
	"net/netip"
	"time"

	"github.com/podfence/podfence/policy/packet"
)

// Datagram is a packet of UDP or TCP that the kernel has handed over whole, as it was at the hook.
type Datagram struct {
	// Time is when it was read.
	Time     time.Time
	Protocol packet.Protocol
	Src, Dst netip.AddrPort
	// Sequence and Flags are those of a TCP header; Flags is the octet that has FIN as its lowest bit.
	Sequence uint32
	Flags    uint8
	// Payload is what is behind the upper layer's header. Of a fragment it is empty: its ports, if it has any, are all
	// that is known of it.
	Payload []byte
}

// Queued is a packet that the kernel holds in an nfqueue.
type Queued struct {
	// ID names the packet to the kernel.
	ID uint32
	Datagram
}
