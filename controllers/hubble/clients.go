package hubble

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/codes"
)

// clients are the connections of clients, as a listener accepts them.
type clients struct {
	net.Listener
	// local: only connections from loopback addresses are served. Those from elsewhere come to a loopback
	// address by somebody's destination NAT, with net.ipv4.conf.*.route_localnet.
	local bool
	log   logr.Logger
}

// newClients accepts connections of a listener; with local, only those from loopback addresses.
func newClients(listener net.Listener, local bool, log logr.Logger) *clients {
	return &clients{Listener: listener, local: local, log: log}
}

// Accept waits for the next connection that may be served.
func (c *clients) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from := conn.RemoteAddr().String(); c.local && !isLoopbackPeer(from) {
			c.log.V(1).Info("Refused a client of Hubble's API, as without TLS only loopback addresses are served", "client", from)
			_ = conn.Close() // nothing was sent
			continue
		}
		if tcp, is := conn.(*net.TCPConn); is {
			if err := tcp.SetWriteBuffer(sendBuffer); err != nil { // it has gone already
				_ = conn.Close()
				continue
			}
		}
		return conn, nil
	}
}

// isLoopbackPeer reports whether an address with a port is a loopback address.
func isLoopbackPeer(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && isLoopback(host)
}

// limitCalls refuses calls when there are many, and ends those of clients that take too long for a message or
// send too much.
func (s *Server) limitCalls(calls http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.calls <- struct{}{}:
			defer func() { <-s.calls }()
		default:
			h := w.Header()
			h.Set("Content-Type", "application/grpc")
			h.Set("Grpc-Status", strconv.Itoa(int(codes.ResourceExhausted)))
			h.Set("Grpc-Message", fmt.Sprintf("%d calls are under way on this node: end one of them", maxCalls))
			return
		}
		control := http.NewResponseController(w)
		if err := control.SetReadDeadline(time.Now().Add(s.sendTimeout)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest+messageHeader)
		calls.ServeHTTP(&paced{ResponseWriter: w, control: control, timeout: s.sendTimeout}, r)
	})
}

// messageHeader is how many bytes gRPC sends before a message.
const messageHeader = 5

// paced is where the answer to one call is written. A client that does not take a message in time loses the
// call, and what waits to be sent with it; its other calls go on. It is for one goroutine.
type paced struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	// waits: there is a deadline.
	waits bool
}

// Write writes a part of a message.
func (p *paced) Write(part []byte) (int, error) {
	if !p.waits {
		p.waits = true
		if err := p.control.SetWriteDeadline(time.Now().Add(p.timeout)); err != nil {
			return 0, err
		}
	}
	return p.ResponseWriter.Write(part)
}

// Flush implements http.Flusher: it returns when the message was sent, or never will be.
func (p *paced) Flush() {
	// Errors say that the call has ended, which its context says as well.
	_ = p.control.Flush()
	if p.waits {
		p.waits = false
		_ = p.control.SetWriteDeadline(time.Time{})
	}
}
