package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// A table is replaced in place where that is possible: base chains that are as the plan has
// them stay registered at their hooks, and only their rules change. For each packet, the kernel
// chooses once between a base chain's old rules and its new ones (nft_do_chain in
// net/netfilter/nf_tables_core.c). But a base chain that is removed, and one that is added in its
// place, are two chains for the kernel. A packet may pass the new one before that has rules, and
// then come to the old one when the maps that this looks up are empty (nft_map_deactivate in
// nf_tables_api.c), so that neither judges it. So where a base chain has to be removed, the table
// is replaced under cover (slices.go).

// base is what a base chain is registered with.
type base struct {
	kind     string // filter or nat
	hook     uint32
	priority int32
	policy   uint32
}

// contents are what a table is made of.
type contents struct {
	// generation is the generation of the ruleset when they were listed.
	generation uint32
	bases      map[string]base
	// chains are the chains that are not base chains.
	chains, sets []string
	// strange: the table has more than podfence makes, or is dormant.
	strange bool
}

// attempts is how often a replacement is tried in place, if others change the ruleset
// meanwhile.
const attempts = 3

// noRetry are the errors after which it is no use to replace the table in another way.
var noRetry = []error{
	ErrPermission, ErrUnknown, ErrClosed, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EAGAIN, unix.EMSGSIZE,
}

// errCover says that a replacement in place would take base chains from their hooks, or open something for a
// moment (ahead.go).
var errCover = errors.New("the table cannot be replaced in place")

// inPlace carries a replacement out in place, with the error of Apply. unheard is for
// commit. If the table must be replaced whole, because it does not exist, is strange, or the
// kernel refuses the replacement in place, it does nothing, and done is false. If the plan is
// at fault, to replace the table whole then shows that. With errCover it has done nothing
// either.
func (c *Conn) inPlace(plan nft.Plan, unheard bool) (done bool, err error) {
	table := c.table(plan.Family)
	for range attempts {
		there, err := c.contents(table)
		switch {
		case errors.Is(err, unix.ENOENT):
			return false, nil
		case err != nil:
			return true, &OpError{Op: fmt.Sprintf("list table %s %s", plan.Family, table.Name), Err: err}
		case there.strange && len(there.bases) > 0:
			return true, errCover
		case there.strange:
			return false, nil
		case opens(plan, isLate(release())):
			return true, errCover
		}
		messages, removesBase, err := c.encodeInPlace(table, plan, there)
		if err != nil {
			return true, err
		}
		if removesBase {
			return true, errCover
		}
		_, err = c.commit(messages, there.generation, unheard)
		if err == nil {
			return true, nil
		}
		for _, target := range noRetry {
			if errors.Is(err, target) {
				return true, err
			}
		}
		if !errors.Is(err, unix.ERESTART) {
			return false, nil
		}
	}
	return false, nil
}

// encodeInPlace turns a replacement into messages that leave base chains where they are, or says
// that a base chain would have to be removed. Its errors are those of encode.
func (c *Conn) encodeInPlace(table *nftables.Table, plan nft.Plan, current contents) (_ []message, removesBase bool, err error) {
	e := encoder{table: table, op: -1, queues: c.queues, kept: map[string]bool{}}
	for _, op := range plan.Ops {
		if op, is := op.(nft.AddChain); is && op.Hook != nil {
			chain, err := e.chainOf(op)
			have, is := current.bases[op.Name]
			e.kept[op.Name] = err == nil && is && have == baseOf(chain)
		}
	}
	// By this the connection comes to own a table that its owner has left.
	e.messages = append(e.messages, addTable(table))
	// delete rule inet podfence: those of all chains
	e.add(func() string { return "flush table " + table.Name }, func(c *nftables.Conn) { c.FlushTable(table) })
	var removals []nft.Op
	for _, name := range current.sets { // before the chains, as their elements jump to these
		removals = append(removals, nft.DeleteSet{Name: name})
	}
	for _, name := range current.chains {
		removals = append(removals, nft.DeleteChain{Name: name})
	}
	for name := range current.bases {
		if !e.kept[name] {
			return nil, true, nil
		}
	}
	for _, op := range removals {
		if err := e.encode(op); err != nil {
			return nil, false, err
		}
	}
	return e.messages, false, e.encodeAll(plan.Ops)
}

func baseOf(chain *nftables.Chain) base {
	return base{
		kind: string(chain.Type), hook: uint32(*chain.Hooknum),
		priority: int32(*chain.Priority), policy: uint32(*chain.Policy),
	}
}

// contents lists a table. It fails with ENOENT if there is none.
func (c *Conn) contents(table *nftables.Table) (read contents, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return read, ErrClosed
	}
	// If anything changes after this, the kernel refuses the batch.
	if read.generation, err = c.generation(); err != nil {
		return read, err
	}
	flags, use, err := c.readTable(table)
	if err != nil {
		return read, err
	}
	if err := c.readChains(table, &read); err != nil {
		return read, err
	}
	if err := c.readSets(table, &read); err != nil {
		return read, err
	}
	// The kernel counts stateful objects and flowtables in use as well.
	if flags&uint32(nftables.TableFlagDormant) != 0 || int(use) != len(read.bases)+len(read.chains)+len(read.sets) {
		read.strange = true
	}
	return read, nil
}

// about is a request of a kind about a table. In requests of all kinds, attribute 1 is the table's
// name.
func about(table *nftables.Table, kind netlink.HeaderType) (netlink.Message, error) {
	name, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: nftaTable, Data: append([]byte(table.Name), 0)}})
	return netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: netlink.Request},
		Data:   append(nfgenmsg(byte(table.Family)), name...),
	}, err
}

// readTable reads a table's flags, and how many objects it has.
func (c *Conn) readTable(table *nftables.Table) (flags, use uint32, err error) {
	question, err := about(table, unix.NFT_MSG_GETTABLE)
	if err != nil {
		return 0, 0, err
	}
	answers, err := ask(c.socket, question)
	if err == nil && len(answers) != 1 {
		err = fmt.Errorf("the kernel gives %d answers about one table", len(answers))
	}
	if err != nil {
		return 0, 0, err
	}
	err = eachAttribute(answers[0], func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_TABLE_FLAGS:
			flags = ad.Uint32()
		case unix.NFTA_TABLE_USE:
			use = ad.Uint32()
		}
	})
	return flags, use, err
}

// listOf lists objects of a table by a kind of request. For some kinds, the kernel lists the objects
// of the table's whole family.
func (c *Conn) listOf(table *nftables.Table, kind netlink.HeaderType) ([]netlink.Message, error) {
	question, err := about(table, kind)
	if err != nil {
		return nil, err
	}
	return list(c.socket, question)
}

// Numbers of include/uapi/linux/netfilter/nf_tables.h that golang.org/x/sys/unix
// lacks.
const (
	nftaChainFlags   = 10     // NFTA_CHAIN_FLAGS
	nftaHookNumber   = 1      // NFTA_HOOK_HOOKNUM
	nftaHookPriority = 2      // NFTA_HOOK_PRIORITY
	chainBinding     = 1 << 2 // NFT_CHAIN_BINDING: part of a rule
	setAnonymous     = 1      // NFT_SET_ANONYMOUS: part of a rule
)

// readChains reads the chains.
func (c *Conn) readChains(table *nftables.Table, read *contents) error {
	answers, err := c.listOf(table, unix.NFT_MSG_GETCHAIN)
	if err != nil {
		return err
	}
	read.bases = map[string]base{}
	for _, answer := range answers {
		of, name, flags, b, err := parseChain(answer)
		switch {
		case err != nil:
			return err
		case of != table.Name:
			continue
		case b.kind == "":
			read.chains = append(read.chains, name)
		default:
			read.bases[name] = b
		}
		read.strange = read.strange || flags&chainBinding != 0
	}
	return nil
}

// parseChain reads the table, the name and the flags of a chain. Of a base chain, it reads what that
// is registered with; any other has no kind.
func parseChain(answer netlink.Message) (of, name string, flags uint32, b base, err error) {
	err = eachAttribute(answer, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case nftaTable:
			of = ad.String()
		case unix.NFTA_CHAIN_NAME:
			name = ad.String()
		case nftaChainFlags:
			flags = ad.Uint32()
		case unix.NFTA_CHAIN_TYPE:
			b.kind = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			b.policy = ad.Uint32()
		case unix.NFTA_CHAIN_HOOK:
			ad.Nested(b.readHook)
		}
	})
	return of, name, flags, b, err
}

// readHook reads where a base chain is registered.
func (b *base) readHook(ad *netlink.AttributeDecoder) error {
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case nftaHookNumber:
			b.hook = ad.Uint32()
		case nftaHookPriority:
			b.priority = int32(ad.Uint32())
		}
	}
	return nil
}

// readSets reads the sets and the maps.
func (c *Conn) readSets(table *nftables.Table, read *contents) error {
	answers, err := c.listOf(table, unix.NFT_MSG_GETSET)
	if err != nil {
		return err
	}
	for _, answer := range answers {
		var of, name string
		var flags uint32
		err := eachAttribute(answer, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case nftaTable:
				of = ad.String()
			case unix.NFTA_SET_NAME:
				name = ad.String()
			case unix.NFTA_SET_FLAGS:
				flags = ad.Uint32()
			}
		})
		if err != nil {
			return err
		}
		if of == table.Name {
			read.sets = append(read.sets, name)
			read.strange = read.strange || flags&setAnonymous != 0
		}
	}
	return nil
}

// eachAttribute calls read with each attribute of a message of nf_tables.
func eachAttribute(message netlink.Message, read func(*netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(message.Data[min(nfgenmsgLength, len(message.Data)):])
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		read(ad)
	}
	return ad.Err()
}
