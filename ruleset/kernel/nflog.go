package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// logSocket is a socket that an nflog group is told by.
type logSocket struct {
	source
	group uint16
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

// bind binds, and has the kernel tell so many octets of each packet, as soon as so many hundredths of a second have passed
// or so many packets have come.
func (s *logSocket) bind(snaplen, after, atMost uint32) error {
	if err := s.configure(logConfigCommand, []byte{logCommandBind}); err != nil {
		return err
	}
	return errors.Join(
		s.configure(logConfigMode, append(binary.BigEndian.AppendUint32(nil, snaplen), logCopyPacket, 0)),
		s.configure(logConfigTimeout, binary.BigEndian.AppendUint32(nil, after)),
		s.configure(logConfigThreshold, binary.BigEndian.AppendUint32(nil, atMost)),
	)
}

// tell says what the kernel is to tell with each packet.
func (s *logSocket) tell(flags uint16) error {
	return s.configure(logConfigFlags, binary.BigEndian.AppendUint16(nil, flags))
}

// configure sends one setting, and waits for the kernel's answer.
func (s *logSocket) configure(setting uint16, value []byte) error {
	err := configure(s.source, logMessageConfig, s.group, netlink.Attribute{Type: setting, Data: value})
	if err != nil {
		return fmt.Errorf("setting %d: %w", setting, err)
	}
	return nil
}

// configure sends settings of an nflog group, or of an nfqueue, and waits for the kernel's answer.
func configure(s source, kind netlink.HeaderType, number uint16, settings ...netlink.Attribute) error {
	attributes, err := netlink.MarshalAttributes(settings)
	if err != nil {
		return err
	}
	header := nfgenmsg(unix.AF_UNSPEC)
	binary.BigEndian.PutUint16(header[2:], number)
	_, err = converse(s, netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(header, attributes...),
	}, ignore)
	return err
}

// receive waits for packets and calls do with each that can be read. It returns how many the kernel has told of that did
// not arrive, because they were too many; the next call goes on.
func (s *logSocket) receive(do func(*logged)) (lost int, err error) {
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		return 0, &OpError{Op: "read the packet log", Err: err}
	}
	messages, err := s.source.Receive()
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
			if s.next != 0 {
				lost += int(l.number - s.next)
			}
			s.next = l.number + 1
		}
		if ok {
			do(&l)
		}
	}
	return lost, nil
}
