package kernel

import (
	"iter"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nlenc"
	"golang.org/x/sys/unix"
)

// datagram is what one recvmsg(2) gives: messages, or an error.
type datagram struct {
	messages []netlink.Message
	err      error
}

// relay is a socket between a Conn and a kernel, where things go wrong.
type relay struct {
	// kernel is what a request comes to.
	kernel func([]netlink.Message) ([]datagram, error)
	queue  []datagram
	// join and leave are the errors of joining a group and leaving it.
	join, leave error
}

func (r *relay) SendMessages(m []netlink.Message) error {
	answers, err := r.kernel(m)
	r.queue = append(r.queue, answers...)
	return err
}

func (r *relay) Send(m netlink.Message) error { return r.SendMessages([]netlink.Message{m}) }

// Receive does not wait: what does not come at once never does.
func (r *relay) Receive() ([]netlink.Message, error) {
	if len(r.queue) == 0 {
		return nil, os.ErrDeadlineExceeded
	}
	next := r.queue[0]
	r.queue = r.queue[1:]
	return next.messages, next.err
}

// relaySource is a relay as a line has it.
type relaySource struct {
	*relay
	number uint32
}

func (r *relaySource) Send(m netlink.Message) (netlink.Message, error) {
	r.number++
	m.Header.Sequence, m.Header.PID = r.number, 7
	return m, r.relay.Send(m)
}

// lineTo is a line to a kernel: each time that it is dialled, nothing is left of before.
func lineTo(kernel func([]netlink.Message) ([]datagram, error)) *line {
	return &line{dial: func() (source, error) { return &relaySource{relay: &relay{kernel: kernel}}, nil }}
}

// ReceiveIter yields what Receive returns.
func (r *relay) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		messages, err := r.Receive()
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

func (r *relay) JoinGroup(uint32) error           { return r.join }
func (r *relay) LeaveGroup(uint32) error          { return r.leave }
func (r *relay) Close() error                     { return nil }
func (r *relay) SetDeadline(time.Time) error      { return nil }
func (r *relay) SetReadDeadline(time.Time) error  { return nil }
func (r *relay) SetWriteDeadline(time.Time) error { return nil }

// says is the kernel's word about a message; 0: done.
func says(m netlink.Message, errno unix.Errno) datagram {
	return datagram{messages: []netlink.Message{{
		Header: netlink.Header{Type: netlink.Error, Sequence: m.Header.Sequence, PID: m.Header.PID},
		Data:   append(nlenc.Int32Bytes(-int32(errno)), make([]byte, 16)...),
	}}}
}

// callFails is a system call that fails.
func callFails(call string, errno unix.Errno) error { return os.NewSyscallError(call, errno) }

// real is a socket of the thread's network namespace, without anything between.
type real struct{ fd int }

func openReal() (real, uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return real{}, 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return real{}, 0, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return real{}, 0, err
	}
	return real{fd}, name.(*unix.SockaddrNetlink).Pid, nil
}

// send sends messages as one datagram, and returns all that the kernel answers.
func (r real) send(messages []netlink.Message) (answers []datagram, err error) {
	var bytes []byte
	for _, m := range messages {
		b, err := m.MarshalBinary()
		if err != nil {
			return nil, err
		}
		bytes = append(bytes, b...)
	}
	if err := unix.Sendto(r.fd, bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, callFails("sendmsg", err.(unix.Errno))
	}
	for {
		buffer := make([]byte, 1<<16)
		n, _, err := unix.Recvfrom(r.fd, buffer, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return answers, nil
		}
		if err != nil {
			return nil, err
		}
		raw, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, err
		}
		var one datagram
		for _, m := range raw {
			one.messages = append(one.messages, netlink.Message{
				Header: netlink.Header{
					Length: m.Header.Len, Type: netlink.HeaderType(m.Header.Type), Flags: netlink.HeaderFlags(m.Header.Flags),
					Sequence: m.Header.Seq, PID: m.Header.Pid,
				},
				Data: m.Data,
			})
		}
		answers = append(answers, one)
	}
}
