package policy

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// This file says what ClusterNetworkPolicies mean to Judge. What they mean follows the API's
// documentation (sigs.k8s.io/network-policy-api) and, where that leaves something open, docs/SEMANTICS.md.

// The actions, by short names.
const (
	toAccept = clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
	toDeny   = clusterv1beta1.ClusterNetworkPolicyRuleActionDeny
	toPass   = clusterv1beta1.ClusterNetworkPolicyRuleActionPass
)

// orderedPolicy is a ClusterNetworkPolicy that selects a pod, with its rules of one direction.
type orderedPolicy struct {
	*clusterv1beta1.ClusterNetworkPolicy
	rules []orderedRule
}

// orderedRule is a rule of a ClusterNetworkPolicy, of either direction.
type orderedRule struct {
	ref    RuleRef
	action clusterv1beta1.ClusterNetworkPolicyRuleAction
	// peers are from, or to. Those of from have the first two fields only.
	peers     []clusterv1beta1.ClusterNetworkPolicyEgressPeer
	protocols []clusterv1beta1.ClusterNetworkPolicyProtocol
	// closes says why the rule denies everything, if it does so whatever its peers and protocols are.
	closes string
}

// decision is what the ClusterNetworkPolicies of a tier decide of a packet. If its action is Pass,
// they leave it to those behind them.
type decision struct {
	action clusterv1beta1.ClusterNetworkPolicyRuleAction
	ref    RuleRef
	// reason says why, where the rule decides though it need not mean the packet.
	reason string
}

// clusterPolicies are the ClusterNetworkPolicies that have rules for a pod in a direction, in the
// order in which they are asked: those before the NetworkPolicies, and those after them.
//
// While the pod's Namespace is not known, nobody can tell whether a policy selects the pod. Each
// that might, and that does anything but accept, closes the direction.
func (j *judge) clusterPolicies(d Direction, pod *corev1.Pod) (admin, baseline []orderedPolicy) {
	labels, known := j.namespaceLabels(pod.Namespace)
	for _, cnp := range j.ClusterPolicies {
		namespaces, pods, ok := subjectOf(cnp)
		if !ok || !j.inForce(cnp.ObjectMeta) || !selects(pods, pod.Labels) || known && !selects(namespaces, labels) {
			continue
		}
		p := orderedPolicy{cnp, rulesOf(cnp, d)}
		if !known {
			p.rules = oneDenial(p.rules, "the pod's Namespace is not known")
		}
		switch {
		case len(p.rules) == 0:
		case known && cnp.Spec.Tier == clusterv1beta1.BaselineTier:
			baseline = append(baseline, p)
		default:
			admin = append(admin, p)
		}
	}
	for _, tier := range [][]orderedPolicy{admin, baseline} {
		slices.SortFunc(tier, func(a, b orderedPolicy) int {
			return cmp.Or(cmp.Compare(a.Spec.Priority, b.Spec.Priority), cmp.Compare(a.Name, b.Name))
		})
	}
	return admin, baseline
}

// subjectOf are the selectors of the namespaces and pods that a policy is about. It is not ok if they
// cannot be read: then the policy is about no pod.
func subjectOf(cnp *clusterv1beta1.ClusterNetworkPolicy) (namespaces, pods *metav1.LabelSelector, ok bool) {
	switch subject := cnp.Spec.Subject; {
	case (subject.Namespaces == nil) == (subject.Pods == nil):
		return nil, nil, false
	case subject.Namespaces != nil:
		namespaces, pods = subject.Namespaces, &metav1.LabelSelector{}
	default:
		namespaces, pods = &subject.Pods.NamespaceSelector, &subject.Pods.PodSelector
	}
	return namespaces, pods, readableSelector(namespaces) && readableSelector(pods)
}

// rulesOf are the rules of a policy in a direction. A rule that does not accept, and of which
// something cannot be read, denies everything. So does a policy whose tier cannot be read.
func rulesOf(cnp *clusterv1beta1.ClusterNetworkPolicy, d Direction) (rules []orderedRule) {
	if d == Ingress {
		for _, rule := range cnp.Spec.Ingress {
			r := orderedRule{action: rule.Action, protocols: rule.Protocols}
			for _, from := range rule.From {
				r.peers = append(r.peers, clusterv1beta1.ClusterNetworkPolicyEgressPeer{Namespaces: from.Namespaces, Pods: from.Pods})
			}
			rules = append(rules, r)
		}
	} else {
		for _, rule := range cnp.Spec.Egress {
			rules = append(rules, orderedRule{action: rule.Action, peers: rule.To, protocols: rule.Protocols})
		}
	}
	for i := range rules {
		rule := &rules[i]
		rule.ref = RuleRef{Policy: Key{Name: cnp.Name}, Direction: d, Rule: i, Peer: -1, Port: -1}
		switch {
		case !slices.Contains([]clusterv1beta1.ClusterNetworkPolicyRuleAction{toAccept, toDeny, toPass}, rule.action):
			rule.action, rule.closes = toDeny, "its action is not known"
		case rule.action != toAccept && !readableRule(*rule):
			rule.action, rule.closes = toDeny, "not all of it can be read"
		}
	}
	if cnp.Spec.Tier != clusterv1beta1.AdminTier && cnp.Spec.Tier != clusterv1beta1.BaselineTier {
		return oneDenial(rules, "the policy's tier is not known")
	}
	return rules
}

// oneDenial is one denial of everything, in place of rules that do not all accept. In place of those
// that do, there is nothing.
func oneDenial(rules []orderedRule, why string) []orderedRule {
	at := slices.IndexFunc(rules, func(r orderedRule) bool { return r.action != toAccept })
	if at < 0 {
		return nil
	}
	return []orderedRule{{ref: rules[at].ref, action: toDeny, closes: why}}
}

// decide asks policies one after the other. The first rule that means the packet decides.
func (j *judge) decide(policies []orderedPolicy, subject, peer place) decision {
	for _, p := range policies {
		if made, is := j.doubted(p, subject, peer); is {
			return made
		}
		for _, rule := range p.rules {
			if rule.closes != "" {
				return decision{toDeny, rule.ref, rule.closes}
			}
			if ref, means := j.means(rule, subject, peer); means {
				return decision{action: rule.action, ref: ref}
			}
		}
	}
	return decision{action: toPass}
}

// doubted denies what a policy's rules cannot be asked about: one of them that denies or passes
// asks who has an address, and that is in doubt.
func (j *judge) doubted(p orderedPolicy, subject, peer place) (decision, bool) {
	for _, rule := range p.rules {
		if rule.action == toAccept || rule.closes != "" {
			continue
		}
		ref := rule.ref
		ref.Peer = slices.IndexFunc(rule.peers, asksWho)
		ref.Port = slices.IndexFunc(rule.protocols, asksName)
		asked := peer
		if ref.Direction == Ingress && ref.Port >= 0 && j.inDoubt(subject) {
			asked, ref.Peer = subject, -1
		} else if ref.Direction == Ingress {
			ref.Port = -1
		}
		if (ref.Peer >= 0 || ref.Port >= 0) && j.inDoubt(asked) {
			return decision{toDeny, ref, "nobody can tell who has " + asked.addr.String()}, true
		}
	}
	return decision{}, false
}

// asksWho reports whether a peer asks who has an address, and not just for the address.
func asksWho(peer clusterv1beta1.ClusterNetworkPolicyEgressPeer) bool { return len(peer.Networks) == 0 }

// asksName reports whether an entry of protocols asks for the name of a port, which the pod gives it.
func asksName(entry clusterv1beta1.ClusterNetworkPolicyProtocol) bool {
	return entry.DestinationNamedPort != ""
}

// inDoubt reports whether nobody can tell who has an address, or what that pod is.
func (j *judge) inDoubt(at place) bool {
	ofNode := func(node *corev1.Node) bool { return slices.Contains(nodeAddrs(node), at.addr) }
	ofNobody := func(pod *corev1.Pod) bool { _, known := j.namespaceLabels(pod.Namespace); return !known }
	return len(at.pods) > 1 || len(at.pods) > 0 && slices.ContainsFunc(j.Nodes, ofNode) || slices.ContainsFunc(at.pods, ofNobody)
}

// means reports whether a rule means the packet: some peer AND some protocol of it does.
func (j *judge) means(rule orderedRule, subject, peer place) (RuleRef, bool) {
	ref, destination := rule.ref, peer
	if ref.Direction == Ingress {
		destination = subject
	}
	ref.Peer = slices.IndexFunc(rule.peers, func(p clusterv1beta1.ClusterNetworkPolicyEgressPeer) bool {
		return readablePeer(p) && j.clusterPeer(p, subject, peer)
	})
	ref.Port = slices.IndexFunc(rule.protocols, func(p clusterv1beta1.ClusterNetworkPolicyProtocol) bool {
		return readableProtocol(p) && j.protocol(p, destination)
	})
	return ref, ref.Peer >= 0 && (len(rule.protocols) == 0 || ref.Port >= 0)
}

// clusterPeer reports whether a peer of a rule about a subject, which can be read but for single networks and domain
// names, means the address.
func (j *judge) clusterPeer(peer clusterv1beta1.ClusterNetworkPolicyEgressPeer, subject, at place) bool {
	switch {
	case peer.Namespaces != nil:
		return j.allOf(at, peer.Namespaces, &metav1.LabelSelector{})
	case peer.Pods != nil:
		return j.allOf(at, &peer.Pods.NamespaceSelector, &peer.Pods.PodSelector)
	case peer.Nodes != nil:
		return len(at.pods) == 0 && slices.ContainsFunc(j.Nodes, func(node *corev1.Node) bool {
			return selects(peer.Nodes, node.Labels) && slices.Contains(nodeAddrs(node), at.addr)
		})
	}
	if slices.ContainsFunc(peer.DomainNames, func(name clusterv1beta1.DomainName) bool { return j.domain(string(name), subject, at) }) {
		return true
	}
	return slices.ContainsFunc(peer.Networks, func(text clusterv1beta1.CIDR) bool {
		cidr, ok := readRange(string(text))
		return ok && cidr.Contains(at.addr)
	})
}

// domain reports whether a domain name was resolved to an address: for the subject, or, if it is no wildcard, by the agent.
func (j *judge) domain(name string, subject, at place) bool {
	if !readableDomain(name) {
		return false
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return slices.ContainsFunc(j.Resolutions, func(r Resolution) bool {
		switch {
		case r.Addr != at.addr:
			return false
		case name[0] == '*': // in place of one or more labels
			return r.Pod == subject.addr && strings.HasSuffix(r.Name, name[1:]) && len(r.Name) >= len(name)
		}
		return r.Name == name && (r.Pod == subject.addr || !r.Pod.IsValid())
	})
}

// allOf reports whether there are pods that may have an address, and selectors mean all of them.
func (j *judge) allOf(at place, namespaces, pods *metav1.LabelSelector) bool {
	return len(at.pods) > 0 && !slices.ContainsFunc(at.pods, func(pod *corev1.Pod) bool {
		labels, known := j.namespaceLabels(pod.Namespace)
		return !known || !selects(namespaces, labels) || !selects(pods, pod.Labels)
	})
}

// protocol reports whether an entry of protocols, which can be read, means the packet. A name is
// looked up on the pod that the packet goes to.
func (j *judge) protocol(entry clusterv1beta1.ClusterNetworkPolicyProtocol, destination place) bool {
	switch j.packet.Protocol {
	case TCP:
		if entry.TCP != nil {
			return hasNumber(entry.TCP.DestinationPort, j.packet.DstPort)
		}
	case UDP:
		if entry.UDP != nil {
			return hasNumber(entry.UDP.DestinationPort, j.packet.DstPort)
		}
	case SCTP:
		if entry.SCTP != nil {
			return hasNumber(entry.SCTP.DestinationPort, j.packet.DstPort)
		}
	}
	named, has := map[Protocol]corev1.Protocol{TCP: corev1.ProtocolTCP, UDP: corev1.ProtocolUDP, SCTP: corev1.ProtocolSCTP}[j.packet.Protocol]
	if !has || entry.DestinationNamedPort == "" || j.packet.DstPort == 0 || len(destination.pods) == 0 {
		return false
	}
	return !slices.ContainsFunc(destination.pods, func(pod *corev1.Pod) bool {
		return !namesPort(pod.Spec, entry.DestinationNamedPort, named, int32(j.packet.DstPort))
	})
}

// readableRule reports whether a rule can be read whole.
func readableRule(rule orderedRule) bool {
	badNetwork := func(text clusterv1beta1.CIDR) bool { _, ok := readRange(string(text)); return !ok }
	badDomain := func(name clusterv1beta1.DomainName) bool {
		return rule.action != toAccept || !readableDomain(string(name))
	}
	badPeer := func(peer clusterv1beta1.ClusterNetworkPolicyEgressPeer) bool {
		return !readablePeer(peer) || slices.ContainsFunc(peer.Networks, badNetwork) || slices.ContainsFunc(peer.DomainNames, badDomain)
	}
	badProtocol := func(entry clusterv1beta1.ClusterNetworkPolicyProtocol) bool { return !readableProtocol(entry) }
	return len(rule.peers) > 0 && !slices.ContainsFunc(rule.peers, badPeer) && !slices.ContainsFunc(rule.protocols, badProtocol)
}

// readablePeer reports whether a peer can be read, but for single networks and domain names. It must have one field.
func readablePeer(peer clusterv1beta1.ClusterNetworkPolicyEgressPeer) bool {
	fields := howMany(peer.Namespaces != nil, peer.Pods != nil, peer.Nodes != nil, len(peer.Networks) > 0, len(peer.DomainNames) > 0)
	valid := func(selectors ...*metav1.LabelSelector) bool {
		return !slices.ContainsFunc(selectors, func(s *metav1.LabelSelector) bool { return s != nil && !readableSelector(s) })
	}
	return fields == 1 && valid(peer.Namespaces, peer.Nodes) &&
		(peer.Pods == nil || valid(&peer.Pods.NamespaceSelector, &peer.Pods.PodSelector))
}

// readableDomain reports whether a domain name can be read: labels of letters, digits, - and _, each with a letter or
// digit at both ends, two at least, the first of which may be a * if there are three.
func readableDomain(name string) bool {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	if labels[0] == "*" {
		labels = labels[1:]
	}
	simple := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
	for _, label := range labels {
		if label == "" || !simple(label[0]) || !simple(label[len(label)-1]) {
			return false
		}
		for i := range len(label) {
			if !simple(label[i]) && label[i] != '-' && label[i] != '_' {
				return false
			}
		}
	}
	return len(labels) >= 2
}

// readableProtocol reports whether an entry of protocols can be read: it must have one field, in which a
// port must be one number or one range.
func readableProtocol(entry clusterv1beta1.ClusterNetworkPolicyProtocol) bool {
	var port *clusterv1beta1.Port
	switch {
	case howMany(entry.TCP != nil, entry.UDP != nil, entry.SCTP != nil, entry.DestinationNamedPort != "") != 1:
		return false
	case entry.TCP != nil:
		port = entry.TCP.DestinationPort
	case entry.UDP != nil:
		port = entry.UDP.DestinationPort
	case entry.SCTP != nil:
		port = entry.SCTP.DestinationPort
	}
	isNumber := func(n int32) bool { return 1 <= n && n <= 65535 }
	switch {
	case port == nil:
		return true
	case port.Range == nil:
		return isNumber(port.Number)
	}
	return port.Number == 0 && isNumber(port.Range.Start) && isNumber(port.Range.End) && port.Range.Start <= port.Range.End
}

// hasNumber reports whether a port is meant. If none is given, all are.
func hasNumber(port *clusterv1beta1.Port, number uint16) bool {
	switch n := int32(number); {
	case port == nil:
		return true
	case port.Range != nil:
		return port.Range.Start <= n && n <= port.Range.End
	default:
		return port.Number == n
	}
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

// readableSelector reports whether a selector is valid.
func readableSelector(ls *metav1.LabelSelector) bool {
	for key, value := range ls.MatchLabels {
		if !isLabel(key, value) {
			return false
		}
	}
	for _, e := range ls.MatchExpressions {
		lists, valid := len(e.Values) > 0, false
		switch e.Operator {
		case "In", "NotIn":
			valid = lists
		case "Exists", "DoesNotExist":
			valid = !lists
		}
		if !valid || !isLabel(e.Key, e.Values...) {
			return false
		}
	}
	return true
}
