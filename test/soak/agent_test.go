package soak

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
)

// startAgent runs the agent on the node until the test ends, as it is deployed
// but for profiles being served, and waits until it enforces.
func startAgent(t *testing.T, node *lab.Node, kubeconfig []byte) *agent.Agent {
	t.Helper()
	podfence := filepath.Join(t.TempDir(), "podfence")
	check.NoError(t, prebuilt.Podfence(podfence))
	a, err := agent.Start(agent.Options{Binary: podfence, Node: node, Kubeconfig: kubeconfig, Args: []string{"--pprof-address", "127.0.0.1:9480"}})
	check.NoError(t, err)
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
		// The agent gets over errors, but none should be.
		if strings.Contains(a.Log(), "\tERROR\t") {
			t.Error("the agent has logged errors")
		}
		if t.Failed() {
			t.Logf("the agent's log:\n%s", a.Log())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check.NoError(t, a.AwaitReady(ctx))
	return a
}
