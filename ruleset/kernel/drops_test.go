package kernel_test

import (
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
)

// TestDrops reads what rules have counted, by their comments, from a table that nft has
// loaded with counts.
func TestDrops(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.counters(t)
	g.Expect(c.Drops(ruleset.DropChains[:]...)).To(BeEmpty(), "there is no table")
	const unknown = `counter drop comment "no pod known by this address"`
	text := ruleset.Build(policy.Intent{}, ruleset.Options{RevokedMark: 1}).Text()
	rules := strings.Count(text, unknown)
	g.Expect(rules).To(BeNumerically(">=", 4), "of both families, both ways")
	n.load(strings.ReplaceAll(text, unknown, strings.Replace(unknown, "counter", "counter packets 7 bytes 420", 1)))
	drops, err := c.Drops(ruleset.DropChains[:]...)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(drops).To(Equal(map[string]uint64{
		"no pod known by this address":                         uint64(7 * rules),
		"a container whose pod is not known":                   0,
		"a policy has changed: no longer allowed":              0,
		"a loopback address, but not on the loopback device":   0,
		"an ICMP error, but not about a flow of the pod's own": 0,
		"not a pod's to send":                                  0,
		"too many ICMP errors":                                 0,
	}))

	// Whoever asks does not wait for a commit, which holds the connection for as long as it takes.
	conn := n.open()
	counters, err := conn.OpenCounters(kernel.Options{NetNS: n.fd})
	g.Expect(err).NotTo(HaveOccurred())
	defer counters.Close()
	unlock := kernel.Hold(conn)
	defer unlock()
	answered := make(chan error, 1)
	go func() { _, err := counters.Drops(ruleset.DropChains[:]...); answered <- err }()
	g.Eventually(answered, "10s").Should(Receive(BeNil()))
}

// TestFrameCounters: what each rule for frames has counted is read with its comment, and every rule that denies
// has a reason by that.
func TestFrameCounters(t *testing.T) {
	n := newNamespace(t)
	counters := n.counters(t)
	if none, whole, err := counters.ReadFrames(); err != nil || !whole || none.Table != 0 || len(none.Chains) != 0 {
		t.Fatalf("without a table: %v, whole %t, %v", none, whole, err)
	}
	guard := ruleset.BuildGuard(nil, ruleset.Gateway{}, ruleset.FragmentMemory{})
	guard.Tell(1)
	text, want := numbered(guard.Text())
	n.load(text)
	have, whole, err := counters.ReadFrames()
	if err != nil || !whole || have.Table == 0 {
		t.Fatalf("table %d, whole %t, %v", have.Table, whole, err)
	}
	denials := 0
	for name, chain := range guard.Chains {
		var packets []uint64
		for i, rule := range chain.Rules {
			counted := have.Chains[name][i]
			if counted.Counter {
				packets = append(packets, counted.Packets)
			}
			if counted.Comment != rule.Comment() {
				t.Errorf("chain %s, rule %d: the comment is %q, not %q", name, i, counted.Comment, rule.Comment())
			}
			if _, reason := ruleset.ReasonOf(rule); reason != "" {
				denials++
				if ruleset.ReasonOfComment(counted.Comment) != reason || !counted.Counter {
					t.Errorf("chain %s, rule %d (%q): %q, counts %t, want %q", name, i, counted.Comment, ruleset.ReasonOfComment(counted.Comment), counted.Counter, reason)
				}
			}
		}
		if !slices.Equal(packets, want[name]) {
			t.Errorf("chain %s: %v, not %v", name, packets, want[name])
		}
	}
	if denials < 5 {
		t.Errorf("only %d rules deny", denials)
	}
}
