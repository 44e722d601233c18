package controllers

import (
	"net/netip"
	"testing"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"

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
	e := newEnforcer(kernel, Options{Node: "node", Log: logr.Discard()}, newMetrics(prometheus.NewRegistry()), nil)
	e.Feed(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "pod"}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}))
	for i := range 9 {
		p := kernel.in.Policies[policyKey(i)]
		p.Subject = &policy.Selector{Namespace: "shop"}
		e.Feed(policy.SetPolicy(p))
		if i >= 3 && i < 6 {
			e.model.Close(p, "not known yet")
			e.refusals.left = append(e.refusals.left, p.Key)
		}
	}
	g.Expect(e.commit()).To(Succeed())
	// One has gone meanwhile.
	e.Feed(policy.DeletePolicy(policyKey(3)))
	g.Expect(e.resume()).To(Succeed())
	g.Expect(e.commit()).To(Succeed())
	g.Expect(e.refusals.left).To(BeEmpty())
	g.Expect(e.model.ClosedPolicies()).To(Equal(1))
	g.Expect(e.model.Problems(policyKey(4))).To(ConsistOf(HaveField("Reason", ContainSubstring(errInvalid.Error()))))
	g.Expect(e.refusals.news).To(Equal([]policy.Key{policyKey(3), policyKey(4), policyKey(5)}))
	open := 0
	for name, chain := range e.table.Chains {
		if len(chain.Rules) > 0 && kernel.chains[name] != (policy.Key{}) {
			open++
		}
	}
	g.Expect(open).To(Equal(7), "of the 8 that are there")
}
