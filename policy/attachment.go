package policy

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Attachment is a pod's network interface on this node, as the CNI plugin made
// it: what is known of a pod before the API shows its address.
type Attachment struct {
	// ContainerID and IfName name the attachment (CNI_CONTAINERID, CNI_IFNAME).
	ContainerID, IfName string
	// Pod and UID say which pod the attachment belongs to. The UID is empty where the
	// container runtime does not tell it: any pod of that name is then meant.
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

// AttachmentKey names an attachment, as CNI does: by the container and its interface.
type AttachmentKey struct{ ContainerID, IfName string }

func (k AttachmentKey) String() string { return k.ContainerID + " " + k.IfName }

// Key is the attachment's name.
func (a Attachment) Key() AttachmentKey { return AttachmentKey{a.ContainerID, a.IfName} }

// madeFor reports whether the attachment was made for this very pod, on this node: not
// for an earlier one of its name, nor one of that name elsewhere. A static pod goes by
// either of its UIDs.
func (a Attachment) madeFor(p *Pod, node string) bool {
	return a.Pod == p.Key && p.Node == node && (a.UID == "" || p.IsOf(a.UID))
}

// PrimaryInterface is the name of the interface whose addresses kubelet reports: that of
// all container runtimes for Kubernetes. Others, such as Multus' net1, are not reported.
const PrimaryInterface = "eth0"

// attach returns the pod with the addresses of its attachments, if it has any, in place
// of the addresses that the API shows: those may be left from an earlier sandbox, and
// another pod may have them now. If none of the attachments is the primary interface,
// podfence does not know the interface whose addresses the API shows, and the pod keeps
// these addresses as well.
func (p *Pod) attach(attachments []Attachment, node string) *Pod {
	var ips []netip.Addr
	told := false
	for _, a := range attachments {
		if a.madeFor(p, node) {
			ips = append(ips, a.IPs...)
			told = told || a.IfName == PrimaryInterface
		}
	}
	if len(ips) == 0 {
		return p
	}
	if !told {
		ips = append(ips, p.IPs...)
	}
	attached := *p
	attached.located = true
	slices.SortFunc(ips, netip.Addr.Compare)
	attached.IPs = slices.Compact(ips)
	return &attached
}

// setAttachment takes in what the CNI plugin has made. From now on its addresses are
// its pod's and no other's, whatever the API shows.
func (m *Model) setAttachment(a Attachment) {
	if reflect.DeepEqual(a, m.made[a.Key()]) {
		return
	}
	m.deleteAttachment(a.Key())
	m.made[a.Key()] = a
	m.dirtyAttachments[a.Key()] = struct{}{}
	m.change(sortedAddrs(a.IPs), func() {
		m.attachments[a.Pod] = append(slices.Clip(m.attachments[a.Pod]), a)
		for _, ip := range a.IPs {
			m.attached[ip] = append(slices.Clip(m.attached[ip]), a)
		}
	})
	m.relocate(a.Pod)
}

// deleteAttachment forgets what the CNI plugin has removed.
func (m *Model) deleteAttachment(key AttachmentKey) {
	a, known := m.made[key]
	if !known {
		return
	}
	delete(m.made, key)
	m.changedAttached[key] = struct{}{}
	m.dirtyAttachments[key] = struct{}{}
	m.change(sortedAddrs(a.IPs), func() {
		without(m.attachments, a.Pod, key)
		for _, ip := range a.IPs {
			without(m.attached, ip, key)
		}
	})
	m.relocate(a.Pod)
}

// sortedAddrs are the addresses in order, each once.
func sortedAddrs(ips []netip.Addr) []netip.Addr {
	ips = slices.Clone(ips)
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(ips)
}

// without takes an attachment out of one of the lists.
func without[K comparable](lists map[K][]Attachment, at K, key AttachmentKey) {
	remaining := slices.DeleteFunc(slices.Clone(lists[at]), func(a Attachment) bool { return a.Key() == key })
	if len(remaining) > 0 {
		lists[at] = remaining
	} else {
		delete(lists, at)
	}
}

// relocate works out a pod's addresses anew.
func (m *Model) relocate(key Key) {
	if pod := m.pod(key); pod != nil {
		object := *pod
		object.IPs, object.located = m.shown(pod), false
		if !m.locate(&object).equal(pod) {
			m.setPod(&object)
		}
	}
}

// shown are the addresses that the API shows of a pod.
func (m *Model) shown(pod *Pod) []netip.Addr {
	if pod.located {
		return m.shownIPs[pod.Key]
	}
	return pod.IPs
}

// Attached returns the UID of the pod that an attachment was made for, and reports whether
// that pod is known, so that its policies hold for the attachment's addresses. If the
// runtime does not tell the UID, a terminating pod is taken for an earlier pod of the same
// name: a terminating pod gets no new sandbox.
func (m *Model) Attached(a Attachment) (uid types.UID, known bool) {
	pod := m.pod(a.Pod)
	if pod == nil || !a.madeFor(pod, m.node) || a.UID == "" && pod.Terminating {
		return "", false
	}
	return pod.UID, !slices.ContainsFunc(a.IPs, func(ip netip.Addr) bool { return !m.has(pod, ip) })
}

// Has reports whether the CNI plugin has made an attachment and not removed it.
func (m *Model) Has(key AttachmentKey) bool {
	_, made := m.made[key]
	return made
}

// ChangedAttached are the attachments for which the answer of Attached may have changed since
// the last call of ChangedAttached. Removed attachments are among them.
func (m *Model) ChangedAttached() []AttachmentKey {
	if len(m.changedAttached) == 0 {
		return nil
	}
	keys := slices.Collect(maps.Keys(m.changedAttached))
	clear(m.changedAttached)
	return keys
}

// Attachments are all that the CNI plugin has made and not removed.
func (m *Model) Attachments() []Attachment { return slices.Collect(maps.Values(m.made)) }

// Nodes are all nodes that are known.
func (m *Model) Nodes() []Node { return slices.Collect(maps.Values(m.nodes)) }
