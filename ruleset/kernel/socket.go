package kernel

import (
	"bytes"
	"errors"
	"iter"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a netlink.Socket that makes the datagram of a batch at its full size at once. The library's
// own appends one message after another to memory that it takes anew, a quarter larger, whenever that is
// full. For the first commit of a node, of several megabytes, it takes five times as much altogether, in
// pieces of which none fits where an earlier one was. That would be the agent's peak of memory.
type socket struct{ *datagrams }

// dialSocket connects to nf_tables.
func dialSocket(netns int) (*netlink.Conn, error) {
	d, err := dialDatagrams(unix.NETLINK_NETFILTER, netns)
	if err != nil {
		return nil, err
	}
	return netlink.NewConn(socket{d}, d.PID()), nil
}

// Send sends a message, which has its number already.
func (s socket) Send(m netlink.Message) error { return s.SendMessages([]netlink.Message{m}) }

// SendMessages sends messages, which have their numbers already, in one datagram.
func (s socket) SendMessages(messages []netlink.Message) error {
	datagram, err := datagramOf(messages)
	if err != nil {
		return err
	}
	var failed error
	err = s.raw.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), datagram, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
	})
	return errors.Join(err, os.NewSyscallError("sendto", failed))
}

// datagramOf is the bytes of messages, in memory of just their size.
func datagramOf(messages []netlink.Message) ([]byte, error) {
	size := 0
	for _, m := range messages {
		size += int(m.Header.Length)
	}
	datagram := make([]byte, 0, size)
	for _, m := range messages {
		text, err := m.MarshalBinary()
		if err != nil {
			return nil, err
		}
		datagram = append(datagram, text...)
	}
	return datagram, nil
}

// Receive returns the messages of one datagram.
func (s socket) Receive() ([]netlink.Message, error) {
	messages, err := s.datagrams.Receive()
	for i := range messages {
		messages[i].Data = bytes.Clone(messages[i].Data) // the next datagram is read to where these are
	}
	return messages, err
}

// ReceiveIter returns the messages of one datagram.
func (s socket) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		messages, err := s.Receive()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range messages {
			if !yield(m, nil) {
				return
			}
		}
	}
}
