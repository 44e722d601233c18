package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNoSCTP says that the kernel has no sockets for SCTP. Packets of it can be
// crafted, sent and judged all the same.
var ErrNoSCTP = errors.New("the kernel has no SCTP sockets (CONFIG_IP_SCTP, module sctp)")

// CheckSCTP says why no SCTP association can be made, ErrNoSCTP or another
// error, or nil.
func CheckSCTP() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := sctpSocket(family)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

// sctpSocket makes a socket of the one-to-one style (RFC 6458 section 4): what
// TCP's do, it does. The net package knows no SCTP, but takes a socket of any
// stream protocol for one of TCP's, and then only reads, writes, accepts, and
// waits for it.
func sctpSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|socketFlags, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		return -1, fmt.Errorf("%w: %w", ErrNoSCTP, err)
	}
	if err != nil {
		return -1, fmt.Errorf("SCTP socket: %w", err)
	}
	return fd, nil
}

// sctpBound is a socket with the address as its only one. Left to the kernel,
// an association has all addresses of the host, of both families, and goes on
// by another when one fails: then what one address gets through says little.
func sctpBound(addr netip.AddrPort) (int, error) {
	fd, err := sctpSocket(family(addr.Addr()))
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, sockaddr(addr)); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
	}
	return &unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())}
}

// listenSCTP is net.Listen for SCTP.
func listenSCTP(addr netip.AddrPort) (net.Listener, error) {
	fd, err := sctpBound(addr)
	if err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("listen", err)
	}
	file := os.NewFile(uintptr(fd), "SCTP listener")
	defer file.Close() // the listener has a descriptor of its own
	l, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return abortingListener{l}, nil
}

// abortingListener accepts associations that are aborted when they are closed.
type abortingListener struct{ net.Listener }

func (l abortingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn, abortOnClose(conn)
}

// abortOnClose has Close leave nothing behind: an association that is shut down
// where no packet passes any more would keep its namespace for minutes.
func abortOnClose(conn net.Conn) error { return conn.(*net.TCPConn).SetLinger(0) }

// dialSCTP is net.Dialer.DialContext for SCTP, from a given address. It waits on
// the calling thread.
func dialSCTP(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	fd, err := sctpBound(from)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "SCTP association")
	defer file.Close() // the connection has a descriptor of its own
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, os.NewSyscallError("connect", err)
	}
	if err := awaitConnected(ctx, fd); err != nil {
		return nil, fmt.Errorf("dial sctp %s: %w", to, err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn, abortOnClose(conn)
}

// awaitConnected waits until the association is there, or can't be.
func awaitConnected(ctx context.Context, fd int) error {
	for {
		// Short, as nothing else ends it when the context does.
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 10 /* ms */)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if ready > 0 {
			errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err == nil && errno != 0 {
				err = unix.Errno(errno)
			}
			return os.NewSyscallError("connect", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
