package explain

import (
	"fmt"
	"slices"
	"strings"

	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// side is what is decided at one end, and why.
func (x *Explainer) side(j policy.Judgement, p packet) Side {
	s := Side{Verdict: word(j.Allowed), Policies: x.asked(j)}
	if j.Node != policy.Everywhere && (!j.Allowed || len(p.subject.Pods) > 0) {
		s.EnforcedAt = j.Node
	}
	decided := j.By
	if !j.Allowed {
		decided = j.DeniedBy
	}
	for _, ref := range decided {
		rule := x.found(ref)
		rule.Domain = x.domainOf(ref, p)
		s.Rules = append(s.Rules, rule)
	}
	s.Reason = x.reason(j, p, s.Rules)
	if !j.Allowed && j.Fenced() {
		s.NearestMisses = x.nearest(x.mightAllow(j, p), p)
	}
	return s
}

// reason says in words why a side decides as it does.
func (x *Explainer) reason(j policy.Judgement, p packet, rules []Rule) string {
	switch {
	case len(rules) > 0 && j.Allowed:
		return "allowed by " + rulesText(rules)
	case len(rules) > 0 && j.Reason != "":
		return fmt.Sprintf("denied by %s, as %s", rulesText(rules), j.Reason)
	case len(rules) > 0:
		return "denied by " + rulesText(rules)
	case !j.Allowed && len(j.Isolating) > 0:
		return fmt.Sprintf("isolated for %s by %s, and no rule allows this", p.d, x.isolatingText(j.Isolating))
	case j.Reason == "not isolated":
		return fmt.Sprintf("no policy isolates the pod for %s", p.d)
	case strings.HasPrefix(j.Reason, "a node always reaches"):
		return "a node always reaches its own pods, so that probes of the kubelet need no rule"
	case j.Allowed && len(p.subject.Pods) == 0 && p.subject.OnNode:
		return fmt.Sprintf("it is node %s, and policies are about pods", p.subject.Node)
	case j.Allowed && len(p.subject.Pods) == 0:
		return "it is no pod of this cluster, and policies are about pods"
	}
	return j.Reason
}

// rulesText names rules by policy and path.
func rulesText(rules []Rule) string {
	texts := make([]string, len(rules))
	for i, r := range rules {
		texts[i] = r.Policy.String() + " " + r.Path
		if r.PortPath != "" {
			texts[i] += " and " + r.PortPath[strings.LastIndex(r.PortPath, ".")+1:]
		}
		if r.Name != "" {
			texts[i] += fmt.Sprintf(" (%q)", r.Name)
		}
		if r.Domain != nil {
			texts[i] += " " + r.Domain.String()
		}
	}
	return strings.Join(texts, ", ")
}

// String names a policy, and says if it is staged.
func (p PolicyRef) String() string {
	text := p.Kind + " "
	if p.Namespace != "" {
		text += p.Namespace + "/"
	}
	if text += p.Name; p.Staged {
		text += " (staged)"
	}
	return text
}

func (x *Explainer) isolatingText(keys []policy.Key) string {
	texts := make([]string, len(keys))
	for i, key := range keys {
		if texts[i] = key.String(); x.staged[key] {
			texts[i] += " (staged)"
		}
	}
	kind := "NetworkPolicy "
	if len(keys) > 1 {
		kind = "NetworkPolicies "
	}
	return kind + strings.Join(texts, ", ")
}

// mightAllow are the rules that could have let a denied packet pass: those of ClusterNetworkPolicies that
// are asked before the denial and accept or pass, and those of NetworkPolicies if it was left to them. Those of
// the Baseline tier are not asked about a pod that NetworkPolicies isolate.
func (x *Explainer) mightAllow(j policy.Judgement, p packet) (rules []rule) {
	for _, ref := range x.asked(j) {
		if ref.Tier == string(clusterv1beta1.BaselineTier) && len(p.subject.Pods) == 1 && len(j.Isolating) > 0 {
			return rules
		}
		for _, r := range x.rulesOf(policy.Key{Namespace: ref.Namespace, Name: ref.Name}, p.d) {
			if slices.ContainsFunc(j.DeniedBy, func(by policy.RuleRef) bool { return by.Policy == r.ref.Policy && by.Rule == r.ref.Rule }) {
				return rules
			}
			if r.action == "Accept" || r.action == "Pass" {
				rules = append(rules, r)
			}
		}
	}
	return rules
}
