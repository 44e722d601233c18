package random

// NeighbourDiscovery are the ICMPv6 types of router and neighbour discovery, redirects
// included, MulticastListener those of multicast listener discovery, versions 1 and 2.
// Connection tracking leaves both alone. MulticastRouter are those of multicast router
// discovery (RFC 4286): an advertisement and a solicitation. Linux leaves them alone since
// 2024, and takes them for invalid before (noct_valid_new in nf_conntrack_proto_icmpv6.c).
var (
	NeighbourDiscovery = []uint8{133, 134, 135, 136, 137}
	MulticastListener  = []uint8{130, 131, 132, 143}
	MulticastRouter    = []uint8{151, 152}
)

// The hop limits that they are sent with (RFC 4861 section 7.1, RFC 3810 section 5).
const (
	NeighbourDiscoveryHopLimit = 255
	MulticastListenerHopLimit  = 1
)
