package nft

import "iter"

// Field is a field of the packet.
type Field uint8

// The fields. Each matches only packets that have it: fields with an IP address match packets of
// their own family, Zero is 0 of all packets (ip is nft's name of protocol 0), ICMPMessageType matches ICMP, ICMPv6MessageType ICMPv6, and the fields of ARP
// match ARP. The fields of the flow (Ct...) match only packets of their own family of whose flow
// connection tracking knows. The fields of the frame are for the table of family bridge.
const (
	SrcAddr4 Field = iota
	DstAddr4
	SrcAddr6
	DstAddr6
	L4Protocol
	SrcPort
	DstPort
	ICMPv6MessageType
	InPort
	OutPort
	SrcMAC
	DstMAC
	FrameType
	ARPSrcMAC
	ARPSrcAddr
	ARPDstAddr
	ICMPMessageType
	CtOriginalSrc4
	CtOriginalSrc6
	CtReplySrc4
	CtReplySrc6
	Zero
)

// fields are all fields: their names in nft, and their datatypes.
var fields = [...]struct {
	name string
	of   Datatype
}{
	SrcAddr4:          {"ip saddr", IPv4Addr},
	DstAddr4:          {"ip daddr", IPv4Addr},
	SrcAddr6:          {"ip6 saddr", IPv6Addr},
	DstAddr6:          {"ip6 daddr", IPv6Addr},
	L4Protocol:        {"meta l4proto", InetProto},
	SrcPort:           {"th sport", InetService},
	DstPort:           {"th dport", InetService},
	ICMPv6MessageType: {"icmpv6 type", ICMPv6Type},
	InPort:            {"iifname", IfName},
	OutPort:           {"oifname", IfName},
	SrcMAC:            {"ether saddr", EtherAddr},
	DstMAC:            {"ether daddr", EtherAddr},
	FrameType:         {"ether type", EtherType},
	ARPSrcMAC:         {"arp saddr ether", EtherAddr},
	ARPSrcAddr:        {"arp saddr ip", IPv4Addr},
	ARPDstAddr:        {"arp daddr ip", IPv4Addr},
	ICMPMessageType:   {"icmp type", ICMPType},
	CtOriginalSrc4:    {"ct original ip saddr", IPv4Addr},
	CtOriginalSrc6:    {"ct original ip6 saddr", IPv6Addr},
	CtReplySrc4:       {"ct reply ip saddr", IPv4Addr},
	CtReplySrc6:       {"ct reply ip6 saddr", IPv6Addr},
	Zero:              {"meta l4proto & ip", InetProto},
}

// Fields are all fields.
func Fields() iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for f := range Field(len(fields)) {
			if !yield(f) {
				return
			}
		}
	}
}

func (f Field) String() string { return fields[f].name }

// Datatype is the datatype of what the field holds.
func (f Field) Datatype() Datatype { return fields[f].of }
