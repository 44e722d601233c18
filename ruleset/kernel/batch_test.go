package kernel

import (
	"runtime"
	"testing"

	"github.com/google/nftables"
	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/ruleset/nft"
)

func oneElement(g *WithT) []message {
	messages, err := (&Conn{name: "podfence"}).encode((&Conn{name: "podfence"}).table(nft.Inet), nft.Plan{Ops: []nft.Op{
		nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: []nft.Element{{Addr: [16]byte{10, 0, 0, 1}}}},
	}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(messages).To(HaveLen(1))
	return messages
}

// TestBatchesAreCheap: to make the messages of a small batch takes less memory than a
// page. Throughout an agent's life, most batches are small.
func TestBatchesAreCheap(t *testing.T) {
	g := NewWithT(t)
	c := &Conn{name: "podfence"}
	messages := oneElement(g)
	const rounds = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		if _, err := c.batchOf(messages); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	g.Expect((after.TotalAlloc - before.TotalAlloc) / rounds).To(BeNumerically("<", 4096))
}

// TestBatchesAreApart: a batch that could not be made into messages leaves nothing behind for the
// batches after it.
func TestBatchesAreApart(t *testing.T) {
	g := NewWithT(t)
	c := &Conn{name: "podfence"}
	messages := oneElement(g)
	want, err := c.batchOf(messages)
	g.Expect(err).NotTo(HaveOccurred())
	for _, queue := range []func(*nftables.Conn){
		func(*nftables.Conn) {},
		func(nft *nftables.Conn) { messages[0].queue(nft); messages[0].queue(nft) },
	} {
		_, err := c.batchOf([]message{{queue: queue}})
		g.Expect(err).To(HaveOccurred())
		have, err := c.batchOf(messages)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(have).To(HaveLen(1))
		g.Expect(have[0].Data).To(Equal(want[0].Data))
	}
}
