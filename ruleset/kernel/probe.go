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
func requirements(options Options) []requirement {
	tcp := ruleset.Element{Protocol: unix.IPPROTO_TCP, First: 1, Last: 2}
	rule := func(rule ruleset.Rule) ruleset.Op {
		return ruleset.SetRules{Chain: "rules", Rules: []ruleset.Rule{rule}}
	}
	ports := ruleset.Lookup{Fields: []ruleset.Field{ruleset.L4Protocol, ruleset.DstPort}, Set: "ports"}
	needs := []requirement{
		{"CONFIG_NF_TABLES_INET", ruleset.AddChain{Name: "base", Hook: &ruleset.Hook{Point: ruleset.Forward}}},
		{"CONFIG_NF_TABLES", ruleset.AddChain{Name: "rules"}},
		{"Linux 5.7 or later", ruleset.AddSet{Name: "ports", Type: ruleset.PortRange}},
		{"Linux 5.7 or later", ruleset.AddElements{Set: "ports", Type: ruleset.PortRange, Elements: []ruleset.Element{tcp}}},
		{"CONFIG_NF_TABLES", ruleset.AddSet{Name: "addrs", Type: ruleset.Addr4}},
		{"CONFIG_NF_TABLES", ruleset.AddSet{Name: "rates", Type: ruleset.Addr4, Dynamic: true, Timeout: 60}},
		{"CONFIG_NF_TABLES", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.Loopback{}, ports}})},
		{"CONFIG_NFT_COUNTER", rule(ruleset.Rule{Counter: true})},
		{"CONFIG_NFT_CT", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.New}})},
		{"CONFIG_NF_CONNTRACK_MARK", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.Mark(1)}})},
		{"Linux 4.17 or later", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.Lookup{Fields: []ruleset.Field{ruleset.CtOriginalSrc4}, Set: "addrs"}}})},
		{"CONFIG_NFT_LIMIT", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.Limit{Field: ruleset.DstAddr4, Set: "rates", PerSecond: 1, Burst: 1}}})},
		{"CONFIG_NFT_REJECT_INET", rule(ruleset.Rule{Verdict: ruleset.Verdict{Action: ruleset.Reject}})},
	}
	if options.Masquerade {
		needs = append(needs,
			requirement{"CONFIG_NFT_NAT", ruleset.AddChain{Name: "nat", Hook: &ruleset.Hook{NAT: true, Point: ruleset.Postrouting, Base: ruleset.SrcNAT}}},
			requirement{"CONFIG_NFT_MASQ", rule(ruleset.Rule{Verdict: ruleset.Verdict{Action: ruleset.Masquerade}})},
		)
	}
	if options.MaxConnections {
		needs = append(needs,
			requirement{"CONFIG_NF_TABLES", ruleset.AddSet{Name: "connections", Type: ruleset.Addr4, Dynamic: true}},
			requirement{"CONFIG_NFT_CONNLIMIT (--max-connections-per-pod 0 does without)", rule(ruleset.Rule{Matches: []ruleset.Match{
				ruleset.Unconfirmed{}, ruleset.Connections{Field: ruleset.SrcAddr4, Set: "connections", Over: 1}, ruleset.Noted{Field: ruleset.SrcAddr4, Set: "rates"},
			}})},
		)
	}
	if options.SourceCheck {
		needs = append(needs, requirement{
			"CONFIG_NFT_FIB_INET (--source-check off does without)", rule(ruleset.Rule{Matches: []ruleset.Match{ruleset.Elsewhere{}}}),
		})
	}
	return needs
}

// guardRequirements are the same for the table of family bridge.
func guardRequirements() []requirement {
	return []requirement{
		{"CONFIG_NF_TABLES_BRIDGE", ruleset.AddChain{Name: "base", Hook: &ruleset.Hook{Point: ruleset.Prerouting, Base: ruleset.DstNAT}}},
		{"CONFIG_NF_TABLES", ruleset.AddChain{Name: "rules"}},
		{"CONFIG_NF_TABLES", ruleset.AddSet{Name: "senders", Type: ruleset.Sender6}},
		{"CONFIG_NF_TABLES", ruleset.SetRules{Chain: "rules", Rules: []ruleset.Rule{{
			Matches: []ruleset.Match{ruleset.PodPort{}, ruleset.Lookup{Fields: []ruleset.Field{ruleset.InPort, ruleset.SrcMAC, ruleset.SrcAddr6}, Set: "senders"}},
			Counter: true,
		}}}},
		{"CONFIG_NF_TABLES", ruleset.SetRules{Chain: "rules", Rules: []ruleset.Rule{{Matches: []ruleset.Match{ruleset.Fragment{V6: true}}}}}},
		{"CONFIG_NF_TABLES", ruleset.AddSet{Name: "rates", Type: ruleset.IfName, Dynamic: true, Timeout: 60}},
		{"CONFIG_NFT_LIMIT", ruleset.SetRules{Chain: "rules", Rules: []ruleset.Rule{{
			Matches: []ruleset.Match{ruleset.Limit{Field: ruleset.InPort, Set: "rates", PerSecond: 1, Burst: 1}},
		}}}},
	}
}

// owned is a table that is one connection's own while that lasts, and stays when it
// ends. Without the second flag the table, and with it all that fences the pods,
// would go when the agent does.
const owned = nftables.TableFlagOwner | nftables.TableFlagPersist

// probeOwner tries whether the kernel has both flags.
func (c *Conn) probeOwner() error {
	table := c.table(ruleset.Inet)
	table.Name += "-probe"
	table.Flags = owned
	_, err := c.commit([]message{destroyTable(table), addTable(table), deleteTable(table)}, 0, false)
	switch {
	case err == nil:
		c.owns = true
	case !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL):
		return err
	}
	return nil
}

// probe tries each table that there will be.
func (c *Conn) probe(options Options) error {
	if options.Own {
		if err := c.probeOwner(); err != nil {
			return unsupported(err, "CONFIG_NF_TABLES")
		}
	}
	err := c.try(ruleset.Inet, "CONFIG_NF_TABLES", requirements(options))
	if err != nil || !options.Guard {
		return err
	}
	return c.try(ruleset.Bridge, "CONFIG_NF_TABLES_BRIDGE", guardRequirements())
}

// try makes a table with everything that can be missing, and deletes it, in one
// transaction. Nobody can see the table; the generation of the namespace's
// ruleset goes up by one.
func (c *Conn) try(family ruleset.Family, missing string, needs []requirement) error {
	table := c.table(family)
	table.Name += "-probe"
	plan := ruleset.Plan{Family: family, Replace: true}
	for _, n := range needs {
		plan.Ops = append(plan.Ops, n.op)
	}
	messages, err := encode(table, plan)
	if err != nil {
		return err
	}
	failed, err := c.commit(append(messages, deleteTable(table)), 0, false)
	if err == nil {
		return nil
	}
	var op *OpError
	if failed < 0 && errors.As(err, &op) {
		op.Op = "try the kernel"
	}
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
