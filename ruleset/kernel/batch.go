package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// answerTimeout is how long an answer may take. The kernel has written all answers
	// when sendmsg(2) returns, so one that does not come has been lost.
	answerTimeout = 5 * time.Second
	// drainTimeout is how long to wait for more answers where there may be none.
	drainTimeout = 100 * time.Millisecond
)

// batchOf has the library make the messages. The library hands them only to its
// socket; the socket that it gets here keeps them, because podfence sends them itself.
// The library takes silence for success, and cannot have a batch only checked.
func (c *Conn) batchOf(messages []message) (batch []netlink.Message, err error) {
	if c.library == nil {
		c.library, err = nftables.New(nftables.AsLasting(), nftables.WithTestDial(func(sent []netlink.Message) ([]netlink.Message, error) {
			c.made = sent
			return nil, io.EOF // no answer
		}))
		if err != nil {
			return nil, err
		}
	}
	for _, m := range messages {
		m.queue(c.library)
	}
	// The library forgets the messages, whether this fails or not.
	if err := c.library.Flush(); err != nil {
		return nil, err
	}
	batch, c.made = c.made, nil
	if len(batch) != len(messages)+2 { // begin and end
		return nil, fmt.Errorf("%d messages have become %d", len(messages), len(batch)-2)
	}
	batch = batch[1 : len(batch)-1]
	for i := range batch {
		// The kernel would write every rule back.
		batch[i].Header.Flags &^= netlink.Echo
	}
	userDataInHostOrder(batch, binary.NativeEndian)
	// The answer to the last message says that all were carried out, or would be.
	batch[len(batch)-1].Header.Flags |= netlink.Acknowledge
	return batch, nil
}

// bracket is the message before a batch, or after it. A batch with a generation is
// refused (ERESTART) if the ruleset has another generation by then; 0 stands for any.
func bracket(kind netlink.HeaderType, generation uint32) netlink.Message {
	data := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}
	if generation != 0 {
		data = binary.NativeEndian.AppendUint16(data, 8)
		data = binary.NativeEndian.AppendUint16(data, unix.NFNL_BATCH_GENID)
		data = binary.BigEndian.AppendUint32(data, generation)
	}
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: data}
}

// flush has the kernel carry a batch out.
func (c *Conn) flush(batch []netlink.Message, generation uint32) (int, error) {
	return c.exchange(slices.Concat(
		[]netlink.Message{bracket(unix.NFNL_MSG_BATCH_BEGIN, generation)},
		batch,
		[]netlink.Message{bracket(unix.NFNL_MSG_BATCH_END, 0)},
	), len(batch))
}

// check has the kernel undo a batch when it has checked all of it: because it does
// not end (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c).
func (c *Conn) check(batch []netlink.Message) (int, error) {
	return c.exchange(slices.Concat([]netlink.Message{bracket(unix.NFNL_MSG_BATCH_BEGIN, 0)}, batch), len(batch))
}

// exchange sends a batch of so many messages with what is around it, and reads the
// answers. It returns the index of the message that was refused first, or -1.
func (c *Conn) exchange(all []netlink.Message, messages int) (int, error) {
	for i := range all {
		all[i].Header.Sequence, all[i].Header.PID = 0, 0 // the socket sets them
	}
	if c.unread { // unread answers would leave no room for those that come now
		drain(c.socket)
	}
	sent, err := c.socket.SendMessages(all)
	switch {
	case errors.Is(err, unix.EMSGSIZE):
		return -1, fmt.Errorf("the transaction is larger than the socket's send buffer: allow more by net.core.wmem_max, "+
			"or give CAP_NET_ADMIN in the initial user namespace: %w", err)
	case err != nil:
		return -1, err // the kernel has not seen it
	}
	index, ended, err := c.answers(sent[0].Header.Sequence, messages)
	c.unread = !ended
	if index >= messages || errors.Is(err, ErrPermission) {
		index = -1
	}
	return index, err
}

// answers reads the answers to a batch of so many messages. The message that begins the batch
// has the number begin, and the batch's messages have the numbers that follow. The answer to
// the last message comes last; it always comes, unless the socket is full of refusals or the
// kernel refuses the batch as a whole. The error is the first refusal, and the index is that of
// the refused message; -1 stands for the batch as a whole. Ended says that no answer is left
// to read.
func (c *Conn) answers(begin uint32, messages int) (index int, ended bool, refused error) {
	index = -1
	indexOf := func(number uint32) int { return int(int32(number-begin)) - 1 }
	deadline := time.Now().Add(answerTimeout)
	for {
		if refused != nil {
			deadline = time.Now().Add(drainTimeout)
		}
		if err := c.socket.SetReadDeadline(deadline); err != nil {
			return -1, false, fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		answers, err := c.socket.Receive()
		number, errno, said := refusedBy(err)
		switch at := indexOf(number); {
		case said && (at < -1 || at > messages): // an earlier batch has left it
		case said:
			if refused == nil { // only the first counts
				index, refused = at, errno
				if errno == unix.EPERM {
					refused = fmt.Errorf("%w: %w", ErrPermission, errno)
				}
			}
			if at == messages-1 {
				return index, true, refused
			}
		case refused != nil && errors.Is(err, os.ErrDeadlineExceeded):
			return index, false, refused
		case err != nil:
			return -1, false, fmt.Errorf("%w: %w", ErrUnknown, err)
		case slices.ContainsFunc(answers, func(m netlink.Message) bool {
			return m.Header.Type == netlink.Error && indexOf(m.Header.Sequence) == messages-1
		}):
			return index, true, refused
		}
	}
}

// refusedBy takes an error of Receive apart. If the kernel reported it in a message, the library
// has a bare errno, and the number of the message that it is about. If it is the error of a
// system call, the library has wrapped the errno. For a message that cannot be read it has a
// bare EINVAL, but no number.
func refusedBy(err error) (number uint32, errno syscall.Errno, reported bool) {
	var op *netlink.OpError
	if errors.As(err, &op) {
		errno, reported = op.Err.(syscall.Errno) //nolint:errorlint // the kernel's own answer is never wrapped
		number = op.Sequence
	}
	return number, errno, reported && number != 0
}

// ask sends a request, and returns the answers to it: for a dump, all of them. Answers
// that are left from an earlier request are skipped.
func ask(socket *netlink.Conn, request netlink.Message) ([]netlink.Message, error) {
	sent, err := socket.Send(request)
	if err != nil {
		return nil, err
	}
	if err := socket.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	for {
		all, err := socket.Receive()
		number, _, reported := refusedBy(err)
		switch {
		case reported && number != sent.Header.Sequence:
			continue
		case reported: // that ends the answers
			return nil, err
		case err != nil:
			drain(socket)
			return nil, err
		}
		own := slices.DeleteFunc(slices.Clone(all), func(m netlink.Message) bool { return m.Header.Sequence != sent.Header.Sequence })
		if len(own) == 0 && len(all) > 0 {
			continue
		}
		if slices.ContainsFunc(own, func(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }) {
			return nil, errInterrupted
		}
		return own, nil
	}
}

// errInterrupted says that the objects have changed while they were listed
// (NLM_F_DUMP_INTR), so that some may be missing.
var errInterrupted = errors.New("it has changed while it was listed")

// list asks for a dump. If that was interrupted it asks again, up to a limit.
func list(socket *netlink.Conn, request netlink.Message) (answers []netlink.Message, err error) {
	request.Header.Flags |= netlink.Request | netlink.Dump
	for range 5 {
		if answers, err = ask(socket, request); !errors.Is(err, errInterrupted) {
			break
		}
	}
	return answers, err
}

// drain reads the answers that are left of those that were not read to their end, up to a limit.
func drain(socket *netlink.Conn) {
	for range receiveBuffer / 64 {
		if err := socket.SetReadDeadline(time.Now().Add(drainTimeout)); err != nil {
			return
		}
		if _, err := socket.Receive(); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EBADF) {
			return
		}
	}
}
