package node

import (
	"net/netip"
	"testing"

	. "github.com/onsi/gomega"
)

// TestLastAddrDuringARound: who asks holds the model of policies meanwhile, and must not
// wait for a round's work in the kernel.
func TestLastAddrDuringARound(t *testing.T) {
	g := NewWithT(t)
	n := &Network{}
	want := netip.MustParseAddr("192.0.2.2")
	n.last.Store(&map[string]netip.Addr{VTEPMAC("node2", false).String(): want})
	n.mu.Lock() // as Reconcile does, for as long as it takes
	answer := make(chan netip.Addr, 1)
	go func() { answer <- n.LastAddr("node2") }()
	g.Eventually(answer, "30s").Should(Receive(Equal(want)))
	n.mu.Unlock()
}
