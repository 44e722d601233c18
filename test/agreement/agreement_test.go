package agreement_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

var (
	seed   = flag.Int64("seed", 1, "seed of the first random cluster; each round takes the next")
	rounds = flag.Int("rounds", 8, "random clusters for each way of attaching pods")
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
	var over atomic.Bool // with -failfast, when one way of attaching pods has failed
	failfast := flag.Lookup("test.failfast").Value.String() == "true"
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged, lab.Guarded} {
		t.Run(attach.String(), func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting for packets that do not come
			c, total, had := open(t, attach, lab.Options{}), newCounts(attach), coverage{}
			if err := c.Mute(); err != nil {
				t.Fatal(err)
			}
			next, until := *seed, time.Now().Add(*duration)
			for ; !over.Load() && (next < *seed+int64(*rounds) || time.Now().Before(until)); next++ {
				agree(t, c, attach, next, total, &had)
				if failfast && t.Failed() {
					over.Store(true)
				}
				if *duration > 0 {
					t.Logf("seed %d: %s", next, total)
				}
			}
			t.Logf("seeds %d to %d: %s; flows that were told: %d denied, %d that would be denied with the staged policies in force", *seed, next-1, total, c.Told, c.ToldStaged)
			if c.Told == 0 && next-*seed >= enough {
				t.Error("no denied flow was told")
			}
			if c.ToldStaged == 0 && next-*seed >= enough {
				t.Error("no flow was told that staged policies would deny")
			}
			had.report(t)
			for what, coverage := range map[string]*random.Coverage{"packets": &total.packets, "rounds": &total.options} {
				t.Log(coverage.Table(what))
				if missing := coverage.Missing(); len(missing) > 0 && next-*seed >= enough {
					t.Errorf("never drawn: %q", missing)
				}
			}
			if allowed, denied := total.allowed, total.denied; 10*min(allowed, denied) < allowed+denied {
				t.Errorf("%d allowed and %d denied packets: too few of one kind to tell", allowed, denied)
			}
		})
	}
}

// enough is after how many rounds every feature must have come up.
const enough = 16

// counts are numbers of what was done, with how often each feature came up.
type counts struct {
	attach                        lab.Attach
	packets, options              random.Coverage
	allowed, denied, plans, flows int
}

func newCounts(attach lab.Attach) *counts { return &counts{attach: attach} }

func (n *counts) add(r agreement.Report) {
	for _, result := range r {
		n.packets.Count(features(result, n.attach))
	}
	allowed, denied := r.Count()
	n.allowed, n.denied = n.allowed+allowed, n.denied+denied
}

func (n *counts) String() string {
	return fmt.Sprintf("%d packets, %d to pass and %d not; plans %d; flows %d", n.packets.Cases, n.allowed, n.denied, n.plans, n.flows)
}

// coverage is which features the clusters had that were put in place, and the histories that
// led to them.
type coverage struct{ histories, clusters random.Coverage }

// report says which features came up how often. Of very many cases, all must have.
func (c *coverage) report(t *testing.T) {
	t.Helper()
	for what, of := range map[string]*random.Coverage{"histories": &c.histories, "clusters": &c.clusters} {
		t.Log(of.Table(what))
		// A round's clusters are much alike.
		if missing := of.Missing(); of.Cases >= 1000 && c.histories.Cases >= 64 && len(missing) > 0 {
			t.Errorf("none of %d %s had %q", of.Cases, what, missing)
		}
	}
}

// agree is one round: a cluster, put in place whole, then changed.
func agree(t *testing.T, c *agreement.Cluster, attach lab.Attach, seed int64, total *counts, had *coverage) {
	t.Helper()
	r := rand.New(rand.NewSource(3*seed + int64(attach))) // other clusters for each way of attaching
	o := drawOptions(seed, attach)
	total.options.Count(optionFeatures(o, attach))
	// A history has odd pods, and may lack nodes and namespaces; a whole
	// cluster has more that may pass.
	history := random.History(r, 80)
	if r.Intn(2) == 0 {
		history = random.Events(random.Cluster(r, 12, 8))
	}
	told := r.Intn(3) > 0 // of attachments: elsewhere the API's word is all there is
	s := snapshot(history, told)
	s.Resolutions = random.Resolutions(r, 12)
	had.clusters.Count(random.Features(s))
	defer func() { had.histories.Count(random.HistoryFeatures(history)) }()
	if err := c.Replace(s, o); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	s.Resolutions = c.Resolutions()
	report, ok := check(t, c, r, s, fmt.Sprintf("seed %d, options %+v", seed, o), 100, total)
	if !ok {
		return
	}
	for change := range *changes {
		how := ""
		switch r.Intn(8) {
		case 0: // a whole other cluster, by what differs
			history, how = random.Events(random.Cluster(r, 12, 8)), "to another cluster "
		case 1: // what an API server without validation would take
			history, how = append(history, oddPolicies(r)...), "by odd policies "
		default:
			history = append(history, random.History(r, 1+r.Intn(5))...)
		}
		s = snapshot(history, told)
		s.Resolutions = append(c.Resolutions(), random.Resolutions(r, 12)...)
		had.clusters.Count(random.Features(s))
		plan, err := c.Set(s)
		if err != nil {
			t.Fatalf("seed %d, change %d: %v\n%s", seed, change, err, plan.Text())
		}
		s.Resolutions = c.Resolutions()
		if !plan.Empty() {
			total.plans++
		}
		when := fmt.Sprintf("seed %d, options %+v, after change %d %sby\n%s", seed, o, change, how, plan.Text())
		if !resume(t, c, s, when, report, total) {
			return
		}
		if report, ok = check(t, c, r, s, when, 50, total); !ok {
			return
		}
	}
}

// resume judges the flows anew that earlier packets have begun, and goes on with them.
func resume(t *testing.T, c *agreement.Cluster, s policy.Snapshot, when string, earlier agreement.Report, total *counts) bool {
	t.Helper()
	if c.Options().RevokedMark != 0 {
		flows, wrong, err := c.Revoke(s)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if total.flows += flows; len(wrong) > 0 {
			t.Errorf("%s: %d of %d flows disagree, after %d packets:\n%s", when, len(wrong), flows, total.packets.Cases, slices.Clip(wrong[:min(5, len(wrong))]))
			return false
		}
	}
	report, err := c.Resume(context.Background(), s, earlier)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	total.add(report)
	wrong := report.Disagreements()
	if len(wrong) > 0 {
		t.Errorf("%s: %d of %d packets of earlier flows disagree, of %d so far:\n%s", when, len(wrong), len(report), total.packets.Cases, slices.Clip(wrong[:min(5, len(wrong))]))
	}
	return len(wrong) == 0
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
		if _, is := event.Object.(*clusterv1beta1.ClusterNetworkPolicy); is {
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

// check sends packets, and reports where the three disagree about them, on the
// smallest cluster that it finds; it returns false then.
func check(t *testing.T, c *agreement.Cluster, r *rand.Rand, s policy.Snapshot, when string, packets int, total *counts) (agreement.Report, bool) {
	t.Helper()
	if err := c.Node.FlushConntrack(); err != nil {
		t.Fatal(err)
	}
	var cases []agreement.Case
	d := &drawer{Rand: r, c: c, s: s, near: edges(s), flows: map[flow]bool{}}
	for range packets {
		if drawn, ok := d.draw(); ok {
			cases = append(cases, drawn)
		}
	}
	report, err := c.Check(context.Background(), s, cases)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	total.add(report)
	wrong := report.Disagreements()
	if len(wrong) > 0 {
		first := wrong[0]
		if first.Begun != nil { // what it follows is sent anew
			first = first.Begun
		}
		t.Errorf("%s: %d of %d packets disagree, of %d so far:\n%s\nThe first of them, on the smallest cluster found:\n%s",
			when, len(wrong), len(report), total.packets.Cases, slices.Clip(wrong[:min(5, len(wrong))]), shrink(t, c, s, c.Options(), first.Case))
	}
	return report, len(wrong) == 0
}

// edges are the ports where a policy's ranges begin and end, and those next to
// them.
func edges(s policy.Snapshot) (near []uint16) {
	around := func(first, last int32) {
		near = append(near, uint16(first-1), uint16(first), uint16(last), uint16(last+1))
	}
	add := func(ports []networkingv1.NetworkPolicyPort) {
		for _, port := range ports {
			if port.EndPort != nil && port.Port != nil {
				around(port.Port.IntVal, *port.EndPort)
			}
		}
	}
	addCluster := func(protocols []clusterv1beta1.ClusterNetworkPolicyProtocol) {
		for _, entry := range protocols {
			if entry.TCP != nil && entry.TCP.DestinationPort != nil && entry.TCP.DestinationPort.Range != nil {
				around(entry.TCP.DestinationPort.Range.Start, entry.TCP.DestinationPort.Range.End)
			}
			if entry.UDP != nil && entry.UDP.DestinationPort != nil && entry.UDP.DestinationPort.Range != nil {
				around(entry.UDP.DestinationPort.Range.Start, entry.UDP.DestinationPort.Range.End)
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
	for _, cnp := range s.ClusterPolicies {
		for _, rule := range cnp.Spec.Ingress {
			addCluster(rule.Protocols)
		}
		for _, rule := range cnp.Spec.Egress {
			addCluster(rule.Protocols)
		}
	}
	return near
}
