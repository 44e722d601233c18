package manifests

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// A ClusterNetworkPolicy is validated by the schema in its CustomResourceDefinition, that of the
// experimental channel, which takes all that the standard one takes. Selectors and port names,
// which the schema does not look into, are validated as a NetworkPolicy's are: what they mean by
// mistake, nothing can have.

// What the schema allows.
const (
	maxPriority    = 1000
	maxItems       = 25 // of every list
	maxRuleName    = 100
	maxNetworkText = 43
)

// domainName is the schema's pattern for domainNames.
var domainName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$`)

func (v *validator) clusterPolicy(spec *clusterv1beta1.ClusterNetworkPolicySpec, path *field.Path) {
	if !v.required(path) {
		return
	}
	supported(v, path.Child("tier"), spec.Tier, clusterv1beta1.AdminTier, clusterv1beta1.BaselineTier)
	if priority := path.Child("priority"); v.required(priority) && (spec.Priority < 0 || spec.Priority > maxPriority) {
		v.add(field.Invalid(priority, spec.Priority, validation.InclusiveRangeError(0, maxPriority)))
	}
	if subject := path.Child("subject"); v.required(subject) {
		v.oneOf(subject, "namespaces", "pods")
		v.clusterSelectors(spec.Subject.Namespaces, spec.Subject.Pods, subject)
	}
	v.atMost(path.Child("ingress"), len(spec.Ingress))
	for i := range spec.Ingress {
		v.ingressRule(&spec.Ingress[i], path.Child("ingress").Index(i))
	}
	v.atMost(path.Child("egress"), len(spec.Egress))
	for i := range spec.Egress {
		v.egressRule(&spec.Egress[i], path.Child("egress").Index(i))
	}
}

func (v *validator) ingressRule(rule *clusterv1beta1.ClusterNetworkPolicyIngressRule, path *field.Path) {
	v.clusterRule(rule.Name, rule.Action, rule.Protocols, path)
	from := path.Child("from")
	if v.required(from) {
		v.someItems(from, len(rule.From))
	}
	for i, peer := range rule.From {
		v.oneOf(from.Index(i), "namespaces", "pods")
		v.clusterSelectors(peer.Namespaces, peer.Pods, from.Index(i))
	}
}

func (v *validator) egressRule(rule *clusterv1beta1.ClusterNetworkPolicyEgressRule, path *field.Path) {
	v.clusterRule(rule.Name, rule.Action, rule.Protocols, path)
	to := path.Child("to")
	if v.required(to) {
		v.someItems(to, len(rule.To))
	}
	named := true
	for i := range rule.To {
		v.egressPeer(&rule.To[i], to.Index(i))
		named = named && rule.To[i].Networks == nil && rule.To[i].Nodes == nil && rule.To[i].DomainNames == nil
	}
	for i := range rule.Protocols {
		if port := path.Child("protocols").Index(i).Child("destinationNamedPort"); !named && v.has(port) {
			v.add(field.Forbidden(port, "may not be specified with `networks`, `nodes` or `domainNames` in `to`, where ports have no names"))
		}
	}
}

// clusterRule validates what rules of both directions have.
func (v *validator) clusterRule(name string, action clusterv1beta1.ClusterNetworkPolicyRuleAction, protocols []clusterv1beta1.ClusterNetworkPolicyProtocol, path *field.Path) {
	if utf8.RuneCountInString(name) > maxRuleName {
		v.add(field.TooLongCharacters(path.Child("name"), name, maxRuleName))
	}
	supported(v, path.Child("action"), action,
		clusterv1beta1.ClusterNetworkPolicyRuleActionAccept, clusterv1beta1.ClusterNetworkPolicyRuleActionDeny, clusterv1beta1.ClusterNetworkPolicyRuleActionPass)
	child := path.Child("protocols")
	v.someItems(child, len(protocols))
	for i := range protocols {
		v.clusterProtocol(&protocols[i], child.Index(i))
	}
}

func (v *validator) egressPeer(peer *clusterv1beta1.ClusterNetworkPolicyEgressPeer, path *field.Path) {
	v.oneOf(path, "namespaces", "pods", "nodes", "networks", "domainNames")
	v.clusterSelectors(peer.Namespaces, peer.Pods, path)
	if peer.Nodes != nil {
		v.clusterSelector(peer.Nodes, path.Child("nodes"))
	}
	networks := path.Child("networks")
	set(v, networks, peer.Networks)
	for i, text := range peer.Networks {
		v.network(string(text), networks.Index(i))
	}
	names := path.Child("domainNames")
	set(v, names, peer.DomainNames)
	for i, name := range peer.DomainNames {
		if !domainName.MatchString(string(name)) {
			v.add(field.Invalid(names.Index(i), name, "must be a domain name, or one behind `*.`, such as example.com or *.example.com"))
		}
	}
}

func (v *validator) network(text string, path *field.Path) {
	if utf8.RuneCountInString(text) > maxNetworkText {
		v.add(field.TooLongCharacters(path, text, maxNetworkText))
		return
	}
	// Strictly: that is what the schema's rule comes to, isCIDR(self) && cidr(self) == cidr(self).masked().
	v.add(validation.IsValidCIDRForLegacyField(path, text, true, nil)...)
}

// clusterSelectors validates the fields by which a subject or a peer selects pods.
func (v *validator) clusterSelectors(namespaces *metav1.LabelSelector, pods *clusterv1beta1.NamespacedPod, path *field.Path) {
	if namespaces != nil {
		v.clusterSelector(namespaces, path.Child("namespaces"))
	}
	if pods != nil {
		v.clusterSelector(&pods.NamespaceSelector, path.Child("pods", "namespaceSelector"))
		v.required(path.Child("pods", "podSelector"))
		v.clusterSelector(&pods.PodSelector, path.Child("pods", "podSelector"))
	}
}

// clusterSelector validates a selector. A label that is null is one that the API server leaves out
// of a custom resource: the selector would mean more than is written.
func (v *validator) clusterSelector(s *metav1.LabelSelector, path *field.Path) {
	v.selector(s, path)
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		if label := path.Child("matchLabels").Key(key); !v.has(label) {
			v.add(field.Required(label, `the API server leaves out a label that is null; an empty value is ""`))
		}
	}
}

func (v *validator) clusterProtocol(p *clusterv1beta1.ClusterNetworkPolicyProtocol, path *field.Path) {
	v.oneOf(path, "tcp", "udp", "sctp", "destinationNamedPort")
	if p.TCP != nil {
		v.destinationPort(p.TCP.DestinationPort, path.Child("tcp", "destinationPort"))
	}
	if p.UDP != nil {
		v.destinationPort(p.UDP.DestinationPort, path.Child("udp", "destinationPort"))
	}
	if p.SCTP != nil {
		v.destinationPort(p.SCTP.DestinationPort, path.Child("sctp", "destinationPort"))
	}
	if name := path.Child("destinationNamedPort"); v.has(name) {
		v.messages(name, p.DestinationNamedPort, validation.IsValidPortName(p.DestinationNamedPort))
	}
}

func (v *validator) destinationPort(port *clusterv1beta1.Port, path *field.Path) {
	if port == nil {
		v.add(field.Required(path, ""))
		return
	}
	v.oneOf(path, "number", "range")
	if number := path.Child("number"); v.has(number) {
		v.messages(number, port.Number, validation.IsValidPortNum(int(port.Number)))
	}
	if port.Range == nil {
		return
	}
	start, end := path.Child("range", "start"), path.Child("range", "end")
	v.endOfRange(port.Range.Start, start)
	v.endOfRange(port.Range.End, end)
	if v.has(start) && v.has(end) && port.Range.End <= port.Range.Start {
		v.add(field.Invalid(end, port.Range.End, "must be greater than `start`"))
	}
}

func (v *validator) endOfRange(number int32, path *field.Path) {
	if v.required(path) {
		v.messages(path, number, validation.IsValidPortNum(int(number)))
	}
}

// has reports whether a field is written: what was decoded does not tell one that is missing from
// one that is zero.
func (v *validator) has(path *field.Path) bool { return v.document.has(path.String()) }

// required validates that a field is written.
func (v *validator) required(path *field.Path) bool {
	has := v.has(path)
	if !has {
		v.add(field.Required(path, ""))
	}
	return has
}

// oneOf validates an object that must have exactly one of its fields.
func (v *validator) oneOf(path *field.Path, names ...string) {
	fields := 0
	for _, name := range names {
		if v.has(path.Child(name)) {
			fields++
		}
	}
	all := "`" + strings.Join(names, "`, `") + "`"
	switch {
	case fields == 0:
		v.add(field.Required(path, "must specify one of "+all))
	case fields > 1:
		v.add(field.Forbidden(path, "may not specify more than one of "+all))
	}
}

// someItems validates a list that, if it is written, must have items.
func (v *validator) someItems(path *field.Path, items int) {
	if items == 0 && v.has(path) {
		v.add(field.Required(path, "must have at least one item"))
	}
	v.atMost(path, items)
}

func (v *validator) atMost(path *field.Path, items int) {
	if items > maxItems {
		v.add(field.TooMany(path, items, maxItems))
	}
}

// set validates a list with items, each of them once.
func set[T comparable](v *validator, path *field.Path, items []T) {
	v.someItems(path, len(items))
	for i, item := range items {
		if slices.Contains(items[:i], item) {
			v.add(field.Duplicate(path.Index(i), item))
		}
	}
}

// supported validates a field that must be written, as one of a few values.
func supported[T ~string](v *validator, path *field.Path, value T, values ...T) {
	if v.required(path) && !slices.Contains(values, value) {
		v.add(field.NotSupported(path, value, values))
	}
}
