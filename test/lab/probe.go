package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
)

// Probe is one packet to send.
type Probe struct {
	From *Host
	// To is where it should arrive. Nil stands for the owner of the packet's
	// destination; if no host of the lab has that address, as with multicast,
	// the probe has arrived when it has arrived anywhere. It must be given
	// where they differ: behind a Service, or at a node's link-local or bridge
	// address.
	To *Host
	// Packet is what to send. A Src that is not From's own is spoofed; the
	// zero Addr stands for From's first address of Dst's family. HopLimit 0
	// stands for 64. Hairpin says nothing here.
	Packet policy.Packet
	// Wire is how it is sent.
	Wire Wire
	// Follows: it is of a flow that has begun before, or about one. What connection tracking
	// knows stays.
	Follows bool
	// Expect says whether it should arrive. It has no influence on the result
	// but on the time spent: only a probe that should arrive and has not is
	// sent again and again.
	Expect bool
}

// Result is what became of a Probe.
type Result struct {
	Probe
	// Arrived says whether the packet has reached To.
	Arrived bool
	// At are all hosts that the packet reached, by name, of those that the
	// batch listened on: the receivers of its probes, and if any of them has
	// none, all hosts. The owner of the source address is left out, as replies
	// quote the packet.
	At []*Host
	// Received is the packet as To has got it: of fragments, the one with the tag. Nil if it has
	// not arrived, or To is a node.
	Received []byte
	// Sent is how many packets were sent; 0 means that the sender's own output
	// hook has dropped them.
	Sent int
}

// AsExpected says whether the packet arrived just if it should.
func (r Result) AsExpected() bool { return r.Arrived == r.Expect }

func (r Result) String() string {
	verdict, expected := "lost", ""
	if r.Arrived {
		verdict = "arrived"
	}
	if !r.AsExpected() {
		expected = ", unexpectedly"
	}
	return fmt.Sprintf("%s: %s%s %s%s", r.From, r.Packet, r.Wire, verdict, expected)
}

// deniedSends is how often a probe is sent before it counts as lost: once
// could be an accident on the way, which would hide that it may pass.
const deniedSends = 2

// Probe sends the probes all together and returns which of them arrived, in
// their order. A batch costs the time to send it (some 20 us a packet) and,
// if any probe does not arrive, twice Options.Settle; if one does not that
// should, up to Options.Patience more. Batches may run concurrently.
//
// Every packet whose Wire has neither SrcPort nor ZeroPort is a new connection, also for connection
// tracking: its source port or ICMP identifier has not been used with its destination before.
// Protocols without ports have one connection per pair of hosts, so for those
// Probe deletes the nodes' entries first, and sends opposite packets one after
// the other.
func (l *Lab) Probe(ctx context.Context, probes []Probe) ([]Result, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return nil, ErrClosed
	}
	b := &batch{lab: l, sent: make(map[*flight]int, len(probes))}
	defer func() { l.tracker.forget(b.flights) }()
	for i, p := range probes {
		if err := b.board(p); err != nil {
			return nil, fmt.Errorf("probe %d, %s: %w", i, p.Packet, err)
		}
	}
	if err := b.listen(); err != nil {
		return nil, err
	}
	for _, wave := range waves(b.flights) {
		if err := b.run(ctx, wave); err != nil {
			return nil, err
		}
	}
	return b.results(), nil
}

// batch is one call of Probe.
type batch struct {
	lab     *Lab
	flights []*flight
	sent    map[*flight]int
	taps    []*socket
}

// board completes a probe and adds it to the batch.
func (b *batch) board(p Probe) error {
	if p.From == nil {
		return errors.New("no sender")
	}
	if p.From.lab != b.lab || (p.To != nil && p.To.lab != b.lab) {
		return errors.New("host of another lab")
	}
	p.Packet.Src, p.Packet.Dst = p.Packet.Src.Unmap(), p.Packet.Dst.Unmap().WithZone("")
	if !p.Packet.Src.IsValid() {
		p.Packet.Src = p.From.IP(p.Packet.Dst)
	}
	if p.To == nil {
		p.To = b.lab.owner(p.Packet.Dst)
	}
	b.flights = append(b.flights, &flight{probe: p, replies: b.lab.owner(p.Packet.Src)})
	return nil
}

// listen opens the receivers before anything is sent.
func (b *batch) listen() error {
	add := func(h *Host, p Probe) error {
		s, err := h.tap(h.tapFor(p.Packet, p.Wire))
		if err != nil {
			return fmt.Errorf("listen on host %s: %w", h.Name, err)
		}
		if !slices.Contains(b.taps, s) {
			b.taps = append(b.taps, s)
		}
		return nil
	}
	for _, f := range b.flights {
		hosts := []*Host{f.probe.To}
		if f.probe.To == nil {
			hosts = b.lab.hosts()
		}
		for _, h := range hosts {
			if err := add(h, f.probe); err != nil {
				return err
			}
		}
	}
	return nil
}

// run sends the flights until each has arrived or counts as lost.
func (b *batch) run(ctx context.Context, wave []*flight) error {
	if err := b.lab.forgetPortless(wave); err != nil {
		return err
	}
	start, settle := time.Now(), b.lab.options.Settle
	for try := 1; ; try++ {
		if err := b.send(ctx, wave); err != nil {
			return err
		}
		if err := b.await(ctx, wave, settle); err != nil {
			return err
		}
		wave = b.lab.tracker.missing(wave)
		if try >= deniedSends {
			wave = slices.DeleteFunc(wave, func(f *flight) bool { return !f.probe.Expect })
			if time.Since(start) >= b.lab.options.Patience {
				return nil
			}
			// The machine may just be busy: give it more time each time.
			settle = min(2*settle, time.Second)
		}
		if len(wave) == 0 {
			return nil
		}
	}
}

// sendsBetweenReads keeps what is under way below the kernel's queue of 1,000
// packets per processor, beyond which it drops them.
const sendsBetweenReads = 64

func (b *batch) send(ctx context.Context, flights []*flight) error {
	for i, f := range flights {
		number := b.lab.sequence.Add(1)
		tag := newTag(b.lab.run, number)
		port := b.lab.tracker.takeOff(f, number)
		packets, err := f.probe.Wire.Packets(f.probe.Packet, port, tag[:])
		if err != nil {
			return err
		}
		for _, packet := range packets {
			if err = f.probe.From.sendIn(f.probe.Wire.Wrap, packet); err != nil {
				break
			}
		}
		if err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("send %s%s from %s: %w", f.probe.Packet, f.probe.Wire, f.probe.From, err)
		}
		if err == nil {
			b.sent[f]++
		}
		if i%sendsBetweenReads == sendsBetweenReads-1 {
			if err := b.read(0); err != nil {
				return err
			}
			if err := b.interrupted(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// await reads until all flights have arrived or nothing has for the settling
// time. A packet for nobody in particular may always arrive at one more host.
func (b *batch) await(ctx context.Context, flights []*flight, settle time.Duration) error {
	// How often to look whether a batch that runs concurrently has read what
	// is ours, or the context has ended.
	const look = 10 * time.Millisecond
	quietAt := time.Now().Add(settle)
	landed := 0
	for {
		remaining := time.Until(quietAt)
		if err := b.read(max(0, min(remaining, look))); err != nil {
			return err
		}
		now, complete := b.lab.tracker.landed(flights)
		if complete {
			return nil
		}
		if now > landed {
			landed, quietAt = now, time.Now().Add(settle)
			continue
		}
		// The last read was after the deadline, however late this goroutine
		// woke: what had arrived by then has been counted.
		if remaining <= 0 {
			return nil
		}
		if err := b.interrupted(ctx); err != nil {
			return err
		}
	}
}

// read waits for packets and counts all there are.
func (b *batch) read(wait time.Duration) error {
	polls := make([]unix.PollFd, len(b.taps))
	for i, s := range b.taps {
		polls[i] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
	}
	// Rounded up, so that a rest below a millisecond does not spin.
	_, err := unix.Poll(polls, int((wait+time.Millisecond-1)/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for packets: %w", err)
	}
	for i, s := range b.taps {
		// At a deadline, also those that another batch may be reading from
		// just now: its lock is waited for.
		if polls[i].Revents == 0 && wait > 0 {
			continue
		}
		if err := b.lab.tracker.drain(s); err != nil {
			return fmt.Errorf("read packets on host %s: %w", s.host, err)
		}
	}
	return nil
}

func (b *batch) interrupted(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("probe: %w", ctx.Err())
	case <-b.lab.stop:
		return fmt.Errorf("probe: %w", ErrClosed)
	default:
		return nil
	}
}

func (b *batch) results() []Result {
	b.lab.tracker.mu.Lock()
	defer b.lab.tracker.mu.Unlock()
	results := make([]Result, len(b.flights))
	for i, f := range b.flights {
		at := slices.Clone(f.at)
		slices.SortFunc(at, func(x, y *Host) int { return strings.Compare(x.Name, y.Name) })
		results[i] = Result{Probe: f.probe, Arrived: f.arrived(), At: at, Received: f.packet, Sent: b.sent[f]}
	}
	return results
}
