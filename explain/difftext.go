package explain

import (
	"fmt"
	"io"
	"strings"
)

// WriteText writes what is opened and closed, each with what decided before and what decides now. It
// writes nothing if there is no difference.
func (d *Diff) WriteText(w io.Writer, style Style) error {
	var b strings.Builder
	for _, c := range d.Opened {
		c.text(&b, style.Denied("OPENED")) // what is opened is what a reader has to look at
	}
	for _, c := range d.Closed {
		c.text(&b, style.Allowed("CLOSED"))
	}
	for _, c := range d.Unclear {
		c.text(&b, "UNCLEAR")
	}
	for _, p := range d.Added {
		fmt.Fprintf(&b, "ADDED   %s: ask with reach who reaches it, and what it reaches\n", p)
	}
	for _, p := range d.Removed {
		fmt.Fprintf(&b, "REMOVED %s\n", p)
	}
	if !d.Empty() {
		for _, note := range d.Notes {
			fmt.Fprintf(&b, "note: %s\n", note.Message)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *Change) text(b *strings.Builder, what string) {
	fmt.Fprintf(b, "%s  %s -> %s  %s\n", what, c.From, c.To, c.portsText())
	for _, side := range c.Sides {
		asked := fmt.Sprintf("port %d/%s", side.Port, side.Protocol)
		if side.Port == 0 {
			asked = side.Protocol
		}
		fmt.Fprintf(b, "  %s of %s, %s:\n", side.Direction, side.Of, asked)
		side.Before.changeText(b, "before")
		side.After.changeText(b, "now")
	}
}

// changeText writes what a side says before or after a change and, if it denies now, what nearly allowed
// the packet.
func (s *Side) changeText(b *strings.Builder, when string) {
	verdict := strings.ToLower(string(s.Verdict)) + ": "
	if strings.HasPrefix(s.Reason, strings.ToLower(string(s.Verdict))) {
		verdict = ""
	}
	fmt.Fprintf(b, "    %-7s %s%s\n", when+":", verdict, s.Reason)
	for _, r := range s.Rules {
		if r.Source != nil {
			fmt.Fprintf(b, "            %s:%d: %s %s\n", r.Source.File, r.Source.Line, r.Policy, r.Path)
		}
	}
	if when != "now" || len(s.NearestMisses) == 0 {
		return
	}
	nearest := s.NearestMisses[0]
	fmt.Fprintf(b, "            nearest miss: %s %s%s\n", nearest.Rule.Policy, nearest.Rule.Path, sourceText(nearest.Rule.Source, Plain))
	for _, f := range nearest.Failed {
		fmt.Fprintf(b, "              %s: %s\n", strings.TrimPrefix(f.Path, nearest.Rule.Path), f.Reason)
	}
}

// Rules are all rules that a Diff names, before the change and after it, to be completed with where they
// are written.
func (d *Diff) Rules() (before, after []*Rule) {
	for _, changes := range [][]Change{d.Opened, d.Closed, d.Unclear} {
		for i := range changes {
			for j := range changes[i].Sides {
				side := &changes[i].Sides[j]
				before, after = append(before, side.Before.rules()...), append(after, side.After.rules()...)
			}
		}
	}
	return before, after
}

// rules are all rules that a side names.
func (s *Side) rules() (all []*Rule) {
	for i := range s.Rules {
		all = append(all, &s.Rules[i])
	}
	for i := range s.NearestMisses {
		all = append(all, &s.NearestMisses[i].Rule)
	}
	return all
}
