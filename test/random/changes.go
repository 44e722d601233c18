package random

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// change is an object or an attachment before and after an event.
type change struct{ before, now Event }

// HistoryFeatures says which features a history has that no single cluster shows.
func HistoryFeatures(history []Event) map[string]bool {
	var all []change
	last := map[string]Event{}
	inARow := map[string]int{} // how often one field of an object has changed, and nothing else
	several, remade := false, false
	for i, e := range history {
		id := e.identity()
		if before, seen := last[id]; seen {
			c := change{before, e}
			all = append(all, c)
			if inARow[id]++; !c.ofOneField() {
				inARow[id] = 0
			}
			several = several || inARow[id] > 1
		}
		last[id] = e
		remade = remade || some(history[:i], e.remakes)
	}
	f := map[string]bool{"change: several times one field of an object": several, "change: a sandbox is remade with other addresses": remade}
	for _, kinds := range []map[string]func(change) bool{changes, stagedChanges} {
		for name, is := range kinds {
			f["change: "+name] = some(all, is)
		}
	}
	return f
}

// remakes reports whether the event makes a pod's first interface anew, with other
// addresses than an earlier one.
func (e Event) remakes(earlier Event) bool {
	a, b := earlier.Attachment, e.Attachment
	return a != nil && b != nil && !e.Delete && a.Pod == b.Pod && a.IfName == "eth0" && b.IfName == "eth0" &&
		a.ContainerID != b.ContainerID && !slices.Equal(a.IPs, b.IPs)
}

// changes are what may happen between two events of one object.
var changes = map[string]func(change) bool{
	"a node is deleted": goes[*corev1.Node],
	"a node is back":    isBack[*corev1.Node],
	"a node has other ranges": func(c change) bool {
		a, b := both[*corev1.Node](c)
		return a != nil && !slices.Equal(RangesOf(a), RangesOf(b))
	},
	"a node has other addresses": func(c change) bool {
		a, b := both[*corev1.Node](c)
		return a != nil && !reflect.DeepEqual(a.Status.Addresses, b.Status.Addresses)
	},
	"a node has other labels": func(c change) bool {
		a, b := both[*corev1.Node](c)
		return a != nil && !reflect.DeepEqual(a.Labels, b.Labels)
	},
	"a namespace is deleted": goes[*corev1.Namespace],
	"a namespace is back":    isBack[*corev1.Namespace],
	"a pod moves to another node": func(c change) bool {
		a, b := both[*corev1.Pod](c)
		return a != nil && a.Spec.NodeName != b.Spec.NodeName
	},
	"a pod's name has a new UID": func(c change) bool { a, b := both[*corev1.Pod](c); return a != nil && a.UID != b.UID },
	"a pod comes to run again": func(c change) bool {
		a, b := both[*corev1.Pod](c)
		return a != nil && ended(a) && !ended(b)
	},
	"a pod has other addresses": func(c change) bool {
		a, b := both[*corev1.Pod](c)
		return a != nil && !slices.Equal(PodAddrsOf(a), PodAddrsOf(b))
	},
	"an attachment goes":  func(c change) bool { return c.now.Attachment != nil && !c.before.Delete && c.now.Delete },
	"a policy is deleted": goes[*networkingv1.NetworkPolicy],
	"a policy's rules differ": func(c change) bool {
		a, b := both[*networkingv1.NetworkPolicy](c)
		return a != nil && !reflect.DeepEqual(rulesOf(a), rulesOf(b))
	},
	"a cluster policy is deleted": goes[*clusterv1beta1.ClusterNetworkPolicy],
	"a cluster policy is back":    isBack[*clusterv1beta1.ClusterNetworkPolicy],
	"a cluster policy comes to another tier": func(c change) bool {
		a, b := both[*clusterv1beta1.ClusterNetworkPolicy](c)
		return a != nil && a.Spec.Tier != b.Spec.Tier
	},
	"a cluster policy has another priority, and is the same else": func(c change) bool {
		a, b := both[*clusterv1beta1.ClusterNetworkPolicy](c)
		return a != nil && a.Spec.Priority != b.Spec.Priority && c.ofOneField()
	},
	"a cluster policy has another subject, and is the same else": func(c change) bool {
		a, b := both[*clusterv1beta1.ClusterNetworkPolicy](c)
		return a != nil && !reflect.DeepEqual(a.Spec.Subject, b.Spec.Subject) && c.ofOneField()
	},
	"a cluster policy's rules are in another order": func(c change) bool {
		a, b := both[*clusterv1beta1.ClusterNetworkPolicy](c)
		if a == nil {
			return false
		}
		had, has := clusterRulesOf(a), clusterRulesOf(b)
		return !reflect.DeepEqual(had, has) && len(had) == len(has) && !some(has, func(r clusterRule) bool {
			return !some(had, func(other clusterRule) bool { return reflect.DeepEqual(r, other) })
		})
	},
}

// both are the object before and after, if it is there and such a one both times; else nil.
func both[T metav1.Object](c change) (a, b T) {
	if c.before.Delete || c.now.Delete {
		return a, b
	}
	a, _ = c.before.Object.(T)
	b, _ = c.now.Object.(T)
	return a, b
}

// goes and isBack report whether such an object is deleted, and made again.
func goes[T metav1.Object](c change) bool {
	_, is := c.now.Object.(T)
	return is && !c.before.Delete && c.now.Delete
}

func isBack[T metav1.Object](c change) bool {
	_, is := c.now.Object.(T)
	return is && c.before.Delete && !c.now.Delete
}

// ofOneField reports whether an object has changed in one of the fields that policy looks at.
func (c change) ofOneField() bool {
	var fields [][2]any
	if a, b := both[*corev1.Pod](c); a != nil {
		fields = [][2]any{{a.Labels, b.Labels}, {a.UID, b.UID}, {a.Annotations, b.Annotations}, {a.DeletionTimestamp, b.DeletionTimestamp}, {a.Spec, b.Spec}, {a.Status, b.Status}}
	}
	if a, b := both[*corev1.Node](c); a != nil {
		fields = [][2]any{{a.Labels, b.Labels}, {a.Spec, b.Spec}, {a.Status.Addresses, b.Status.Addresses}}
	}
	if a, b := both[*networkingv1.NetworkPolicy](c); a != nil {
		fields = [][2]any{{a.Spec.PodSelector, b.Spec.PodSelector}, {a.Spec.PolicyTypes, b.Spec.PolicyTypes}, {a.Spec.Ingress, b.Spec.Ingress}, {a.Spec.Egress, b.Spec.Egress}}
	}
	if a, b := both[*clusterv1beta1.ClusterNetworkPolicy](c); a != nil {
		fields = [][2]any{{a.Spec.Tier, b.Spec.Tier}, {a.Spec.Priority, b.Spec.Priority}, {a.Spec.Subject, b.Spec.Subject}, {a.Spec.Ingress, b.Spec.Ingress}, {a.Spec.Egress, b.Spec.Egress}}
	}
	differ := 0
	for _, field := range fields {
		if !reflect.DeepEqual(field[0], field[1]) {
			differ++
		}
	}
	return differ == 1
}
