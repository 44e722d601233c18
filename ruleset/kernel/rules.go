package kernel

import (
	"fmt"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset"
)

// program returns the expressions of a rule. They are those of nft for a table
// of family inet, dependencies and register numbers included: nft recognises
// its own way of saying a thing, and prints anything else in pieces or wrongly.
func program(rule ruleset.Rule) ([]expr.Any, error) {
	var p assembler
	for _, match := range rule.Matches {
		if err := p.match(match); err != nil {
			return nil, err
		}
	}
	if rule.Counter {
		// counter
		p.emit(&expr.Counter{})
	}
	if err := p.verdict(rule.Verdict); err != nil {
		return nil, err
	}
	return p.exprs, nil
}

// assembler collects the expressions of one rule.
type assembler struct {
	exprs []expr.Any
	// family and protocol are what the rule has established about the packet:
	// a dependency comes once, before its first use. Zero: nothing.
	family, protocol byte
}

func (p *assembler) emit(exprs ...expr.Any) { p.exprs = append(p.exprs, exprs...) }

// firstRegister is the register that a value is loaded into, and the first of
// those of a concatenation.
const firstRegister = unix.NFT_REG_1

// register is the register at a distance of so many words of 4 bytes from the
// first. Those on a boundary of 16 bytes have a number of their own, which the
// kernel prefers (nft_dump_register in net/netfilter/nf_tables_api.c).
func register(word uint32) uint32 {
	if word%4 == 0 {
		return firstRegister + word/4
	}
	return unix.NFT_REG32_00 + word
}

func (p *assembler) match(match ruleset.Match) error {
	switch m := match.(type) {
	case ruleset.Loopback:
		// iifname "lo"
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, "lo")
		p.emit(
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: name},
		)
	case ruleset.CtState:
		// ct state established,related
		p.emit(
			&expr.Ct{Key: expr.CtKeySTATE, Register: firstRegister},
			and(stateBits(m)),
			&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: make([]byte, 4)},
		)
	case ruleset.Mark:
		// ct mark & 0x1 == 0x1
		p.emit(
			&expr.Ct{Key: expr.CtKeyMARK, Register: firstRegister},
			and(uint32(m)),
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binaryutil.NativeEndian.PutUint32(uint32(m))},
		)
	case ruleset.HopLimit:
		// ip6 hoplimit 255
		p.requireFamily(unix.NFPROTO_IPV6)
		p.emit(
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1, DestRegister: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{byte(m)}},
		)
	case ruleset.Lookup:
		// ip daddr . meta l4proto . th dport @set
		if err := p.load(m.Fields); err != nil {
			return err
		}
		p.emit(&expr.Lookup{SourceRegister: firstRegister, SetName: m.Set})
	default:
		return fmt.Errorf("unknown match %T", match)
	}
	return nil
}

// and masks the 4 bytes in the first register, which are in the byte order of
// the machine.
func and(mask uint32) expr.Any {
	return &expr.Bitwise{
		SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4),
	}
}

// stateBits are the states as the kernel numbers them.
func stateBits(states ruleset.CtState) uint32 {
	var bits uint32
	for _, b := range []struct {
		state ruleset.CtState
		bit   uint32
	}{
		{ruleset.Established, expr.CtStateBitESTABLISHED},
		{ruleset.Related, expr.CtStateBitRELATED},
		{ruleset.Invalid, expr.CtStateBitINVALID},
		{ruleset.New, expr.CtStateBitNEW},
	} {
		if states&b.state != 0 {
			bits |= b.bit
		}
	}
	return bits
}

// load loads fields, one after the other, each into whole words.
func (p *assembler) load(fields []ruleset.Field) error {
	if len(fields) == 0 {
		return fmt.Errorf("a lookup of no fields")
	}
	// What the fields depend on comes before all of them: it uses the first
	// register too.
	for _, field := range fields {
		switch field {
		case ruleset.SrcAddr4, ruleset.DstAddr4:
			p.requireFamily(unix.NFPROTO_IPV4)
		case ruleset.SrcAddr6, ruleset.DstAddr6:
			p.requireFamily(unix.NFPROTO_IPV6)
		case ruleset.ICMPv6MessageType:
			p.requireFamily(unix.NFPROTO_IPV6)
			p.requireProtocol(unix.IPPROTO_ICMPV6)
		}
	}
	word := uint32(0)
	for i, field := range fields {
		words, err := p.loadField(field, register(word))
		if err != nil {
			return err
		}
		if field == ruleset.L4Protocol && i == 0 && len(fields) > 1 {
			// nft turns a number of the machine's byte order round before it
			// looks it up in ranges, and does so even with a single byte, where
			// it has no effect. A concatenation that starts with the protocol is
			// ruleset.Ports, the one that has ranges.
			p.emit(&expr.Byteorder{SourceRegister: firstRegister, DestRegister: firstRegister, Op: expr.ByteorderHton, Len: 1, Size: 2})
		}
		word += words
	}
	return nil
}

// loadField loads one field and returns how many words it takes.
func (p *assembler) loadField(field ruleset.Field, register uint32) (words uint32, err error) {
	payload := func(base expr.PayloadBase, offset, length uint32) uint32 {
		p.emit(&expr.Payload{Base: base, Offset: offset, Len: length, DestRegister: register})
		return (length + 3) / 4
	}
	switch field {
	case ruleset.SrcAddr4: // ip saddr
		return payload(expr.PayloadBaseNetworkHeader, 12, 4), nil
	case ruleset.DstAddr4: // ip daddr
		return payload(expr.PayloadBaseNetworkHeader, 16, 4), nil
	case ruleset.SrcAddr6: // ip6 saddr
		return payload(expr.PayloadBaseNetworkHeader, 8, 16), nil
	case ruleset.DstAddr6: // ip6 daddr
		return payload(expr.PayloadBaseNetworkHeader, 24, 16), nil
	case ruleset.L4Protocol: // meta l4proto
		p.emit(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register})
		return 1, nil
	case ruleset.DstPort: // th dport
		return payload(expr.PayloadBaseTransportHeader, 2, 2), nil
	case ruleset.ICMPv6MessageType: // icmpv6 type
		return payload(expr.PayloadBaseTransportHeader, 0, 1), nil
	}
	return 0, fmt.Errorf("unknown field %d", field)
}

// requireFamily lets only packets of the family go on.
func (p *assembler) requireFamily(family byte) {
	if p.family == family {
		return
	}
	p.family = family
	// meta nfproto ipv4
	p.emit(
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{family}},
	)
}

// requireProtocol lets only packets of the transport protocol go on.
func (p *assembler) requireProtocol(protocol byte) {
	if p.protocol == protocol {
		return
	}
	p.protocol = protocol
	// meta l4proto ipv6-icmp
	p.emit(
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{protocol}},
	)
}

func (p *assembler) verdict(v ruleset.Verdict) error {
	switch v.Action {
	case ruleset.Accept:
		// accept
		p.emit(&expr.Verdict{Kind: expr.VerdictAccept})
	case ruleset.Drop:
		// drop
		p.emit(&expr.Verdict{Kind: expr.VerdictDrop})
	case ruleset.Reject:
		// reject with icmpx admin-prohibited
		p.emit(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED})
	case ruleset.Jump:
		// jump CHAIN
		p.emit(&expr.Verdict{Kind: expr.VerdictJump, Chain: v.Chain})
	case ruleset.Dispatch:
		// ip saddr vmap @map
		if err := p.load([]ruleset.Field{v.Field}); err != nil {
			return err
		}
		p.emit(&expr.Lookup{SourceRegister: firstRegister, SetName: v.Map, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
	default:
		return fmt.Errorf("unknown verdict %d", v.Action)
	}
	return nil
}
