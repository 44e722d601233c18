package kernel

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrPermission says that the kernel refused (EPERM) whatever was asked.
	// In Open it can only be the capability.
	ErrPermission = errors.New("not permitted: the process lacks CAP_NET_ADMIN, or another process owns the table")

	// ErrUnsupported says that the kernel, or a module that it can't load,
	// lacks something the table needs. Only Open returns it; its text names the
	// kernel option.
	ErrUnsupported = errors.New("the kernel can't hold the table")

	// ErrUnknown says that the answer to a transaction was lost: it may have
	// been carried out. A Plan that replaces the table settles it.
	ErrUnknown = errors.New("the kernel's answer was lost: whether the transaction was carried out is not known")

	// ErrClosed says that the Conn has been closed.
	ErrClosed = errors.New("the connection has been closed")
)

// OpError says which operation failed. All others of its transaction were
// undone or not tried, unless errors.Is(err, ErrUnknown).
type OpError struct {
	// Op is what failed, such as "add 2 elements to set peers-4-x".
	Op string
	// Err is why. If the kernel refused, errors.Is finds its errno
	// (golang.org/x/sys/unix): ENOENT for what isn't there, EBUSY for what is
	// still in use, EEXIST for an interval that overlaps another.
	Err error
}

func (e *OpError) Error() string { return fmt.Sprintf("nftables: %s: %v", e.Op, e.Err) }

// Unwrap returns Err.
func (e *OpError) Unwrap() error { return e.Err }

// refusedMessage finds out, for the error that a batch of these messages came to,
// which of them the kernel refused, as an index; -1 if it was the whole batch,
// or if that can't be known.
//
// The library gives the sequence number of the failed message, but not that of
// the first. lastSequence returns the number that the connection gave the last
// message it sent, which must be the one right after the batch.
func refusedMessage(err error, messages int, lastSequence func() (uint32, error)) (int, error) {
	var refused *netlink.OpError
	if !errors.As(err, &refused) {
		return -1, err
	}
	// What the kernel says in a message is a bare errno; what a system call
	// says, the library wraps.
	_, said := refused.Err.(syscall.Errno)
	switch {
	case errors.Is(refused, unix.EPERM):
		// The number isn't asked for: without the capability, that question
		// would itself be answered with EPERM, to whoever reads next.
		return -1, fmt.Errorf("%w: %w", ErrPermission, refused.Err)
	case refused.Op == "send-messages" && errors.Is(refused, unix.EMSGSIZE):
		return -1, fmt.Errorf("the transaction is larger than the socket's send buffer, "+
			"which only CAP_NET_ADMIN in the initial user namespace can enlarge: %w", refused.Err)
	case refused.Op == "send-messages":
		return -1, refused.Err
	case !said:
		return -1, fmt.Errorf("%w: %w", ErrUnknown, refused.Err)
	}
	last, seqErr := lastSequence()
	if seqErr != nil {
		return -1, refused.Err
	}
	// batch begin, messages, batch end, the one after. A refusal of the batch
	// as a whole, or of its commit, carries the number of batch begin.
	index := int(int32(refused.Sequence-(last-uint32(messages)-2))) - 1
	if index < 0 || index >= messages {
		return -1, refused.Err
	}
	return index, refused.Err
}
