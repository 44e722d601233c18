package kernel

import (
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

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
