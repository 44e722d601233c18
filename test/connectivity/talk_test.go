package connectivity_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/podfence/podfence/cni/plugin"
	"github.com/podfence/podfence/test/lab"
)

// patience is how long a conversation may take that is allowed.
const patience = 5 * time.Second

// talk sends some data over TCP from one host to an address, which leads to a
// server on another, and back. It returns who the server saw, and whom the
// client saw answer.
func talk(from, to *lab.Host, dst netip.AddrPort, at netip.AddrPort) (client, server netip.Addr, err error) {
	var l *net.TCPListener
	err = to.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return client, server, err
	}
	defer l.Close()
	if !dst.IsValid() {
		dst = l.Addr().(*net.TCPAddr).AddrPort()
	}
	deadline := time.Now().Add(patience)
	type seen struct {
		by  netip.Addr
		err error
	}
	served := make(chan seen, 1)
	go func() {
		_ = l.SetDeadline(deadline)
		conn, err := l.AcceptTCP()
		if err != nil {
			served <- seen{err: err}
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(deadline)
		_, err = io.CopyN(conn, conn, size)
		served <- seen{conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), err}
	}()
	var conn net.Conn
	err = from.Do(func() (err error) {
		conn, err = (&net.Dialer{Deadline: deadline}).Dial("tcp", dst.String())
		return err
	})
	if err != nil {
		return client, server, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	go func() { _, _ = conn.Write(make([]byte, size)) }()
	if _, err := io.CopyN(io.Discard, conn, size); err != nil {
		return client, server, fmt.Errorf("%w, at the server: %w", err, (<-served).err)
	}
	s := <-served
	return s.by, conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), s.err
}

// size is that of a conversation's data: many full packets.
const size = 1 << 18

// reach checks that one host reaches all addresses of another, and is seen there
// by its own.
func (c *cluster) reach(from, to *lab.Host) {
	c.t.Helper()
	for _, dst := range to.IPs {
		client, _, err := talk(from, to, netip.AddrPort{}, netip.AddrPortFrom(dst, 0))
		switch {
		case err != nil:
			c.t.Errorf("%s to %s, %s: %v", from, to, dst, err)
		case client != from.IP(dst) && !(from == &to.Node().Host && gatewayOf(dst, client)):
			c.t.Errorf("%s to %s, %s: %s is seen as %s", from, to, dst, from.IP(dst), client)
		}
	}
}

// gatewayOf says whether an address is the gateway of a pod: its own node's
// second address, by which the node speaks to it.
func gatewayOf(pod, addr netip.Addr) bool {
	bits := 64
	if pod.Is4() {
		bits = 24
	}
	return plugin.Gateway(netip.PrefixFrom(pod, bits).Masked()) == addr
}

// mesh checks that each host reaches each other.
func (c *cluster) mesh(hosts ...*lab.Host) {
	c.t.Helper()
	for _, from := range hosts {
		for _, to := range hosts {
			if from != to {
				c.reach(from, to)
			}
		}
	}
}
