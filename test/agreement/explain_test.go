package agreement_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// explained is how many questions TestExplanationsCount asks with real packets.
const explained = 500

// TestExplanationsCount asks why packets pass, or do not, and sends them: their fate is what was said, and
// the counter that moves in the kernel is that of a rule which the explanation names.
func TestExplanationsCount(t *testing.T) {
	t.Parallel() // most of the time is spent waiting for packets that do not come
	c := open(t, lab.Routed, lab.Options{})
	if err := c.Mute(); err != nil {
		t.Fatal(err)
	}
	asked, byRule, byDefault := 0, 0, 0
	for s := *seed; asked < explained; s++ {
		r := rand.New(rand.NewSource(s))
		cluster := random.Cluster(r, 12, 8)
		cluster.Attachments, cluster.LastPodCIDRs = nil, nil
		cluster.Resolutions = random.Resolutions(r, 12)
		if err := c.Replace(cluster, ruleset.Options{LongRun: 1 << 20}); err != nil {
			t.Fatalf("seed %d: %v", s, err)
		}
		view := cluster
		view.Node = ""
		x := explain.New(&explain.Cluster{Snapshot: view}, policy.JudgeOptions{})
		for range 80 {
			p := random.Packet(r, cluster)
			p.HopLimit = 64
			node := policy.Judge(cluster, p, policy.JudgeOptions{}) // who may know better whose an address is
			hook, seen := random.Hook(cluster, p)
			if !seen || hook != nft.Forward || p.Protocol != policy.TCP && p.Protocol != policy.UDP || p.DstPort == 0 || p.Hairpin || p.Extended || p.HopByHop ||
				!p.Src.IsGlobalUnicast() || !p.Dst.IsGlobalUnicast() || node.String() != policy.Judge(view, p, policy.JudgeOptions{}).String() {
				continue
			}
			e, err := x.Explain(explain.Question{
				From: explain.Target{Kind: explain.KindAddress, Address: p.Src}, To: explain.Target{Kind: explain.KindAddress, Address: p.Dst},
				Port: explain.Port{Protocol: p.Protocol, Number: p.DstPort},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Node.FlushConntrack(); err != nil {
				t.Fatal(err)
			}
			before := counters(t, c)
			report, err := c.Check(context.Background(), cluster, agreement.Cases([]policy.Packet{p}))
			if err != nil {
				t.Fatal(err)
			}
			if len(report) != 1 || report[0].Refused != "" || report[0].Own {
				continue
			}
			asked++
			moved := counters(t, c)
			for rule, n := range before {
				if moved[rule] == n {
					delete(moved, rule)
				}
			}
			a := e.Answers[0]
			if passes := passesHere(a.Egress) && passesHere(a.Ingress); passes != report[0].Probe.Arrived {
				t.Fatalf("seed %d: %s: explained as %+v, and the packet arrived: %t\n%s", s, p, a, report[0].Probe.Arrived, report)
			}
			sides := []explain.Side{a.Egress, a.Ingress}
			if !passesHere(a.Egress) {
				sides = sides[:1] // its ingress is not asked any more
			}
			for i, side := range sides {
				d := []policy.Direction{policy.Egress, policy.Ingress}[i]
				want := countersOf(side, d)
				if side.EnforcedAt != random.Node || len(want) == 0 {
					continue
				}
				if !slices.ContainsFunc(want, func(w string) bool {
					for rule, n := range moved {
						if n > 0 && strings.HasPrefix(rule, d.String()) && strings.Contains(rule, w) {
							return true
						}
					}
					return false
				}) {
					t.Fatalf("seed %d: %s: %s explained as %+v: want the counter of one of %q, moved have %v\n%s", s, p, d, side, want, moved, chainsOf(t, c, moved))
				}
				if len(side.Rules) > 0 {
					byRule++
				} else {
					byDefault++
				}
			}
		}
	}
	t.Logf("%d questions with real packets: %d sides decided by a rule that has counted, %d by a pod's default", asked, byRule, byDefault)
	if byRule < explained/20 || byDefault < explained/20 {
		t.Error("too few were decided by a rule, or by a default")
	}
}

// passesHere reports whether the node lets pass what a side is about.
func passesHere(s explain.Side) bool {
	return s.Verdict == explain.Allowed || s.EnforcedAt != random.Node && s.EnforcedAt != ""
}

// countersOf are texts of which one is in the name of each counter that may have counted for a side.
func countersOf(s explain.Side, d policy.Direction) (want []string) {
	for _, r := range s.Rules {
		var index int
		if _, err := fmt.Sscanf(r.Path, "spec."+d.String()+"[%d]", &index); err != nil {
			panic(r.Path)
		}
		if r.Policy.Namespace == "" {
			want = append(want, fmt.Sprintf("%s[%d] of %s", d, index, r.Policy.Name), fmt.Sprintf("%s of %s", d, r.Policy.Name))
			continue
		}
		want = append(want, fmt.Sprintf("-%s/%s %s[%d]", r.Policy.Namespace, r.Policy.Name, d, index))
	}
	if len(s.Rules) == 0 && s.Verdict == explain.Denied && len(s.Policies) > 0 {
		want = append(want, "drop")
	}
	return want
}

// counters are the packets that each rule of the node's table has counted, by direction, chain, comment
// and verdict, as nft lists them.
func counters(t *testing.T, c *agreement.Cluster) map[string]int {
	t.Helper()
	out, err := c.Run(&c.Node.Host, "", "nft", "-j", "list", "table", "inet", "podfence")
	if err != nil {
		t.Fatal(err)
	}
	var listed struct {
		Nftables []struct {
			Rule *struct {
				Chain, Comment string
				Expr           []map[string]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &listed); err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	for _, one := range listed.Nftables {
		if one.Rule == nil {
			continue
		}
		verdict, packets := "", -1
		for _, e := range one.Rule.Expr {
			if counter, has := e["counter"]; has {
				var n struct{ Packets int }
				if err := json.Unmarshal(counter, &n); err != nil {
					t.Fatal(err)
				}
				packets = n.Packets
			}
			if _, drops := e["drop"]; drops {
				verdict = "drop"
			}
		}
		if packets < 0 {
			continue
		}
		direction := "ingress"
		if strings.Contains(one.Rule.Chain, "egress") {
			direction = "egress"
		}
		for _, comment := range each(one.Rule.Comment) {
			all[fmt.Sprintf("%s %s %s %s", direction, one.Rule.Chain, comment, verdict)] += packets
		}
	}
	return all
}

// each is, of a comment that names several rules, such as "ingress[0,2-4]", one for each of them.
func each(comment string) (comments []string) {
	before, indexes, several := strings.Cut(comment, "[")
	indexes, after, closed := strings.Cut(indexes, "]")
	if !several || !closed {
		return []string{comment}
	}
	for part := range strings.SplitSeq(indexes, ",") {
		first, last, run := strings.Cut(part, "-")
		if !run {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, alsoErr := strconv.Atoi(last)
		if err != nil || alsoErr != nil {
			panic(comment)
		}
		for i := from; i <= to; i++ {
			comments = append(comments, fmt.Sprintf("%s[%d]%s", before, i, after))
		}
	}
	return comments
}

// chainsOf lists the chains whose counters have moved.
func chainsOf(t *testing.T, c *agreement.Cluster, moved map[string]int) string {
	t.Helper()
	var texts []string
	for rule := range moved {
		if chain := strings.Fields(rule)[1]; strings.Contains(chain, "/") {
			out, err := c.Run(&c.Node.Host, "", "nft", "list", "chain", "inet", "podfence", chain)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, out)
		}
	}
	return strings.Join(texts, "\n")
}
