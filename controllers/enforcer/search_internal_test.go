package enforcer

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

var errInvalid = errors.New("invalid argument")

// policies are an intent of so many policies with a rule each, for a port of its own.
func policies(n int) policy.Intent {
	in := policy.NewModel("node").Intent()
	for i := range n {
		key := policyKey(i)
		in.Policies[key] = policy.Policy{Key: key, Isolates: [2]bool{true}, Rules: [2][]policy.Rule{{
			{AnyPeer: true, Ports: []policy.PortRange{{Protocol: policy.TCP, First: uint16(i + 1), Last: uint16(i + 1)}}},
		}}}
	}
	return in
}

func policyKey(i int) policy.Key {
	return policy.Key{Namespace: "shop", Name: fmt.Sprintf("policy-%05d", i)}
}

// refusing is a kernel that refuses the rules of some policies.
type refusing struct {
	in  policy.Intent
	bad []policy.Key
	// names: its refusals name the operation.
	names bool
	// together: it refuses them only if all of them are there.
	together bool

	chains map[string]policy.Key
}

func (k *refusing) check(plan nft.Plan) error {
	if k.chains == nil {
		k.chains = map[string]policy.Key{}
		for _, op := range ruleset.Build(k.in, ruleset.Options{}).Replacement().Ops {
			if rules, is := op.(nft.SetRules); is {
				for _, user := range ruleset.Users(k.in, op, ruleset.Options{}) {
					k.chains[rules.Chain] = user
				}
			}
		}
	}
	var there []policy.Key
	first := -1
	for i, op := range plan.Ops {
		rules, is := op.(nft.SetRules)
		if !is {
			continue
		}
		if user := k.chains[rules.Chain]; slices.Contains(k.bad, user) {
			there = append(there, user)
			if first < 0 {
				first = i
			}
		}
	}
	switch {
	case len(there) == 0, k.together && len(there) < len(k.bad):
		return nil
	case k.names:
		return &nft.Refusal{Op: first, Err: errInvalid}
	}
	return &nft.Refusal{Op: -1, Err: errInvalid}
}

func (k *refusing) search(until time.Duration) *search {
	return &search{intent: k.in, check: k.check, until: time.Now().Add(until)}
}

func TestSearch(t *testing.T) {
	const n = 64
	r := rand.New(rand.NewSource(1))
	for _, names := range []bool{true, false} {
		for _, k := range []int{0, 1, 2, 5, n} {
			t.Run(fmt.Sprint(k, " of ", n, ", named ", names), func(t *testing.T) {
				g := NewWithT(t)
				kernel := &refusing{in: policies(n), names: names}
				for _, i := range r.Perm(n)[:k] {
					kernel.bad = append(kernel.bad, policyKey(i))
				}
				s := kernel.search(time.Minute)
				f, err := s.among(kernel.in.WithRules())
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(f.Nobody).NotTo(HaveOccurred())
				g.Expect(f.Untried).To(BeEmpty())
				g.Expect(f.Refused).To(HaveLen(k))
				for _, key := range kernel.bad {
					g.Expect(f.Refused[key]).To(MatchError(errInvalid))
				}
				if names {
					g.Expect(s.Trials).To(BeNumerically("<=", 2+k))
				} else {
					g.Expect(s.Trials).To(BeNumerically("<=", min(2+2*k*6, 1+2*n))) // 6 halvings of 64
				}
			})
		}
	}
}

// TestSearchTogether has two policies refused only if both are there: one must go.
func TestSearchTogether(t *testing.T) {
	g := NewWithT(t)
	kernel := &refusing{in: policies(20), bad: []policy.Key{policyKey(3), policyKey(17)}, together: true}
	f, err := kernel.search(time.Minute).among(kernel.in.WithRules())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.Refused).To(And(HaveLen(1), HaveKey(policyKey(17))))
}

// TestSearchNobody has the kernel refuse whatever it is given.
func TestSearchNobody(t *testing.T) {
	for _, op := range []int{-1, 0} {
		g := NewWithT(t)
		s := &search{intent: policies(9), check: func(nft.Plan) error { return &nft.Refusal{Op: op, Err: errInvalid} }, until: time.Now().Add(time.Minute)}
		f, err := s.among(policies(9).WithRules())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(f.Nobody).To(MatchError(errInvalid))
		g.Expect(f.Refused).To(BeEmpty())
		g.Expect(s.Trials).To(Equal(1))
	}
}

// TestSearchOfTheMoment has a trial fail for another reason, at any time.
func TestSearchOfTheMoment(t *testing.T) {
	for after := range 12 {
		g := NewWithT(t)
		kernel := &refusing{in: policies(9), bad: []policy.Key{policyKey(2), policyKey(7)}}
		memory := errors.New("cannot allocate memory")
		s := kernel.search(time.Minute)
		calls := 0
		s.check = func(plan nft.Plan) error {
			if calls++; calls > after {
				return memory
			}
			return kernel.check(plan)
		}
		f, err := s.among(kernel.in.WithRules())
		g.Expect(err).To(MatchError(memory))
		g.Expect(f.Refused).To(BeEmpty(), "nobody is blamed")
		g.Expect(f.Untried).To(BeEmpty())
	}
}

// TestSearchInTime stops a search as soon as it may, and goes on with what it has left until nothing
// is: all that are to blame must be found, nobody else, and the rest be in order at
// each time.
func TestSearchInTime(t *testing.T) {
	g := NewWithT(t)
	kernel := &refusing{in: policies(40), bad: []policy.Key{policyKey(0), policyKey(11), policyKey(12), policyKey(39)}}
	var refused []policy.Key
	in, suspects, rounds := kernel.in, kernel.in.WithRules(), 0
	for len(suspects) > 0 {
		rounds++
		s := kernel.search(0)
		s.intent = in
		f, err := s.among(suspects)
		g.Expect(err).NotTo(HaveOccurred())
		closed := map[policy.Key]struct{}{}
		for key := range f.Refused {
			refused = append(refused, key)
			closed[key] = struct{}{}
		}
		in = in.Quarantine(closed)
		suspects = f.Untried
		for _, key := range f.Untried {
			closed[key] = struct{}{}
		}
		g.Expect(kernel.check(ruleset.Build(in.Quarantine(closed), ruleset.Options{}).Replacement())).To(Succeed())
		g.Expect(rounds).To(BeNumerically("<=", 40), "each finds something out")
	}
	g.Expect(rounds).To(BeNumerically(">", 1))
	g.Expect(refused).To(ConsistOf(kernel.bad))
}
