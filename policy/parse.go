package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Parse reads a NetworkPolicy. It always returns a Policy that can be
// enforced: what cannot be read allows nothing and is a Problem.
func Parse(np *networkingv1.NetworkPolicy) (Policy, []Problem) {
	r := reader{policy: Key{Namespace: np.Namespace, Name: np.Name}, size: newSize()}
	p := Policy{Key: r.policy, Staged: r.staged(np.Annotations)}
	if pods, err := canonical(&np.Spec.PodSelector); err != nil {
		r.problem("spec.podSelector", "%v: the policy selects no pod", err)
	} else {
		p.Subject = &Selector{Namespace: np.Namespace, Pods: pods}
	}
	p.Isolates = r.isolates(&np.Spec)
	if p.Isolates[Ingress] {
		for i, rule := range np.Spec.Ingress {
			p.Rules[Ingress] = append(p.Rules[Ingress], r.rule(Ingress, i, rule.From, rule.Ports))
		}
		p.Rules[Ingress] = r.fitting(Ingress, p.Rules[Ingress])
	}
	if p.Isolates[Egress] {
		for i, rule := range np.Spec.Egress {
			p.Rules[Egress] = append(p.Rules[Egress], r.rule(Egress, i, rule.To, rule.Ports))
		}
		p.Rules[Egress] = r.fitting(Egress, p.Rules[Egress])
	}
	p.divide()
	return p, r.problems
}

// reader gathers the problems of one policy.
type reader struct {
	policy   Key
	problems []Problem
	size     size
}

func (r *reader) problem(field, format string, args ...any) {
	r.problems = append(r.problems, Problem{Policy: r.policy, Field: field, Reason: plain(fmt.Sprintf(format, args...))})
}

// plain makes a single line of a text that may quote anything, because it goes into logs and
// Events. Of a long text it keeps the beginning and the end, which says what follows.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxReason {
		half := maxReason/2 - len(" … ")
		text = strings.ToValidUTF8(text[:half], "") + " … " + strings.ToValidUTF8(text[len(text)-half:], "")
	}
	return text
}

// maxReason is how many bytes a Problem's Reason has at most.
const maxReason = 512

// isolates reads policyTypes. Empty means Ingress, and Egress if there is any
// egress rule; the API server defaults it so, a manifest may not.
func (r *reader) isolates(spec *networkingv1.NetworkPolicySpec) (d [len(Directions)]bool) {
	if len(spec.PolicyTypes) == 0 {
		d[Ingress], d[Egress] = true, len(spec.Egress) > 0
	}
	for i, t := range spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			d[Ingress] = true
		case networkingv1.PolicyTypeEgress:
			d[Egress] = true
		default:
			r.problem(fmt.Sprintf("spec.policyTypes[%d]", i), "unknown type %q: the policy isolates both directions", t)
			d[Ingress], d[Egress] = true, true
		}
	}
	return d
}

func (r *reader) rule(d Direction, index int, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) Rule {
	rule := Rule{Index: index, AnyPeer: len(peers) == 0, AnyPort: len(ports) == 0}
	// To format a field's path takes longer than to read the field, and only problems need it.
	field, list := fmt.Sprintf("spec.%s[%d]", d, index), "from"
	if d == Egress {
		list = "to"
	}
	var blocks []AddrRange
	for i, peer := range peers {
		at := func() string { return fmt.Sprintf("%s.%s[%d]", field, list, i) }
		selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
		switch {
		case peer.IPBlock != nil && selects:
			r.problem(at(), "ipBlock excludes podSelector and namespaceSelector: the peer matches nothing")
		case peer.IPBlock != nil:
			blocks = append(blocks, r.block(at, peer.IPBlock)...)
		case selects:
			if s, ok := r.peer(at, &peer); ok {
				rule.Peers = append(rule.Peers, s)
			}
		default:
			r.problem(at(), "empty: the peer matches nothing")
		}
	}
	slices.SortFunc(rule.Peers, Selector.Compare)
	rule.Peers = slices.Compact(rule.Peers)
	rule.Blocks = MergeRanges(blocks)

	scope := Local
	if d == Egress {
		scope = Cluster
	}
	for i, port := range ports {
		r.port(&rule, scope, func() string { return fmt.Sprintf("%s.ports[%d]", field, i) }, port)
	}
	rule.Ports = mergePorts(rule.Ports)
	slices.SortFunc(rule.NamedPorts, compareNamedPort)
	rule.NamedPorts = slices.Compact(rule.NamedPorts)
	return rule
}

// fitting brings rules into the form in which they are enforced, without those for which there
// is no room.
func (r *reader) fitting(d Direction, rules []Rule) []Rule {
	if formed := form(rules); r.size.fits(formed) {
		return formed
	}
	for i, rule := range rules {
		if !r.size.fits(form([]Rule{rule})) {
			r.problem(fmt.Sprintf("spec.%s[%d]", d, rule.Index), "the policy is too large with its %d selectors, %d ranges of addresses, %d of ports and %d port names: "+
				"the rule matches nothing; make it another policy", len(rule.Peers), len(rule.Blocks), len(rule.Ports), len(rule.NamedPorts))
			rules[i] = Rule{Index: rule.Index}
		}
	}
	return form(rules)
}

// peer reads a peer of selectors:
//
//	podSelector                     those pods of the policy's own namespace
//	namespaceSelector               all pods of those namespaces
//	podSelector, namespaceSelector  those pods of those namespaces
func (r *reader) peer(at func() string, peer *networkingv1.NetworkPolicyPeer) (s Selector, ok bool) {
	ok = true
	read := func(field string, ls *metav1.LabelSelector) string {
		text, err := canonical(ls)
		if err != nil {
			r.problem(at()+"."+field, "%v: the peer matches nothing", err)
			ok = false
		}
		return text
	}
	if peer.NamespaceSelector == nil {
		s.Namespace = r.policy.Namespace
	} else {
		s.Namespaces = read("namespaceSelector", peer.NamespaceSelector)
	}
	if peer.PodSelector != nil {
		s.Pods = read("podSelector", peer.PodSelector)
	}
	return s, ok
}

// block reads an ipBlock, which means the addresses in cidr and in no except. If one except does
// not parse, the whole block matches nothing, because to leave the except out would open what
// it closes.
func (r *reader) block(at func() string, block *networkingv1.IPBlock) []AddrRange {
	cidr, err := ParsePrefix(block.CIDR)
	if err != nil {
		r.problem(at()+".ipBlock.cidr", "%v: the block matches nothing", err)
		return nil
	}
	var excepts []netip.Prefix
	for i, text := range block.Except {
		except, err := ParsePrefix(text)
		if err != nil {
			r.problem(fmt.Sprintf("%s.ipBlock.except[%d]", at(), i), "%v: the block matches nothing", err)
			return nil
		}
		excepts = append(excepts, except)
	}
	return Subtract(cidr, excepts)
}

// port reads one entry of ports into the rule.
func (r *reader) port(rule *Rule, scope Scope, at func() string, port networkingv1.NetworkPolicyPort) {
	protocol := TCP
	if port.Protocol != nil {
		var ok bool
		if protocol, ok = protocolOf(*port.Protocol); !ok {
			r.problem(at()+".protocol", "unknown protocol %q: the port matches nothing", *port.Protocol)
			return
		}
	}
	switch {
	case port.EndPort != nil && (port.Port == nil || port.Port.Type != intstr.Int):
		r.problem(at()+".endPort", "needs a number in port: the port matches nothing")
	case port.Port == nil:
		rule.Ports = append(rule.Ports, PortRange{Protocol: protocol, First: 0, Last: 65535})
	case port.Port.Type == intstr.String:
		rule.NamedPorts = append(rule.NamedPorts, NamedPort{Protocol: protocol, Name: port.Port.StrVal, Scope: scope})
	case port.Port.Type != intstr.Int:
		r.problem(at()+".port", "neither a number nor a name: the port matches nothing")
	default:
		first := port.Port.IntVal
		last := first
		if port.EndPort != nil {
			last = *port.EndPort
		}
		if first < 1 || last < first || last > 65535 {
			r.problem(at(), "ports %d to %d are not 1 to 65535 in order: the port matches nothing", first, last)
			return
		}
		rule.Ports = append(rule.Ports, PortRange{Protocol: protocol, First: uint16(first), Last: uint16(last)})
	}
}
