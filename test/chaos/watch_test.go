package chaos

import (
	"testing"
	"time"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/check"
)

// TestWatchFaults has watches fail in the ways that the API allows, while objects
// come, change and go: nothing may be lost, and no deletion be missed.
func TestWatchFaults(t *testing.T) {
	for _, fault := range []struct {
		what string
		make func(*trial, *meddler)
		made func(meddled) bool
	}{
		{"watches end with 410 Gone, objects vanished meanwhile: all is listed anew", func(tr *trial, m *meddler) {
			m.deafen()
			check.NoError(tr.t, tr.cluster.Vanish(5))
			tr.change(20)
			tr.advance(50)
			m.hear()
			m.forget()
			m.end(gone)
		}, func(m meddled) bool { return m.kept > 0 && m.expired > 0 }},
		{"watches get bookmarks only, then end: they go on from there", func(tr *trial, m *meddler) {
			m.deafen()
			tr.change(20)
			check.NoError(tr.t, tr.cluster.Vanish(2))
			tr.advance(50)
			m.hear()
			m.end(quietly)
		}, func(m meddled) bool { return m.kept > 0 }},
		{"connections of watches cut in the middle of an event", func(tr *trial, m *meddler) {
			m.end(torn)
			tr.change(10)
			check.NoError(tr.t, tr.cluster.Vanish(2))
			tr.change(10)
		}, func(m meddled) bool { return m.torn > 0 }},
	} {
		t.Run(fault.what, func(t *testing.T) {
			tr := newTrial(t)
			m := newMeddler(t, tr.server.Config)
			check.NoError(t, tr.relay.Close())
			var err error
			tr.relay, err = agent.NewRelay(tr.lab.Node, m.kubeconfig)
			check.NoError(t, err)
			tr.kubeconfig = m.kubeconfig
			tr.begin()
			n := timesSlow(10)
			var repairs []time.Duration
			for range n {
				tr.inForce()
				fault.make(tr, m)
				repairs = append(repairs, tr.settled())
			}
			if done := m.done(); !fault.made(done) {
				t.Errorf("the fault was not made: %+v", done)
			}
			tr.repairedIn(repairs)
			tr.end(fault.what, n)
		})
	}
}
