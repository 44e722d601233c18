package node

import (
	"errors"
	"runtime"
	"testing"

	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestConnecting: from a link's making until it has come up, which the kernel counts.
func TestConnecting(t *testing.T) {
	// Never unlocked: the thread, and with it the namespace, ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("a network namespace of the test's own needs root: skipped")
	} else if err != nil {
		t.Fatal(err)
	}
	g := NewWithT(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "pfweb"
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "other"
	g.Expect(netlink.LinkAdd(veth)).To(Succeed())
	look := func(name string) netlink.Link {
		link, err := netlink.LinkByName(name)
		g.Expect(err).NotTo(HaveOccurred())
		return link
	}
	listed := look("pfweb")
	g.Expect(connecting(listed)).To(BeTrue())
	g.Expect(netlink.LinkSetUp(look("other"))).To(Succeed())
	g.Expect(connecting(listed)).To(BeTrue(), "the pod's end alone is up")
	g.Expect(netlink.LinkSetUp(veth)).To(Succeed())
	g.Expect(connecting(look("pfweb"))).To(BeFalse())
	g.Expect(connecting(listed)).To(BeTrue(), "what was listed before is not what there is")
	g.Expect(netlink.LinkSetDown(veth)).To(Succeed())
	g.Expect(connecting(listed)).To(BeFalse(), "somebody has set it down")
	g.Expect(netlink.LinkDel(veth)).To(Succeed())
	_, err := connecting(listed)
	g.Expect(gone(err)).To(BeTrue(), "%v", err)
}
