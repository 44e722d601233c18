package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// end is one end of connections: a pod, a node, or an address of neither.
type end struct {
	End
	// pod is the pod; nil: it is none, or one on its node's network, which is in host.
	pod, host *corev1.Pod
	// addrs are its addresses, at most one of each family.
	addrs []netip.Addr
	notes []Note
}

// unknown reports an object that is not there.
func unknown(kind Kind, name string) error {
	return fmt.Errorf("there is no %s %s", kind, name)
}

// ends are the ends that a target stands for, in order, and what has to be said of those that are left
// out. A target that is not there is an error.
func (x *Explainer) ends(t Target) (ends []end, notes []Note, err error) {
	switch t.Kind {
	case KindAddress:
		return []end{x.addressEnd(t.Address)}, nil, nil
	case KindNode:
		for i, node := range x.nodes {
			if node.Name == t.Name {
				return []end{x.nodeEnd(i)}, nil, nil
			}
		}
		return nil, nil, unknown(t.Kind, t.Name)
	case KindDomain:
		ends, notes = x.domainEnds(t.Name)
		return ends, notes, nil
	case KindPod:
		pod := x.pods[policy.Key{Namespace: t.Namespace, Name: t.Name}]
		if pod == nil {
			return nil, nil, unknown(t.Kind, t.Namespace+"/"+t.Name)
		}
		e, note := x.podEnd(pod)
		if note != nil {
			return nil, []Note{*note}, nil
		}
		return []end{e}, nil, nil
	}
	pods, known := x.podsIn(t)
	if !known {
		return nil, nil, unknown(t.Kind, strings.TrimPrefix(t.Namespace+"/"+t.Name, "/"))
	}
	ends, notes = x.podEnds(pods)
	if len(ends) == 0 && len(notes) == 0 {
		notes = []Note{{"NoPods", fmt.Sprintf("%s %s has no pods.", t.Kind, strings.TrimPrefix(t.Namespace+"/"+t.Name, "/"))}}
	}
	return ends, notes, nil
}

// podsIn are the pods of a namespace or a workload, and whether there is such a one.
func (x *Explainer) podsIn(t Target) (pods []*corev1.Pod, known bool) {
	if t.Kind != KindNamespace {
		return x.podsOf(Object{Kind: string(t.Kind), Namespace: t.Namespace, Name: t.Name})
	}
	for _, pod := range x.cluster.Pods {
		if pod.Namespace == t.Name {
			pods = append(pods, pod)
		}
	}
	return pods, x.namespaces[t.Name] != nil || len(pods) > 0
}

// podEnds are the ends that pods are, and what has to be said of those that are none.
func (x *Explainer) podEnds(pods []*corev1.Pod) (ends []end, notes []Note) {
	for _, pod := range pods {
		if e, note := x.podEnd(pod); note == nil {
			ends = append(ends, e)
		} else {
			notes = append(notes, *note)
		}
	}
	return ends, notes
}

// podsOf are the pods of a workload, and whether there is such a workload.
func (x *Explainer) podsOf(w Object) (pods []*corev1.Pod, known bool) {
	_, known = x.owners[w]
	for _, pod := range x.cluster.Pods {
		if pod.Namespace == w.Namespace && slices.Contains(x.Owners(pod), w) {
			pods = append(pods, pod)
		}
	}
	return pods, known || len(pods) > 0
}

// podEnd is the end that a pod is, or why it is none.
func (x *Explainer) podEnd(pod *corev1.Pod) (end, *Note) {
	name := pod.Namespace + "/" + pod.Name
	e := end{
		End: End{
			Kind: KindPod, Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, Workload: x.workload(pod),
			StandIn: standsIn(pod),
		},
		pod: pod,
	}
	switch {
	case ended(pod):
		return end{}, &Note{"PodEnded", fmt.Sprintf("Pod %s has ended (%s). Its address may be another pod's by now.", name, pod.Status.Phase)}
	case pod.Spec.HostNetwork:
		return x.hostEnd(e)
	}
	e.addrs = oneOfEach(x.believed(pod))
	if len(e.addrs) == 0 {
		return end{}, &Note{"NoAddress", fmt.Sprintf("Pod %s has no address yet (phase %s), so that there is nothing to ask about.", name, orUnknown(string(pod.Status.Phase)))}
	}
	e.Address = e.addrs[0]
	if !e.StandIn && x.notReady(pod) {
		e.notes = append(e.notes, *notReadyNote(pod))
	}
	return e, nil
}

// hostEnd is the end that a pod on its node's network is: its packets have the node's addresses.
func (x *Explainer) hostEnd(e end) (end, *Note) {
	name := e.Namespace + "/" + e.Name
	at := slices.IndexFunc(x.nodes, func(n policy.Node) bool { return n.Name == e.Node })
	if at < 0 {
		return end{}, &Note{"HostNetwork", fmt.Sprintf("Pod %s is on its node's network (hostNetwork), and its node %s is not known.", name, orUnknown(e.Node))}
	}
	e.addrs, e.pod, e.host = x.nodeEnd(at).addrs, nil, e.pod
	if len(e.addrs) == 0 {
		return end{}, &Note{"HostNetwork", fmt.Sprintf("Pod %s is on its node's network (hostNetwork), and node %s shows no address.", name, e.Node)}
	}
	e.Address = e.addrs[0]
	e.notes = append(e.notes, Note{"HostNetwork", fmt.Sprintf(
		"Pod %s is on its node's network (hostNetwork): to policies its packets are those of node %s, no policy selects it, and no podSelector means it.", name, e.Node)})
	return e, nil
}

// nodeEnd is the end that a node is.
func (x *Explainer) nodeEnd(i int) end {
	node := x.nodes[i]
	addrs := node.Addrs
	if len(addrs) == 0 {
		addrs = node.Listed
	}
	e := end{End: End{Kind: KindNode, Name: node.Name, Node: node.Name}, addrs: oneOfEach(addrs)}
	if len(e.addrs) > 0 {
		e.Address = e.addrs[0]
	}
	return e
}

// addressEnd is the end that an address is: a pod if one has it, or a node.
func (x *Explainer) addressEnd(addr netip.Addr) end {
	holder := x.Holder(addr)
	if len(holder.Pods) == 1 {
		if e, note := x.podEnd(holder.Pods[0]); note == nil {
			e.addrs, e.Address = []netip.Addr{addr}, addr
			return e
		}
	}
	e := end{End: End{Kind: KindAddress, Address: addr, Node: holder.Node}, addrs: []netip.Addr{addr}}
	switch {
	case len(holder.Pods) > 1:
		e.notes = append(e.notes, Note{"AddressShared", fmt.Sprintf("%d pods show the address %s, and nobody can tell which of them has it: it passes only what passes for each of them.", len(holder.Pods), addr)})
	case holder.OnNode:
		e.Kind, e.Name = KindNode, holder.Node
	case x.serviceAt[addr] != nil:
		e.notes = append(e.notes, serviceAddress(addr, x.serviceAt[addr]))
	case holder.Node != "":
		e.notes = append(e.notes, Note{"UnknownPod", fmt.Sprintf("%s is in the pod range of node %s, and no known pod has it: nothing passes.", addr, holder.Node)})
	}
	return e
}

// believed are the addresses that a pod has according to Judge, in order.
func (x *Explainer) believed(pod *corev1.Pod) (addrs []netip.Addr) {
	for _, addr := range x.addrs(pod) {
		if slices.Contains(x.Holder(addr).Pods, pod) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// oneOfEach is the first address of each family, IPv4 before IPv6.
func oneOfEach(addrs []netip.Addr) (of []netip.Addr) {
	for _, four := range []bool{true, false} {
		if at := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() == four }); at >= 0 {
			of = append(of, addrs[at])
		}
	}
	return of
}

// ended reports whether a pod has ended, so that its address may be another's.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// notReady reports whether Services do not send to a pod. In files, a pod without the condition Ready counts as
// ready: it has not run yet.
func (x *Explainer) notReady(pod *corev1.Pod) bool {
	says := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	return !ready(pod) && (says || x.cluster.Running)
}

func notReadyNote(pod *corev1.Pod) *Note {
	return &Note{"PodNotReady", fmt.Sprintf("Pod %s/%s is not ready. Policies hold for it all the same, but Services do not send to it, unless they have publishNotReadyAddresses.", pod.Namespace, pod.Name)}
}

// ready reports whether a pod's condition Ready is true.
func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}
