package policy

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// ParseCluster reads a ClusterNetworkPolicy. It always returns a Policy that can be enforced. What
// cannot be read is a Problem, and closes: if it is a peer or a protocol of a rule that accepts, that
// peer or protocol matches nothing; if it is one of a rule that denies or passes, the rule becomes a
// denial of everything in its direction.
func ParseCluster(cnp *clusterv1beta1.ClusterNetworkPolicy) (Policy, []Problem) {
	r := reader{policy: Key{Name: cnp.Name}, size: newSize()}
	p := Policy{Key: r.policy, Staged: r.staged(cnp.Annotations), Priority: cnp.Spec.Priority, Subject: r.subject(&cnp.Spec.Subject)}
	switch cnp.Spec.Tier {
	case clusterv1beta1.AdminTier:
		p.Tier = AdminTier
	case clusterv1beta1.BaselineTier:
		p.Tier = BaselineTier
	default:
		r.problem("spec.tier", "unknown tier %q: the policy is taken for one of the tier Admin, its rules accept nothing, and it denies all in a direction in which it denies or passes", cnp.Spec.Tier)
		p.Tier = AdminTier
	}
	for i, rule := range cnp.Spec.Ingress {
		at := fmt.Sprintf("spec.ingress[%d]", i)
		c := clusterRule{reader: &r, at: at, rule: Rule{Index: i, Name: rule.Name}, scope: Local}
		c.action(rule.Action)
		for j, peer := range rule.From {
			c.peer(fmt.Sprintf("%s.from[%d]", at, j), clusterv1beta1.ClusterNetworkPolicyEgressPeer{Namespaces: peer.Namespaces, Pods: peer.Pods})
		}
		p.Rules[Ingress] = append(p.Rules[Ingress], c.read(len(rule.From), rule.Protocols))
	}
	for i, rule := range cnp.Spec.Egress {
		at := fmt.Sprintf("spec.egress[%d]", i)
		c := clusterRule{reader: &r, at: at, rule: Rule{Index: i, Name: rule.Name}, scope: Cluster}
		c.action(rule.Action)
		for j, peer := range rule.To {
			c.peer(fmt.Sprintf("%s.to[%d]", at, j), peer)
		}
		p.Rules[Egress] = append(p.Rules[Egress], c.read(len(rule.To), rule.Protocols))
	}
	if cnp.Spec.Tier != clusterv1beta1.AdminTier && cnp.Spec.Tier != clusterv1beta1.BaselineTier {
		p = p.WithoutRules()
	}
	for _, d := range Directions {
		p.Rules[d] = formInOrder(p.Rules[d])
	}
	p.divide()
	return p, r.problems
}

// subject reads which pods a ClusterNetworkPolicy is about.
func (r *reader) subject(subject *clusterv1beta1.ClusterNetworkPolicySubject) *Selector {
	var pods clusterv1beta1.NamespacedPod
	switch {
	case (subject.Namespaces == nil) == (subject.Pods == nil):
		r.problem("spec.subject", "must have either namespaces or pods: the policy selects no pod")
		return nil
	case subject.Namespaces != nil:
		pods.NamespaceSelector = *subject.Namespaces
	default:
		pods = *subject.Pods
	}
	s, field, err := selectorOf(&pods, subject.Namespaces != nil)
	if err != nil {
		r.problem("spec.subject."+field, "%v: the policy selects no pod", err)
		return nil
	}
	return &s
}

// selectorOf reads which pods are meant. If that fails, it says in which field. namespaces says that
// the field is a selector of namespaces alone.
func selectorOf(pods *clusterv1beta1.NamespacedPod, namespaces bool) (s Selector, field string, err error) {
	if s.Namespaces, err = canonical(&pods.NamespaceSelector); err != nil {
		if field = "pods.namespaceSelector"; namespaces {
			field = "namespaces"
		}
		return s, field, err
	}
	if s.Pods, err = canonical(&pods.PodSelector); err != nil {
		return s, "pods.podSelector", err
	}
	return s, "", nil
}

// clusterRule reads a rule of a ClusterNetworkPolicy.
type clusterRule struct {
	*reader
	at    string
	rule  Rule
	scope Scope
	// unread: something of the rule could not be read.
	unread bool
	// of all ranges of addresses that the rule names
	blocks []AddrRange
}

// cannotRead notes a peer or a protocol that cannot be read.
func (c *clusterRule) cannotRead(field, format string, args ...any) {
	follows := "it matches nothing"
	if c.rule.Action != Accept {
		follows = "the rule denies everything in its direction"
	}
	c.problem(field, "%s: %s", fmt.Sprintf(format, args...), follows)
	c.unread = true
}

func (c *clusterRule) action(action clusterv1beta1.ClusterNetworkPolicyRuleAction) {
	switch action {
	case clusterv1beta1.ClusterNetworkPolicyRuleActionAccept:
		c.rule.Action = Accept
	case clusterv1beta1.ClusterNetworkPolicyRuleActionPass:
		c.rule.Action = Pass
	case clusterv1beta1.ClusterNetworkPolicyRuleActionDeny:
		c.rule.Action = Deny
	default:
		c.rule.Action = Deny
		c.cannotRead(c.at+".action", "unknown action %q", action)
	}
}

// peer reads one entry of from or to, which must have exactly one of its fields.
func (c *clusterRule) peer(at string, peer clusterv1beta1.ClusterNetworkPolicyEgressPeer) {
	fields := 0
	for _, has := range []bool{peer.Namespaces != nil, peer.Pods != nil, peer.Nodes != nil, len(peer.Networks) > 0, len(peer.DomainNames) > 0} {
		if has {
			fields++
		}
	}
	switch {
	case fields == 0:
		c.cannotRead(at, "has none of the fields that podfence knows")
	case fields > 1:
		c.cannotRead(at, "has more than one field")
	case peer.Namespaces != nil:
		c.selector(at, &clusterv1beta1.NamespacedPod{NamespaceSelector: *peer.Namespaces}, true)
	case peer.Pods != nil:
		c.selector(at, peer.Pods, false)
	case peer.Nodes != nil:
		c.nodes(at+".nodes", peer.Nodes)
	case len(peer.Networks) > 0:
		c.networks(at, peer.Networks)
	default:
		c.domains(at, peer.DomainNames)
	}
}

// domains reads domain names. A rule that accepts may have some; what else has would depend on what names are
// resolved to, and be open for a name that is not.
func (c *clusterRule) domains(at string, names []clusterv1beta1.DomainName) {
	if c.rule.Action != Accept {
		c.cannotRead(at+".domainNames", "domain names are for rules that accept")
		return
	}
	for i, text := range names {
		if !isDomainName.MatchString(string(text)) {
			c.cannotRead(fmt.Sprintf("%s.domainNames[%d]", at, i), "%q is not a domain name, nor one behind *.", text)
			continue
		}
		c.rule.Domains = append(c.rule.Domains, DomainNameOf(string(text)))
	}
}

func (c *clusterRule) selector(at string, pods *clusterv1beta1.NamespacedPod, namespaces bool) {
	s, field, err := selectorOf(pods, namespaces)
	if err != nil {
		c.cannotRead(at+"."+field, "%v", err)
		return
	}
	c.rule.Peers = append(c.rule.Peers, s)
}

func (c *clusterRule) nodes(at string, nodes *metav1.LabelSelector) {
	text, err := canonical(nodes)
	if err != nil {
		c.cannotRead(at, "%v", err)
		return
	}
	c.rule.Peers = append(c.rule.Peers, Selector{OfNodes: true, Nodes: text})
}

func (c *clusterRule) networks(at string, networks []clusterv1beta1.CIDR) {
	for i, text := range networks {
		cidr, err := ParsePrefix(string(text))
		if err != nil {
			c.cannotRead(fmt.Sprintf("%s.networks[%d]", at, i), "%v", err)
			continue
		}
		c.blocks = append(c.blocks, Subtract(cidr, nil)...)
	}
}

// protocol reads one entry of protocols, which must have exactly one of its fields.
func (c *clusterRule) protocol(at string, entry *clusterv1beta1.ClusterNetworkPolicyProtocol) {
	type numbered struct {
		protocol Protocol
		field    string
		port     *clusterv1beta1.Port
	}
	var has []numbered
	if entry.TCP != nil {
		has = append(has, numbered{TCP, "tcp", entry.TCP.DestinationPort})
	}
	if entry.UDP != nil {
		has = append(has, numbered{UDP, "udp", entry.UDP.DestinationPort})
	}
	if entry.SCTP != nil {
		has = append(has, numbered{SCTP, "sctp", entry.SCTP.DestinationPort})
	}
	switch {
	case len(has) == 0 && entry.DestinationNamedPort != "":
		c.rule.NamedPorts = append(c.rule.NamedPorts, NamedPort{Name: entry.DestinationNamedPort, Scope: c.scope})
	case len(has) == 0:
		c.cannotRead(at, "has none of the fields that podfence knows")
	case len(has) > 1 || entry.DestinationNamedPort != "":
		c.cannotRead(at, "has more than one field")
	default:
		c.port(at+"."+has[0].field, has[0].protocol, has[0].port)
	}
}

// port reads the ports of a protocol. If none is given, all are meant.
func (c *clusterRule) port(at string, protocol Protocol, port *clusterv1beta1.Port) {
	first, last := int32(0), int32(65535)
	switch {
	case port == nil:
	case (port.Number == 0) == (port.Range == nil):
		c.cannotRead(at+".destinationPort", "must have either a number or a range")
		return
	default:
		if first, last = port.Number, port.Number; port.Range != nil {
			first, last = port.Range.Start, port.Range.End
		}
		if first < 1 || last < first || last > 65535 {
			c.cannotRead(at+".destinationPort", "ports %d to %d are not 1 to 65535 in order", first, last)
			return
		}
	}
	c.rule.Ports = append(c.rule.Ports, PortRange{Protocol: protocol, First: uint16(first), Last: uint16(last)})
}

// read returns the rule, once its peers have been read, of which there are so many.
func (c *clusterRule) read(peers int, protocols []clusterv1beta1.ClusterNetworkPolicyProtocol) Rule {
	if peers == 0 {
		c.cannotRead(c.at, "has no peers")
	}
	c.rule.AnyPort = len(protocols) == 0
	for i := range protocols {
		c.protocol(fmt.Sprintf("%s.protocols[%d]", c.at, i), &protocols[i])
	}
	if c.unread && c.rule.Action != Accept {
		return denyAll(c.rule.Index, c.rule.Name)
	}
	rule := c.rule
	slices.SortFunc(rule.Peers, Selector.Compare)
	rule.Peers, rule.Blocks, rule.Ports = slices.Compact(rule.Peers), MergeRanges(c.blocks), mergePorts(rule.Ports)
	slices.SortFunc(rule.NamedPorts, compareNamedPort)
	slices.Sort(rule.Domains)
	rule.NamedPorts, rule.Domains = slices.Compact(rule.NamedPorts), slices.Compact(rule.Domains)
	return rule
}

// denyAll is a rule that denies everything in its direction.
func denyAll(index int, name string) Rule {
	return Rule{Index: index, Name: name, Action: Deny, AnyPeer: true, AnyPort: true}
}

// formInOrder returns rules in the form in which they are enforced, where their order counts.
func formInOrder(rules []Rule) (formed []Rule) {
	formed = slices.Grow(formed, len(rules)) // few are split
	for _, rule := range rules {
		rule.Peers = unite(rule.Peers)
		formed = append(formed, rule.split()...)
	}
	return formed
}
