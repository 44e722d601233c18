package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/test/check"
)

// TestAgentKilled kills the agent before its first commit, after that, and at any moment,
// and starts the next one at once.
func TestAgentKilled(t *testing.T) {
	tr := newTrial(t)
	tr.begin()
	stop := tr.keepChanging()
	n, committed := times(99), 0
	for i := range n {
		switch i % 3 {
		case 0:
			tr.awaitReady()
			time.Sleep(rand.N(300 * time.Millisecond))
		case 1: // the process has hardly begun
		case 2:
			time.Sleep(rand.N(time.Second))
		}
		agent := tr.agent
		tr.kill()
		if strings.Contains(agent.Log(), "Replaced the table") {
			committed++
		}
		tr.launch()
	}
	stop()
	tr.awaitReady()
	took := tr.settled()
	t.Logf("%d of %d agents had committed when they were killed; the last caught up in %s", committed, n, took)
	if committed == 0 || committed == n {
		t.Error("agents must be killed before their first commit, and after it")
	}
	tr.end("agent killed (SIGKILL) before its first commit, after it, or at any moment; started at once", n)
}

// TestAgentStopped ends the agent as a rolling update does.
func TestAgentStopped(t *testing.T) {
	tr := newTrial(t)
	tr.begin()
	stop := tr.keepChanging()
	n := times(50)
	for range n {
		tr.awaitReady()
		time.Sleep(rand.N(300 * time.Millisecond))
		tr.stop()
		tr.launch()
	}
	stop()
	tr.awaitReady()
	tr.settled()
	tr.end("agent stopped (SIGTERM) and started", n)
}

// TestAgentDown has no agent for a while, in which flows follow the rules of before.
func TestAgentDown(t *testing.T) {
	tr := newTrial(t)
	tr.begin()
	n := timesSlow(5)
	var repairs []time.Duration
	for range n {
		before, table := tr.inForce()
		tr.kill()
		tr.change(20)
		tr.unchanged(before, table)
		if *full {
			time.Sleep(5 * time.Second)
			tr.unchanged(before, table)
		}
		tr.launch()
		repairs = append(repairs, tr.settled())
	}
	tr.repairedIn(repairs)
	tr.end("agent away for seconds, objects changed meanwhile", n)
}

// TestAgentFrozen lets the agent's process stand still, as a machine does that is
// suspended, or has no time for it: afterwards its clock has jumped.
func TestAgentFrozen(t *testing.T) {
	tr := newTrial(t)
	tr.begin()
	frozen := time.Second / 2
	if *full {
		frozen = 5 * time.Second
	}
	n := timesSlow(5)
	var repairs []time.Duration
	for range n {
		before, table := tr.inForce()
		check.NoError(t, tr.agent.Freeze())
		tr.change(20)
		time.Sleep(frozen)
		tr.unchanged(before, table)
		check.NoError(t, tr.agent.Thaw())
		repairs = append(repairs, tr.settled())
	}
	tr.repairedIn(repairs)
	tr.end(fmt.Sprintf("agent frozen for %s (SIGSTOP, SIGCONT), objects changed meanwhile", frozen), n)
}
