package soak

import (
	"flag"
	"math/rand"
	"testing"
	"time"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/apiserver"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/churn"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/steady"
)

var (
	soak = flag.Duration("soak", 15*time.Second, "how long pods, namespaces and policies keep changing")
	seed = flag.Int64("seed", 1, "seed of all changes and packets")
)

const (
	// settling is the time between the API server's last answer and the first
	// packet of which a wrong verdict counts. docs/benchmarks.md has the measured
	// time: below 10 ms at the 99th percentile, and below 150 ms while other
	// things took the whole machine. The rest is for a slower one.
	settling = time.Second
	// patience is how long the agent may take to say how it is.
	patience = 10 * time.Second
	// packets are sent after each burst of changes.
	packets = 60
	// reports is how many wrong verdicts are described in full.
	reports = 3
	// rows is about how many samples are taken.
	rows = 60
)

func TestSoak(t *testing.T) {
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l, err := churn.NewLab()
	check.NoError(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	api, _, kubeconfig := apiserver.Start(t)
	c, err := churn.NewCluster(t.Context(), api, rand.New(rand.NewSource(*seed)))
	check.NoError(t, err)
	check.NoError(t, c.Fix(steady.Objects()))
	check.NoError(t, steady.AddPods(l.Node))
	traffic := newTraffic(t, l)
	a := startAgent(t, l.Node, kubeconfig)

	time.Sleep(settling)
	before := tableOf(t, l, a)
	check.NoError(t, traffic.Start())
	t.Logf("seed %d, %s", *seed, *soak)
	judgeGrowth(t, change(t, l, c, a))

	check.NoError(t, c.Clear())
	time.Sleep(settling)
	if after := tableOf(t, l, a); after != before {
		t.Errorf("with everything deleted, the table is\n%+v\nand was at the start\n%+v", after, before)
	}
	judgeTraffic(t, traffic)
}

// change changes the cluster in bursts and sends packets after each, for as long
// as the flag says. It returns the samples that it takes meanwhile.
func change(t *testing.T, l *agreement.Cluster, c *churn.Cluster, a *agent.Agent) []sample {
	t.Helper()
	var samples []sample
	var now sample
	t.Log(header)
	for begun := time.Now(); now.at < *soak; {
		now.bursts++
		changes := 1 << c.Rand.Intn(7)
		if now.bursts == 1 {
			changes = 4 * churn.Pods // for a start
		}
		for range changes {
			check.NoError(t, c.Change())
		}
		time.Sleep(settling)
		s := c.Snapshot()
		fates, err := churn.Send(t.Context(), l, c.Rand, s, packets)
		check.NoError(t, err)
		for _, f := range fates {
			now.count(f)
			if f.Wrong() && now.wrong <= reports {
				t.Errorf("seed %d, burst %d: %s", *seed, now.bursts, churn.Describe(s, f))
			}
		}
		now.at = time.Since(begun)
		if now.at >= *soak*time.Duration(len(samples))/rows {
			now.pods, now.policies = len(s.Pods), len(s.Policies)
			now.measure(t, a)
			samples = append(samples, now)
			t.Log(now)
		}
	}
	judgeWrites(t, c)
	now.tally.judge(t)
	return samples
}

// table is what the agent's table consists of: by its own count, and as the
// kernel lists it, see churn.Listing.
type table struct {
	elements, objects float64
	listing           string
}

// tableOf looks at the agent's table.
func tableOf(t *testing.T, l *agreement.Cluster, a *agent.Agent) table {
	t.Helper()
	values, err := a.Metrics(t.Context())
	check.NoError(t, err)
	listing, err := churn.Listing(l, l.Node)
	check.NoError(t, err)
	return table{elements: values["podfence_table_elements"], objects: values["podfence_table_objects"], listing: listing}
}
