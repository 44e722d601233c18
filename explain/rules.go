package explain

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// rule is a rule of either kind of policy, with the fields that say what it means.
type rule struct {
	ref    policy.RuleRef
	policy PolicyRef
	action string
	name   string
	// path is the rule's, such as "spec.ingress[0]".
	path  string
	peers []peer
	// anyone: the rule has no list of peers, which means everyone. Of a ClusterNetworkPolicy it means nobody.
	anyone bool
	ports  []port
}

// peer is one entry of from or to.
type peer struct {
	path string
	// namespace is where pods must be; empty: where namespaces says.
	namespace string
	// namespaces, pods and nodes are selectors; nil: there is none.
	namespaces, pods, nodes *metav1.LabelSelector
	// namespacesPath, podsPath and so on are the selectors' fields.
	namespacesPath, podsPath, nodesPath string
	blocks                              []block
	// domains are domain names, as they are written.
	domains []string
	// unreadable says why the entry means nobody; empty: it can be read.
	unreadable string
}

// block is a network, as it is written.
type block struct {
	path, cidr string
	except     []string
}

// port is one entry of ports or protocols.
type port struct {
	path     string
	protocol policy.Protocol // 0: of a name, whichever protocol the pod declares it for; or one that is not known
	// named: the port is a name. Otherwise all: every port of the protocol; or else first to last.
	named       string
	all         bool
	first, last int32
	// unreadable says why the entry means no port; empty: it can be read.
	unreadable string
}

// networkRules are the rules of a NetworkPolicy in a direction.
func networkRules(np *networkingv1.NetworkPolicy, d policy.Direction) (rules []rule) {
	add := func(i int, list string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		r := rule{
			ref:    policy.RuleRef{Policy: policy.Key{Namespace: np.Namespace, Name: np.Name}, Direction: d, Rule: i},
			policy: networkRef(np), action: "Accept", path: fmt.Sprintf("spec.%s[%d]", d, i), anyone: len(peers) == 0,
		}
		for j, p := range peers {
			r.peers = append(r.peers, networkPeer(np, p, fmt.Sprintf("%s.%s[%d]", r.path, list, j)))
		}
		for j, p := range ports {
			r.ports = append(r.ports, networkPort(p, fmt.Sprintf("%s.ports[%d]", r.path, j)))
		}
		rules = append(rules, r)
	}
	if d == policy.Ingress {
		for i, r := range np.Spec.Ingress {
			add(i, "from", r.From, r.Ports)
		}
		return rules
	}
	for i, r := range np.Spec.Egress {
		add(i, "to", r.To, r.Ports)
	}
	return rules
}

func networkRef(np *networkingv1.NetworkPolicy) PolicyRef {
	return PolicyRef{Kind: "NetworkPolicy", Namespace: np.Namespace, Name: np.Name, Tier: "NetworkPolicy"}
}

func networkPeer(np *networkingv1.NetworkPolicy, p networkingv1.NetworkPolicyPeer, path string) peer {
	out := peer{path: path, namespaces: p.NamespaceSelector, pods: p.PodSelector, namespacesPath: path + ".namespaceSelector", podsPath: path + ".podSelector"}
	if p.NamespaceSelector == nil && p.PodSelector != nil {
		out.namespace = np.Namespace
	}
	switch {
	case p.IPBlock != nil && (p.NamespaceSelector != nil || p.PodSelector != nil):
		out.unreadable = "it has selectors and an ipBlock, which the API does not allow: it means nobody"
	case p.IPBlock == nil && p.NamespaceSelector == nil && p.PodSelector == nil:
		out.unreadable = "it names nobody"
	case p.IPBlock != nil:
		out.blocks = []block{{path: path + ".ipBlock", cidr: p.IPBlock.CIDR, except: p.IPBlock.Except}}
	}
	return out
}

func networkPort(p networkingv1.NetworkPolicyPort, path string) port {
	out := port{path: path, protocol: policy.TCP}
	if p.Protocol != nil {
		out.protocol = protocolOf(*p.Protocol)
	}
	switch {
	case out.protocol == 0:
		out.unreadable = fmt.Sprintf("protocol %q is none that policies know", *p.Protocol)
	case p.EndPort != nil && (p.Port == nil || p.Port.Type == intstr.String):
		out.unreadable = "it has an endPort without a number as its port"
	case p.Port == nil:
		out.all = true
	case p.Port.Type == intstr.String:
		out.named = p.Port.StrVal
	default:
		out.first, out.last = p.Port.IntVal, p.Port.IntVal
		if p.EndPort != nil {
			out.last = *p.EndPort
		}
	}
	return out
}

// clusterRules are the rules of a ClusterNetworkPolicy in a direction.
func clusterRules(cnp *clusterv1beta1.ClusterNetworkPolicy, d policy.Direction) (rules []rule) {
	add := func(i int, list, name string, action clusterv1beta1.ClusterNetworkPolicyRuleAction, peers []clusterv1beta1.ClusterNetworkPolicyEgressPeer, protocols []clusterv1beta1.ClusterNetworkPolicyProtocol) {
		r := rule{
			ref:    policy.RuleRef{Policy: policy.Key{Name: cnp.Name}, Direction: d, Rule: i},
			policy: clusterRef(cnp), action: string(action), name: name, path: fmt.Sprintf("spec.%s[%d]", d, i),
		}
		for j, p := range peers {
			r.peers = append(r.peers, clusterPeer(p, action, fmt.Sprintf("%s.%s[%d]", r.path, list, j)))
		}
		for j, p := range protocols {
			r.ports = append(r.ports, clusterPort(p, fmt.Sprintf("%s.protocols[%d]", r.path, j)))
		}
		rules = append(rules, r)
	}
	if d == policy.Ingress {
		for i, r := range cnp.Spec.Ingress {
			var peers []clusterv1beta1.ClusterNetworkPolicyEgressPeer
			for _, p := range r.From {
				peers = append(peers, clusterv1beta1.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods})
			}
			add(i, "from", r.Name, r.Action, peers, r.Protocols)
		}
		return rules
	}
	for i, r := range cnp.Spec.Egress {
		add(i, "to", r.Name, r.Action, r.To, r.Protocols)
	}
	return rules
}

func clusterRef(cnp *clusterv1beta1.ClusterNetworkPolicy) PolicyRef {
	return PolicyRef{Kind: "ClusterNetworkPolicy", Name: cnp.Name, Tier: string(cnp.Spec.Tier), Priority: &cnp.Spec.Priority}
}

func clusterPeer(p clusterv1beta1.ClusterNetworkPolicyEgressPeer, action clusterv1beta1.ClusterNetworkPolicyRuleAction, path string) peer {
	out := peer{path: path, nodes: p.Nodes, nodesPath: path + ".nodes"}
	switch {
	case p.Namespaces != nil:
		out.namespaces, out.namespacesPath = p.Namespaces, path+".namespaces"
	case p.Pods != nil:
		out.namespaces, out.namespacesPath = &p.Pods.NamespaceSelector, path+".pods.namespaceSelector"
		out.pods, out.podsPath = &p.Pods.PodSelector, path+".pods.podSelector"
	}
	for i, cidr := range p.Networks {
		out.blocks = append(out.blocks, block{path: fmt.Sprintf("%s.networks[%d]", path, i), cidr: string(cidr)})
	}
	for _, name := range p.DomainNames {
		out.domains = append(out.domains, string(name))
	}
	if n := howMany(p.Namespaces != nil, p.Pods != nil, p.Nodes != nil, len(p.Networks) > 0, len(p.DomainNames) > 0); n != 1 {
		out.unreadable = fmt.Sprintf("it names %d kinds of peers in place of one", n)
	} else if len(p.DomainNames) > 0 && action != clusterv1beta1.ClusterNetworkPolicyRuleActionAccept {
		out.unreadable = "domain names are for rules that accept: here they mean nobody, and the rule denies everything"
	}
	return out
}

// howMany is how many of these are so.
func howMany(are ...bool) (n int) {
	for _, is := range are {
		if is {
			n++
		}
	}
	return n
}

func clusterPort(p clusterv1beta1.ClusterNetworkPolicyProtocol, path string) port {
	numbers := func(protocol policy.Protocol, name string, ports *clusterv1beta1.Port) port {
		out := port{path: path + "." + name, protocol: protocol}
		switch {
		case ports == nil:
			out.all = true
		case ports.Range != nil:
			out.first, out.last = ports.Range.Start, ports.Range.End
		default:
			out.first, out.last = ports.Number, ports.Number
		}
		return out
	}
	switch {
	case p.TCP != nil:
		return numbers(policy.TCP, "tcp", p.TCP.DestinationPort)
	case p.UDP != nil:
		return numbers(policy.UDP, "udp", p.UDP.DestinationPort)
	case p.SCTP != nil:
		return numbers(policy.SCTP, "sctp", p.SCTP.DestinationPort)
	}
	if p.DestinationNamedPort == "" {
		return port{path: path, unreadable: "it names no protocol"}
	}
	return port{path: path + ".destinationNamedPort", named: p.DestinationNamedPort}
}

// found is a rule that a RuleRef points at, as far as JSON and text show it.
func (x *Explainer) found(ref policy.RuleRef) Rule {
	out := Rule{Path: fmt.Sprintf("spec.%s[%d]", ref.Direction, ref.Rule), Action: "Accept"}
	rulePath, ports := out.Path, "ports"
	for _, r := range x.rulesOf(ref.Policy, ref.Direction) {
		if r.ref.Rule == ref.Rule {
			out.Policy, out.Name, out.Action = r.policy, r.name, r.action
			out.Policy.Staged = x.staged[ref.Policy]
		}
	}
	if ref.Policy.Namespace == "" {
		ports = "protocols"
	}
	if ref.Peer >= 0 {
		out.Path = fmt.Sprintf("%s.%s[%d]", rulePath, map[policy.Direction]string{policy.Ingress: "from", policy.Egress: "to"}[ref.Direction], ref.Peer)
	}
	if ref.Port >= 0 {
		out.PortPath = fmt.Sprintf("%s.%s[%d]", rulePath, ports, ref.Port)
	}
	return out
}

// rulesOf are the rules of a policy in a direction.
func (x *Explainer) rulesOf(key policy.Key, d policy.Direction) []rule {
	if np := x.networkPolicy(key); np != nil {
		return networkRules(np, d)
	}
	if cnp := x.clusterPolicy(key); cnp != nil {
		return clusterRules(cnp, d)
	}
	return nil
}

func (x *Explainer) networkPolicy(key policy.Key) *networkingv1.NetworkPolicy {
	for _, np := range x.policies[key.Namespace] {
		if np.Name == key.Name {
			return np
		}
	}
	return nil
}

func (x *Explainer) clusterPolicy(key policy.Key) *clusterv1beta1.ClusterNetworkPolicy {
	if key.Namespace != "" {
		return nil
	}
	for _, cnp := range x.cluster.ClusterPolicies {
		if cnp.Name == key.Name {
			return cnp
		}
	}
	return nil
}

// asked are the policies that a judgement is by, in the order in which a packet meets them.
func (x *Explainer) asked(j policy.Judgement) (refs []PolicyRef) {
	var admin, baseline []*clusterv1beta1.ClusterNetworkPolicy
	for _, key := range j.Selecting {
		switch cnp := x.clusterPolicy(key); {
		case cnp == nil:
		case cnp.Spec.Tier == clusterv1beta1.BaselineTier:
			baseline = append(baseline, cnp)
		default:
			admin = append(admin, cnp)
		}
	}
	for i, tier := range [][]*clusterv1beta1.ClusterNetworkPolicy{admin, baseline} {
		slices.SortFunc(tier, func(a, b *clusterv1beta1.ClusterNetworkPolicy) int {
			return cmp.Or(cmp.Compare(a.Spec.Priority, b.Spec.Priority), cmp.Compare(a.Name, b.Name))
		})
		if i == 1 {
			for _, key := range j.Isolating {
				refs = append(refs, PolicyRef{Kind: "NetworkPolicy", Namespace: key.Namespace, Name: key.Name, Tier: "NetworkPolicy", Staged: x.staged[key]})
			}
		}
		for _, cnp := range tier {
			refs = append(refs, x.clusterRef(cnp))
		}
	}
	return refs
}

// servicePortsText lists the ports of a Service.
func servicePortsText(service *corev1.Service) string {
	var texts []string
	for _, p := range service.Spec.Ports {
		text := Port{Protocol: protocolOf(p.Protocol), Number: uint16(p.Port)}.String()
		if p.Name != "" {
			text += " (" + p.Name + ")"
		}
		texts = append(texts, text)
	}
	return list(texts, "no ports")
}
