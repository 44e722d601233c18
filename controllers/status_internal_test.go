package controllers

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/cni/handshake"
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
	kernel := &told{}
	o := Options{Node: "node", Log: logr.Discard(), CNI: &CNI{Socket: socket, State: t.TempDir()}}
	e := newEnforcer(kernel, o, newMetrics(prometheus.NewRegistry()), nil)
	a, err := newAttachments(o, e, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
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
	e.Begin()
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
