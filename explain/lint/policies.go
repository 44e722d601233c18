package lint

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// This file brings both kinds of policies into one form, as far as findings need it. What cannot be read
// of a policy is left out here: the API server refuses it, or the agents report it as NotEnforceable.

// written is a policy in that form.
type written struct {
	object  explain.Object
	subject pods
	// np or cnp is the policy itself.
	np  *networkingv1.NetworkPolicy
	cnp *clusterv1beta1.ClusterNetworkPolicy
	// rules are those that have an effect: none of a direction that policyTypes leave out.
	rules []rule
}

// rule is a rule of either direction.
type rule struct {
	direction policy.Direction
	path      string
	// peers is empty if everybody is meant.
	peers []peer
	// ports is empty if all are meant.
	ports []port
	// accepts is false for a rule that denies or passes.
	accepts bool
}

// peer is one entry of from or to.
type peer struct {
	path string
	// pods is nil if the peer names no pods.
	pods *pods
	// nodes is nil if the peer names no nodes.
	nodes *selector
	// blocks are the ranges of addresses that it names.
	blocks []block
	// domains are the domain names that it has.
	domains []domain
}

// domain is a domain name.
type domain struct {
	path string
	policy.DomainName
}

// pods says which pods are meant: those that a selector selects, in one namespace or in those that
// another selector selects.
type pods struct {
	// namespace is the only one that is meant, if it is not empty.
	namespace     string
	namespaces    selector
	namespacePath string
	selected      selector
	path          string
}

// block is a range of addresses without its excepts.
type block struct {
	path   string
	cidr   string
	except []string
}

// port is one entry of ports or protocols.
type port struct {
	path string
	// protocol is zero if any is meant.
	protocol policy.Protocol
	// name is the port's, if it is meant by name; else first and last are its numbers.
	name        string
	first, last int32
}

// policiesOf brings policies into that form, in the order of their names, and leaves those out whose
// subject cannot be read.
func policiesOf(nps []*networkingv1.NetworkPolicy, cnps []*clusterv1beta1.ClusterNetworkPolicy) (all []*written) {
	for _, np := range nps {
		if selected, ok := selectorOf(&np.Spec.PodSelector); ok {
			all = append(all, fromNetworkPolicy(np, selected))
		}
	}
	for _, cnp := range cnps {
		if w, ok := fromClusterPolicy(cnp); ok {
			all = append(all, w)
		}
	}
	slices.SortStableFunc(all, func(a, b *written) int { return compareObjects(a.object, b.object) })
	return all
}

func fromNetworkPolicy(np *networkingv1.NetworkPolicy, selected selector) *written {
	w := &written{
		object:  explain.Object{Kind: "NetworkPolicy", Namespace: np.Namespace, Name: np.Name},
		subject: pods{namespace: np.Namespace, selected: selected, path: "spec.podSelector"},
		np:      np,
	}
	if covers(np, networkingv1.PolicyTypeIngress) {
		for i, r := range np.Spec.Ingress {
			at := fmt.Sprintf("spec.ingress[%d]", i)
			w.rules = append(w.rules, networkRule(np.Namespace, policy.Ingress, at, at+".from", r.From, r.Ports))
		}
	}
	if covers(np, networkingv1.PolicyTypeEgress) {
		for i, r := range np.Spec.Egress {
			at := fmt.Sprintf("spec.egress[%d]", i)
			w.rules = append(w.rules, networkRule(np.Namespace, policy.Egress, at, at+".to", r.To, r.Ports))
		}
	}
	return w
}

// covers reports whether a policy isolates its pods in a direction. Without policyTypes it does so for
// ingress, and for egress if it has rules for that; with one that is not known, for both.
func covers(np *networkingv1.NetworkPolicy, direction networkingv1.PolicyType) bool {
	for _, listed := range np.Spec.PolicyTypes {
		if listed == direction || listed != networkingv1.PolicyTypeIngress && listed != networkingv1.PolicyTypeEgress {
			return true
		}
	}
	return len(np.Spec.PolicyTypes) == 0 && (direction == networkingv1.PolicyTypeIngress || len(np.Spec.Egress) > 0)
}

func networkRule(namespace string, d policy.Direction, at, list string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) rule {
	r := rule{direction: d, path: at, accepts: true}
	for i := range peers {
		r.peers = append(r.peers, networkPeer(namespace, fmt.Sprintf("%s[%d]", list, i), &peers[i]))
	}
	for i := range ports {
		r.ports = append(r.ports, networkPort(fmt.Sprintf("%s.ports[%d]", at, i), &ports[i]))
	}
	return r
}

func networkPeer(namespace, at string, p *networkingv1.NetworkPolicyPeer) peer {
	out := peer{path: at}
	switch selectors := p.PodSelector != nil || p.NamespaceSelector != nil; {
	case p.IPBlock != nil && !selectors:
		out.blocks = []block{{path: at + ".ipBlock", cidr: p.IPBlock.CIDR, except: p.IPBlock.Except}}
	case p.IPBlock != nil || !selectors: // the API server refuses both
	default:
		selected, readable := selectorOf(orAll(p.PodSelector))
		meant := pods{namespace: namespace, selected: selected, path: at + ".podSelector", namespacePath: at + ".namespaceSelector"}
		if p.NamespaceSelector != nil {
			var also bool
			meant.namespace = ""
			meant.namespaces, also = selectorOf(p.NamespaceSelector)
			readable = readable && also
		}
		if readable {
			out.pods = &meant
		}
	}
	return out
}

// orAll is a selector, or if it is nil, the one that selects all.
func orAll(s *metav1.LabelSelector) *metav1.LabelSelector {
	if s == nil {
		return &metav1.LabelSelector{}
	}
	return s
}

// networkPort reads a port. One of a protocol that is not known has no numbers.
func networkPort(at string, p *networkingv1.NetworkPolicyPort) port {
	protocol, known := policy.TCP, true
	if p.Protocol != nil {
		protocol, known = protocolOf(*p.Protocol)
	}
	out := port{path: at + ".port", protocol: protocol, last: 65535}
	switch {
	case !known:
		out.first, out.last = 1, 0
	case p.Port == nil:
		out.path = at
	case p.Port.Type == intstr.String:
		out.name = p.Port.StrVal
	default:
		out.first, out.last = p.Port.IntVal, p.Port.IntVal
		if p.EndPort != nil {
			out.last = *p.EndPort
		}
	}
	return out
}

// protocolOf reads a protocol of the API. Without one, TCP is meant.
func protocolOf(p corev1.Protocol) (policy.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return policy.TCP, true
	case corev1.ProtocolUDP:
		return policy.UDP, true
	case corev1.ProtocolSCTP:
		return policy.SCTP, true
	}
	return 0, false
}

// fromClusterPolicy reads a ClusterNetworkPolicy; false: it cannot be enforced as written, and what it
// does instead is reported elsewhere.
func fromClusterPolicy(cnp *clusterv1beta1.ClusterNetworkPolicy) (*written, bool) {
	if _, problems := policy.ParseCluster(cnp); len(problems) > 0 {
		return nil, false
	}
	w := &written{object: explain.Object{Kind: "ClusterNetworkPolicy", Name: cnp.Name}, cnp: cnp}
	subject, ok := clusterPods("spec.subject", cnp.Spec.Subject.Namespaces, cnp.Spec.Subject.Pods)
	if !ok {
		return nil, false
	}
	w.subject = *subject
	for i, r := range cnp.Spec.Ingress {
		at := fmt.Sprintf("spec.ingress[%d]", i)
		out := rule{direction: policy.Ingress, path: at, accepts: r.Action == clusterv1beta1.ClusterNetworkPolicyRuleActionAccept, ports: clusterPorts(at, r.Protocols)}
		for j, p := range r.From {
			out.peers = append(out.peers, clusterPeer(fmt.Sprintf("%s.from[%d]", at, j), clusterv1beta1.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods}))
		}
		w.rules = append(w.rules, out)
	}
	for i, r := range cnp.Spec.Egress {
		at := fmt.Sprintf("spec.egress[%d]", i)
		out := rule{direction: policy.Egress, path: at, accepts: r.Action == clusterv1beta1.ClusterNetworkPolicyRuleActionAccept, ports: clusterPorts(at, r.Protocols)}
		for j, p := range r.To {
			out.peers = append(out.peers, clusterPeer(fmt.Sprintf("%s.to[%d]", at, j), p))
		}
		w.rules = append(w.rules, out)
	}
	return w, true
}

// clusterPods reads which pods a ClusterNetworkPolicy means; false: none can be read there.
func clusterPods(at string, namespaces *metav1.LabelSelector, both *clusterv1beta1.NamespacedPod) (*pods, bool) {
	out := &pods{}
	var readable, also bool
	switch {
	case namespaces != nil:
		out.namespaces, readable = selectorOf(namespaces)
		out.namespacePath, also = at+".namespaces", true
		out.path = out.namespacePath
	case both != nil:
		out.namespaces, readable = selectorOf(&both.NamespaceSelector)
		out.selected, also = selectorOf(&both.PodSelector)
		out.namespacePath, out.path = at+".pods.namespaceSelector", at+".pods.podSelector"
	}
	return out, readable && also
}

func clusterPeer(at string, p clusterv1beta1.ClusterNetworkPolicyEgressPeer) peer {
	out := peer{path: at}
	switch {
	case p.Nodes != nil:
		if s, ok := selectorOf(p.Nodes); ok {
			out.nodes = &s
		}
	case len(p.Networks) > 0:
		for i, cidr := range p.Networks {
			out.blocks = append(out.blocks, block{path: fmt.Sprintf("%s.networks[%d]", at, i), cidr: string(cidr)})
		}
	case len(p.DomainNames) > 0:
		for i, name := range p.DomainNames {
			out.domains = append(out.domains, domain{fmt.Sprintf("%s.domainNames[%d]", at, i), policy.DomainNameOf(string(name))})
		}
	default:
		if meant, ok := clusterPods(at, p.Namespaces, p.Pods); ok {
			out.pods = meant
		}
	}
	return out
}

func clusterPorts(at string, protocols []clusterv1beta1.ClusterNetworkPolicyProtocol) (ports []port) {
	for i, p := range protocols {
		out := port{path: fmt.Sprintf("%s.protocols[%d]", at, i), last: 65535}
		var number *clusterv1beta1.Port
		switch {
		case p.DestinationNamedPort != "":
			out.path, out.name = out.path+".destinationNamedPort", p.DestinationNamedPort
		case p.TCP != nil:
			out.path, out.protocol, number = out.path+".tcp", policy.TCP, p.TCP.DestinationPort
		case p.UDP != nil:
			out.path, out.protocol, number = out.path+".udp", policy.UDP, p.UDP.DestinationPort
		case p.SCTP != nil:
			out.path, out.protocol, number = out.path+".sctp", policy.SCTP, p.SCTP.DestinationPort
		}
		switch {
		case number == nil:
		case number.Range != nil:
			out.path += ".destinationPort.range"
			out.first, out.last = number.Range.Start, number.Range.End
		default:
			out.path += ".destinationPort.number"
			out.first, out.last = number.Number, number.Number
		}
		ports = append(ports, out)
	}
	return ports
}
