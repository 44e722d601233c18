package nft

import "fmt"

// Plan is a list of operations, to be carried out in order in one transaction:
// all of them or none.
type Plan struct {
	// Family is the family of the table.
	Family Family
	// Replace says that the kernel's table, if there is one, is removed first. The operations then
	// make the whole table.
	Replace bool
	Ops     []Op
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return !p.Replace && len(p.Ops) == 0 }

// Op is one of AddSet, DeleteSet, AddElements, DeleteElements, AddTimed, DeleteTimed, AddVerdicts,
// AddChain, DeleteChain, SetRules. The set is closed.
type Op interface{ op() }

// AddSet makes an empty set, or an empty verdict map.
type AddSet struct {
	Name    string
	Type    SetType
	Map     bool
	Comment string
	// Dynamic and Timeout are those of Set. Timed: its elements have a time each.
	Dynamic bool
	Timeout uint32
	Timed   bool
}

// DynamicSize is how many elements a dynamic set has at most. The kernel says so of one that a rule fills and that was
// made without a size.
const DynamicSize = 65535

// dynamicText is what nft writes for a dynamic set, line by line.
func dynamicText(timeout uint32) []string {
	lines := []string{fmt.Sprintf("size %d", DynamicSize), "flags dynamic"}
	if timeout != 0 {
		lines[1] += ",timeout"
		lines = append(lines, fmt.Sprintf("timeout %ds", timeout))
	}
	return lines
}

// DeleteSet removes a set that no rule uses any more, with its elements.
type DeleteSet struct{ Name string }

// AddElements puts elements into a set that has none of them.
type AddElements struct {
	Set      string
	Type     SetType
	Elements []Element
}

// DeleteElements takes elements out of a set, or entries out of a map, that
// has all of them.
type DeleteElements struct {
	Set      string
	Type     SetType
	Elements []Element
}

// AddTimed puts elements into a timed set. Those that it has get another time and comment.
//
// Before Linux 6.12 an element that is there keeps its time, whatever is said when it is added again (4201f3938914,
// "netfilter: nf_tables: allow to change timeout of set elements"), and to delete one whose time has just ended fails. So
// each is added, if it is not there, deleted and added again, in one transaction.
type AddTimed struct {
	Set      string
	Type     SetType
	Elements []TimedElement
	// New: the set has none of them.
	New bool
}

// TimedElement is an element of a timed set.
type TimedElement struct {
	Element
	Timed
}

// DeleteTimed takes elements out of a timed set, if their time is not over yet.
type DeleteTimed struct {
	Set      string
	Type     SetType
	Elements []Element
}

// AddVerdicts puts entries into a map that has none of their keys.
type AddVerdicts struct {
	Map     string
	Type    SetType
	Entries []VerdictEntry
}

// VerdictEntry is one entry of a verdict map.
type VerdictEntry struct {
	Key     Element
	Verdict Verdict
}

// AddChain makes a chain without rules.
type AddChain struct {
	Name string
	Hook *Hook
}

// DeleteChain removes a chain that nothing jumps to any more, with its rules.
type DeleteChain struct{ Name string }

// SetRules makes these the rules of a chain, in place of those it has.
type SetRules struct {
	Chain string
	Rules []Rule
}

func (AddSet) op()         {}
func (DeleteSet) op()      {}
func (AddElements) op()    {}
func (DeleteElements) op() {}
func (AddTimed) op()       {}
func (DeleteTimed) op()    {}
func (AddVerdicts) op()    {}
func (AddChain) op()       {}
func (DeleteChain) op()    {}
func (SetRules) op()       {}
