package bytecode

import (
	"fmt"
	"slices"

	"github.com/podfence/podfence/ruleset/nft"
	"golang.org/x/sys/unix"
)

// maxDepth is how many jumps there can be one in another (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// Run runs a packet through base chains of one hook, in the order that they are given in: by priority,
// as the kernel runs them. Chains of type nat see only what begins a flow; their steps count only if
// they deny the packet. An error means that there is no verdict: it names the rule that cannot be
// judged.
func Run(ruleset Ruleset, family nft.Family, bases []Base, p nft.TracePacket) (nft.ReadTrace, error) {
	m := &machine{ruleset: ruleset, family: family, packet: p, headers: headersOf(family, p)}
	for _, base := range bases {
		if base.NAT && p.State != nft.New {
			continue
		}
		if m.packet = p; base.Untracked {
			m.packet.State, m.packet.Flow = 0, nft.Flow{}
		}
		before := len(m.steps)
		v, ended, err := m.chain(base.Chain, 0)
		if err != nil {
			return nft.ReadTrace{}, err
		}
		if !ended && base.Drop {
			v = nft.Verdict{Action: nft.Drop}
			m.steps = append(m.steps, nft.ReadStep{Chain: base.Chain, Position: -1, Ended: true, Verdict: v})
		}
		if v.Action == nft.Drop || v.Action == nft.Reject {
			return nft.ReadTrace{Steps: m.steps, Verdict: v.Action, Assumed: m.assumed}, nil
		}
		if base.NAT {
			m.steps = m.steps[:before]
		}
	}
	return nft.ReadTrace{Steps: m.steps, Verdict: nft.Accept, Assumed: m.assumed}, nil
}

// machine runs rules for one packet.
type machine struct {
	ruleset Ruleset
	family  nft.Family
	packet  nft.TracePacket
	headers headers

	registers registers
	// verdict is that of the rule that has just decided.
	verdict nft.Verdict
	steps   []nft.ReadStep
	assumed []string
}

func (m *machine) assume(what string) {
	if !slices.Contains(m.assumed, what) {
		m.assumed = append(m.assumed, what)
	}
}

// chain runs the packet through a chain. It has not ended if the chain comes to no verdict; then v is
// Accept.
func (m *machine) chain(name string, depth int) (v nft.Verdict, ended bool, err error) {
	if depth > maxDepth {
		return v, false, fmt.Errorf("chain %s is jumped to %d chains deep, which the kernel does not allow", name, depth)
	}
	position := -1
	for rule, err := range m.ruleset.Rules(name) {
		if err != nil {
			return v, false, fmt.Errorf("chain %s: %w", name, err)
		}
		position++
		o, err := m.rule(rule)
		if err != nil {
			return v, false, fmt.Errorf("rule %d of chain %s (handle %d): %w", position+1, name, rule.Handle, err)
		}
		if o == breaks {
			continue
		}
		step := nft.ReadStep{Chain: name, Position: position, Handle: rule.Handle, Comment: rule.Comment}
		if o == decides {
			step.Ended, step.Verdict = true, m.verdict
		}
		m.steps = append(m.steps, step)
		switch {
		case !step.Ended:
		case step.Verdict.Action == nft.Return:
			return v, false, nil
		case step.Verdict.Action != nft.Jump:
			return step.Verdict, true, nil
		default:
			if jumped, ended, err := m.chain(step.Verdict.Chain, depth+1); err != nil || ended {
				return jumped, ended, err
			}
		}
	}
	return v, false, nil
}

// rule runs the expressions of a rule.
func (m *machine) rule(rule Rule) (outcome, error) {
	m.registers = newRegisters()
	for i, e := range rule.Expressions {
		o, err := m.expression(e)
		if err != nil {
			return breaks, fmt.Errorf("expression %d, %q: %w", i+1, e.Name, err)
		}
		if o != goesOn {
			return o, nil
		}
	}
	return goesOn, nil
}

func (m *machine) expression(e Expression) (outcome, error) {
	a := argumentsOf(e)
	switch e.Name {
	case "meta":
		return m.meta(a)
	case "payload":
		return m.payload(a)
	case "ct":
		return m.ct(a)
	case "fib":
		return m.fib(a)
	case "exthdr":
		return m.exthdr(a)
	case "cmp":
		return m.cmp(a)
	case "bitwise":
		return m.bitwise(a)
	case "byteorder":
		return m.byteorder(a)
	case "lookup":
		return m.lookup(a)
	case "dynset":
		return m.dynset(a)
	case "counter":
		return m.counter(a)
	case "log": // whoever listens does not change what becomes of the packet
		a.ignore(unix.NFTA_LOG_GROUP, unix.NFTA_LOG_PREFIX, unix.NFTA_LOG_SNAPLEN, unix.NFTA_LOG_QTHRESHOLD)
		return goesOn, a.end()
	case "immediate":
		return m.immediate(a)
	case "queue":
		return m.queue(a)
	case "target":
		return m.target(a)
	case "reject":
		return m.reject(a)
	case "masq":
		return m.masq(a)
	}
	return breaks, fmt.Errorf("this program does not know such an expression, so that it cannot say what the kernel does: see the rule with nft -a list chain")
}
