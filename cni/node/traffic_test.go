package node_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcp sends a megabyte from one address to another and back, and checks that
// both sides see these addresses.
func tcp(from, to *space, src, dst netip.Addr) error {
	var l *net.TCPListener
	err := to.do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(dst, 0)))
		return err
	})
	if err != nil {
		return err
	}
	defer l.Close()
	deadline := time.Now().Add(patience)
	served := make(chan error, 1)
	go func() {
		_ = l.SetDeadline(deadline)
		conn, err := l.AcceptTCP()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(deadline)
		if seen := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); seen != src {
			served <- fmt.Errorf("%s is seen as %s", src, seen)
			return
		}
		_, err = io.CopyN(conn, conn, 1<<20)
		served <- err
	}()
	var conn net.Conn
	err = from.do(func() (err error) {
		conn, err = (&net.Dialer{Deadline: deadline}).Dial("tcp", l.Addr().String())
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	// Without a bind, so that the source is the kernel's choice.
	if own := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); own != src {
		return fmt.Errorf("the source is %s, not %s", own, src)
	}
	go func() { _, _ = conn.Write(make([]byte, 1<<20)) }()
	if _, err := io.CopyN(io.Discard, conn, 1<<20); err != nil {
		return fmt.Errorf("%w, at the server: %w", err, <-served)
	}
	return <-served
}

// mesh checks that each pod and node reaches each by its own address.
func mesh(t *testing.T, nodes []*peer) {
	t.Helper()
	for _, a := range nodes {
		for _, b := range nodes {
			if a == b {
				continue
			}
			for i := range a.PodCIDRs {
				podA, podB := a.podIPs()[i], b.podIPs()[i]
				nodeA, nodeB := a.addrLike(podA), b.addrLike(podB)
				for what, err := range map[string]error{
					"pod to pod":  tcp(a.pod, b.pod, podA, podB),
					"pod to node": tcp(a.pod, b.space, podA, nodeB),
					"node to pod": tcp(a.space, b.pod, nodeA, podB),
				} {
					if err != nil {
						t.Errorf("%s, %s to %s: %v", what, podA, podB, err)
					}
				}
			}
		}
	}
}

func (p *peer) addrLike(a netip.Addr) netip.Addr {
	return p.Addrs[slices.IndexFunc(p.Addrs, func(b netip.Addr) bool { return a.Is4() == b.Is4() })]
}

// largest sends a UDP packet of exactly size octets, forbidding fragments.
func largest(from, to *space, dst netip.Addr, size int) error {
	var server *net.UDPConn
	var client net.Conn
	err := to.do(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 0)))
		return err
	})
	if err != nil {
		return err
	}
	defer server.Close()
	headers, level, option := 28, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if dst.Is6() {
		headers, level, option = 48, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_DO)
		}), err)
	}}
	err = from.do(func() (err error) {
		client, err = dialer.Dial("udp", server.LocalAddr().String())
		return err
	})
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Write(make([]byte, size-headers)); err != nil {
		return err
	}
	_ = server.SetDeadline(time.Now().Add(patience))
	n, err := server.Read(make([]byte, 65536))
	if err == nil && n != size-headers {
		err = fmt.Errorf("%d octets arrived", n)
	}
	return err
}

// fragments is how many the namespace has made.
func (s *space) fragments() string {
	s.t.Helper()
	var lines []string
	err := s.do(func() error {
		for file, word := range map[string]string{"snmp6": "Ip6FragCreates"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				if fields := strings.Fields(line); fields[0] == word && fields[1] != "0" {
					lines = append(lines, strings.TrimSpace(line))
				}
			}
		}
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if fields[0] != "Ip:" {
				continue
			}
			if names == nil {
				names = fields
				continue
			}
			if n := fields[slices.Index(names, "FragCreates")]; n != "0" {
				lines = append(lines, "FragCreates "+n)
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Join(lines, ", ")
}
