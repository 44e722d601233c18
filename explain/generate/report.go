package generate

import (
	"fmt"
	"io"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reason is why a flow has no part in policies.
type Reason string

// The reasons.
const (
	// Those that need no rule.
	Denied    Reason = "Denied"
	Reply     Reason = "Reply"
	OwnNode   Reason = "OwnNode"
	Itself    Reason = "Itself"
	Elsewhere Reason = "Elsewhere"
	Repeated  Reason = "Repeated"
	// Those that are not understood.
	ServiceAddress  Reason = "ServiceAddress"
	UnknownPod      Reason = "UnknownPod"
	SharedAddress   Reason = "SharedAddress"
	NoAddress       Reason = "NoAddress"
	NoDirection     Reason = "NoDirection"
	UnknownProtocol Reason = "UnknownProtocol"
	UnknownVerdict  Reason = "UnknownVerdict"
)

// reasons are all of them in the order in which they are told, with what flows have them.
var reasons = []struct {
	Reason
	text       string
	understood bool
}{
	{OwnNode, "of nodes and pods on them, as probes are: they need no rule", true},
	{Reply, "replies: they need no rule", true},
	{Itself, "of pods to themselves, which they never leave", true},
	{Repeated, "like many others that were read", true},
	{Elsewhere, "neither from nor to the namespaces that policies are written for", true},
	{Denied, "denied: what is denied today is not taken for what is needed", true},
	{ServiceAddress, "to the address of a Service, before its translation: policies are asked behind it", false},
	{UnknownPod, "of a pod, or an address of a node's pods, that is not known", false},
	{SharedAddress, "of an address that several pods show", false},
	{NoAddress, "without addresses of one family at both ends", false},
	{NoDirection, "of which nobody can tell who has begun", false},
	{UnknownProtocol, "of a protocol that is not known", false},
	{UnknownVerdict, "with a verdict that is neither allowed nor denied", false},
}

// Report is what policies cover, and what they do not.
type Report struct {
	// Flows is how many were read, and Covered how many of them pass once the policies are in force.
	Flows, Covered int
	// Left counts those that were left out.
	Left map[Reason]int
	// Policies is how many were written.
	Policies int
	// Denied are connections that were seen and would be denied, in order.
	Denied []Uncovered
	// Unseen are workloads without a policy, as nothing was seen of them: all is open to and from them, as far as the
	// other end lets it. Unselectable are those that no labels select.
	Unseen, Unselectable []string
	// Open is what stays open to and from workloads with a policy though nobody was seen to use it.
	Open []string
	// Alike are workloads that no labels tell apart, so that one policy is about all of them.
	Alike []string
	// Missing is what was not seen, a sentence each.
	Missing []string
}

// Uncovered is what was seen and would be denied.
type Uncovered struct {
	// From and To are workloads, nodes or addresses, Port is "443/TCP", or a protocol without ports.
	From, To, Port string
	Flows          int
	// Reason says why no rule allows it.
	Reason string
}

// take takes note of what was seen.
func (r *Report) take(seen Seen) {
	r.Left = map[Reason]int{}
	r.Flows = len(seen.Flows)
	for reason, n := range seen.Left {
		r.Left[reason] += n
		r.Flows += n
	}
	r.Missing = slices.Clone(seen.Missing)
}

func (r *Report) leave(reason Reason) { r.Left[reason]++ }

// noteLabels notes what a unit's labels do not tell apart.
func (r *Report) noteLabels(u *unit) {
	if len(u.of) > 1 {
		r.Alike = append(r.Alike, u.name()+": no labels tell them apart, so that one policy is about all of them")
	}
	for _, other := range u.strangers {
		r.Alike = append(r.Alike, fmt.Sprintf("%s: pods of %s have its labels (%s) as well", u.name(), other.name(), metav1.FormatLabelSelector(u.selector)))
	}
}

// Complete reports whether all that was seen passes, and nothing is known to be missing.
func (r *Report) Complete() bool { return len(r.Denied) == 0 && len(r.Missing) == 0 }

// mostLines is how many lines of one kind a report has.
const mostLines = 20

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, of %s that were read; %s.\n", counted(r.Covered, "flow")+" covered", fmt.Sprint(r.Flows), counted(r.Policies, "policy"))
	r.leftText(&b, "left out", true)
	var denied []string
	for _, d := range r.Denied {
		denied = append(denied, fmt.Sprintf("%s -> %s  %s (%s): %s", d.From, d.To, d.Port, counted(d.Flows, "flow"), d.Reason))
	}
	list(&b, "seen, and denied once these policies are in force", denied)
	list(&b, "without a policy, as nothing was seen of them (--isolate-unseen gives them one)", r.Unseen)
	list(&b, "without a policy, as they have no label that stays and all of their pods have", r.Unselectable)
	list(&b, "alike", r.Alike)
	list(&b, "stays open, though nothing was seen of it", r.Open)
	r.leftText(&b, "not understood", false)
	list(&b, "missing", r.Missing)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// leftText are the flows that were left out, as they were understood or as they were not.
func (r *Report) leftText(b *strings.Builder, title string, understood bool) {
	var lines []string
	for _, reason := range reasons {
		if n := r.Left[reason.Reason]; n > 0 && reason.understood == understood {
			lines = append(lines, fmt.Sprintf("%s %s", counted(n, "flow"), reason.text))
		}
	}
	list(b, title, lines)
}

// list writes lines below a title, if there are any.
func list(b *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "%s:\n", title)
	for _, line := range lines[:min(len(lines), mostLines)] {
		fmt.Fprintf(b, "  %s\n", oneLine(line))
	}
	if more := len(lines) - mostLines; more > 0 {
		fmt.Fprintf(b, "  and %d more\n", more)
	}
}

// counted is a number of things.
func counted(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(what, "y"))
	}
	return fmt.Sprintf("%d %ss", n, what)
}
