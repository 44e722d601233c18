package ruleset

import (
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestStaticSetsStay: a static set, of whatever type, stays when the last rule of a policy that looks
// it up is removed. A set that is named by its content is removed then.
func TestStaticSetsStay(t *testing.T) {
	table := Build(policy.NewModel("node").Intent(), Options{TunnelPort: 8472})
	ports := portsSetOf([]policy.PortRange{{Protocol: policy.TCP, First: 80, Last: 80}})
	chain := &nft.Chain{Name: "policy-ingress"}
	for _, set := range []string{podRangeSet(4), podRangeSet(6), setTunnel, ports.Name} {
		chain.Rules = append(chain.Rules, nft.Rule{Matches: []nft.Match{nft.Lookup{Set: set}}})
	}
	u := update{Table: table}
	u.rulesIn(chain, []*nft.Set{ports})
	u.oldPolicyChains = u.dropChain(chain.Name, nil)
	for _, op := range u.plan().Ops {
		if op, is := op.(nft.DeleteSet); is && op.Name != ports.Name {
			t.Errorf("set %s goes with a policy", op.Name)
		}
	}
	for _, set := range []string{podRangeSet(4), podRangeSet(6), setTunnel} {
		if table.Sets[set] == nil {
			t.Errorf("set %s is gone", set)
		}
	}
	if table.Sets[ports.Name] != nil {
		t.Errorf("set %s stays, which is named by its content", ports.Name)
	}
}
