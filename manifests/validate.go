package manifests

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	namevalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilnet "k8s.io/utils/net"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// problem is one thing that the API server would refuse. Its path is in err as
// the API server writes it; at is where to look for the line, which for a
// label is more exact.
type problem struct {
	err *field.Error
	at  string
}

type validator struct {
	// document is what the object was decoded from.
	document *node
	found    []problem
}

func (v *validator) add(errs ...*field.Error) {
	for _, err := range errs {
		v.found = append(v.found, problem{err, err.Field})
	}
}

// validate returns what the API server would refuse about a new object, as far
// as policy looks at it. n is what it was decoded from.
func validate(kind string, obj metav1.Object, n *node) []problem {
	v := &validator{document: n}
	v.metadata(kind, obj)
	spec, status := field.NewPath("spec"), field.NewPath("status")
	switch o := obj.(type) {
	case *corev1.Node:
		v.podCIDRs(&o.Spec, spec)
	case *corev1.Pod:
		v.containerPorts(o.Spec.InitContainers, spec.Child("initContainers"))
		v.containerPorts(o.Spec.Containers, spec.Child("containers"))
		v.podIPs(&o.Status, status)
	case *networkingv1.NetworkPolicy:
		v.policy(&o.Spec, spec)
	case *clusterv1beta1.ClusterNetworkPolicy:
		v.clusterPolicy(&o.Spec, spec)
	}
	return v.found
}

func (v *validator) metadata(kind string, obj metav1.Object) {
	path := field.NewPath("metadata")
	valid := namevalidation.NameIsDNSSubdomain
	if kind == "Namespace" {
		valid = namevalidation.ValidateNamespaceName
	}
	if obj.GetName() == "" {
		v.add(field.Required(path.Child("name"), "nothing generates one here"))
	} else {
		v.messages(path.Child("name"), obj.GetName(), valid(obj.GetName(), false))
	}
	switch namespace := obj.GetNamespace(); {
	case namespaced(kind):
		v.messages(path.Child("namespace"), namespace, namevalidation.ValidateNamespaceName(namespace, false))
	case namespace != "":
		v.add(field.Forbidden(path.Child("namespace"), "not allowed on this type"))
	}
	v.labels(obj.GetLabels(), path.Child("labels"))
}

func (v *validator) messages(path *field.Path, value any, msgs []string) {
	for _, msg := range msgs {
		v.add(field.Invalid(path, value, msg))
	}
}

// labels validates labels one by one, to know which of them it is about.
func (v *validator) labels(labels map[string]string, path *field.Path) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		for _, err := range metavalidation.ValidateLabels(map[string]string{key: labels[key]}, path) {
			v.found = append(v.found, problem{err, path.Key(key).String()})
		}
	}
}

func (v *validator) selector(s *metav1.LabelSelector, path *field.Path) {
	v.labels(s.MatchLabels, path.Child("matchLabels"))
	rest := &metav1.LabelSelector{MatchExpressions: s.MatchExpressions}
	v.add(metavalidation.ValidateLabelSelector(rest, metavalidation.LabelSelectorValidationOptions{}, path)...)
}

func (v *validator) podCIDRs(spec *corev1.NodeSpec, path *field.Path) {
	texts, child := spec.PodCIDRs, path.Child("podCIDRs")
	var families families
	for i, text := range texts {
		if prefix, ok := v.cidr(text, child.Index(i)); ok {
			families.count(prefix.Addr())
		}
	}
	if families.twice() {
		v.add(field.Invalid(child, texts, "may specify no more than one CIDR for each IP family"))
	}
	switch {
	case spec.PodCIDR == "":
	case len(texts) == 0:
		v.cidr(spec.PodCIDR, path.Child("podCIDR"))
	case texts[0] != spec.PodCIDR:
		v.add(field.Invalid(child.Index(0), texts[0], "must be equal to `podCIDR`"))
	}
}

func (v *validator) podIPs(status *corev1.PodStatus, path *field.Path) {
	child := path.Child("podIPs")
	var families families
	for i, ip := range status.PodIPs {
		if addr, ok := v.ip(ip.IP, child.Index(i).Child("ip")); ok {
			families.count(addr)
		}
	}
	if families.twice() {
		v.add(field.Invalid(child, status.PodIPs, "may specify no more than one IP for each IP family"))
	}
	switch {
	case status.PodIP == "":
	case len(status.PodIPs) == 0:
		v.ip(status.PodIP, path.Child("podIP"))
	case status.PodIPs[0].IP != status.PodIP:
		v.add(field.Invalid(child.Index(0).Child("ip"), status.PodIPs[0].IP, "must be equal to `podIP`"))
	}
}

// containerPorts validates what named ports resolve to.
func (v *validator) containerPorts(containers []corev1.Container, path *field.Path) {
	for i, container := range containers {
		for j, port := range container.Ports {
			child := path.Index(i).Child("ports").Index(j)
			if port.Name != "" {
				v.messages(child.Child("name"), port.Name, validation.IsValidPortName(port.Name))
			}
			if port.ContainerPort == 0 {
				v.add(field.Required(child.Child("containerPort"), ""))
			} else {
				v.messages(child.Child("containerPort"), port.ContainerPort, validation.IsValidPortNum(int(port.ContainerPort)))
			}
			v.protocol(port.Protocol, child.Child("protocol"))
		}
	}
}

func (v *validator) protocol(p corev1.Protocol, path *field.Path) {
	supported := []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
	if !slices.Contains(supported, p) {
		v.add(field.NotSupported(path, p, supported))
	}
}

func (v *validator) policy(spec *networkingv1.NetworkPolicySpec, path *field.Path) {
	v.selector(&spec.PodSelector, path.Child("podSelector"))
	for i, rule := range spec.Ingress {
		child := path.Child("ingress").Index(i)
		v.rule(rule.Ports, child, rule.From, child.Child("from"))
	}
	for i, rule := range spec.Egress {
		child := path.Child("egress").Index(i)
		v.rule(rule.Ports, child, rule.To, child.Child("to"))
	}
	types, child := spec.PolicyTypes, path.Child("policyTypes")
	supported := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	if len(types) > len(supported) {
		v.add(field.Invalid(child, types, "may not specify more than two policyTypes"))
		return
	}
	for i, t := range types {
		if !slices.Contains(supported, t) {
			v.add(field.NotSupported(child.Index(i), t, supported))
		}
	}
}

func (v *validator) rule(ports []networkingv1.NetworkPolicyPort, path *field.Path, peers []networkingv1.NetworkPolicyPeer, peersPath *field.Path) {
	for i := range ports {
		v.port(&ports[i], path.Child("ports").Index(i))
	}
	for i := range peers {
		v.peer(&peers[i], peersPath.Index(i))
	}
}

func (v *validator) port(p *networkingv1.NetworkPolicyPort, path *field.Path) {
	v.protocol(*p.Protocol, path.Child("protocol")) // defaulted before
	port, end := path.Child("port"), path.Child("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			v.add(field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.String:
		if p.EndPort != nil {
			v.add(field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		v.messages(port, p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))
	default:
		v.messages(port, p.Port.IntVal, validation.IsValidPortNum(int(p.Port.IntVal)))
		if p.EndPort != nil {
			if *p.EndPort < p.Port.IntVal {
				v.add(field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
			}
			v.messages(end, *p.EndPort, validation.IsValidPortNum(int(*p.EndPort)))
		}
	}
}

func (v *validator) peer(p *networkingv1.NetworkPolicyPeer, path *field.Path) {
	if p.PodSelector != nil {
		v.selector(p.PodSelector, path.Child("podSelector"))
	}
	if p.NamespaceSelector != nil {
		v.selector(p.NamespaceSelector, path.Child("namespaceSelector"))
	}
	if p.IPBlock != nil {
		v.ipBlock(p.IPBlock, path.Child("ipBlock"))
	}
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case p.IPBlock == nil && !selects:
		v.add(field.Required(path, "must specify a peer"))
	case p.IPBlock != nil && selects:
		v.add(field.Forbidden(path, "may not specify both ipBlock and another peer"))
	}
}

func (v *validator) ipBlock(b *networkingv1.IPBlock, path *field.Path) {
	if b.CIDR == "" {
		v.add(field.Required(path.Child("cidr"), ""))
		return
	}
	cidr, ok := v.cidr(b.CIDR, path.Child("cidr"))
	for i, text := range b.Except {
		child := path.Child("except").Index(i)
		except, exceptOK := v.cidr(text, child)
		// Contains is false across families.
		if ok && exceptOK && (!cidr.Contains(except.Addr()) || except.Bits() <= cidr.Bits()) {
			v.add(field.Invalid(child, text, "must be a strict subset of `cidr`"))
		}
	}
}

func (v *validator) cidr(text string, path *field.Path) (netip.Prefix, bool) {
	if errs := validation.IsValidCIDRForLegacyField(path, text, false, nil); len(errs) > 0 {
		v.add(errs...)
		return netip.Prefix{}, false
	}
	prefix, err := policy.ParsePrefix(text)
	if err != nil {
		v.add(field.Invalid(path, text, fmt.Sprintf("must be a valid CIDR value: %v", err)))
		return netip.Prefix{}, false
	}
	return prefix, true
}

func (v *validator) ip(text string, path *field.Path) (netip.Addr, bool) {
	if errs := validation.IsValidIPForLegacyField(path, text, false, nil); len(errs) > 0 {
		v.add(errs...)
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(utilnet.ParseIPSloppy(text))
	return addr.Unmap(), ok
}

// families counts addresses by family.
type families struct{ v4, v6 int }

func (f *families) count(addr netip.Addr) {
	if addr.Is4() {
		f.v4++
	} else {
		f.v6++
	}
}

func (f *families) twice() bool { return f.v4 > 1 || f.v6 > 1 }
