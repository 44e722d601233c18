package kernel

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// A transaction is one datagram to the kernel, and must fit into the socket's send buffer
// (netlink_sendmsg in net/netlink/af_netlink.c). With CAP_NET_ADMIN in the initial user
// namespace the buffer has a gigabyte, which is enough for some fifty million addresses. Without
// that, it is no larger than net.core.wmem_max allows. What is larger is carried out in slices:
// first what no packet meets, in as many transactions as are needed, and then, in a single one,
// what makes packets meet it.
//
// A table in force is replaced under cover of another one in two cases: if it is too large for
// one transaction, and if it has base chains at other hooks, because another version of podfence
// has made it. In the latter case, a packet that is between those hooks when the transaction comes
// into force would otherwise be judged by neither table.

const (
	// standbySuffix ends the name of the table that is in force while the table is replaced.
	standbySuffix = "-standby"
	// trialSuffix ends the name of the table that is checked in slices. It is never in force.
	trialSuffix = "-trial"
	// stagedSuffix and namesSuffix end the names of tables of other connections, which are removed with this one's: they
	// judge nothing (nft.StagedTableName, nft.NamesTableName).
	stagedSuffix, namesSuffix = "-staged", "-names"
)

// tooLarge reports whether an error is that of a transaction that does not fit.
func tooLarge(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

// unmet are the operations of a plan whose effects no packet meets until others are carried out:
// those for new sets with what they hold, and for new chains at no hook with their rules.
func unmet(ops []nft.Op) map[int]bool {
	unmet, made := map[int]bool{}, map[string]bool{} // a chain and a set may have the same name
	for i, op := range ops {
		switch op := op.(type) {
		case nft.AddSet:
			unmet[i], made["set "+op.Name] = true, true
		case nft.AddChain:
			unmet[i], made["chain "+op.Name] = op.Hook == nil, op.Hook == nil
		case nft.AddElements:
			unmet[i] = made["set "+op.Set]
		case nft.AddTimed:
			unmet[i] = made["set "+op.Set]
		case nft.AddVerdicts:
			unmet[i] = made["set "+op.Map]
		case nft.SetRules:
			unmet[i] = made["chain "+op.Chain]
		}
	}
	return unmet
}

// apart divides the messages of a plan. first are the messages of what no packet meets, and those
// about the table itself; last are the others.
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

// slices carries messages out in as few transactions as the socket takes: all in one, or in halves,
// quarters and so on. Begun says that at least one transaction has been carried out.
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

// updateInSlices carries out an update that is too large for one transaction. If it has begun and
// cannot go on, the error is ErrUnknown: there are then sets and chains that nothing uses.
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

// build makes a table by a plan. Its base chains come last, in the transaction that the function
// last carries out. Until then no packet meets any of the table. If there is an error, the table
// was deleted, or is not in force.
func (c *Conn) build(table *nftables.Table, plan nft.Plan, last func([]message) (int, error)) error {
	messages, err := c.encode(table, plan)
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
	if dropErr := c.drop(table); dropErr != nil {
		return errors.Join(err, dropErr)
	}
	return err
}

// drop deletes a table if it exists.
func (c *Conn) drop(table *nftables.Table) error {
	_, err := c.commit([]message{deleteTable(table)}, 0, false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// aside is another table of a family, beside the one that is in force.
func (c *Conn) aside(family nft.Family, suffix string) *nftables.Table {
	table := c.table(family)
	table.Name += suffix
	return table
}

// replaceUnderCover carries out a replacement that is too large for one transaction, or that takes
// base chains from their hooks. While the table is deleted and made again, another table with the
// same content is in force in its place. For a moment both are in force, which is as closed as
// the stricter of them. If it is killed, the next replacement begins with what it leaves: a table
// without base chains counts as no table.
func (c *Conn) replaceUnderCover(plan nft.Plan) error {
	commit := func(messages []message) (int, error) { return c.commit(messages, 0, false) }
	table, standby := c.table(plan.Family), c.aside(plan.Family, standbySuffix)
	current, err := c.contents(table)
	switch {
	case errors.Is(err, unix.ENOENT) || err == nil && len(current.bases) == 0:
		// Nothing is in force, or only the standby that an earlier replacement has left.
	case err != nil:
		return &OpError{Op: fmt.Sprintf("list table %s %s", plan.Family, table.Name), Err: err}
	default:
		// A table that somebody else owns cannot be replaced. Then nothing is begun.
		if _, err := c.send([]message{deleteTable(table)}, (*Conn).check); err != nil {
			return err
		}
		if err := c.build(standby, plan, commit); err != nil {
			return err
		}
	}
	if err := c.build(table, plan, commit); err != nil {
		if current.bases != nil { // the standby has all that the plan makes
			return fmt.Errorf("%w: the table is on standby: %w", ErrUnknown, err)
		}
		return err
	}
	return nil
}

// tidy deletes the tables for standby and trial, once the table itself is in force.
func (c *Conn) tidy(family nft.Family) error {
	for _, suffix := range []string{standbySuffix, trialSuffix} {
		table := c.aside(family, suffix)
		exists, err := c.exists(table)
		if err == nil && exists {
			err = c.drop(table)
		}
		if err != nil {
			return fmt.Errorf("%w: the table is replaced, but table %s is left: %w", ErrUnknown, table.Name, err)
		}
	}
	return nil
}

// exists reports whether a table exists.
func (c *Conn) exists(table *nftables.Table) (bool, error) {
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
