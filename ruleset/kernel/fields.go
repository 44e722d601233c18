package kernel

import (
	"fmt"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// load loads fields into registers, one after the other. Each takes whole words.
func (p *assembler) load(fields []nft.Field) error {
	if len(fields) == 0 {
		return fmt.Errorf("a lookup of no fields")
	}
	// The dependencies of all fields come before the first field is loaded, because they use the
	// first register too.
	for _, field := range fields {
		switch field {
		case nft.SrcAddr4, nft.DstAddr4:
			p.requireFamily(unix.NFPROTO_IPV4)
		case nft.SrcAddr6, nft.DstAddr6:
			p.requireFamily(unix.NFPROTO_IPV6)
		case nft.ARPSrcMAC, nft.ARPSrcAddr, nft.ARPDstAddr:
			p.requireFrameType(unix.ETH_P_ARP)
		case nft.ICMPMessageType:
			p.requireMessage(unix.ETH_P_IP, unix.NFPROTO_IPV4, unix.IPPROTO_ICMP)
		case nft.ICMPv6MessageType:
			p.requireMessage(unix.ETH_P_IPV6, unix.NFPROTO_IPV6, unix.IPPROTO_ICMPV6)
		}
	}
	// Before nft 1.0.6 looks a protocol up in ranges, it changes the protocol's byte order, as if a
	// single byte had one ([ byteorder reg 1 = hton(reg 1, 2, 1) ]). That never had any effect, and
	// newer kernels refuse it with EOPNOTSUPP: of Linux 6.12, those since 6.12.115 ("nft_byteorder:
	// remove multi-register support"). It is left out here. nft prints the rule even so.
	word := uint32(0)
	for _, field := range fields {
		words, err := p.loadField(field, register(word))
		if err != nil {
			return err
		}
		word += words
	}
	return nil
}

// loadField loads one field and returns how many words it takes.
func (p *assembler) loadField(field nft.Field, register uint32) (words uint32, err error) {
	payload := func(base expr.PayloadBase, offset, length uint32) uint32 {
		p.emit(&expr.Payload{Base: base, Offset: offset, Len: length, DestRegister: register})
		return (length + 3) / 4
	}
	ct := func(key expr.CtKey, direction, length uint32) uint32 {
		p.emit(&expr.Ct{Key: key, Direction: direction, OptDirection: true, Register: register})
		return length / 4
	}
	switch field {
	case nft.SrcAddr4: // ip saddr
		return payload(expr.PayloadBaseNetworkHeader, 12, 4), nil
	case nft.DstAddr4: // ip daddr
		return payload(expr.PayloadBaseNetworkHeader, 16, 4), nil
	case nft.SrcAddr6: // ip6 saddr
		return payload(expr.PayloadBaseNetworkHeader, 8, 16), nil
	case nft.DstAddr6: // ip6 daddr
		return payload(expr.PayloadBaseNetworkHeader, 24, 16), nil
	case nft.L4Protocol: // meta l4proto
		p.emit(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register})
		return 1, nil
	case nft.Zero: // meta l4proto & ip
		p.emit(
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{0}, Xor: []byte{0}},
		)
		return 1, nil
	case nft.SrcPort: // th sport
		return payload(expr.PayloadBaseTransportHeader, 0, 2), nil
	case nft.DstPort: // th dport
		return payload(expr.PayloadBaseTransportHeader, 2, 2), nil
	case nft.CtOriginalSrc4: // ct original ip saddr
		return ct(expr.CtKeySRCIP, expr.CtDirOriginal, 4), nil
	case nft.CtOriginalSrc6: // ct original ip6 saddr
		return ct(expr.CtKeySRCIP6, expr.CtDirOriginal, 16), nil
	case nft.CtReplySrc4: // ct reply ip saddr
		return ct(expr.CtKeySRCIP, expr.CtDirReply, 4), nil
	case nft.CtReplySrc6: // ct reply ip6 saddr
		return ct(expr.CtKeySRCIP6, expr.CtDirReply, 16), nil
	case nft.ICMPMessageType, nft.ICMPv6MessageType: // icmp type, icmpv6 type
		return payload(expr.PayloadBaseTransportHeader, 0, 1), nil
	case nft.InPort: // iifname
		p.emit(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register})
		return unix.IFNAMSIZ / 4, nil
	case nft.OutPort: // oifname
		p.emit(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register})
		return unix.IFNAMSIZ / 4, nil
	case nft.DstMAC: // ether daddr
		return payload(expr.PayloadBaseLLHeader, 0, 6), nil
	case nft.SrcMAC: // ether saddr
		return payload(expr.PayloadBaseLLHeader, 6, 6), nil
	case nft.FrameType: // ether type
		return payload(expr.PayloadBaseLLHeader, 12, 2), nil
	case nft.ARPSrcMAC: // arp saddr ether
		return payload(expr.PayloadBaseNetworkHeader, 8, 6), nil
	case nft.ARPSrcAddr: // arp saddr ip
		return payload(expr.PayloadBaseNetworkHeader, 14, 4), nil
	case nft.ARPDstAddr: // arp daddr ip
		return payload(expr.PayloadBaseNetworkHeader, 24, 4), nil
	}
	return 0, fmt.Errorf("unknown field %d", field)
}

// requireFamily lets only packets of the family go on.
func (p *assembler) requireFamily(family byte) {
	frameType := map[byte]uint16{unix.NFPROTO_IPV4: unix.ETH_P_IP, unix.NFPROTO_IPV6: unix.ETH_P_IPV6}[family]
	if p.frameType == frameType {
		return
	}
	p.frameType = frameType
	if p.bridge {
		// meta protocol ip
		p.emit(
			&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binaryutil.BigEndian.PutUint16(frameType)},
		)
		return
	}
	// meta nfproto ipv4
	p.emit(
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{family}},
	)
}

// requireFrameType lets only frames of the type go on. In family bridge nft writes this dependency,
// and not that of requireFamily, for fields that are not in an IP header.
func (p *assembler) requireFrameType(frameType uint16) {
	if p.frameType == frameType {
		return
	}
	p.frameType = frameType
	// ether type arp
	p.emit(
		&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2, DestRegister: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binaryutil.BigEndian.PutUint16(frameType)},
	)
}

// requireMessage lets only messages of ICMP or ICMPv6 go on.
func (p *assembler) requireMessage(frameType uint16, family, protocol byte) {
	if p.bridge {
		p.requireFrameType(frameType)
	} else {
		p.requireFamily(family)
	}
	p.requireProtocol(protocol)
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
