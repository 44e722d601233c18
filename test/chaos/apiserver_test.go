package chaos

import (
	"testing"
	"time"

	"github.com/podfence/podfence/test/check"
)

// TestAPIServerAwayAtStart starts an agent that reaches no API server: the rules of
// the one before stay in force.
func TestAPIServerAwayAtStart(t *testing.T) {
	tr := newTrial(t)
	tr.begin()
	n := timesSlow(5)
	var repairs []time.Duration
	for range n {
		before, table := tr.inForce()
		tr.kill()
		tr.relay.Refuse()
		tr.change(20)
		tr.launch()
		tr.unchanged(before, table)
		if *full {
			time.Sleep(5 * time.Second)
			tr.unchanged(before, table)
		}
		if tr.agent.Ready(t.Context()) {
			t.Error("the agent is ready, and knows nothing of the cluster")
		}
		check.NoError(t, tr.relay.Heal())
		repairs = append(repairs, tr.settled())
		tr.awaitReady()
	}
	tr.repairedIn(repairs)
	tr.end("API server away while the agent starts, objects changed meanwhile", n)
}

// TestAPIServerAway cuts an agent off that is at work.
func TestAPIServerAway(t *testing.T) {
	for _, way := range []struct {
		what      string
		cut, heal func(*trial)
		full      bool // takes long
	}{
		{what: "connections refused", cut: func(tr *trial) { tr.relay.Refuse() }, heal: (*trial).heal},
		{what: "packets lost", cut: func(tr *trial) { tr.relay.Silence() }, heal: (*trial).heal},
		{what: "open connections silent for ever", cut: func(tr *trial) { tr.relay.Silence() }, heal: func(tr *trial) { tr.relay.Forsake() }, full: true},
	} {
		t.Run(way.what, func(t *testing.T) {
			if way.full && !*full {
				t.Skip("skipped: it takes a minute each time until the agent gives such a connection up; with -chaos it is done")
			}
			tr := newTrial(t)
			tr.begin()
			n := timesSlow(3) // client-go asks less often after each
			if way.full {
				n = 1
			}
			var repairs []time.Duration
			for range n {
				before, table := tr.inForce()
				way.cut(tr)
				tr.change(20)
				tr.unchanged(before, table)
				if *full {
					time.Sleep(2 * time.Second)
					tr.unchanged(before, table)
				}
				way.heal(tr)
				repairs = append(repairs, tr.settled())
			}
			tr.repairedIn(repairs)
			tr.end("API server away from an agent at work, "+way.what+"; objects changed meanwhile", n)
		})
	}
}

func (tr *trial) heal() {
	tr.t.Helper()
	check.NoError(tr.t, tr.relay.Heal())
}

// TestAPIServerRestarted kills it and starts it again beside etcd, which goes on.
func TestAPIServerRestarted(t *testing.T) {
	tr := newTrial(t)
	tr.begin()
	n := timesSlow(5)
	var repairs []time.Duration
	for range n {
		before, table := tr.inForce()
		check.NoError(t, tr.server.Kill())
		tr.unchanged(before, table)
		check.NoError(t, tr.server.Resume())
		tr.change(20)
		repairs = append(repairs, tr.settled())
	}
	tr.repairedIn(repairs)
	tr.end("API server killed and started again beside its etcd, objects changed as soon as it is back", n)
}
