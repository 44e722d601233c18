package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stream is bytes over one TCP connection.
func (w *wire) stream(b *testing.B) load {
	b.Helper()
	const size = 256 << 10
	listener := w.listen(b, unix.SOCK_STREAM, streamPort)
	var sender int
	must(b, w.client.Do(func() (err error) {
		sender, err = w.connect(unix.SOCK_STREAM, streamPort)
		return err
	}))
	receiver, peer, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	must(b, errors.Join(err, unix.Close(listener)))
	if from := netip.AddrFrom4(peer.(*unix.SockaddrInet4).Addr); from != w.source {
		b.Fatalf("%s takes %s for %s, want %s", w.server, w.client, from, w.source)
	}
	var bytes atomic.Uint64
	var running sync.WaitGroup
	running.Go(func() {
		for buffer := make([]byte, size); ; {
			if _, err := unix.Write(sender, buffer); err != nil {
				return // stopped
			}
		}
	})
	running.Go(func() {
		for buffer := make([]byte, size); ; {
			n, err := unix.Read(receiver, buffer)
			if n <= 0 || err != nil {
				return // stopped
			}
			bytes.Add(uint64(n))
		}
	})
	return load{bytes.Load, func() error {
		err := unix.Shutdown(sender, unix.SHUT_RDWR)
		running.Wait()
		return errors.Join(err, unix.Close(sender), unix.Close(receiver))
	}}
}

// connections are TCP connections without data, as many at once as keep all
// processors busy. The server closes first, so that the client knows that it has
// accepted; then the client resets, so that nothing is left of the connection.
func (w *wire) connections(b *testing.B) load {
	b.Helper()
	var closed atomic.Uint64
	var stopped atomic.Bool
	var clients, servers sync.WaitGroup
	workers := 2 * runtime.GOMAXPROCS(0)
	listeners, errs := make([]int, workers), make([]error, workers)
	for i := range workers {
		listeners[i] = w.listen(b, unix.SOCK_STREAM, workerPort+i)
		servers.Go(func() {
			for {
				conn, _, err := unix.Accept4(listeners[i], unix.SOCK_CLOEXEC)
				if err != nil {
					return // stopped
				}
				unix.Close(conn)
			}
		})
		clients.Go(func() {
			errs[i] = w.client.Do(func() error {
				for !stopped.Load() {
					conn, err := w.connect(unix.SOCK_STREAM, workerPort+i)
					if err != nil {
						return err
					}
					_, err = unix.Read(conn, make([]byte, 1))
					if err := errors.Join(err, unix.Close(conn)); err != nil {
						return err
					}
					closed.Add(1)
				}
				return nil
			})
		})
	}
	return load{closed.Load, func() error {
		stopped.Store(true)
		clients.Wait()
		for _, listener := range listeners {
			errs = append(errs, unix.Shutdown(listener, unix.SHUT_RDWR))
		}
		servers.Wait()
		for _, listener := range listeners {
			errs = append(errs, unix.Close(listener))
		}
		return errors.Join(errs...)
	}}
}

// listen opens a socket of the server's.
func (w *wire) listen(b *testing.B, kind, port int) (fd int) {
	b.Helper()
	must(b, w.server.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, w.address(port)),
		)
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, 128)
		}
		return err
	}))
	return fd
}

func (w *wire) address(port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: port, Addr: w.server.IPs[0].As4()}
}

// connect opens a socket, in the thread's namespace, and connects it to the
// server. A TCP connection is reset when it is closed.
func (w *wire) connect(kind, port int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	return fd, errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Connect(fd, w.address(port)),
	)
}

// datagrams are those of one UDP flow. What counts is that they arrive on the
// server's link; nobody reads them, since a reader that can't keep up would hide
// what rules cost.
func (w *wire) datagrams(b *testing.B) load {
	b.Helper()
	receiver := w.listen(b, unix.SOCK_DGRAM, firstPort)
	var sender int
	must(b, w.client.Do(func() (err error) {
		sender, err = w.connect(unix.SOCK_DGRAM, firstPort)
		return err
	}))
	must(b, establish(sender, receiver))
	var stopped atomic.Bool
	failed := make(chan error, 1)
	go func() {
		batch := newBatch(64, 64)
		for !stopped.Load() {
			if err := batch.send(sender); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	count := func() (packets uint64) {
		must(b, w.server.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err == nil {
				packets = link.Attrs().Statistics.RxPackets
			}
			return err
		}))
		return packets
	}
	return load{count, func() error {
		stopped.Store(true)
		return errors.Join(<-failed, unix.Close(sender), unix.Close(receiver))
	}}
}

// establish sends a datagram there and one back: to connection tracking, a UDP
// flow is established once it has seen both directions. Others may send to the receiver, too.
func establish(sender, receiver int) error {
	own, err := unix.Getsockname(sender)
	if err != nil {
		return fmt.Errorf("ask for the sender's port: %w", err)
	}
	timeout := &unix.Timeval{Sec: 1}
	if err := errors.Join(
		unix.SetsockoptTimeval(sender, unix.SOL_SOCKET, unix.SO_RCVTIMEO, timeout),
		unix.SetsockoptTimeval(receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, timeout),
	); err != nil {
		return err
	}
	octet := make([]byte, 1)
	if _, err := unix.Write(sender, octet); err != nil {
		return fmt.Errorf("send a datagram: %w", err)
	}
	for received := false; !received; {
		_, from, err := unix.Recvfrom(receiver, octet, 0)
		if err != nil {
			return fmt.Errorf("receive a datagram: %w", err)
		}
		of, is := from.(*unix.SockaddrInet4)
		received = is && of.Port == own.(*unix.SockaddrInet4).Port
	}
	if err := unix.Sendto(receiver, octet, 0, own); err != nil {
		return fmt.Errorf("answer a datagram: %w", err)
	}
	if _, err := unix.Read(sender, octet); err != nil {
		return fmt.Errorf("receive the answer: %w", err)
	}
	return nil
}

// batch is datagrams to send at once, by sendmmsg(2), so that what is measured
// is not what the system call costs.
type batch []struct {
	header unix.Msghdr
	length uint32 // struct mmsghdr; the kernel's to set
}

func newBatch(datagrams, size int) batch {
	all := make(batch, datagrams)
	for i := range all {
		iov := &unix.Iovec{Base: &make([]byte, size)[0]}
		iov.SetLen(size)
		all[i].header.Iov = iov
		all[i].header.SetIovlen(1)
	}
	return all
}

func (m batch) send(fd int) error {
	if _, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("sendmmsg: %w", errno)
	}
	return nil
}
