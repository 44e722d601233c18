package explain

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podfence/podfence/policy"
)

// Most pairs of pods in a large cluster are closed, as no rule of the policies that isolate one means the other.
// What is here finds that out without Judge, by which a matrix of 20,000 pods takes half the time. It may only ever be
// sure of what Judge would say as well: whatever is not plain is left to Judge.

// mayAllow is which peers the rules of a fence name, whatever they say of ports.
type mayAllow struct {
	// unsure: what the rules mean is left to Judge.
	unsure bool
	// anyone: a rule has no peers, and so means everyone.
	anyone bool
	peers  []mayMean
}

// mayMean is whom one peer of a rule may mean.
type mayMean struct {
	// namespace is where pods must be; if it is empty, namespaces says.
	namespace  string
	namespaces labels.Selector
	pods       labels.Selector
	blocks     []block
	// in is what namespaces says of Namespaces that were asked about.
	in map[string]bool
}

// add adds a rule.
func (m *mayAllow) add(r rule) {
	m.anyone = m.anyone || r.anyone
	for _, p := range r.peers {
		out := mayMean{namespace: p.namespace, blocks: p.blocks, in: map[string]bool{}}
		var errs [2]error
		out.namespaces, errs[0] = selectorOf(p.namespaces)
		out.pods, errs[1] = selectorOf(p.pods)
		m.unsure = m.unsure || errs[0] != nil || errs[1] != nil || p.nodes != nil || len(p.domains) > 0 || p.unreadable != ""
		m.peers = append(m.peers, out)
	}
}

// selectorOf is a selector ready for use; everything if there is none.
func selectorOf(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// shuts reports whether the policies of a fence isolate its pod, and no rule of them can mean the peer. If it is
// false, Judge has to be asked.
func (x *Explainer) shuts(f *fence, subject, peer *view) bool {
	if len(f.policies) == 0 || len(f.cluster) > 0 || f.may.unsure || f.may.anyone || !subject.plainPod || subject.addr == peer.addr {
		return false
	}
	switch {
	case f.namesAddresses && peer.standIn:
		return false // nobody knows yet whether a network means it
	case peer.plainPod:
		pod := peer.about.Pods[0]
		ns := x.namespaces[pod.Namespace]
		if ns == nil {
			return false
		}
		for i := range f.may.peers {
			if f.may.peers[i].pod(pod, ns) || f.may.peers[i].address(peer) {
				return false
			}
		}
		return true
	case peer.outside:
		for i := range f.may.peers {
			if f.may.peers[i].address(peer) {
				return false
			}
		}
		return true
	}
	return false
}

// pod reports whether selectors mean a pod.
func (m *mayMean) pod(pod *corev1.Pod, ns *corev1.Namespace) bool {
	if len(m.blocks) > 0 {
		return false
	}
	if m.namespace != "" {
		return m.namespace == pod.Namespace && m.pods.Matches(labels.Set(pod.Labels))
	}
	is, known := m.in[ns.Name]
	if !known {
		is = m.namespaces.Matches(labels.Set(ns.Labels))
		m.in[ns.Name] = is
	}
	return is && m.pods.Matches(labels.Set(pod.Labels))
}

// address reports whether a network may mean an address. What is an exception of one is left to Judge.
func (m *mayMean) address(peer *view) bool {
	for _, b := range m.blocks {
		if cidr, err := policy.ParsePrefix(b.cidr); err != nil || cidr.Contains(peer.addr) {
			return true
		}
	}
	return false
}
