package explain

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Style says how text is marked. Each function gets a piece of text, and returns it as it is to be shown.
type Style struct {
	Allowed, Denied, Quiet func(string) string
	// Wide shows addresses, and the policies that are asked at each end, as well.
	Wide bool
}

// Plain is text without any marks.
var Plain = Style{Allowed: same, Denied: same, Quiet: same}

func same(text string) string { return text }

// WriteText writes an explanation for people. The first lines of an answer say what becomes of the packet,
// and what is probably the cause.
func (e *Explanation) WriteText(w io.Writer, style Style) error {
	var b strings.Builder
	for i, a := range e.Answers {
		if i > 0 {
			b.WriteByte('\n')
		}
		a.text(&b, style, e.byFamily(a))
	}
	if len(e.Answers) == 0 {
		fmt.Fprintf(&b, "%s  %s\n", strings.ToUpper(string(e.Verdict)), e.Question)
	}
	for _, note := range mistakesFirst(e.Notes) {
		fmt.Fprintf(&b, "  note: %s\n", note.Message)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// byFamily reports whether there are two answers for the same ends, one for each address family.
func (e *Explanation) byFamily(a Answer) bool {
	return slices.ContainsFunc(e.Answers, func(other Answer) bool {
		return a.From.Address != other.From.Address && a.From.String() == other.From.String() && a.To.String() == other.To.String() &&
			a.From.Address.Is4() != other.From.Address.Is4() && a.From.Kind != KindAddress
	})
}

func (a *Answer) text(b *strings.Builder, style Style, byFamily bool) {
	fmt.Fprintln(b, a.headline(style, byFamily || style.Wide))
	notes := mistakesFirst(a.Notes)
	shown := slices.IndexFunc(notes, func(n Note) bool { return !slices.Contains(mistakes, n.Reason) })
	if shown < 0 {
		shown = len(notes)
	}
	for _, note := range notes[:shown] {
		fmt.Fprintf(b, "  note: %s\n", note.Message)
	}
	sides := []struct {
		name string
		of   End
		side Side
	}{{"egress", a.From, a.Egress}, {"ingress", a.To, a.Ingress}}
	if a.Egress.Verdict == Allowed && a.Ingress.Verdict == Denied { // what denies comes first
		slices.Reverse(sides)
	}
	for _, s := range sides {
		s.side.text(b, s.name, s.of, style)
	}
	for _, v := range a.Kernel {
		text := v.String()
		if v.Differs() {
			text = style.Denied(text)
		}
		fmt.Fprintf(b, "  %s\n", text)
	}
	for _, note := range notes[shown:] {
		fmt.Fprintf(b, "  note: %s\n", note.Message)
	}
}

// headline is what becomes of the packet, in one line.
func (a *Answer) headline(style Style, byFamily bool) string {
	var to strings.Builder
	to.WriteString(a.To.String())
	if a.Port != 0 {
		fmt.Fprintf(&to, " port %d/%s", a.Port, a.Protocol)
	}
	if a.Service != nil {
		fmt.Fprintf(&to, " (by Service %s/%s port %d)", a.Service.Namespace, a.Service.Name, a.Service.Port)
	}
	line := fmt.Sprintf("%s  %s -> %s", style.verdict(a.Verdict), a.From, &to)
	switch {
	case a.Verdict == Mixed:
		line += ": open are " + openText(a.Open)
		if len(a.Unknown) > 0 {
			line += "; not known: " + openText(a.Unknown)
		}
	case a.Verdict == Unknown && len(a.Unknown) > 0 && !everything(a.Unknown):
		line += ": not known: " + openText(a.Unknown) + "; all else is closed"
	case a.Verdict == Denied && a.Egress.Verdict == Denied && a.Ingress.Verdict == Denied:
		line += fmt.Sprintf(", by egress of %s and by ingress of %s", a.From, a.To)
	case a.Verdict == Denied && a.Egress.Verdict == Denied:
		line += fmt.Sprintf(", by egress of %s", a.From)
	case a.Verdict == Denied && a.Ingress.Verdict == Denied:
		line += fmt.Sprintf(", by ingress of %s", a.To)
	}
	line += a.rehearsedText(style)
	if byFamily {
		line += fmt.Sprintf(" (%s -> %s)", a.From.Address, a.To.Address)
	}
	if a.Pairs > 1 {
		line += style.Quiet(fmt.Sprintf("  (and %d more like this)", a.Pairs-1))
	}
	return line
}

func (s Style) verdict(v Verdict) string {
	text := strings.ToUpper(string(v))
	switch v {
	case Allowed:
		return s.Allowed(text)
	case Denied:
		return s.Denied(text)
	}
	return text
}

// openText lists open ports in one line, and protocols without ports.
func openText(open []OpenPorts) string {
	texts := make([]string, len(open))
	for i, p := range open {
		texts[i] = p.Protocol + " " + strings.Join(p.Ports, ",")
		if p.Protocol == OtherProtocols {
			texts[i] = "ICMP and other protocols"
		}
	}
	return list(texts, "none")
}

// text writes what a side decides, its rules and the nearest misses.
func (s *Side) text(b *strings.Builder, name string, of End, style Style) {
	at := ""
	if s.EnforcedAt != "" {
		at = style.Quiet(" (node " + s.EnforcedAt + ")")
	}
	verdict := strings.ToLower(string(s.Verdict))
	if rest, says := strings.CutPrefix(s.Reason, verdict+" by "); says {
		fmt.Fprintf(b, "  %s of %s%s: %s by %s\n", name, of, at, verdict, rest)
	} else {
		fmt.Fprintf(b, "  %s of %s%s: %s: %s\n", name, of, at, verdict, s.Reason)
	}
	if style.Wide && len(s.Policies) > 0 {
		fmt.Fprintf(b, "    policies, in the order in which they are asked: %s\n", policiesText(s.Policies))
	}
	for _, r := range s.Rules {
		if r.Source != nil {
			fmt.Fprintf(b, "    %s\n", style.Quiet(fmt.Sprintf("%s:%d: %s %s", r.Source.File, r.Source.Line, r.Policy, r.Path)))
		}
	}
	for i, m := range s.NearestMisses {
		what := "nearest miss"
		if i > 0 {
			what = "then"
		}
		fmt.Fprintf(b, "    %s: %s %s%s\n", what, m.Rule.Policy, m.Rule.Path, sourceText(m.Rule.Source, style))
		for _, f := range m.Failed {
			fmt.Fprintf(b, "      %s: %s\n", strings.TrimPrefix(f.Path, m.Rule.Path), f.Reason)
		}
	}
	s.stagedText(b, style)
}

func sourceText(s *Source, style Style) string {
	if s == nil {
		return ""
	}
	return style.Quiet(fmt.Sprintf(" (%s:%d)", s.File, s.Line))
}

// policiesText lists policies with their tiers and priorities.
func policiesText(policies []PolicyRef) string {
	texts := make([]string, len(policies))
	for i, p := range policies {
		texts[i] = p.String()
		if p.Priority != nil {
			texts[i] += fmt.Sprintf(" (%s, priority %d)", p.Tier, *p.Priority)
		}
	}
	return strings.Join(texts, ", ")
}

// Deciding are the policies that decide, each once, in the order of the answers: those with a rule that does
// or, of a denial by no rule, those that isolate the pod.
func (e *Explanation) Deciding() (all []PolicyRef) {
	add := func(p PolicyRef) {
		if !slices.ContainsFunc(all, func(other PolicyRef) bool { return other.String() == p.String() }) {
			all = append(all, p)
		}
	}
	for _, a := range e.Answers {
		for _, side := range []Side{a.Egress, a.Ingress} {
			for _, r := range side.Rules {
				add(r.Policy)
			}
			if len(side.Rules) > 0 || side.Verdict != Denied {
				continue
			}
			for _, p := range side.Policies {
				if p.Tier == "NetworkPolicy" {
					add(p)
				}
			}
		}
	}
	return all
}

// Rules are all rules that an explanation names, to be completed with where they are written.
func (e *Explanation) Rules() (rules []*Rule) {
	for i := range e.Answers {
		for _, side := range []*Side{&e.Answers[i].Egress, &e.Answers[i].Ingress} {
			for j := range side.Rules {
				rules = append(rules, &side.Rules[j])
			}
			for j := range side.NearestMisses {
				rules = append(rules, &side.NearestMisses[j].Rule)
			}
		}
	}
	return rules
}
