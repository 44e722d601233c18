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
// that are made by incremental plans. To see a failure again:
//
//	go test ./test/agreement -run TestThreeWayAgreement/bridged -rounds 1 -seed N
func TestThreeWayAgreement(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting for packets that do not come
			c, total := open(t, attach, lab.Options{}), counts{}
			for round := range *rounds {
				agree(t, c, attach, *seed+int64(round), total)
			}
			t.Logf("seeds %d to %d: %s", *seed, *seed+int64(*rounds)-1, total)
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
	text := fmt.Sprintf("%d probes, %d to pass and %d not; IPv4 %d, IPv6 %d; forward %d, input %d, the node's own %d; hairpin %d; plans %d;",
		n["probes"], n[true], n[false], n[32], n[128], n[ruleset.Forward], n[ruleset.Input], n["own"], n["hairpin"], n["plans"])
	for _, p := range protocols {
		text += fmt.Sprintf(" %s %d", p, n[p])
	}
	return text
}

// agree is one round: a cluster, put in place whole, then changed.
func agree(t *testing.T, c *agreement.Cluster, attach lab.Attach, seed int64, total counts) {
	t.Helper()
	r := rand.New(rand.NewSource(2*seed + int64(attach))) // other clusters for each way of attaching
	o := ruleset.Options{AllowToNode: r.Intn(2) == 0, Reject: r.Intn(2) == 0}
	if seed%2 == 0 {
		o.RevokedMark = 1 << 29 // the agent's default
	}
	// A history has odd pods, and may lack nodes and namespaces; a whole
	// cluster has more that may pass.
	history := random.History(r, 80)
	if r.Intn(2) == 0 {
		history = events(random.Cluster(r, 12, 8))
	}
	s := shown(history)
	if err := c.Replace(s, o); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	check(t, c, r, s, fmt.Sprintf("seed %d, options %+v", seed, o), 100, total)
	for change := range 4 {
		history = append(history, random.History(r, 1+r.Intn(5))...)
		s = shown(history)
		plan, err := c.Set(s)
		if err != nil {
			t.Fatalf("seed %d, change %d: %v\n%s", seed, change, err, plan.Text())
		}
		if !plan.Empty() {
			total["plans"]++
		}
		check(t, c, r, s, fmt.Sprintf("seed %d, options %+v, after change %d by\n%s", seed, o, change, plan.Text()), 50, total)
	}
}

// shown is a history's end as the API shows it. What a CNI plugin says besides
// takes its sandboxes to be tested, in test/connectivity.
func shown(history []random.Event) policy.Snapshot {
	s := random.Snapshot(history)
	s.Attachments = nil
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

func check(t *testing.T, c *agreement.Cluster, r *rand.Rand, s policy.Snapshot, when string, packets int, total counts) {
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
	if wrong := report.Disagreements(); len(wrong) > 0 {
		t.Fatalf("%s: %d of %d packets disagree:\n%s", when, len(wrong), len(report), slices.Clip(wrong[:min(5, len(wrong))]))
	}
}

// edges are the ports where a policy's ranges begin and end, and those next to
// them.
func edges(s policy.Snapshot) (near []uint16) {
	add := func(ports []networkingv1.NetworkPolicyPort) {
		for _, port := range ports {
			if port.EndPort != nil {
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
