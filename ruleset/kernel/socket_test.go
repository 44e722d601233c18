package kernel_test

import (
	"bytes"
	"testing"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/kernel"
)

// TestDatagram: a batch becomes the bytes of its messages, one after another, in memory of just their
// size.
func TestDatagram(t *testing.T) {
	g := NewWithT(t)
	var messages []netlink.Message
	var want []byte
	for n := range 2000 {
		data := bytes.Repeat([]byte{byte(n)}, n%300)
		length := unix.NLMSG_HDRLEN + (len(data)+3)&^3 // messages begin at multiples of 4 bytes
		m := netlink.Message{Header: netlink.Header{Length: uint32(length), Type: netlink.HeaderType(n), Sequence: uint32(n), PID: 7}, Data: data}
		text, err := m.MarshalBinary()
		g.Expect(err).NotTo(HaveOccurred())
		messages, want = append(messages, m), append(want, text...)
	}
	have, err := kernel.DatagramOf(messages)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(bytes.Equal(have, want)).To(BeTrue())
	g.Expect(cap(have)).To(Equal(len(have)))

	messages[7].Header.Length++
	_, err = kernel.DatagramOf(messages)
	g.Expect(err).To(HaveOccurred())
}

// TestSocketKeepsAnswers: answers stay as they are when others are read.
func TestSocketKeepsAnswers(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c, err := kernel.DialSocket(n.fd)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { g.Expect(c.Close()).To(Succeed()) })
	ask := func(kind netlink.HeaderType) []netlink.Message {
		_, err := c.Send(netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: netlink.Request}, Data: make([]byte, 4)})
		g.Expect(err).NotTo(HaveOccurred())
		answers, err := c.Receive()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(answers).To(HaveLen(1))
		return answers
	}
	first := ask(unix.NFT_MSG_GETGEN)[0]
	was := bytes.Clone(first.Data)
	n.nft("", "add table inet other") // a new generation
	second := ask(unix.NFT_MSG_GETGEN)[0]
	g.Expect(second.Data).NotTo(Equal(was))
	g.Expect(first.Data).To(Equal(was))
}
