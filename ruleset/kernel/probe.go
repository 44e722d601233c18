package kernel

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// A requirement is an operation that a kernel refuses if it lacks something.
type requirement struct {
	needs string
	op    nft.Op
}

// queues is the operation that needs nf_tables to queue packets.
var queues = nft.SetRules{Chain: "rules", Rules: []nft.Rule{{Verdict: nft.Verdict{Action: nft.Queue}}}}

// requirements are one operation for each part of the kernel that the table needs and that
// can be missing by itself. The base chain has no rules, and the chain with rules has no
// hook, so that no packet meets any of it.
func requirements(options Options) []requirement {
	tcp := nft.Element{Protocol: unix.IPPROTO_TCP, First: 1, Last: 2}
	rule := func(rule nft.Rule) nft.Op {
		return nft.SetRules{Chain: "rules", Rules: []nft.Rule{rule}}
	}
	ports := nft.Lookup{Fields: []nft.Field{nft.L4Protocol, nft.DstPort}, Set: "ports"}
	needs := []requirement{
		{"CONFIG_NF_TABLES_INET", nft.AddChain{Name: "base", Hook: &nft.Hook{Point: nft.Forward}}},
		{"CONFIG_NF_TABLES", nft.AddChain{Name: "rules"}},
		{"Linux 5.7 or later", nft.AddSet{Name: "ports", Type: nft.RangesOf(nft.InetProto, nft.InetService)}},
		{"Linux 5.7 or later", nft.AddElements{Set: "ports", Type: nft.RangesOf(nft.InetProto, nft.InetService), Elements: []nft.Element{tcp}}},
		{"CONFIG_NF_TABLES", nft.AddSet{Name: "addrs", Type: nft.Of(nft.IPv4Addr)}},
		{"CONFIG_NF_TABLES", nft.AddSet{Name: "rates", Type: nft.Of(nft.IPv4Addr), Dynamic: true, Timeout: 60}},
		{"CONFIG_NF_TABLES", rule(nft.Rule{Matches: []nft.Match{nft.Loopback{}, ports}})},
		{"CONFIG_NFT_COUNTER", rule(nft.Rule{Counter: true})},
		{"CONFIG_NFT_CT", rule(nft.Rule{Matches: []nft.Match{nft.New}})},
		{"CONFIG_NF_CONNTRACK_MARK", rule(nft.Rule{Matches: []nft.Match{nft.Mark(1)}})},
		{"Linux 4.17 or later", rule(nft.Rule{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.CtOriginalSrc4}, Set: "addrs"}}})},
		{"CONFIG_NFT_LIMIT", rule(nft.Rule{Matches: []nft.Match{nft.Limit{Field: nft.DstAddr4, Set: "rates", PerSecond: 1, Burst: 1}}})},
		{"CONFIG_NFT_REJECT_INET", rule(nft.Rule{Verdict: nft.Verdict{Action: nft.Reject}})},
	}
	if options.Masquerade {
		needs = append(needs,
			requirement{"CONFIG_NFT_NAT", nft.AddChain{Name: "nat", Hook: &nft.Hook{NAT: true, Point: nft.Postrouting, Base: nft.SrcNAT}}},
			requirement{"CONFIG_NFT_MASQ", rule(nft.Rule{Verdict: nft.Verdict{Action: nft.Masquerade}})},
		)
	}
	if options.MaxConnections {
		needs = append(needs,
			requirement{"CONFIG_NF_TABLES", nft.AddSet{Name: "connections", Type: nft.Of(nft.IPv4Addr), Dynamic: true}},
			requirement{"CONFIG_NFT_CONNLIMIT (--max-connections-per-pod 0 does without)", rule(nft.Rule{Matches: []nft.Match{
				nft.Unconfirmed{}, nft.Connections{Field: nft.SrcAddr4, Set: "connections", Over: 1}, nft.Noted{Fields: []nft.Field{nft.SrcAddr4}, Set: "rates"},
			}})},
		)
	}
	if options.Log {
		needs = append(needs, requirement{
			"CONFIG_NFT_LOG, with CONFIG_NETFILTER_NETLINK_LOG (--nflog-group 0 does without)", rule(nft.Rule{Log: nft.Log{Group: 1, Prefix: "denied"}}),
		})
	}
	if options.Queue {
		needs = append(needs,
			requirement{"CONFIG_NFT_CT", rule(nft.Rule{Matches: []nft.Match{nft.Begun{}}})},
			requirement{"CONFIG_NFT_LOG, with CONFIG_NETFILTER_NETLINK_LOG", rule(nft.Rule{Log: nft.Log{Group: 1, Prefix: "query", Whole: true}})},
			requirement{"CONFIG_NFT_QUEUE, or CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_NFQUEUE", queues},
		)
	}
	if options.SourceCheck {
		needs = append(needs, requirement{
			"CONFIG_NFT_FIB_INET (--source-check off does without)", rule(nft.Rule{Matches: []nft.Match{nft.Elsewhere{}}}),
		})
	}
	return needs
}

// guardRequirements are the same for the table of family bridge.
func guardRequirements() []requirement {
	return []requirement{
		{"CONFIG_NF_TABLES_BRIDGE", nft.AddChain{Name: "base", Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.DstNAT}}},
		{"CONFIG_NF_TABLES", nft.AddChain{Name: "rules"}},
		{"CONFIG_NF_TABLES", nft.AddSet{Name: "senders", Type: nft.Of(nft.IfName, nft.EtherAddr, nft.IPv6Addr)}},
		{"CONFIG_NF_TABLES", nft.SetRules{Chain: "rules", Rules: []nft.Rule{{
			Matches: []nft.Match{nft.InGroup(1), nft.Lookup{Fields: []nft.Field{nft.InPort, nft.SrcMAC, nft.SrcAddr6}, Set: "senders"}},
			Counter: true,
		}}}},
		{"CONFIG_NF_TABLES", nft.SetRules{Chain: "rules", Rules: []nft.Rule{{Matches: []nft.Match{nft.Fragment{V6: true}}}}}},
		{"CONFIG_NF_TABLES", nft.AddSet{Name: "rates", Type: nft.Of(nft.IfName), Dynamic: true, Timeout: 60}},
		{"CONFIG_NFT_LIMIT", nft.SetRules{Chain: "rules", Rules: []nft.Rule{{
			Matches: []nft.Match{nft.Limit{Field: nft.InPort, Set: "rates", PerSecond: 1, Burst: 1}},
		}}}},
	}
}

// owned are the flags of a table that one connection owns as long as it lasts, and that stays when
// the connection ends. Without the second flag the table, and with it all that fences the pods,
// would go when the agent does.
const owned = nftables.TableFlagOwner | nftables.TableFlagPersist

// probeOwner tries whether the kernel has both flags.
func (c *Conn) probeOwner() error {
	table := c.table(nft.Inet)
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

// probeQueue tries whether the kernel has an expression of nf_tables that queues packets. If it has none, rules use
// another for it; whether the kernel has that one, requirements say.
func (c *Conn) probeQueue() error {
	err := c.try(nft.Inet, "CONFIG_NF_TABLES", []requirement{{"CONFIG_NF_TABLES", nft.AddChain{Name: "rules"}}, {"CONFIG_NFT_QUEUE", queues}})
	if errors.Is(err, ErrUnsupported) {
		c.queues, err = queueByTarget, nil
	}
	return err
}

// probe tries what is needed for each table that there will be.
func (c *Conn) probe(options Options) error {
	if options.Own {
		if err := c.probeOwner(); err != nil {
			return unsupported(err, "CONFIG_NF_TABLES")
		}
	}
	if options.Queue {
		if err := c.probeQueue(); err != nil {
			return err
		}
	}
	err := c.try(nft.Inet, "CONFIG_NF_TABLES", requirements(options))
	if err != nil || !options.Guard {
		return err
	}
	return c.try(nft.Bridge, "CONFIG_NF_TABLES_BRIDGE", guardRequirements())
}

// try makes a table with everything that can be missing, and deletes it, in one
// transaction. Nobody can see the table, but the generation of the namespace's
// ruleset goes up by one.
func (c *Conn) try(family nft.Family, missing string, needs []requirement) error {
	table := c.table(family)
	table.Name += "-probe"
	plan := nft.Plan{Family: family, Replace: true}
	for _, n := range needs {
		plan.Ops = append(plan.Ops, n.op)
	}
	messages, err := c.encode(table, plan)
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

// unsupported turns an errno that means that something is missing into an ErrUnsupported, and
// returns any other error as it is. ENOENT is the kernel's answer to an expression that it does
// not know and for which it finds no module.
func unsupported(err error, missing string) error {
	for _, errno := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EINVAL} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: it needs %s: %w", ErrUnsupported, missing, err)
		}
	}
	return err
}
