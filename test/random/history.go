package random

import (
	"fmt"
	"iter"
	"maps"
	"math/rand"
	"net/netip"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// Event is one change of the cluster: of an object, or of an attachment.
type Event struct {
	Object     client.Object
	Attachment *policy.Attachment
	Delete     bool
}

// Change is what a model is told of the event, as the controllers do.
func (e Event) Change() policy.Change {
	switch a := e.Attachment; {
	case a != nil && e.Delete:
		return policy.DeleteAttachment(a.ContainerID, a.IfName)
	case a != nil:
		return policy.SetAttachment(*a)
	case e.Delete:
		return policy.Gone(e.Object)
	}
	return policy.ChangeOf(e.Object)
}

// Changes are those of events.
func Changes(events []Event) (changes []policy.Change) {
	for _, e := range events {
		changes = append(changes, e.Change())
	}
	return changes
}

// identity is what makes two objects the same one.
func (e Event) identity() string {
	if e.Attachment != nil {
		return "attachment " + e.Attachment.ContainerID + " " + e.Attachment.IfName
	}
	return fmt.Sprintf("%T %q %q", e.Object, e.Object.GetNamespace(), e.Object.GetName())
}

// History is n changes of a cluster of a few pods, policies and namespaces: objects that come
// anew, go, come back as they were, or change in one field.
func History(r *rand.Rand, n int) []Event {
	const pods, policies = 12, 8
	var events []Event
	if maybe(r, 2) { // else most nodes are not known
		for _, name := range nodeNames {
			events = append(events, Event{Object: labelledNode(r, name)})
		}
	}
	clusterwide := !maybe(r, 3) // it has ClusterNetworkPolicies
	last := map[string]Event{}  // of each object, and in which order they first came
	var order []string
	for range n {
		event := Event{Delete: maybe(r, 4)}
		kind := r.Intn(13)
		if clusterwide && maybe(r, 6) {
			kind = 13
		}
		switch kind {
		case 13:
			event.Object = ClusterPolicy(r, r.Intn(clusterPolicies))
		case 8, 9:
			event.Attachment = Attachment(r, r.Intn(pods), pods)
		case 11, 12:
			event.Object = PodAddresses(r, podsIn(last))
		case 0:
			event.Object = Namespace(r, r.Intn(len(namespaces)))
		case 1, 2, 3, 10:
			event.Object = Policy(r, r.Intn(policies))
		case 4:
			event.Object = AnyNode(r)
		case 5:
			event.Object = OddPod(r, r.Intn(pods), pods)
		default:
			event.Object = Pod(r, r.Intn(pods))
		}
		if len(order) > 0 && maybe(r, 4) {
			event = next(r, last[pick(r, order)], pods)
		}
		if _, seen := last[event.identity()]; !seen {
			order = append(order, event.identity())
		}
		last[event.identity()] = event
		events = append(events, event)
	}
	return events
}

// podsIn are the pods that are there, in order.
func podsIn(last map[string]Event) (pods []*corev1.Pod) {
	for _, id := range slices.Sorted(maps.Keys(last)) {
		if p, is := last[id].Object.(*corev1.Pod); is && !last[id].Delete {
			pods = append(pods, p)
		}
	}
	return pods
}

// next is what may become of an object or an attachment: it comes back as it was, goes, or
// changes a little.
func next(r *rand.Rand, e Event, pods int) Event {
	if e.Delete || e.Attachment != nil || maybe(r, 6) {
		e.Delete = !e.Delete
		return e
	}
	e.Object = e.Object.DeepCopyObject().(client.Object)
	switch o := e.Object.(type) {
	case *corev1.Pod:
		changePod(r, o, pods)
	case *corev1.Namespace:
		if maybe(r, 2) {
			restage(&o.ObjectMeta)
		} else {
			o.Labels = Namespace(r, slices.Index(namespaces, o.Name)).Labels
		}
	case *corev1.Node:
		pick(r, []func(*rand.Rand, *corev1.Node){setRanges, setAddresses, setLabels})(r, o)
	case *networkingv1.NetworkPolicy:
		if maybe(r, 4) {
			restage(&o.ObjectMeta)
		} else {
			changePolicy(r, &o.Spec)
		}
	case *clusterv1beta1.ClusterNetworkPolicy:
		if maybe(r, 4) {
			restage(&o.ObjectMeta)
		} else {
			changeClusterPolicy(r, &o.Spec)
		}
	case *v1alpha1.PodAddresses:
		if n := len(o.Pods); maybe(r, 2) && n > 1 {
			o.Pods = o.Pods[:n-1]
		} else {
			o.Pods = append(o.Pods, podAddress(r, o.Name, Pod(r, r.Intn(pods)), []*corev1.Pod{Pod(r, r.Intn(pods))}))
		}
	}
	return e
}

// changePod changes one field of a pod.
func changePod(r *rand.Rand, p *corev1.Pod, pods int) {
	switch r.Intn(6) {
	case 0:
		p.Labels = Labels(r)
	case 1:
		p.Spec.Containers[0].Ports = ports(r)
	case 2:
		p.Status.Phase = pick(r, []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown})
	case 3:
		i := r.Intn(pods)
		_, _ = fmt.Sscanf(p.Name, "pod-%d", &i)
		show(r, p, PodAddrs(i, p.Spec.NodeName))
	default:
		i := 0
		_, _ = fmt.Sscanf(p.Name, "pod-%d", &i)
		makeOdd(r, p, i, pods)
	}
}

// changePolicy changes one field of a policy.
func changePolicy(r *rand.Rand, spec *networkingv1.NetworkPolicySpec) {
	a := author{Rand: r}
	switch r.Intn(4) {
	case 0:
		spec.PodSelector = *a.selector()
	case 1:
		spec.PolicyTypes = pick(r, [][]networkingv1.PolicyType{nil, {networkingv1.PolicyTypeIngress}, {networkingv1.PolicyTypeEgress}})
	case 2:
		if n := len(spec.Ingress); n > 0 {
			spec.Ingress[r.Intn(n)].From = a.peers()
		}
	case 3:
		if n := len(spec.Egress); n > 0 {
			spec.Egress[r.Intn(n)].Ports = a.ports()
		}
	}
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
		for _, prefix := range RangesOf(node) {
			now[prefix.Addr().Is4()] = append(now[prefix.Addr().Is4()], prefix)
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
		case *clusterv1beta1.ClusterNetworkPolicy:
			s.ClusterPolicies = append(s.ClusterPolicies, o)
		case *v1alpha1.PodAddresses:
			s.PodAddresses = append(s.PodAddresses, o)
		}
	}
	return s
}

// Seeds are n seeds, from the first on. If the loop's body panics, it is said at which.
func Seeds(first int64, n int) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		seed, more := first, true
		defer func() {
			if seed < first+int64(n) && more {
				fmt.Fprintf(os.Stderr, "ended at seed %d\n", seed)
			}
		}()
		for ; more && seed < first+int64(n); seed++ {
			more = yield(seed)
		}
	}
}

// Objects are a cluster's objects that are Kubernetes' own: Nodes, Namespaces, Pods,
// NetworkPolicies and ClusterNetworkPolicies, in this order.
func Objects(s policy.Snapshot) (all []client.Object) {
	for _, o := range s.Nodes {
		all = append(all, o)
	}
	for _, o := range s.Namespaces {
		all = append(all, o)
	}
	for _, o := range s.Pods {
		all = append(all, o)
	}
	for _, o := range s.Policies {
		all = append(all, o)
	}
	for _, o := range s.ClusterPolicies {
		all = append(all, o)
	}
	return all
}

// Events are those by which a cluster comes to be, an object each.
func Events(s policy.Snapshot) (events []Event) {
	for _, o := range Objects(s) {
		events = append(events, Event{Object: o})
	}
	for _, o := range s.PodAddresses {
		events = append(events, Event{Object: o})
	}
	return events
}
