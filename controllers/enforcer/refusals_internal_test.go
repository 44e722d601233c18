package enforcer

import (
	"net/netip"
	"slices"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Apply implements Kernel, and Check.
func (k *refusing) Apply(plan nft.Plan) error { return k.check(plan) }
func (k *refusing) Check(plan nft.Plan) error { return k.check(plan) }

// TestResume goes on with a search that there was no time to finish: who is not to
// blame is enforced again, who is stays closed, and both are reported.
func TestResume(t *testing.T) {
	g := NewWithT(t)
	kernel := &refusing{in: policies(9), bad: []policy.Key{policyKey(4)}}
	var reported []policy.Key // as quarantined or released
	e := New(kernel, Options{Node: "node", Report: func(o Outcome) {
		if q, is := o.(Quarantined); is {
			reported = slices.Concat(reported, q.Refused, q.Untried, q.Released)
		}
	}})
	e.Feed(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "pod"}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}))
	for i := range 9 {
		p := kernel.in.Policies[policyKey(i)]
		p.Subject = &policy.Selector{Namespace: "shop"}
		e.Feed(policy.SetPolicy(p))
		if i >= 3 && i < 6 {
			e.inbox.model.Quarantine(p, "not known yet")
			e.loop.untried = append(e.loop.untried, p.Key)
		}
	}
	g.Expect(e.loop.commit()).To(Succeed())
	// One has gone meanwhile.
	e.Feed(policy.DeletePolicy(policyKey(3)))
	g.Expect(e.loop.resumeSearch()).To(Succeed())
	g.Expect(e.loop.commit()).To(Succeed())
	g.Expect(e.loop.untried).To(BeEmpty())
	g.Expect(e.inbox.model.Quarantined()).To(Equal(1))
	g.Expect(e.inbox.model.Problems(policyKey(4))).To(ConsistOf(HaveField("Reason", ContainSubstring(errInvalid.Error()))))
	g.Expect(reported).To(ConsistOf(policyKey(3), policyKey(4), policyKey(5)))
	open := 0
	for name, chain := range e.loop.policies.table.Chains {
		if len(chain.Rules) > 0 && kernel.chains[name] != (policy.Key{}) {
			open++
		}
	}
	g.Expect(open).To(Equal(7), "of the 8 that are there")
}
