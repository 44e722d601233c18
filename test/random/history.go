package random

import (
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// Event is one change of the cluster: of an object, or of an attachment.
type Event struct {
	Object     client.Object
	Attachment *policy.Attachment
	Delete     bool
}

// Feed tells a model of the event, as the controllers do.
func (e Event) Feed(m *policy.Model) {
	if a := e.Attachment; a != nil {
		if e.Delete {
			m.DeleteAttachment(a.ContainerID, a.IfName)
		} else {
			m.SetAttachment(*a)
		}
		return
	}
	key := client.ObjectKeyFromObject(e.Object)
	switch o := e.Object.(type) {
	case *corev1.Pod:
		if pod, live := policy.PodOf(o); live && !e.Delete {
			m.SetPod(pod)
		} else {
			m.DeletePod(key)
		}
	case *corev1.Namespace:
		if e.Delete {
			m.DeleteNamespace(o.Name)
		} else {
			m.SetNamespace(policy.NamespaceOf(o))
		}
	case *corev1.Node:
		if e.Delete {
			m.DeleteNode(o.Name)
		} else {
			m.SetNode(policy.NodeOf(o))
		}
	case *networkingv1.NetworkPolicy:
		if e.Delete {
			m.DeletePolicy(key)
		} else {
			parsed, _ := policy.Parse(o)
			m.SetPolicy(parsed)
		}
	}
}

// identity is what makes two objects the same one.
func (e Event) identity() string {
	if e.Attachment != nil {
		return "attachment " + e.Attachment.ContainerID + " " + e.Attachment.IfName
	}
	return fmt.Sprintf("%T %q %q", e.Object, e.Object.GetNamespace(), e.Object.GetName())
}

// History is n changes of a cluster of a few pods, policies and namespaces.
func History(r *rand.Rand, n int) []Event {
	const pods, policies = 12, 8
	var events []Event
	for range n {
		event := Event{Delete: maybe(r, 4)}
		switch r.Intn(9) {
		case 8:
			event.Attachment = Attachment(r, r.Intn(pods))
		case 0:
			event.Object = Namespace(r, r.Intn(len(namespaces)))
		case 1, 2, 3:
			event.Object = Policy(r, r.Intn(policies))
		case 4:
			event.Object = pick(r, Nodes())
		case 5:
			event.Object = OddPod(r, r.Intn(pods), pods)
		default:
			event.Object = Pod(r, r.Intn(pods))
		}
		events = append(events, event)
	}
	return events
}

// Final are the last events of each object, in the order of the objects'
// first: all that a history's end depends on, but for LastPodCIDRs.
func Final(history []Event) []Event {
	last := map[string]Event{}
	var order []string
	for _, event := range history {
		if _, seen := last[event.identity()]; !seen {
			order = append(order, event.identity())
		}
		last[event.identity()] = event
	}
	var final []Event
	for _, id := range order {
		final = append(final, last[id])
	}
	return final
}

// LastPodCIDRs are the pod ranges that Node was last seen with, in each family.
func LastPodCIDRs(history []Event) (last []netip.Prefix) {
	byFamily := map[bool][]netip.Prefix{}
	for _, event := range history {
		node, is := event.Object.(*corev1.Node)
		if !is || event.Delete || node.Name != Node {
			continue
		}
		now := map[bool][]netip.Prefix{}
		for _, text := range node.Spec.PodCIDRs {
			if prefix, err := policy.ParsePrefix(text); err == nil {
				now[prefix.Addr().Is4()] = append(now[prefix.Addr().Is4()], prefix)
			}
		}
		maps.Copy(byFamily, now)
	}
	return slices.Concat(byFamily[true], byFamily[false])
}

// Snapshot is the cluster at the end of a history, as Node's agent knows it.
func Snapshot(history []Event) (s policy.Snapshot) {
	s.Node, s.LastPodCIDRs = Node, LastPodCIDRs(history)
	for _, event := range Final(history) {
		if event.Delete {
			continue
		}
		if event.Attachment != nil {
			s.Attachments = append(s.Attachments, *event.Attachment)
			continue
		}
		switch o := event.Object.(type) {
		case *corev1.Pod:
			s.Pods = append(s.Pods, o)
		case *corev1.Namespace:
			s.Namespaces = append(s.Namespaces, o)
		case *corev1.Node:
			s.Nodes = append(s.Nodes, o)
		case *networkingv1.NetworkPolicy:
			s.Policies = append(s.Policies, o)
		}
	}
	return s
}

// Cluster is a whole cluster: nodes, namespaces, so many pods and policies.
func Cluster(r *rand.Rand, pods, policies int) (s policy.Snapshot) {
	s.Node, s.Nodes = Node, Nodes()
	for i := range namespaces {
		s.Namespaces = append(s.Namespaces, Namespace(r, i))
	}
	for i := range pods {
		s.Pods = append(s.Pods, Pod(r, i))
	}
	for i := range policies {
		s.Policies = append(s.Policies, Policy(r, i))
	}
	return s
}
