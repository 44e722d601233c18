package soak

import (
	"sync/atomic"
	"testing"

	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/churn"
	"github.com/podfence/podfence/test/steady"
)

// tally counts packets.
type tally struct{ sent, allowed, wrong int }

// count adds one.
func (n *tally) count(f churn.Fate) {
	n.sent++
	if f.Expect {
		n.allowed++
	}
	if f.Wrong() {
		n.wrong++
	}
}

// judge fails the test for wrong verdicts, and for packets that say little.
func (n tally) judge(t *testing.T) {
	t.Helper()
	t.Logf("%d packets, %d of them to pass; %d wrong verdicts", n.sent, n.allowed, n.wrong)
	if n.wrong > 0 {
		t.Errorf("%d of %d verdicts are wrong", n.wrong, n.sent)
	}
	if 10*min(n.allowed, n.sent-n.allowed) < n.sent {
		t.Errorf("%d of %d packets were to pass: too few of one kind to tell", n.allowed, n.sent)
	}
}

// judgeWrites fails the test if most of what was drawn is no valid object: some is meant not
// to be.
func judgeWrites(t *testing.T, c *churn.Cluster) {
	t.Helper()
	t.Logf("%d writes, and %d that the API server rejected", c.Writes, c.Rejected)
	if 3*c.Rejected > c.Writes {
		t.Errorf("the API server rejected %d objects and took %d", c.Rejected, c.Writes)
	}
}

// newTraffic makes the steady traffic, and reports what goes wrong with it at the
// time at which the agent's log has it.
func newTraffic(t *testing.T, l *agreement.Cluster) *steady.Traffic {
	t.Helper()
	var reported atomic.Int64
	traffic, err := steady.New(l.Lab, func(i steady.Incident) {
		if reported.Add(1) <= reports {
			t.Errorf("%s: %s", i.At.UTC().Format("15:04:05.000"), i.What)
		}
	})
	check.NoError(t, err)
	t.Cleanup(func() { _, _ = traffic.Stop() })
	return traffic
}

// judgeTraffic ends the steady traffic and fails the test if any of it went wrong.
func judgeTraffic(t *testing.T, traffic *steady.Traffic) {
	t.Helper()
	n, err := traffic.Stop()
	check.NoError(t, err)
	t.Logf("steady traffic: %d exchanges on kept connections, %d new connections, %d of both broken; %d packets that must not pass, %d did",
		n.Kept, n.Made, len(n.Breaks)+len(n.Late), n.Denied, len(n.Leaks))
	if len(n.Leaks)+len(n.Breaks)+len(n.Late) > 0 {
		t.Errorf("%d packets have passed that are always denied, and %d exchanges were broken that are always allowed", len(n.Leaks), len(n.Breaks)+len(n.Late))
	}
	if n.Kept == 0 || n.Made == 0 || n.Denied == 0 {
		t.Error("one kind of steady traffic has not been sent")
	}
}
