package policy

import "github.com/podfence/podfence/policy/packet"

// Packet is the first packet of a connection, as the forward or input hook sees it.
type Packet = packet.Packet

// Protocol is an IP protocol number.
type Protocol = packet.Protocol

// The protocols that policies and probes name.
const (
	ICMP   = packet.ICMP
	TCP    = packet.TCP
	UDP    = packet.UDP
	AH     = packet.AH
	ICMPv6 = packet.ICMPv6
	SCTP   = packet.SCTP
)
