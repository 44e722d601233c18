package lint

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// Lint finds what the policies of a cluster say and cannot mean. The same cluster gives the same
// findings, in the same order: by policy, then by field. It changes nothing of the cluster. What of a
// policy cannot be read is not among them: the agents report it, and policy.Parse says what it is.
func Lint(c *explain.Cluster) []Finding {
	w, objects := worldOf(c)
	all := policiesOf(c.Policies, c.ClusterPolicies)
	l := newLinter(w, c.Policies)
	a, s := addressesOf(c, w), servicesOf(c.Services, objects)
	for _, p := range all {
		nobody := l.selectors(p)
		l.namespace(p, nobody)
		l.allowsNothing(p, nobody)
		l.namedPorts(p)
		l.excepts(p)
		l.clusterAddresses(p, a)
		l.policyTypes(p)
		l.shadowed(p)
		l.servicePorts(p, s)
		l.domainNames(p, c.Services)
	}
	d := resolversOf(c)
	inForce := slices.DeleteFunc(slices.Clone(all), l.isStaged)
	l.dns(d, objects, inForce)
	l.namesWithoutDNS(d, objects, inForce)
	if slices.ContainsFunc(all, l.isStaged) { // they will be in force
		d.options.StagedInForce = true
		l.dns(d, objects, all)
		l.namesWithoutDNS(d, objects, all)
	}
	l.enforcementValues(c)
	return sorted(l.found)
}

// Seen is what an agent keeps of a cluster: less than the API has, and enough for some findings.
type Seen struct {
	Namespaces []policy.Namespace
	// Pods are those that policies are about. Nothing is found that depends on one that is Unread.
	Pods            []*policy.Pod
	Policies        []*networkingv1.NetworkPolicy
	ClusterPolicies []*clusterv1beta1.ClusterNetworkPolicy
	// Among says which policies to look at; nil: all. The others still count for what is found of these.
	Among func(policy.Key) bool
}

// OfSeen finds what selectors, named ports and excepts mean nobody in a running cluster, as Lint does,
// and only that. It does not know of pods that have ended or are on their node's network, and does not
// look at selectors of nodes.
func OfSeen(s Seen) []Finding {
	w := newWorld(s.Namespaces, nil, s.Pods, nil, nil, true)
	l := newLinter(w, s.Policies)
	nps, cnps := slices.Clone(s.Policies), slices.Clone(s.ClusterPolicies)
	if s.Among != nil {
		nps = slices.DeleteFunc(nps, func(np *networkingv1.NetworkPolicy) bool {
			return !s.Among(policy.Key{Namespace: np.Namespace, Name: np.Name})
		})
		cnps = slices.DeleteFunc(cnps, func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool { return !s.Among(policy.Key{Name: cnp.Name}) })
	}
	for _, p := range policiesOf(nps, cnps) {
		l.selectors(p)
		l.namedPorts(p)
		l.excepts(p)
	}
	return sorted(l.found)
}

// newLinter returns a linter of a world that has these NetworkPolicies.
func newLinter(w *world, all []*networkingv1.NetworkPolicy) *linter {
	for _, np := range all {
		if w.policies[np.Namespace] == nil {
			w.policies[np.Namespace] = map[string]bool{}
		}
		w.policies[np.Namespace][np.Name] = true
	}
	return &linter{world: w}
}

// worldOf takes a cluster in, and returns its pods by their names too.
func worldOf(c *explain.Cluster) (*world, map[policy.Key]*corev1.Pod) {
	objects := map[policy.Key]*corev1.Pod{}
	var seen, ended, host []*policy.Pod
	for _, pod := range c.Pods {
		objects[policy.Key{Namespace: pod.Namespace, Name: pod.Name}] = pod
		if of, is := policy.PodOf(pod); is {
			seen = append(seen, of)
			continue
		}
		of := &policy.Pod{Key: policy.Key{Namespace: pod.Namespace, Name: pod.Name}, Labels: policy.LabelsOf(pod.Labels)}
		if pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			host = append(host, of)
		} else {
			ended = append(ended, of)
		}
	}
	var namespaces []policy.Namespace
	for _, ns := range c.Namespaces {
		namespaces = append(namespaces, policy.NamespaceOf(ns))
	}
	var nodes []policy.Node
	for _, node := range c.Nodes {
		nodes = append(nodes, policy.NodeOf(node))
	}
	return newWorld(namespaces, nodes, seen, ended, host, c.Running), objects
}

// addressesOf are the addresses of a cluster's pods and Services. Placeholders of files are left out.
func addressesOf(c *explain.Cluster, w *world) *addresses {
	a := &addresses{}
	for _, pod := range c.Pods {
		if _, standIn := pod.Annotations[v1alpha1.StandInAnnotation]; standIn {
			continue
		}
		if of, is := policy.PodOf(pod); is {
			for _, addr := range of.IPs {
				a.pods = append(a.pods, podAddress{addr, of.Key})
			}
		}
	}
	slices.SortFunc(a.pods, func(x, y podAddress) int {
		return cmp.Or(x.Compare(y.Addr), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	for _, node := range w.nodes {
		a.podCIDRs = append(a.podCIDRs, node.PodCIDRs...)
	}
	a.allPods = policy.Union(a.podCIDRs)
	endpoints := endpointsOf(c.EndpointSlices)
	for _, s := range c.Services {
		key := policy.Key{Namespace: s.Namespace, Name: s.Name}
		for _, addr := range clusterIPs(s) {
			of := serviceAddress{Addr: addr, namespace: s.Namespace, name: s.Name, endpoints: endpoints[key]}
			if len(s.Spec.Selector) > 0 {
				of.selector = labels.FormatLabels(s.Spec.Selector)
			}
			a.services = append(a.services, of)
		}
	}
	slices.SortFunc(a.services, func(x, y serviceAddress) int {
		return cmp.Or(x.Compare(y.Addr), cmp.Compare(x.namespace, y.namespace), cmp.Compare(x.name, y.name))
	})
	for _, is4 := range []bool{true, false} {
		of := slices.DeleteFunc(slices.Clone(a.services), func(s serviceAddress) bool { return s.Is4() != is4 })
		if len(of) > 0 {
			a.serviceRanges = append(a.serviceRanges, around(of[0].Addr, of[len(of)-1].Addr))
		}
	}
	return a
}

// clusterIPs are the addresses of a Service inside the cluster.
func clusterIPs(s *corev1.Service) (addrs []netip.Addr) {
	texts := s.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{s.Spec.ClusterIP}
	}
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// endpointsOf are the first few addresses behind each Service.
func endpointsOf(all []*discoveryv1.EndpointSlice) map[policy.Key][]string {
	const enough = 3
	found := map[policy.Key]map[string]bool{}
	for _, of := range all {
		key := policy.Key{Namespace: of.Namespace, Name: of.Labels[discoveryv1.LabelServiceName]}
		for _, endpoint := range of.Endpoints {
			for _, addr := range endpoint.Addresses {
				if found[key] == nil {
					found[key] = map[string]bool{}
				}
				found[key][addr] = true
			}
		}
	}
	first := map[policy.Key][]string{}
	for key, addrs := range found {
		sorted := slices.Sorted(maps.Keys(addrs))
		first[key] = sorted[:min(len(sorted), enough)]
	}
	return first
}
