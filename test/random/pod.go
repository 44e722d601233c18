package random

import (
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
)

var (
	portNames = []string{"http", "dns", "admin"}
	numbers   = []int32{53, 80, 81, 443, 8080, 65535}
	protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
)

// PodAddrs are the addresses that Pod gives the i-th pod, if it is on that node.
func PodAddrs(i int, node string) []netip.Addr {
	third := number(node)
	return addrs(fmt.Sprintf("10.244.%d.%d", third, i+2), fmt.Sprintf("fd00:244:0:%d::%x", third, i+2))
}

// InOtherRanges reports whether PodAddrs gives an address to pods of another node than Node.
func InOtherRanges(addr netip.Addr) bool {
	for _, node := range nodeNames[1:] {
		for _, cidr := range RangesOf(plainNode(node)) {
			if cidr.Contains(addr) {
				return true
			}
		}
	}
	return false
}

// Outsiders are how many pods' addresses there are outside of all ranges: pods that show one
// often have to share it.
const Outsiders = 8

// OutsideRanges are the i-th addresses of pods in a network that no Node's ranges have.
func OutsideRanges(i int) []netip.Addr {
	return addrs(fmt.Sprintf("172.20.0.%d", i+2), fmt.Sprintf("fd00:172::%x", i+2))
}

// Pod is the i-th pod: live, on one of the nodes, with its addresses. The node is drawn
// anew each time, so that a pod moves.
func Pod(r *rand.Rand, i int) *corev1.Pod {
	node := pick(r, []string{Node, Node, Node, Node, OtherNode, thirdNode, tenthNode})
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprintf("pod-%d", i), UID: uids(i)[0],
			Labels: Labels(r), CreationTimestamp: metav1.NewTime(time.Unix(int64(1700000000+i), 0)),
		},
		Spec:   corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	show(r, p, PodAddrs(i, node))
	p.Spec.Containers = []corev1.Container{{Name: "main", Ports: ports(r)}}
	if maybe(r, 3) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "init", Ports: ports(r)})
	}
	if maybe(r, 3) {
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "sidecar", Ports: ports(r), RestartPolicy: &always})
	}
	if maybe(r, 4) {
		// Its ports, which no API server takes, are none.
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Ports: ports(r)}}}
	}
	return p
}

// uids are those that pods of the i-th pod's name have: the first one's, a later one's, and
// that of a static one, of which the API server has a mirror.
func uids(i int) []types.UID {
	return []types.UID{types.UID(fmt.Sprintf("uid-%d", i)), types.UID(fmt.Sprintf("uid-%d-again", i)), types.UID(fmt.Sprintf("static-%d", i))}
}

// show has a pod's status show addresses: mostly as API servers do today.
func show(r *rand.Rand, p *corev1.Pod, addrs []netip.Addr) {
	texts := make([]string, len(addrs))
	for i, addr := range addrs {
		texts[i] = addr.String()
	}
	switch r.Intn(12) {
	case 0: // IPv6 first
		slices.Reverse(texts)
	case 1, 2: // of one family
		i := r.Intn(len(texts))
		texts = texts[i : i+1]
	case 3:
		for i, addr := range addrs {
			texts[i] = pick(r, append(spellings(addr), addr.String()))
		}
	case 4: // as from before there were podIPs
		p.Status.PodIP, p.Status.PodIPs = pick(r, texts), nil
		return
	}
	p.Status.PodIP, p.Status.PodIPs = texts[0], nil
	for _, text := range texts {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: text})
	}
}

func ports(r *rand.Rand) (ports []corev1.ContainerPort) {
	for range r.Intn(3) {
		port := corev1.ContainerPort{Name: pick(r, portNames), Protocol: pick(r, protocols), ContainerPort: pick(r, numbers)}
		switch r.Intn(8) {
		case 0:
			port.Name = ""
		case 1:
			port.Protocol = "" // TCP
		case 2:
			port.HostPort = pick(r, numbers)
		}
		ports = append(ports, port)
	}
	return ports
}

// OddPod is the i-th pod in some of the states that a pod can be in besides running
// alone at its address.
func OddPod(r *rand.Rand, i, pods int) *corev1.Pod {
	p := Pod(r, i)
	for range 1 + r.Intn(2) {
		makeOdd(r, p, i, pods)
	}
	return p
}

// makeOdd changes a pod: what it is, or only what the API shows of it.
func makeOdd(r *rand.Rand, p *corev1.Pod, i, pods int) {
	switch r.Intn(17) {
	case 0:
		p.Spec.HostNetwork = true
		if !maybe(r, 3) {
			show(r, p, ownAddrs(p.Spec.NodeName))
		}
	case 1, 14:
		p.Status.Phase = pick(r, []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed})
	case 2:
		p.Status.Phase = pick(r, []corev1.PodPhase{corev1.PodPending, corev1.PodUnknown, ""})
	case 3, 15, 16:
		p.Status.PodIPs, p.Status.PodIP = nil, ""
	case 4:
		show(r, p, PodAddrs(i, p.Spec.NodeName)[:1])
	case 5:
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1800000000, 0)}
	case 6: // but its addresses are the old ones still
		p.Spec.NodeName = pick(r, append([]string{""}, nodeNames...))
	case 7, 8: // another pod's, of this node's or another's ranges
		show(r, p, PodAddrs(r.Intn(pods), pick(r, []string{p.Spec.NodeName, Node})))
		if maybe(r, 2) {
			started := metav1.NewTime(time.Unix(1700000000+r.Int63n(100), 0))
			p.Status.StartTime = &started
		}
	case 9:
		show(r, p, OutsideRanges(i%Outsiders))
	case 10:
		p.UID = uids(i)[1]
	case 11, 13:
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: string(uids(i)[2])}
	case 12: // a node's, though it is not on the host's network; Node's kubelet does not do that to Node
		node := pick(r, nodeNames)
		for p.Spec.NodeName == Node && node == Node {
			node = pick(r, nodeNames)
		}
		show(r, p, ownAddrs(node))
	}
}

// ShowsNode says whether a pod shows a node's address, though it is not on the host's network.
func ShowsNode(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && some(PodAddrsOf(p), func(ip netip.Addr) bool {
		return some(nodeNames, func(node string) bool { return slices.Contains(ownAddrs(node), ip) })
	})
}

// Attachment is one of the i-th pod's: of this pod or of an earlier one of its name, of its
// first sandbox or of one that was remade, of its first interface or another, with the
// addresses that the API will show or with others.
func Attachment(r *rand.Rand, i, pods int) *policy.Attachment {
	a := &policy.Attachment{
		ContainerID: fmt.Sprintf("container-%d-%d", i, r.Intn(2)), IfName: "eth0",
		Pod: policy.Key{Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprintf("pod-%d", i)},
		UID: pick(r, append(uids(i), uids(i)[0], uids(i)[0], uids(i)[2], "", "uid-of-an-earlier-pod")),
		IPs: PodAddrs(i, Node),
	}
	switch r.Intn(6) {
	case 0, 1:
		a.IPs = PodAddrs(r.Intn(pods), Node)
	case 2:
		a.IPs = OutsideRanges(i)
	case 3:
		a.IPs = append(PodAddrs(i, Node)[:1], OutsideRanges(i)[1])
	}
	if maybe(r, 4) {
		a.IPs = a.IPs[r.Intn(2):][:1]
	}
	if maybe(r, 4) {
		a.IfName = "net1"
	}
	return a
}
