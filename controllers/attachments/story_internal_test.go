package attachments

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
)

// The log has a line for each pod that was attached or removed, and none for an ADD that
// came to nothing or a DEL of what was gone.
func TestLogNamesPodsThatComeAndGo(t *testing.T) {
	a, _ := answering(t, t.TempDir(), nil)
	var lines []string
	a.Log = funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
	a.Enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.Handle(short, add("c0", "stranger", "uid-0", "10.244.1.6")); err == nil {
		t.Fatal("a pod that nobody knows was attached")
	}
	gone := handshake.Request{Op: handshake.OpDel, ContainerID: "c1", IfName: "eth0"}
	for _, request := range []handshake.Request{add("c1", "web", "uid-1", "10.244.1.7"), gone, gone, {Op: handshake.OpGC, Attachments: []handshake.Attachment{}}} {
		if err := a.Handle(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	if len(lines) != 2 || !strings.Contains(lines[0], "Attached") || !strings.Contains(lines[1], "Removed") {
		t.Fatalf("it says %q", lines)
	}
	for _, line := range lines {
		if !strings.Contains(line, "shop/web") || !strings.Contains(line, "10.244.1.7") {
			t.Errorf("it does not say which: %s", line)
		}
	}
}
