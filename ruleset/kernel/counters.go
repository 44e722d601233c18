package kernel

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// Counters reads what the rules of a Conn's tables have counted. It has a connection of its own, and takes no
// lock of the Conn's: no commit waits for it, and it waits for no commit. Its methods may be called from any
// goroutine; they take turns.
type Counters struct {
	conn *Conn

	mu   sync.Mutex
	line *line
}

// OpenCounters connects to a network namespace, which must be the Conn's own; options.NetNS must stay open
// as long as the Counters are. They are to be closed before the Conn.
func (c *Conn) OpenCounters(options Options) (*Counters, error) {
	counters := &Counters{conn: c, line: newLine(unix.NETLINK_NETFILTER, options.NetNS)}
	if err := counters.line.connect(); err != nil {
		return nil, &OpError{Op: "connect to read the counters", Err: err}
	}
	return counters, nil
}

// Close closes the connection.
func (c *Counters) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.line.close()
}

// Read reads the counters of all rules of the table of family inet. whole is false if the ruleset has changed
// meanwhile, so that what was read is of no one table; it is then not asked again. To read a rule takes the
// kernel about a microsecond.
func (c *Counters) Read() (counters nft.Counters, whole bool, err error) {
	return c.readWhole(unix.NFPROTO_INET, false)
}

// ReadFrames does the same for the table of family bridge, and reads the rules' comments as well. It is whole
// and has no rule if there is no such table, or the kernel does not know the family.
func (c *Counters) ReadFrames() (counters nft.Counters, whole bool, err error) {
	return c.readWhole(unix.NFPROTO_BRIDGE, true)
}

func (c *Counters) readWhole(family uint8, comments bool) (counters nft.Counters, whole bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err := generationOf(c.line)
	if err != nil {
		return nft.Counters{}, false, &OpError{Op: "read the counters", Err: err}
	}
	counters, err = c.read(family, comments)
	switch {
	case errors.Is(err, errInterrupted) || errors.Is(err, unix.EINTR):
		return nft.Counters{}, false, nil
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT):
		counters = nft.Counters{}
	case err != nil:
		return nft.Counters{}, false, &OpError{Op: "read the counters", Err: err}
	}
	after, err := generationOf(c.line)
	if err != nil {
		return nft.Counters{}, false, &OpError{Op: "read the counters", Err: err}
	}
	return counters, before == after, nil
}

// Drops returns how many packets were dropped by those rules of these chains, in the table of family inet, that
// have a comment, by comment. A new table counts from 0. Without a table the result is empty.
func (c *Counters) Drops(chains ...string) (map[string]uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	drops := map[string]uint64{}
	t := &readTable{line: c.line, name: c.conn.name, family: unix.NFPROTO_INET}
	for _, chain := range chains {
		of := []netlink.Attribute{{Type: unix.NFTA_RULE_CHAIN, Data: append([]byte(chain), 0)}}
		err := t.list(unix.NFT_MSG_GETRULE, of, func(m netlink.Message) error {
			_, _, counted, err := parseCounted(m, true)
			if err == nil && counted.Comment != "" {
				drops[counted.Comment] += counted.Packets
			}
			return err
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, &OpError{Op: "read the counters of chain " + chain, Err: err}
		}
	}
	return drops, nil
}

// read asks for the table, and then for all of its rules.
func (c *Counters) read(family uint8, comments bool) (counters nft.Counters, err error) {
	t := &readTable{line: c.line, name: c.conn.name, family: family}
	if err := t.ask(unix.NFT_MSG_GETTABLE, nil, func(m netlink.Message) error {
		return eachAttribute(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == nftaTableHandle {
				counters.Table = binary.BigEndian.Uint64(ad.Bytes())
			}
		})
	}); err != nil {
		return nft.Counters{}, err
	}
	counters.Chains = map[string][]nft.Counted{}
	var chain string
	return counters, t.list(unix.NFT_MSG_GETRULE, nil, func(m netlink.Message) error {
		table, in, counted, err := parseCounted(m, comments)
		if err != nil || string(table) != t.name {
			return err
		}
		if string(in) != chain { // one string for all rules of a chain, which come together
			chain = string(in)
		}
		counters.Chains[chain] = append(counters.Chains[chain], counted)
		return nil
	})
}

// What golang.org/x/sys/unix lacks of linux/netfilter/nf_tables.h.
const nftaTableHandle = 4 // NFTA_TABLE_HANDLE

// parseCounted reads what a rule has counted, and its comment if that is asked for. The names are valid as long
// as the message.
func parseCounted(m netlink.Message, comments bool) (table, chain []byte, counted nft.Counted, err error) {
	if len(m.Data) < nfgenmsgLength {
		return nil, nil, counted, errNoRule
	}
	attributes := attributeReader{rest: m.Data[nfgenmsgLength:]}
	for attributes.next() {
		switch attributes.kind {
		case unix.NFTA_RULE_TABLE:
			table = withoutNUL(attributes.data)
		case unix.NFTA_RULE_CHAIN:
			chain = withoutNUL(attributes.data)
		case unix.NFTA_RULE_HANDLE:
			counted.Handle = binary.BigEndian.Uint64(attributes.sized(8))
		case unix.NFTA_RULE_USERDATA:
			if comments {
				counted.Comment, _ = userdata.GetString(attributes.data, userdata.TypeComment)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			expressions := attributes.nested()
			for expressions.next() {
				expression := expressions.nested()
				readCounter(&expression, &counted)
				expressions.also(expression)
			}
			attributes.also(expressions)
		}
	}
	if attributes.broken {
		return nil, nil, counted, errNoRule
	}
	return table, chain, counted, nil
}

var errNoRule = errors.New("the kernel has listed a rule that cannot be read")

// readCounter reads an expression, if it is a counter. The kernel writes an expression's name first.
func readCounter(expression *attributeReader, counted *nft.Counted) {
	for expression.next() {
		switch expression.kind {
		case unix.NFTA_EXPR_NAME:
			if string(withoutNUL(expression.data)) != "counter" {
				return
			}
			counted.Counter = true
		case unix.NFTA_EXPR_DATA:
			data := expression.nested()
			for data.next() {
				if data.kind == unix.NFTA_COUNTER_PACKETS {
					counted.Packets = binary.BigEndian.Uint64(data.sized(8))
				}
			}
			expression.also(data)
		}
	}
}

// withoutNUL is a name without the octet that ends it.
func withoutNUL(name []byte) []byte {
	if n := len(name); n > 0 && name[n-1] == 0 {
		return name[:n-1]
	}
	return name
}
