package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"github.com/podfence/podfence/policy"
)

// Server echoes what it receives, on all addresses of a host.
type Server struct {
	host *Host

	mu      sync.Mutex
	stopped bool
	open    map[io.Closer]struct{}
	accepts int
	wait    sync.WaitGroup
}

// Serve starts a TCP, UDP or SCTP echo server. It runs until it or its host is
// closed.
func (h *Host) Serve(protocol policy.Protocol, port uint16) (*Server, error) {
	s := &Server{host: h, open: map[io.Closer]struct{}{}}
	err := h.Do(func() error {
		for _, ip := range h.IPs {
			// One socket per address, so that UDP replies come from the
			// address that was asked.
			if err := s.listen(protocol, netip.AddrPortFrom(ip, port)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = h.adopt(s)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("serve %s port %d on %s: %w", protocol, port, h.Name, err)
	}
	return s, nil
}

// adopt makes the host stop the server when it closes.
func (h *Host) adopt(s *Server) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	h.servers[s] = struct{}{}
	return nil
}

func (s *Server) listen(protocol policy.Protocol, addr netip.AddrPort) error {
	var config net.ListenConfig
	// Go listens for multipath TCP if not told otherwise: an option in the
	// SYN-ACK, and another kernel path than that of most servers.
	config.SetMultipathTCP(false)
	switch protocol {
	case policy.TCP:
		l, err := config.Listen(context.Background(), "tcp", addr.String())
		if err != nil {
			return err
		}
		s.track(l)
		s.wait.Go(func() { s.accept(l) })
		return nil
	case policy.SCTP:
		l, err := listenSCTP(addr)
		if err != nil {
			return err
		}
		s.track(l)
		s.wait.Go(func() { s.accept(l) })
		return nil
	case policy.UDP:
		c, err := config.ListenPacket(context.Background(), "udp", addr.String())
		if err != nil {
			return err
		}
		s.track(c)
		s.wait.Go(func() { echoDatagrams(c) })
		return nil
	}
	return errors.New("only TCP, UDP and SCTP can be served")
}

// track notes what stop must close; after it, it says false.
func (s *Server) track(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !s.track(c) {
			c.Close()
			return
		}
		s.mu.Lock()
		s.accepts++
		s.mu.Unlock()
		s.wait.Go(func() {
			// A connection that breaks is the client's to notice. Copying
			// socket to socket would splice, by pipes that the net package
			// keeps open for later.
			_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			c.Close()
			s.mu.Lock()
			delete(s.open, c)
			s.mu.Unlock()
		})
	}
}

func echoDatagrams(c net.PacketConn) {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			// A reply that can't be sent is the client's to notice.
			_, _ = c.WriteTo(buffer[:n], from)
		}
	}
}

// Accepts is how many TCP connections and SCTP associations have been accepted so far.
func (s *Server) Accepts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepts
}

// Close ends the server and its connections. It may be called again.
func (s *Server) Close() error {
	s.host.mu.Lock()
	delete(s.host.servers, s)
	s.host.mu.Unlock()
	s.stop()
	return nil
}

func (s *Server) stop() {
	s.mu.Lock()
	s.stopped = true
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for c := range open {
		c.Close()
	}
	s.wait.Wait()
}
