package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// DatagramReader reads what an nflog group is told, of which rules tell whole packets (nft.Log). A group has one reader in
// a network namespace, whoever that is. When the reader ends, however it does, the kernel tells the group nothing any
// more.
type DatagramReader struct{ logSocket }

// maxPacket is how many octets an IP packet has at most (but for jumbograms, RFC 2675).
const maxPacket = 0xffff

// OpenDatagrams binds to an nflog group, to be told of each packet at once. Its errors are those of OpenLog.
func OpenDatagrams(options Options, group uint16) (*DatagramReader, error) {
	socket, err := dialPackets(options.NetNS)
	if err != nil {
		return nil, &OpError{Op: "connect to the packet log", Err: err}
	}
	r := &DatagramReader{logSocket{source: socket, group: group}}
	err = errors.Join(socket.SetReadBuffer(logReceiveBuffer), r.bind(maxPacket, logFlushAfter, 1))
	if err == nil {
		err = r.tell(logFlagSequence)
	}
	if err != nil {
		return nil, &OpError{Op: fmt.Sprintf("bind to nflog group %d", group), Err: errors.Join(err, r.Close())}
	}
	return r, nil
}

// Receive waits for packets and calls do with each of UDP or TCP. A Datagram's Payload is valid only during that call. It
// returns how many the kernel has told of that did not arrive, because they were too many; the next call goes on. An
// error ends the reader.
func (r *DatagramReader) Receive(do func(nft.Datagram)) (lost int, err error) {
	return r.receive(func(l *logged) {
		if d, ok := l.datagram(); ok {
			do(d)
		}
	})
}

// Close ends the reader. A Receive that waits returns with an error.
func (r *DatagramReader) Close() error { return r.source.Close() }

// datagram is a packet of UDP or TCP that was told whole.
func (l *logged) datagram() (d nft.Datagram, ok bool) {
	p := &l.Packet
	d = nft.Datagram{
		Time: time.Now(), Protocol: p.Protocol,
		Src: netip.AddrPortFrom(p.Src, p.SrcPort), Dst: netip.AddrPortFrom(p.Dst, p.DstPort),
	}
	switch p.Protocol {
	case packet.UDP:
		if p.Fragment == nft.Whole && len(l.upper) >= udpLength {
			end := min(len(l.upper), int(binary.BigEndian.Uint16(l.upper[4:])))
			d.Payload = l.upper[udpLength:max(udpLength, end)]
		}
	case packet.TCP:
		if p.Fragment == nft.Whole && len(l.upper) >= tcpLength {
			d.Sequence, d.Flags = binary.BigEndian.Uint32(l.upper[4:]), l.TCPFlags
			begin := int(l.upper[12]>>4) * 4
			d.Payload = l.upper[min(len(l.upper), max(tcpLength, begin)):]
		}
	default:
		return d, false
	}
	return d, true
}

const udpLength, tcpLength = 8, 20
