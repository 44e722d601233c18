package bench

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/test/lab"
)

// TestWay has changes come into force a while after they were made, as an agent's do: that
// long, at least, the way must say that they took.
func TestWay(t *testing.T) {
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	const after = 100 * time.Millisecond
	node := newNode(t)
	var pods []*lab.Host
	for name, ip := range map[string]netip.Addr{"one": clientIP, "another": serverIP} {
		pod, err := node.AddPod(name, lab.PodOptions{IPs: []netip.Addr{ip}})
		must(t, err)
		pods = append(pods, pod)
	}
	w := wayBetween(t, pods[0], pods[1])
	loaded := make(chan error, 2)
	change := func(policy string) func() error {
		return func() error {
			time.AfterFunc(after, func() {
				loaded <- loadRules(node, fmt.Sprintf("table inet way { chain forward { type filter hook forward priority 0; policy %s; }; }", policy))
			})
			return nil
		}
	}
	var d delays
	for range 3 {
		must(t, w.measure(&d, change("drop"), change("accept")))
		must(t, <-loaded)
		must(t, <-loaded)
	}
	for i := range d.closing {
		if d.closing[i] < after || d.opening[i] < after {
			t.Errorf("closed after %s, opened after %s: want %s at least", d.closing[i], d.opening[i], after)
		}
	}
	if len(d.gaps) < int(2*after/every) {
		t.Errorf("%d gaps between packets", len(d.gaps))
	}
}
