package plugin_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/cni/handshake"
)

// TestStatusOutlivesTheAgent: once rules have been committed since the node has
// started, its network is ready whether or not an agent answers, or could add a pod;
// before that, it is not, and says why.
func TestStatusOutlivesTheAgent(t *testing.T) {
	for mode, overrides := range map[string]map[string]any{"bridge": {}, "chained": {"mode": "chained", "podCIDRs": nil}} {
		t.Run(mode, func(t *testing.T) {
			n := newNode(t, overrides)
			status := func() error {
				_, err := n.raw("STATUS", nil, n.conf)
				return err
			}
			n.agent.stop()
			if err := status(); code(err) != 50 || !strings.Contains(err.Error(), "since this node has started") ||
				!strings.Contains(err.Error(), "none runs on this node") {
				t.Errorf("nothing was ever committed: code %d, %v", code(err), err)
			}
			// That there was a commit before the node was rebooted says nothing.
			mark := filepath.Join(filepath.Dir(n.agent.socket), "committed")
			if err := os.WriteFile(mark, []byte("another boot\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := status(); code(err) != 50 {
				t.Errorf("committed in another boot: code %d, %v", code(err), err)
			}
			if err := handshake.NoteCommit(n.agent.socket); err != nil {
				t.Fatal(err)
			}
			if err := status(); err != nil {
				t.Errorf("no agent: %v", err)
			}
			// One that hangs is not even asked.
			n.agent.hangs = true
			n.agent.start()
			n.conf["timeout"] = 1
			if err := status(); err != nil {
				t.Errorf("an agent that hangs: %v", err)
			}
		})
	}
}

// TestAddWithoutAgent: an ADD does not wait for an agent that is away, and the first
// one after it is back succeeds. It has an hour to wait.
func TestAddWithoutAgent(t *testing.T) {
	n := newNode(t, map[string]any{"timeout": 3600})
	p := newPod(t, "a")
	for name, away := range map[string]func(){
		"stopped": func() { n.agent.stop() },
		"killed": func() { // its socket stays, and nobody listens
			n.agent.stop()
			l, err := handshake.Listen(n.agent.socket + ".dead")
			if err == nil {
				l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false)
				err = l.Close()
			}
			if err == nil {
				err = os.Rename(n.agent.socket+".dead", n.agent.socket)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		away()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := n.cni.AddNetworkList(ctx, n.list(), p.rt)
		cancel()
		if code(err) != 11 || !strings.Contains(err.Error(), "none runs on this node") || !strings.Contains(err.Error(), n.agent.socket) {
			t.Errorf("%s: code %d, %v", name, code(err), err)
		}
		n.clean(name)
		n.agent.start()
		n.mustAdd(p)
		n.mustDel(p)
	}
}
