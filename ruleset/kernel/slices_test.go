package kernel_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// narrow is a connection whose socket takes no more than some hundred kilobytes.
func (n *namespace) narrow(g *WithT) *kernel.Conn {
	c := n.open()
	g.Expect(c.LimitSendBuffer(70_000)).To(Succeed())
	return c
}

// large is the plan of a table that is larger than a narrow connection takes: as many
// policies as given, each with a set of its own, and a pod that they isolate.
func large(policies int) nft.Plan {
	in := policy.NewModel("here")
	in.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	for i := range 3 {
		in.Apply(policy.SetPod(&policy.Pod{
			Key:    policy.Key{Namespace: "shop", Name: fmt.Sprint("pod-", i)},
			Node:   []string{"here", "there"}[min(i, 1)],
			Labels: policy.LabelsOf(map[string]string{"app": "web"}),
			IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})},
		}))
	}
	for i := range policies {
		in.Apply(policy.SetPolicy(policy.Policy{
			Key: policy.Key{Namespace: "shop", Name: fmt.Sprint("policy-", i)}, Subject: &policy.Selector{Namespace: "shop"},
			Isolates: [2]bool{true, false},
			Rules: [2][]policy.Rule{{{
				Peers: []policy.Selector{{Namespace: "shop", Pods: fmt.Sprintf("app=web,none!=%d", i)}}, AnyPort: true,
			}}},
		}))
	}
	return ruleset.Build(in.Intent(), ruleset.Options{}).Replacement()
}

// TestLargeReplacement replaces tables, larger than a transaction may be, by one another.
// At each moment one is in force that is whole, and nothing else is left.
func TestLargeReplacement(t *testing.T) {
	g := NewWithT(t)
	have := newNamespace(t)
	have.replaceInTurn(g, have.narrow(g), large(1), large(400), large(401), large(1), large(400))
}

// TestMovedReplacement replaces tables that are at other hooks, by one another.
func TestMovedReplacement(t *testing.T) {
	g := NewWithT(t)
	have := newNamespace(t)
	at := func(point nft.HookPoint) nft.Plan {
		plan := fenced()
		plan.Ops = slices.Clone(plan.Ops)
		for i, op := range plan.Ops {
			if chain, is := op.(nft.AddChain); is && chain.Hook != nil {
				chain.Hook = &nft.Hook{Point: point}
				plan.Ops[i] = chain
			}
		}
		return plan
	}
	have.replaceInTurn(g, have.open(), at(nft.Forward), at(nft.Prerouting), at(nft.Postrouting), at(nft.Forward))
}

// replaceInTurn has plans replace one another, and sees whether at each moment a table is
// in force.
func (n *namespace) replaceInTurn(g *WithT, c *kernel.Conn, plans ...nft.Plan) {
	n.t.Helper()
	want := newNamespace(n.t)
	free, look := want.open(), n.open()
	g.Expect(c.Apply(plans[0])).To(Succeed())
	var gaps, stoodBy, tried atomic.Int32
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			names, err := look.InForce(nft.Inet)
			switch {
			case err != nil:
				n.t.Errorf("which tables are in force was not to be had: %v", err)
				return
			case len(names) == 0:
				gaps.Add(1)
			case slices.Contains(names, "podfence-standby"):
				stoodBy.Add(1)
			case slices.Contains(names, "podfence-trial"):
				tried.Add(1)
			}
		}
	}()
	for range 100 {
		for _, plan := range plans[1:] {
			g.Expect(c.Check(plan)).To(Succeed())
			g.Expect(c.Apply(plan)).To(Succeed())
			g.Expect(free.Apply(plan)).To(Succeed())
			g.Expect(n.sorted()).To(Equal(want.sorted()))
		}
		if stoodBy.Load() > 0 {
			break
		}
	}
	close(done)
	<-ended
	g.Expect(gaps.Load()).To(BeZero(), "no moment without a whole table")
	g.Expect(stoodBy.Load()).NotTo(BeZero(), "there is a standby")
	g.Expect(tried.Load()).To(BeZero(), "a trial is never in force")
}

// TestLargeLeft has an agent be killed between two slices of a replacement: what is in
// force stays, and the next replacement clears up.
func TestLargeLeft(t *testing.T) {
	for name, left := range map[string]string{
		"the standby begun":       "add table inet podfence-standby; add set inet podfence-standby s { type ipv4_addr; }",
		"a trial":                 "add table inet podfence-trial; add chain inet podfence-trial c",
		"the table begun":         "delete table inet podfence; add table inet podfence; add set inet podfence peers { type ipv4_addr; }; " + onStandby,
		"the table gone":          "delete table inet podfence; " + onStandby,
		"both in force":           onStandby,
		"the standby not deleted": onStandby,
	} {
		for _, policies := range []int{1, 400} {
			t.Run(fmt.Sprint(name, " ", policies), func(t *testing.T) {
				g := NewWithT(t)
				have, want := newNamespace(t), newNamespace(t)
				g.Expect(have.open().Apply(fenced())).To(Succeed())
				have.nft(left+"\n", "-f", "-")
				plan := large(policies)
				g.Expect(have.narrow(g).Apply(plan)).To(Succeed())
				g.Expect(want.open().Apply(plan)).To(Succeed())
				g.Expect(have.sorted()).To(Equal(want.sorted()))
			})
		}
	}
}

const onStandby = "add table inet podfence-standby; " +
	"add chain inet podfence-standby base { type filter hook forward priority 0; policy drop; }"

// TestLargeUpdate has what is new to a table come before the rest, in slices. What is in
// use must change at once: if that is too large, nothing of it is done.
func TestLargeUpdate(t *testing.T) {
	g := NewWithT(t)
	have, want := newNamespace(t), newNamespace(t)
	c, free := have.narrow(g), want.open()
	update := apply(
		nft.AddSet{Name: "many", Type: nft.Of(nft.IPv4Addr)},
		nft.AddElements{Set: "many", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(10, 50_000)},
		nft.AddChain{Name: "new"},
		nft.SetRules{Chain: "new", Rules: []nft.Rule{{Matches: []nft.Match{lookup("many", nft.SrcAddr4)}, Verdict: nft.Verdict{Action: nft.Accept}}}},
		nft.SetRules{Chain: "base", Rules: []nft.Rule{{Verdict: jump("new")}}},
	)
	for _, c := range []*kernel.Conn{c, free} {
		g.Expect(c.Apply(fenced())).To(Succeed())
		g.Expect(c.Apply(update)).To(Succeed())
	}
	want.addrsOf(g, "set many", 50_000)
	have.addrsOf(g, "set many", 50_000)
	g.Expect(have.sorted()).To(HaveLen(len(want.sorted())))
	before := have.sorted()
	err := c.Apply(apply(nft.AddElements{Set: "many", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(60_000, 50_000)}))
	g.Expect(err).To(MatchError(unix.EMSGSIZE))
	g.Expect(have.sorted()).To(Equal(before))
	var refusal *nft.Refusal
	g.Expect(err).NotTo(BeAssignableToTypeOf(refusal), "a replacement can do it")
}

// TestLargeRefused names the operation of a plan in slices that the kernel refuses,
// whether it is applied or checked, and leaves what was in force.
func TestLargeRefused(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.narrow(g)
	g.Expect(c.Apply(fenced())).To(Succeed())
	before := n.list()
	good := large(400)
	for _, bad := range []nft.Op{
		nft.DeleteSet{Name: "none"}, // met
		nft.SetRules{Chain: "ingress-0", Rules: []nft.Rule{{Verdict: jump("nowhere")}}},
	} {
		plan := good
		plan.Ops = slices.Concat(good.Ops, []nft.Op{nft.AddChain{Name: "ingress-0"}, bad})
		for _, err := range []error{c.Check(plan), c.Apply(plan)} {
			var refusal *nft.Refusal
			g.Expect(err).To(BeAssignableToTypeOf(refusal))
			g.Expect(err.(*nft.Refusal).Op).To(Equal(len(plan.Ops) - 1))
			g.Expect(n.list()).To(Equal(before))
		}
	}
}
