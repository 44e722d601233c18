package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// TestWatchTruncated cuts a notice of podfence's table off at each byte: what is not
// whole must be taken for a change.
func TestWatchTruncated(t *testing.T) {
	g := NewWithT(t)
	w := &Watch{name: "podfence", tables: map[byte]string{unix.NFPROTO_INET: "table inet podfence"}}
	ae := netlink.NewAttributeEncoder()
	ae.String(nftaTable, "podfence")
	ae.String(unix.NFTA_RULE_CHAIN, "base")
	attributes, err := ae.Encode()
	g.Expect(err).NotTo(HaveOccurred())
	data := append(nfgenmsg(unix.NFPROTO_INET), attributes...)
	header := netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE}
	for n := range data {
		g.Expect(w.change(netlink.Message{Header: header, Data: data[:n]})).NotTo(BeEmpty(), "%d bytes", n)
	}
	g.Expect(w.change(netlink.Message{Header: header, Data: data})).To(Equal("delete rule in chain base of table inet podfence"))
	data[0] = unix.NFPROTO_IPV4
	g.Expect(w.change(netlink.Message{Header: header, Data: data})).To(BeEmpty(), "another one's")
}

// TestWatchOverrun has others change more than the socket holds, which is next to
// nothing here: what is lost must be taken for a change of podfence's table, and
// for one, not for many; but not of one that is owned, which nobody else can change.
func TestWatchOverrun(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprint("owned: ", own), func(t *testing.T) { overrun(t, own) })
	}
}

func overrun(t *testing.T, own bool) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace of the test's own needs root: skipped")
	}
	g := NewWithT(t)
	// Never unlocked: the thread, and with it the namespace, ends with the test.
	runtime.LockOSThread()
	g.Expect(unix.Unshare(unix.CLONE_NEWNET)).To(Succeed())
	c, err := Open(Options{Own: own})
	g.Expect(err).NotTo(HaveOccurred())
	if own && !c.Owns() {
		t.Skip("skipped: this kernel has no tables that are owned and persist, which takes Linux 6.9")
	}
	w, err := c.Watch(Options{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(w.socket.SetReadBuffer(1)).To(Succeed()) // the kernel's least
	overrun := func() <-chan struct{} {
		change := exec.Command("nft", "-f", "-")
		change.Stdin = strings.NewReader("table ip other {\n" + strings.Repeat("chain c { accept; accept; accept; }\n", 2000) + "}\n")
		out, err := change.CombinedOutput()
		g.Expect(err).NotTo(HaveOccurred(), string(out))
		return w.Tampered()
	}
	if own {
		overrun()
		g.Consistently(w.Tampered(), "300ms").ShouldNot(Receive())
		g.Expect(w.Take()).To(BeEmpty())
	} else {
		// On a busy machine the watch may have read each message by the next: the kernel
		// yields where a socket is half full (netlink_broadcast_filtered).
		g.Eventually(overrun, "30s", "10ms").Should(Receive())
		time.Sleep(100 * time.Millisecond) // what else may come
		g.Expect(w.Take()).To(And(Not(BeEmpty()), HaveEach(nft.Tampering{}), WithTransform(func(all []nft.Tampering) int { return len(all) }, BeNumerically("<=", maxNoticed))))
	}

	// It goes on noticing.
	g.Expect(w.socket.SetReadBuffer(watchBuffer)).To(Succeed())
	change := exec.Command("nft", "add", "table", "inet", "podfence")
	g.Expect(change.Run()).To(Succeed())
	g.Eventually(w.Tampered(), "30s").Should(Receive())
	g.Expect(w.Take()).To(ContainElement(HaveField("Changes", []string{"add table inet podfence"})))
	g.Expect(w.Close()).To(Succeed())
	g.Expect(c.Close()).To(Succeed())
}
