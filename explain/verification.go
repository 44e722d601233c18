package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podfence/podfence/api/answers"
)

// Verification is what the kernel of a node does to the packet of a Probe.
type Verification struct {
	Node string `json:"node"`
	From End    `json:"from"`
	To   End    `json:"to"`
	// Expected is what the node should do, by the policies of its pods.
	Expected Verdict `json:"expected"`
	// Kernel is what it does; Unknown: it could not be asked, and Message says why.
	Kernel  Verdict `json:"kernel"`
	Message string  `json:"message,omitempty"`
	// Trace is the answer of the node's agent.
	Trace *answers.Trace `json:"trace,omitempty"`
}

// Verify makes a Verification of the answer of a node's agent, or of why there is none.
func (p Probe) Verify(trace *answers.Trace, err error) Verification {
	v := Verification{Node: p.Node, From: p.From, To: p.To, Expected: p.Expected, Kernel: Unknown}
	switch {
	case err != nil:
		v.Message = err.Error()
	case trace.Verdict == answers.Pass:
		v.Trace, v.Kernel = trace, Allowed
	case trace.Verdict == answers.Drop || trace.Verdict == answers.Reject:
		v.Trace, v.Kernel = trace, Denied
	default:
		v.Trace, v.Message = trace, fmt.Sprintf("the agent's verdict is %q, which this version does not know", trace.Verdict)
	}
	return v
}

// Differs reports whether the kernel does another thing than policies say.
func (v *Verification) Differs() bool {
	return v.Kernel != Unknown && v.Expected != Unknown && v.Kernel != v.Expected
}

// Asked reports whether the kernel could be asked.
func (v *Verification) Asked() bool { return v.Kernel != Unknown }

// String says it in a line.
func (v *Verification) String() string {
	kernel := fmt.Sprintf("kernel of node %s (%s -> %s)", v.Node, v.From.Address, v.To.Address)
	if !v.Asked() {
		return fmt.Sprintf("%s: not verified: %s", kernel, v.Message)
	}
	does := strings.ToLower(string(v.Kernel))
	if by := v.by(); by != "" {
		does += " by " + by
	}
	flows := "no such flow is in connection tracking"
	switch {
	case v.Trace.FlowsError != "":
		flows = "flows could not be listed: " + v.Trace.FlowsError
	case v.Trace.FlowCount > 0:
		flows = fmt.Sprintf("such flows in connection tracking: %d, of which revoked: %d", v.Trace.FlowCount, v.Trace.RevokedCount)
	}
	for _, hook := range v.Trace.Hooks {
		for _, what := range hook.Assumed {
			flows += "; assumed: " + what
		}
	}
	if v.Differs() {
		return fmt.Sprintf("%s DIFFERS: it is %s, and policies say %s; %s", kernel, does, strings.ToLower(string(v.Expected)), flows)
	}
	return fmt.Sprintf("%s: %s; %s", kernel, does, flows)
}

// by is the last rule that matched: the one that denied the packet, or that let it pass.
func (v *Verification) by() string {
	for _, hook := range slices.Backward(v.Trace.Hooks) {
		for _, step := range slices.Backward(hook.Steps) {
			if v.Kernel == Allowed && step.Comment == "" {
				continue
			}
			if tells(step.Chain) {
				continue // the rule that has led there is the one that denies
			}
			action := step.Action
			if _, to, jumps := strings.Cut(action, "jump "); jumps && tells(to) {
				action = string(hook.Verdict)
			}
			text := fmt.Sprintf("%s in chain %s of %s", action, step.Chain, hook.Hook)
			if step.Comment != "" {
				text += fmt.Sprintf(" (%q)", step.Comment)
			}
			return text
		}
	}
	return ""
}

// tells reports whether a chain is one that rules lead to which deny, so that denials are told
// (docs/RULESET.md).
func tells(chain string) bool {
	leads := func(to string) bool { return chain == to || strings.HasPrefix(chain, to+"-") }
	return leads("denied") || leads("rejected")
}

// Differs are the verifications in which a kernel does another thing than policies say, and unasked those for
// which a kernel could not be asked.
func (e *Explanation) Differs() (differ, unasked []Verification) {
	for _, a := range e.Answers {
		for _, v := range a.Kernel {
			switch {
			case v.Differs():
				differ = append(differ, v)
			case !v.Asked():
				unasked = append(unasked, v)
			}
		}
	}
	return differ, unasked
}
