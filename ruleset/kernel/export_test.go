package kernel

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Update has tests write what is in testdata anew.
var Update = flag.Bool("update", false, "write testdata anew")

// DialSocket and DatagramOf are the socket that a batch goes through, and what it sends.
var (
	DialSocket = dialSocket
	DatagramOf = datagramOf
)

// Hold takes a connection as a commit does, until unlock is called.
func Hold(c *Conn) (unlock func()) {
	c.mu.Lock()
	return c.mu.Unlock
}

// Opens reports whether a replacement in place would open something for a moment.
func Opens(plan nft.Plan) bool { return opens(plan, isLate(release())) }

// LimitSendBuffer has the socket take no larger transactions than a process without
// privileges could make it.
func (c *Conn) LimitSendBuffer(bytes int) error { return c.socket.SetWriteBuffer(bytes) }

// InForce are the tables that have base chains, of one generation of the ruleset.
func (c *Conn) InForce(family nft.Family) (names []string, err error) {
	for {
		names = nil
		interrupted := false // the list then lacks what has moved, even if the generation is that of before by now
		before, err := c.generation()
		if err != nil {
			return nil, err
		}
		for _, suffix := range []string{"", standbySuffix, trialSuffix} {
			table := c.aside(family, suffix)
			there, err := c.contents(table)
			switch {
			case err == nil && len(there.bases) > 0:
				names = append(names, table.Name)
			case errors.Is(err, unix.EINTR) || errors.Is(err, errInterrupted):
				interrupted = true
			case err != nil && !errors.Is(err, unix.ENOENT):
				return nil, err
			}
		}
		if after, err := c.generation(); err != nil || after == before && !interrupted {
			return names, err
		}
	}
}

// ForgetEach and ForgetListed are the two ways of Forget.
func (f *Flows) ForgetEach(addrs []netip.Addr) error   { return f.forgetEach(addrs) }
func (f *Flows) ForgetListed(addrs []netip.Addr) error { return f.forgetListed(addrs) }

// RevokeEach and RevokeListed are the two ways of RevokeOf.
func (f *Flows) RevokeEach(addrs []netip.Addr, judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return f.revokeOf(addrs, true, judge)
}

func (f *Flows) RevokeListed(addrs []netip.Addr, judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return f.revokeOf(addrs, false, judge)
}

// Entries is how many flows the kernel says there are.
func (f *Flows) Entries() (uint32, error) { return f.deletions.entries() }

// TransactionOf is the datagram of a replacement's or an update's batch with the messages around it, as if the
// kernel had a generation. Messages have no numbers yet.
func TransactionOf(plan nft.Plan, owned bool) ([]byte, error) {
	c := &Conn{name: nft.TableName, owns: owned}
	messages, err := c.encode(c.table(plan.Family), plan)
	if err != nil {
		return nil, err
	}
	batch, err := c.batchOf(messages)
	if err != nil {
		return nil, err
	}
	return sentOf(slices.Concat(
		[]netlink.Message{bracket(unix.NFNL_MSG_BATCH_BEGIN, 7)}, batch, []netlink.Message{bracket(unix.NFNL_MSG_BATCH_END, 0)},
	)...)
}

// sentOf is the octets of messages, without numbers.
func sentOf(messages ...netlink.Message) ([]byte, error) {
	for i := range messages {
		messages[i].Header.Length = uint32(unix.SizeofNlMsghdr+len(messages[i].Data)+3) &^ 3
		messages[i].Header.Sequence, messages[i].Header.PID = 0, 0
	}
	return datagramOf(messages)
}

// Neutral is a transaction as text that is the same whatever the order of the machine's octets, with a sum over
// the octets that a little-endian machine sends. It fails if the octets are not just what the text says.
func Neutral(datagram []byte) (string, error) { return neutral(netfilterMessages, datagram) }

func neutral(messages map[uint16]wireMessage, datagram []byte) (string, error) {
	all, err := readWire(binary.NativeEndian, messages, datagram)
	if err != nil {
		return "", err
	}
	if again := writeWire(binary.NativeEndian, messages, all); !bytes.Equal(again, datagram) {
		return "", fmt.Errorf("%d octets are read as what has %d octets:\n%x\n%x", len(datagram), len(again), datagram, again)
	}
	return fmt.Sprintf("%ssum %x\n", wireLines(all), sha256.Sum256(writeWire(binary.LittleEndian, messages, all))), nil
}
