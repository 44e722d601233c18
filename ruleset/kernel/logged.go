package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// LogReader reads what an nflog group is told. A group has one reader in a network namespace, whoever that
// is. When the reader ends, however it does, the kernel tells the group nothing any more.
type LogReader struct {
	source
	group uint16
	// flows is to ask for the flow of a packet, where the kernel does not tell it. Whoever uses it holds
	// asking; nil: the reader is closed.
	asking sync.Mutex
	flows  *line
	tracks bool // the kernel tells connection tracking's entry of each packet
	// next is the number that the next packet should have; 0: none has come yet.
	next uint32
}

// nfnetlink_log's numbers (include/uapi/linux/netfilter/nfnetlink_log.h).
const (
	logMessagePacket = unix.NFNL_SUBSYS_ULOG << 8
	logMessageConfig = unix.NFNL_SUBSYS_ULOG<<8 + 1

	logConfigCommand, logConfigMode, logConfigBuffer = 1, 2, 3
	logConfigTimeout, logConfigThreshold             = 4, 5
	logConfigFlags                                   = 6
	logCommandBind                                   = 1
	logCopyPacket                                    = 2
	logFlagSequence, logFlagConntrack                = 1, 4

	logHeader, logTimestamp       = 1, 3
	logInLink, logOutLink         = 4, 5
	logPhysInLink, logPhysOutLink = 6, 7
	logPayload, logPrefix         = 9, 10
	logSequence                   = 12
	logConntrack, logConntrackIs  = 18, 19
)

const (
	// logFlushAfter and logFlushAtMost are after how many hundredths of a second the kernel tells what it
	// has gathered, and how many packets it gathers at most.
	logFlushAfter, logFlushAtMost = 10, 64
	logReceiveBuffer              = 4 << 20
)

// OpenLog binds to an nflog group. It fails with EBUSY or EPERM, as the kernel says, if somebody else
// reads the group, and with ENOENT, or EINVAL, if the kernel has no nfnetlink_log.
func OpenLog(options Options, group uint16) (*LogReader, error) {
	socket, err := dialDatagrams(unix.NETLINK_NETFILTER, options.NetNS)
	if err != nil {
		return nil, &OpError{Op: "connect to the packet log", Err: err}
	}
	r := &LogReader{source: socket, group: group, flows: newLine(unix.NETLINK_NETFILTER, options.NetNS)}
	if err := errors.Join(socket.SetReadBuffer(logReceiveBuffer), r.bind()); err != nil {
		return nil, &OpError{Op: fmt.Sprintf("bind to nflog group %d", group), Err: errors.Join(err, r.Close())}
	}
	return r, nil
}

// Close ends the reader. A Receive that waits returns with an error.
func (r *LogReader) Close() error {
	err := r.source.Close()
	r.asking.Lock()
	defer r.asking.Unlock()
	if r.flows == nil {
		return err
	}
	flows := r.flows
	r.flows = nil
	return errors.Join(err, flows.close())
}

// bind binds, and has the kernel tell the beginning of each packet, its number, and connection tracking's
// entry where the kernel can (CONFIG_NETFILTER_NETLINK_GLUE_CT).
func (r *LogReader) bind() error {
	if err := r.configure(logConfigCommand, []byte{logCommandBind}); err != nil {
		return err
	}
	mode := append(binary.BigEndian.AppendUint32(nil, nft.LogSnaplen), logCopyPacket, 0)
	err := errors.Join(
		r.configure(logConfigMode, mode),
		r.configure(logConfigTimeout, binary.BigEndian.AppendUint32(nil, logFlushAfter)),
		r.configure(logConfigThreshold, binary.BigEndian.AppendUint32(nil, logFlushAtMost)),
	)
	if err != nil {
		return err
	}
	r.tracks = true
	err = r.configure(logConfigFlags, binary.BigEndian.AppendUint16(nil, logFlagSequence|logFlagConntrack))
	if err != nil {
		r.tracks = false
		err = r.configure(logConfigFlags, binary.BigEndian.AppendUint16(nil, logFlagSequence))
	}
	return err
}

// configure sends one setting, and waits for the kernel's answer.
func (r *LogReader) configure(setting uint16, value []byte) error {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: setting, Data: value}})
	if err != nil {
		return err
	}
	header := nfgenmsg(unix.AF_UNSPEC)
	binary.BigEndian.PutUint16(header[2:], r.group)
	ended, err := converse(r.source, netlink.Message{
		Header: netlink.Header{Type: logMessageConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(header, attributes...),
	}, ignore)
	if err != nil && !ended {
		return fmt.Errorf("setting %d: %w", setting, err)
	}
	return err
}

// Receive waits for packets and calls do with each. It returns how many the kernel has told of that did
// not arrive, because they were too many; the next call goes on. An error ends the reader.
func (r *LogReader) Receive(do func(nft.Logged)) (lost int, err error) {
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		return 0, &OpError{Op: "read the packet log", Err: err}
	}
	messages, err := r.source.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return 0, nil // the numbers of the next ones say how many
	}
	if err != nil {
		return 0, &OpError{Op: "read the packet log", Err: err}
	}
	for _, m := range messages {
		if m.Header.Type != logMessagePacket || len(m.Data) < nfgenmsgLength {
			continue
		}
		l, ok := parseLogged(m.Data)
		if l.number != 0 {
			if r.next != 0 {
				lost += int(l.number - r.next)
			}
			r.next = l.number + 1
		}
		if !ok {
			continue
		}
		if l.Time.IsZero() {
			l.Time = time.Now()
		}
		switch {
		case l.isTracked:
			l.tracked()
		case r.tracks: // it belongs to no flow
			l.Tracked, l.Packet.State = true, nft.Invalid
		default:
			r.lookUp(&l)
		}
		do(l.Logged)
	}
	return lost, nil
}
