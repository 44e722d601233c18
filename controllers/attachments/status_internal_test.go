package attachments

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/onsi/gomega"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/recorder"
)

// TestFirstCommitIsNoted: the CNI plugin learns of the first commit, not earlier, and
// still knows when the agent is away.
func TestFirstCommitIsNoted(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	committed := func() bool {
		is, err := handshake.Committed(socket)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	a := unstarted(t, &recorder.Kernel{}, Options{Socket: socket, State: t.TempDir()})
	e := a.Enforcer
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- a.Start(ctx) }()
	go func() { ended <- e.Start(ctx) }()
	g := gomega.NewWithT(t)
	g.Eventually(func() error {
		return handshake.Call(t.Context(), socket, handshake.Request{Op: handshake.OpStatus})
	}, "1m").Should(gomega.MatchError(handshake.ErrRefused), "it answers, and has committed nothing")
	if committed() {
		t.Error("noted before the first commit")
	}
	e.Feed(policy.Synced())
	g.Eventually(committed, "1m").Should(gomega.BeTrue())
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if !committed() {
		t.Error("forgotten when the agent stopped")
	}
}
