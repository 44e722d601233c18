package kernel

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	links "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// TestConnEventsOverrun has more connections begin than the socket holds events of, which is next to nothing
// here: all are told or counted as lost, and it goes on.
func TestConnEventsOverrun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace of the test's own needs root: skipped")
	}
	g := NewWithT(t)
	// Never unlocked: the thread, and with it the namespace, ends with the test.
	runtime.LockOSThread()
	g.Expect(unix.Unshare(unix.CLONE_NEWNET)).To(Succeed())
	netns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	g.Expect(err).NotTo(HaveOccurred())
	defer unix.Close(netns)
	loopback, err := links.LinkByName("lo")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(links.LinkSetUp(loopback)).To(Succeed())
	tracking := exec.Command("nft", "-f", "-")
	tracking.Stdin = strings.NewReader("table inet tracking { chain c { type filter hook input priority 0; ct state established accept; }; }")
	out, err := tracking.CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(out))

	c, err := OpenConnEvents(Options{NetNS: netns}, "/proc/sys", 1_000_000)
	g.Expect(err).NotTo(HaveOccurred())
	var told atomic.Int64
	r, err := c.listen(func(e *nft.ConnEvent) {
		if e.Original.Dst.Port() != 0 && !e.Ended {
			told.Add(1)
		}
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(r.socket.SetReadBuffer(1)).To(Succeed()) // the kernel's least
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.read(ctx) }()

	const connections = 2000
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	g.Expect(err).NotTo(HaveOccurred())
	defer unix.Close(fd)
	begin := func(port int) {
		err := unix.Sendto(fd, []byte{1}, 0, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
	for port := range connections {
		begin(1 + port)
	}
	g.Eventually(func() int64 { return told.Load() + int64(c.Lost()) }, "20s").Should(BeNumerically("==", connections))
	g.Expect(c.Lost()).To(BeNumerically(">", 0))
	g.Expect(told.Load()).To(BeNumerically(">", 0))

	lost := c.Lost()
	begin(1 + connections)
	g.Eventually(told.Load, "20s").Should(BeNumerically("==", connections+1-int64(lost)))
	cancel()
	g.Expect(r.socket.SetReadDeadline(time.Unix(0, 1))).To(Succeed())
	g.Expect(<-ended).To(HaveOccurred())
	g.Expect(r.close()).To(Succeed())
	g.Expect(c.Close()).To(Succeed())
}
