package lab

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is what every call on a closed Lab, or on a removed Host, returns.
var ErrClosed = errors.New("closed")

// Options are a Lab's settings. The zero value has namespaces without names
// and is right for tests.
type Options struct {
	// Prefix, if not empty, gives each namespace a name under /run/netns,
	// Prefix and the host's name, so that `ip netns exec` can enter it. Without
	// one, the namespaces vanish with the process, however it ends.
	Prefix string
	// Settle is how long nothing more may arrive before a probe that has not
	// arrived counts as lost; 0 is 100 ms. Each lost probe is sent twice, and
	// waits twice.
	Settle time.Duration
	// Patience is how long a batch keeps sending probes that were expected to
	// arrive and have not; 0 is 3 s.
	Patience time.Duration
}

// Lab is a cluster of network namespaces. Its methods, and those of its nodes
// and hosts, may be called concurrently.
type Lab struct {
	options Options
	// run tells this lab's tags from those of others and of earlier ones.
	run uint32

	// mu guards what the lab consists of. A batch of probes holds it for
	// reading, so no host loses its sockets in the middle of one.
	mu     sync.RWMutex
	closed bool
	nodes  []*Node
	peers  int

	// stop is closed first when the lab closes: it ends batches under way.
	stop     chan struct{}
	stopOnce sync.Once

	tracker  tracker
	macs     atomic.Uint32
	sequence atomic.Uint64
}

// New makes an empty Lab.
func New(options Options) (*Lab, error) {
	options.Settle = cmp.Or(options.Settle, 100*time.Millisecond)
	options.Patience = cmp.Or(options.Patience, 3*time.Second)
	if err := Check(); err != nil {
		return nil, err
	}
	return &Lab{
		options: options,
		run:     rand.Uint32(),
		stop:    make(chan struct{}),
		tracker: tracker{flights: map[uint64]*flight{}, ports: map[flow]uint16{}},
	}, nil
}

// Check says why no Lab can be made by this process, or nil.
func Check() error {
	ns, err := newNamespace("")
	if err != nil {
		return fmt.Errorf("network namespaces need root: %w", err)
	}
	return ns.close()
}

// Close removes all nodes and hosts, their servers and their namespaces'
// names. Connections made with Dial are their owners'. It may be called again,
// and on a lab that failed half-way.
func (l *Lab) Close() error {
	l.stopOnce.Do(func() { close(l.stop) })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var hosts []*Host
	for _, n := range l.nodes {
		hosts = append(hosts, n.hosts...)
		hosts = append(hosts, &n.Host)
	}
	// Closing a packet socket waits for all processors: do it for all hosts
	// together.
	errs := make([]error, len(hosts))
	var wait sync.WaitGroup
	for i, h := range hosts {
		wait.Go(func() { errs[i] = h.close() })
	}
	wait.Wait()
	for _, n := range l.nodes {
		n.handle.Close()
	}
	l.nodes = nil
	return errors.Join(errs...)
}

// Hosts returns all nodes and hosts of the lab, in the order they were added.
func (l *Lab) Hosts() []*Host {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.hosts()
}

func (l *Lab) hosts() []*Host {
	var hosts []*Host
	for _, n := range l.nodes {
		hosts = append(hosts, &n.Host)
		hosts = append(hosts, n.hosts...)
	}
	return hosts
}

// Host returns the node or host with this name, or nil.
func (l *Lab) Host(name string) *Host {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.host(name)
}

func (l *Lab) host(name string) *Host {
	for _, h := range l.hosts() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Owner returns the node or host that has this address, or nil.
func (l *Lab) Owner(addr netip.Addr) *Host {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.owner(addr)
}

func (l *Lab) owner(addr netip.Addr) *Host {
	for _, h := range l.hosts() {
		if slices.Contains(h.IPs, addr) {
			return h
		}
	}
	return nil
}

// newcomer checks a name and addresses before a host gets them.
func (l *Lab) newcomer(name string, addrs []netip.Addr) error {
	if l.closed {
		return ErrClosed
	}
	if l.host(name) != nil {
		return errors.New("the name is taken")
	}
	for _, a := range addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("address %q: not a plain unicast address", a)
		}
		if h := l.owner(a); h != nil {
			return fmt.Errorf("address %s: %s has it", a, h.Name)
		}
	}
	return nil
}
