package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is what becomes of a packet: it passes if both sides let it.
type Verdict struct {
	Egress, Ingress Judgement
}

// Allowed reports whether the packet reaches its destination.
func (v Verdict) Allowed() bool { return v.Egress.Allowed && v.Ingress.Allowed }

func (v Verdict) String() string {
	word := "deny"
	if v.Allowed() {
		word = "allow"
	}
	return fmt.Sprintf("%s (egress: %s; ingress: %s)", word, v.Egress, v.Ingress)
}

// Judgement is one side's part of a Verdict.
type Judgement struct {
	Allowed bool
	// Pod is the subject; zero if that side is no pod.
	Pod Key
	// Node is where the side is enforced, perhaps Everywhere; empty if nowhere.
	Node string
	// Isolating are the NetworkPolicies that isolate the subject, in order.
	Isolating []Key
	// Selecting are the ClusterNetworkPolicies that select the subject and have rules in this
	// direction, in order of their names. While the subject's Namespace is not known, they are
	// those that close the direction.
	Selecting []Key
	// By are the rules that allow the packet, in order.
	By []RuleRef
	// DeniedBy are the rules of ClusterNetworkPolicies that deny the packet, in order.
	DeniedBy []RuleRef
	// Reason says why, where that is not by what a rule says.
	Reason string
}

// Fenced reports whether policies decide in this direction, whatever they say of this packet.
func (j Judgement) Fenced() bool { return len(j.Isolating)+len(j.Selecting) > 0 }

// Everywhere stands for all nodes. No node has this name.
const Everywhere = "*"

// RuleRef points at what has decided about a packet.
type RuleRef struct {
	// Policy has no namespace if it is a ClusterNetworkPolicy.
	Policy    Key
	Direction Direction
	Rule      int
	// Peer is the place in from or to, Port that in ports or protocols; -1 where the rule
	// has no such list, or where it does not matter what is in it.
	Peer, Port int
}

func (r RuleRef) String() string {
	policy, ports := r.Policy.String(), "ports"
	if r.Policy.Namespace == "" {
		policy, ports = "ClusterNetworkPolicy "+r.Policy.Name, "protocols"
	}
	text := fmt.Sprintf("%s %s[%d]", policy, r.Direction, r.Rule)
	if r.Peer >= 0 {
		text += fmt.Sprintf(".%s[%d]", map[Direction]string{Ingress: "from", Egress: "to"}[r.Direction], r.Peer)
	}
	if r.Port >= 0 {
		text += fmt.Sprintf(".%s[%d]", ports, r.Port)
	}
	return text
}

func (j Judgement) String() string {
	switch {
	case len(j.By) > 0:
		return "allowed by " + listed(j.By)
	case len(j.DeniedBy) > 0 && j.Reason != "":
		return fmt.Sprintf("denied by %s, as %s", listed(j.DeniedBy), j.Reason)
	case len(j.DeniedBy) > 0:
		return "denied by " + listed(j.DeniedBy)
	case len(j.Isolating) > 0 && !j.Allowed:
		return fmt.Sprintf("%s is isolated by %s and no rule allows it", j.Pod, listed(j.Isolating))
	}
	return j.Reason
}

// listed is a list as one text.
func listed[T fmt.Stringer](all []T) string {
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = one.String()
	}
	return strings.Join(texts, ", ")
}

// compareKey is the one order of keys in this package: by namespace, then by name. That is not
// the order of the keys' texts. Judge, which shares nothing, says the same for itself.
func compareKey(a, b Key) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// sortedKeys sorts keys in place, and returns them.
func sortedKeys(keys []Key) []Key {
	slices.SortFunc(keys, compareKey)
	return keys
}

// At reports whether the part of the verdict that is enforced at a node lets the packet pass
// there. Each side is enforced at its pod's node.
func (v Verdict) At(node string) bool {
	passes := func(j Judgement) bool { return j.Allowed || j.Node != node && j.Node != Everywhere }
	return passes(v.Egress) && passes(v.Ingress)
}
