package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// Where clusters have their DNS, and by which label its pods are known.
const (
	dnsNamespace, dnsLabel = metav1.NamespaceSystem, "k8s-app"
	dnsPods, dnsOnNodes    = "kube-dns", "node-local-dns"
	dnsPort                = 53
)

var (
	// nodeLocalDNS is where NodeLocal DNSCache answers on each node.
	nodeLocalDNS = netip.MustParseAddr("169.254.20.10")
	// standIns are addresses of documentation (RFC 5737, RFC 3849) for the pod that asks: on its own side
	// its address does not matter.
	standIns = []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}
)

// resolvers are what answers names in a cluster.
type resolvers struct {
	cluster *explain.Cluster
	options policy.JudgeOptions
	// pods are the DNS pods with their Namespace and Nodes, each a cluster for itself.
	pods []policy.Snapshot
	// addrs are other addresses where DNS is asked: by NodeLocal DNSCache.
	addrs []netip.Addr
	// onNodes: NodeLocal DNSCache is there.
	onNodes bool
	// namespaces are the Namespaces, by name.
	namespaces map[string]*corev1.Namespace
}

func resolversOf(c *explain.Cluster) *resolvers {
	d := &resolvers{cluster: c, addrs: []netip.Addr{nodeLocalDNS}, namespaces: map[string]*corev1.Namespace{}}
	for _, ns := range c.Namespaces {
		d.namespaces[ns.Name] = ns
	}
	for _, pod := range c.Pods {
		if pod.Namespace != dnsNamespace || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		switch pod.Labels[dnsLabel] {
		case dnsOnNodes:
			d.onNodes = true
		case dnsPods:
			s := policy.Snapshot{Pods: []*corev1.Pod{pod}}
			for _, node := range c.Nodes {
				if node.Name == pod.Spec.NodeName {
					s.Nodes = append(s.Nodes, node)
				}
			}
			if len(podAddrs(pod)) > 0 {
				d.pods = append(d.pods, s)
			}
		}
	}
	for _, s := range c.Services {
		if d.onNodes && s.Namespace == dnsNamespace && s.Spec.Selector[dnsLabel] == dnsPods {
			d.addrs = append(d.addrs, clusterIPs(s)...)
		}
	}
	return d
}

// podAddrs are the addresses that a pod shows.
func podAddrs(pod *corev1.Pod) (addrs []netip.Addr) {
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// dns finds policies that isolate pods for egress and let them reach others, but not the cluster's DNS,
// so that they find none of the others by name. A policy that allows nothing is meant so. So are blocks of
// few addresses, for which no name is needed, and pods that ask other name servers. Files may leave out
// the DNS: then something in them must show that pods find each other by names at all.
func (l *linter) dns(d *resolvers, objects map[policy.Key]*corev1.Pod, all []*written) {
	if !l.running && len(d.pods) == 0 && !usesNames(d.cluster, all) {
		return
	}
	isolating := isolatingForEgress(all)
	also, judged := l.clusterPoliciesOf(d.cluster.ClusterPolicies), map[string]bool{}
	for _, of := range l.seen.classes {
		by := isolating.of(of)
		pod, blamed := asksDNS(of, objects), needsNames(by)
		if pod == nil || blamed == nil {
			continue
		}
		// All pods that the same policies are about, of one namespace, are alike on their own side.
		if key := keyOf(by, also[of]); !judged[key] {
			judged[key] = true
			l.noDNS(d, pod, by, blamed)
		}
	}
}

// isolating are the NetworkPolicies that isolate pods for egress, by their namespaces.
type isolating map[string][]*written

func isolatingForEgress(all []*written) isolating {
	by := isolating{}
	for _, w := range all {
		if w.np != nil && covers(w.np, networkingv1.PolicyTypeEgress) {
			by[w.np.Namespace] = append(by[w.np.Namespace], w)
		}
	}
	return by
}

// of are those that isolate the pods of a class.
func (i isolating) of(c *class) (by []*written) {
	for _, w := range i[c.namespace] {
		if w.subject.selected.selects(c.labels) {
			by = append(by, w)
		}
	}
	return by
}

// usesNames reports whether files show that pods find each other by names: they have a Service, whose
// address nobody knows before it is there, or a policy that names the port of DNS.
func usesNames(c *explain.Cluster, all []*written) bool {
	return len(c.Services) > 0 || slices.ContainsFunc(all, func(w *written) bool {
		return slices.ContainsFunc(w.rules, func(r rule) bool {
			return r.accepts && r.direction == policy.Egress && slices.ContainsFunc(r.ports, func(p port) bool { return p.name == "" && p.first == dnsPort && p.last == dnsPort })
		})
	})
}

// clusterPoliciesOf are, for each class of pods, the ClusterNetworkPolicies that are about it, by their
// places in a list.
func (l *linter) clusterPoliciesOf(all []*clusterv1beta1.ClusterNetworkPolicy) map[*class][]int {
	about := map[*class][]int{}
	for i, cnp := range all {
		if subject, ok := clusterPods("spec.subject", cnp.Spec.Subject.Namespaces, cnp.Spec.Subject.Pods); ok {
			for of := range l.find(l.seen, subject) {
				about[of] = append(about[of], i)
			}
		}
	}
	return about
}

// keyOf is the same for pods that the same policies are about.
func keyOf(by []*written, clusterPolicies []int) string {
	var names strings.Builder
	for _, w := range by {
		names.WriteString(w.object.Namespace + "/" + w.object.Name + " ")
	}
	return fmt.Sprint(names.String(), clusterPolicies)
}

func (l *linter) noDNS(d *resolvers, pod *corev1.Pod, by []*written, blamed *written) {
	const what = "pods that this policy isolates may reach others, but not the cluster's DNS, so that they find nobody by name (%s/%s is one); " +
		"allow egress to pods with k8s-app=kube-dns of namespace kube-system, port 53 of UDP and TCP"
	switch {
	case len(d.pods) > 0:
		if !d.reached(pod, by) {
			l.add(blamed, NoDNS, Warning, "spec.egress", what, pod.Namespace, pod.Name)
		}
	case !slices.ContainsFunc(by, mayReachDNS):
		l.add(blamed, NoDNS, Info, "spec.egress", what, pod.Namespace, pod.Name)
	}
}

// asksDNS is the first pod of a class that asks the cluster's DNS; nil: none does.
func asksDNS(of *class, objects map[policy.Key]*corev1.Pod) *corev1.Pod {
	for _, seen := range of.pods {
		pod := objects[seen.Key]
		if pod == nil || pod.Namespace == dnsNamespace && pod.Labels[dnsLabel] == dnsPods {
			continue
		}
		if pod.Spec.DNSPolicy == corev1.DNSClusterFirst || pod.Spec.DNSPolicy == corev1.DNSClusterFirstWithHostNet || pod.Spec.DNSPolicy == "" {
			return pod
		}
	}
	return nil
}

// needsNames is the first policy that allows something which pods find by its name; nil: none does.
func needsNames(by []*written) *written {
	for _, w := range by {
		for _, r := range w.rules {
			if r.direction != policy.Egress {
				continue
			}
			if len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(p peer) bool { return p.pods != nil || slices.ContainsFunc(p.blocks, isWide) }) {
				return w
			}
		}
	}
	return nil
}

// isWide reports whether a block has more addresses than anybody would write into a program.
func isWide(b block) bool {
	cidr, _, ok := readBlock(b)
	return ok && (cidr.Addr().Is4() && cidr.Bits() <= 16 || cidr.Addr().Is6() && cidr.Bits() <= 32)
}

// reached reports whether policies let a pod ask one of the cluster's resolvers, or whether it is denied
// by a rule that says so.
func (d *resolvers) reached(pod *corev1.Pod, by []*written) bool {
	return d.reach(pod, by, d.addrs, func(j policy.Judgement) bool { return j.Allowed || len(j.DeniedBy) > 0 })
}

// asked reports whether policies let a pod ask one of the cluster's resolvers that are there.
func (d *resolvers) asked(pod *corev1.Pod, by []*written) bool {
	var addrs []netip.Addr
	if d.onNodes {
		addrs = d.addrs
	}
	return d.reach(pod, by, addrs, func(j policy.Judgement) bool { return j.Allowed })
}

// reach reports whether what the policies of a pod's egress say of packets to some pod or address that answers names is so.
func (d *resolvers) reach(pod *corev1.Pod, by []*written, addrs []netip.Addr, is func(policy.Judgement) bool) bool {
	asks := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels}, Spec: pod.Spec, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	for _, addr := range standIns {
		asks.Status.PodIPs = append(asks.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	var nps []*networkingv1.NetworkPolicy
	for _, w := range by {
		nps = append(nps, w.np)
	}
	passes := func(s policy.Snapshot, to netip.Addr) bool {
		s.Pods = append([]*corev1.Pod{asks}, s.Pods...)
		s.Policies, s.ClusterPolicies = nps, d.cluster.ClusterPolicies
		for _, name := range []string{pod.Namespace, dnsNamespace} {
			if ns := d.namespaces[name]; ns != nil && (len(s.Namespaces) == 0 || s.Namespaces[0] != ns) {
				s.Namespaces = append(s.Namespaces, ns)
			}
		}
		from := standIns[0]
		if to.Is6() {
			from = standIns[1]
		}
		return is(policy.Judge(s, policy.Packet{Src: from, Dst: to, Protocol: policy.UDP, DstPort: dnsPort}, d.options).Egress)
	}
	for _, s := range d.pods {
		if slices.ContainsFunc(podAddrs(s.Pods[0]), func(to netip.Addr) bool { return passes(s, to) }) {
			return true
		}
	}
	return slices.ContainsFunc(addrs, func(to netip.Addr) bool { return passes(policy.Snapshot{}, to) })
}

// mayReachDNS reports whether a policy may allow DNS, where nobody knows which pods answer it.
func mayReachDNS(w *written) bool {
	for _, r := range w.rules {
		if r.direction != policy.Egress || !r.accepts {
			continue
		}
		named := slices.ContainsFunc(r.ports, func(p port) bool {
			return p.protocol == policy.UDP && (p.name != "" || p.first <= dnsPort && dnsPort <= p.last)
		})
		elsewhere := len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(p peer) bool {
			return p.pods != nil && (p.pods.namespace == "" || p.pods.namespace == dnsNamespace) || slices.ContainsFunc(p.blocks, isWide)
		})
		if named || len(r.ports) == 0 && elsewhere {
			return true
		}
	}
	return false
}
