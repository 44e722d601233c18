package kernel

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

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
