package bytecode

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// errUnsaid says that an expression depends on what a nft.TracePacket does not say.
var errUnsaid = fmt.Errorf("it depends on a part of the packet that was not given, such as a source port")

// cmp compares a register with a value (net/netfilter/nft_cmp.c).
func (m *machine) cmp(a *arguments) (outcome, error) {
	register, op, want := a.number(unix.NFTA_CMP_SREG), a.number(unix.NFTA_CMP_OP), a.data(unix.NFTA_CMP_DATA)
	if err := a.end(); err != nil {
		return breaks, err
	}
	have, err := m.registers.load(register, len(want))
	if err != nil {
		return breaks, err
	}
	low, high := bytes.Compare(have.lowest(), want), bytes.Compare(have.highest(), want)
	_, known := have.whole()
	// always and never say what holds whatever the unknown bits are.
	var always, never bool
	switch op {
	case unix.NFT_CMP_EQ:
		always, never = known && low == 0, have.differs(want)
	case unix.NFT_CMP_NEQ:
		always, never = have.differs(want), known && low == 0
	case unix.NFT_CMP_LT:
		always, never = high < 0, low >= 0
	case unix.NFT_CMP_LTE:
		always, never = high <= 0, low > 0
	case unix.NFT_CMP_GT:
		always, never = low > 0, high <= 0
	case unix.NFT_CMP_GTE:
		always, never = low >= 0, high < 0
	default:
		return breaks, fmt.Errorf("there is no comparison %d", op)
	}
	switch {
	case always:
		return goesOn, nil
	case never:
		return breaks, nil
	}
	return breaks, errUnsaid
}

// bitwise masks a register (net/netfilter/nft_bitwise.c).
func (m *machine) bitwise(a *arguments) (outcome, error) {
	source, target := a.number(unix.NFTA_BITWISE_SREG), a.number(unix.NFTA_BITWISE_DREG)
	length := int(a.number(unix.NFTA_BITWISE_LEN))
	mask, xor := a.data(unix.NFTA_BITWISE_MASK), a.data(unix.NFTA_BITWISE_XOR)
	a.optional(bitwiseOp, bitwiseMaskXor)
	if err := a.end(); err != nil {
		return breaks, err
	}
	if len(mask) != length || len(xor) != length {
		return breaks, fmt.Errorf("its masks have %d and %d octets, and not %d", len(mask), len(xor), length)
	}
	have, err := m.registers.load(source, length)
	if err != nil {
		return breaks, err
	}
	made := unknown(length)
	for i := range length {
		made.known[i] = have.known[i] | ^mask[i]
		made.value[i] = (have.value[i]&mask[i] ^ xor[i]) & made.known[i]
	}
	return goesOn, m.registers.store(target, made)
}

const (
	bitwiseOp      = 6  // NFTA_BITWISE_OP
	bitwiseMaskXor = 0  // NFT_BITWISE_MASK_XOR
	dynsetFlags    = 9  // NFTA_DYNSET_FLAGS
	dynsetList     = 10 // NFTA_DYNSET_EXPRESSIONS
	connlimitInv   = 1  // NFT_CONNLIMIT_F_INV
	connlimitCount = 1  // NFTA_CONNLIMIT_COUNT
	connlimitFlags = 2  // NFTA_CONNLIMIT_FLAGS
)

// byteorder turns the order of bytes round. nft before 1.0.7 writes it for a single byte, where it has no
// effect; podfence writes none.
func (*machine) byteorder(a *arguments) (outcome, error) {
	source, target := a.number(unix.NFTA_BYTEORDER_SREG), a.number(unix.NFTA_BYTEORDER_DREG)
	a.number(unix.NFTA_BYTEORDER_OP)
	length, size := a.number(unix.NFTA_BYTEORDER_LEN), a.number(unix.NFTA_BYTEORDER_SIZE)
	if err := a.end(); err != nil {
		return breaks, err
	}
	if source != target || length >= size {
		return breaks, fmt.Errorf("it turns %d octets round, which podfence never does", length)
	}
	return goesOn, nil
}

// lookup looks registers up in a set, or in a map of verdicts (net/netfilter/nft_lookup.c).
func (m *machine) lookup(a *arguments) (outcome, error) {
	set, register := text(a.bytes(unix.NFTA_LOOKUP_SET)), a.number(unix.NFTA_LOOKUP_SREG)
	invert := a.has(unix.NFTA_LOOKUP_FLAGS) && a.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0
	isMap := a.has(unix.NFTA_LOOKUP_DREG)
	if isMap {
		a.want(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
	}
	a.ignore(unix.NFTA_LOOKUP_SET_ID)
	if err := a.end(); err != nil {
		return breaks, err
	}
	data, found, err := m.ruleset.Find(set, func(length int) ([]byte, error) { return m.key(register, length) })
	switch {
	case err != nil:
		return breaks, fmt.Errorf("set %s: %w", set, err)
	case found == invert:
		return breaks, nil
	case isMap:
		return m.decide(data)
	}
	return goesOn, nil
}

// key is what is looked up.
func (m *machine) key(register uint64, length int) ([]byte, error) {
	value, err := m.registers.load(register, length)
	if err != nil {
		return nil, err
	}
	key, known := value.whole()
	if !known {
		return nil, errUnsaid
	}
	return key, nil
}

// dynset takes an account for a key (net/netfilter/nft_dynset.c). How the account stands only a real
// packet would tell, which would change it: it is taken for one that is new.
func (m *machine) dynset(a *arguments) (outcome, error) {
	set := text(a.bytes(unix.NFTA_DYNSET_SET_NAME))
	a.want(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_ADD, unix.NFT_DYNSET_OP_UPDATE)
	a.number(unix.NFTA_DYNSET_SREG_KEY)
	a.ignore(unix.NFTA_DYNSET_SET_ID, unix.NFTA_DYNSET_TIMEOUT)
	if a.has(dynsetFlags) {
		// NFT_DYNSET_F_INV, which is 1, turns the result round; NFT_DYNSET_F_EXPR, 2, says that there are
		// expressions.
		a.want(dynsetFlags, 0, 2)
	}
	account, err := accountOf(a)
	if err == nil {
		err = a.end()
	}
	if err != nil {
		return breaks, err
	}
	switch account.Name {
	case "", "counter":
		m.assume("set " + set + " is not full")
		return goesOn, nil
	case "limit":
		arguments := argumentsOf(account)
		arguments.ignore(unix.NFTA_LIMIT_RATE, unix.NFTA_LIMIT_UNIT, unix.NFTA_LIMIT_BURST, unix.NFTA_LIMIT_TYPE)
		over := false
		if arguments.has(unix.NFTA_LIMIT_FLAGS) {
			flags := arguments.number(unix.NFTA_LIMIT_FLAGS)
			over = flags == 1 // NFT_LIMIT_F_INV: over the rate
			if flags > 1 {
				return breaks, fmt.Errorf("a limit has the flags %d", flags)
			}
		}
		if err := arguments.end(); err != nil {
			return breaks, err
		}
		m.assume("the limit in set " + set + " is not exceeded")
		if over {
			return breaks, nil
		}
		return goesOn, nil
	case "connlimit":
		arguments := argumentsOf(account)
		arguments.number(connlimitCount)
		arguments.want(connlimitFlags, connlimitInv)
		m.assume("the bound on connections in set " + set + " is not exceeded")
		return breaks, arguments.end()
	}
	return breaks, fmt.Errorf("it takes account by %q, which podfence never does", account.Name)
}

// accountOf is the expression of a dynset, which has none or one.
func accountOf(a *arguments) (e Expression, err error) {
	switch {
	case a.has(unix.NFTA_DYNSET_EXPR):
		return parseExpression(a.bytes(unix.NFTA_DYNSET_EXPR))
	case a.has(dynsetList):
		list, err := parseExpressions(a.bytes(dynsetList))
		if err != nil || len(list) != 1 {
			return e, fmt.Errorf("it has %d expressions, and podfence writes one", len(list))
		}
		return list[0], nil
	}
	return e, nil
}

// immediate reaches a verdict (net/netfilter/nft_immediate.c).
func (m *machine) immediate(a *arguments) (outcome, error) {
	a.want(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
	data := a.bytes(unix.NFTA_IMMEDIATE_DATA)
	if err := a.end(); err != nil {
		return breaks, err
	}
	return m.decide(data)
}

// The kernel's codes of verdicts: NF_ in include/uapi/linux/netfilter.h, NFT_ in nf_tables.h.
const (
	codeDrop   = 0
	codeAccept = 1
	codeJump   = -3
	codeReturn = -5
)

// decide reads a verdict.
func (m *machine) decide(data []byte) (outcome, error) {
	inner, err := attributesOf(data)
	if err != nil {
		return breaks, err
	}
	v, err := attributesOf(inner[unix.NFTA_DATA_VERDICT])
	if err != nil {
		return breaks, err
	}
	a := &arguments{left: v}
	code := int32(a.number(unix.NFTA_VERDICT_CODE))
	chain := ""
	if a.has(unix.NFTA_VERDICT_CHAIN) {
		chain = text(a.bytes(unix.NFTA_VERDICT_CHAIN))
	}
	if err := a.end(); err != nil {
		return breaks, fmt.Errorf("its verdict: %w", err)
	}
	switch code {
	case codeAccept:
		m.verdict = nft.Verdict{Action: nft.Accept}
	case codeDrop:
		m.verdict = nft.Verdict{Action: nft.Drop}
	case codeReturn:
		m.verdict = nft.Verdict{Action: nft.Return}
	case codeJump:
		m.verdict = nft.Verdict{Action: nft.Jump, Chain: chain}
	default:
		return breaks, fmt.Errorf("its verdict has code %d, which podfence never writes", code)
	}
	return decides, nil
}

// queue holds the packet for whoever reads the queue, and accepts it if nobody does (net/netfilter/nft_queue.c). podfence
// accepts whatever it holds.
func (m *machine) queue(a *arguments) (outcome, error) {
	number := a.number(unix.NFTA_QUEUE_NUM)
	a.want(unix.NFTA_QUEUE_TOTAL, 1)
	a.want(unix.NFTA_QUEUE_FLAGS, unix.NFT_QUEUE_FLAG_BYPASS)
	m.verdict = nft.Verdict{Action: nft.Queue, Number: uint16(number)}
	return decides, a.end()
}

// target does the same where the kernel has no such expression (net/netfilter/xt_NFQUEUE.c, struct xt_NFQ_info_v3). Of
// xtables' targets podfence writes this one alone.
func (m *machine) target(a *arguments) (outcome, error) {
	name := text(a.bytes(unix.NFTA_TARGET_NAME))
	a.want(unix.NFTA_TARGET_REV, 3)
	info := a.bytes(unix.NFTA_TARGET_INFO)
	if err := a.end(); err != nil {
		return breaks, err
	}
	const bypass = 1 // NFQ_FLAG_BYPASS
	if name != "NFQUEUE" || len(info) < 6 || binary.NativeEndian.Uint16(info[2:]) != 1 || binary.NativeEndian.Uint16(info[4:]) != bypass {
		return breaks, fmt.Errorf("it is xtables' target %q, which podfence never writes so", name)
	}
	m.verdict = nft.Verdict{Action: nft.Queue, Number: binary.NativeEndian.Uint16(info)}
	return decides, nil
}

// reject drops the packet with a message to its sender (net/netfilter/nft_reject.c). What it says does
// not matter.
func (m *machine) reject(a *arguments) (outcome, error) {
	a.number(unix.NFTA_REJECT_TYPE)
	a.ignore(unix.NFTA_REJECT_ICMP_CODE)
	m.verdict = nft.Verdict{Action: nft.Reject}
	return decides, a.end()
}

// masq gives the packet the node's address, and accepts it (net/netfilter/nft_masq.c).
func (m *machine) masq(a *arguments) (outcome, error) {
	a.ignore(unix.NFTA_MASQ_FLAGS, unix.NFTA_MASQ_REG_PROTO_MIN, unix.NFTA_MASQ_REG_PROTO_MAX)
	m.verdict = nft.Verdict{Action: nft.Masquerade}
	return decides, a.end()
}

// counter counts, which changes nothing for the packet.
func (*machine) counter(a *arguments) (outcome, error) {
	a.ignore(unix.NFTA_COUNTER_BYTES, unix.NFTA_COUNTER_PACKETS, unix.NFTA_COUNTER_PAD)
	return goesOn, a.end()
}
