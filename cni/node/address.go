package node

import (
	"crypto/sha256"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// VTEPMAC is the MAC of a node's VXLAN device, over an underlay of IPv4 or of
// IPv6. It is derived, so that nodes need not tell each other.
func VTEPMAC(node string, v6 bool) net.HardwareAddr {
	family := "4"
	if v6 {
		family = "6"
	}
	return derivedMAC("vtep " + family + " " + node)
}

// bridgeMAC is the MAC of the pods' bridge. It is the one that the CNI plugin
// pins in each pod, and makes the bridge with if it comes first.
func bridgeMAC(bridge string) net.HardwareAddr { return derivedMAC("bridge " + bridge) }

// portMAC is the MAC that the CNI plugin gives the node's end of a pod's link, by its name.
func portMAC(link string) net.HardwareAddr { return derivedMAC("link " + link) }

// derivedMAC is a locally administered unicast address (IEEE 802, 8.4).
func derivedMAC(text string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(text))
	sum[0] = sum[0]&^0x01 | 0x02
	return sum[:6:6]
}

// linkLocal is the address that belongs to a MAC (RFC 4291 appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: mac[0] ^ 0x02, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}

// gateway is a range's first address, the one of the node that has it.
func gateway(podCIDR netip.Prefix) netip.Addr { return podCIDR.Addr().Next() }

// whole is the prefix of just one address.
func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// ipNet is a prefix in the form that netlink takes.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addrOf and prefixOf are the opposite; what is none is the zero value.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), bits)
}

// overhead is what the tunnel takes: inner Ethernet 14, VXLAN 8, UDP 8 and the
// outer IP header (RFC 7348).
func overhead(v6 bool) int {
	if v6 {
		return 70
	}
	return 50
}
