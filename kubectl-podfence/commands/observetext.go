package commands

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/cli-runtime/pkg/printers"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
)

// knownMost is of how many kinds of packets is remembered that they were shown. Then it begins anew.
const knownMost = 10_000

// flowWriter writes flows, as text or as lines of JSON.
type flowWriter struct {
	out   io.Writer
	style explain.Style
	json  bool
	// plain: one line for each.
	plain bool
	// known is when a denial of a kind was shown last, by what is the same for all of them.
	known map[string]time.Time
}

func newFlowWriter(out io.Writer, style explain.Style, asJSON, plain bool) *flowWriter {
	return &flowWriter{out: out, style: style, json: asJSON, plain: plain, known: map[string]time.Time{}}
}

func (w *flowWriter) write(f *flows.Flow) error {
	var text string
	if w.json {
		line, err := json.Marshal(f)
		if err != nil {
			return fmt.Errorf("writing a flow as JSON: %w", err)
		}
		text = string(line) + "\n"
	} else {
		text = w.text(f)
	}
	if _, err := io.WriteString(w.out, text); err != nil {
		return fmt.Errorf("writing a flow: %w", err)
	}
	return nil
}

// text is a flow in one line, and below it, once for each kind of packet, what nearly allows it and the command
// that explains it.
func (w *flowWriter) text(f *flows.Flow) string {
	command := explainCall(f)
	key := string(f.Verdict) + " " + string(f.Reason) + " " + sourceOf(f) + " " + command
	shown, known := w.known[key]
	var b strings.Builder
	b.WriteString(printers.EscapeTerminal(w.stamp(f)) + " " + w.verdict(f))
	for _, part := range []string{string(f.Direction), w.endOf(&f.Source, 0), "->", w.destination(f)} {
		if part != "" {
			b.WriteString(" " + printers.EscapeTerminal(part))
		}
	}
	b.WriteString("  " + printers.EscapeTerminal(why(f)))
	if f.Repeats > 0 {
		more := fmt.Sprintf("%d more", f.Repeats)
		if known && f.Time.After(shown) {
			more += " in " + f.Time.Sub(shown).Round(time.Second).String()
		}
		b.WriteString("  " + w.style.Quiet("("+more+")"))
	}
	if f.SampledOf > 1 {
		b.WriteString("  " + w.style.Quiet(fmt.Sprintf("(one of %d)", f.SampledOf)))
	}
	b.WriteByte('\n')
	if len(w.known) >= knownMost {
		clear(w.known)
	}
	w.known[key] = f.Time
	if w.plain || known || !denies(f) {
		return b.String()
	}
	if f.NearestMiss != "" {
		b.WriteString("  nearly: " + printers.EscapeTerminal(f.NearestMiss) + "\n")
	}
	if command != "" {
		b.WriteString("  " + w.style.Quiet(printers.EscapeTerminal(command)) + "\n")
	}
	return b.String()
}

// stamp is when a flow was seen, and, if more was asked for, on which node.
func (w *flowWriter) stamp(f *flows.Flow) string {
	if w.style.Wide {
		return f.Time.Local().Format("2006-01-02T15:04:05.000Z07:00") + " " + cmp.Or(f.Node, unknown)
	}
	return f.Time.Local().Format("15:04:05.000")
}

func (w *flowWriter) verdict(f *flows.Flow) string {
	text := printers.EscapeTerminal(strings.ToUpper(string(f.Verdict)))
	if denies(f) {
		return w.style.Denied(text)
	}
	if f.Event != "" {
		text += " (" + printers.EscapeTerminal(string(f.Event)) + ")"
	}
	return w.style.Allowed(text)
}

// endOf is an end of a flow: a pod and what it belongs to, a node, or an address.
func (w *flowWriter) endOf(e *flows.Endpoint, port uint16) string {
	name := e.IP.String()
	switch {
	case e.Pod != "":
		name = e.Namespace + "/" + e.Pod
	case e.Node != "":
		name = "node/" + e.Node
	}
	text := withPort(name, port)
	if w.style.Wide && name != e.IP.String() {
		text += " [" + e.IP.String() + "]"
	}
	if e.Workload != nil {
		text += fmt.Sprintf(" (%s %s)", e.Workload.Kind, e.Workload.Name)
	}
	return text
}

// withPort is an end with its port, if it has one.
func withPort(name string, port uint16) string {
	if port == 0 {
		return name
	}
	return net.JoinHostPort(name, strconv.Itoa(int(port)))
}

// destination is where a packet was to go, by which protocol, and whom it asked for.
func (w *flowWriter) destination(f *flows.Flow) string {
	end := f.Destination
	workload := end.Workload
	end.Workload = nil
	text := w.endOf(&end, end.Port) + "/" + f.Protocol
	if f.ICMPType != nil {
		text += fmt.Sprintf(" type %d", *f.ICMPType)
	}
	if w.style.Wide && f.TCPFlags != "" {
		text += " " + f.TCPFlags
	}
	if len(f.DestinationNames) > 0 {
		text += " (" + strings.Join(f.DestinationNames, ", ") + ")"
	}
	if workload != nil {
		text += fmt.Sprintf(" (%s %s)", workload.Kind, workload.Name)
	}
	switch asked := f.Asked; {
	case asked == nil:
	case asked.Service != "":
		text += " via Service " + withPort(asked.Namespace+"/"+asked.Service, asked.Port)
	default:
		text += " via " + withPort(asked.IP.String(), asked.Port)
	}
	return text
}

// denies reports whether a flow is denied, or would be with the staged policies in force.
func denies(f *flows.Flow) bool { return f.Verdict == flows.Denied || f.Verdict == flows.WouldDeny }

// why is why a packet was denied, or passes, or would be or would.
func why(f *flows.Flow) string {
	by := policiesOf(f)
	switch {
	case f.Verdict != flows.Denied && f.Event == flows.Ended:
		return fmt.Sprintf("%d packets, %d bytes", f.Packets, f.Bytes)
	case f.Verdict == flows.WouldAllow && by == "":
		return f.Text
	case !denies(f) && by == "":
		return "no policy is about it"
	case !denies(f):
		return "by " + by
	case by != "":
		return string(f.Reason) + " by " + by
	}
	return strings.TrimSuffix(string(f.Reason)+": "+f.Text, ": ")
}

// policiesOf are the policies that have decided, those of one kind behind it.
func policiesOf(f *flows.Flow) string {
	var texts []string
	for i, p := range f.Policies {
		text := p.Name
		if p.Namespace != "" {
			text = p.Namespace + "/" + p.Name
		}
		if i == 0 || f.Policies[i-1].Kind != p.Kind {
			text = p.Kind + " " + text
		}
		if p.Rule != nil {
			text += fmt.Sprintf(" %s[%d]", f.Direction, *p.Rule)
		}
		if p.RuleName != "" {
			text += fmt.Sprintf(" (%s)", p.RuleName)
		}
		if p.Staged {
			text += " (staged)"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

// explicable are the reasons that policies, and whose an address is, decide. The others are about a packet's
// connection or its sender, of which explain knows nothing.
var explicable = []flows.Reason{flows.DefaultDeny, flows.ByRule, flows.UnknownPod, flows.Revoked, flows.Changed}

// explainCall is the command that explains a denial; empty: none does.
func explainCall(f *flows.Flow) string {
	if !denies(f) || !slices.Contains(explicable, f.Reason) {
		return ""
	}
	to := targetOf(&f.Destination)
	if port := f.Destination.Port; port != 0 && slices.Contains([]string{"TCP", "UDP", "SCTP"}, f.Protocol) {
		if addr, err := netip.ParseAddr(to); err == nil && addr.Is6() {
			to = "[" + to + "]"
		}
		to += ":" + strconv.Itoa(int(port))
		if f.Protocol != "TCP" {
			to += "/" + f.Protocol
		}
		if strings.Contains(to, "[") { // which shells take for a pattern
			to = "'" + to + "'"
		}
	}
	return "kubectl podfence explain " + targetOf(&f.Source) + " " + to
}

// targetOf is an end as explain reads it.
func targetOf(e *flows.Endpoint) string {
	switch {
	case e.Pod != "":
		pod := explain.Target{Kind: explain.KindPod, Namespace: e.Namespace, Name: e.Pod}
		if read, err := explain.ParseTarget(pod.String(), ""); err != nil || read != pod { // the namespace is called as a kind
			return "pod/" + pod.String()
		}
		return pod.String()
	case e.Node != "":
		return "node/" + e.Node
	}
	return e.IP.String()
}

// sourceOf and the command tell kinds of packets apart.
func sourceOf(f *flows.Flow) string {
	return targetOf(&f.Source) + " " + withPort(targetOf(&f.Destination), f.Destination.Port) + "/" + f.Protocol
}
