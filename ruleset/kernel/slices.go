package kernel

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// A transaction is one message to the kernel, and must fit the socket's send buffer
// (netlink_sendmsg in net/netlink/af_netlink.c). With CAP_NET_ADMIN in the initial user
// namespace that has a gigabyte, some fifty million addresses; without, no more than
// net.core.wmem_max allows. What is larger is carried out in slices: first what no
// packet meets, in as many transactions as that takes, and then in one what has it met.
//
// A table in force is replaced under cover of another, where it is too large for one
// transaction and where it has base chains at other hooks, as another version of podfence
// may have made it: a packet that is between those hooks when the transaction comes into
// force would be judged by neither table.

const (
	// standbySuffix is of the table that is in force while a larger one is replaced.
	standbySuffix = "-standby"
	// trialSuffix is of the table that is checked in slices: it is never in force.
	trialSuffix = "-trial"
)

// tooLarge reports whether an error is of a transaction that does not fit.
func tooLarge(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

// unmet are the operations of a plan that no packet meets until others are carried
// out: new sets with what they hold, and new chains with their rules that are at no hook.
func unmet(ops []nft.Op) map[int]bool {
	unmet, made := map[int]bool{}, map[string]bool{} // chains and sets have names of their own kind
	for i, op := range ops {
		switch op := op.(type) {
		case nft.AddSet:
			unmet[i], made["set "+op.Name] = true, true
		case nft.AddChain:
			unmet[i], made["chain "+op.Name] = op.Hook == nil, op.Hook == nil
		case nft.AddElements:
			unmet[i] = made["set "+op.Set]
		case nft.AddVerdicts:
			unmet[i] = made["set "+op.Map]
		case nft.SetRules:
			unmet[i] = made["chain "+op.Chain]
		}
	}
	return unmet
}

// apart takes the messages of what no packet meets out of a plan's, those of the table
// itself with them.
func apart(messages []message, ops []nft.Op) (first, last []message) {
	unmet := unmet(ops)
	for _, m := range messages {
		if m.op < 0 || unmet[m.op] {
			first = append(first, m)
		} else {
			last = append(last, m)
		}
	}
	return first, last
}

// slices carries messages out in as few transactions of halves, quarters and so on as
// the socket takes. Begun says that one has been carried out.
func (c *Conn) slices(messages []message) (begun bool, err error) {
	if len(messages) == 0 {
		return false, nil
	}
	index, err := c.commit(messages, 0, true)
	if !tooLarge(err) || len(messages) == 1 {
		return err == nil, refusal(messages, index, err)
	}
	half := len(messages) / 2
	if begun, err = c.slices(messages[:half]); err != nil {
		return begun, err
	}
	_, err = c.slices(messages[half:])
	return true, err
}

// updateInSlices carries out an update that is too large for one transaction. What it
// has begun and cannot end is ErrUnknown: sets and chains are left that nothing uses.
func (c *Conn) updateInSlices(messages []message, ops []nft.Op) error {
	first, last := apart(messages, ops)
	begun, err := c.slices(first)
	if err == nil {
		var index int
		if index, err = c.commit(last, 0, false); !tooLarge(err) { // the whole table may well fit
			err = refusal(last, index, err)
		}
	}
	if err != nil && begun {
		return fmt.Errorf("%w: of a transaction in slices only some were carried out: %w", ErrUnknown, err)
	}
	return err
}

// build makes a table by a plan. Its base chains come last, in the transaction that last
// carries out: until then no packet meets any of it. With an error the table is gone, or
// not in force.
func (c *Conn) build(table *nftables.Table, plan nft.Plan, last func([]message) (int, error)) error {
	messages, err := encode(table, plan)
	if err != nil {
		return err
	}
	first, met := apart(messages, plan.Ops)
	_, err = c.slices(first)
	if err == nil && len(met) > 0 {
		var index int
		index, err = last(met)
		err = refusal(met, index, err)
	}
	if err == nil {
		return nil
	}
	if left := c.drop(table); left != nil {
		return errors.Join(err, left)
	}
	return err
}

// drop deletes a table if it is there.
func (c *Conn) drop(table *nftables.Table) error {
	_, err := c.commit([]message{deleteTable(table)}, 0, false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// aside is the table of a family beside that which is in force.
func (c *Conn) aside(family nft.Family, suffix string) *nftables.Table {
	table := c.table(family)
	table.Name += suffix
	return table
}

// replaceUnderCover carries out a replacement that is too large for one transaction, or
// that takes base chains from their hooks. While the table goes and comes again, another
// that is the same is in force in its place; for a moment both are, which is as closed as
// the stricter of them. What it leaves if it is killed is what the next replacement begins
// with: a table without base chains is none.
func (c *Conn) replaceUnderCover(plan nft.Plan) error {
	commit := func(messages []message) (int, error) { return c.commit(messages, 0, false) }
	table, standby := c.table(plan.Family), c.aside(plan.Family, standbySuffix)
	there, err := c.contents(table)
	switch {
	case errors.Is(err, unix.ENOENT) || err == nil && len(there.bases) == 0:
		// Nothing is in force, or what an earlier replacement has left on standby.
	case err != nil:
		return &OpError{Op: fmt.Sprintf("list table %s %s", plan.Family, table.Name), Err: err}
	default:
		// One that somebody else owns cannot be replaced: nothing is begun then.
		if _, err := c.send([]message{deleteTable(table)}, (*Conn).check); err != nil {
			return err
		}
		if err := c.build(standby, plan, commit); err != nil {
			return err
		}
	}
	if err := c.build(table, plan, commit); err != nil {
		if there.bases != nil { // the standby has all of it
			return fmt.Errorf("%w: the table is on standby: %w", ErrUnknown, err)
		}
		return err
	}
	return nil
}

// tidy deletes the tables that slices have been in, once the table is in force.
func (c *Conn) tidy(family nft.Family) error {
	for _, suffix := range []string{standbySuffix, trialSuffix} {
		table := c.aside(family, suffix)
		there, err := c.there(table)
		if err == nil && there {
			err = c.drop(table)
		}
		if err != nil {
			return fmt.Errorf("%w: the table is replaced, but table %s is left: %w", ErrUnknown, table.Name, err)
		}
	}
	return nil
}

// there reports whether there is a table.
func (c *Conn) there(table *nftables.Table) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false, ErrClosed
	}
	_, _, err := c.readTable(table)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// checkInSlices checks a replacement that is too large for one transaction, in a table
// that is never in force.
func (c *Conn) checkInSlices(plan nft.Plan) error {
	table := c.aside(plan.Family, trialSuffix)
	err := c.build(table, plan, func(messages []message) (int, error) { return c.send(messages, (*Conn).check) })
	if err != nil {
		return err
	}
	return c.drop(table)
}
