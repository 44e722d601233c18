package node

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoRoute: what is no answer is not taken for one. An address that is said to be nowhere
// closes no link.
func TestNoRoute(t *testing.T) {
	for err, want := range map[unix.Errno]bool{
		unix.ENETUNREACH: true, unix.EHOSTUNREACH: true, unix.EACCES: true, unix.EINVAL: true,
		unix.ENOBUFS: false, unix.ENOMEM: false, unix.EINTR: false, unix.EAGAIN: false, unix.EBADF: false, unix.EPERM: false,
	} {
		if have := noRoute(fmt.Errorf("look up: %w", err)); have != want {
			t.Errorf("%v: %t", err, have)
		}
	}
}
