package kernel

import (
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// generations answers questions for the generation; a transaction counts it up.
type generations struct {
	now uint32
	// asked is how often; fault is the answer to the n-th, if it gives one.
	asked int
	fault func(n int, question netlink.Message) ([]datagram, bool)
	// others come in between before so many transactions.
	others int
	done   int
}

func (k *generations) kernel(sent []netlink.Message) ([]datagram, error) {
	if sent[0].Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN {
		k.asked++
		if k.fault != nil {
			if answers, is := k.fault(k.asked, sent[0]); is {
				return answers, nil
			}
		}
		return saysGeneration(sent[0], k.now)
	}
	if k.others > 0 {
		k.others--
		k.now++
	}
	if data := sent[0].Data; len(data) > nfgenmsgLength && binary.BigEndian.Uint32(data[nfgenmsgLength+4:]) != k.now {
		return []datagram{says(sent[0], unix.ERESTART), says(sent[acknowledged(sent)], 0)}, nil
	}
	k.now++
	k.done++
	return []datagram{says(sent[acknowledged(sent)], 0)}, nil
}

// saysGeneration is the answer to a question for the generation.
func saysGeneration(question netlink.Message, generation uint32) ([]datagram, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Uint32(unix.NFTA_GEN_ID, generation)
	attributes, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	answer := netlink.Message{Header: question.Header, Data: append(nfgenmsg(unix.AF_UNSPEC), attributes...)}
	answer.Header.Type = newGeneration
	return []datagram{{messages: []netlink.Message{answer}}}, nil
}

// TestUnheardFaults has what is around a transaction that nobody is told of go
// wrong: it must be carried out once, and what the watch may have missed be taken
// for tampering.
func TestUnheardFaults(t *testing.T) {
	nothing := func(int, netlink.Message) ([]datagram, bool) { return nil, true }
	refused := func(n int, q netlink.Message) ([]datagram, bool) { return []datagram{says(q, unix.ENOMEM)}, n == 2 }
	garbled := func(n int, q netlink.Message) ([]datagram, bool) {
		q.Data = append(nfgenmsg(0), 8, 0)
		return []datagram{{messages: []netlink.Message{q}}}, n == 2
	}
	for name, test := range map[string]struct {
		generations
		join, leave error
		lost, ended bool
	}{
		"nothing":                  {},
		"one other":                {generations: generations{others: 1}},
		"others, again and again":  {generations: generations{others: 9}},
		"no generation":            {generations: generations{fault: nothing}},
		"no generation after it":   {generations: generations{fault: refused}, lost: true},
		"a garbled one after it":   {generations: generations{fault: garbled}, lost: true},
		"the group cannot be left": {leave: unix.ENOMEM},
		"nor joined again":         {join: unix.ENOMEM, ended: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			k := test.generations
			k.now = 10
			w := &Watch{socket: netlink.NewConn(&relay{join: test.join, leave: test.leave}, 8), tampered: make(chan struct{}, 1)}
			c := relayed(k.kernel)
			c.watch = w
			plan := nft.Plan{Replace: true}
			for range unheardReplacement {
				plan.Ops = append(plan.Ops, nft.DeleteChain{Name: "c"})
			}
			g.Expect(c.Apply(plan)).To(Succeed())
			g.Expect(k.done).To(Equal(1))
			noticed, err := w.Take()
			g.Expect(err != nil).To(Equal(test.ended))
			g.Expect(len(noticed) > 0).To(Equal(test.lost))
		})
	}
}
