package random

import (
	"cmp"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// The nodes of every cluster: Node is the one whose agent is tested.
const (
	Node      = "node-1"
	OtherNode = "node-2"
	thirdNode = "node-3"
	tenthNode = "node-10" // whose name and addresses begin like Node's
)

var (
	nodeNames  = []string{Node, OtherNode, thirdNode, tenthNode}
	namespaces = []string{"shop", "db", "ops"}
	labelKeys  = []string{"app", "tier", "team"}
	labelVals  = []string{"", "a", "b", "c"}

	// Outside are addresses that are no pod's and no node's.
	Outside = addrs("203.0.113.7", "203.0.113.200", "2001:db8::2", "2001:db8::9")
	// NodeAddrs are Node's own.
	NodeAddrs = addrs("192.0.2.1", "2001:db8:1::1")
	// OwnAddrs are all that it has: with one of its own that the API server calls external.
	OwnAddrs = append(addrs("192.0.2.1", "2001:db8:1::1"), External(Node))
	// OtherNodeAddrs are OtherNode's.
	OtherNodeAddrs = addrs("192.0.2.2", "2001:db8:1::2")
	// Strangers are addresses of Node's pod ranges that no pod ever has.
	Strangers = addrs("10.244.1.99", "fd00:244:0:1::99")
)

// PodRanges are the ranges that Node's pods really get their addresses from.
var PodRanges = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:0:1::/64")}

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.Intn(len(from))] }

func maybe(r *rand.Rand, oneIn int) bool { return r.Intn(oneIn) == 0 }

// number is the one in a node's name.
func number(node string) int {
	n := 1
	if slices.Contains(nodeNames, node) {
		_, _ = fmt.Sscanf(node, "node-%d", &n)
	}
	return n
}

// Labels are a few labels.
func Labels(r *rand.Rand) map[string]string {
	l := map[string]string{}
	for range r.Intn(3) {
		l[pick(r, labelKeys)] = pick(r, labelVals)
	}
	return l
}

// ownAddrs are a node's addresses.
func ownAddrs(node string) []netip.Addr {
	n := number(node)
	return addrs(fmt.Sprintf("192.0.2.%d", n), fmt.Sprintf("2001:db8:1::%d", n))
}

// External is the address of another node's that the API server calls external.
func External(node string) netip.Addr {
	return addrs(fmt.Sprintf("198.51.100.%d", number(node)))[0]
}

// Remote are the other nodes, each with all its addresses.
func Remote() map[string][]netip.Addr {
	remote := map[string][]netip.Addr{}
	for _, name := range nodeNames[1:] {
		remote[name] = append(ownAddrs(name), External(name))
	}
	return remote
}

// plainNode is a node with its addresses and pod ranges.
func plainNode(name string) *corev1.Node {
	third := number(name)
	cidrs := []string{fmt.Sprintf("10.244.%d.0/24", third), fmt.Sprintf("fd00:244:0:%d::/64", third)}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidrs[0], PodCIDRs: cidrs}}
	for _, addr := range ownAddrs(name) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	return n
}

// Nodes are both nodes, with their addresses and pod ranges.
func Nodes() []*corev1.Node { return []*corev1.Node{plainNode(Node), plainNode(OtherNode)} }

// labelledNode is plainNode with some labels.
func labelledNode(r *rand.Rand, name string) *corev1.Node {
	n := plainNode(name)
	setLabels(r, n)
	return n
}

func setLabels(r *rand.Rand, n *corev1.Node) { n.Labels = Labels(r) }

// AnyNode is one of the nodes, often not as Nodes has it.
func AnyNode(r *rand.Rand) *corev1.Node {
	n := labelledNode(r, pick(r, nodeNames))
	if maybe(r, 2) {
		setRanges(r, n)
	}
	if maybe(r, 2) {
		setAddresses(r, n)
	}
	return n
}

// spelledRanges are ranges in spellings that API servers have once taken, each with what
// it means.
var spelledRanges = map[string]string{
	"010.244.001.000/24": "10.244.1.0/24", "10.244.1.9/24": "10.244.1.0/24", "::ffff:10.244.1.0/120": "10.244.1.0/24", "::ffff:010.244.1.7/125": "10.244.1.0/29",
	"fd00:0244:0:0001::/64": "fd00:244:0:1::/64", "FD00:244:0:2::7/64": "fd00:244:0:2::/64",
}

// setRanges gives a node other pod ranges: none, of one family, others, some that overlap
// other nodes', or oddly spelled ones.
func setRanges(r *rand.Rand, n *corev1.Node) {
	var cidrs []string
	plain := plainNode(n.Name).Spec
	switch r.Intn(6) {
	case 0:
	case 1:
		i := r.Intn(2)
		cidrs = plain.PodCIDRs[i : i+1]
	case 2:
		cidrs = []string{"10.244.4.0/24", "fd00:244:0:4::/64"}
	case 3:
		cidrs = []string{pick(r, []string{"10.244.0.0/16", "10.244.1.0/29"}), pick(r, []string{"fd00:244::/48", "fd00:244:0:1::/125"})}
	case 4:
		cidrs = []string{pick(r, []string{"010.244.001.000/24", "10.244.1.9/24", "::ffff:10.244.1.0/120", "::ffff:010.244.1.7/125"}), pick(r, []string{"fd00:0244:0:0001::/64", "FD00:244:0:2::7/64"})}
	case 5: // as from before there were podCIDRs
		n.Spec.PodCIDRs, n.Spec.PodCIDR = nil, plain.PodCIDR
		return
	}
	n.Spec.PodCIDRs, n.Spec.PodCIDR = cidrs, ""
	if len(cidrs) > 0 {
		n.Spec.PodCIDR = cidrs[0]
	}
}

// setAddresses has a node list other addresses: not all of its own, with what is external, what is
// no address, and what is no single host's.
func setAddresses(r *rand.Rand, n *corev1.Node) {
	n.Status.Addresses = nil
	for _, address := range plainNode(n.Name).Status.Addresses {
		if !maybe(r, 3) {
			n.Status.Addresses = append(n.Status.Addresses, address)
		}
	}
	external := pick(r, []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeExternalIP, corev1.NodeHostName})
	for _, address := range []corev1.NodeAddress{{Type: external, Address: External(n.Name).String()}, {Type: corev1.NodeHostName, Address: n.Name}} {
		if maybe(r, 2) {
			n.Status.Addresses = append(n.Status.Addresses, address)
		}
	}
	if maybe(r, 6) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: Metadata[0].String()})
	}
	if n.Name != Node && maybe(r, 3) {
		for range 1 + r.Intn(3) { // of pods
			address := pick(r, PodAddrs(r.Intn(8), pick(r, nodeNames)))
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: external, Address: address.String()})
		}
	}
	r.Shuffle(len(n.Status.Addresses), func(i, j int) {
		n.Status.Addresses[i], n.Status.Addresses[j] = n.Status.Addresses[j], n.Status.Addresses[i]
	})
}

// RangesOf are the pod ranges that a node has.
func RangesOf(n *corev1.Node) (ranges []netip.Prefix) {
	texts := n.Spec.PodCIDRs
	if len(texts) == 0 && n.Spec.PodCIDR != "" {
		texts = []string{n.Spec.PodCIDR}
	}
	for _, text := range texts {
		cidr, err := policy.ParsePrefix(cmp.Or(spelledRanges[text], text))
		if err == nil && !slices.Contains(ranges, cidr) {
			ranges = append(ranges, cidr)
		}
	}
	return ranges
}

// Namespace is one of a few namespaces, labelled at random.
func Namespace(r *rand.Rand, i int) *corev1.Namespace {
	name := namespaces[i%len(namespaces)]
	l := Labels(r)
	if !maybe(r, 8) { // as API servers label it
		l[corev1.LabelMetadataName] = name
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l, Annotations: enforcement(r)}}
}

// Cluster is a whole cluster: nodes, namespaces, so many pods and NetworkPolicies, often some
// ClusterNetworkPolicies, and what agents announce.
func Cluster(r *rand.Rand, pods, policies int) (s policy.Snapshot) {
	s.Node = Node
	for _, name := range nodeNames {
		n := labelledNode(r, name)
		if name != Node && maybe(r, 4) {
			setAddresses(r, n)
		}
		s.Nodes = append(s.Nodes, n)
	}
	for i := range namespaces {
		s.Namespaces = append(s.Namespaces, Namespace(r, i))
	}
	for i := range pods {
		s.Pods = append(s.Pods, Pod(r, i))
	}
	for i := range policies {
		s.Policies = append(s.Policies, Policy(r, i))
	}
	s.ClusterPolicies = someClusterPolicies(r)
	s.PodAddresses = announced(r, s.Pods)
	return s
}

// PodAddrsOf are the addresses that the API shows of a pod.
func PodAddrsOf(pod *corev1.Pod) (shown []netip.Addr) {
	texts := []string{pod.Status.PodIP}
	if len(pod.Status.PodIPs) > 0 {
		texts = nil
		for _, ip := range pod.Status.PodIPs {
			texts = append(texts, ip.IP)
		}
	}
	for _, text := range texts {
		addr, spelled := spelledAddrs[text]
		if !spelled {
			var err error
			if addr, err = netip.ParseAddr(text); err != nil {
				continue
			}
		}
		shown = append(shown, addr)
	}
	return shown
}

// spelledAddrs are addresses of pods and nodes in spellings that API servers have once taken.
var spelledAddrs = func() map[string]netip.Addr {
	spelled := map[string]netip.Addr{}
	add := func(addrs []netip.Addr) {
		for _, addr := range addrs {
			for _, text := range spellings(addr) {
				spelled[text] = addr
			}
		}
	}
	for i := range 100 {
		add(OutsideRanges(i))
		for _, node := range nodeNames {
			add(append(PodAddrs(i, node), ownAddrs(node)...))
		}
	}
	return spelled
}()

// spellings are such of an address.
func spellings(addr netip.Addr) []string {
	o := addr.As16()
	dotted := fmt.Sprintf("%d.%d.%d.%d", o[12], o[13], o[14], o[15])
	if addr.Is4() {
		return []string{fmt.Sprintf("%03d.%d.%03d.%02d", o[12], o[13], o[14], o[15]), "::ffff:" + dotted, fmt.Sprintf("0:0:0:0:0:FFFF:%02x%02x:%x%02x", o[12], o[13], o[14], o[15])}
	}
	whole := addr.StringExpanded()
	return []string{whole, strings.ToUpper(whole), whole[:len("0000:")*6] + dotted}
}

// Addresses are the addresses that a cluster is about, each once and in order: those that its
// pods and attachments have, and those announced, the nodes' and the outside's, and some that nobody has.
func Addresses(s policy.Snapshot) (pods, others []netip.Addr) {
	for _, pod := range s.Pods {
		pods = append(pods, PodAddrsOf(pod)...)
	}
	for _, a := range s.Attachments {
		pods = append(pods, a.IPs...)
	}
	for _, o := range s.PodAddresses {
		pods = append(pods, announcedAddrs(o)...)
	}
	others = slices.Concat(Outside, OwnAddrs, Strangers)
	for _, addrs := range Remote() {
		others = append(others, addrs...)
	}
	for _, all := range []*[]netip.Addr{&pods, &others} {
		slices.SortFunc(*all, netip.Addr.Compare)
		*all = slices.Compact(*all)
	}
	return pods, others
}
