package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// source is a netlink socket that hands out answers as they come. A netlink.Conn would gather all
// answers of a dump: for a million flows, a gigabyte.
type source interface {
	// Send gives the message its number.
	Send(netlink.Message) (netlink.Message, error)
	// Receive returns the messages of one datagram. They are valid until the next call.
	Receive() ([]netlink.Message, error)
	SetReadDeadline(time.Time) error
	Close() error
}

// datagrams is the source that reads from a kernel.
type datagrams struct {
	*netlink.Conn
	raw      syscall.RawConn
	buffer   []byte
	messages []netlink.Message // of the last datagram
}

// datagramSize is more than the largest datagram that the kernel makes of a dump (netlink_dump in
// net/netlink/af_netlink.c: SKB_WITH_OVERHEAD(32768)).
const datagramSize = 64 << 10

func dialSource(family, netns int) (source, error) {
	d, err := dialDatagrams(family, netns)
	if err != nil {
		return nil, err
	}
	// With this, kernels since Linux 4.20 list no more than what is asked for.
	_ = d.SetOption(netlink.GetStrictCheck, true)
	return d, nil
}

// dialPackets is dialDatagrams for datagrams with whole packets in them, which may have up to 64 KiB themselves.
func dialPackets(netns int) (*datagrams, error) {
	d, err := dialDatagrams(unix.NETLINK_NETFILTER, netns)
	if err == nil {
		d.buffer = make([]byte, 2*datagramSize)
	}
	return d, err
}

func dialDatagrams(family, netns int) (*datagrams, error) {
	conn, err := netlink.Dial(family, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &datagrams{Conn: conn, raw: raw, buffer: make([]byte, datagramSize)}, nil
}

// Receive waits for a datagram up to the read deadline.
func (d *datagrams) Receive() ([]netlink.Message, error) {
	var n, flags int
	var failed error
	err := d.raw.Read(func(fd uintptr) bool {
		n, _, flags, _, failed = unix.Recvmsg(int(fd), d.buffer, nil, unix.MSG_DONTWAIT)
		return !errors.Is(failed, unix.EAGAIN)
	})
	if err == nil && failed != nil {
		err = os.NewSyscallError("recvmsg", failed)
	}
	if err == nil && flags&unix.MSG_TRUNC != 0 {
		err = fmt.Errorf("a datagram of more than %d octets", len(d.buffer))
	}
	if err != nil {
		return nil, err
	}
	d.messages, err = appendMessages(d.messages[:0], d.buffer[:n])
	return d.messages, err
}

// appendMessages appends the messages of a datagram, which refer to it.
func appendMessages(messages []netlink.Message, datagram []byte) ([]netlink.Message, error) {
	for len(datagram) > 0 {
		if len(datagram) < unix.SizeofNlMsghdr {
			return nil, errors.New("a datagram ends within the header of a message")
		}
		header := netlink.Header{
			Length: binary.NativeEndian.Uint32(datagram), Type: netlink.HeaderType(binary.NativeEndian.Uint16(datagram[4:])),
			Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(datagram[6:])),
			Sequence: binary.NativeEndian.Uint32(datagram[8:]), PID: binary.NativeEndian.Uint32(datagram[12:]),
		}
		length := int(header.Length)
		if length < unix.SizeofNlMsghdr || length > len(datagram) {
			return nil, fmt.Errorf("a message of %d octets in a datagram that has %d more", length, len(datagram))
		}
		messages = append(messages, netlink.Message{Header: header, Data: datagram[unix.SizeofNlMsghdr:length]})
		datagram = datagram[min(len(datagram), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return messages, nil
}

// line is a connection to the kernel for requests, one after the other. When an answer has not
// come, or was cut short, the connection is closed, and the next request makes another: a late
// answer would be in the way of the answers to the next request, and the kernel would go on
// sending what it has not sent yet.
type line struct {
	dial func() (source, error)
	open source // nil: to be dialled
}

func newLine(family, netns int) *line {
	return &line{dial: func() (source, error) { return dialSource(family, netns) }}
}

// connect dials if there is no connection.
func (l *line) connect() (err error) {
	if l.open == nil {
		l.open, err = l.dial()
	}
	return err
}

func (l *line) close() error {
	if l.open == nil {
		return nil
	}
	open := l.open
	l.open = nil
	return open.Close()
}

// ask sends a request, and calls do with each answer as it comes. The answer is valid only during
// that call. If do returns an error, that ends the request. An error that the kernel reports in a
// message is returned in the form that refusedBy understands.
func (l *line) ask(request netlink.Message, do func(netlink.Message) error) error {
	if err := l.connect(); err != nil {
		return err
	}
	ended, err := converse(l.open, request, do)
	if !ended {
		return errors.Join(err, l.close())
	}
	return err
}

// dump asks for a list. If the list has changed meanwhile it asks again, up to a limit, so that do
// may be called with the same answer more than once.
func (l *line) dump(request netlink.Message, do func(netlink.Message) error) (err error) {
	request.Header.Flags |= netlink.Request | netlink.Dump
	for range 5 {
		if err = l.ask(request, do); !errors.Is(err, errInterrupted) {
			break
		}
	}
	return err
}

// converse sends a request, and calls do with each answer. With an error it says whether the answers
// have ended all the same, so that the connection can be used for another request. Each datagram
// has its own deadline, because a long list takes long.
func converse(s source, request netlink.Message, do func(netlink.Message) error) (ended bool, err error) {
	sent, err := s.Send(request)
	if err != nil {
		return false, err
	}
	interrupted := false
	for {
		if err := s.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
			return false, err
		}
		messages, err := s.Receive()
		if err != nil {
			return false, err
		}
		for _, m := range messages {
			if m.Header.Sequence != sent.Header.Sequence {
				continue
			}
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			if m.Header.Type != netlink.Error && m.Header.Type != netlink.Done {
				if err := do(m); err != nil {
					return false, err
				}
				continue
			}
			errno, err := resultOf(m)
			switch {
			case err != nil:
				return false, err
			case errno != 0:
				return true, &netlink.OpError{Op: "receive", Err: errno, Sequence: sent.Header.Sequence}
			case interrupted:
				return true, errInterrupted
			}
			return true, nil
		}
	}
}

// resultOf reads the error number, which is negative, that an answer's last message begins with.
func resultOf(m netlink.Message) (syscall.Errno, error) {
	if len(m.Data) < 4 {
		return 0, errors.New("an answer cannot be read")
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))), nil
}
