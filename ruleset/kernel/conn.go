package kernel

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// The limits on what waits in the socket. They are only limits: nothing is allocated for
// them. A batch is one datagram, so a whole transaction must fit into the send buffer (but
// see slices.go); one IPv4 address takes 16 bytes of it. The receive buffer holds one small
// answer per refused message. When it is full, later answers are dropped. NETLINK_NO_ENOBUFS
// makes that silent, so that the first refusal is never hidden behind an ENOBUFS.
const (
	sendBuffer    = 512 << 20
	receiveBuffer = 16 << 20
)

// Options say where the tables are, and what Open has to try besides what every
// table needs.
type Options struct {
	// NetNS is the descriptor of a network namespace. It is used only while
	// Open runs. 0: the namespace of the calling thread.
	NetNS int
	// Table is the tables' name; empty: nft.TableName.
	Table string
	// Guard: there will be a table of family bridge (ruleset.BuildGuard).
	Guard bool
	// Masquerade: the table of family inet will masquerade (ruleset.Options).
	Masquerade bool
	// SourceCheck: the table of family inet will check sources (ruleset.Options).
	SourceCheck bool
	// MaxConnections: the table of family inet will have a bound on a pod's connections
	// (ruleset.Options).
	MaxConnections bool
	// Log: the table of family inet will tell denied packets to an nflog group (ruleset.Options).
	Log bool
	// Queue: the table of family inet will queue packets (ruleset.BuildNames).
	Queue bool
	// Own: the connection is to own the tables, where the kernel can do that without removing
	// them when the connection ends. Until it ends, the kernel then refuses to anybody else
	// what would change them.
	Own bool
}

// Conn is a connection to the nf_tables of one network namespace. It may be
// used from several goroutines; they take turns.
type Conn struct {
	// name is the name of the tables.
	name string
	// owns: the connection owns the tables that it makes.
	owns bool
	// queues is how rules queue packets.
	queues queueing

	// sending counts the beginnings and the ends of what is sent to the kernel, so that it is odd
	// while the kernel may be preparing a transaction. Reader looks at it without waiting for mu.
	sending atomic.Uint64

	mu     sync.Mutex
	socket *netlink.Conn
	// library makes messages, and made are the messages that it made for a batch; see batchOf.
	library *nftables.Conn
	made    []netlink.Message
	// unread: the socket may still hold answers of the last transaction.
	unread bool
	watch  *Watch // nil: nobody watches
	closed bool
}

// Open connects, and tries everything that the table needs, in one transaction that leaves
// nothing behind. It fails with ErrPermission, with ErrUnsupported, or with the error of the
// system call that failed.
func Open(options Options) (*Conn, error) {
	if options.Table == "" {
		options.Table = nft.TableName
	}
	socket, err := dialSocket(options.NetNS)
	if err == nil {
		if err = prepare(socket); err != nil {
			err = errors.Join(err, socket.Close())
		}
	}
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		err = fmt.Errorf("%w: it needs CONFIG_NETFILTER_NETLINK: %w", ErrUnsupported, err)
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: %w", ErrPermission, err)
	}
	if err != nil {
		return nil, &OpError{Op: "connect", Err: err}
	}
	c := &Conn{name: options.Table, socket: socket}
	if err := c.probe(options); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// prepare sets a new socket's options.
func prepare(socket *netlink.Conn) error {
	// This sets SO_SNDBUFFORCE, or SO_SNDBUF without the privilege for that: then the limit is
	// net.core.wmem_max, and a large transaction fails with an error that says so.
	if err := socket.SetWriteBuffer(sendBuffer); err != nil {
		return fmt.Errorf("enlarge the send buffer: %w", err)
	}
	if err := socket.SetReadBuffer(receiveBuffer); err != nil {
		return fmt.Errorf("enlarge the receive buffer: %w", err)
	}
	// A refusal quotes the refused message, up to 64 KiB of elements, unless it
	// is told to quote the header only.
	if err := socket.SetOption(netlink.CapAcknowledge, true); err != nil {
		return fmt.Errorf("set NETLINK_CAP_ACK: %w", err)
	}
	if err := socket.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("set NETLINK_NO_ENOBUFS: %w", err)
	}
	return nil
}

// Apply carries the plan out in one transaction. An empty plan costs nothing.
// It succeeds only if the kernel says so.
//
// An error is an *OpError. Then the table is as it was, unless the error is
// ErrUnknown, and the Conn can go on. If the plan is at fault, and not
// the moment, the error is a *nft.Refusal too. Of several operations that the
// kernel refuses, it names the first.
//
// A plan that is too large for one transaction, that takes base chains from their hooks, or that has new sets of
// ranges, is carried out in several. Packets meet only the effects of the last (see slices.go).
func (c *Conn) Apply(plan nft.Plan) error {
	if plan.Empty() {
		return nil
	}
	err := c.apply(plan)
	if plan.Replace && err == nil {
		return c.tidy(plan.Family)
	}
	return err
}

func (c *Conn) apply(plan nft.Plan) error {
	// unheard suits a replacement, whatever others did to the table before, but an update only
	// where others cannot change the table: it would not know of what they did.
	unheard := plan.Replace && objects(plan) >= unheardReplacement || c.owns && objects(plan) >= unheardOwned
	if plan.Replace {
		if done, err := c.inPlace(plan, unheard); tooLarge(err) || errors.Is(err, errCover) {
			return c.replaceUnderCover(plan)
		} else if done {
			return err
		}
	}
	messages, err := c.encode(c.table(plan.Family), plan)
	if err != nil {
		return err
	}
	if !plan.Replace {
		if first, last := ahead(messages, plan.Ops); len(first) > 0 && len(last) > 0 {
			return c.update(plan, first, last, unheard)
		}
	}
	index, err := c.commit(messages, 0, unheard)
	switch {
	case tooLarge(err) && plan.Replace:
		return c.replaceUnderCover(plan)
	case tooLarge(err):
		return c.updateInSlices(messages, plan.Ops)
	}
	return refusal(messages, index, err)
}

// update carries an update out whose new sets of ranges come first (ahead.go). If the kernel refuses what
// comes then, they are removed again.
func (c *Conn) update(plan nft.Plan, first, last []message, unheard bool) error {
	index, err := c.commit(first, 0, unheard)
	begun := err == nil
	if tooLarge(err) {
		begun, err = c.slices(first)
	} else {
		err = refusal(first, index, err)
	}
	if err == nil {
		if index, err = c.commit(last, 0, unheard); err == nil {
			return nil
		}
		if tooLarge(err) {
			err = c.updateInSlices(last, plan.Ops)
		} else {
			err = refusal(last, index, err)
		}
	}
	if !begun || errors.Is(err, ErrUnknown) {
		return err
	}
	undo := encoder{table: c.table(plan.Family), op: -1}
	for _, op := range plan.Ops {
		if op, is := op.(nft.AddSet); is && op.Type.Interval() {
			if also := undo.encode(nft.DeleteSet{Name: op.Name}); also != nil {
				return errors.Join(err, also)
			}
		}
	}
	if _, also := c.commit(undo.messages, 0, false); also != nil {
		return fmt.Errorf("%w: sets of ranges are left that nothing uses: %w", ErrUnknown, errors.Join(err, also))
	}
	return err
}

// Check has the kernel check the plan as a whole, against the table as it is, and undo
// it, as `nft --check` does. Nobody ever sees any of it. The errors are those of Apply,
// except for what can go wrong only when a transaction comes into force.
func (c *Conn) Check(plan nft.Plan) error {
	messages, err := c.encode(c.table(plan.Family), plan)
	if err != nil || len(messages) == 0 {
		return err
	}
	index, err := c.send(messages, (*Conn).check)
	if tooLarge(err) && plan.Replace {
		return c.checkInSlices(plan)
	}
	return refusal(messages, index, err)
}

// objects is how many objects a plan makes or deletes one by one.
func objects(plan nft.Plan) (n int) {
	for _, op := range plan.Ops {
		switch op := op.(type) {
		case nft.AddElements:
			n += len(op.Elements)
		case nft.DeleteElements:
			n += len(op.Elements)
		case nft.AddTimed:
			n += len(op.Elements)
		case nft.DeleteTimed:
			n += len(op.Elements)
		case nft.AddVerdicts:
			n += len(op.Entries)
		case nft.SetRules:
			n += len(op.Rules)
		default:
			n++
		}
	}
	return n
}

// table is the table of a family.
func (c *Conn) table(family nft.Family) *nftables.Table {
	table := &nftables.Table{Name: c.name, Family: nftables.TableFamilyINet}
	if c.owns {
		table.Flags = owned
	}
	switch family {
	case nft.Inet:
	case nft.Bridge:
		table.Family = nftables.TableFamilyBridge
	default: // it would be taken for a table of another family, and replace that
		panic(fmt.Sprintf("the kernel's room knows of no family %d", uint8(family)))
	}
	return table
}

// Owns reports whether the tables that the connection makes are its own.
func (c *Conn) Owns() bool { return c.owns }

// Uninstall removes the tables with all that is in them. It is no error if a table does not
// exist, or if the kernel does not know its family.
func (c *Conn) Uninstall() error {
	var errs []error
	for _, family := range []nft.Family{nft.Inet, nft.Bridge} {
		for _, suffix := range []string{"", standbySuffix, trialSuffix, stagedSuffix, stagedSuffix + standbySuffix, stagedSuffix + trialSuffix, namesSuffix, namesSuffix + standbySuffix, namesSuffix + trialSuffix} {
			_, err := c.commit([]message{deleteTable(c.aside(family, suffix))}, 0, false)
			if errors.Is(err, ErrPermission) { // the capability is not missing: Open has tried
				return fmt.Errorf("the agent that runs here owns the table: stop it first: %w", err)
			}
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Close closes the connection; the table stays. Closing twice is no error.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if err := c.socket.Close(); err != nil {
		return &OpError{Op: "close the connection", Err: err}
	}
	return nil
}

// commit carries the messages out as one transaction with a generation (see bracket). If a Watch
// listens, unheard says that it is to get no messages about the transaction (see Conn.unheard). With
// an error comes the index of the message that the kernel refused first, or -1.
func (c *Conn) commit(messages []message, generation uint32, unheard bool) (int, error) {
	return c.send(messages, func(c *Conn, batch []netlink.Message) (int, error) {
		if unheard && c.watch != nil {
			return c.unheard(batch, generation)
		}
		return c.flush(batch, generation)
	})
}

// send makes a batch of the messages and passes it to the function how, which sends it. It
// returns the index and the error that how returns.
func (c *Conn) send(messages []message, how func(*Conn, []netlink.Message) (int, error)) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return -1, &OpError{Op: "apply", Err: ErrClosed}
	}
	all := fmt.Sprintf("apply %d messages", len(messages))
	batch, err := c.batchOf(messages)
	if err != nil {
		return -1, &OpError{Op: all, Err: fmt.Errorf("%w: %w", errEncoding, err)}
	}
	c.sending.Add(1)
	index, err := how(c, batch)
	c.sending.Add(1)
	if err == nil {
		return -1, nil
	}
	if index >= 0 {
		return index, &OpError{Op: messages[index].what(), Err: err}
	}
	return -1, &OpError{Op: all, Err: err}
}
