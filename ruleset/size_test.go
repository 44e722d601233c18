package ruleset_test

import (
	"fmt"
	"math/rand"
	"net/netip"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// rangeCost is how many elements a range of addresses or of ports counts as in a budget.
const rangeCost = 10

// rendered is what a table has for its only policy.
type rendered struct {
	rules, jumps int
	// sets counts the sets that are named by what their members have in common, and members
	// counts the members of these. contentSets counts the sets of the policy's rules that are
	// named by their content, and ranges counts what is in these.
	sets, members, contentSets, ranges int
}

func renderedIn(table *ruleset.Table) (r rendered) {
	seen := map[string]bool{}
	for name, chain := range table.Chains {
		if strings.HasPrefix(name, "shared-") { // has the rules of other chains once more
			continue
		}
		for _, rule := range chain.Rules {
			switch origin := rule.Origin.(type) {
			case ruleset.PolicyRule:
				r.rules++
				for _, match := range rule.Matches {
					lookup := match.(nft.Lookup)
					set, user := table.Sets[lookup.Set], fmt.Sprint(origin, lookup.Set)
					if set.Life == nft.ByContent && !seen[user] {
						seen[user] = true
						r.contentSets++
						r.ranges += len(set.Elements)
					}
				}
			case ruleset.IsolatedBy:
				if len(table.Chains[rule.Verdict.Chain].Rules) > 0 {
					r.jumps++
				}
			}
		}
	}
	for _, set := range table.Sets {
		if set.Life == nft.ByMeaning {
			r.sets++
			r.members += len(set.Elements)
		}
	}
	return r
}

// countedBesides is by how much package policy counts more sets, rules and ranges than there are, as
// its documentation says: it counts ranges of addresses as if they were of both families, each
// further alternative of a selector as if it were a set, what the parts of a large rule share once
// for each part, and all that a rule names even if the rule allows nothing.
func countedBesides(p policy.Policy) (objects, ranges int) {
	alternatives, seen := map[policy.Selector]int{}, map[string]bool{}
	again := func(names ...any) bool {
		name := fmt.Sprint(names...)
		defer func() { seen[name] = true }()
		return seen[name]
	}
	for _, d := range policy.Directions {
		for _, r := range p.Rules[d] {
			ports := len(r.NamedPorts)
			if r.AnyPort || len(r.Ports) > 0 {
				ports++
			}
			families := map[bool]bool{}
			for _, block := range r.Blocks {
				families[block.First.Is4()] = true
			}
			switch {
			case ports == 0 || !r.AnyPeer && len(r.Peers)+len(r.Blocks) == 0:
				if ranges += len(r.Blocks) + len(r.Ports); len(r.Blocks) > 0 {
					objects += 2
				}
				if len(r.Ports) > 0 {
					objects++
				}
			case len(families) == 1:
				objects += 1 + ports
			}
			// The parts of one that is divided share their sets.
			if len(r.Ports) > 0 && again(d, r.Index, "ports", r.Ports) {
				objects, ranges = objects+1, ranges+len(r.Ports)
			}
			if len(r.Blocks) > 0 && again(d, r.Index, "blocks", r.Blocks) {
				objects, ranges = objects+len(families), ranges+len(r.Blocks)
			}
			for _, selector := range r.Peers {
				if selector.Or != "" {
					alternatives[selector] = 1 + strings.Count(selector.Or, "|")
				}
			}
		}
	}
	for _, n := range alternatives {
		objects += n
	}
	return objects, ranges
}

// TestPolicyCountsWhatIsRendered: package policy counts a policy's sets, rules and elements to say how
// large a policy may be and what a namespace may take. The kernel gets as many, except for what
// countedBesides says.
func TestPolicyCountsWhatIsRendered(t *testing.T) {
	var sum rendered
	more, compared := 0, 0
	compare := func(what string, s policy.Snapshot, np *networkingv1.NetworkPolicy) {
		t.Helper()
		s.Policies, s.ClusterPolicies = []*networkingv1.NetworkPolicy{np}, nil
		m := policy.NewModel(random.Node)
		for _, change := range random.Changes(random.Events(s)) {
			m.Apply(change)
		}
		in := m.Intent()
		taken := m.Most(1)
		if len(taken) == 0 || len(in.Policies) == 0 || m.OverBudget() > 0 {
			return
		}
		p := in.Policies[policy.Key{Namespace: np.Namespace, Name: np.Name}]
		have := renderedIn(ruleset.Build(in, ruleset.Options{}))
		besides, ranges := countedBesides(p)
		if objects := have.rules + have.jumps + have.sets + have.contentSets + besides; objects != taken[0].Objects {
			t.Errorf("%s: policy counts %d sets and rules; rendered are %+v, and %d are counted besides:\n%+v", what, taken[0].Objects, have, besides, p.Rules)
		}
		if elements := have.members + rangeCost*(have.ranges+ranges); elements != taken[0].Elements {
			t.Errorf("%s: policy counts %d elements; rendered are %+v, and %d ranges are counted besides:\n%+v", what, taken[0].Elements, have, ranges, p.Rules)
		}
		compared++
		more += besides
		sum.rules, sum.jumps, sum.sets = sum.rules+have.rules, sum.jumps+have.jumps, sum.sets+have.sets
		sum.members, sum.contentSets, sum.ranges = sum.members+have.members, sum.contentSets+have.contentSets, sum.ranges+have.ranges
	}
	for seed := range random.Seeds(*seed, *histories) {
		s := random.Cluster(rand.New(rand.NewSource(seed)), 12, 8)
		for _, np := range s.Policies {
			if compare(fmt.Sprintf("seed %d, %s", seed, np.Name), s, np); t.Failed() {
				t.FailNow()
			}
		}
	}
	t.Logf("%d policies: %+v, and %d sets and rules are counted besides", compared, sum, more)
	if compared < 100 || min(sum.rules, sum.jumps, sum.sets, sum.members, sum.contentSets, sum.ranges, more) < 100 {
		t.Error("too few to tell")
	}
}

// TestPolicyCountsSections: it is the same where a policy's rules are in sections.
func TestPolicyCountsSections(t *testing.T) {
	pod := policy.Pod{Key: policy.Key{Namespace: "shop", Name: "web"}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "large"}}
	for i := range 200 {
		port := intstr.FromInt(1 + i)
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(i)}}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
		})
	}
	p, problems := policy.Parse(np)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	m := policy.NewModel("node")
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	m.Apply(policy.SetPod(&pod))
	m.Apply(policy.SetPolicy(p))
	in := m.Intent()
	have := renderedIn(ruleset.Build(in, ruleset.Options{}))
	if objects := have.rules + have.jumps + have.sets + have.contentSets; len(in.Sections) == 0 || objects != m.Most(1)[0].Objects {
		t.Errorf("policy counts %d sets and rules; rendered are %+v, in %d sections", m.Most(1)[0].Objects, have, len(in.Sections))
	}
}
