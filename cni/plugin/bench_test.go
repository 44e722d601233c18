package plugin_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
)

// BenchmarkAddDel is one pod's ADD and DEL by the real binary and libcni, with
// an agent that answers at once, on a node with other pods.
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

// BenchmarkBridgeHostLocal is the same by containernetworking/plugins' bridge
// and host-local, of the version that go.mod names: what podfence is measured
// against. It builds them, for which it may need the network.
func BenchmarkBridgeHostLocal(b *testing.B) {
	const module = "github.com/containernetworking/plugins"
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	for _, name := range []string{"main/bridge", "ipam/host-local"} {
		// Not of this module: it needs more than the allocator does.
		cmd := exec.Command("go", "install", "-ldflags", "-s -w", module+"/plugins/"+name+"@"+strings.TrimSpace(string(version)))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir, "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Skipf("build %s: %v: %s: skipped", name, err, out)
		}
	}
	for _, masquerade := range []bool{false, true} {
		b.Run(fmt.Sprintf("ipMasq=%v", masquerade), func(b *testing.B) {
			n := newNode(b, nil)
			n.bin = dir
			n.cni = libcni.NewCNIConfigWithCacheDir([]string{dir}, filepath.Join(b.TempDir(), "cache"), n)
			n.conf = map[string]any{
				"cniVersion": "1.1.0", "name": "pods", "type": "bridge", "bridge": "cni0", "isGateway": true,
				"hairpinMode": true, "ipMasq": masquerade,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": b.TempDir(),
					"ranges": []any{[]any{map[string]any{"subnet": "10.244.0.0/16"}}, []any{map[string]any{"subnet": "fd00:10:244:1::/64"}}},
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}, map[string]any{"dst": "::/0"}},
				},
			}
			n.mustAdd(newPod(b, "first"))
			measure(b, n)
		})
	}
}
