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

// source is a netlink socket that hands out answers as they come. A netlink.Conn gathers
// those of a dump: of a million flows, a gigabyte.
type source interface {
	// Send gives the message its number.
	Send(netlink.Message) (netlink.Message, error)
	// Receive returns the messages of one datagram. They hold until the next call.
	Receive() ([]netlink.Message, error)
	SetReadDeadline(time.Time) error
	Close() error
}

// datagrams is the source of a kernel.
type datagrams struct {
	*netlink.Conn
	raw    syscall.RawConn
	buffer []byte
}

// datagramSize is what the kernel makes at most of a dump's (netlink_dump in
// net/netlink/af_netlink.c: SKB_WITH_OVERHEAD(32768)), with room.
const datagramSize = 64 << 10

func dialSource(family, netns int) (source, error) {
	conn, err := netlink.Dial(family, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, err
	}
	// The kernel lists no more than what is asked for, if it can: since Linux 4.20.
	_ = conn.SetOption(netlink.GetStrictCheck, true)
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
	read, err := syscall.ParseNetlinkMessage(d.buffer[:n])
	if err != nil {
		return nil, err
	}
	messages := make([]netlink.Message, len(read))
	for i, m := range read {
		messages[i] = netlink.Message{
			Header: netlink.Header{
				Length: m.Header.Len, Type: netlink.HeaderType(m.Header.Type), Flags: netlink.HeaderFlags(m.Header.Flags),
				Sequence: m.Header.Seq, PID: m.Header.Pid,
			},
			Data: m.Data,
		}
	}
	return messages, nil
}

// line is a connection to the kernel for requests, one after the other. When an answer has
// not come, or was cut short, it is made anew: a late one would be in the way of the next
// request's, and what the kernel has not told yet it goes on telling.
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

// ask sends a request, and has do take each answer as it comes. What do is given holds as
// long as the call. An error of do's ends it; what the kernel says in a message is an
// error as refusedBy takes it.
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

// dump asks for a list, again if that has changed meanwhile, up to a limit: do may be given
// the same answer more than once.
func (l *line) dump(request netlink.Message, do func(netlink.Message) error) (err error) {
	request.Header.Flags |= netlink.Request | netlink.Dump
	for range 5 {
		if err = l.ask(request, do); !errors.Is(err, errInterrupted) {
			break
		}
	}
	return err
}

// converse says with an error whether the answers have ended, so that the connection is
// good for another request. Each datagram has a deadline of its own: a long list takes long.
func converse(s source, request netlink.Message, do func(netlink.Message) error) (ended bool, err error) {
	sent, err := s.Send(request)
	if err != nil {
		return false, err
	}
	interrupted := false
	for {
		if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
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

// resultOf reads the error, negative, that an answer's last message begins with.
func resultOf(m netlink.Message) (syscall.Errno, error) {
	if len(m.Data) < 4 {
		return 0, errors.New("an answer cannot be read")
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))), nil
}
