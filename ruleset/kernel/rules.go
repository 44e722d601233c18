package kernel

import (
	"fmt"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// program returns the expressions of a rule. They are those that nft makes for a table of the same
// family, including dependencies and register numbers: nft recognises what it has made itself, and
// prints anything else in pieces or wrongly.
func program(rule nft.Rule, bridge bool, queues queueing) ([]expr.Any, error) {
	p := assembler{bridge: bridge, queues: queues}
	for _, match := range rule.Matches {
		if err := p.match(match); err != nil {
			return nil, err
		}
	}
	if rule.Counter {
		// counter
		p.emit(&expr.Counter{})
	}
	if log := rule.Log; log != (nft.Log{}) {
		// log prefix "denied" group 28774 snaplen 128
		told := &expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX, Group: log.Group, Data: []byte(log.Prefix)}
		if !log.Whole {
			told.Key, told.Snaplen = told.Key|1<<unix.NFTA_LOG_SNAPLEN, nft.LogSnaplen
		}
		p.emit(told)
	}
	if err := p.verdict(rule.Verdict); err != nil {
		return nil, err
	}
	return p.exprs, nil
}

// assembler collects the expressions of one rule.
type assembler struct {
	exprs []expr.Any
	// bridge: the table is of family bridge.
	bridge bool
	queues queueing
	// frameType and protocol are what the rule has already established about the packet, because
	// a dependency comes only once, before its first use. Zero means nothing. frameType is an
	// EtherType in a table of family inet too.
	frameType uint16
	protocol  byte
}

func (p *assembler) emit(exprs ...expr.Any) { p.exprs = append(p.exprs, exprs...) }

// firstRegister is the register that a value is loaded into, or the first value of a
// concatenation.
const firstRegister = unix.NFT_REG_1

// register is the register at a distance of so many words of 4 bytes from the first. A register at
// a boundary of 16 bytes also has another number, which the kernel prefers (nft_dump_register in
// net/netfilter/nf_tables_api.c).
func register(word uint32) uint32 {
	if word%4 == 0 {
		return firstRegister + word/4
	}
	return unix.NFT_REG32_00 + word
}

func (p *assembler) match(match nft.Match) error {
	switch m := match.(type) {
	case nft.Loopback:
		// iifname "lo"
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, "lo")
		p.emit(
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: name},
		)
	case nft.InGroup:
		// iifgroup 28774
		p.emit(
			&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binaryutil.NativeEndian.PutUint32(uint32(m))},
		)
	case nft.PacketType:
		// meta pkttype multicast
		p.emit(
			&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{byte(m)}},
		)
	case nft.CtState:
		// ct state established,related
		p.emit(
			&expr.Ct{Key: expr.CtKeySTATE, Register: firstRegister},
			and(stateBits(m)),
			&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: make([]byte, 4)},
		)
	case nft.Mark:
		// ct mark & 0x1 == 0x1
		p.emit(
			&expr.Ct{Key: expr.CtKeyMARK, Register: firstRegister},
			and(uint32(m)),
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binaryutil.NativeEndian.PutUint32(uint32(m))},
		)
	case nft.Elsewhere:
		// fib saddr . iif oif missing
		p.emit(
			&expr.Fib{Register: firstRegister, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: make([]byte, 4)},
		)
	case nft.DNAT:
		// ct status dnat
		p.emit(
			&expr.Ct{Key: expr.CtKeySTATUS, Register: firstRegister},
			and(ctStatusDNAT),
			&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: make([]byte, 4)},
		)
	case nft.Begun:
		// ct direction original
		p.emit(
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{0}}, // IP_CT_DIR_ORIGINAL
		)
	case nft.Midstream:
		return p.midstream(packet.Protocol(m))
	case nft.ICMPv6:
		// meta l4proto ipv6-icmp
		p.requireProtocol(unix.IPPROTO_ICMPV6)
	case nft.Authenticated:
		// meta l4proto ah
		p.requireProtocol(unix.IPPROTO_AH)
	case nft.ICMPv6Error:
		// icmpv6 type < echo-request
		if err := p.load([]nft.Field{nft.ICMPv6MessageType}); err != nil {
			return err
		}
		p.emit(&expr.Cmp{Op: expr.CmpOpLt, Register: firstRegister, Data: []byte{128}})
	case nft.Redirect:
		// icmp type redirect
		if err := p.load([]nft.Field{nft.ICMPMessageType}); err != nil {
			return err
		}
		p.emit(&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{nft.ICMPRedirect}})
	case nft.Fragment:
		p.fragment(m)
	case nft.Atomic:
		// frag frag-off 0 frag more-fragments 0
		p.fragment(nft.Fragment{V6: true, First: true})
		p.emit(
			&expr.Exthdr{DestRegister: firstRegister, Type: unix.IPPROTO_FRAGMENT, Op: expr.ExthdrOpIpv6, Offset: 3, Len: 1},
			&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{0}},
		)
	case nft.UpperLayer:
		// @th,56,8 >= 0x0
		p.emit(
			&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 7, Len: 1, DestRegister: firstRegister},
			&expr.Cmp{Op: expr.CmpOpGte, Register: firstRegister, Data: []byte{0}},
		)
	case nft.OfFamily:
		// meta nfproto ipv4
		family := byte(unix.NFPROTO_IPV4)
		if m == 6 {
			family = unix.NFPROTO_IPV6
		}
		p.requireFamily(family)
	case nft.Limit:
		// update @set { ip daddr limit rate 100/second burst 100 packets }
		if err := p.load([]nft.Field{m.Field}); err != nil {
			return err
		}
		kind := expr.LimitTypePkts
		if m.Octets {
			kind = expr.LimitTypePktBytes
		}
		p.emit(&expr.Dynset{SrcRegKey: firstRegister, SetName: m.Set, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{
			&expr.Limit{Type: kind, Rate: uint64(m.PerSecond), Unit: expr.LimitTimeSecond, Burst: m.Burst, Over: m.Over},
		}})
	case nft.Unconfirmed:
		// ct status ! confirmed
		p.emit(
			&expr.Ct{Key: expr.CtKeySTATUS, Register: firstRegister},
			and(ctStatusConfirmed),
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: make([]byte, 4)},
		)
	case nft.Connections:
		// add @set { ip saddr ct count over 10000 }
		if err := p.load([]nft.Field{m.Field}); err != nil {
			return err
		}
		p.emit(&expr.Dynset{SrcRegKey: firstRegister, SetName: m.Set, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: []expr.Any{
			&expr.Connlimit{Count: m.Over, Flags: expr.NFT_CONNLIMIT_F_INV},
		}})
	case nft.Noted:
		// add @set { ip saddr }
		if err := p.load(m.Fields); err != nil {
			return err
		}
		note := &expr.Dynset{SrcRegKey: firstRegister, SetName: m.Set, Operation: unix.NFT_DYNSET_OP_ADD}
		if m.Count {
			note.Exprs = []expr.Any{&expr.Counter{}}
		}
		if m.Renew {
			note.Operation = unix.NFT_DYNSET_OP_UPDATE
		}
		p.emit(note)
	case nft.NextHeader:
		// ip6 nexthdr ipv6-icmp
		op := expr.CmpOpEq
		if m.Not {
			op = expr.CmpOpNeq
		}
		p.requireFamily(unix.NFPROTO_IPV6)
		p.emit(
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 1, DestRegister: firstRegister},
			&expr.Cmp{Op: op, Register: firstRegister, Data: []byte{byte(m.Protocol)}},
		)
	case nft.HopLimit:
		// ip6 hoplimit 255
		p.requireFamily(unix.NFPROTO_IPV6)
		p.emit(
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1, DestRegister: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{byte(m)}},
		)
	case nft.MessageType:
		// icmpv6 type nd-neighbor-solicit
		if err := p.load([]nft.Field{nft.ICMPv6MessageType}); err != nil {
			return err
		}
		p.emit(&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{byte(m)}})
	case nft.Lookup:
		// ip daddr . meta l4proto . th dport @set
		if err := p.load(m.Fields); err != nil {
			return err
		}
		p.emit(&expr.Lookup{SourceRegister: firstRegister, SetName: m.Set, Invert: m.Not})
	default:
		return fmt.Errorf("unknown match %T", match)
	}
	return nil
}

// fragment matches fragments.
func (p *assembler) fragment(m nft.Fragment) {
	offset := func(mask []byte, op expr.CmpOp) {
		p.emit(
			&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 2, Mask: mask, Xor: make([]byte, 2)},
			&expr.Cmp{Op: op, Register: firstRegister, Data: make([]byte, 2)},
		)
	}
	if !m.V6 {
		p.requireFamily(unix.NFPROTO_IPV4)
		p.emit(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2, DestRegister: firstRegister})
		if m.First {
			// ip frag-off & 8191 == 0
			offset([]byte{0x1f, 0xff}, expr.CmpOpEq)
		} else {
			// ip frag-off & 16383 != 0
			offset([]byte{0x3f, 0xff}, expr.CmpOpNeq)
		}
		return
	}
	if p.bridge {
		p.requireFrameType(unix.ETH_P_IPV6)
	} else {
		p.requireFamily(unix.NFPROTO_IPV6)
	}
	header := &expr.Exthdr{DestRegister: firstRegister, Type: unix.IPPROTO_FRAGMENT, Op: expr.ExthdrOpIpv6}
	if m.First {
		// frag frag-off 0
		header.Offset, header.Len = 2, 2
		p.emit(header)
		offset([]byte{0xff, 0xf8}, expr.CmpOpEq)
		return
	}
	// exthdr frag exists
	header.Len, header.Flags = 1, unix.NFT_EXTHDR_F_PRESENT
	p.emit(header, &expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{1}})
}

// midstream matches packets that begin no connection, by the octet of the header that says so.
func (p *assembler) midstream(protocol packet.Protocol) error {
	p.requireProtocol(byte(protocol))
	octet := func(offset uint32) {
		p.emit(&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 1, DestRegister: firstRegister})
	}
	switch protocol {
	case packet.TCP:
		// tcp flags ! syn
		octet(13)
		p.emit(
			&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 1, Mask: []byte{0x02}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{0}},
		)
	case packet.SCTP:
		// @th,96,8 != 0x1: the type of the first chunk, behind the common header
		octet(12)
		p.emit(&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: []byte{1}})
	default:
		return fmt.Errorf("no packet of %s begins a connection", protocol)
	}
	return nil
}

// IPS_CONFIRMED and IPS_DST_NAT (include/uapi/linux/netfilter/nf_conntrack_common.h).
const (
	ctStatusConfirmed = 1 << 3
	ctStatusDNAT      = 1 << 5
)

// and masks the 4 bytes in the first register, which are in the byte order of
// the machine.
func and(mask uint32) expr.Any {
	return &expr.Bitwise{
		SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4),
	}
}

// stateBits are the states as the kernel numbers them.
func stateBits(states nft.CtState) uint32 {
	var bits uint32
	for _, b := range []struct {
		state nft.CtState
		bit   uint32
	}{
		{nft.Established, expr.CtStateBitESTABLISHED},
		{nft.Related, expr.CtStateBitRELATED},
		{nft.Invalid, expr.CtStateBitINVALID},
		{nft.New, expr.CtStateBitNEW},
		{nft.Untracked, expr.CtStateBitUNTRACKED},
	} {
		if states&b.state != 0 {
			bits |= b.bit
		}
	}
	return bits
}

func (p *assembler) verdict(v nft.Verdict) error {
	switch v.Action {
	case nft.Accept:
		// accept
		p.emit(&expr.Verdict{Kind: expr.VerdictAccept})
	case nft.Drop:
		// drop
		p.emit(&expr.Verdict{Kind: expr.VerdictDrop})
	case nft.Reject:
		// reject with icmpx admin-prohibited
		p.emit(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED})
	case nft.Return:
		// return
		p.emit(&expr.Verdict{Kind: expr.VerdictReturn})
	case nft.Jump:
		// jump CHAIN
		p.emit(&expr.Verdict{Kind: expr.VerdictJump, Chain: v.Chain})
	case nft.Masquerade:
		// masquerade fully-random
		p.emit(&expr.Masq{FullyRandom: true})
	case nft.Queue:
		// queue flags bypass to 28774
		p.emit(p.queues.expression(v.Number))
	case nft.Dispatch:
		// ip saddr vmap @map
		if err := p.load([]nft.Field{v.Field}); err != nil {
			return err
		}
		p.emit(&expr.Lookup{SourceRegister: firstRegister, SetName: v.Map, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
	default:
		return fmt.Errorf("unknown verdict %d", v.Action)
	}
	return nil
}
