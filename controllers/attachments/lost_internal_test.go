package attachments

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
)

// containers are those that the attachments know, in order.
func (a *Server) containers() (ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at := range a.known {
		ids = append(ids, at.ContainerID)
	}
	slices.Sort(ids)
	return ids
}

// TestLostAttachmentsEnd: an attachment whose link is gone ends as by its DEL, in both
// tables and on disk; what may have come while the links were listed does not.
func TestLostAttachmentsEnd(t *testing.T) {
	state := t.TempDir()
	a, kernel := answering(t, state, nil)
	a.Enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	attach := func(container, ip, link string) {
		t.Helper()
		r := add(container, "web", "uid-1", ip)
		r.HostInterface = link
		if err := a.Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	attach("lost", "10.244.1.7", "pflost")
	attach("there", "10.244.1.8", "pfthere")
	attach("untold", "10.244.1.9", "")
	attach("anew", "10.244.1.10", "pfanew")
	a.Links = func([]string) (map[string]bool, error) { return nil, errors.New("interrupted") }
	if err := a.endLost(); err == nil || len(a.containers()) != 4 {
		t.Errorf("without a listing: %v, %v are left", err, a.containers())
	}
	a.Links = func(names []string) (map[string]bool, error) {
		if asked := slices.Sorted(slices.Values(names)); !slices.Equal(asked, []string{"pfanew", "pflost", "pfthere"}) {
			t.Errorf("asked for %v", asked)
		}
		attach("new", "10.244.1.11", "pfnew")
		attach("anew", "10.244.1.10", "pfanew")
		return map[string]bool{"pfthere": true}, nil
	}
	if err := a.endLost(); err != nil {
		t.Fatal(err)
	}
	if left := a.containers(); !slices.Equal(left, []string{"anew", "new", "there", "untold"}) {
		t.Errorf("%v are left", left)
	}
	if err := a.Enforcer.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !kernel.Holds("delete element inet podfence ingress-pods-4 { 10.244.1.7") || !kernel.Holds("delete element bridge podfence") {
		t.Errorf("the address still passes:\n%s", texts(kernel))
	}
	if _, err := os.Stat(filepath.Join(state, "lost.eth0.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of the lost attachment: %v", err)
	}
	// Its DEL may come after all.
	if err := a.Handle(t.Context(), handshake.Request{Op: handshake.OpDel, ContainerID: "lost", IfName: "eth0"}); err != nil {
		t.Error(err)
	}
}

// TestAttachmentsEndWithTheBoot: a folder that outlives one is not believed.
func TestAttachmentsEndWithTheBoot(t *testing.T) {
	state := t.TempDir()
	first, _ := answering(t, state, nil)
	first.Enforcer.Feed(policy.SetPod(known("web", "uid-1")))
	if err := first.Handle(t.Context(), add("c1", "web", "uid-1", "10.244.1.7")); err != nil {
		t.Fatal(err)
	}
	boot := state + ".boot"
	if err := os.Remove(boot); err != nil {
		t.Fatal(err)
	}
	if again, _ := answering(t, state, nil); len(again.containers()) != 1 {
		t.Errorf("of an older podfence, %v survived", again.containers())
	}
	if again, _ := answering(t, state, nil); len(again.containers()) != 1 {
		t.Errorf("in the same boot, %v survived", again.containers())
	}
	if err := os.WriteFile(boot, []byte("8c7e2d5a-0000-4000-8000-000000000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if after, _ := answering(t, state, nil); len(after.containers()) != 0 {
		t.Errorf("after a boot, %v survived", after.containers())
	}
}
