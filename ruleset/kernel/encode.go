package kernel

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"

	"github.com/podfence/podfence/ruleset/nft"
)

// A message is a netlink message that is to be made.
type message struct {
	// op is the index in the plan of the operation that the message belongs to; -1 for
	// messages about the table itself.
	op int
	// what says what the message does, for errors.
	what func() string
	// queue hands the message to the library. It must be exactly one message, because answers
	// name messages by their number.
	queue func(*nftables.Conn)
}

// encode turns a plan into messages. If an operation cannot be turned into messages, the error is
// a *nft.Refusal.
func (c *Conn) encode(table *nftables.Table, plan nft.Plan) ([]message, error) {
	e := encoder{table: table, op: -1, queues: c.queues}
	switch {
	case plan.Replace && table.Flags != 0:
		// A table that exists, whoever made it, may have other flags, which cannot be changed.
		e.messages = append(e.messages, destroyTable(table), addTable(table))
	case plan.Replace:
		// To delete a table that does not exist fails, but to add one that exists does not.
		e.messages = append(e.messages, addTable(table), deleteTable(table), addTable(table))
	}
	if err := e.encodeAll(plan.Ops); err != nil {
		return nil, err
	}
	return e.messages, nil
}

func addTable(table *nftables.Table) message {
	return message{
		op:   -1,
		what: func() string { return "add table " + table.Name },
		// add table inet podfence
		queue: func(c *nftables.Conn) { c.AddTable(table) },
	}
}

func deleteTable(table *nftables.Table) message {
	return message{
		op:   -1,
		what: func() string { return "delete table " + table.Name },
		// delete table inet podfence
		queue: func(c *nftables.Conn) { c.DelTable(table) },
	}
}

func destroyTable(table *nftables.Table) message {
	return message{
		op:   -1,
		what: func() string { return "destroy table " + table.Name },
		// destroy table inet podfence
		queue: func(c *nftables.Conn) { c.DestroyTable(table) },
	}
}

// encoder collects the messages of a plan.
type encoder struct {
	table    *nftables.Table
	op       int
	queues   queueing
	messages []message
	// kept are base chains that exist, and stay.
	kept map[string]bool
}

// encodeAll adds the messages of a plan's operations. An error is a *nft.Refusal.
func (e *encoder) encodeAll(ops []nft.Op) error {
	for i, op := range ops {
		e.op = i
		if err := e.encode(op); err != nil {
			return &nft.Refusal{Op: i, Err: err}
		}
	}
	return nil
}

func (e *encoder) add(what func() string, queue func(*nftables.Conn)) {
	e.messages = append(e.messages, message{op: e.op, what: what, queue: queue})
}

func (e *encoder) encode(op nft.Op) error {
	switch op := op.(type) {
	case nft.AddSet:
		return e.addSet(op)
	case nft.DeleteSet:
		// delete set inet podfence NAME
		e.add(func() string { return "delete set " + op.Name },
			func(c *nftables.Conn) { c.DelSet(&nftables.Set{Table: e.table, Name: op.Name}) })
	case nft.AddElements:
		return e.addElements(op)
	case nft.DeleteElements:
		return e.deleteElements(op)
	case nft.AddTimed:
		return e.addTimed(op)
	case nft.DeleteTimed:
		return e.deleteTimed(op)
	case nft.AddVerdicts:
		return e.addVerdicts(op)
	case nft.AddChain:
		return e.addChain(op)
	case nft.DeleteChain:
		// delete chain inet podfence NAME
		e.add(func() string { return "delete chain " + op.Name },
			func(c *nftables.Conn) { c.DelChain(e.chain(op.Name)) })
	case nft.SetRules:
		return e.setRules(op)
	default:
		return &OpError{Op: fmt.Sprintf("operation %d of the plan", e.op+1), Err: fmt.Errorf("unknown type %T", op)}
	}
	return nil
}

func (e *encoder) chain(name string) *nftables.Chain {
	return &nftables.Chain{Name: name, Table: e.table}
}

// hooks have the same numbers in both families: NF_INET_ in
// include/uapi/linux/netfilter.h, NF_BR_ in netfilter_bridge.h.
var hooks = map[nft.HookPoint]*nftables.ChainHook{
	nft.Prerouting: nftables.ChainHookPrerouting, nft.Input: nftables.ChainHookInput,
	nft.Output: nftables.ChainHookOutput, nft.Forward: nftables.ChainHookForward, nft.Postrouting: nftables.ChainHookPostrouting,
}

func (e *encoder) addChain(op nft.AddChain) error {
	if e.kept[op.Name] {
		return nil
	}
	chain, err := e.chainOf(op)
	if err != nil {
		return err
	}
	// add chain inet podfence NAME
	e.add(func() string { return "add chain " + op.Name }, func(c *nftables.Conn) { c.AddChain(chain) })
	return nil
}

// chainOf is the chain, as a value of the library, for an AddChain.
func (e *encoder) chainOf(op nft.AddChain) (*nftables.Chain, error) {
	chain := e.chain(op.Name)
	if op.Hook == nil {
		return chain, nil
	}
	// type filter hook forward priority filter - 10; policy accept;
	hook, known := hooks[op.Hook.Point]
	if !known {
		return nil, &OpError{Op: "add chain " + op.Name, Err: fmt.Errorf("unknown hook %d", op.Hook.Point)}
	}
	family := nft.Inet
	if e.table.Family == nftables.TableFamilyBridge {
		family = nft.Bridge
	}
	priority, known := op.Hook.Number(family)
	if !known {
		return nil, &OpError{Op: "add chain " + op.Name, Err: fmt.Errorf("unknown priority %d", op.Hook.Base)}
	}
	policy := nftables.ChainPolicyAccept
	chain.Hooknum, chain.Type, chain.Policy = hook, nftables.ChainTypeFilter, &policy
	if op.Hook.NAT {
		chain.Type = nftables.ChainTypeNAT
	}
	chain.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(priority))
	return chain, nil
}

func (e *encoder) setRules(op nft.SetRules) error {
	chain := e.chain(op.Chain)
	// flush chain inet podfence NAME
	e.add(func() string { return "flush chain " + op.Chain },
		func(c *nftables.Conn) { c.FlushChain(chain) })
	for i, rule := range op.Rules {
		what := func() string { return fmt.Sprintf("add rule %d of chain %s", i+1, op.Chain) }
		exprs, err := program(rule, e.table.Family == nftables.TableFamilyBridge, e.queues)
		if err == nil {
			err = checkComment(rule.Comment())
		}
		if err != nil {
			return &OpError{Op: what(), Err: err}
		}
		r := &nftables.Rule{Table: e.table, Chain: chain, Exprs: exprs}
		if comment := rule.Comment(); comment != "" {
			r.UserData = userdata.AppendString(nil, userdata.TypeComment, comment)
		}
		// add rule inet podfence NAME RULE
		e.add(what, func(c *nftables.Conn) { c.AddRule(r) })
	}
	return nil
}

func (e *encoder) addSet(op nft.AddSet) error {
	what := func() string { return "add set " + op.Name }
	set, err := newSet(e.table, op)
	if err == nil {
		err = checkComment(op.Comment)
	}
	if err != nil {
		return &OpError{Op: what(), Err: err}
	}
	// add set inet podfence NAME { type TYPE; }
	// Flush returns an error of AddSet as well.
	e.add(what, func(c *nftables.Conn) { _ = c.AddSet(set, nil) })
	return nil
}

func (e *encoder) addElements(op nft.AddElements) error {
	return e.elements(elements{
		format: "add %s to set %s", set: op.Set, setType: op.Type, keys: op.Elements,
		send: (*nftables.Conn).SetAddElements,
	})
}

func (e *encoder) deleteElements(op nft.DeleteElements) error {
	return e.elements(elements{
		format: "delete %s from set %s", set: op.Set, setType: op.Type, keys: op.Elements,
		send: (*nftables.Conn).SetDeleteElements,
	})
}

// addTimed adds, deletes and adds elements again (see nft.AddTimed), or just adds them if the set has none of them.
func (e *encoder) addTimed(op nft.AddTimed) error {
	add := elements{format: "add %s to set %s", set: op.Set, setType: op.Type, timed: op.Elements, send: (*nftables.Conn).SetAddElements}
	remove := elements{format: "delete %s from set %s", set: op.Set, setType: op.Type, send: (*nftables.Conn).SetDeleteElements}
	for _, element := range op.Elements {
		if err := checkComment(element.Comment); err != nil {
			return &OpError{Op: fmt.Sprintf(add.format, "element "+op.Type.Text(element.Element), op.Set), Err: err}
		}
		add.keys = append(add.keys, element.Element)
	}
	if op.New {
		return e.elements(add)
	}
	remove.keys = add.keys
	return errors.Join(e.elements(add), e.elements(remove), e.elements(add))
}

// deleteTimed adds elements and deletes them, as those are not there whose time is over.
func (e *encoder) deleteTimed(op nft.DeleteTimed) error {
	add := nft.AddTimed{Set: op.Set, Type: op.Type, New: true}
	for _, element := range op.Elements {
		add.Elements = append(add.Elements, nft.TimedElement{Element: element, Timed: nft.Timed{Expires: time.Now().Add(time.Hour)}})
	}
	return errors.Join(e.addTimed(add), e.deleteElements(nft.DeleteElements(op)))
}

func (e *encoder) addVerdicts(op nft.AddVerdicts) error {
	list := elements{
		format: "add %s to map %s", set: op.Map, setType: op.Type, keys: make([]nft.Element, len(op.Entries)),
		verdicts: op.Entries, send: (*nftables.Conn).SetAddElements,
	}
	if op.Type.Interval() {
		return &OpError{Op: fmt.Sprintf(list.format, "elements", op.Map), Err: errRangeMap}
	}
	for i, entry := range op.Entries {
		list.keys[i] = entry.Key
		if _, err := mapVerdict(entry.Verdict); err != nil {
			return &OpError{Op: fmt.Sprintf(list.format, "element "+op.Type.Text(entry.Key), op.Map), Err: err}
		}
	}
	return e.elements(list)
}

// elements are elements of one set, with what is to be done with them.
type elements struct {
	format  string // of errors: what is done with which elements of which set
	set     string
	setType nft.SetType
	keys    []nft.Element
	// verdicts are a map's entries, in the order of keys; nil for a set.
	verdicts []nft.VerdictEntry
	// timed are the elements of a timed set, in the order of keys; nil for another.
	timed []nft.TimedElement
	send  func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error
}

// elements adds as many messages as the elements need. In a message they are a single attribute,
// whose length is a uint16. The library would split them too, but anywhere, and the two halves of
// an interval must stay together (see interval).
func (e *encoder) elements(list elements) error {
	if !list.setType.Known() {
		return &OpError{Op: fmt.Sprintf(list.format, "elements", list.set), Err: errUnknownType}
	}
	if split(list.setType) {
		list.keys = slices.Clone(list.keys)
		slices.SortFunc(list.keys, nft.CompareElements)
	}
	target := &nftables.Set{Table: e.table, Name: list.set, HasTimeout: list.timed != nil}
	for from, to := 0, 0; from < len(list.keys); from = to {
		to = list.fill(from)
		// add element inet podfence SET { ... }, or delete element
		e.add(
			func() string { return fmt.Sprintf(list.format, list.text(from, to), list.set) },
			// Flush returns an error of send as well.
			func(c *nftables.Conn) { _ = list.send(c, target, list.convert(from, to)) },
		)
	}
	return nil
}

// maxComment is the length that nft accepts, in sets and in rules
// (NFTNL_UDATA_COMMENT_MAXLEN). The kernel would store 255 bytes. With more, the
// library writes a length that is not that of the bytes, and nft fails to read it.
const maxComment = 128

func checkComment(comment string) error {
	if len(comment) > maxComment {
		return fmt.Errorf("the comment has %d bytes, of at most %d", len(comment), maxComment)
	}
	return nil
}
