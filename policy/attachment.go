package policy

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
)

// Attachment is a pod's network interface on this node, as the CNI plugin made
// it: what is known of a pod before the API shows its address.
type Attachment struct {
	// ContainerID and IfName name the attachment (CNI_CONTAINERID, CNI_IFNAME).
	ContainerID, IfName string
	// Pod and UID are whose it is.
	Pod Key
	UID types.UID
	// IPs are the addresses that it was given.
	IPs []netip.Addr
	// HostInterface is the node's end: the bridge's port. Empty where another
	// plugin has made it.
	HostInterface string
	// MAC is the pod's hardware address. Zero where another plugin has made it.
	MAC [6]byte
}
