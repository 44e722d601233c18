package kernel

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// LogReader reads what an nflog group is told. A group has one reader in a network namespace, whoever that
// is. When the reader ends, however it does, the kernel tells the group nothing any more.
type LogReader struct {
	logSocket
	// flows is to ask for the flow of a packet, where the kernel does not tell it. Whoever uses it holds
	// asking; nil: the reader is closed.
	asking sync.Mutex
	flows  *line
	tracks bool // the kernel tells connection tracking's entry of each packet
}

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
	r := &LogReader{logSocket: logSocket{source: socket, group: group}, flows: newLine(unix.NETLINK_NETFILTER, options.NetNS)}
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
	if err := r.logSocket.bind(nft.LogSnaplen, logFlushAfter, logFlushAtMost); err != nil {
		return err
	}
	r.tracks = r.tell(logFlagSequence|logFlagConntrack) == nil
	if r.tracks {
		return nil
	}
	return r.tell(logFlagSequence)
}

// Receive waits for packets and calls do with each. It returns how many the kernel has told of that did
// not arrive, because they were too many; the next call goes on. An error ends the reader.
func (r *LogReader) Receive(do func(nft.Logged)) (lost int, err error) {
	return r.receive(func(l *logged) {
		if l.Time.IsZero() {
			l.Time = time.Now()
		}
		switch {
		case l.isTracked:
			l.tracked()
		case r.tracks: // it belongs to no flow
			l.Tracked, l.Packet.State = true, nft.Invalid
		default:
			r.lookUp(l)
		}
		do(l.Logged)
	})
}
