package plugin

import (
	"crypto/sha256"
	"encoding/base32"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
)

// RouteProtocol marks the routes that the plugin has made: see rtm_protocol in
// rtnetlink(7). Neither the kernel nor iproute2's rt_protos use the number.
const RouteProtocol = netlink.RouteProtocol(112)

// LinkGroup is the group of the node's ends of pods' links: ruleset.LinkGroup, by which the
// guard knows them. See IFLA_GROUP in rtnetlink(7).
const LinkGroup = 28774

const (
	linkPrefix = "pf"
	// linkDigits is how many digits fill up what the kernel allows: IFNAMSIZ is 16, with a zero.
	linkDigits = 13
)

// LinkName is the name of the host's end of a pod's link: "pf" and 65 bits of a hash. It is derived,
// so that anyone who knows the container finds its link again, without anything that was noted.
func LinkName(containerID, ifName string) string {
	sum := attachmentHash(containerID, ifName)
	return linkPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:linkDigits])
}

// PodMAC is the MAC of a pod's interface.
func PodMAC(containerID, ifName string) net.HardwareAddr {
	sum := attachmentHash(containerID, ifName)
	return localMAC(sum[len(sum)-6:])
}

// BridgeMAC is the MAC of a bridge that the plugin has made, the same on each
// node. Frames never leave a node with it.
func BridgeMAC(bridge string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("bridge " + bridge))
	return localMAC(sum[:6])
}

// hostMAC is the MAC of the host's end with this name. If a link has it, the plugin has made the
// link; the name alone may be chance.
func hostMAC(link string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("link " + link))
	return localMAC(sum[:6])
}

func attachmentHash(containerID, ifName string) [sha256.Size]byte {
	// Neither has a slash in it.
	return sha256.Sum256([]byte(containerID + "/" + ifName))
}

// localMAC makes a locally administered unicast address of six octets.
func localMAC(b []byte) net.HardwareAddr {
	mac := net.HardwareAddr(append([]byte(nil), b...))
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}
