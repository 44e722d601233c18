package plugin_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/cni/handshake"
)

// stepsOf returns the steps that a command takes.
func stepsOf(n *node, command func()) []string {
	n.t.Helper()
	path := filepath.Join(n.t.TempDir(), "steps")
	n.bin, n.env = brokenDir, []string{asPlugin + "=1", stepsFile + "=" + path}
	command()
	n.repair()
	text, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// repairs are what may follow when the plugin was killed; after each of them
// nothing must be left.
var repairs = []struct {
	name string
	do   func(n *node, p *pod)
}{
	{"DEL", func(n *node, p *pod) { n.mustDel(p) }},
	{"DEL without namespace", func(n *node, p *pod) {
		p.close()
		n.mustDel(p)
	}},
	{"GC", func(n *node, _ *pod) {
		if err := n.gc(); err != nil {
			n.t.Errorf("GC: %v", err)
		}
	}},
	{"ADD again", func(n *node, p *pod) {
		n.mustAdd(p)
		for _, ip := range p.ips {
			p.serve(ip, 80)
			n.reaches(ip)
		}
		if err := n.check(p); err != nil {
			n.t.Errorf("CHECK: %v", err)
		}
		if left := n.traces(); len(left) != 1+3*len(p.ips)+1 {
			n.t.Errorf("ADD has made %v", left)
		}
		n.mustDel(p)
	}},
	{"ADD again in a new namespace", func(n *node, p *pod) {
		again := newPod(n.t, strings.TrimPrefix(p.rt.ContainerID, "c-"))
		n.mustAdd(again)
		for _, ip := range again.ips {
			again.serve(ip, 80)
			n.reaches(ip)
		}
		n.mustDel(again)
	}},
}

// TestKilledAdd kills ADD after each of its steps.
func TestKilledAdd(t *testing.T) {
	n := newNode(t, nil)
	first := newPod(t, "first")
	steps := stepsOf(n, func() { n.mustAdd(first) })
	n.mustDel(first)
	if len(steps) != 10 || steps[0] != "add leases" || steps[9] != "add up" {
		t.Fatalf("steps %q", steps)
	}
	for _, step := range steps {
		for _, r := range repairs {
			p := newPod(t, "victim")
			n.broken(step)
			if _, err := n.add(p); err == nil {
				t.Errorf("killed after %s: ADD succeeded", step)
			}
			n.repair()
			if len(n.traces()) == 0 {
				t.Errorf("killed after %s: no traces, the test is blind", step)
			}
			if slices.Index(steps, step) < slices.Index(steps, "add port") && passes(n, p) {
				t.Errorf("killed after %s: the pod can send", step)
			}
			r.do(n, p)
			n.clean("ADD killed after " + step + ", then " + r.name)
		}
	}
}

// passes says whether the pod's link works.
func passes(n *node, p *pod) (works bool) {
	n.must(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			works = works || strings.HasPrefix(l.Attrs().Name, "pf") && (l.Attrs().MasterIndex > 0 || l.Attrs().OperState == netlink.OperUp)
		}
		return err
	})
	return works
}

// TestKilledUndo kills an ADD that the agent refuses while it undoes itself.
func TestKilledUndo(t *testing.T) {
	n := newNode(t, nil)
	refuse := func(context.Context, handshake.Request) error { return errors.New("no") }
	for _, step := range []string{"undo link", "undo host", "undo agent", "undo leases"} {
		for _, r := range repairs {
			p := newPod(t, "victim")
			n.agent.setAnswer(refuse)
			n.broken(step)
			if _, err := n.add(p); err == nil || code(err) == 11 {
				t.Errorf("killed after %s: ADD %v", step, err)
			}
			n.repair()
			n.agent.setAnswer(nil)
			r.do(n, p)
			n.clean("ADD killed after " + step + ", then " + r.name)
		}
	}
}

// TestKilledDel kills DEL after each of its steps.
func TestKilledDel(t *testing.T) {
	n := newNode(t, nil)
	first := newPod(t, "first")
	n.mustAdd(first)
	steps := stepsOf(n, func() { n.mustDel(first) })
	if want := []string{"del link", "del host", "del agent", "del leases"}; !slices.Equal(steps, want) {
		t.Fatalf("steps %q", steps)
	}
	for _, step := range steps {
		for _, r := range repairs {
			p := newPod(t, "victim")
			n.mustAdd(p)
			n.broken(step)
			if err := n.del(p); err == nil {
				t.Errorf("killed after %s: DEL succeeded", step)
			}
			n.repair()
			r.do(n, p)
			n.clean("DEL killed after " + step + ", then " + r.name)
		}
	}
}

// TestKilledGC kills GC after each of its steps; the next one finishes.
func TestKilledGC(t *testing.T) {
	n := newNode(t, nil)
	var steps []string
	collect := func() {
		if err := n.gc(); err != nil {
			t.Errorf("GC: %v", err)
		}
	}
	steps = stepsOf(n, collect)
	if len(steps) != 4 {
		t.Fatalf("steps %q", steps)
	}
	for _, step := range steps {
		n.mustAdd(newPod(t, "a"))
		n.mustAdd(newPod(t, "b"))
		n.broken(step)
		if err := n.gc(); err == nil {
			t.Errorf("killed after %s: GC succeeded", step)
		}
		n.repair()
		collect()
		n.clean("GC killed after " + step + ", then GC")
	}
}

// TestTornLease has what a kill in the middle of host-local's writing leaves.
func TestTornLease(t *testing.T) {
	n := newNode(t, map[string]any{"podCIDRs": []string{"10.244.1.0/30"}})
	p := newPod(t, "a")
	n.mustAdd(p)
	n.mustDel(p)
	path := filepath.Join(n.conf["dataDir"].(string), "pods", "10.244.1.2")
	for _, text := range []string{"", "c-b", "c-b\r\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n.mustAdd(p)
		n.mustDel(p)
		n.clean("after DEL")
	}
}
