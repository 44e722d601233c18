package kernel_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// manyAddrs are n IPv4 addresses, from the number first on.
func manyAddrs(first, n int) []nft.Element {
	elements := make([]nft.Element, n)
	for i := range elements {
		j := first + i
		elements[i] = nft.AddrElement(netip.AddrFrom4([4]byte{10, byte(j >> 16), byte(j >> 8), byte(j)}))
	}
	return elements
}

// addrsIn are the IPv4 addresses in a listing. A regular expression takes seconds for them with
// the race detector.
func addrsIn(listing string) []string {
	words := strings.FieldsFunc(listing, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	return slices.DeleteFunc(words, func(word string) bool { return strings.Count(word, ".") != 3 })
}

// addrsOf waits until a set or map lists as many different addresses, and returns them
// in order. A large hash grows in the background for a while after it has been
// filled; a listing that takes several messages then shows some elements twice
// and others not at all.
func (n *namespace) addrsOf(g *WithT, what string, count int) []string {
	n.t.Helper()
	var found []string
	g.Eventually(func() int {
		listing := n.nft("list "+strings.Replace(what, " ", " inet podfence ", 1)+"\n", "-f", "-")
		found = slices.Compact(slices.Sorted(slices.Values(addrsIn(listing))))
		return len(found)
	}, "2m", "100ms").Should(Equal(count))
	return found
}

func TestManyElements(t *testing.T) {
	for _, size := range []int{100_000, 150_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			g := NewWithT(t)
			n := newNamespace(t)
			c := n.open()
			all := manyAddrs(0, size)
			g.Expect(c.Apply(nft.Plan{Replace: true, Ops: []nft.Op{
				nft.AddSet{Name: "peers", Type: nft.Of(nft.IPv4Addr)},
				nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: all},
				nft.AddChain{Name: "pod"},
				nft.AddSet{Name: "pods", Type: nft.Of(nft.IPv4Addr), Map: true},
				nft.AddVerdicts{Map: "pods", Type: nft.Of(nft.IPv4Addr), Entries: verdicts(jump("pod"), all[:size/10]...)},
			}})).To(Succeed())
			g.Expect(c.Apply(apply(
				nft.DeleteElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: all[12345:12346]},
			))).To(Succeed())
			before := n.addrsOf(g, "set peers", size-1)
			g.Expect(slices.Contains(before, "10.0.48.57")).To(BeFalse())
			g.Expect(slices.Contains(before, "10.0.48.58")).To(BeTrue())

			// The very last of many messages fails, and nothing of the rest is done.
			err := c.Apply(apply(
				nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(size, size)},
				nft.DeleteElements{Set: "pods", Type: nft.Of(nft.IPv4Addr), Elements: addrs("11.0.0.1")},
			))
			g.Expect(err).To(MatchError(unix.ENOENT))
			g.Expect(err.Error()).To(ContainSubstring("delete element 11.0.0.1 from set pods"))
			g.Expect(slices.Equal(n.addrsOf(g, "set peers", size-1), before)).To(BeTrue())
			n.addrsOf(g, "map pods", size/10)
		})
	}
}

// TestManyPrefixes has intervals in several messages.
func TestManyPrefixes(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	var elements []nft.Element
	for i := range 20_000 {
		elements = append(elements, nft.PrefixElement(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i << 1), 0}), 25)))
	}
	g.Expect(c.Apply(nft.Plan{Replace: true, Ops: []nft.Op{
		nft.AddSet{Name: "block", Type: nft.RangesOf(nft.IPv4Addr)},
		nft.AddElements{Set: "block", Type: nft.RangesOf(nft.IPv4Addr), Elements: elements},
	}})).To(Succeed())
	g.Expect(strings.Count(n.list(), "/25")).To(Equal(len(elements)))
	g.Expect(c.Apply(apply(nft.DeleteElements{Set: "block", Type: nft.RangesOf(nft.IPv4Addr), Elements: elements[1:]}))).To(Succeed())
	g.Expect(strings.Count(n.list(), "/25")).To(Equal(1))
}

// TestManyFailures has the kernel refuse every message of a large transaction:
// the answers must not drown the first one.
func TestManyFailures(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	var ops []nft.Op
	for i := range 50_000 {
		ops = append(ops, nft.DeleteSet{Name: fmt.Sprint("set-", i)})
	}
	for range 2 {
		err := c.Apply(apply(ops...))
		g.Expect(err).To(MatchError(unix.ENOENT))
		g.Expect(err.Error()).To(ContainSubstring("delete set set-0:"))
	}
	g.Expect(c.Apply(small())).To(Succeed())
}

// TestMessages has, for every type of set, elements for several messages follow
// an operation that fails. That the error names the right one, counted from the
// end, shows that each message was one to the library too.
func TestMessages(t *testing.T) {
	keys := map[nft.SetType]func(i int) nft.Element{
		nft.Of(nft.IPv4Addr): func(i int) nft.Element { return manyAddrs(i, 1)[0] },
		nft.Of(nft.IPv6Addr): func(i int) nft.Element {
			return nft.Element{Addr: [16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}}
		},
		nft.RangesOf(nft.IPv4Addr): func(i int) nft.Element {
			return nft.PrefixElement(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24))
		},
		nft.RangesOf(nft.IPv6Addr): func(i int) nft.Element {
			return nft.PrefixElement(netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(i >> 8), 2: byte(i)}), 24))
		},
		nft.Of(nft.InetProto, nft.InetService):       func(i int) nft.Element { return nft.PortElement(policy.TCP, uint16(i)) },
		nft.RangesOf(nft.InetProto, nft.InetService): func(i int) nft.Element { return ports(policy.TCP, uint16(2*i), uint16(2*i)) },
		nft.Of(nft.IPv4Addr, nft.InetProto, nft.InetService): func(i int) nft.Element {
			return endpoint("10.0.0.1", policy.TCP, uint16(i))
		},
		nft.Of(nft.IPv6Addr, nft.InetProto, nft.InetService): func(i int) nft.Element { return endpoint("fd00::1", policy.UDP, uint16(i)) },
		nft.Of(nft.EtherAddr):                                func(i int) nft.Element { return nft.Element{MAC: [6]byte{2, 4: byte(i >> 8), 5: byte(i)}} },
		nft.Of(nft.EtherType):                                func(i int) nft.Element { return nft.Element{First: uint16(i)} },
		nft.Of(nft.IfName, nft.EtherAddr, nft.IPv4Addr):      func(i int) nft.Element { return sender("pf0", byte(i), manyAddrs(i, 1)[0]) },
		nft.Of(nft.IfName, nft.EtherAddr, nft.IPv6Addr): func(i int) nft.Element {
			return sender("pf0", byte(i), nft.Element{Addr: [16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}})
		},
	}
	long := "egress-" + strings.Repeat("x", 240)
	for setType, key := range keys {
		for _, isMap := range []bool{false, true} {
			if isMap && (setType == nft.RangesOf(nft.IPv4Addr) || setType == nft.RangesOf(nft.IPv6Addr) || setType == nft.RangesOf(nft.InetProto, nft.InetService)) {
				continue
			}
			t.Run(fmt.Sprint(setType, " map ", isMap), func(t *testing.T) {
				g := NewWithT(t)
				n := newNamespace(t)
				c := n.open()
				size := 20_000
				if setType == nft.RangesOf(nft.InetProto, nft.InetService) {
					// The time that ranges in concatenated keys take grows with the
					// square of their number, above all where they are taken back
					// (nft_pipapo_remove).
					size = 2_000
				}
				var elements []nft.Element
				for i := range size {
					elements = append(elements, key(i))
				}
				ops := []nft.Op{nft.AddChain{Name: long}, nft.AddSet{Name: "s", Type: setType, Map: isMap}}
				if isMap {
					ops = append(ops, nft.AddVerdicts{Map: "s", Type: setType, Entries: verdicts(jump(long), elements...)})
				} else {
					ops = append(ops, nft.AddElements{Set: "s", Type: setType, Elements: elements})
				}
				failing := append([]nft.Op{nft.DeleteSet{Name: "none"}}, ops...)
				err := c.Apply(nft.Plan{Replace: true, Ops: failing})
				g.Expect(err).To(MatchError(ContainSubstring("delete set none")))
				g.Expect(err).To(MatchError(unix.ENOENT))
				g.Expect(n.list()).To(BeEmpty())
				g.Expect(c.Apply(nft.Plan{Replace: true, Ops: ops})).To(Succeed())
			})
		}
	}
}
