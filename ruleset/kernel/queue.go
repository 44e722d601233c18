package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// Queue reads packets that rules hold in an nfqueue, and says when they go on. A queue has one reader in a network
// namespace, whoever that is.
//
// Packets go on by themselves when there is no reader, and when more wait than may (fail-open). When the reader ends, however
// it does, the kernel drops those that wait at that moment (instance_destroy_rcu in net/netfilter/nfnetlink_queue.c).
type Queue struct {
	source
	number uint16
}

// nfnetlink_queue's numbers (include/uapi/linux/netfilter/nfnetlink_queue.h).
const (
	queueMessagePacket  = unix.NFNL_SUBSYS_QUEUE << 8
	queueMessageVerdict = unix.NFNL_SUBSYS_QUEUE<<8 + 1
	queueMessageConfig  = unix.NFNL_SUBSYS_QUEUE<<8 + 2

	queueConfigCommand, queueConfigParameters, queueConfigLength = 1, 2, 3
	queueConfigMask, queueConfigFlags                            = 4, 5
	queueCommandBind                                             = 1
	queueCopyPacket                                              = 2
	queueFailOpen, queueGSO                                      = 1, 4

	queueHeader, queueVerdict, queuePayload = 1, 2, 10
)

// OpenQueue binds to an nfqueue in which at most so many packets wait; of more, those that come last go on at once. It
// fails with EBUSY or EPERM, as the kernel says, if somebody else reads the queue, and with EINVAL if the kernel has no
// nfnetlink_queue.
func OpenQueue(options Options, number uint16, length uint32) (*Queue, error) {
	socket, err := dialPackets(options.NetNS)
	if err != nil {
		return nil, &OpError{Op: "connect to the packet queue", Err: err}
	}
	q := &Queue{source: socket, number: number}
	// What does not fit into the buffer goes on as well, of which an error would say no more.
	err = errors.Join(socket.SetOption(netlink.NoENOBUFS, true), socket.SetReadBuffer(logReceiveBuffer), q.bind(length))
	if err != nil {
		return nil, &OpError{Op: fmt.Sprintf("bind to nfqueue %d", number), Err: errors.Join(err, q.Close())}
	}
	return q, nil
}

// bind binds, and has the kernel hand packets over whole: of TCP, several segments in one (GSO), which it would cut
// otherwise.
func (q *Queue) bind(length uint32) error {
	number := func(setting uint16, value uint32) netlink.Attribute {
		return netlink.Attribute{Type: setting, Data: binary.BigEndian.AppendUint32(nil, value)}
	}
	const flags = queueFailOpen | queueGSO
	return configure(q.source, queueMessageConfig, q.number,
		netlink.Attribute{Type: queueConfigCommand, Data: []byte{queueCommandBind, 0, 0, 0}},
		netlink.Attribute{Type: queueConfigParameters, Data: append(binary.BigEndian.AppendUint32(nil, maxPacket), queueCopyPacket)},
		number(queueConfigLength, length), number(queueConfigMask, flags), number(queueConfigFlags, flags),
	)
}

// Receive waits for packets and calls do with each, whatever it is: one that is neither of UDP nor of TCP has no more than
// an ID. A Payload is valid only during that call. Each packet waits until Release is called for it. An error ends the
// reader.
func (q *Queue) Receive(do func(nft.Queued)) error {
	if err := q.SetReadDeadline(time.Time{}); err != nil {
		return &OpError{Op: "read the packet queue", Err: err}
	}
	messages, err := q.source.Receive()
	if err != nil {
		return &OpError{Op: "read the packet queue", Err: err}
	}
	for _, m := range messages {
		// Other messages say that a packet was not released, because it is gone.
		if m.Header.Type == queueMessagePacket && len(m.Data) >= nfgenmsgLength {
			if queued, ok := parseQueued(m.Data); ok {
				do(queued)
			}
		}
	}
	return nil
}

// parseQueued reads a message. ok is false if it does not say which packet it is about.
func parseQueued(data []byte) (queued nft.Queued, ok bool) {
	var l logged
	a := attributeReader{rest: data[nfgenmsgLength:]}
	for a.next() {
		switch a.kind {
		case queueHeader:
			if ok = len(a.data) >= 4; ok {
				queued.ID = binary.BigEndian.Uint32(a.data)
			}
		case queuePayload:
			l.readPacket(a.data)
		}
	}
	if datagram, is := l.datagram(); is {
		queued.Datagram = datagram
	}
	return queued, ok
}

// Release lets a packet go on, to the chains behind the one that has queued it. It is no error if the packet is gone. It
// may be called from any goroutine.
func (q *Queue) Release(id uint32) error {
	const accept = 1 // NF_ACCEPT
	verdict := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, accept), id)
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: queueVerdict, Data: verdict}})
	if err == nil {
		header := nfgenmsg(unix.AF_UNSPEC)
		binary.BigEndian.PutUint16(header[2:], q.number)
		_, err = q.Send(netlink.Message{
			Header: netlink.Header{Type: queueMessageVerdict, Flags: netlink.Request}, Data: append(header, attributes...),
		})
	}
	if err != nil {
		return &OpError{Op: fmt.Sprintf("release packet %d of nfqueue %d", id, q.number), Err: err}
	}
	return nil
}

// Close ends the reader. A Receive that waits returns with an error.
func (q *Queue) Close() error { return q.source.Close() }
