package steady

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

const (
	// keptPort and newPort are open's, sinkPort is that of who should get nothing.
	keptPort, newPort, sinkPort = 7000, 7001, 7002
	// pace is the time between two of each kind.
	pace = 5 * time.Millisecond
	// patience is how long an answer may take; a lost packet is known by the
	// kernel's count, not by time.
	patience = 10 * time.Second
	// drain is how long what has been sent may take to be read in the end, or as long as
	// the slowest exchange took.
	drain = 100 * time.Millisecond
	// maxIncidents are kept of each kind; more are counted.
	maxIncidents = 100_000
)

// forbidden are the ways that are always denied.
var forbidden = []struct{ from, to string }{{Caller, Shut}, {Mute, Caller}}

// Incident is a packet that has passed and should not have, or an exchange that
// was not answered, or not without losses.
type Incident struct {
	// At is when the packet was sent, or the exchange begun, and Until when it had
	// arrived, or been given up.
	At, Until time.Time
	What      string
}

// Counts are what the traffic has come to.
type Counts struct {
	// Kept are exchanges on kept connections, Made new connections that were
	// tried, Denied packets that must not arrive.
	Kept, Made, Denied int64
	// Leaks are of Denied, Breaks of Kept and Made. Late are those of Made that came
	// about, but not at the first attempt.
	Leaks, Breaks, Late []Incident
}

// Traffic is the senders and receivers.
type Traffic struct {
	hosts  map[string]*lab.Host
	report func(Incident)

	began    time.Time
	stop     chan struct{}
	stopping sync.Once
	senders  sync.WaitGroup
	readers  sync.WaitGroup
	sinks    []net.PacketConn
	kept     []net.Listener
	made     []net.Listener

	started                   atomic.Bool
	keeps, makes, denies, got atomic.Int64

	mu                  sync.Mutex
	leaks, breaks, late []Incident
	slowest             time.Duration // of the exchanges that were answered
	err                 error
}

// New opens the receivers on the pods of a lab, and makes sure that what must not
// arrive does as long as there are no rules: else nothing could be told by it.
// Each incident is also reported as it happens, from any goroutine; nil: it is not.
// Stop must be called in the end.
func New(l *lab.Lab, report func(Incident)) (*Traffic, error) {
	t := &Traffic{hosts: map[string]*lab.Host{}, report: report, began: time.Now(), stop: make(chan struct{})}
	for _, name := range names {
		if t.hosts[name] = l.Host(name); t.hosts[name] == nil {
			return nil, fmt.Errorf("steady traffic: the lab has no host %s", name)
		}
	}
	if err := errors.Join(t.listen(), t.unfenced()); err != nil {
		_, stopErr := t.Stop()
		return nil, fmt.Errorf("steady traffic: %w", errors.Join(err, stopErr))
	}
	return t, nil
}

// listen opens what receives.
func (t *Traffic) listen() error {
	for _, ip := range t.hosts[Open].IPs {
		for port, listeners := range map[uint16]*[]net.Listener{keptPort: &t.kept, newPort: &t.made} {
			l, err := listenTCP(t.hosts[Open], netip.AddrPortFrom(ip, port))
			if err != nil {
				return err
			}
			*listeners = append(*listeners, l)
		}
	}
	for _, way := range forbidden {
		for _, ip := range t.hosts[way.to].IPs {
			if err := t.sink(t.hosts[way.to], netip.AddrPortFrom(ip, sinkPort)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sink notes what arrives where nothing should, and answers it.
func (t *Traffic) sink(host *lab.Host, at netip.AddrPort) error {
	return host.Do(func() error {
		conn, err := net.ListenPacket("udp", at.String())
		if err != nil {
			return err
		}
		t.sinks = append(t.sinks, conn)
		t.readers.Go(func() {
			buffer := make([]byte, 16)
			for {
				n, from, err := conn.ReadFrom(buffer)
				var timeout net.Error
				switch {
				case errors.Is(err, net.ErrClosed), errors.As(err, &timeout) && timeout.Timeout():
					return
				case err == nil && n == 8:
					t.arrived(binary.BigEndian.Uint64(buffer), from, at)
					_, _ = conn.WriteTo(buffer[:n], from) // who has closed its socket is not there to tell
				}
			}
		})
		return nil
	})
}

// arrived notes a packet at a sink, which says when it was sent.
func (t *Traffic) arrived(sent uint64, from net.Addr, to netip.AddrPort) {
	t.got.Add(1)
	if t.started.Load() {
		t.note(&t.leaks, Incident{t.began.Add(time.Duration(sent)), time.Now(), fmt.Sprintf("a packet from %s to %s has passed", from, to)})
	}
}

// note keeps an incident.
func (t *Traffic) note(incidents *[]Incident, one Incident) {
	t.mu.Lock()
	if len(*incidents) < maxIncidents {
		*incidents = append(*incidents, one)
	}
	t.mu.Unlock()
	if t.report != nil {
		t.report(one)
	}
}

// unfenced sends a packet each forbidden way and waits until all have arrived.
func (t *Traffic) unfenced() error {
	for _, way := range forbidden {
		for _, ip := range t.hosts[way.to].IPs {
			if err := t.forbid(way.from, ip); err != nil {
				return err
			}
		}
	}
	for end := time.Now().Add(patience); t.got.Load() < t.denies.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("without rules, %d of %d packets arrive: nothing can be told by them", t.got.Load(), t.denies.Load())
		}
	}
	return nil
}

// Start begins the traffic, once rules are in force, until Stop. Flows of before are
// forgotten.
func (t *Traffic) Start() error {
	if err := t.hosts[Open].Node().FlushConntrack(); err != nil {
		return fmt.Errorf("steady traffic: %w", err)
	}
	t.denies.Store(0)
	t.started.Store(true)
	for _, l := range t.kept {
		first, err := t.connect(l)
		if err != nil {
			return fmt.Errorf("steady traffic: %w", err)
		}
		t.senders.Go(func() { t.keep(l, first) })
	}
	t.senders.Go(func() {
		n := 0
		t.steadily(func() error { n++; t.call(t.made[n%len(t.made)]); return nil })
	})
	for _, way := range forbidden {
		to := t.hosts[way.to].IPs
		var flows []net.Conn
		for _, ip := range to {
			flow, err := t.hosts[way.from].Dial(context.Background(), policy.UDP, netip.AddrPortFrom(ip, sinkPort))
			if err != nil {
				return fmt.Errorf("steady traffic: %w", err)
			}
			flows = append(flows, flow)
		}
		t.senders.Go(func() {
			defer func() {
				for _, flow := range flows {
					_ = flow.Close()
				}
			}()
			n := 0
			t.steadily(func() error {
				n++
				return errors.Join(t.forbid(way.from, to[n%len(to)]), t.send(flows[n%len(flows)]))
			})
		})
	}
	return nil
}

// steadily does something at the pace until the end, or an error that is neither a
// leak nor a break: then the traffic says nothing.
func (t *Traffic) steadily(do func() error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			if err := do(); err != nil {
				t.mu.Lock()
				t.err = errors.Join(t.err, err)
				t.mu.Unlock()
				return
			}
		}
	}
}

// forbid sends one packet of a new flow that must not arrive.
func (t *Traffic) forbid(from string, to netip.Addr) error {
	conn, err := t.hosts[from].Dial(context.Background(), policy.UDP, netip.AddrPortFrom(to, sinkPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	return t.send(conn)
}

// send sends one packet that must not arrive, and says in it when.
func (t *Traffic) send(flow net.Conn) error {
	packet := binary.BigEndian.AppendUint64(nil, uint64(time.Since(t.began)))
	_, err := flow.Write(packet)
	t.denies.Add(1)
	return err
}

// Counts are those until now, or until Stop.
func (t *Traffic) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Counts{
		Kept: t.keeps.Load(), Made: t.makes.Load(), Denied: t.denies.Load(),
		Leaks: append([]Incident(nil), t.leaks...), Breaks: append([]Incident(nil), t.breaks...),
		Late: append([]Incident(nil), t.late...),
	}
}

// Advance waits until n more of each kind have been sent, whatever became of them.
func (t *Traffic) Advance(ctx context.Context, n int64) error {
	kinds := [...]*atomic.Int64{&t.keeps, &t.makes, &t.denies}
	var enough [len(kinds)]int64
	for i, kind := range kinds {
		enough[i] = kind.Load() + n
	}
	for i, kind := range kinds {
		for kind.Load() < enough[i] {
			select {
			case <-ctx.Done():
				return fmt.Errorf("steady traffic does not go on: %w", errors.Join(ctx.Err(), t.failure()))
			case <-time.After(pace):
			}
		}
	}
	return nil
}

func (t *Traffic) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Stop ends the traffic, waits for what is under way, and returns what there was.
// With an error, not all of it was sent. It may be called again.
func (t *Traffic) Stop() (Counts, error) {
	t.stopping.Do(func() {
		close(t.stop)
		t.senders.Wait()
		for _, l := range append(t.kept, t.made...) {
			_ = l.Close()
		}
		for _, conn := range t.sinks {
			_ = conn.SetReadDeadline(time.Now().Add(max(drain, t.slowest)))
		}
		t.readers.Wait()
		for _, conn := range t.sinks {
			_ = conn.Close()
		}
	})
	return t.Counts(), t.failure()
}
