package plugin_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
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
	report(b, adds, "add")
	report(b, dels, "del")
}

// report reports the median and the 99th percentile.
func report(b *testing.B, all []time.Duration, what string) {
	slices.Sort(all)
	ms := func(i int) float64 { return float64(all[i].Microseconds()) / 1000 }
	b.ReportMetric(ms(len(all)/2), what+"-p50-ms")
	b.ReportMetric(ms(len(all)*99/100), what+"-p99-ms")
}
