package kernel

import (
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// TestReplaceRaced lets others change the ruleset after the table was listed, and lets the listing
// fail: a replacement begins again, and in the end goes on without what it cannot learn.
func TestReplaceRaced(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace of the test's own needs root: skipped")
	}
	// Never unlocked: the thread, and with it the namespace, ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	other, err := Open(Options{Table: "other"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for name, test := range map[string]struct {
		// others come in before so many transactions.
		others int
		// So many dumps are interrupted; questions of a kind are refused, if one is
		// given.
		interrupted int
		refused     uint16
		batches     int
		whole, fail bool
	}{
		"nothing":                  {batches: 1},
		"two others":               {others: 2, batches: 3},
		"one other after another":  {others: 9, batches: 4, whole: true},
		"interrupted":              {interrupted: 3, batches: 1},
		"interrupted all the time": {interrupted: 99, fail: true},
		"no table":                 {refused: unix.NFT_MSG_GETTABLE, fail: true},
		"no chains":                {refused: unix.NFT_MSG_GETCHAIN, fail: true},
		"no sets":                  {refused: unix.NFT_MSG_GETSET, fail: true},
		"no generation":            {refused: unix.NFT_MSG_GETGEN, fail: true},
	} {
		// Not a subtest, which would be on another thread, and in its namespace.
		func() {
			g := NewWithT(t)
			socket, pid, err := openReal()
			g.Expect(err).NotTo(HaveOccurred())
			defer unix.Close(socket.fd)
			faults, batches, whole := false, 0, false
			c := &Conn{name: "podfence"}
			c.socket = netlink.NewConn(&relay{kernel: func(sent []netlink.Message) ([]datagram, error) {
				if !faults {
					return socket.send(sent)
				}
				if acknowledged(sent) >= 0 {
					batches++
					if test.others > 0 {
						test.others--
						g.Expect(other.Apply(somePlan())).To(Succeed())
					}
					whole = slices.ContainsFunc(sent, func(m netlink.Message) bool {
						return m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE
					})
					return socket.send(sent)
				}
				if test.refused != 0 && sent[0].Header.Type == netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8|test.refused) {
					return []datagram{says(sent[0], unix.ENOMEM)}, nil
				}
				answers, err := socket.send(sent)
				if sent[0].Header.Flags&netlink.Dump == netlink.Dump && test.interrupted > 0 {
					test.interrupted--
					answers[0].messages[0].Header.Flags |= netlink.DumpInterrupted
				}
				return answers, err
			}}, pid)
			g.Expect(c.Apply(somePlan())).To(Succeed())
			faults = true
			err = c.Apply(somePlan())
			g.Expect(err != nil).To(Equal(test.fail), "%s: %v", name, err)
			if test.fail {
				g.Expect(err).To(MatchError(ContainSubstring("list table inet podfence")), name)
				g.Expect(err).NotTo(BeAssignableToTypeOf(&nft.Refusal{}), "the plan is not at fault")
			}
			g.Expect(batches).To(Equal(test.batches), name)
			g.Expect(whole).To(Equal(test.whole), name)
		}()
	}
}
