package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

const (
	// watchBuffer is only a limit: nothing is allocated for it. The messages of every transaction
	// of the namespace pass through the buffer, also those of kube-proxy's.
	watchBuffer = 32 << 20
	// authorTimeout is how long to wait for the message that says who made a transaction. It
	// comes from the same system call as those before it; the wait is in case it does not come.
	authorTimeout = time.Second
	// maxNoticed is how many transactions of others are kept one by one until they are taken.
	maxNoticed = 16
)

// A Watch notices what others do to the tables of a Conn.
//
// The kernel tells a multicast group of each change, and at the end of each transaction who made
// it. What the Conn itself does is recognised by its socket's port id, which is in every message. It
// cannot be recognised by the process id, because podfence does not know its own as the kernel
// tells it.
type Watch struct {
	tables map[byte]string // by family, as text
	name   string
	// owned: the connection owns the tables.
	owned  bool
	socket *netlink.Conn
	// tampered holds a token while there may be something to take.
	tampered chan struct{}
	ended    chan struct{}

	mu      sync.Mutex
	noticed []nft.Tampering
	err     error
}

// Watch starts to watch, until Close. One Conn has one Watch, made before its
// first Apply. What was done to the tables before is not noticed.
func (c *Conn) Watch(options Options) (*Watch, error) {
	socket, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: options.NetNS})
	if err != nil {
		return nil, &OpError{Op: "connect to watch", Err: err}
	}
	w := &Watch{
		name:     c.name,
		owned:    c.owns,
		tables:   map[byte]string{unix.NFPROTO_INET: "table inet " + c.name},
		socket:   socket,
		tampered: make(chan struct{}, 1),
		ended:    make(chan struct{}),
	}
	if options.Guard {
		w.tables[unix.NFPROTO_BRIDGE] = "table bridge " + c.name
	}
	if err := w.listen(c.socket.PID()); err != nil {
		return nil, &OpError{Op: "watch", Err: errors.Join(err, socket.Close())}
	}
	c.mu.Lock()
	c.watch = w
	c.mu.Unlock()
	go w.read()
	return w, nil
}

// listen joins the group, and filters out the messages about what the port own has done.
func (w *Watch) listen(own uint32) error {
	if err := w.socket.SetReadBuffer(watchBuffer); err != nil {
		return fmt.Errorf("enlarge the receive buffer: %w", err)
	}
	// The kernel packs messages of one transaction together, but never those of two. nlmsg_pid is in
	// the host's byte order, and the filter loads it in network order.
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, own)), SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1<<32 - 1},
	})
	if err != nil {
		return err
	}
	if err := w.socket.SetBPF(filter); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	return w.join()
}

func (w *Watch) join() error { return w.socket.JoinGroup(unix.NFNLGRP_NFTABLES) }

// Tampered gets a token when there is something to Take.
func (w *Watch) Tampered() <-chan struct{} { return w.tampered }

// Take hands out what others have done since the last call, one Tampering for each transaction. If
// there is an error, the watch has ended, and nothing is noticed any more.
func (w *Watch) Take() ([]nft.Tampering, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	noticed := w.noticed
	w.noticed = nil
	return noticed, w.err
}

// Close ends the watch.
func (w *Watch) Close() error {
	err := w.socket.Close()
	<-w.ended
	if err != nil {
		return &OpError{Op: "close the watch", Err: err}
	}
	return nil
}

// read reads until the socket is closed.
func (w *Watch) read() {
	defer close(w.ended)
	var touched nft.Tampering // by the transaction whose messages are coming
	for {
		messages, err := w.socket.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// The buffer was full, or memory was short. What was lost is not known: perhaps the end
			// of a transaction that has begun. But if the tables are owned, nobody else can have
			// changed them: the messages were about another table, such as a large one of
			// kube-proxy's.
			if !w.owned {
				w.lose()
			}
			touched = nft.Tampering{}
			_ = w.socket.SetReadDeadline(time.Time{})
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.notice(touched) // nobody knows who made it
			touched = nft.Tampering{}
			_ = w.socket.SetReadDeadline(time.Time{})
			continue
		case err != nil:
			w.fail(err)
			return
		}
		for _, message := range messages {
			if message.Header.Type != newGeneration {
				if change := w.change(message); change != "" {
					touched.Add(change)
				}
				continue
			}
			if len(touched.Changes) > 0 {
				touched.PID, touched.Process = author(message)
				w.notice(touched)
				touched = nft.Tampering{}
				_ = w.socket.SetReadDeadline(time.Time{})
			}
		}
		if len(touched.Changes) > 0 {
			_ = w.socket.SetReadDeadline(time.Now().Add(authorTimeout))
		}
	}
}

// notice keeps a transaction until it is taken. No more than maxNoticed are kept one by one: if there
// are many, they repeat each other.
func (w *Watch) notice(t nft.Tampering) {
	w.mu.Lock()
	if last := len(w.noticed) - 1; last+1 < maxNoticed {
		w.noticed = append(w.noticed, t)
	} else {
		w.noticed[last].More += len(t.Changes) + t.More
	}
	w.mu.Unlock()
	w.signal()
}

// lose notes that notices may have been lost.
func (w *Watch) lose() { w.notice(nft.Tampering{}) }

func (w *Watch) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = &OpError{Op: "watch", Err: err}
	}
	w.mu.Unlock()
	w.signal()
}

func (w *Watch) signal() {
	select {
	case w.tampered <- struct{}{}:
	default:
	}
}

// newGeneration is the type of the message that ends a transaction.
const newGeneration = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN)

// author reads which process has made a transaction, from the message that ends it.
func author(message netlink.Message) (pid uint32, process string) {
	ad, err := netlink.NewAttributeDecoder(message.Data[min(nfgenmsgLength, len(message.Data)):])
	if err != nil {
		return 0, ""
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_GEN_PROC_PID:
			pid = ad.Uint32()
		case unix.NFTA_GEN_PROC_NAME:
			process = ad.String()
		}
	}
	return pid, process
}

// changeKinds are the types of messages about changes: what each says was done, and which attribute
// names the changed object. The name of the table is attribute 1 in all of them (enum
// nft_*_attributes in include/uapi/linux/netfilter/nf_tables.h).
var changeKinds = map[netlink.HeaderType]struct {
	what string
	name uint16
}{
	unix.NFT_MSG_NEWTABLE:     {"add ", 0},
	unix.NFT_MSG_DELTABLE:     {"delete ", 0},
	unix.NFT_MSG_NEWCHAIN:     {"add chain", unix.NFTA_CHAIN_NAME},
	unix.NFT_MSG_DELCHAIN:     {"delete chain", unix.NFTA_CHAIN_NAME},
	unix.NFT_MSG_NEWRULE:      {"add rule in chain", unix.NFTA_RULE_CHAIN},
	unix.NFT_MSG_DELRULE:      {"delete rule in chain", unix.NFTA_RULE_CHAIN},
	unix.NFT_MSG_NEWSET:       {"add set", unix.NFTA_SET_NAME},
	unix.NFT_MSG_DELSET:       {"delete set", unix.NFTA_SET_NAME},
	unix.NFT_MSG_NEWSETELEM:   {"add element of set", unix.NFTA_SET_ELEM_LIST_SET},
	unix.NFT_MSG_DELSETELEM:   {"delete element of set", unix.NFTA_SET_ELEM_LIST_SET},
	unix.NFT_MSG_NEWOBJ:       {"add object", unix.NFTA_OBJ_NAME},
	unix.NFT_MSG_DELOBJ:       {"delete object", unix.NFTA_OBJ_NAME},
	unix.NFT_MSG_NEWFLOWTABLE: {"add flowtable", flowtableName},
	unix.NFT_MSG_DELFLOWTABLE: {"delete flowtable", flowtableName},
}

const (
	nftaTable     = 1
	flowtableName = 2 // NFTA_FLOWTABLE_NAME
)

// change says which change a message tells of, if that is a change of the tables; else it is empty. A
// message that it cannot read it takes for such a change.
func (w *Watch) change(message netlink.Message) string {
	if message.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return ""
	}
	if len(message.Data) < nfgenmsgLength {
		return "something"
	}
	table, ours := w.tables[message.Data[0]]
	if !ours {
		return ""
	}
	kind, known := changeKinds[message.Header.Type&0xff]
	if !known {
		kind.what = fmt.Sprintf("message %d about", message.Header.Type&0xff)
	}
	var tableName, name string
	ad, err := netlink.NewAttributeDecoder(message.Data[nfgenmsgLength:])
	if err != nil {
		return kind.what + " something"
	}
	for ad.Next() {
		switch ad.Type() {
		case nftaTable:
			tableName = ad.String()
		case kind.name:
			name = ad.String()
		}
	}
	switch {
	case tableName == "":
		return kind.what + " something"
	case tableName != w.name:
		return ""
	case kind.name == 0:
		return strings.TrimRight(kind.what, " ") + " " + table
	}
	return kind.what + " " + name + " of " + table
}

// A transaction with many objects is carried out unheard, so that the watch gets no messages about it.
// For a replacement, many are unheardReplacement or more; for any change of a table that nobody else
// can change, unheardOwned or more. If the watch listened, the kernel would write a message, of a page,
// for each object before it sends any: that makes a thousand elements take two thirds longer. Where
// others can change the tables, a replacement of fewer objects is heard, because what others do to
// the other table in that moment would be missed.
const unheardReplacement, unheardOwned = 2000, 100

// unheard has flush carry a transaction out while the watch is out of the group, so that the kernel
// writes no messages about it. By the generation, which each transaction counts up, it finds out
// whether somebody else's transaction came in between. What others did to the table before a
// replacement does not matter, and to a table that is owned they can do nothing. A batch with a
// generation is refused if the ruleset has another by then.
func (c *Conn) unheard(batch []netlink.Message, generation uint32) (int, error) {
	if err := c.watch.socket.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return c.flush(batch, generation)
	}
	var (
		before = generation
		askErr error
		index        = -1
		err    error = unix.ERESTART
	)
	if generation != 0 {
		index, err = c.flush(batch, generation)
	}
	// The kernel refuses the batch if another transaction was faster since the generation was asked
	// for.
	for attempt := 0; generation == 0 && attempt < 3 && errors.Is(err, unix.ERESTART); attempt++ {
		if before, askErr = c.generation(); askErr != nil {
			break
		}
		index, err = c.flush(batch, before)
	}
	if err := c.watch.join(); err != nil {
		c.watch.fail(err)
	}
	if generation == 0 && errors.Is(err, unix.ERESTART) {
		return c.flush(batch, 0) // heard
	}
	if err != nil {
		return index, err
	}
	if c.owns {
		return -1, nil // whoever came in between, perhaps kube-proxy, did not change this table
	}
	if after, err := c.generation(); err != nil || after != next(before) {
		c.watch.lose()
	}
	return -1, nil
}

// generation asks for the generation of the ruleset.
func (c *Conn) generation() (generation uint32, err error) {
	answers, err := ask(c.socket, netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   nfgenmsg(unix.AF_UNSPEC),
	})
	if err != nil {
		return 0, err
	}
	for _, answer := range answers {
		ad, err := netlink.NewAttributeDecoder(answer.Data[min(nfgenmsgLength, len(answer.Data)):])
		if err != nil {
			return 0, err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				generation = ad.Uint32()
			}
		}
		if err := ad.Err(); err != nil {
			return 0, err
		}
	}
	if generation == 0 {
		return 0, errors.New("the kernel does not say which generation it is")
	}
	return generation, nil
}

// next is the generation after another. No generation is 0.
func next(generation uint32) uint32 { return max(generation+1, 1) }
