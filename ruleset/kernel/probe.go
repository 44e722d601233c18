package kernel

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset"
)

// A requirement is an operation that a kernel can refuse for want of something.
type requirement struct {
	needs string
	op    ruleset.Op
}

// requirements are one operation for each part of the kernel that the table is
// made of and that can be missing, alone. The base chain has no rules, and the
// chain with rules no hook: no packet meets any of it.
func requirements() []requirement {
	tcp := ruleset.Element{Protocol: unix.IPPROTO_TCP, First: 1, Last: 2}
	rule := func(rule ruleset.Rule) ruleset.Op {
		return ruleset.SetRules{Chain: "rules", Rules: []ruleset.Rule{rule}}
	}
	ports := ruleset.Lookup{Fields: []ruleset.Field{ruleset.L4Protocol, ruleset.DstPort}, Set: "ports"}
	return []requirement{
		{"CONFIG_NF_TABLES_INET", ruleset.AddChain{Name: "base", Hook: &ruleset.Hook{Point: ruleset.Forward}}},
		{"CONFIG_NF_TABLES", ruleset.AddChain{Name: "rules"}},
		{"Linux 5.6 or later", ruleset.AddSet{Name: "ports", Type: ruleset.Ports}},
		{"Linux 5.6 or later", ruleset.AddElements{Set: "ports", Type: ruleset.Ports, Elements: []ruleset.Element{tcp}}},
		{"CONFIG_NF_TABLES", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.Loopback{}, ports}, Counter: true})},
		{"CONFIG_NFT_CT", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.New}})},
		{"CONFIG_NF_CONNTRACK_MARK", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.Mark(1)}})},
		{"CONFIG_NFT_REJECT_INET", rule(ruleset.Rule{Verdict: ruleset.Verdict{Action: ruleset.Reject}})},
	}
}

// probe makes a table with everything that can be missing, and deletes it, in
// one transaction. Nobody can see the table; the generation of the namespace's
// ruleset goes up by one.
func (c *Conn) probe() error {
	table := &nftables.Table{Name: c.table.Name + "-probe", Family: c.table.Family}
	needs := requirements()
	plan := ruleset.Plan{Replace: true}
	for _, n := range needs {
		plan.Ops = append(plan.Ops, n.op)
	}
	messages, err := encode(table, plan)
	if err != nil {
		return err
	}
	failed, err := c.commit(append(messages, deleteTable(table)))
	if err == nil {
		return nil
	}
	var op *OpError
	if failed < 0 && errors.As(err, &op) {
		op.Op = "try the kernel"
	}
	missing := "CONFIG_NF_TABLES"
	if failed >= 0 && failed < len(messages) && messages[failed].op >= 0 {
		missing = needs[messages[failed].op].needs
	}
	return unsupported(err, missing)
}

// unsupported makes a refusal that means that something is missing an
// ErrUnsupported; any other error it returns as it is. ENOENT is the kernel's
// word for an expression that it doesn't know and finds no module for.
func unsupported(err error, missing string) error {
	for _, errno := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EINVAL} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: it needs %s: %w", ErrUnsupported, missing, err)
		}
	}
	return err
}
