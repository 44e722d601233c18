package dns

import "net/netip"

// Flow is a pod's end and the resolver's, with the addresses and ports that the pod uses: before destination NAT of
// what it sends, and after that is taken back of what it receives.
type Flow struct {
	Pod, Resolver netip.AddrPort
	// TCP: it is a connection. Otherwise it is UDP.
	TCP bool
}

// Packet is a packet of a flow, in either direction. Fragments must have been put together; segments of TCP may come as one
// (GSO).
type Packet struct {
	Flow
	// Sequence and Flags are those of the TCP header; Flags is the octet that has FIN as its lowest bit (RFC 9293 section
	// 3.1).
	Sequence uint32
	Flags    uint8
	// Payload is what is behind the header of UDP or TCP. Nothing keeps it.
	Payload []byte
}

const tcpFIN, tcpSYN, tcpRST = 1, 2, 4
