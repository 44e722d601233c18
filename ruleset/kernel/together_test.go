package kernel

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
)

// TestForgetTogether: those who call while another's flows are looked for are served
// together by one more look, which begins after the last of them has called.
func TestForgetTogether(t *testing.T) {
	g := NewWithT(t)
	var dumps int
	begun, goOn := make(chan struct{}), make(chan struct{})
	f := &Flows{deletions: lineTo(func(sent []netlink.Message) ([]datagram, error) {
		if sent[0].Header.Flags&netlink.Dump == 0 {
			return []datagram{says(sent[0], 0)}, nil
		}
		if dumps++; dumps == 1 {
			close(begun)
			<-goOn
		}
		return multipart(sent[0], nil), nil
	})}
	var all sync.WaitGroup
	forget := func(last byte) {
		all.Go(func() { g.Expect(f.Forget([]netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, last})})).To(Succeed()) })
	}
	forget(1)
	<-begun
	const more = 9
	for i := range more {
		forget(byte(2 + i))
	}
	g.Eventually(func() int {
		f.joiningMu.Lock()
		defer f.joiningMu.Unlock()
		if f.joining == nil {
			return 0
		}
		return len(f.joining.addrs)
	}, time.Minute).Should(Equal(more))
	close(goOn)
	all.Wait()
	g.Expect(dumps).To(Equal(2))
}
