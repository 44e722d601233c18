package bytecode

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// outcome is what an expression does to its rule.
type outcome uint8

const (
	goesOn  outcome = iota // the next expression is run
	breaks                 // the rule does not match
	decides                // the rule ends with the machine's verdict
)

// meta loads what the kernel knows of the packet (net/netfilter/nft_meta.c).
func (m *machine) meta(a *arguments) (outcome, error) {
	register, key := a.number(unix.NFTA_META_DREG), a.number(unix.NFTA_META_KEY)
	if err := a.end(); err != nil {
		return breaks, err
	}
	p := m.packet
	isIP := p.Src.IsValid()
	var value bits
	switch key {
	case unix.NFT_META_NFPROTO:
		value = sure(unix.NFPROTO_BRIDGE)
		if m.family == nft.Inet {
			value = sure(protocolFamily(p))
		}
	case unix.NFT_META_PROTOCOL:
		value = sure(binary.BigEndian.AppendUint16(nil, etherType(p))...)
	case unix.NFT_META_L4PROTO:
		if !isIP {
			return breaks, nil
		}
		value = sure(byte(p.Protocol))
	case unix.NFT_META_IIFNAME:
		name := p.Frame.Port
		if p.Loopback {
			name = "lo"
		}
		value = linkName(name)
	case unix.NFT_META_OIFNAME:
		value = linkName(p.Frame.Out)
	case unix.NFT_META_IIFGROUP:
		value = sure(binary.NativeEndian.AppendUint32(nil, p.Frame.Group)...)
	case unix.NFT_META_PKTTYPE:
		value = sure(byte(p.Frame.PacketType()))
	default:
		return breaks, fmt.Errorf("it asks for key %d, which podfence never does", key)
	}
	return goesOn, m.registers.store(register, value)
}

// linkName is the name of a link as the kernel has it in a register.
func linkName(name string) bits {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return sure(b...)
}

// payload loads a part of the packet's headers (net/netfilter/nft_payload.c).
func (m *machine) payload(a *arguments) (outcome, error) {
	register, base := a.number(unix.NFTA_PAYLOAD_DREG), a.number(unix.NFTA_PAYLOAD_BASE)
	offset, length := int(a.number(unix.NFTA_PAYLOAD_OFFSET)), int(a.number(unix.NFTA_PAYLOAD_LEN))
	if err := a.end(); err != nil {
		return breaks, err
	}
	var header bits
	switch base {
	case unix.NFT_PAYLOAD_LL_HEADER:
		if m.family != nft.Bridge {
			return breaks, fmt.Errorf("it reads the link's header in a table of family %s, which podfence never does", m.family)
		}
		header = m.headers.link
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		header = m.headers.network
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		if header = m.headers.transport; len(header.value) == 0 {
			return breaks, nil
		}
	default:
		return breaks, fmt.Errorf("it reads from base %d, which podfence never does", base)
	}
	if offset < 0 || length < 1 || offset+length > len(header.value) {
		return breaks, fmt.Errorf("it reads octets %d to %d of a header of which only %d are spoken of", offset, offset+length-1, len(header.value))
	}
	return goesOn, m.registers.store(register, header.slice(offset, offset+length))
}

// The bits of connection tracking's states (include/uapi/linux/netfilter/nf_conntrack_common.h).
const (
	stateInvalid     = 1
	stateEstablished = 2
	stateRelated     = 4
	stateNew         = 8
	stateUntracked   = 64

	statusConfirmed = 1 << 3 // IPS_CONFIRMED
	statusDNAT      = 1 << 5 // IPS_DST_NAT
)

// ct loads what connection tracking knows of the packet (net/netfilter/nft_ct.c).
func (m *machine) ct(a *arguments) (outcome, error) {
	register, key := a.number(unix.NFTA_CT_DREG), a.number(unix.NFTA_CT_KEY)
	reply := false
	if a.has(unix.NFTA_CT_DIRECTION) {
		reply = a.number(unix.NFTA_CT_DIRECTION) == 1
	}
	if err := a.end(); err != nil {
		return breaks, err
	}
	host := func(n uint32) bits { return sure(binary.NativeEndian.AppendUint32(nil, n)...) }
	p := m.packet
	known := p.State == nft.New || p.State == nft.Established || p.State == nft.Related
	if key == unix.NFT_CT_STATE {
		states := map[nft.CtState]uint32{
			nft.New: stateNew, nft.Established: stateEstablished, nft.Related: stateRelated, nft.Untracked: stateUntracked,
		}
		if state, known := states[p.State]; known {
			return goesOn, m.registers.store(register, host(state))
		}
		return goesOn, m.registers.store(register, host(stateInvalid))
	}
	if !known {
		return breaks, nil
	}
	switch key {
	case unix.NFT_CT_DIRECTION:
		direction := byte(0)
		if p.Reply {
			direction = 1
		}
		return goesOn, m.registers.store(register, sure(direction))
	case unix.NFT_CT_MARK:
		return goesOn, m.registers.store(register, host(p.Mark))
	case unix.NFT_CT_STATUS:
		status := bits{make([]byte, 4), make([]byte, 4)}
		binary.NativeEndian.PutUint32(status.known, statusConfirmed|statusDNAT)
		var n uint32
		if p.State != nft.New {
			n |= statusConfirmed
		}
		if p.DNAT {
			n |= statusDNAT
		}
		binary.NativeEndian.PutUint32(status.value, n)
		return goesOn, m.registers.store(register, status)
	case unix.NFT_CT_SRC_IP, unix.NFT_CT_SRC_IP6:
		addr := p.Flow.OriginalSrc
		if reply {
			addr = p.Flow.ReplySrc
		}
		if !addr.IsValid() || addr.Is4() != (key == unix.NFT_CT_SRC_IP) {
			return breaks, nil
		}
		return goesOn, m.registers.store(register, sure(addr.AsSlice()...))
	}
	return breaks, fmt.Errorf("it asks for key %d, which podfence never does", key)
}

// fib asks the routes whether the packet has come by the link that leads to its source
// (net/ipv4/netfilter/nft_fib_ipv4.c).
func (m *machine) fib(a *arguments) (outcome, error) {
	register := a.number(unix.NFTA_FIB_DREG)
	a.want(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_OIF)
	a.want(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_SADDR|unix.NFTA_FIB_F_IIF|unix.NFTA_FIB_F_PRESENT)
	if err := a.end(); err != nil {
		return breaks, err
	}
	found := uint32(1)
	if m.packet.Elsewhere {
		found = 0
	}
	return goesOn, m.registers.store(register, sure(binary.NativeEndian.AppendUint32(nil, found)...))
}

// exthdr reads the header of an IPv6 fragment, or whether there is one (net/netfilter/nft_exthdr.c).
func (m *machine) exthdr(a *arguments) (outcome, error) {
	register := a.number(unix.NFTA_EXTHDR_DREG)
	offset, length := int(a.number(unix.NFTA_EXTHDR_OFFSET)), int(a.number(unix.NFTA_EXTHDR_LEN))
	a.want(unix.NFTA_EXTHDR_TYPE, unix.IPPROTO_FRAGMENT)
	a.want(unix.NFTA_EXTHDR_OP, unix.NFT_EXTHDR_OP_IPV6)
	present := a.has(unix.NFTA_EXTHDR_FLAGS) && a.number(unix.NFTA_EXTHDR_FLAGS) == unix.NFT_EXTHDR_F_PRESENT
	if err := a.end(); err != nil {
		return breaks, err
	}
	header, has := fragmentHeader(m.packet)
	switch {
	case present && has:
		return goesOn, m.registers.store(register, sure(1))
	case present:
		return goesOn, m.registers.store(register, sure(0))
	case !has:
		return breaks, nil
	case offset < 0 || length < 1 || offset+length > len(header.value):
		return breaks, fmt.Errorf("it reads octets %d to %d of a header of %d", offset, offset+length-1, len(header.value))
	}
	return goesOn, m.registers.store(register, header.slice(offset, offset+length))
}
