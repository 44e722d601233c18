package kernel_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// timedSet is the name of a set of the type of what pods were told.
const timedSet = "domains-4-test"

var pairs4 = nft.Of(nft.IPv4Addr, nft.IPv4Addr)

// pair is an element with a time.
func pair(pod, addr string, in time.Duration, comment string) nft.TimedElement {
	return nft.TimedElement{
		Element: nft.AddrsElement(netip.MustParseAddr(pod), netip.MustParseAddr(addr)),
		Timed:   nft.Timed{Expires: time.Now().Add(in), Comment: comment},
	}
}

// timed reads the set back: what is left of each element's time, and its comment, by the second address.
func (n *namespace) timed(t *testing.T) map[string]nft.Timed {
	t.Helper()
	var sets map[string][]nft.TimedElement
	var err error
	n.run(func() { sets, err = kernel.TimedSets(kernel.Options{}, ruleset.DomainSet) })
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]nft.Timed{}
	for _, e := range sets[timedSet] {
		found[netip.AddrFrom4([4]byte(e.LastAddr[:4])).String()] = e.Timed
	}
	return found
}

func timedPlan() nft.Plan {
	return nft.Plan{Replace: true, Ops: []nft.Op{
		nft.AddSet{Name: timedSet, Type: pairs4, Timed: true, Comment: "domain names"},
		nft.AddTimed{Set: timedSet, Type: pairs4, New: true, Elements: []nft.TimedElement{
			pair("10.244.1.2", "203.0.113.1", time.Minute, "www.example.com abcdefgh"), pair("10.244.1.2", "203.0.113.2", 300*time.Millisecond, "b.example.com"),
		}},
	}}
}

// TestTimedElements: the kernel ends elements by itself; whether or not it has done so, they can be given another time, be
// added again and be taken out.
func TestTimedElements(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(n.timed(t)).To(BeEmpty(), "before there is a table")
	g.Expect(c.Apply(timedPlan())).To(Succeed())
	g.Expect(n.timed(t)).To(And(HaveLen(2), HaveKeyWithValue("203.0.113.1", HaveField("Comment", "www.example.com abcdefgh"))))
	g.Eventually(func() map[string]nft.Timed { return n.timed(t) }, "5s", "50ms").ShouldNot(HaveKey("203.0.113.2"))

	left := func(addr string) time.Duration { return time.Until(n.timed(t)[addr].Expires) }
	g.Expect(c.Apply(apply(nft.AddTimed{Set: timedSet, Type: pairs4, Elements: []nft.TimedElement{
		pair("10.244.1.2", "203.0.113.1", time.Hour, "other.example.com"), pair("10.244.1.2", "203.0.113.2", time.Hour, ""), pair("10.244.1.2", "203.0.113.3", time.Hour, ""),
	}}))).To(Succeed())
	for i := range 3 {
		g.Expect(left(fmt.Sprintf("203.0.113.%d", i+1))).To(BeNumerically("~", time.Hour, 10*time.Second), "%d", i+1)
	}
	g.Expect(n.timed(t)).To(HaveKeyWithValue("203.0.113.1", HaveField("Comment", "other.example.com")))

	// A shorter time, too.
	g.Expect(c.Apply(apply(nft.AddTimed{Set: timedSet, Type: pairs4, Elements: []nft.TimedElement{pair("10.244.1.2", "203.0.113.3", 100*time.Millisecond, "")}}))).To(Succeed())
	g.Eventually(func() map[string]nft.Timed { return n.timed(t) }, "5s", "50ms").ShouldNot(HaveKey("203.0.113.3"))

	var gone []nft.Element
	for i := range 4 { // of which the third has ended, and the fourth never was
		gone = append(gone, pair("10.244.1.2", fmt.Sprintf("203.0.113.%d", i+1), 0, "").Element)
	}
	g.Expect(c.Apply(apply(nft.DeleteTimed{Set: timedSet, Type: pairs4, Elements: gone}))).To(Succeed())
	g.Expect(n.timed(t)).To(BeEmpty())
}

// TestTimedAtTheEnd: to give elements another time in the very moment in which theirs is over never fails, and the new time
// counts.
func TestTimedAtTheEnd(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(timedPlan())).To(Succeed())
	failed := 0
	for i := range 300 {
		add := nft.AddTimed{Set: timedSet, Type: pairs4, Elements: []nft.TimedElement{pair("10.244.1.2", "203.0.113.9", time.Duration(1+i%5)*time.Millisecond, "")}}
		if c.Apply(apply(add)) != nil {
			failed++
		}
		time.Sleep(time.Duration(i%7) * time.Millisecond)
	}
	// Its time may end within a transaction, between two of the three messages. Then the transaction fails as a whole.
	g.Expect(failed).To(BeNumerically("<", 10))
	g.Expect(c.Apply(apply(nft.AddTimed{Set: timedSet, Type: pairs4, Elements: []nft.TimedElement{pair("10.244.1.2", "203.0.113.9", time.Minute, "")}}))).To(Succeed())
	g.Expect(time.Until(n.timed(t)["203.0.113.9"].Expires)).To(BeNumerically(">", 50*time.Second))
	t.Logf("%d of 300 transactions failed", failed)
}

// TestTimedManyElements: many elements with long comments need several messages.
func TestTimedManyElements(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(timedPlan())).To(Succeed())
	add := nft.AddTimed{Set: timedSet, Type: pairs4}
	for i := range 3_000 {
		add.Elements = append(add.Elements, pair("10.244.1.2", netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String(), time.Minute, fmt.Sprintf("%0124d", i)))
	}
	g.Expect(c.Apply(apply(add))).To(Succeed())
	g.Expect(len(n.timed(t))).To(BeNumerically(">=", 3_001))
}
