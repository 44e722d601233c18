package kernel

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"testing"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// TestRefusedMessage has errors as the library makes them, of a batch of 3 messages
// whose begin had the number begin.
func TestRefusedMessage(t *testing.T) {
	for _, begin := range []uint32{1000, math.MaxUint32 - 2} {
		refused := func(sequence uint32, errno unix.Errno) error {
			return fmt.Errorf("receive: NFT_MSG_NEWSET: %w", &netlink.OpError{Op: "receive", Err: errno, Sequence: sequence})
		}
		for name, test := range map[string]struct {
			err   error
			index int
			is    error
		}{
			"first message": {refused(begin+1, unix.ENOENT), 0, unix.ENOENT},
			"last message":  {refused(begin+3, unix.EEXIST), 2, unix.EEXIST},
			"begin":         {refused(begin, unix.EOPNOTSUPP), -1, unix.EOPNOTSUPP},
			"end":           {refused(begin+4, unix.EINVAL), -1, unix.EINVAL},
			"of another":    {refused(begin-700, unix.EINVAL), -1, unix.EINVAL},
			"capability":    {refused(begin, unix.EPERM), -1, ErrPermission},
			"send":          {fmt.Errorf("SendMessages: %w", &netlink.OpError{Op: "send-messages", Err: os.NewSyscallError("sendmsg", unix.ENOBUFS)}), -1, unix.ENOBUFS},
			"too large":     {fmt.Errorf("SendMessages: %w", &netlink.OpError{Op: "send-messages", Err: os.NewSyscallError("sendmsg", unix.EMSGSIZE)}), -1, unix.EMSGSIZE},
			"answer lost":   {fmt.Errorf("receive: %w", &netlink.OpError{Op: "receive", Err: os.NewSyscallError("recvmsg", unix.EBADF)}), -1, ErrUnknown},
			"not netlink":   {io.ErrShortBuffer, -1, io.ErrShortBuffer},
		} {
			t.Run(fmt.Sprint(name, " ", begin), func(t *testing.T) {
				g := NewWithT(t)
				index, err := refusedMessage(test.err, 3, func() (uint32, error) { return begin + 5, nil })
				g.Expect(index).To(Equal(test.index))
				g.Expect(err).To(MatchError(test.is))
				if test.is != ErrUnknown {
					g.Expect(errors.Is(err, ErrUnknown)).To(BeFalse())
				}
			})
		}
	}
}

func TestRefusedMessageWithoutSequence(t *testing.T) {
	g := NewWithT(t)
	err := fmt.Errorf("receive: %w", &netlink.OpError{Op: "receive", Err: unix.ENOENT, Sequence: 7})
	index, err := refusedMessage(err, 3, func() (uint32, error) { return 0, unix.ENOBUFS })
	g.Expect(index).To(Equal(-1))
	g.Expect(err).To(MatchError(unix.ENOENT))
}

func TestUnsupported(t *testing.T) {
	g := NewWithT(t)
	err := unsupported(&OpError{Op: "add rule 1 of chain rules", Err: unix.ENOENT}, "CONFIG_NFT_CT")
	g.Expect(err).To(MatchError(ErrUnsupported))
	g.Expect(err).To(MatchError(unix.ENOENT))
	g.Expect(err.Error()).To(ContainSubstring("CONFIG_NFT_CT"))
	for _, other := range []error{ErrPermission, unix.ENOMEM, unix.EEXIST} {
		g.Expect(errors.Is(unsupported(&OpError{Err: other}, "x"), ErrUnsupported)).To(BeFalse())
	}
}

func TestNoConntrack(t *testing.T) {
	g := NewWithT(t)
	err := noConntrack(&netlink.OpError{Op: "receive", Err: unix.EINVAL})
	g.Expect(err).To(MatchError(unix.EINVAL))
	g.Expect(err).To(MatchError(ContainSubstring("CONFIG_NF_CT_NETLINK")))
	g.Expect(noConntrack(unix.EPERM)).To(BeIdenticalTo(unix.EPERM))
}
