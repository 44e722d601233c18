package explain

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/policy"
)

// LiveRule is what would have to be added so that connections are not cut.
type LiveRule struct {
	// Policy is where the rule belongs. New: there is no such policy yet, as those that isolate the pods are about
	// others as well, and YAML is all of it.
	Policy Object `json:"policy"`
	New    bool   `json:"new,omitempty"`
	// Field is the list that the rule is to be added to, and Before the place in it that it must come before; absent:
	// any will do.
	Field  string `json:"field,omitempty"`
	Before *int   `json:"before,omitempty"`
	// Allows says what it is for, as people write it.
	Allows []string `json:"allows"`
	// YAML is the rule, as an entry of the list, or the new policy.
	YAML string `json:"yaml,omitempty"`
	// Message says why there is no YAML.
	Message string `json:"message,omitempty"`
}

// liveRules are the rules that would have to be added so that nothing is cut: together those of a policy, for one
// workload and direction.
func (x *Explainer) liveRules(cuts []LiveCut) (rules []LiveRule) {
	type key struct {
		policy    Object
		isNew     bool
		direction string
		before    int
		subject   Party
	}
	at := map[key]int{}
	var keys []key
	var cutsOf [][]LiveCut
	for _, c := range cuts {
		if len(c.Policies) == 0 || c.Direction == "" {
			continue
		}
		k := key{direction: c.Direction, before: -1}
		if k.policy, k.isNew = x.ruleBelongsTo(c); k.policy.Kind == "NetworkPolicy" {
			k.subject = c.subject()
		} else if by := c.Policies[0]; by.Rule != nil {
			k.before = *by.Rule
		}
		i, has := at[k]
		if !has {
			i = len(keys)
			at[k], keys, cutsOf = i, append(keys, k), append(cutsOf, nil)
		}
		cutsOf[i] = append(cutsOf[i], c)
	}
	for i, k := range keys {
		rule := LiveRule{Policy: k.policy, New: k.isNew}
		if !k.isNew {
			rule.Field = "spec." + k.direction
		}
		if k.before >= 0 {
			rule.Before = &k.before
		}
		for _, c := range cutsOf[i] {
			rule.Allows = append(rule.Allows, fmt.Sprintf("%s -> %s %s", c.From, c.To, c.portText()))
		}
		written, err := x.ruleFor(k.policy, k.isNew, byPeer(cutsOf[i]))
		if err == nil {
			var text []byte
			text, err = yaml.Marshal(written)
			rule.YAML = string(text)
		}
		if err != nil {
			rule.Message = err.Error()
		}
		rules = append(rules, rule)
	}
	return rules
}

// byPeer divides connections of one workload and direction by the peer. Of protocols without ports, which are allowed
// with all others alone, it makes parts of their own.
func byPeer(cuts []LiveCut) (parts [][]LiveCut) {
	type key struct {
		peer  Party
		ports bool
	}
	at := map[key]int{}
	for _, c := range cuts {
		k := key{c.peer(), hasPort(c)}
		i, has := at[k]
		if !has {
			i = len(parts)
			at[k], parts = i, append(parts, nil)
		}
		parts[i] = append(parts[i], c)
	}
	return parts
}

// ruleFor is what is written for the peers of a workload: rules, or a whole policy.
func (x *Explainer) ruleFor(target Object, isNew bool, parts [][]LiveCut) (any, error) {
	if isNew {
		return x.newPolicy(target, parts), nil
	}
	var rules []any
	for _, cuts := range parts {
		var rule any
		var err error
		switch {
		case target.Kind != "NetworkPolicy":
			rule, err = clusterRule(cuts)
		case cuts[0].Direction == directionEgress:
			rule = x.egressRule(cuts)
		default:
			rule = x.ingressRule(cuts)
		}
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// subject is the end whose policies would cut it, and peer the other.
func (c *LiveCut) subject() Party {
	if c.Direction == directionEgress {
		return c.From
	}
	return c.To
}

func (c *LiveCut) peer() Party {
	if c.Direction == directionEgress {
		return c.To
	}
	return c.From
}

// ends are the end whose policies would cut it, and the other, as the agent has them.
func (c *LiveCut) ends() (subject, peer answers.LiveEnd) {
	if c.Direction == directionEgress {
		return c.from, c.to
	}
	return c.to, c.from
}

const directionEgress = "egress"

// portText is the port with the protocol, or a protocol without ports.
func (c *LiveCut) portText() string {
	if !hasPort(*c) {
		return c.Protocol
	}
	return fmt.Sprintf("%d/%s", c.Port, c.Protocol)
}

// hasPort reports whether a rule can name the port. Protocols without ports are allowed only with all others.
func hasPort(c LiveCut) bool {
	return c.Protocol == "TCP" || c.Protocol == "UDP" || c.Protocol == "SCTP"
}

// ruleBelongsTo is the policy that a rule belongs to: the ClusterNetworkPolicy whose rule denies, or a NetworkPolicy
// that isolates the workload's pods and no others. If there is none of these, it is a new one.
func (x *Explainer) ruleBelongsTo(c LiveCut) (target Object, isNew bool) {
	subject, _ := c.ends()
	for _, by := range c.Policies {
		if by.Kind != "NetworkPolicy" {
			return Object{Kind: by.Kind, Name: by.Name}, false
		}
		if x.isAboutAlone(by, c) {
			return Object{Kind: by.Kind, Namespace: by.Namespace, Name: by.Name}, false
		}
	}
	return Object{Kind: "NetworkPolicy", Namespace: subject.Namespace, Name: fmt.Sprintf("allow-%s-%s", c.Direction, c.subject().Name)}, true
}

// isAboutAlone reports whether a NetworkPolicy selects only pods of the workload whose connections it would cut. An
// empty selector is meant for all, whoever there is now.
func (x *Explainer) isAboutAlone(by answers.CutPolicy, c LiveCut) bool {
	for _, np := range x.cluster.Policies {
		if np.Namespace != by.Namespace || np.Name != by.Name {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(&np.Spec.PodSelector)
		if err != nil || selector.Empty() {
			return false
		}
		return !slices.ContainsFunc(x.cluster.Pods, func(pod *corev1.Pod) bool {
			if pod.Namespace != np.Namespace || pod.Spec.HostNetwork || ended(pod) || !selector.Matches(labels.Set(pod.Labels)) {
				return false
			}
			is := Party{Kind: KindPod, Namespace: pod.Namespace, Name: pod.Name}
			if w := x.workload(pod); w != nil {
				is.Kind, is.Name = Kind(w.Kind), w.Name
			}
			return is != c.subject()
		})
	}
	return false
}

// stable are the labels of a workload's pods that are the same for all of them.
func stable(pod map[string]string) map[string]string {
	out := maps.Clone(pod)
	for _, key := range ControllersLabels {
		delete(out, key)
	}
	return out
}

// egressRule and ingressRule are rules of a NetworkPolicy that allow connections with one peer.
func (x *Explainer) egressRule(cuts []LiveCut) networkingv1.NetworkPolicyEgressRule {
	return networkingv1.NetworkPolicyEgressRule{To: x.networkPeers(cuts[0].ends()), Ports: networkPorts(cuts)}
}

func (x *Explainer) ingressRule(cuts []LiveCut) networkingv1.NetworkPolicyIngressRule {
	return networkingv1.NetworkPolicyIngressRule{From: x.networkPeers(cuts[0].ends()), Ports: networkPorts(cuts)}
}

// networkPeers are an end as the peers of a NetworkPolicy: a workload by its labels, a node by its addresses, and
// anybody else by the address.
func (x *Explainer) networkPeers(subject, peer answers.LiveEnd) (peers []networkingv1.NetworkPolicyPeer) {
	if peer.Pod != "" {
		p := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: stable(peer.Labels)}}
		if peer.Namespace != subject.Namespace {
			p.NamespaceSelector = namespaceNamed(peer.Namespace)
		}
		return []networkingv1.NetworkPolicyPeer{p}
	}
	for _, network := range x.networksOf(peer) {
		peers = append(peers, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: network}})
	}
	return peers
}

// networksOf are the addresses of an end that is no pod.
func (x *Explainer) networksOf(e answers.LiveEnd) (networks []string) {
	for _, node := range x.cluster.Nodes {
		if e.Kind != string(KindNode) || node.Name != e.Name {
			continue
		}
		for _, addr := range policy.NodeOf(node).Addrs {
			networks = append(networks, fmt.Sprintf("%s/%d", addr, addr.BitLen()))
		}
	}
	if own := fmt.Sprintf("%s/%d", e.Address, e.Address.BitLen()); !slices.Contains(networks, own) {
		networks = append(networks, own)
	}
	return networks
}

func namespaceNamed(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}}
}

// networkPorts are the ports of connections, each once; none: all.
func networkPorts(cuts []LiveCut) (ports []networkingv1.NetworkPolicyPort) {
	seen := map[string]bool{}
	for _, c := range cuts {
		if !hasPort(c) || seen[c.portText()] {
			continue
		}
		seen[c.portText()] = true
		protocol, port := corev1.Protocol(c.Protocol), intstr.FromInt32(int32(c.Port))
		ports = append(ports, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port})
	}
	return ports
}

// newPolicy is a NetworkPolicy that allows a workload's connections.
func (x *Explainer) newPolicy(target Object, parts [][]LiveCut) any {
	subject, _ := parts[0][0].ends()
	spec := networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: stable(subject.Labels)}}
	for _, cuts := range parts {
		if cuts[0].Direction == directionEgress {
			spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
			spec.Egress = append(spec.Egress, x.egressRule(cuts))
		} else {
			spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
			spec.Ingress = append(spec.Ingress, x.ingressRule(cuts))
		}
	}
	return map[string]any{
		"apiVersion": networkingv1.SchemeGroupVersion.String(), "kind": target.Kind,
		"metadata": map[string]string{"namespace": target.Namespace, "name": target.Name}, "spec": spec,
	}
}

// clusterRule is a rule of a ClusterNetworkPolicy that accepts connections of one peer.
func clusterRule(cuts []LiveCut) (any, error) {
	var protocols []clusterv1beta1.ClusterNetworkPolicyProtocol
	seen := map[string]bool{}
	for _, c := range cuts {
		if !hasPort(c) || seen[c.portText()] {
			continue
		}
		seen[c.portText()] = true
		port := &clusterv1beta1.Port{Number: int32(c.Port)}
		switch c.Protocol {
		case "TCP":
			protocols = append(protocols, clusterv1beta1.ClusterNetworkPolicyProtocol{TCP: &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}})
		case "UDP":
			protocols = append(protocols, clusterv1beta1.ClusterNetworkPolicyProtocol{UDP: &clusterv1beta1.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}})
		case "SCTP":
			protocols = append(protocols, clusterv1beta1.ClusterNetworkPolicyProtocol{SCTP: &clusterv1beta1.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}})
		}
	}
	_, peer := cuts[0].ends()
	var pods *clusterv1beta1.NamespacedPod
	if peer.Pod != "" {
		pods = &clusterv1beta1.NamespacedPod{NamespaceSelector: *namespaceNamed(peer.Namespace), PodSelector: metav1.LabelSelector{MatchLabels: stable(peer.Labels)}}
	}
	accept := clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
	if cuts[0].Direction == directionEgress {
		to := clusterv1beta1.ClusterNetworkPolicyEgressPeer{Pods: pods}
		if pods == nil {
			to.Networks = []clusterv1beta1.CIDR{clusterv1beta1.CIDR(fmt.Sprintf("%s/%d", peer.Address, peer.Address.BitLen()))}
		}
		return clusterv1beta1.ClusterNetworkPolicyEgressRule{Action: accept, To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{to}, Protocols: protocols}, nil
	}
	if pods == nil {
		return nil, fmt.Errorf("an ingress rule of a ClusterNetworkPolicy cannot name %s, which is no pod: the rule that denies would have to be about fewer peers or pods", cuts[0].From)
	}
	return clusterv1beta1.ClusterNetworkPolicyIngressRule{
		Action: accept, From: []clusterv1beta1.ClusterNetworkPolicyIngressPeer{{Pods: pods}}, Protocols: protocols,
	}, nil
}
