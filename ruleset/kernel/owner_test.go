package kernel_test

import (
	"fmt"
	"regexp"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// own connects, and owns what it makes. It skips the test where the kernel cannot.
func (n *namespace) own() *kernel.Conn {
	n.t.Helper()
	c, err := kernel.Open(kernel.Options{NetNS: n.fd, Own: true})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	if !c.Owns() {
		// That the kernel is asked in the right way, only its version can tell.
		var name unix.Utsname
		var major, minor int
		if err := unix.Uname(&name); err != nil {
			n.t.Fatal(err)
		}
		release := unix.ByteSliceToString(name.Release[:])
		if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major > 6 || major == 6 && minor >= 9 {
			n.t.Fatalf("Linux %s has such tables, and they are not used (%v)", release, err)
		}
		n.t.Skip("skipped: this kernel has no tables that are owned and persist, which takes Linux 6.9")
	}
	return c
}

// flags are what nft lists of a table's, with the line that it leaves empty after
// them. Those that it does not know, such as persist, it leaves out.
var flags = regexp.MustCompile(`( # progname [^\n]+)?\n\tflags [^\n]*\n\n?`)

// unflagged is a listing without what says who owns a table.
func unflagged(listing string) string { return flags.ReplaceAllString(listing, "\n") }

func TestOwnedTable(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.own()
	g.Expect(c.Apply(fenced())).To(Succeed())
	before := n.list()
	g.Expect(before).To(ContainSubstring("flags "))
	plain := newNamespace(t)
	g.Expect(plain.open().Apply(fenced())).To(Succeed())
	g.Expect(unflagged(before)).To(Equal(plain.list()))

	// Others are refused, and a flush leaves it.
	for _, command := range []string{
		"delete table inet podfence", "flush table inet podfence", "flush chain inet podfence base",
		"delete element inet podfence peers { 10.0.0.1 }", "add element inet podfence peers { 10.9.0.1 }",
		"insert rule inet podfence base accept", "add chain inet podfence mine",
	} {
		_, err := n.try("", command)
		g.Expect(err).To(MatchError(ContainSubstring("Operation not permitted")), command)
	}
	n.nft("", "flush ruleset")
	g.Expect(n.list()).To(Equal(before))
	g.Expect(n.open().Uninstall()).To(MatchError(And(ContainSubstring("stop it first"), ContainSubstring("owns the table"))))
	g.Expect(n.list()).To(Equal(before))

	// Another agent is refused too, and takes the table over when this one has gone.
	second := n.own()
	w := n.watch(second, false)
	g.Expect(second.Apply(fenced())).To(And(MatchError(kernel.ErrPermission), MatchError(ContainSubstring("another process owns the table"))))
	g.Expect(second.Apply(apply(nft.DeleteChain{Name: "pod"}))).To(MatchError(kernel.ErrPermission))
	g.Expect(n.list()).To(Equal(before))
	g.Expect(c.Apply(apply(nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(10, 1)}))).To(Succeed(), "the owner goes on")
	g.Expect(takeOne(g, w).Changes).To(HaveLen(1))

	g.Expect(c.Close()).To(Succeed())
	orphan := n.list()
	g.Expect(unflagged(orphan)).To(ContainSubstring("10.0.0.10"), "what it did last stays")
	g.Expect(second.Apply(fenced())).To(Succeed())
	g.Expect(unflagged(n.list())).To(Equal(unflagged(before)))
	_, err := n.try("", "delete table inet podfence")
	g.Expect(err).To(HaveOccurred(), "it is the second's now")

	// Without an owner it can be removed.
	g.Expect(second.Close()).To(Succeed())
	g.Expect(n.open().Uninstall()).To(Succeed())
	g.Expect(n.list()).To(BeEmpty())
}

// TestOwnsOlderTable takes a table over that an agent of before has left, which was
// nobody's own.
func TestOwnsOlderTable(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	g.Expect(n.open().Apply(fenced())).To(Succeed())
	before := n.list()
	g.Expect(n.own().Apply(fenced())).To(Succeed())
	g.Expect(n.list()).NotTo(Equal(before))
	g.Expect(unflagged(n.list())).To(Equal(before))
	_, err := n.try("", "delete table inet podfence")
	g.Expect(err).To(MatchError(ContainSubstring("Operation not permitted")))
}

// TestOwnedGuard has both families.
func TestOwnedGuard(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.own()
	g.Expect(c.Apply(nft.Plan{Family: nft.Bridge, Replace: true, Ops: []nft.Op{nft.AddChain{Name: "c"}}})).To(Succeed())
	n.nft("", "flush ruleset")
	g.Expect(n.list()).To(ContainSubstring("table bridge podfence"))
	g.Expect(c.Close()).To(Succeed())
	g.Expect(n.list()).To(ContainSubstring("table bridge podfence"))
}

// TestOwnedManyUpdates has updates that the kernel tells nobody of, and a watch that
// goes on noticing after them.
func TestOwnedManyUpdates(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.own()
	w := n.watch(c, false)
	g.Expect(c.Apply(fenced())).To(Succeed())
	before := n.list()
	all := manyAddrs(100, 10_000)
	g.Expect(c.Apply(apply(nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: all}))).To(Succeed())
	g.Expect(c.Apply(apply(nft.DeleteElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: all}))).To(Succeed())
	g.Expect(n.list()).To(Equal(before))
	g.Consistently(w.Tampered(), watchWhile).ShouldNot(Receive())
	g.Expect(c.Close()).To(Succeed())
	n.nft("", "delete table inet podfence") // which has no owner now
	g.Expect(takeOne(g, w).Process).To(Equal("nft"))
}

// TestOwnedFailure has a replacement fail: the old table stays, and stays owned.
func TestOwnedFailure(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.own()
	g.Expect(c.Apply(fenced())).To(Succeed())
	before := n.list()
	bad := fenced()
	bad.Ops = append(bad.Ops, nft.DeleteChain{Name: "nosuch"})
	err := c.Apply(bad)
	g.Expect(err).To(MatchError(ContainSubstring("delete chain nosuch")))
	g.Expect(n.list()).To(Equal(before))
	_, err = n.try("", "delete table inet podfence")
	g.Expect(err).To(HaveOccurred())
}
