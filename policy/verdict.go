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
	// Isolating are the policies that isolate the subject, in order.
	Isolating []Key
	// By are the rules that allow the packet, in order.
	By []RuleRef
	// Reason says why, where that is not by a policy.
	Reason string
}

// Everywhere stands for all nodes. No node has this name.
const Everywhere = "*"

// RuleRef points at what allowed a packet.
type RuleRef struct {
	Policy    Key
	Direction Direction
	Rule      int
	// Peer is the place in from or to, Port that in ports; -1 where the rule
	// has no such list.
	Peer, Port int
}

func (r RuleRef) String() string {
	text := fmt.Sprintf("%s %s[%d]", r.Policy, r.Direction, r.Rule)
	if r.Peer >= 0 {
		text += fmt.Sprintf(".%s[%d]", map[Direction]string{Ingress: "from", Egress: "to"}[r.Direction], r.Peer)
	}
	if r.Port >= 0 {
		text += fmt.Sprintf(".ports[%d]", r.Port)
	}
	return text
}

func (j Judgement) String() string {
	switch {
	case len(j.By) > 0:
		texts := make([]string, len(j.By))
		for i, by := range j.By {
			texts[i] = by.String()
		}
		return "allowed by " + strings.Join(texts, ", ")
	case len(j.Isolating) > 0 && !j.Allowed:
		texts := make([]string, len(j.Isolating))
		for i, key := range j.Isolating {
			texts[i] = key.String()
		}
		return fmt.Sprintf("%s is isolated by %s and no rule allows it", j.Pod, strings.Join(texts, ", "))
	}
	return j.Reason
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
