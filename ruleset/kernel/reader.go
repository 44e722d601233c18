package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/kernel/bytecode"
	"github.com/podfence/podfence/ruleset/nft"
)

// Reader reads a Conn's tables back from the kernel, as far as one packet meets them, and runs them. It
// has connections of its own, and takes no lock of the Conn's: neither waits for the other. Its methods
// may be called from any goroutine; they take turns.
type Reader struct {
	conn *Conn
	// netns is where connections are made again; 0: the calling thread's. It must stay open.
	netns int

	mu            sync.Mutex
	tables, route *line
}

// OpenReader connects to a network namespace, which must be the Conn's own; options.NetNS must stay open as
// long as the Reader is. It is to be closed before the Conn.
func (c *Conn) OpenReader(options Options) (*Reader, error) {
	r := &Reader{conn: c, netns: options.NetNS, tables: newLine(unix.NETLINK_NETFILTER, options.NetNS), route: newLine(unix.NETLINK_ROUTE, options.NetNS)}
	for _, l := range []*line{r.tables, r.route} {
		if err := l.connect(); err != nil {
			return nil, &OpError{Op: "connect to read the tables back", Err: errors.Join(err, r.Close())}
		}
	}
	return r, nil
}

// Close closes the connections.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.tables.close(), r.route.close())
}

// Trace is what the kernel would do to a packet on its way: to each visit, one after the other, up to
// the first that denies it. All is of one moment: if the ruleset changes meanwhile, all is asked again,
// until ctx is done. The cost depends on how many rules there are in the chains that the packet meets,
// and on how many chains there are, but on no set: of each set that a rule asks, the kernel is asked for
// one element.
//
// An error means that there is no verdict. It names the rule, if there is one that this program cannot
// judge.
func (r *Reader) Trace(ctx context.Context, way []nft.Visit) (visited []nft.Visited, err error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		visited, stable, err := r.try(ctx, way)
		if stable && err == nil {
			return visited, nil
		}
		if stable && !errors.Is(err, errInterrupted) && !errors.Is(err, unix.EINTR) {
			return nil, &OpError{Op: "read the tables back", Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, &OpError{Op: "read the tables back", Err: errors.Join(fmt.Errorf("the ruleset keeps changing: %w", context.Cause(ctx)), err)}
		case <-time.After(pause):
		}
	}
}

// How long to wait when the ruleset has changed: longer each time.
const firstPause, longestPause = 2 * time.Millisecond, 500 * time.Millisecond

// try is Trace, once. It is not stable if the ruleset has changed meanwhile, or if a transaction was
// under way: a set may then hide elements that are in force behind elements that are not yet
// (__nft_rbtree_get in net/netfilter/nft_set_rbtree.c). Of the transactions of others, which can change
// podfence's tables only where they have no owner, it sees those alone that end meanwhile.
func (r *Reader) try(ctx context.Context, way []nft.Visit) (visited []nft.Visited, stable bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sending := r.conn.sending.Load()
	if sending%2 != 0 {
		return nil, false, nil
	}
	before, err := generationOf(r.tables)
	if err != nil {
		return nil, true, err
	}
	visited, err = r.run(ctx, way)
	after, also := generationOf(r.tables)
	if also != nil {
		return nil, true, also
	}
	return visited, before == after && sending == r.conn.sending.Load() && !errors.Is(err, errStandby), err
}

// errStandby: the table is being replaced, and meanwhile another one of the same rules is in force.
var errStandby = errors.New("the table is being replaced")

// replaced reports errStandby while there is the table that is in force while the table of a family is
// replaced.
func (r *Reader) replaced(family nft.Family) error {
	aside := r.conn.aside(family, standbySuffix)
	t := &readTable{line: r.tables, name: aside.Name, family: byte(aside.Family)}
	err := t.ask(unix.NFT_MSG_GETTABLE, nil, func(netlink.Message) error { return errStandby })
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// run runs the packet at all its visits. The caller holds mu.
func (r *Reader) run(ctx context.Context, way []nft.Visit) (visited []nft.Visited, err error) {
	read := map[nft.Family]*readTable{}
	for _, visit := range way {
		t := read[visit.Family]
		if t == nil {
			if err := r.replaced(visit.Family); err != nil {
				return nil, err
			}
			if t, err = r.table(ctx, visit.Family); err != nil {
				return nil, err
			}
			read[visit.Family] = t
		}
		trace, err := bytecode.Run(t, visit.Family, t.at(visit.Hook), visit.Packet)
		if err != nil {
			return nil, fmt.Errorf("table %s %s: %w", visit.Family, r.conn.name, err)
		}
		visited = append(visited, nft.Visited{Visit: visit, Table: t.there, ReadTrace: trace})
		if trace.Verdict != nft.Accept {
			break
		}
	}
	return visited, nil
}

// generationOf is the ruleset's generation.
func generationOf(l *line) (generation uint32, err error) {
	err = l.ask(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request | netlink.Acknowledge},
		Data:   nfgenmsg(unix.AF_UNSPEC),
	}, func(m netlink.Message) error {
		return eachAttribute(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_GEN_ID {
				generation = ad.Uint32()
			}
		})
	})
	if err == nil && generation == 0 {
		err = errors.New("the kernel does not say which generation the ruleset has")
	}
	return generation, err
}

// readTable is a table as far as it has been read. It implements bytecode.Ruleset, for a caller that
// holds the Reader's mu.
type readTable struct {
	ctx    context.Context // of the question
	line   *line
	name   string
	family byte
	there  bool
	bases  map[string]base
	// rules are as they were read: what is made of one takes ten times the memory, and is let go when the next
	// is run.
	rules map[string][][]byte
	sets  map[string]setKind
}

// table begins to read the table of a family: its base chains.
func (r *Reader) table(ctx context.Context, family nft.Family) (*readTable, error) {
	t := &readTable{
		ctx: ctx, line: r.tables, name: r.conn.name, family: byte(r.conn.table(family).Family),
		bases: map[string]base{}, rules: map[string][][]byte{}, sets: map[string]setKind{},
	}
	var flags uint32
	err := t.ask(unix.NFT_MSG_GETTABLE, nil, func(m netlink.Message) error {
		t.there = true
		return eachAttribute(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_TABLE_FLAGS {
				flags = ad.Uint32()
			}
		})
	})
	const dormant = 1 // NFT_TABLE_F_DORMANT
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP):
		return t, nil
	case err != nil:
		return nil, err
	case flags&dormant != 0:
		t.there = false
		return t, nil
	}
	return t, t.list(unix.NFT_MSG_GETCHAIN, nil, func(m netlink.Message) error {
		of, name, _, b, err := parseChain(m)
		if err == nil && of == t.name && b.kind != "" {
			t.bases[name] = b
		}
		return err
	})
}

// request is a request about the table, with attributes after its name.
func (t *readTable) request(kind netlink.HeaderType, attributes []netlink.Attribute) (netlink.Message, error) {
	all, err := netlink.MarshalAttributes(append([]netlink.Attribute{{Type: nftaTable, Data: append([]byte(t.name), 0)}}, attributes...))
	return netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: netlink.Request}, Data: append(nfgenmsg(t.family), all...),
	}, err
}

// ask asks for one object.
func (t *readTable) ask(kind netlink.HeaderType, attributes []netlink.Attribute, do func(netlink.Message) error) error {
	request, err := t.request(kind, attributes)
	if err != nil {
		return err
	}
	request.Header.Flags |= netlink.Acknowledge
	return t.line.ask(request, do)
}

// list asks for all objects of a kind. It does not ask again if they have changed meanwhile: Trace does.
func (t *readTable) list(kind netlink.HeaderType, attributes []netlink.Attribute, do func(netlink.Message) error) error {
	request, err := t.request(kind, attributes)
	if err != nil {
		return err
	}
	request.Header.Flags |= netlink.Dump
	return t.line.ask(request, do)
}

// conntrackPriority is where connection tracking looks at packets of a table of family inet; before it,
// none has a flow (NF_IP_PRI_CONNTRACK).
const conntrackPriority = -200

// at are the base chains of a hook, in the order in which packets meet them.
func (t *readTable) at(hook nft.HookPoint) (bases []bytecode.Base) {
	number := uint32(*hooks[hook])
	for name, b := range t.bases {
		if b.hook == number {
			bases = append(bases, bytecode.Base{
				Chain: name, Priority: b.priority, NAT: b.kind == "nat", Drop: b.policy == 0, // NF_DROP
				Untracked: t.family == unix.NFPROTO_INET && b.priority <= conntrackPriority,
			})
		}
	}
	slices.SortFunc(bases, func(a, b bytecode.Base) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Chain, b.Chain))
	})
	return bases
}

// Rules implements bytecode.Ruleset.
func (t *readTable) Rules(chain string) iter.Seq2[bytecode.Rule, error] {
	return func(yield func(bytecode.Rule, error) bool) {
		rules, err := t.readRules(chain)
		if err != nil {
			yield(bytecode.Rule{}, err)
			return
		}
		for _, raw := range rules {
			if !yield(bytecode.ParseRule(raw)) {
				return
			}
		}
	}
}

// readRules reads the rules of a chain, once.
func (t *readTable) readRules(chain string) (rules [][]byte, err error) {
	if rules, known := t.rules[chain]; known {
		return rules, nil
	}
	err = t.list(unix.NFT_MSG_GETRULE, []netlink.Attribute{{Type: unix.NFTA_RULE_CHAIN, Data: append([]byte(chain), 0)}}, func(m netlink.Message) error {
		// What is read is valid only during this call.
		rules = append(rules, slices.Clone(m.Data[min(nfgenmsgLength, len(m.Data)):]))
		return t.ctx.Err()
	})
	if err == nil {
		t.rules[chain] = rules
	}
	return rules, err
}
