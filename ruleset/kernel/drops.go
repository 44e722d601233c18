package kernel

import (
	"encoding/binary"
	"errors"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Drops returns how many packets were dropped by those rules of these chains, in the table of
// family inet, that have a comment, by comment. A new table counts from 0. Without a table the
// result is empty.
func (c *Conn) Drops(chains ...string) (map[string]uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &OpError{Op: "read the counters", Err: ErrClosed}
	}
	drops := map[string]uint64{}
	for _, chain := range chains {
		err := c.readDrops(chain, drops)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, &OpError{Op: "read the counters of chain " + chain, Err: err}
		}
	}
	return drops, nil
}

// readDrops adds the counts of those rules of a chain that have a comment.
func (c *Conn) readDrops(chain string, drops map[string]uint64) error {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_RULE_TABLE, c.name)
	ae.String(unix.NFTA_RULE_CHAIN, chain)
	attributes, err := ae.Encode()
	if err != nil {
		return err
	}
	answers, err := list(c.socket, netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE},
		Data:   append(nfgenmsg(unix.NFPROTO_INET), attributes...),
	})
	if err != nil {
		return err
	}
	for _, answer := range answers {
		var (
			packets uint64
			comment string
			has     bool
		)
		err := eachAttribute(answer, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						ad.Nested(counterOf(&packets))
					}
					return nil
				})
			case unix.NFTA_RULE_USERDATA:
				comment, has = userdata.GetString(ad.Bytes(), userdata.TypeComment)
			}
		})
		if err != nil {
			return err
		}
		if has {
			drops[comment] += packets
		}
	}
	return nil
}

// counterOf reads an expression. If that is a counter, it reads how many packets were counted.
func counterOf(packets *uint64) func(*netlink.AttributeDecoder) error {
	return func(ad *netlink.AttributeDecoder) error {
		name := ""
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_EXPR_NAME:
				name = ad.String()
			case unix.NFTA_EXPR_DATA:
				if name != "counter" { // the kernel writes the name first
					continue
				}
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					ad.ByteOrder = binary.BigEndian
					for ad.Next() {
						if ad.Type() == unix.NFTA_COUNTER_PACKETS {
							*packets = ad.Uint64()
						}
					}
					return nil
				})
			}
		}
		return nil
	}
}
