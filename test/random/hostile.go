package random

import (
	"fmt"
	"math/rand"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// Hostile is a history of objects that are valid by their Go types and by
// nothing else: what an API server that validated nothing would hand out. The
// tape's bytes make the choices, one each, so that a fuzzer which changes a byte
// changes one thing; when it ends, so does the history. Encoded is taken for one
// more object, in protobuf, where it is one.
//
// Of what validation sees to, one thing holds all the same: what belongs into a
// namespace is in one.
func Hostile(tape, encoded []byte) []Event {
	t := &choices{left: tape}
	var events []Event
	if o := t.decoded(encoded); o != nil {
		events = append(events, Event{Object: o})
	}
	for len(t.left) > 0 && len(events) < 100 {
		event := Event{Delete: t.oneIn(6)}
		switch t.n(10) {
		case 0:
			event.Object = t.namespace()
		case 1:
			event.Object = t.node()
		case 2, 3, 4:
			event.Object = t.policy()
		case 8, 9:
			event.Object = t.clusterPolicy()
		default:
			event.Object = t.pod()
		}
		events = append(events, event)
	}
	return events
}

// Tape is one for Hostile, of a seed.
func Tape(seed int64) []byte {
	r := rand.New(rand.NewSource(seed))
	tape := make([]byte, 50+r.Intn(1200))
	r.Read(tape)
	return tape
}

// choices reads decisions off a tape; at its end, each is the first.
type choices struct{ left []byte }

// n is a number from 0 to below n, which is at most 256.
func (t *choices) n(n int) int {
	if len(t.left) == 0 {
		return 0
	}
	b := t.left[0]
	t.left = t.left[1:]
	return int(b) % n
}

func (t *choices) oneIn(n int) bool { return t.n(n) == n-1 }

// of picks one; sometimes it is a few bytes of the tape itself.
func (t *choices) of(from []string) string {
	i := t.n(len(from) + 1)
	if i < len(from) {
		return from[i]
	}
	length := min(t.n(40), len(t.left))
	text := string(t.left[:length])
	t.left = t.left[length:]
	return text
}

var (
	oddNames = []string{
		"a", "b", "shop", "db", "a/b", "b/a", "b/a", `a"b`, "a'b", "a\nb", "a\x00b", "a\x00c", "ä", "\xff\xfe", "a b", `a\b`, "}", "{ drop }", "-", ".", "..", "",
		"lo", "0", "@a", "# a", "a;b", "\u2028", "\x1b[31m", strings.Repeat("x", 300), strings.Repeat("x", 299) + "y", strings.Repeat("ä", 150),
	}
	oddNamespaces = []string{"shop", "db", "a", "a/b", `a"b`, "a\nb", "ä", strings.Repeat("n", 63), strings.Repeat("n", 300)}
	oddKeys       = []string{"app", "tier", "in", "notin", "x.io/app", "a=b", "a b", "", corev1.LabelMetadataName, "/", strings.Repeat("k", 300), "ä", "!a", "a,b"}
	oddValues     = []string{"", "a", "b", "in", "a=b", "a b", "(a)", "a,b", `"`, "\n", "ä", strings.Repeat("v", 300), "shop", "true"}
	oddAddrs      = []string{
		"10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.2.2", "010.244.001.002", "::ffff:10.244.1.2", "fd00:244:0:1::2", "fd00:244:0:1::3", "FD00:244:0:2:0::2",
		"0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "127.0.0.1", "::1", "fe80::1", "fe80::1%eth0", "203.0.113.7", "192.0.2.1", "192.0.2.2", "2001:db8::2",
		"10.244.1.2/32", "1.2.3", "1.2.3.4.5", "x", "", " 10.244.1.2", "10.244.1.2\n", "::ffff:0:10.244.1.2", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	}
	oddBlocks = []string{
		"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.244.1.0/24", "10.244.1.2/31", "10.244.1.3/32", "10.244.1.9/24", "010.244.001.000/24", "::ffff:10.244.1.0/120", "::ffff:0:0/96", "::ffff:0:0/95",
		"fd00:244::/32", "fd00:244:0:1::/64", "fd00:244:0:1::2/128", "128.0.0.0/1", "8000::/1", "255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "0.0.0.0/32", "::/128",
		"203.0.113.0/24", "2001:db8::/32", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0", "/", "/8", "", "::/129", "x/8", "fe80::%eth0/64", "10.0.0.0/8\n",
	}
	oddPorts     = []int32{-1, 0, 1, 2, 53, 80, 81, 443, 8080, 65534, 65535, 65536, 65536 + 80, -65456, 1<<31 - 1, -1 << 31}
	oddProtocols = []string{"TCP", "UDP", "SCTP", "", "tcp", "ICMP", "6", "TCP ", "\x00"}
	oddTypes     = []string{"Ingress", "Egress", "", "ingress", "Both"}
	oddOperators = []string{"In", "NotIn", "Exists", "DoesNotExist", "", "in", "Gt", "="}
	oddPortNames = []string{"http", "dns", "", "80", `a"b`, "a\nb", "ä", strings.Repeat("p", 300), "HTTP", "a\x00"}
	oddPhases    = []string{"Running", "Pending", "Succeeded", "Failed", "Unknown", "", "running"}
)

// meta is a namespaced object's.
func (t *choices) meta() metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: t.of(oddNames)}
	if t.oneIn(4) {
		m.Namespace = t.of(oddNamespaces)
	} else { // where policies and pods meet
		m.Namespace = []string{"shop", "a/b", "a"}[t.n(3)]
	}
	if m.Namespace == "" {
		m.Namespace = metav1.NamespaceDefault
	}
	return m
}

func (t *choices) labels() map[string]string {
	if t.oneIn(4) {
		return nil
	}
	labels := map[string]string{}
	for range t.n(4) {
		labels[t.of(oddKeys)] = t.of(oddValues)
	}
	return labels
}

func (t *choices) namespace() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: t.of(oddNamespaces), Labels: t.labels()}}
}

func (t *choices) node() *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: t.of([]string{Node, OtherNode, "node-3", "a\nb"}), Labels: t.labels()}}
	if t.oneIn(4) {
		n.Spec.PodCIDR = t.of(oddBlocks)
	}
	for range t.n(4) {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, t.of(oddBlocks))
	}
	for range t.n(3) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{
			Type:    corev1.NodeAddressType(t.of([]string{"InternalIP", "InternalIP", "ExternalIP", "Hostname", ""})),
			Address: t.of(oddAddrs),
		})
	}
	return n
}

func (t *choices) pod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: t.meta()}
	p.Labels = t.labels()
	p.UID = types.UID(t.of([]string{"", "u", "v"}))
	p.Spec.NodeName = t.of([]string{Node, Node, Node, OtherNode, "", "node-9"})
	p.Spec.HostNetwork = t.oneIn(8)
	p.Status.Phase = corev1.PodPhase(t.of(oddPhases))
	if t.oneIn(8) {
		at := metav1.NewTime(time.Unix(int64(t.n(4)), 0))
		p.DeletionTimestamp = &at
	}
	if t.oneIn(4) {
		at := metav1.NewTime(time.Unix(int64(t.n(4))<<40, 0))
		p.Status.StartTime = &at
	}
	if t.oneIn(4) {
		p.Status.PodIP = t.of(oddAddrs)
	}
	for range t.n(5) {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: t.of(oddAddrs)})
	}
	p.Spec.Containers = t.containers()
	if t.oneIn(3) {
		p.Spec.InitContainers = t.containers()
	}
	return p
}

func (t *choices) containers() (containers []corev1.Container) {
	for range t.n(3) {
		var c corev1.Container
		for range t.n(3) {
			c.Ports = append(c.Ports, corev1.ContainerPort{
				Name: t.of(oddPortNames), Protocol: corev1.Protocol(t.of(oddProtocols)), ContainerPort: oddPorts[t.n(len(oddPorts))],
			})
		}
		containers = append(containers, c)
	}
	return containers
}

func (t *choices) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if t.oneIn(3) {
		s.MatchLabels = t.labels()
	}
	for range t.n(3) {
		e := metav1.LabelSelectorRequirement{Key: t.of(oddKeys), Operator: metav1.LabelSelectorOperator(t.of(oddOperators))}
		for range t.n(4) {
			e.Values = append(e.Values, t.of(oddValues))
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

func (t *choices) policy() *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: t.meta()}
	if !t.oneIn(2) {
		np.Spec.PodSelector = *t.selector()
	}
	for range t.n(4) {
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, networkingv1.PolicyType(t.of(oddTypes)))
	}
	for range t.n(3) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: t.peers(), Ports: t.ports()})
	}
	for range t.n(3) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: t.peers(), Ports: t.ports()})
	}
	return np
}

func (t *choices) peers() (peers []networkingv1.NetworkPolicyPeer) {
	for range t.n(4) {
		var peer networkingv1.NetworkPolicyPeer
		kind := t.n(10)
		if kind < 2 || kind == 8 {
			peer.PodSelector = t.selector()
		}
		if kind == 2 || kind == 1 {
			peer.NamespaceSelector = t.selector()
		}
		if kind >= 3 && kind <= 8 {
			peer.IPBlock = &networkingv1.IPBlock{CIDR: t.of(oddBlocks)}
			for range t.n(4) {
				peer.IPBlock.Except = append(peer.IPBlock.Except, t.of(oddBlocks))
			}
		}
		peers = append(peers, peer)
	}
	return peers
}

func (t *choices) ports() (ports []networkingv1.NetworkPolicyPort) {
	for range t.n(4) {
		var port networkingv1.NetworkPolicyPort
		if t.oneIn(2) {
			protocol := corev1.Protocol(t.of(oddProtocols))
			port.Protocol = &protocol
		}
		if !t.oneIn(4) {
			port.Port = &intstr.IntOrString{
				Type: intstr.Type([]int64{0, 0, 0, 1, 1, 2, -1}[t.n(7)]), IntVal: oddPorts[t.n(len(oddPorts))], StrVal: t.of(oddPortNames),
			}
		}
		if t.oneIn(3) {
			last := oddPorts[t.n(len(oddPorts))]
			port.EndPort = &last
		}
		ports = append(ports, port)
	}
	return ports
}

var (
	oddTiers      = []string{"Admin", "Baseline", "", "admin"}
	oddActions    = []string{"Accept", "Deny", "Pass", "", "accept", "Pass "}
	oddPriorities = []int32{0, 0, 1, 1000, 1001, -1, 1<<31 - 1, -1 << 31}
	oddDomains    = []string{"example.com", "*.example.com", "", "*", "a b"}
)

func (t *choices) clusterPolicy() *clusterv1beta1.ClusterNetworkPolicy {
	cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: t.of(oddNames)}}
	cnp.Spec.Tier = clusterv1beta1.Tier(t.of(oddTiers))
	cnp.Spec.Priority = oddPriorities[t.n(len(oddPriorities))]
	subject := t.n(8)
	if subject < 4 || subject == 7 {
		cnp.Spec.Subject.Namespaces = t.mostlyAll()
	}
	if subject >= 4 && subject < 6 || subject == 7 {
		cnp.Spec.Subject.Pods = &clusterv1beta1.NamespacedPod{NamespaceSelector: *t.mostlyAll(), PodSelector: *t.mostlyAll()}
	}
	for range t.n(3) {
		rule := clusterv1beta1.ClusterNetworkPolicyIngressRule{Name: t.of(oddNames), Action: clusterAction(t.of(oddActions))}
		for range t.n(4) {
			peer := t.clusterPeer()
			rule.From = append(rule.From, clusterv1beta1.ClusterNetworkPolicyIngressPeer{Namespaces: peer.Namespaces, Pods: peer.Pods})
		}
		rule.Protocols = t.clusterProtocols()
		cnp.Spec.Ingress = append(cnp.Spec.Ingress, rule)
	}
	for range t.n(3) {
		rule := clusterv1beta1.ClusterNetworkPolicyEgressRule{Name: t.of(oddNames), Action: clusterAction(t.of(oddActions))}
		for range t.n(4) {
			rule.To = append(rule.To, t.clusterPeer())
		}
		rule.Protocols = t.clusterProtocols()
		cnp.Spec.Egress = append(cnp.Spec.Egress, rule)
	}
	return cnp
}

// mostlyAll is a selector: mostly one that selects all.
func (t *choices) mostlyAll() *metav1.LabelSelector {
	if t.oneIn(3) {
		return t.selector()
	}
	return &metav1.LabelSelector{}
}

func (t *choices) clusterPeer() (peer clusterPeer) {
	kind := t.n(10)
	if kind < 2 || kind == 8 {
		peer.Namespaces = t.selector()
	}
	if kind == 2 || kind == 1 {
		peer.Pods = &clusterv1beta1.NamespacedPod{NamespaceSelector: *t.mostlyAll(), PodSelector: *t.selector()}
	}
	if kind == 3 {
		peer.Nodes = t.mostlyAll()
	}
	if kind >= 4 && kind <= 8 {
		for range 1 + t.n(3) {
			peer.Networks = append(peer.Networks, clusterv1beta1.CIDR(t.of(oddBlocks)))
		}
	}
	if kind == 9 && t.oneIn(2) {
		peer.DomainNames = []clusterv1beta1.DomainName{clusterv1beta1.DomainName(t.of(oddDomains))}
	}
	return peer
}

func (t *choices) clusterProtocols() (protocols []clusterProtocol) {
	for range t.n(4) {
		var entry clusterProtocol
		var port *clusterv1beta1.Port
		if !t.oneIn(4) {
			port = &clusterv1beta1.Port{Number: oddPorts[t.n(len(oddPorts))]}
			if t.oneIn(2) {
				port.Number, port.Range = 0, &clusterv1beta1.PortRange{Start: oddPorts[t.n(len(oddPorts))], End: oddPorts[t.n(len(oddPorts))]}
			}
		}
		kind := t.n(8)
		if kind < 2 || kind == 6 {
			entry.TCP = &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
		}
		if kind == 2 || kind == 6 {
			entry.UDP = &clusterv1beta1.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
		}
		if kind == 3 {
			entry.SCTP = &clusterv1beta1.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
		}
		if kind == 4 || kind == 5 {
			entry.DestinationNamedPort = t.of(oddPortNames)
		}
		protocols = append(protocols, entry)
	}
	return protocols
}

// decoded is the object that bytes encode; nil if they encode none.
func (t *choices) decoded(encoded []byte) client.Object {
	if len(encoded) == 0 {
		return nil
	}
	object := []interface {
		client.Object
		Unmarshal([]byte) error
	}{&networkingv1.NetworkPolicy{}, &corev1.Pod{}, &corev1.Namespace{}, &corev1.Node{}}[int(encoded[0])%4]
	if object.Unmarshal(encoded[1:]) != nil {
		return nil
	}
	switch object.(type) {
	case *networkingv1.NetworkPolicy, *corev1.Pod:
		if object.GetNamespace() == "" {
			object.SetNamespace(metav1.NamespaceDefault)
		}
	}
	return object
}

// Encoded is an object as Hostile takes it.
func Encoded(o client.Object) ([]byte, error) {
	var kind byte
	switch o.(type) {
	case *corev1.Pod:
		kind = 1
	case *corev1.Namespace:
		kind = 2
	case *corev1.Node:
		kind = 3
	case *networkingv1.NetworkPolicy:
	default:
		return nil, fmt.Errorf("%T is no object that policy looks at", o)
	}
	text, err := o.(interface{ Marshal() ([]byte, error) }).Marshal()
	return append([]byte{kind}, text...), err
}
