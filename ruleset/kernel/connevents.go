package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

const (
	// connEventsBuffer is only a limit: nothing is allocated for it. An event takes less than a kilobyte of
	// it, so it holds some twenty thousand.
	connEventsBuffer = 16 << 20
	// gathering is for how long events may gather before they are read. Being woken for each costs more
	// than reading it.
	gathering = 5 * time.Millisecond
	// eventsAtOnce is how many events are read before anything else is looked at.
	eventsAtOnce = 1024
	// localFor is for how long the namespace's own addresses are taken to stay the same.
	localFor = time.Second

	settingEvents = "net/netfilter/nf_conntrack_events"
	settingCounts = "net/netfilter/nf_conntrack_acct"
)

// ErrNoConnEvents says that the kernel tells of no connections.
var ErrNoConnEvents = errors.New("the kernel tells nobody of connections")

// ConnEvents hears from connection tracking, in one network namespace, which connections begin and end; but
// only while somebody observes. At other times there is no socket, and since Linux 5.19, with
// net.netfilter.nf_conntrack_events=2, the kernel does not even make events. With 1 it makes them at all
// times, whoever listens, and with 0 at none.
//
// Begun is told of when the first packet has left the node, or was delivered on it: what rules have dropped
// is no connection. Observing begins in the middle of connections: with 2, those that have begun before are
// not told of when they end.
//
// Its methods may be called from any goroutine.
type ConnEvents struct {
	settings settings
	lost     atomic.Uint64
	// observing has a token while somebody observes, who has the sample.
	observing chan struct{}
	sample    *connSample
}

// OpenConnEvents prepares to observe; it connects to nothing yet. procSys is where sysctls can be written.
// limit is how many events a second are told: of more, those of a sample of the connections are. It must be
// positive. It fails if the network namespace cannot be kept.
func OpenConnEvents(options Options, procSys string, limit int) (*ConnEvents, error) {
	c := &ConnEvents{settings: settings{proc: procSys}, sample: newConnSample(limit), observing: make(chan struct{}, 1)}
	if options.NetNS != 0 {
		netns, err := unix.FcntlInt(uintptr(options.NetNS), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, &OpError{Op: "keep the network namespace", Err: err}
		}
		c.settings.netns = netns
	}
	return c, nil
}

// Close lets go of the network namespace. Nobody may observe any more.
func (c *ConnEvents) Close() error {
	if c.settings.netns == 0 {
		return nil
	}
	return unix.Close(c.settings.netns)
}

// Lost is how many events the kernel could not deliver, of all that were observed, because they came faster
// than they were read.
func (c *ConnEvents) Lost() uint64 { return c.lost.Load() }

// Observe calls tell with each event, in order, until ctx is done. The event is valid during the call only.
// Before the first it calls began once it listens; uncounted then says why packets and bytes are not
// counted; nil: they are, of the connections that begin from now on. For that, the setting
// net.netfilter.nf_conntrack_acct is switched on if it was off, and stays on: nobody can tell who else relies on
// it by the end, as whoever finds it on, or switches it on once more, leaves no trace.
//
// An error says why it does not listen, or does no longer; ErrNoConnEvents is one. There is one observer at
// a time; another waits for its turn.
func (c *ConnEvents) Observe(ctx context.Context, began func(uncounted error), tell func(*nft.ConnEvent)) (err error) {
	select {
	case <-ctx.Done():
		return nil
	case c.observing <- struct{}{}:
	}
	defer func() { <-c.observing }()
	if err := c.speaks(); err != nil {
		return &OpError{Op: "observe connections", Err: err}
	}
	uncounted := c.count()
	r, err := c.listen(tell)
	if err != nil {
		return &OpError{Op: "observe connections", Err: err}
	}
	defer func() { err = errors.Join(err, r.close()) }()
	stop := context.AfterFunc(ctx, func() { _ = r.socket.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	began(uncounted)
	if err := r.read(ctx); ctx.Err() == nil {
		return &OpError{Op: "observe connections", Err: err}
	}
	return nil
}

// speaks fails if the kernel is set to tell nobody of connections, or cannot.
func (c *ConnEvents) speaks() error {
	value, err := c.settings.read(settingEvents)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: it needs CONFIG_NF_CONNTRACK_EVENTS, and connection tracking in this network namespace: %w", ErrNoConnEvents, err)
	case err == nil && value == "0":
		return fmt.Errorf("%w, as net.netfilter.nf_conntrack_events is 0: sysctl -w net.netfilter.nf_conntrack_events=2, or 1 before Linux 5.19", ErrNoConnEvents)
	case err != nil:
		return err
	}
	line := newLine(unix.NETLINK_NETFILTER, c.settings.netns)
	err = line.dump(netlink.Message{Header: netlink.Header{Type: ctMessageGetStats}, Data: nfgenmsg(unix.AF_UNSPEC)}, ignore)
	return errors.Join(noConntrack(err), line.close())
}

// count has the kernel count packets and bytes of connections, from now on.
func (c *ConnEvents) count() error {
	value, err := c.settings.read(settingCounts)
	if err == nil && value == "0" {
		err = c.settings.write(settingCounts, "1")
	}
	if err != nil {
		return fmt.Errorf("packets and bytes of connections are not counted (sysctl -w net.netfilter.nf_conntrack_acct=1 on the node has them counted): %w", err)
	}
	return nil
}

// connReader reads events for one observer.
type connReader struct {
	socket *datagrams
	tell   func(*nft.ConnEvent)
	sample *connSample
	event  nft.ConnEvent // the one that is told of
	// own are the namespace's own addresses, as they were at listed.
	routes *judging
	own    *netipx.IPSet
	listed time.Time
	// dropped is what the kernel counts of the socket, of which lost was told.
	dropped uint32
	lost    *atomic.Uint64
}

// listen connects, and joins the groups.
func (c *ConnEvents) listen(tell func(*nft.ConnEvent)) (*connReader, error) {
	r := &connReader{tell: tell, sample: c.sample, routes: &judging{route: newLine(unix.NETLINK_ROUTE, c.settings.netns)}, lost: &c.lost}
	var err error
	if r.own, err = r.routes.localRanges(); err != nil {
		return nil, errors.Join(fmt.Errorf("list the node's addresses: %w", err), r.routes.route.close())
	}
	r.listed = time.Now()
	if r.socket, err = dialDatagrams(unix.NETLINK_NETFILTER, c.settings.netns); err != nil {
		return nil, errors.Join(err, r.routes.route.close())
	}
	if err := r.socket.SetReadBuffer(connEventsBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("enlarge the receive buffer: %w", err), r.close())
	}
	for _, group := range []uint32{unix.NFNLGRP_CONNTRACK_NEW, unix.NFNLGRP_CONNTRACK_DESTROY} {
		if err := r.socket.JoinGroup(group); err != nil {
			return nil, errors.Join(fmt.Errorf("join the group %d of netfilter: %w", group, err), r.close())
		}
	}
	return r, nil
}

func (r *connReader) close() error { return errors.Join(r.socket.Close(), r.routes.route.close()) }

// read reads until ctx is done, or until that fails.
func (r *connReader) read(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		more, err := r.batch()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		if more {
			continue
		}
		pause.Reset(gathering)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pause.C:
		}
	}
}

// batch waits for events up to the read deadline, and tells those that are there, but eventsAtOnce at most; then
// there may be more. ENOBUFS says that the buffer was full meanwhile. What was lost by that is counted in
// any case.
func (r *connReader) batch() (more bool, err error) {
	var failed error
	err = r.socket.raw.Read(func(fd uintptr) bool {
		for n := range eventsAtOnce {
			// Not recvmsg, which allocates the sender's address.
			size, err := unix.Read(int(fd), r.socket.buffer)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return n > 0
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				failed = err
				return true
			case n == 0:
				r.sample.at(time.Now())
			}
			r.datagram(r.socket.buffer[:size])
		}
		more = true
		return true
	})
	return more, errors.Join(err, failed, r.countLost())
}

// datagram tells the events of a datagram that are in the sample. What cannot be read counts as lost.
func (r *connReader) datagram(datagram []byte) {
	var err error
	r.socket.messages, err = appendMessages(r.socket.messages[:0], datagram)
	if err != nil {
		r.lost.Add(1)
		return
	}
	for _, m := range r.socket.messages {
		if !r.sample.has(connTuple(m.Data)) {
			continue
		}
		now := time.Now()
		if !parseConnEvent(m.Header.Type, m.Data, now, &r.event) {
			r.lost.Add(1)
			continue
		}
		r.event.SampledOf, r.event.Hook = r.sample.of, r.hook(now)
		r.tell(&r.event)
	}
}

// hook says at which hook the event's connection was judged. If the namespace's addresses cannot be listed
// anew, those that were known still count.
func (r *connReader) hook(now time.Time) nft.HookPoint {
	if now.Sub(r.listed) >= localFor {
		if own, err := r.routes.localRanges(); err == nil {
			r.own = own
		}
		r.listed = now
	}
	switch {
	case r.own.Contains(r.event.Original.Src.Addr()):
		return nft.Output
	case r.own.Contains(r.event.Reply.Src.Addr()):
		return nft.Input
	}
	return nft.Forward
}

// countLost adds what the kernel has dropped since the last time.
func (r *connReader) countLost() error {
	dropped, err := droppedOf(r.socket)
	if err != nil {
		return err
	}
	r.lost.Add(uint64(dropped - r.dropped))
	r.dropped = dropped
	return nil
}

// droppedOf is how many datagrams for a socket the kernel has dropped because its buffer was full. It wraps
// round.
func droppedOf(d *datagrams) (dropped uint32, err error) {
	const fields, drops = 9, 8 // SK_MEMINFO_VARS and SK_MEMINFO_DROPS in include/uapi/linux/sock_diag.h
	var info [fields * 4]byte
	length := uint32(len(info))
	var errno error
	err = d.raw.Control(func(fd uintptr) {
		if _, _, no := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&length)), 0); no != 0 {
			errno = os.NewSyscallError("getsockopt", no)
		}
	})
	if err := errors.Join(err, errno); err != nil {
		return 0, fmt.Errorf("ask how many events were lost: %w", err)
	}
	return binary.NativeEndian.Uint32(info[drops*4:]), nil
}
