package policy

import (
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Attachment is a pod's network interface on this node, as the CNI plugin made
// it: what is known of a pod before the API shows its address.
type Attachment struct {
	// ContainerID and IfName name the attachment (CNI_CONTAINERID, CNI_IFNAME).
	ContainerID, IfName string
	// Pod and UID are whose it is. An empty UID, where the container runtime
	// does not tell it, is any pod of that name.
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

// attachmentKey names an attachment.
type attachmentKey struct{ containerID, ifName string }

func (a Attachment) key() attachmentKey { return attachmentKey{a.ContainerID, a.IfName} }

// attach returns the pod with the addresses of its attachments too: those that
// were made for it, not for an earlier pod of its name.
func (p *Pod) attach(attachments []Attachment) *Pod {
	var ips []netip.Addr
	for _, a := range attachments {
		if a.Pod == p.Key && (a.UID == "" || a.UID == p.UID) {
			ips = append(ips, a.IPs...)
		}
	}
	if len(ips) == 0 {
		return p
	}
	attached := *p
	attached.attached = true
	attached.IPs = append(ips, p.IPs...)
	slices.SortFunc(attached.IPs, netip.Addr.Compare)
	attached.IPs = slices.Compact(attached.IPs)
	return &attached
}

// SetAttachment takes in what the CNI plugin has made. Its addresses are the
// pod's from now on, whether or not the API shows them.
func (m *Model) SetAttachment(a Attachment) {
	m.forgetAttachment(a.key())
	m.attachments[a.Pod] = append(m.attachments[a.Pod], a)
	m.reattach(a.Pod)
}

// DeleteAttachment forgets what the CNI plugin has removed.
func (m *Model) DeleteAttachment(containerID, ifName string) {
	if pod, was := m.forgetAttachment(attachmentKey{containerID, ifName}); was {
		m.reattach(pod)
	}
}

// forgetAttachment returns whose it was.
func (m *Model) forgetAttachment(key attachmentKey) (pod Key, was bool) {
	for pod, attachments := range m.attachments {
		i := slices.IndexFunc(attachments, func(a Attachment) bool { return a.key() == key })
		if i < 0 {
			continue
		}
		if left := slices.Delete(slices.Clone(attachments), i, i+1); len(left) > 0 {
			m.attachments[pod] = left
		} else {
			delete(m.attachments, pod)
		}
		return pod, true
	}
	return Key{}, false
}

// reattach works out a pod's addresses anew.
func (m *Model) reattach(key Key) {
	if pod := m.pod(key); pod != nil {
		object := *pod
		object.IPs, object.attached = m.reported(pod), false
		m.SetPod(&object)
	}
}

// reported are the addresses that the API shows of a pod.
func (m *Model) reported(pod *Pod) []netip.Addr {
	if pod.attached {
		return m.reportedIPs[pod.Key]
	}
	return pod.IPs
}

// Attached reports whether an attachment's pod is known, so that its policies
// hold for the attachment's addresses.
func (m *Model) Attached(a Attachment) bool {
	pod := m.pod(a.Pod)
	return pod != nil && (a.UID == "" || pod.UID == a.UID) && pod.Node == m.node && pod.attached
}

// Attachments are all that the CNI plugin has made and not removed.
func (m *Model) Attachments() (all []Attachment) {
	for _, attachments := range m.attachments {
		all = append(all, attachments...)
	}
	return all
}

// PodCIDRs are this node's pod ranges.
func (m *Model) PodCIDRs() []netip.Prefix { return slices.Clone(m.podCIDRs) }

// Nodes are all nodes that are known.
func (m *Model) Nodes() []Node { return slices.Collect(maps.Values(m.nodes)) }
