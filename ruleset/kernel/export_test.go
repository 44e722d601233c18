package kernel

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset"
)

// LimitSendBuffer has the socket take no larger transactions than a process without
// privileges could make it.
func (c *Conn) LimitSendBuffer(bytes int) error { return c.socket.SetWriteBuffer(bytes) }

// InForce are the tables that have base chains, of one generation of the ruleset.
func (c *Conn) InForce(family ruleset.Family) (names []string, err error) {
	for {
		names = nil
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
			case err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINTR):
				return nil, err
			}
		}
		if after, err := c.generation(); err != nil || after == before {
			return names, err
		}
	}
}
