package kernel

import (
	"errors"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// ElementCounters reads the counters that elements of sets have (nft.Noted), in the tables of a Conn. It has a
// connection of its own, and takes no lock of the Conn's, so that no commit waits for it. Its methods may be called
// from any goroutine; they take turns.
type ElementCounters struct {
	conn *Conn

	mu   sync.Mutex
	line *line
}

// OpenElementCounters connects to a network namespace, which must be the Conn's own; options.NetNS must stay open
// as long as the ElementCounters are. They are to be closed before the Conn.
func (c *Conn) OpenElementCounters(options Options) (*ElementCounters, error) {
	counters := &ElementCounters{conn: c, line: newLine(unix.NETLINK_NETFILTER, options.NetNS)}
	if err := counters.line.connect(); err != nil {
		return nil, &OpError{Op: "connect to read the counters of elements", Err: err}
	}
	return counters, nil
}

// Close closes the connection.
func (c *ElementCounters) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.line.close()
}

// Read reads how many packets an element of a set has counted. found is false if the set does not have it, or
// not any more, or if there is no such set. It takes the kernel some microseconds.
func (c *ElementCounters) Read(family nft.Family, set string, t nft.SetType, element nft.Element) (packets uint64, found bool, err error) {
	value, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: nftaDataValue, Data: t.AppendKey(nil, &element)}})
	if err != nil {
		return 0, false, &OpError{Op: "read the counter of an element", Err: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	table := &readTable{line: c.line, name: c.conn.name, family: byte(c.conn.table(family).Family)}
	err = table.askElement(set, netlink.Attribute{Type: netlink.Nested | nftaSetElemKey, Data: value}, func(ad *netlink.AttributeDecoder) {
		packets, found = elementPackets(ad)
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, false, nil
	case err != nil:
		return 0, false, &OpError{Op: "read the counter of an element", Err: err}
	}
	return packets, found, nil
}

const nftaSetElemExpr = 7 // NFTA_SET_ELEM_EXPR

// elementPackets reads an element's counter; counts is false if it has none.
func elementPackets(ad *netlink.AttributeDecoder) (packets uint64, counts bool) {
	for ad.Next() {
		if ad.Type() != nftaSetElemExpr {
			continue
		}
		expression, counted := attributeReader{rest: ad.Bytes()}, nft.Counted{}
		readCounter(&expression, &counted)
		return counted.Packets, counted.Counter && !expression.broken
	}
	return 0, false
}
