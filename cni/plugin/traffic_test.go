package plugin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serve echoes TCP on a port of an address, until the test ends.
func (s *space) serve(addr netip.Addr, port uint16) {
	s.t.Helper()
	var l net.Listener
	s.must(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, port).String())
		return err
	})
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// Who it is that has connected: then the data.
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%-40s", host)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// talk connects, has data of more than an MTU echoed, and returns the address
// that the server saw. It is an error if the first packet had to be sent again.
func (s *space) talk(to netip.Addr, port uint16) (seen netip.Addr, err error) {
	return s.talkBound("", to, port)
}

// talkBound is talk by a socket that is bound to a link, if that has a name.
func (s *space) talkBound(link string, to netip.Addr, port uint16) (seen netip.Addr, err error) {
	const patience = 10 * time.Second
	var c net.Conn
	err = s.do(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err = (&net.Dialer{Control: bindTo(link)}).DialContext(ctx, "tcp", netip.AddrPortFrom(to, port).String())
		return err
	})
	if err != nil {
		return seen, err
	}
	defer c.Close()
	if again, err := retransmits(c.(*net.TCPConn)); err != nil || again > 0 {
		return seen, errors.Join(fmt.Errorf("connected after sending %d times more", again), err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return seen, err
	}
	head, data := make([]byte, 40), make([]byte, 20000)
	if _, err := io.ReadFull(c, head); err != nil {
		return seen, err
	}
	go func() { _, _ = c.Write(make([]byte, len(data))) }()
	if _, err := io.ReadFull(c, data); err != nil {
		return seen, err
	}
	var text string
	_, _ = fmt.Sscan(string(head), &text)
	return netip.ParseAddr(text)
}

// bindTo has a socket be bound to a link.
func bindTo(link string) func(string, string, syscall.RawConn) error {
	if link == "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var bindErr error
		err := c.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), link) })
		return errors.Join(err, bindErr)
	}
}

// retransmits is how often a connection has sent something again.
func retransmits(c *net.TCPConn) (n uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var infoErr error
	err = raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); infoErr == nil {
			n = info.Total_retrans
		}
	})
	return n, errors.Join(err, infoErr)
}

// reaches fails the test if s can't talk to an address, or is seen with another
// address than its own.
func (s *space) reaches(to netip.Addr, own ...netip.Addr) {
	s.t.Helper()
	seen, err := s.talk(to, 80)
	if err != nil {
		s.t.Errorf("to %s: %v", to, err)
		return
	}
	for _, a := range own {
		if a.Is4() == to.Is4() && seen != a {
			s.t.Errorf("to %s: seen as %s, not as %s", to, seen, a)
		}
	}
}
