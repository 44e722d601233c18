package node

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestPodGoneMeanwhile: a pod's link goes between a round's look at it and what the round
// makes again. DEL has been there, so nobody else would take that away.
func TestPodGoneMeanwhile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace of the test's own needs root: skipped")
	}
	g := NewWithT(t)
	// Never unlocked: the thread, and with it the namespace, ends with the test.
	runtime.LockOSThread()
	g.Expect(unix.Unshare(unix.CLONE_NEWNET)).To(Succeed())
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	g.Expect(err).NotTo(HaveOccurred())
	defer handle.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = DefaultBridge
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	g.Expect(handle.LinkAdd(bridge)).To(Succeed())
	g.Expect(handle.LinkSetUp(bridge)).To(Succeed())
	attrs.Name = "pfweb"
	there := netlink.NewVeth(attrs)
	there.PeerName = "other"
	g.Expect(handle.LinkAdd(there)).To(Succeed())

	r := &round{Handle: handle, ipv6: true}
	pod := Pod{Name: "shop/web", Link: "pfweb", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	addrs := []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00::2")}
	left := func() (n int) {
		for _, family := range r.families() {
			routes, err := handle.RouteListFiltered(family, podRoute(bridge, addrs[0]), netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
			g.Expect(err).NotTo(HaveOccurred())
			n += len(routes) + len(r.entries(bridge, family))
		}
		return n
	}
	for _, a := range addrs {
		g.Expect(r.podAddr(pod, a, there, &podState{bridge: bridge})).To(Succeed())
	}
	g.Expect(left()).To(Equal(4))
	gone := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pfweb", Index: 4711}}
	for _, a := range addrs {
		g.Expect(r.podAddr(pod, a, gone, &podState{bridge: bridge})).To(Succeed())
	}
	g.Expect(left()).To(BeZero())
	g.Expect(r.errs).To(BeEmpty())
}
