package truth

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// fence is a NetworkPolicy in the few words that the oracle needs.
type fence struct {
	key      policy.Key
	app      string // of the pods that it selects; empty: all of its namespace
	isolates [len(policy.Directions)]bool
	rules    [len(policy.Directions)][]rule
}

// rule allows traffic with pods of an app, of the fence's namespace or of those of a
// team, or with anybody; at any port, or at one of a name.
type rule struct {
	anybody        bool
	app, team      string
	port           string
	otherNamespace bool
}

var (
	teams  = []string{"a", "b"}
	fences = []fence{
		{key: key("shop", "deny"), app: "db", isolates: [2]bool{true, true}},
		{key: key("shop", "clients"), app: "db", isolates: [2]bool{policy.Ingress: true}, rules: [2][]rule{policy.Ingress: {{app: "client", port: "http"}}}},
		{key: key("shop", "out"), app: "client", isolates: [2]bool{policy.Egress: true}, rules: [2][]rule{policy.Egress: {
			{app: "db", otherNamespace: true, team: "b", port: "http"}, {app: "web"},
		}}},
		{key: key("db", "in"), isolates: [2]bool{policy.Ingress: true}, rules: [2][]rule{policy.Ingress: {{app: "client", otherNamespace: true, team: "a"}}}},
		{key: key("db", "named"), app: "web", isolates: [2]bool{true, true}, rules: [2][]rule{
			policy.Ingress: {{anybody: true, port: "http"}}, policy.Egress: {{anybody: true, port: "http"}},
		}},
	}
)

func key(namespace, name string) policy.Key { return policy.Key{Namespace: namespace, Name: name} }

func namespaceOf(name, team string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
}

// object is the fence as the API has it.
func (f fence) object() client.Object {
	np := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.key.Namespace, Name: f.key.Name},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: *labelled("app", f.app), PolicyTypes: []networkingv1.PolicyType{}},
	}
	for d, kind := range map[policy.Direction]networkingv1.PolicyType{policy.Ingress: networkingv1.PolicyTypeIngress, policy.Egress: networkingv1.PolicyTypeEgress} {
		if f.isolates[d] {
			np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, kind)
		}
	}
	for _, r := range f.rules[policy.Ingress] {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: r.peers(), Ports: r.ports()})
	}
	for _, r := range f.rules[policy.Egress] {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: r.peers(), Ports: r.ports()})
	}
	return np
}

func labelled(key, value string) *metav1.LabelSelector {
	if value == "" {
		return &metav1.LabelSelector{}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

func (r rule) peers() []networkingv1.NetworkPolicyPeer {
	if r.anybody {
		return nil
	}
	peer := networkingv1.NetworkPolicyPeer{PodSelector: labelled("app", r.app)}
	if r.otherNamespace {
		peer.NamespaceSelector = labelled("team", r.team)
	}
	return []networkingv1.NetworkPolicyPeer{peer}
}

func (r rule) ports() []networkingv1.NetworkPolicyPort {
	if r.port == "" {
		return nil
	}
	tcp, name := corev1.ProtocolTCP, intstr.FromString(r.port)
	return []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &name}}
}

// selector is the rule's in the words of a set's comment.
func (r rule) selector(f fence) string {
	if r.otherNamespace {
		return "namespaces{team=" + r.team + "} pods{app=" + r.app + "}"
	}
	return "namespace " + f.key.Namespace + " pods{app=" + r.app + "}"
}

// means reports whether a rule means a pod, as the agent knows it; nil is nobody's.
func (w *world) means(f fence, r rule, p *corev1.Pod) bool {
	if r.anybody || p == nil || p.Labels["app"] != r.app {
		return r.anybody
	}
	if !r.otherNamespace {
		return p.Namespace == f.key.Namespace
	}
	ns, _ := w.named("Namespace " + p.Namespace).known().(*corev1.Namespace)
	return ns != nil && ns.Labels["team"] == r.team
}

// fences are those that the agent knows, and that select a pod for a direction.
func (w *world) fences(d policy.Direction, p *corev1.Pod) []fence {
	return slices.DeleteFunc(slices.Clone(fences), func(f fence) bool {
		return !f.isolates[d] || f.key.Namespace != p.Namespace || f.app != "" && f.app != p.Labels["app"] ||
			w.named("NetworkPolicy "+f.key.String()).known() == nil
	})
}

// lets reports whether a pod's fences let a packet pass in a direction: with that peer,
// to a port of that pod (nil is nobody's).
func (w *world) lets(d policy.Direction, p, peer, to *corev1.Pod, packet policy.Packet) bool {
	known := w.fences(d, p)
	for _, f := range known {
		for _, r := range f.rules[d] {
			if w.means(f, r, peer) && (r.port == "" || hasPort(to, r.port, packet)) {
				return true
			}
		}
	}
	return len(known) == 0
}

// hasPort reports whether a packet is for the port of that name of a pod.
func hasPort(p *corev1.Pod, name string, packet policy.Packet) bool {
	return p != nil && packet.Protocol == policy.TCP && slices.ContainsFunc(p.Spec.Containers[0].Ports, func(port corev1.ContainerPort) bool {
		return port.Name == name && port.ContainerPort == int32(packet.DstPort)
	})
}
