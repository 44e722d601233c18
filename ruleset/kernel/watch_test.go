package kernel_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

const (
	watchSoon  = "30s"
	watchWhile = 300 * time.Millisecond
)

// watch watches the tables of a connection until the test ends.
func (n *namespace) watch(c *kernel.Conn, guard bool) *kernel.Watch {
	n.t.Helper()
	w, err := c.Watch(kernel.Options{NetNS: n.fd, Guard: guard})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = w.Close() })
	return w
}

// takeOne waits for what others have done.
func takeOne(g *WithT, w *kernel.Watch) nft.Tampering {
	g.Eventually(w.Tampered(), watchSoon).Should(Receive())
	all, err := w.Take()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(all).To(HaveLen(1))
	return all[0]
}

// fenced is a table like podfence's.
func fenced() nft.Plan {
	return nft.Plan{Replace: true, Ops: []nft.Op{
		nft.AddSet{Name: "peers", Type: nft.Of(nft.IPv4Addr)},
		nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(0, 3)},
		nft.AddChain{Name: "base", Hook: &nft.Hook{Point: nft.Forward}},
		nft.AddChain{Name: "pod"},
		nft.SetRules{Chain: "pod", Rules: []nft.Rule{{Counter: true, Verdict: nft.Verdict{Action: nft.Drop}}}},
		nft.SetRules{Chain: "base", Rules: []nft.Rule{{Verdict: jump("pod")}}},
	}}
}

func TestWatchNotices(t *testing.T) {
	const table = " of table inet podfence"
	for command, first := range map[string]string{
		"delete table inet podfence":     "delete table inet podfence",
		"flush ruleset":                  "delete table inet podfence",
		"flush table inet podfence":      "delete rule in chain base" + table,
		"flush chain inet podfence base": "delete rule in chain base" + table,
		"flush chain inet podfence base; delete chain inet podfence base": "delete rule in chain base" + table,
		"flush set inet podfence peers":                                   "delete element of set peers" + table,
		"delete element inet podfence peers { 10.0.0.1 }":                 "delete element of set peers" + table,
		"add element inet podfence peers { 10.9.0.1 }":                    "add element of set peers" + table,
		"insert rule inet podfence base accept":                           "add rule in chain base" + table,
		"add chain inet podfence mine":                                    "add chain mine" + table,
		"add set inet podfence mine { type ipv4_addr; }":                  "add set mine" + table,
		"add counter inet podfence mine":                                  "add object mine" + table,
		"add table inet podfence { flags dormant; }":                      "add table inet podfence",
		"add chain inet podfence base { policy drop; }":                   "add chain base" + table,
	} {
		t.Run(command, func(t *testing.T) {
			g := NewWithT(t)
			n := newNamespace(t)
			c := n.open()
			w := n.watch(c, false)
			g.Expect(c.Apply(fenced())).To(Succeed())
			before := n.sorted()
			n.nft("", command)
			did := takeOne(g, w)
			g.Expect(did.What()).To(HavePrefix(first))
			g.Expect(did.Process).To(Equal("nft"))
			g.Expect(did.PID).To(BeNumerically(">", 0))

			g.Expect(c.Apply(fenced())).To(Succeed())
			g.Expect(n.sorted()).To(Equal(before))
			g.Consistently(w.Tampered(), watchWhile).ShouldNot(Receive())
		})
	}
}

// TestWatchTellsWho compares with the id of a process that it starts.
func TestWatchTellsWho(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	w := n.watch(c, false)
	g.Expect(c.Apply(fenced())).To(Succeed())
	cmd := exec.Command("nft", "delete table inet podfence")
	var err error
	n.run(func() { err = cmd.Start() })
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cmd.Wait()).To(Succeed())
	// In the initial PID namespace, of which a test in a container sees no ids.
	if did := takeOne(g, w); inInitialPIDNamespace() {
		g.Expect(did.Who()).To(Equal(fmt.Sprintf("nft (process %d)", cmd.ProcessState.Pid())))
	} else {
		g.Expect(did.Who()).To(HavePrefix("nft (process "))
	}
}

// inInitialPIDNamespace knows it by its inode (PROC_PID_INIT_INO in
// include/linux/proc_ns.h).
func inInitialPIDNamespace() bool {
	out, err := exec.Command("readlink", "/proc/self/ns/pid").Output()
	return err == nil && strings.TrimSpace(string(out)) == "pid:[4026531836]"
}

func TestWatchIgnores(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	w := n.watch(c, false)
	g.Expect(c.Apply(fenced())).To(Succeed())
	// Own changes, heard and unheard.
	for i := range 300 {
		g.Expect(c.Apply(apply(nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(100+i, 1)}))).To(Succeed())
	}
	for range 3 {
		g.Expect(c.Apply(nft.Plan{Replace: true, Ops: []nft.Op{
			nft.AddSet{Name: "peers", Type: nft.Of(nft.IPv4Addr)},
			nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(0, 5000)},
		}})).To(Succeed())
	}
	// A probe of its own; others' tables, of other names and of other families;
	// listings and requests that change nothing or are refused.
	n.open()
	for _, text := range []string{
		"table inet podfence2 { chain c { type filter hook forward priority 0; drop; }; }",
		"table ip podfence { set peers { type ipv4_addr; elements = { 10.0.0.1 }; }; }",
		"table bridge podfence { chain c { accept; }; }",
		"delete table inet podfence2; delete table ip podfence; delete table bridge podfence",
		"list ruleset", "add table inet podfence",
	} {
		n.nft(text+"\n", "-f", "-")
	}
	_, err := n.try("", "delete chain inet podfence nosuch")
	g.Expect(err).To(HaveOccurred())
	g.Consistently(w.Tampered(), watchWhile).ShouldNot(Receive())
	g.Expect(w.Take()).To(BeEmpty())

	// It has been listening all the time.
	n.nft("", "delete table inet podfence")
	g.Expect(takeOne(g, w).Process).To(Equal("nft"))
}

func TestWatchGuard(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	w := n.watch(c, true)
	plan := nft.Plan{Family: nft.Bridge, Replace: true, Ops: []nft.Op{nft.AddChain{Name: "c"}}}
	g.Expect(c.Apply(plan)).To(Succeed())
	g.Consistently(w.Tampered(), watchWhile).ShouldNot(Receive())
	n.nft("", "delete table bridge podfence")
	g.Expect(takeOne(g, w).Changes).To(ContainElement("delete table bridge podfence"))
}

// TestWatchUnheard has another change the table, time and again, during
// replacements that the kernel tells nobody of. Whatever comes after the last of
// them must be noticed: the table is as it should be then, or something was.
func TestWatchUnheard(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	w := n.watch(c, false)
	whole := nft.Plan{Replace: true, Ops: []nft.Op{
		nft.AddSet{Name: "peers", Type: nft.Of(nft.IPv4Addr)},
		nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(0, 20_000)},
	}}
	g.Expect(c.Apply(whole)).To(Succeed())
	noticed, deleted := 0, 0
	for i := range 25 {
		_, err := w.Take()
		g.Expect(err).NotTo(HaveOccurred())
		done := make(chan error, 1)
		go func() { done <- c.Apply(whole) }()
		time.Sleep(time.Duration(i) * 4 * time.Millisecond)
		_, _ = n.try("", "delete table inet podfence")
		g.Expect(<-done).To(Succeed())
		_, err = n.try("", "list set inet podfence peers")
		if err == nil {
			continue
		}
		deleted++
		g.Eventually(func() int { all, _ := w.Take(); return len(all) }, watchSoon).Should(BeNumerically(">", 0), "a deletion after the replacement went unnoticed")
		noticed++
		g.Expect(c.Apply(whole)).To(Succeed())
	}
	t.Logf("%d deletions after the replacement, %d noticed", deleted, noticed)
}

func TestWatchEnds(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	w := n.watch(n.open(), false)
	g.Expect(w.Close()).To(Succeed())
	g.Eventually(w.Tampered(), watchSoon).Should(Receive())
	_, err := w.Take()
	g.Expect(err).To(HaveOccurred(), "whoever relies on it must learn that it has ended")
}
