//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// remadeNode is node2 with pods, some of which nothing may reach or come from, under
// watch.
func remadeNode(t *testing.T) *watch {
	t.Helper()
	closed, open := newNamespace(t), newNamespace(t)
	apply(t, denyAll(closed))
	var pods []*corev1.Pod
	const each = 5
	for i := range each {
		pods = append(pods, newPod(closed, fmt.Sprintf("denied-%d", i), on("node2")))
	}
	for i := range each {
		pods = append(pods, newPod(open, fmt.Sprintf("open-%d", i), on("node2")))
	}
	pods = start(t, append(pods, newPod(open, "far", on("node1")))...)
	return watchNode(t, "node2", pods[:each], pods[each:2*each], pods[2*each:])
}

// TestSandboxesRemade: while containerd is away all sandboxes of a node end. The pods
// stay, and get sandboxes with each other's addresses, before the API shows those.
// Whatever it shows, nothing passes to or from those that are denied, and all else does
// again.
func TestSandboxesRemade(t *testing.T) {
	w := remadeNode(t)
	t.Run("agent stays", func(t *testing.T) {
		w.expectSwaps(t, func() { w.remakeSandboxes(t) })
	})
	t.Run("agent starts anew", func(t *testing.T) {
		w.expectSwaps(t, func() {
			w.remakeSandboxes(t)
			pid, err := strconv.Atoi(agentProcesses(t)[w.node])
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		})
	})
	agentsReady(t)
}

// TestRebootedWithOtherAddresses: a node loses its power and comes back. The API shows
// the addresses of before, and the pods get each other's.
func TestRebootedWithOtherAddresses(t *testing.T) {
	w := remadeNode(t)
	w.expectSwaps(t, func() {
		if err := theCluster.RestartNode(context.Background(), 2, nil); err != nil {
			t.Fatal(err)
		}
		w.rewindLeases(t)
	})
	agentsReady(t)
}

// expectSwaps has the pods' sandboxes made anew, up to a few times, until one that is
// denied has the address that an open one had, and an open one that of one denied.
func (w *watch) expectSwaps(t *testing.T, remake func()) {
	t.Helper()
	before := w.expectOpen(t)
	toOpen, toDenied := 0, 0
	for round := 0; round < 5 && (toOpen == 0 || toDenied == 0); round++ {
		remake()
		w.expectStale(t, before)
		w.expectRemade(t, before)
		after := w.expectOpen(t)
		w.expectNoLeaks(t)
		had := map[netip.Addr]string{}
		for uid, one := range before {
			for _, ip := range one.addresses() {
				had[ip] = uid
			}
		}
		moved := 0
		for uid, one := range after {
			for _, ip := range one.addresses() {
				earlier, known := had[ip]
				switch {
				case !known || earlier == uid:
					continue
				case w.denied[uid] && !w.denied[earlier]:
					toDenied++
				case !w.denied[uid] && w.denied[earlier]:
					toOpen++
				}
				moved++
			}
		}
		t.Logf("round %d: %d addresses are another pod's; so far %d of open pods are denied ones', and %d of denied ones open ones'", round, moved, toDenied, toOpen)
		before = after
	}
	if toOpen == 0 || toDenied == 0 {
		t.Errorf("no address went from an open pod to a denied one (%d) or the other way (%d): nothing is shown", toDenied, toOpen)
	}
}

// expectStale fails the test unless the API still shows the pods where they were.
func (w *watch) expectStale(t *testing.T, before map[string]*witness) {
	t.Helper()
	for uid, pod := range w.pods {
		now, err := client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, ip := range before[uid].addresses() {
			if !slices.Contains(podIPs(now), ip.String()) {
				t.Errorf("the API shows %s at %s already, and no more at %s: nothing is shown", pod.Name, podIPs(now), ip)
			}
		}
	}
}

// expectRemade waits until each pod has another sandbox than before, and its program
// runs in it.
func (w *watch) expectRemade(t *testing.T, before map[string]*witness) {
	t.Helper()
	eventually(t, 4*time.Minute, "the sandboxes of "+w.node+" to be made anew", func() error {
		now := w.now()
		var errs []error
		for uid, pod := range w.pods {
			if now[uid] == nil || now[uid] == before[uid] || len(now[uid].addresses()) == 0 {
				errs = append(errs, fmt.Errorf("%s has no new one", pod.Name))
			}
		}
		return errors.Join(errs...)
	})
}

// remakeSandboxes ends all that runs in the node's sandboxes while containerd stands
// still, and then containerd, which the node starts again.
func (w *watch) remakeSandboxes(t *testing.T) {
	t.Helper()
	signal := func(s syscall.Signal) {
		if err := theCluster.Signal(w.node, "containerd", s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	w.rewindLeases(t)
	for _, path := range w.sandboxPaths() {
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			t.Fatal(err)
		}
		for _, process := range processesIn(stat.Ino) {
			pid, err := strconv.Atoi(filepath.Base(process))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	signal(syscall.SIGKILL)
}

// rewindLeases has the plugin give out the lowest addresses that are free, as after the
// last of its range, instead of those that nobody has had.
func (w *watch) rewindLeases(t *testing.T) {
	t.Helper()
	run(t, w.node, "sh", "-c", "rm -f /var/lib/cni/podfence/podfence/last_reserved_ip.*")
}

// run runs a command on a host, and returns what it prints.
func run(t *testing.T, host string, command ...string) string {
	t.Helper()
	cmd, err := theCluster.Exec(context.Background(), host, command...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s on %s: %v: %s", command, host, err, out)
	}
	return string(out)
}

// agentsReady waits until nodes and agents are.
func agentsReady(t *testing.T) {
	t.Helper()
	if err := theCluster.WaitReady(context.Background(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "--namespace", agentNamespace, "rollout", "status", "--timeout=3m", "daemonset/"+agentName)
}
