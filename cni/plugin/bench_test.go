package plugin_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/podfence/podfence/test/quantiles"
)

// BenchmarkAddDel is one pod's ADD and DEL by the real binary and libcni, with
// an agent that answers at once, on a node with other pods. With a real agent,
// and beside other plugins, it is measured in test/connectivity.
func BenchmarkAddDel(b *testing.B) {
	for _, others := range []int{0, 250} {
		b.Run(fmt.Sprintf("pods=%d", others), func(b *testing.B) {
			n := newNode(b, map[string]any{"podCIDRs": []string{"10.244.0.0/16", "fd00:10:244:1::/64"}})
			first := newPod(b, "first")
			n.mustAdd(first)
			// Leases of pods that are not there: links would be the kernel's time.
			for i := range others {
				for _, addr := range []string{fmt.Sprintf("10.244.200.%d", i), fmt.Sprintf("fd00:10:244:1::beef:%x", i)} {
					path := filepath.Join(n.conf["dataDir"].(string), "pods", addr)
					if err := os.WriteFile(path, []byte(fmt.Sprintf("other-%d\r\neth0", i)), 0o600); err != nil {
						b.Fatal(err)
					}
				}
			}
			measure(b, n)
		})
	}
}

// measure adds and deletes one pod after the other. The pods' namespaces stay to
// the end: the kernel tears them down at length, and holds up all others.
func measure(b *testing.B, n *node) {
	var adds, dels []time.Duration
	for i := 0; b.Loop(); i++ {
		p := newPod(b, fmt.Sprint(i))
		start := time.Now()
		n.mustAdd(p)
		added := time.Now()
		n.mustDel(p)
		adds, dels = append(adds, added.Sub(start)), append(dels, time.Since(added))
	}
	quantiles.Report(b, "add", time.Millisecond, adds, 50, 99)
	quantiles.Report(b, "del", time.Millisecond, dels, 50, 99)
}
