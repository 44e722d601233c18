package bytecode

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Ruleset is what a packet's way is asked for: one table as the kernel has it.
type Ruleset interface {
	// Rules are those of a chain, in order.
	Rules(chain string) iter.Seq2[Rule, error]
	// Find looks a key up in a set or a map. It gets the key by asking for as many bytes as the
	// keys of that set have. data is the attribute NFTA_SET_ELEM_DATA's content of a map's element;
	// nil of a set's.
	Find(set string, key func(length int) ([]byte, error)) (data []byte, found bool, err error)
}

// Base is a base chain.
type Base struct {
	// Chain is its name. NAT: it gives packets another address. Drop is its policy; else that is
	// accept.
	Chain     string
	NAT, Drop bool
	Priority  int32
	// Untracked: it is before connection tracking, which knows of no packet there yet.
	Untracked bool
}

// Rule is a rule as it was read back.
type Rule struct {
	// Handle is its number in the table, and Comment its comment, if it has one.
	Handle      uint64
	Comment     string
	Expressions []Expression
}

// ParseRule reads the attributes of a message that is about a rule.
func ParseRule(attributes []byte) (Rule, error) {
	var r Rule
	ad, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return r, fmt.Errorf("a rule cannot be read: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_HANDLE:
			r.Handle = ad.Uint64()
		case unix.NFTA_RULE_USERDATA:
			r.Comment, _ = userdata.GetString(ad.Bytes(), userdata.TypeComment)
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Do(func(list []byte) (err error) {
				r.Expressions, err = parseExpressions(list)
				return err
			})
		}
	}
	if err := ad.Err(); err != nil {
		return r, fmt.Errorf("rule %d cannot be read: %w", r.Handle, err)
	}
	return r, nil
}
