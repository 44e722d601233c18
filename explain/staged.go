package explain

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// A staged policy decides nothing. An answer says which of them are about its ends, and what it would be with
// all of them in force: by the same Explainer, with the option that has policy.Judge take them for that.

// Rehearsal is what one end would decide with the staged policies in force.
type Rehearsal struct {
	Verdict Verdict `json:"verdict"`
	// Reason says in words why the verdict would be what it is.
	Reason string `json:"reason"`
	// Rules would decide it.
	Rules []Rule `json:"rules,omitempty"`
}

// RehearsedAnswer is what would become of packets with the staged policies in force.
type RehearsedAnswer struct {
	Verdict Verdict `json:"verdict"`
	// Open and Unknown are as those of the Answer.
	Open    []OpenPorts `json:"open,omitempty"`
	Unknown []OpenPorts `json:"unknown,omitempty"`
}

// stagedIn are the policies of a cluster that are staged, by themselves or by their Namespace.
func stagedIn(c *Cluster) map[policy.Key]bool {
	staged, by := map[policy.Key]bool{}, map[string]bool{}
	for _, ns := range c.Namespaces {
		if is, _ := policy.StagedBy(ns.Annotations); is {
			by[ns.Name] = true
		}
	}
	for _, np := range c.Policies {
		if is, _ := policy.StagedBy(np.Annotations); is || by[np.Namespace] {
			staged[keyOf(np)] = true
		}
	}
	for _, cnp := range c.ClusterPolicies {
		if is, _ := policy.StagedBy(cnp.Annotations); is {
			staged[policy.Key{Name: cnp.Name}] = true
		}
	}
	return staged
}

// inForce reports whether a policy decides: it is not staged, or all are judged as if they were in force.
func (x *Explainer) inForce(np *networkingv1.NetworkPolicy) bool {
	return x.options.StagedInForce || !x.staged[keyOf(np)]
}

// rehearses reports whether answers may be others with the staged policies in force.
func (x *Explainer) rehearses() bool { return len(x.staged) > 0 && !x.options.StagedInForce }

// WithStaged answers questions about the same Cluster as if its staged policies were in force.
func (x *Explainer) WithStaged() *Explainer {
	out := *x
	out.options.StagedInForce = true
	return &out
}

// rehearse adds to a side which staged policies are about the pod, and what it would be with them in force.
func (s *Side) rehearse(with Side) {
	for _, p := range with.Policies {
		if p.Staged {
			s.Staged = append(s.Staged, p)
		}
	}
	if len(s.Staged) > 0 {
		s.WithStaged = &Rehearsal{with.Verdict, with.Reason, with.Rules}
	}
}

// isRehearsed reports whether a staged policy is about one of the ends.
func (a *Answer) isRehearsed() bool { return len(a.Egress.Staged)+len(a.Ingress.Staged) > 0 }

// rehearsedText says what would be otherwise with the staged policies in force; empty: nothing would.
func (a *Answer) rehearsedText(style Style) string {
	with := a.WithStaged
	if with == nil || with.Verdict == a.Verdict && openText(with.Open) == openText(a.Open) && openText(with.Unknown) == openText(a.Unknown) {
		return ""
	}
	text := "; with the staged policies in force: " + style.verdict(with.Verdict)
	if with.Verdict == Mixed {
		text += ", open are " + openText(with.Open)
		if len(with.Unknown) > 0 {
			text += ", not known: " + openText(with.Unknown)
		}
	}
	return text
}

// stagedText writes which staged policies are about the pod of a side, and what it would decide with them in force.
func (s *Side) stagedText(b *strings.Builder, style Style) {
	if s.WithStaged == nil {
		return
	}
	names := make([]string, len(s.Staged))
	for i, p := range s.Staged {
		p.Staged = false // the line says it
		names[i] = p.String()
	}
	still := ""
	if s.WithStaged.Verdict == s.Verdict {
		still = "still "
	}
	verdict := strings.ToLower(string(s.WithStaged.Verdict))
	reason := strings.TrimPrefix(s.WithStaged.Reason, verdict+" by ")
	separator := ": "
	if reason != s.WithStaged.Reason {
		separator = " by "
	}
	shown := verdict
	if still == "" {
		shown = map[Verdict]func(string) string{Allowed: style.Allowed, Denied: style.Denied, Mixed: same, Unknown: same}[s.WithStaged.Verdict](verdict)
	}
	fmt.Fprintf(b, "    staged, not in force: %s\n      with the staged policies in force it would %sbe %s%s%s\n", strings.Join(names, ", "), still, shown, separator, reason)
}

// stagedNotes name the staged policies that are wanted, if there are any.
func (x *Explainer) stagedNotes(wanted func(policy.Key) bool) []Note {
	if x.options.StagedInForce {
		return nil
	}
	const most = 10
	var names []string
	for _, np := range x.cluster.Policies {
		if key := keyOf(np); x.staged[key] && wanted(key) {
			names = append(names, "NetworkPolicy "+key.String())
		}
	}
	for _, cnp := range x.cluster.ClusterPolicies {
		if key := (policy.Key{Name: cnp.Name}); x.staged[key] && wanted(key) {
			names = append(names, "ClusterNetworkPolicy "+cnp.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("and %d more", more))
	}
	return []Note{{"Staged", "Staged, and taken for not in force: " + strings.Join(names, ", ") + "."}}
}

// networkRef and clusterRef name a policy, and whether it is staged.
func (x *Explainer) networkRef(np *networkingv1.NetworkPolicy) PolicyRef {
	ref := networkRef(np)
	ref.Staged = x.staged[keyOf(np)]
	return ref
}

func (x *Explainer) clusterRef(cnp *clusterv1beta1.ClusterNetworkPolicy) PolicyRef {
	ref := clusterRef(cnp)
	ref.Staged = x.staged[policy.Key{Name: cnp.Name}]
	return ref
}
