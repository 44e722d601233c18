package report

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNodeMetrics: what can be read is told, and what cannot be is absent, not zero.
func TestNodeMetrics(t *testing.T) {
	proc := t.TempDir()
	if err := os.MkdirAll(filepath.Join(proc, "net/netfilter"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"nf_conntrack_count": "23\n", "nf_conntrack_max": "262144\n"} {
		if err := os.WriteFile(filepath.Join(proc, "net/netfilter", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Unix(1000, 0)
	waiting := func(seconds ...int64) func() []time.Time {
		return func() (since []time.Time) {
			for _, s := range seconds {
				since = append(since, now.Add(-time.Duration(s)*time.Second))
			}
			return since
		}
	}
	for what, c := range map[string]struct {
		metrics nodeMetrics
		want    map[string]float64
	}{
		"all": {nodeMetrics{procSys: proc, waiting: waiting(3, 60, 5)}, map[string]float64{
			"podfence_conntrack_entries": 23, "podfence_conntrack_max": 262144, "podfence_pods_waiting": 3, "podfence_pods_waiting_seconds": 60,
		}},
		"nobody waits": {nodeMetrics{waiting: waiting()}, map[string]float64{"podfence_pods_waiting": 0, "podfence_pods_waiting_seconds": 0}},
		"not readable": {nodeMetrics{procSys: t.TempDir()}, map[string]float64{}},
		"nothing":      {nodeMetrics{}, map[string]float64{}},
	} {
		c.metrics.now = func() time.Time { return now }
		if have := gather(t, &c.metrics); !maps.Equal(have, c.want) {
			t.Errorf("%s: %v, not %v", what, have, c.want)
		}
	}
}
