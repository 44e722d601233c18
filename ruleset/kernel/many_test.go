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
	"github.com/podfence/podfence/ruleset"
)

// manyAddrs are n IPv4 addresses, from the number first on.
func manyAddrs(first, n int) []ruleset.Element {
	elements := make([]ruleset.Element, n)
	for i := range elements {
		j := first + i
		elements[i] = ruleset.AddrElement(netip.AddrFrom4([4]byte{10, byte(j >> 16), byte(j >> 8), byte(j)}))
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
			g.Expect(c.Apply(ruleset.Plan{Replace: true, Ops: []ruleset.Op{
				ruleset.AddSet{Name: "peers", Type: ruleset.Addr4},
				ruleset.AddElements{Set: "peers", Type: ruleset.Addr4, Elements: all},
				ruleset.AddChain{Name: "pod"},
				ruleset.AddSet{Name: "pods", Type: ruleset.Addr4, Map: true},
				ruleset.AddVerdicts{Map: "pods", Type: ruleset.Addr4, Entries: verdicts(jump("pod"), all[:size/10]...)},
			}})).To(Succeed())
			g.Expect(c.Apply(apply(
				ruleset.DeleteElements{Set: "peers", Type: ruleset.Addr4, Elements: all[12345:12346]},
			))).To(Succeed())
			before := n.addrsOf(g, "set peers", size-1)
			g.Expect(slices.Contains(before, "10.0.48.57")).To(BeFalse())
			g.Expect(slices.Contains(before, "10.0.48.58")).To(BeTrue())

			// The very last of many messages fails, and nothing of the rest is done.
			err := c.Apply(apply(
				ruleset.AddElements{Set: "peers", Type: ruleset.Addr4, Elements: manyAddrs(size, size)},
				ruleset.DeleteElements{Set: "pods", Type: ruleset.Addr4, Elements: addrs("11.0.0.1")},
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
	var elements []ruleset.Element
	for i := range 20_000 {
		elements = append(elements, ruleset.PrefixElement(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i << 1), 0}), 25)))
	}
	g.Expect(c.Apply(ruleset.Plan{Replace: true, Ops: []ruleset.Op{
		ruleset.AddSet{Name: "block", Type: ruleset.Range4},
		ruleset.AddElements{Set: "block", Type: ruleset.Range4, Elements: elements},
	}})).To(Succeed())
	g.Expect(strings.Count(n.list(), "/25")).To(Equal(len(elements)))
	g.Expect(c.Apply(apply(ruleset.DeleteElements{Set: "block", Type: ruleset.Range4, Elements: elements[1:]}))).To(Succeed())
	g.Expect(strings.Count(n.list(), "/25")).To(Equal(1))
}

// TestManyFailures has the kernel refuse every message of a large transaction:
// the answers must not drown the first one.
func TestManyFailures(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	var ops []ruleset.Op
	for i := range 50_000 {
		ops = append(ops, ruleset.DeleteSet{Name: fmt.Sprint("set-", i)})
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
	keys := map[ruleset.SetType]func(i int) ruleset.Element{
		ruleset.Addr4: func(i int) ruleset.Element { return manyAddrs(i, 1)[0] },
		ruleset.Addr6: func(i int) ruleset.Element {
			return ruleset.Element{Addr: [16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}}
		},
		ruleset.Range4: func(i int) ruleset.Element {
			return ruleset.PrefixElement(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24))
		},
		ruleset.Range6: func(i int) ruleset.Element {
			return ruleset.PrefixElement(netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(i >> 8), 2: byte(i)}), 24))
		},
		ruleset.Port:      func(i int) ruleset.Element { return ruleset.PortElement(policy.TCP, uint16(i)) },
		ruleset.PortRange: func(i int) ruleset.Element { return ports(policy.TCP, uint16(2*i), uint16(2*i)) },
		ruleset.Endpoint4: func(i int) ruleset.Element {
			return endpoint("10.0.0.1", policy.TCP, uint16(i))
		},
		ruleset.Endpoint6: func(i int) ruleset.Element { return endpoint("fd00::1", policy.UDP, uint16(i)) },
		ruleset.EtherAddr: func(i int) ruleset.Element { return ruleset.Element{MAC: [6]byte{2, 4: byte(i >> 8), 5: byte(i)}} },
		ruleset.EtherType: func(i int) ruleset.Element { return ruleset.Element{First: uint16(i)} },
		ruleset.Sender4:   func(i int) ruleset.Element { return sender("pf0", byte(i), manyAddrs(i, 1)[0]) },
		ruleset.Sender6: func(i int) ruleset.Element {
			return sender("pf0", byte(i), ruleset.Element{Addr: [16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}})
		},
	}
	long := "egress-" + strings.Repeat("x", 240)
	for setType, key := range keys {
		for _, isMap := range []bool{false, true} {
			if isMap && (setType == ruleset.Range4 || setType == ruleset.Range6 || setType == ruleset.PortRange) {
				continue
			}
			t.Run(fmt.Sprint(setType, " map ", isMap), func(t *testing.T) {
				g := NewWithT(t)
				n := newNamespace(t)
				c := n.open()
				size := 20_000
				if setType == ruleset.PortRange {
					// The time that ranges in concatenated keys take grows with the
					// square of their number, above all where they are taken back
					// (nft_pipapo_remove).
					size = 2_000
				}
				var elements []ruleset.Element
				for i := range size {
					elements = append(elements, key(i))
				}
				ops := []ruleset.Op{ruleset.AddChain{Name: long}, ruleset.AddSet{Name: "s", Type: setType, Map: isMap}}
				if isMap {
					ops = append(ops, ruleset.AddVerdicts{Map: "s", Type: setType, Entries: verdicts(jump(long), elements...)})
				} else {
					ops = append(ops, ruleset.AddElements{Set: "s", Type: setType, Elements: elements})
				}
				failing := append([]ruleset.Op{ruleset.DeleteSet{Name: "none"}}, ops...)
				err := c.Apply(ruleset.Plan{Replace: true, Ops: failing})
				g.Expect(err).To(MatchError(ContainSubstring("delete set none")))
				g.Expect(err).To(MatchError(unix.ENOENT))
				g.Expect(n.list()).To(BeEmpty())
				g.Expect(c.Apply(ruleset.Plan{Replace: true, Ops: ops})).To(Succeed())
			})
		}
	}
}
