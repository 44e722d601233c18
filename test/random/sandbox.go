package random

import (
	"cmp"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
)

// Sandboxes are what really runs on Node, for some of the first pods' names: mostly of the pods
// that the API server has there, else of earlier or later ones of the name. No two have an
// address in common. As after a reboot, or when a runtime has remade its sandboxes, their
// addresses are often others than those that the API server shows.
func Sandboxes(r *rand.Rand, s policy.Snapshot, pods int) (sandboxes []policy.Attachment) {
	at := r.Perm(pods)
	for i := range pods {
		a := policy.Attachment{
			ContainerID: fmt.Sprintf("container-%d-%d", i, r.Intn(1000)), IfName: "eth0",
			Pod: policy.Key{Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprintf("pod-%d", i)},
			UID: pick(r, uids(i)),
		}
		pod := slices.IndexFunc(s.Pods, func(p *corev1.Pod) bool { return made(a, p) && runs(p) })
		if pod < 0 && !maybe(r, 4) {
			continue
		}
		if pod >= 0 && !maybe(r, 6) {
			a.UID = types.UID(cmp.Or(s.Pods[pod].Annotations[corev1.MirrorPodAnnotationKey], string(s.Pods[pod].UID)))
		}
		if j := slices.Index(at, i); j > i && maybe(r, 3) { // as the API server has it
			at[i], at[j] = at[j], at[i]
		}
		switch a.IPs = PodAddrs(at[i], Node); r.Intn(8) {
		case 0:
			a.IPs = a.IPs[r.Intn(2):][:1]
		case 1:
			a.IPs = OutsideRanges(at[i])
		}
		sandboxes = append(sandboxes, a)
		if maybe(r, 5) {
			a.IfName, a.IPs = "net1", OutsideRanges(pods+at[i])
			sandboxes = append(sandboxes, a)
		}
	}
	return sandboxes
}

// Ended are some attachments of sandboxes that are no more, of which nobody has told: they
// have addresses that no other has.
func Ended(r *rand.Rand, pods int) (ended []policy.Attachment) {
	for i := range pods {
		if maybe(r, 6) {
			ended = append(ended, policy.Attachment{
				ContainerID: fmt.Sprintf("container-%d-before", i), IfName: "eth0", UID: uids(i)[0], IPs: PodAddrs(2*pods+i, Node),
				Pod: policy.Key{Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprintf("pod-%d", i)},
			})
		}
	}
	return ended
}

// Truth is the cluster as the API server would have it if it knew which addresses the
// sandboxes on Node have: each is its own pod's, and nobody else's. That of a sandbox whose
// pod the API server does not know is an attachment of nobody's.
func Truth(s policy.Snapshot, sandboxes []policy.Attachment) policy.Snapshot {
	truth := s
	truth.Pods, truth.Attachments = nil, nil
	known := map[string]bool{} // sandboxes, by their first address
	for _, pod := range s.Pods {
		var shown []netip.Addr
		own, told := []netip.Addr{}, false
		for _, addr := range PodAddrsOf(pod) {
			if !some(sandboxes, func(a policy.Attachment) bool { return slices.Contains(a.IPs, addr) }) {
				shown = append(shown, addr)
			}
		}
		for _, a := range sandboxes {
			if made(a, pod) && !ended(pod) && !pod.Spec.HostNetwork && (a.UID == pod.UID || string(a.UID) == pod.Annotations[corev1.MirrorPodAnnotationKey]) {
				own, known[a.IPs[0].String()] = append(own, a.IPs...), true
				told = told || a.IfName == "eth0"
			}
		}
		if !told {
			own = append(own, shown...)
		}
		pod = pod.DeepCopy()
		pod.Status.PodIP, pod.Status.PodIPs = "", nil
		for _, addr := range own {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
		}
		truth.Pods = append(truth.Pods, pod)
	}
	for _, a := range sandboxes {
		if !known[a.IPs[0].String()] {
			truth.Attachments = append(truth.Attachments, policy.Attachment{ContainerID: a.ContainerID, IfName: a.IfName, IPs: a.IPs})
		}
	}
	return truth
}
