package kernel

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
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

// errEncoding says that the library cannot put a plan into messages.
var errEncoding = errors.New("it cannot be put into messages")

// temporary are the errors that say nothing about the plan: memory was short, another
// transaction came in between, another process owns the table, or what is to be deleted
// is in use.
var temporary = []error{
	ErrPermission, ErrUnknown, ErrClosed,
	unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EAGAIN, unix.ERESTART, unix.EBUSY,
}

// refusal makes an error a *nft.Refusal if the plan of these messages is at fault. index is that
// of the refused message, or -1.
func refusal(messages []message, index int, err error) error {
	var errno syscall.Errno
	if err == nil || !errors.As(err, &errno) && !errors.Is(err, errEncoding) {
		return err
	}
	for _, target := range temporary {
		if errors.Is(err, target) {
			return err
		}
	}
	op := -1
	if index >= 0 {
		op = messages[index].op
	}
	return &nft.Refusal{Op: op, Err: err}
}
