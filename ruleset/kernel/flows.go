package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// Flows is connection tracking in one network namespace. It marks flows that
// policy no longer allows, which the base chains then drop.
//
// Deleting such a flow's entry does not end it: its next packet makes a new
// entry, perhaps from the other side, whose direction may well be allowed
// (nf_conntrack_tcp_loose). A mark stays with the flow as long as it lasts.
//
// The requests are made here rather than with a library's flow update, because
// that writes back timeout and TCP state as they were when read, replaces the
// whole mark, which others use too, and cannot name an ICMP flow.
//
// A list of flows is read as it comes, and each flow is judged at once: of a million flows, only
// one is in memory.
//
// Revoke, RevokeOf and Forget may be called at the same time. Revoke must be called by only one
// goroutine at a time, and so must RevokeOf.
type Flows struct {
	judging           // Revoke's connections
	judgingOf judging // RevokeOf's connections
	bit       uint32
	// deletions is Forget's connection, which must not wait for a listing of all flows. Whoever
	// uses it holds forgetting. joining is the round of Forget that the next user carries out, and
	// that callers can still join; joiningMu guards it.
	forgetting sync.Mutex
	deletions  *line
	joiningMu  sync.Mutex
	joining    *forgetting
	netns      int // 0: that of the calling thread
}

// judging are the connections that are needed to judge flows: for lists of flows, for requests
// about a single flow meanwhile, and for the node's addresses and sockets.
type judging struct{ listing, marking, route, sockets *line }

func newJudging(netns int) judging {
	return judging{
		listing: newLine(unix.NETLINK_NETFILTER, netns), marking: newLine(unix.NETLINK_NETFILTER, netns),
		route: newLine(unix.NETLINK_ROUTE, netns), sockets: newLine(unix.NETLINK_SOCK_DIAG, netns),
	}
}

func (j *judging) lines() []*line { return []*line{j.listing, j.marking, j.route, j.sockets} }

// OpenFlows connects. bit is the bit of the mark that says that a flow has been revoked. It fails
// with ErrPermission, or with the error of the system call that failed. If the kernel cannot list
// flows, the error says so.
func OpenFlows(options Options, bit uint32) (*Flows, error) {
	f := &Flows{bit: bit}
	if options.NetNS != 0 {
		// The copy is for connections that have to be made again.
		netns, err := unix.FcntlInt(uintptr(options.NetNS), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, &OpError{Op: "keep the network namespace", Err: err}
		}
		f.netns = netns
	}
	f.judging, f.judgingOf, f.deletions = newJudging(f.netns), newJudging(f.netns), newLine(unix.NETLINK_NETFILTER, f.netns)
	for _, l := range []*line{f.listing, f.marking, f.deletions, f.route} {
		if err := l.connect(); err != nil {
			return nil, &OpError{Op: "connect to connection tracking", Err: errors.Join(err, f.Close())}
		}
	}
	// Of all that connection tracking can be asked for, its counters, with one answer for each CPU,
	// are the cheapest.
	err := f.listing.dump(netlink.Message{Header: netlink.Header{Type: ctMessageGetStats}, Data: nfgenmsg(unix.AF_UNSPEC)}, ignore)
	if err != nil {
		return nil, &OpError{Op: "connect to connection tracking", Err: errors.Join(noConntrack(err), f.Close())}
	}
	return f, nil
}

func ignore(netlink.Message) error { return nil }

// Close closes the connections; the marks stay.
func (f *Flows) Close() error {
	f.forgetting.Lock()
	defer f.forgetting.Unlock()
	var errs []error
	for _, l := range slices.Concat(f.lines(), f.judgingOf.lines(), []*line{f.deletions}) {
		errs = append(errs, l.close())
	}
	if f.netns != 0 {
		errs = append(errs, unix.Close(f.netns))
		f.netns = 0
	}
	return errors.Join(errs...)
}

// Revoke judges every flow again. It marks flows that are not allowed, and removes the mark from
// flows that are allowed again. It returns how many flows it changed, not counting TCP
// connections that have ended, which the kernel remembers for a while. judge says whether the
// policies let the first packet of a flow pass a hook. An error means that some flows were not
// judged: if one flow cannot be read or marked, the others still are.
//
// A flow is judged by its original source and its real destination, which after destination NAT
// is the source of the replies. A flow that another flow has announced (such as FTP's data, by
// its control connection) is judged by those of the other flow.
//
// Revoke cannot see three things, which it corrects when it is called again: a flow whose first
// packet was let pass by the rules before a commit, and which is listed only once that packet has
// left the node; a flow that ended after it was listed and began again with the same ports,
// perhaps by NAT to another pod; and a mark that somebody else had read before, and has written
// back without the bit.
func (f *Flows) Revoke(judge func(nft.HookPoint, packet.Packet) bool) (revoked, restored int, err error) {
	return f.revoke(&f.judging, judge, func(do func(flow) error) (listed, unreadable int, err error) {
		return f.listing.flows(nil, do)
	})
}

// judgedInAWalk is how many flows are listed and judged in the time in which the kernel goes
// through a hash table of 262,144 buckets once.
const judgedInAWalk = 2_500

// RevokeOf is Revoke for the flows that one of the addresses has begun, or that lead to one. The
// time that it takes depends little on how many flows others have, because the kernel filters, as
// it does for Forget. A flow that another flow has announced is judged if one of its own ends is
// one of the addresses.
func (f *Flows) RevokeOf(addrs []netip.Addr, judge func(nft.HookPoint, packet.Packet) bool) (revoked, restored int, err error) {
	entries, err := f.judgingOf.listing.entries()
	if err != nil {
		return 0, 0, &OpError{Op: "count flows", Err: err}
	}
	return f.revokeOf(addrs, oneByOne(addrs, entries, judgedInAWalk), judge)
}

// revokeOf looks for the flows of addresses one by one, or in a list of all.
func (f *Flows) revokeOf(addrs []netip.Addr, each bool, judge func(nft.HookPoint, packet.Packet) bool) (revoked, restored int, err error) {
	of := setOf(addrs)
	return f.revoke(&f.judgingOf, judge, func(do func(flow) error) (listed, unreadable int, err error) {
		doOf := func(e flow) error {
			if !e.endsAt(of) {
				return nil
			}
			return do(e)
		}
		if each {
			return f.judgingOf.listing.flowsOfAddrs(addrs, doOf)
		}
		return f.judgingOf.listing.flows(nil, doOf)
	})
}

// revoke judges the flows of a list.
func (f *Flows) revoke(by *judging, judge func(nft.HookPoint, packet.Packet) bool, list func(do func(flow) error) (listed, unreadable int, err error)) (revoked, restored int, err error) {
	local, err := by.localRanges()
	if err != nil {
		return 0, 0, &OpError{Op: "list the node's addresses", Err: err}
	}
	r := &revocation{judgement: judgement{judging: by, local: local}, bit: f.bit, judge: judge}
	listed, unreadable, err := list(r.flow)
	switch {
	case r.broken != nil:
		return r.revoked, r.restored, r.broken
	case err != nil:
		return r.revoked, r.restored, &OpError{Op: "list flows", Err: err}
	case r.failed > 1:
		r.first = fmt.Errorf("%w, and %d more", r.first, r.failed-1)
	case unreadable > 0 && r.first == nil:
		r.first = &OpError{Op: "list flows", Err: fmt.Errorf("%d of %d cannot be read", unreadable, unreadable+listed)}
	}
	return r.revoked, r.restored, r.first
}

// revocation is one Revoke, or RevokeOf.
type revocation struct {
	judgement
	bit   uint32
	judge func(nft.HookPoint, packet.Packet) bool

	revoked, restored, failed int
	first                     error // of those that failed
	broken                    error // the error that ends it
}

// flow judges one, and marks it if need be.
func (r *revocation) flow(entry flow) error {
	judgedBy, err := r.judgedBy(entry)
	if err != nil {
		return r.failure("look for what has announced flow", entry, err)
	}
	entry.packet = judgedBy
	hook := r.hookOf(judgedBy)
	deny := !r.judge(hook, entry.packet)
	if deny == (entry.mark&r.bit != 0) {
		return nil
	}
	if deny && r.passesByProxy(entry, hook, r.judge) {
		return nil
	}
	err = r.mark(entry, deny)
	switch {
	case errors.Is(err, unix.ENOENT): // it has ended meanwhile
	case err != nil:
		return r.failure("mark flow", entry, err)
	case deny && entry.ended: // it is marked, to be safe, but nothing was cut
	case deny:
		r.revoked++
	default:
		r.restored++
	}
	return nil
}

// failure notes that a flow could not be judged. It returns an error if the next flow could not be
// judged either.
func (r *revocation) failure(op string, entry flow, err error) error {
	failed := &OpError{Op: op + " " + entry.packet.String(), Err: err}
	if _, _, said := refusedBy(err); !said {
		r.broken = failed
		return failed
	}
	if r.failed++; r.first == nil {
		r.first = failed
	}
	return nil
}

// mark sets or clears the bit, and no other (ctnetlink_change_mark).
func (r *revocation) mark(entry flow, set bool) error {
	attributes, err := entry.name(entry.tuple)
	if err != nil {
		return err
	}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	bit := r.bit
	if !set {
		bit = 0
	}
	ae.Uint32(ctaMark, bit)
	ae.Uint32(ctaMarkMask, r.bit)
	marks, err := ae.Encode()
	if err != nil {
		return err
	}
	return r.marking.ask(netlink.Message{
		Header: netlink.Header{Type: ctMessageNew, Flags: netlink.Request | netlink.Acknowledge},
		Data:   slices.Concat(nfgenmsg(entry.family), attributes, marks),
	}, ignore)
}
