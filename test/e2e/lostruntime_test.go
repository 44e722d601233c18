//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
)

// TestRuntimeStateLost: all that runs on a node ends, and containerd has lost all that it
// knew, so that it calls no DEL for any of the pods; what the plugin keeps on the disk
// stays. Time and again the pods come back, with policies, and the addresses that they had
// do not pile up.
func TestRuntimeStateLost(t *testing.T) {
	const node = "node2"
	ns, open := newNamespace(t), newNamespace(t)
	friendsAndServers(t, ns)
	// None of the test's own sockets are in what is lost: they would keep it alive.
	var servers []*corev1.Pod
	for i := range 3 {
		servers = append(servers, newPod(ns, fmt.Sprintf("server-%d", i), on(node), labelled("app", "server")))
	}
	servers = start(t, servers...)
	others := start(t, newPod(ns, "friend", on("node1")), newPod(open, "stranger", on("node1")))
	before := leases(t, node)
	if len(before) == 0 {
		t.Fatal("no lease is found: nothing would be shown")
	}
	for round := range 2 {
		loseRuntimeState(t, node)
		// kubelet makes a sandbox for each pod anew.
		check.Eventually(t, 5*time.Minute, "the pods of "+node+" to be back", func() error {
			for i, server := range servers {
				now, err := client.CoreV1().Pods(ns).Get(context.Background(), server.Name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				if _, err := cluster.PodProcess(string(server.UID)); err != nil {
					return err
				}
				if !isReady(now) || now.Status.ContainerStatuses[0].RestartCount <= int32(round) {
					return fmt.Errorf("%s is %s, ready %t, restarted %d times", now.Name, now.Status.Phase, isReady(now), now.Status.ContainerStatuses[0].RestartCount)
				}
				servers[i] = now
			}
			return nil
		})
		agentsReady(t)
		expectWays(t, "a friend to reach the servers that came back, and a stranger not to",
			waysBetween(t, others[:1], servers), waysBetween(t, others[1:], servers))
		next := 0
		check.Eventually(t, 4*time.Minute, "leases to be of pods that there are", func() error {
			// Those of the lost ones end when the next pod gets its address, if by then
			// they are old enough not to be of one that starts.
			start(t, newPod(ns, fmt.Sprintf("next-%d-%d", round, next), on(node)))
			next++
			now, used := leases(t, node), addressesUsed(t, node)
			var stale []netip.Addr
			for _, ip := range now {
				if !used[ip] {
					stale = append(stale, ip)
				}
			}
			if len(stale) > 0 {
				time.Sleep(10 * time.Second)
				return fmt.Errorf("of %d leases these are nobody's: %v", len(now), stale)
			}
			return nil
		})
		t.Logf("round %d: %d leases before, %d after", round, len(before), len(leases(t, node)))
	}
}

// leases are the addresses that a node's plugin takes for given out.
func leases(t *testing.T, node string) (all []netip.Addr) {
	t.Helper()
	for _, name := range strings.Fields(run(t, node, "sh", "-c", "ls /var/lib/cni/podfence/podfence 2>/dev/null || true")) {
		if ip, err := netip.ParseAddr(name); err == nil {
			all = append(all, ip)
		}
	}
	return all
}

// addressesUsed are those of the network namespaces that the node's runtime has made and
// somebody is in.
func addressesUsed(t *testing.T, node string) map[netip.Addr]bool {
	t.Helper()
	host, err := theCluster.HostProcess(node)
	if err != nil {
		t.Fatal(err)
	}
	used := map[netip.Addr]bool{}
	paths, _ := filepath.Glob(filepath.Join(host, "root/run/netns/cni-*"))
	for _, path := range paths {
		var stat syscall.Stat_t
		if syscall.Stat(path, &stat) != nil || len(processesIn(stat.Ino)) == 0 {
			continue
		}
		for _, ip := range addressesInside(path) {
			used[ip] = true
		}
	}
	return used
}

// loseRuntimeState ends everything that containerd runs on a node, and containerd, and
// removes its state. The node starts it anew; the images are given to it again.
func loseRuntimeState(t *testing.T, node string) {
	t.Helper()
	thaw := freezeKubelet(t, node)
	if err := theCluster.Signal(node, "containerd", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	killPods(t, node)
	// Detached, as they are in use until the last of it has gone.
	run(t, node, "sh", "-c", `awk '$2 ~ "^/run/containerd/|^/run/netns/cni-|^/var/lib/containerd/" { print $2 }' /proc/mounts | sort -r | xargs -r -n1 umount -l
rm -rf /run/containerd/io.containerd.* /var/lib/containerd/* /run/netns/cni-*`)
	if err := theCluster.Signal(node, "containerd", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, image := range theCluster.Images {
		check.Eventually(t, 2*time.Minute, "containerd to take "+filepath.Base(image), func() error {
			return theCluster.LoadImageOn(context.Background(), node, image)
		})
	}
	thaw()
}

// killPods kills all processes in the cgroups of a node's pods, and those that keep them.
func killPods(t *testing.T, node string) {
	t.Helper()
	host, err := theCluster.HostProcess(node)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := os.Readlink(filepath.Join(host, "ns/mnt"))
	if err != nil {
		t.Fatal(err)
	}
	cgroup := filepath.Join("/podfence-cluster", theCluster.Name, node)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	killed := 0
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			continue
		}
		in, _ := os.ReadFile(filepath.Join(process, "cgroup")) // it may have ended
		name, _ := os.ReadFile(filepath.Join(process, "comm"))
		at, _ := os.Readlink(filepath.Join(process, "ns/mnt"))
		pod := strings.Contains(string(in), cgroup+"/") && strings.Contains(string(in), "/pod")
		shim := strings.HasPrefix(string(name), "containerd-shim") && at == mine
		if !pod && !shim {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		killed++
	}
	if killed == 0 {
		t.Fatalf("no pod runs on %s", node)
	}
}
