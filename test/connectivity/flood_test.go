package connectivity_test

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// target is where a flood goes.
type target struct {
	protocol policy.Protocol
	to       netip.AddrPort
}

// flood is a container that sends from its very first instruction, without a
// pause, whether it has an address and a way yet or not: datagrams and SYNs.
type flood struct {
	// sent is how often the kernel took a packet for sent.
	sent atomic.Int64
	stop atomic.Bool
	done sync.WaitGroup
	err  error
}

// newFlood sends from a host to all targets in turn, until halt.
func newFlood(from *lab.Host, targets []target) *flood {
	f := &flood{}
	started := make(chan struct{})
	f.done.Go(func() {
		f.err = from.Do(func() error {
			close(started)
			return f.send(targets)
		})
	})
	<-started
	return f
}

func (f *flood) send(targets []target) error {
	var datagrams [2]int // by whether the target is IPv6
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		datagrams[i] = fd
	}
	for round := 0; !f.stop.Load(); round++ {
		for i, t := range targets {
			var err error
			switch {
			case t.protocol == policy.UDP && t.to.Addr().Is4():
				err = unix.Sendto(datagrams[0], []byte("flood"), 0, sockaddr(t.to))
			case t.protocol == policy.UDP:
				err = unix.Sendto(datagrams[1], []byte("flood"), 0, sockaddr(t.to))
			// A socket costs more than a datagram: one of them a round.
			case i == round%len(targets):
				err = syn(t.to)
			default:
				continue
			}
			if err == nil {
				f.sent.Add(1)
			}
		}
		// Faster, it would only take the processor from what it is to race with.
		time.Sleep(200 * time.Microsecond)
	}
	return nil
}

// syn begins to connect, and gives up at once.
func syn(to netip.AddrPort) error {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(to)); !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return nil
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

func (f *flood) halt() error {
	f.stop.Store(true)
	f.done.Wait()
	return f.err
}
