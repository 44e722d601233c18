package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/podfence/podfence/policy"
)

// Dial opens a TCP connection, an SCTP association, or a UDP socket, from the
// host. The connection stays in the host's namespace; the caller closes it.
func (h *Host) Dial(ctx context.Context, protocol policy.Protocol, to netip.AddrPort) (net.Conn, error) {
	return h.DialFrom(ctx, netip.AddrPort{}, protocol, to)
}

// DialFrom is Dial from a given address and port. The zero Addr, and port 0,
// leave the choice to the kernel.
func (h *Host) DialFrom(ctx context.Context, from netip.AddrPort, protocol policy.Protocol, to netip.AddrPort) (net.Conn, error) {
	if protocol == policy.SCTP {
		return h.associate(ctx, from, to)
	}
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	var network string
	switch protocol {
	case policy.TCP:
		network = "tcp"
		if from.IsValid() || from.Port() != 0 {
			dialer.LocalAddr = &net.TCPAddr{IP: from.Addr().AsSlice(), Port: int(from.Port())}
		}
	case policy.UDP:
		network = "udp"
		if from.IsValid() || from.Port() != 0 {
			dialer.LocalAddr = &net.UDPAddr{IP: from.Addr().AsSlice(), Port: int(from.Port())}
		}
	default:
		return nil, fmt.Errorf("dial %s %s from %s: only TCP, UDP and SCTP can be dialled", protocol, to, h.Name)
	}
	var conn net.Conn
	err := h.Do(func() (err error) {
		// With an address, not a name, the socket is made on this thread.
		conn, err = dialer.DialContext(ctx, network, to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", h.Name, err)
	}
	return conn, nil
}

// associate is DialFrom for SCTP. Without an address to dial from, the host's
// own of the family is it.
func (h *Host) associate(ctx context.Context, from, to netip.AddrPort) (conn net.Conn, err error) {
	if !from.Addr().IsValid() {
		from = netip.AddrPortFrom(h.IP(to.Addr()), from.Port())
	}
	err = h.Do(func() error {
		conn, err = dialSCTP(ctx, from, to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", h.Name, err)
	}
	return conn, nil
}

// Echo sends data over a connection to a Server and waits for it to come back.
// Over UDP, data beyond the MTU goes out in fragments.
func Echo(conn net.Conn, data []byte, timeout time.Duration) error {
	if err := echo(conn, data, time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("echo of %d octets, %s to %s: %w", len(data), conn.LocalAddr(), conn.RemoteAddr(), err)
	}
	return nil
}

func echo(conn net.Conn, data []byte, deadline time.Time) error {
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write(data); err != nil {
		return err
	}
	_, datagrams := conn.(*net.UDPConn)
	buffer := make([]byte, len(data)+1)
	for {
		var n int
		var err error
		if datagrams {
			n, err = conn.Read(buffer)
		} else {
			n, err = io.ReadFull(conn, buffer[:len(data)])
		}
		if err != nil {
			return err
		}
		if bytes.Equal(buffer[:n], data) {
			return nil
		}
		// Over UDP it may be the answer to an earlier, given up one.
		if !datagrams {
			return errors.New("other data came back")
		}
	}
}

// Exchange is the shortest real conversation: it connects, has a few octets
// echoed and closes. It needs a Server at the other end.
func (h *Host) Exchange(protocol policy.Protocol, to netip.AddrPort, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := h.Dial(ctx, protocol, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	return Echo(conn, []byte("podfence"), timeout)
}
