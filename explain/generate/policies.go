package generate

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// policies are those of all units that get one.
func (g *generator) policies() (all []Policy) {
	var units []*unit
	for _, u := range g.units {
		switch {
		case !g.writes(u.namespace):
		case u.selector == nil:
			g.report.Unselectable = append(g.report.Unselectable, u.name())
		case !u.seen && !g.options.IsolateUnseen:
			g.report.Unseen = append(g.report.Unseen, u.name())
		default:
			units = append(units, u)
			g.report.noteLabels(u)
		}
	}
	names := g.names(units)
	for _, u := range units {
		all = append(all, g.policy(u, names[u]))
	}
	slices.SortFunc(all, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	g.report.Policies = len(all)
	return all
}

// policy is the policy of a unit.
func (g *generator) policy(u *unit, name string) Policy {
	p := Policy{
		NetworkPolicy: &networkingv1.NetworkPolicy{
			TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
			ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: name, Annotations: map[string]string{GeneratedAnnotation: "true"}},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: *u.selector.DeepCopy(),
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			},
		},
		Of:       u.of,
		Comments: map[string]string{"": "What " + u.name() + " was seen to need."},
	}
	if g.options.Staged {
		p.Annotations[policy.EnforcementAnnotation] = policy.Staged
	}
	ingress := g.rules(&u.ingress, u.namespace, u)
	if slices.Contains(g.dns.units, u) {
		ingress = append([]rule{g.dns.ingress()}, ingress...)
	}
	for i, r := range ingress {
		path := fmt.Sprintf("spec.ingress[%d]", i)
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: p.peers(r, path, "from"), Ports: r.ports})
	}
	for i, r := range append(g.dns.egress(u.namespace), g.rules(&u.egress, u.namespace, nil)...) {
		path := fmt.Sprintf("spec.egress[%d]", i)
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: p.peers(r, path, "to"), Ports: r.ports})
	}
	return p
}

// peers are the peers of a rule at a path; what is said of them is noted.
func (p *Policy) peers(r rule, path, field string) (peers []networkingv1.NetworkPolicyPeer) {
	if r.comment != "" {
		p.Comments[path] = r.comment
	}
	for i, e := range r.entries {
		peers = append(peers, *e.peer.DeepCopy())
		if e.comment != "" {
			p.Comments[fmt.Sprintf("%s.%s[%d]", path, field, i)] = e.comment
		}
	}
	return peers
}

// names gives each unit a name for its policy: the workload's; with the kind behind it, if several workloads of
// a namespace have that name; and with another end, if a policy has it that was not generated.
func (g *generator) names(units []*unit) map[*unit]string {
	foreign := map[policy.Key]bool{}
	for _, p := range g.cluster.Policies {
		foreign[policy.Key{Namespace: p.Namespace, Name: p.Name}] = p.Annotations[GeneratedAnnotation] != "true"
	}
	same := map[policy.Key]int{}
	for _, u := range units {
		same[policy.Key{Namespace: u.namespace, Name: plainName(u.of)}]++
	}
	names, taken := map[*unit]string{}, map[policy.Key]bool{}
	for _, u := range units {
		name := plainName(u.of)
		if same[policy.Key{Namespace: u.namespace, Name: name}] > 1 {
			name += "-" + strings.ToLower(u.of[0].Kind)
		}
		if foreign[policy.Key{Namespace: u.namespace, Name: name}] {
			name += "-generated"
		}
		key := policy.Key{Namespace: u.namespace, Name: name}
		if taken[key] || foreign[key] || len(validation.IsDNS1123Subdomain(name)) > 0 {
			key.Name = hashedName(name, u.of)
		}
		names[u], taken[key] = key.Name, true
	}
	return names
}

// plainName is the names of workloads in one.
func plainName(of []explain.Object) string {
	var names []string
	for _, o := range of {
		if !slices.Contains(names, o.Name) {
			names = append(names, o.Name)
		}
	}
	return strings.Join(names, "-and-")
}

// hashedName is a name that no other workloads get, of the beginning of another.
func hashedName(name string, of []explain.Object) string {
	hash := fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, of)))[:10]
	begins := strings.ToLower(name[:min(len(name), validation.DNS1123SubdomainMaxLength-len(hash)-1)])
	if whole := strings.TrimRight(begins, "-.") + "-" + hash; len(validation.IsDNS1123Subdomain(whole)) == 0 {
		return whole
	}
	return "workload-" + hash
}
