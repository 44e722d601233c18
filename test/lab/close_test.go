package lab_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// residue is what a lab could leave behind in the process and the machine.
type residue struct {
	files, goroutines, links, namespaces int
}

func count(t *testing.T) residue {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	// All threads of this process must be back in the machine's namespace.
	namespaces := map[string]bool{}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil {
			namespaces[ns] = true
		}
	}
	return residue{len(files), runtime.NumGoroutine(), len(links), len(namespaces) + len(names(t, ""))}
}

// settled counts until the result is the wanted one: goroutines and threads
// may still be ending.
func settled(t *testing.T, want residue) (got residue) {
	for range 50 {
		if got = count(t); got == want {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return got
}

// steady counts until five counts in a row agree: what earlier tests have
// started may still be ending.
func steady(t *testing.T) (last residue) {
	for same, tries := 0, 0; same < 5 && tries < 100; tries++ {
		now := count(t)
		if now == last {
			same++
		} else {
			same, last = 0, now
		}
		time.Sleep(10 * time.Millisecond)
	}
	return last
}

// names are the named namespaces that start with a prefix.
func names(t *testing.T, prefix string) []string {
	t.Helper()
	found, err := filepath.Glob("/run/netns/" + prefix + "*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCloseLeavesNothing(t *testing.T) {
	for _, options := range []lab.Options{{}, {Prefix: "lab-test-close-"}} {
		// The first lab makes what the runtime keeps: its poller, a thread.
		closing(t, lab.Options{})
		before := steady(t)
		for range 3 {
			closing(t, options)
		}
		if after := settled(t, before); after != before {
			t.Errorf("prefix %q: before %+v, after %+v", options.Prefix, before, after)
		}
	}
}

// closing uses everything that a lab has, and closes it.
func closing(t *testing.T, options lab.Options) {
	t.Helper()
	l := open(t, options)
	n, a, b, _ := pair(t, l, lab.Routed)
	addPod(t, n, "c", lab.Bridged, "10.9.2.2", "fd09:2::2")
	if err := l.Connect(n, addNode(t, l, "other")); err != nil {
		t.Fatal(err)
	}
	server, err := b.Serve(policy.TCP, 80)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Serve(policy.UDP, 80); err != nil {
		t.Fatal(err)
	}
	probe(t, l, []lab.Probe{{From: a, Packet: policy.Packet{Dst: b.IPs[0], Protocol: policy.TCP, DstPort: 80}, Expect: true}})
	if options.Prefix != "" {
		if got := names(t, options.Prefix); len(got) != 6 {
			t.Errorf("names: %v", got)
		}
	}
	if err := n.RemovePod("shop/a"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Do(func() error { return nil }); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("host of a closed lab: %v", err)
	}
	if _, err := l.AddNode("late"); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("node for a closed lab: %v", err)
	}
}

func TestFailedAddLeavesNothing(t *testing.T) {
	const prefix = "lab-test-failed-"
	l := open(t, lab.Options{Prefix: prefix})
	n, _, _, _ := pair(t, l, lab.Routed)
	before := steady(t)
	named := len(names(t, prefix))
	// The next pod's link cannot be made, though its namespace can.
	if err := n.Do(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "veth4"}})
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"link", "10.9.1.8"}, {"shop/a", "10.9.1.9"}, {"taken", "10.9.1.2"}, {"multicast", "224.0.0.1"}} {
		name, addr := c[0], c[1]
		if _, err := n.AddPod(name, lab.PodOptions{IPs: parse([]string{addr})}); err == nil {
			t.Errorf("pod %s with %s: no error", name, addr)
		}
	}
	if after := settled(t, before); after != before || len(names(t, prefix)) != named {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if err := n.Do(func() error {
		links, err := netlink.LinkList()
		if err == nil && len(links) != 5 { // lo, two pods, an external host, a foreign one
			t.Errorf("the node has %d links", len(links))
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestNamesAndLeftovers(t *testing.T) {
	const prefix = "lab-test-names-"
	if _, err := lab.RemoveLeftovers(""); err == nil {
		t.Error("empty prefix: no error")
	}
	l := open(t, lab.Options{Prefix: prefix})
	_, a, _, _ := pair(t, l, lab.Routed)
	if ip, err := exec.LookPath("ip"); err == nil {
		out, err := exec.Command(ip, "netns", "exec", prefix+"shop-a", ip, "-4", "-o", "addr", "show", "eth0").CombinedOutput()
		if err != nil || !strings.Contains(string(out), a.IPs[0].String()+"/32") {
			t.Errorf("ip netns exec: %v: %s", err, out)
		}
	}
	// As if the lab had been killed, and another one started.
	removed, err := lab.RemoveLeftovers(prefix)
	if err != nil || len(removed) != 4 {
		t.Errorf("removed %v: %v", removed, err)
	}
	if left := names(t, prefix); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	again := open(t, lab.Options{Prefix: prefix})
	addNode(t, again, "node")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
