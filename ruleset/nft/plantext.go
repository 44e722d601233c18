package nft

import (
	"fmt"
	"strings"
)

// Text is the plan as nft reads it: one command an operation.
func (p Plan) Text() string {
	var b strings.Builder
	table := p.Family.String() + " " + TableName
	if p.Replace {
		fmt.Fprintf(&b, "add table %s\ndelete table %s\nadd table %s\n", table, table, table)
	}
	for _, op := range p.Ops {
		b.WriteString(opText(table, op))
	}
	return b.String()
}

func opText(table string, op Op) string {
	switch o := op.(type) {
	case AddSet:
		kind, data, extra := "set", "", ""
		if o.Map {
			kind, data = "map", " : verdict"
		}
		if o.Type.Interval() {
			extra = " flags interval;"
		}
		if o.Dynamic {
			extra = " " + strings.Join(dynamicText(o.Timeout), "; ") + ";"
		}
		if o.Timed {
			extra = " flags timeout;"
		}
		if o.Comment != "" {
			extra += fmt.Sprintf(" comment %q;", o.Comment)
		}
		return fmt.Sprintf("add %s %s %s { type %s%s;%s }\n", kind, table, o.Name, o.Type, data, extra)
	case DeleteSet:
		return fmt.Sprintf("delete set %s %s\n", table, o.Name)
	case AddElements:
		return elementsText(table, "add", o.Set, o.Type, o.Elements)
	case DeleteElements:
		return elementsText(table, "delete", o.Set, o.Type, o.Elements)
	case AddTimed:
		if o.New {
			return timedText(table, o)
		}
		return timedText(table, o) + opText(table, DeleteElements{o.Set, o.Type, o.keys()}) + timedText(table, o)
	case DeleteTimed:
		return elementsText(table, "add", o.Set, o.Type, o.Elements) + elementsText(table, "delete", o.Set, o.Type, o.Elements)
	case AddVerdicts:
		texts := make([]string, len(o.Entries))
		for i, entry := range o.Entries {
			texts[i] = o.Type.Text(entry.Key) + " : " + entry.Verdict.String()
		}
		return fmt.Sprintf("add element %s %s { %s }\n", table, o.Map, strings.Join(texts, ", "))
	case AddChain:
		hook := ""
		if o.Hook != nil {
			hook = fmt.Sprintf(" { %s }", o.Hook)
		}
		return fmt.Sprintf("add chain %s %s%s\n", table, o.Name, hook)
	case DeleteChain:
		return fmt.Sprintf("delete chain %s %s\n", table, o.Name)
	case SetRules:
		text := fmt.Sprintf("flush chain %s %s\n", table, o.Chain)
		for _, rule := range o.Rules {
			text += fmt.Sprintf("add rule %s %s %s\n", table, o.Chain, rule)
		}
		return text
	}
	return ""
}

func elementsText(table, verb, set string, t SetType, elements []Element) string {
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = t.Text(e)
	}
	return fmt.Sprintf("%s element %s %s { %s }\n", verb, table, set, strings.Join(texts, ", "))
}

// timedText adds elements of a timed set. When the time of each is over is said to people: nft takes how long it is from
// when it reads that.
func timedText(table string, o AddTimed) string {
	texts := make([]string, len(o.Elements))
	for i, e := range o.Elements {
		texts[i] = e.text(o.Type)
	}
	return fmt.Sprintf("add element %s %s { %s }\n", table, o.Set, strings.Join(texts, ", "))
}

// text is an element of a set with this type.
func (e TimedElement) text(t SetType) string {
	if e.Comment == "" {
		return t.Text(e.Element)
	}
	return fmt.Sprintf("%s comment %q", t.Text(e.Element), e.Comment)
}

// keys are the elements without their times.
func (o AddTimed) keys() []Element {
	keys := make([]Element, len(o.Elements))
	for i, e := range o.Elements {
		keys[i] = e.Element
	}
	return keys
}
