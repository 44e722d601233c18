package chaos

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/churn"
	"github.com/podfence/podfence/test/steady"
)

// soon is how long anything may take that must happen, on a machine that is busy
// with other things, and with the pauses of those who watch the API server.
const soon = 2 * time.Minute

// trial is the world during one test.
type trial struct {
	*world
	t       *testing.T
	traffic *steady.Traffic
	// kubeconfig and relay are the agent's way to the API server.
	kubeconfig []byte
	relay      *agent.Relay
	// agent is the one that runs; nil: none does.
	agent *agent.Agent

	// times, denied to broken are counted besides the traffic.
	outcome
	// repairing are the times in which packets may leak, and exchanges break.
	repairing []span
}

// span is a time.
type span struct{ from, to time.Time }

// newTrial makes the world ready for one test: no table, no agent, and objects as the
// test before has left them.
func newTrial(t *testing.T) *trial {
	t.Helper()
	tr := &trial{world: theWorld(t), t: t}
	tr.kubeconfig = tr.server.Kubeconfig
	check.NoError(t, tr.lab.ResetRuleset())
	var err error
	tr.traffic, err = steady.New(tr.lab.Lab, nil)
	check.NoError(t, err)
	t.Cleanup(func() {
		_, err := tr.traffic.Stop()
		if tr.agent != nil {
			if t.Failed() {
				t.Logf("the agent's log:\n%s", tr.agent.Log())
			}
			err = errors.Join(err, tr.agent.Kill())
		}
		if tr.relay != nil {
			err = errors.Join(err, tr.relay.Close())
		}
		check.NoError(t, err)
	})
	tr.relay, err = agent.NewRelay(tr.lab.Node, tr.server.Kubeconfig)
	check.NoError(t, err)
	return tr
}

// launch starts an agent; awaitReady waits until it enforces.
func (tr *trial) launch() {
	tr.t.Helper()
	var err error
	tr.agent, err = agent.Start(agent.Options{Binary: tr.podfence, Node: tr.lab.Node, Kubeconfig: tr.kubeconfig, Relay: tr.relay})
	check.NoError(tr.t, err)
}

func (tr *trial) awaitReady() {
	tr.t.Helper()
	ctx, cancel := context.WithTimeout(tr.t.Context(), soon)
	defer cancel()
	check.NoError(tr.t, tr.agent.AwaitReady(ctx))
}

// kill and stop end the agent: as a crash does, and as kubelet does.
func (tr *trial) kill() { tr.t.Helper(); tr.ended(tr.agent.Kill()) }
func (tr *trial) stop() { tr.t.Helper(); tr.ended(tr.agent.Stop()) }

func (tr *trial) ended(err error) {
	tr.t.Helper()
	tr.agent = nil
	check.NoError(tr.t, err)
}

// begin starts an agent, and the traffic.
func (tr *trial) begin() {
	tr.t.Helper()
	tr.launch()
	tr.awaitReady()
	check.NoError(tr.t, tr.traffic.Start())
}

// advance lets some traffic pass.
func (tr *trial) advance(n int64) {
	tr.t.Helper()
	ctx, cancel := context.WithTimeout(tr.t.Context(), soon)
	defer cancel()
	check.NoError(tr.t, tr.traffic.Advance(ctx, n))
}

// change makes some changes.
func (tr *trial) change(n int) {
	tr.t.Helper()
	for range n {
		check.NoError(tr.t, tr.cluster.Change())
	}
}

// keepChanging makes changes all the time, until it is told to stop.
func (tr *trial) keepChanging() (stop func()) {
	tr.t.Helper()
	end := make(chan struct{})
	var wait sync.WaitGroup
	var changes int
	wait.Go(func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if err := tr.cluster.Change(); err != nil {
				tr.t.Error(err)
				return
			}
			changes++
		}
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			close(end)
			wait.Wait()
			tr.t.Logf("%d changes", changes)
		})
	}
	tr.t.Cleanup(stop)
	return stop
}

// settled waits until the node enforces what the objects say, and sends packets. It
// returns how long it took to catch up.
func (tr *trial) settled() time.Duration {
	tr.t.Helper()
	begun := time.Now()
	s, _ := tr.inForce()
	took := time.Since(begun)
	tr.enforces(s)
	return took
}

// inForce waits until the kernel's table is what the objects say, to the letter, and
// returns both.
func (tr *trial) inForce() (s policy.Snapshot, table string) {
	tr.t.Helper()
	s = tr.cluster.Snapshot()
	want, err := tr.wanted(s)
	check.NoError(tr.t, err)
	check.Eventually(tr.t, soon, "catching up", func() error {
		have, err := tr.tableOf(tr.lab.Node)
		return errors.Join(err, differ(have, want))
	})
	return s, want
}

// packets are sent to see whether objects are enforced.
const packets = 60

// enforces sends packets, whose fates must be those that the objects mean, and counts
// them.
func (tr *trial) enforces(s policy.Snapshot) {
	tr.t.Helper()
	fates, err := churn.Send(tr.t.Context(), tr.lab, tr.cluster.Rand, s, packets)
	check.NoError(tr.t, err)
	wrong := 0
	for _, f := range fates {
		if f.Wrong() && wrong < 3 {
			wrong++
			tr.t.Error(churn.Describe(s, f))
		}
		switch {
		case f.Expect && f.Wrong():
			tr.broken++
			fallthrough
		case f.Expect:
			tr.allowed++
		case f.Wrong():
			tr.leaked++
			fallthrough
		default:
			tr.denied++
		}
	}
}

// unchanged waits for some traffic, and makes sure that the table and what it means
// are as they were before the fault, whatever has been written since.
func (tr *trial) unchanged(before policy.Snapshot, table string) {
	tr.t.Helper()
	tr.advance(50)
	have, err := tr.tableOf(tr.lab.Node)
	check.NoError(tr.t, err)
	if err := differ(have, table); err != nil {
		tr.t.Errorf("during the fault: %v", err)
	}
	tr.enforces(before)
}

// end ends the traffic and records the fault.
func (tr *trial) end(fault string, times int) {
	tr.t.Helper()
	tr.advance(20)
	counts, err := tr.traffic.Stop()
	check.NoError(tr.t, err)
	tr.times = times
	tr.count(counts)
	record(tr.t, fault, tr.outcome)
}

// count adds the traffic to the outcome.
func (tr *trial) count(counts steady.Counts) {
	tr.t.Helper()
	tr.denied += counts.Denied
	tr.allowed += counts.Kept + counts.Made
	tr.late += int64(len(counts.Late))
	sort := func(incidents []steady.Incident, excused func(span, steady.Incident) bool, after, before *int64) {
		for _, i := range incidents {
			if slices.ContainsFunc(tr.repairing, func(s span) bool { return excused(s, i) }) {
				*before++
			} else if *after++; *after <= 3 {
				tr.t.Errorf("%s: %s", i.At.UTC().Format("15:04:05.000"), i.What)
			}
		}
	}
	sort(counts.Leaks, span.sentIn, &tr.leaked, &tr.leakedBefore)
	sort(counts.Breaks, span.overlaps, &tr.broken, &tr.brokenBefore)
}

// sentIn says whether a packet was sent in that time: what is sent after a repair must
// not pass, however late that is noticed.
func (s span) sentIn(i steady.Incident) bool { return !i.At.Before(s.from) && !i.At.After(s.to) }

// overlaps says whether an exchange was under way in that time.
func (s span) overlaps(i steady.Incident) bool {
	return !i.Until.Before(s.from) && !i.At.After(s.to)
}
