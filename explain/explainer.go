package explain

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// Explainer answers questions about one Cluster. It may be used by several goroutines at once.
type Explainer struct {
	cluster *Cluster
	options policy.JudgeOptions

	pods       map[policy.Key]*corev1.Pod
	holders    map[netip.Addr][]*corev1.Pod
	namespaces map[string]*corev1.Namespace
	nodes      []policy.Node
	policies   map[string][]*networkingv1.NetworkPolicy
	announced  map[policy.Key][]announcement
	services   map[policy.Key]*corev1.Service
	serviceAt  map[netip.Addr]*corev1.Service // by the addresses that are translated
	slices     map[policy.Key][]*discoveryv1.EndpointSlice
	owners     map[Object]Object
	staged     map[policy.Key]bool
	// domains are the domain names of policies, all are what these were resolved to, and resolved the same by who was told of
	// which address.
	domains  []policy.DomainName
	all      []policy.Resolution
	resolved map[told][]policy.Resolution
	// podAddresses are the ranges that all addresses of pods are in, if that is known.
	podAddresses podAddresses
}

// announcement is what the agent of a node has announced of a pod.
type announcement struct {
	by *v1alpha1.PodAddresses
	of v1alpha1.PodAddress
}

// New prepares a Cluster for questions. The options are the agents' choices that change verdicts.
func New(c *Cluster, o policy.JudgeOptions) *Explainer {
	x := &Explainer{
		cluster: c, options: o,
		pods: map[policy.Key]*corev1.Pod{}, holders: map[netip.Addr][]*corev1.Pod{}, namespaces: map[string]*corev1.Namespace{},
		policies: map[string][]*networkingv1.NetworkPolicy{}, announced: map[policy.Key][]announcement{},
		services: map[policy.Key]*corev1.Service{}, serviceAt: map[netip.Addr]*corev1.Service{}, slices: map[policy.Key][]*discoveryv1.EndpointSlice{}, owners: ownersIn(c), staged: stagedIn(c),
		domains: domainsIn(c), resolved: map[told][]policy.Resolution{},
	}
	x.all = x.meant(c.Resolutions)
	for _, r := range x.all {
		x.resolved[told{r.Addr, r.Pod}] = append(x.resolved[told{r.Addr, r.Pod}], r)
	}
	for _, by := range c.PodAddresses {
		for _, of := range by.Pods {
			key := policy.Key{Namespace: of.Namespace, Name: of.Name}
			x.announced[key] = append(x.announced[key], announcement{by, of})
		}
	}
	for _, pod := range c.Pods {
		x.pods[policy.Key{Namespace: pod.Namespace, Name: pod.Name}] = pod
		for _, addr := range x.addrs(pod) {
			x.holders[addr] = append(x.holders[addr], pod)
		}
	}
	for _, ns := range c.Namespaces {
		x.namespaces[ns.Name] = ns
	}
	for _, node := range c.Nodes {
		x.nodes = append(x.nodes, policy.NodeOf(node))
	}
	x.podAddresses = podAddressesOf(x.nodes, c.Pods)
	for _, np := range c.Policies {
		x.policies[np.Namespace] = append(x.policies[np.Namespace], np)
	}
	for _, service := range c.Services {
		x.services[policy.Key{Namespace: service.Namespace, Name: service.Name}] = service
		for _, addr := range slices.Concat(clusterIPs(service), outerIPs(service)) {
			x.serviceAt[addr] = service
		}
	}
	for _, slice := range c.EndpointSlices {
		key := policy.Key{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
		x.slices[key] = append(x.slices[key], slice)
	}
	return x
}

// addrs are the addresses that a pod may have: by its status, and by what was announced of it.
func (x *Explainer) addrs(pod *corev1.Pod) []netip.Addr {
	seen, live := policy.PodOf(pod)
	if !live {
		return nil
	}
	addrs := slices.Clone(seen.IPs)
	for _, a := range x.announced[seen.Key] {
		for _, text := range a.of.IPs {
			if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(addrs, addr.Unmap()) {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs
}

// Judge is policy.Judge's verdict on a packet. Judge goes over all objects for every packet, so it gets
// only those that can make a difference to this one.
func (x *Explainer) Judge(p policy.Packet) policy.Verdict {
	return policy.Judge(x.about(p.Src, p.Dst), p, x.options)
}

// Holder is what Judge takes an address for.
func (x *Explainer) Holder(addr netip.Addr) policy.Holder {
	return policy.HolderOf(x.about(addr), addr)
}

// about is the part of the cluster that decides about packets between these addresses.
func (x *Explainer) about(addrs ...netip.Addr) policy.Snapshot {
	s := policy.Snapshot{ClusterPolicies: x.cluster.ClusterPolicies, Resolutions: x.resolutionsOf(addrs...)}
	named := map[string]bool{}
	for _, addr := range addrs {
		for _, pod := range x.holders[addr] {
			if slices.Contains(s.Pods, pod) {
				continue
			}
			s.Pods = append(s.Pods, pod)
			named[pod.Spec.NodeName] = true
			s.PodAddresses = append(s.PodAddresses, x.announcements(pod)...)
			if ns := x.namespaces[pod.Namespace]; !slices.Contains(s.Namespaces, ns) && ns != nil {
				s.Namespaces = append(s.Namespaces, ns)
			}
			if of := x.policies[pod.Namespace]; len(of) > 0 && !slices.Contains(s.Policies, of[0]) {
				s.Policies = append(s.Policies, of...)
			}
		}
	}
	for i, node := range x.nodes {
		if named[node.Name] || slices.ContainsFunc(addrs, func(addr netip.Addr) bool { return nodeHas(node, addr) }) {
			s.Nodes = append(s.Nodes, x.cluster.Nodes[i])
		}
	}
	return s
}

// announcements are what agents have announced of a pod, without what they have of others.
func (x *Explainer) announcements(pod *corev1.Pod) (all []*v1alpha1.PodAddresses) {
	for _, a := range x.announced[policy.Key{Namespace: pod.Namespace, Name: pod.Name}] {
		all = append(all, &v1alpha1.PodAddresses{TypeMeta: a.by.TypeMeta, ObjectMeta: a.by.ObjectMeta, Pods: []v1alpha1.PodAddress{a.of}})
	}
	return all
}

// nodeHas reports whether an address is a node's, or in a pod range of it.
func nodeHas(node policy.Node, addr netip.Addr) bool {
	return slices.Contains(node.Listed, addr) || slices.ContainsFunc(node.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) })
}
