package agreement_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

var (
	seed   = flag.Int64("seed", 1, "seed of the first random cluster; each round takes the next")
	rounds = flag.Int("rounds", 12, "random clusters for each way of attaching pods")
	// More for `make fuzz-kernel` than for a test.
	duration = flag.Duration("duration", 0, "go on with new rounds for so long, after those of -rounds")
	changes  = flag.Int("changes", 4, "random changes of each cluster, made one after another")
)

// settle is how long a packet may be on its way. A denied one waits for it
// twice; one that is lost to a busy machine is sent again.
const settle = 60 * time.Millisecond

// open makes a cluster for the test, or skips it.
func open(t *testing.T, attach lab.Attach, o lab.Options) *agreement.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and nftables need root: skipped")
	}
	o.Settle = settle
	c, err := agreement.New(agreement.Options{Attach: attach, Lab: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestThreeWayAgreement: the verdict function, the table's trace and the fate
// of real packets agree, for random clusters and after random changes of them
// that are made by incremental plans; and so do the verdicts and the marks of the
// flows that earlier packets have begun. To see a failure again, with as many
// -changes as it was found with:
//
//	go test ./test/agreement -run TestThreeWayAgreement/bridged -rounds 1 -seed N
func TestThreeWayAgreement(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting for packets that do not come
			c, total, had := open(t, attach, lab.Options{}), counts{}, coverage{}
			next, until := *seed, time.Now().Add(*duration)
			for ; next < *seed+int64(*rounds) || time.Now().Before(until); next++ {
				agree(t, c, attach, next, total, &had)
				if *duration > 0 {
					t.Logf("seed %d: %s", next, total)
				}
			}
			t.Logf("seeds %d to %d: %s", *seed, next-1, total)
			had.report(t)
			if allowed, denied := total[true], total[false]; 10*min(allowed, denied) < allowed+denied {
				t.Errorf("%d allowed and %d denied packets: too few of one kind to tell", allowed, denied)
			}
			for _, p := range protocols {
				if total[p] == 0 && *rounds > 3 {
					t.Errorf("no packet of %s", p)
				}
			}
		})
	}
}

var protocols = []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP, policy.ICMP, policy.ICMPv6, 47}

// counts are numbers of probes: by verdict (bool), protocol, IP version (int)
// and the words for the odd ones.
type counts map[any]int

func (n counts) add(r agreement.Report) {
	for _, result := range r {
		n["probes"]++
		n[result.Judged]++
		n[result.Seen.Protocol]++
		n[result.Seen.Dst.BitLen()]++
		if result.Own {
			n["own"]++
		} else {
			n[result.Hook]++
		}
		if result.Seen.Hairpin {
			n["hairpin"]++
		}
	}
}

func (n counts) String() string {
	text := fmt.Sprintf("%d probes, %d to pass and %d not; IPv4 %d, IPv6 %d; forward %d, input %d, the node's own %d; hairpin %d; plans %d; flows %d;",
		n["probes"], n[true], n[false], n[32], n[128], n[ruleset.Forward], n[ruleset.Input], n["own"], n["hairpin"], n["plans"], n["flows"])
	for _, p := range protocols {
		text += fmt.Sprintf(" %s %d", p, n[p])
	}
	return text
}

// coverage is which features the clusters had that were put in place, and the histories that
// led to them.
type coverage struct{ histories, clusters random.Coverage }

// report says which features came up how often. Of very many cases, all must have.
func (c *coverage) report(t *testing.T) {
	t.Helper()
	for what, of := range map[string]*random.Coverage{"histories": &c.histories, "clusters": &c.clusters} {
		t.Log(of.Table(what))
		if missing := of.Missing(); of.Cases >= 1000 && len(missing) > 0 {
			t.Errorf("none of %d %s had %q", of.Cases, what, missing)
		}
	}
}

// agree is one round: a cluster, put in place whole, then changed.
func agree(t *testing.T, c *agreement.Cluster, attach lab.Attach, seed int64, total counts, had *coverage) {
	t.Helper()
	r := rand.New(rand.NewSource(2*seed + int64(attach))) // other clusters for each way of attaching
	o := ruleset.Options{AllowToNode: r.Intn(2) == 0, Reject: r.Intn(2) == 0, RevokedMark: agreement.RevokedMark}
	// A history has odd pods, and may lack nodes and namespaces; a whole
	// cluster has more that may pass.
	history := random.History(r, 80)
	if r.Intn(2) == 0 {
		history = events(random.Cluster(r, 12, 8))
	}
	told := r.Intn(3) > 0 // of attachments: elsewhere the API's word is all there is
	s := snapshot(history, told)
	had.clusters.Count(random.Features(s))
	defer func() { had.histories.Count(random.HistoryFeatures(history)) }()
	if err := c.Replace(s, o); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if !check(t, c, r, s, fmt.Sprintf("seed %d, options %+v", seed, o), 100, total) {
		return
	}
	for change := range *changes {
		how := ""
		switch r.Intn(8) {
		case 0: // a whole other cluster, by what differs
			history, how = events(random.Cluster(r, 12, 8)), "to another cluster "
		case 1: // what an API server without validation would take
			history, how = append(history, oddPolicies(r)...), "by odd policies "
		default:
			history = append(history, random.History(r, 1+r.Intn(5))...)
		}
		s = snapshot(history, told)
		had.clusters.Count(random.Features(s))
		plan, err := c.Set(s)
		if err != nil {
			t.Fatalf("seed %d, change %d: %v\n%s", seed, change, err, plan.Text())
		}
		if !plan.Empty() {
			total["plans"]++
		}
		when := fmt.Sprintf("seed %d, options %+v, after change %d %sby\n%s", seed, o, change, how, plan.Text())
		flows, wrong, err := c.Revoke(s)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if total["flows"] += flows; len(wrong) > 0 {
			t.Errorf("%s: %d of %d flows disagree:\n%s", when, len(wrong), flows, slices.Clip(wrong[:min(5, len(wrong))]))
			return
		}
		if !check(t, c, r, s, when, 50, total) {
			return
		}
	}
}

// oddPolicies are policies that are valid by their Go types alone, some of them in
// namespaces that have pods.
func oddPolicies(r *rand.Rand) (policies []random.Event) {
	tape := make([]byte, 300)
	r.Read(tape)
	for _, event := range random.Hostile(tape, nil) {
		if np, is := event.Object.(*networkingv1.NetworkPolicy); is {
			if r.Intn(2) == 0 {
				np.Namespace = random.Namespace(r, r.Intn(3)).Name
			}
			policies = append(policies, event)
		}
	}
	return policies
}

// snapshot is a history's end, with its attachments or without.
func snapshot(history []random.Event, told bool) policy.Snapshot {
	s := random.Snapshot(history)
	if !told {
		s.Attachments = nil
	}
	return s
}

func events(s policy.Snapshot) (events []random.Event) {
	add := func(o client.Object) { events = append(events, random.Event{Object: o}) }
	for _, o := range s.Nodes {
		add(o)
	}
	for _, o := range s.Namespaces {
		add(o)
	}
	for _, o := range s.Pods {
		add(o)
	}
	for _, o := range s.Policies {
		add(o)
	}
	return events
}

// check sends packets, and reports where the three disagree about them, on the
// smallest cluster that it finds; it returns false then.
func check(t *testing.T, c *agreement.Cluster, r *rand.Rand, s policy.Snapshot, when string, packets int, total counts) bool {
	t.Helper()
	var cases []agreement.Case
	near := edges(s)
	for range packets {
		p := random.Packet(r, s)
		if p.DstPort > 0 && len(near) > 0 && r.Intn(3) == 0 {
			p.DstPort = near[r.Intn(len(near))]
		}
		cases = append(cases, agreement.Case{Packet: p})
	}
	report, err := c.Check(context.Background(), s, cases)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	total.add(report)
	wrong := report.Disagreements()
	if len(wrong) > 0 {
		t.Errorf("%s: %d of %d packets disagree:\n%s\nThe first of them, on the smallest cluster found:\n%s",
			when, len(wrong), len(report), slices.Clip(wrong[:min(5, len(wrong))]), shrink(t, c, s, c.Options(), wrong[0].Case))
	}
	return len(wrong) == 0
}

// edges are the ports where a policy's ranges begin and end, and those next to
// them.
func edges(s policy.Snapshot) (near []uint16) {
	add := func(ports []networkingv1.NetworkPolicyPort) {
		for _, port := range ports {
			if port.EndPort != nil && port.Port != nil {
				first, last := uint16(port.Port.IntVal), uint16(*port.EndPort)
				near = append(near, first-1, first, last, last+1)
			}
		}
	}
	for _, np := range s.Policies {
		for _, rule := range np.Spec.Ingress {
			add(rule.Ports)
		}
		for _, rule := range np.Spec.Egress {
			add(rule.Ports)
		}
	}
	return near
}
