package kernel_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// TestDrops reads what rules have counted, by their comments, from a table that nft has
// loaded with counts.
func TestDrops(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
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
	g.Expect(c.Close()).To(Succeed())
	_, err = c.Drops(ruleset.DropChains[:]...)
	g.Expect(err).To(HaveOccurred())
}
