package hubble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/net/netutil"
	"google.golang.org/protobuf/proto"

	"github.com/podfence/podfence/controllers/observer"
)

// remote is a connection from an address.
type remote struct {
	net.Conn
	from string
}

func (r *remote) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(r.from))
}

// queue is a listener to which these connections come.
type queue struct{ conns chan net.Conn }

func (q *queue) Accept() (net.Conn, error) {
	if conn, more := <-q.conns; more {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (*queue) Close() error   { return nil }
func (*queue) Addr() net.Addr { return &net.TCPAddr{} }

// TestOnlyLoopbackWithoutTLS: what was led to a loopback address from elsewhere is closed, unless there is TLS.
func TestOnlyLoopbackWithoutTLS(t *testing.T) {
	for _, local := range []bool{true, false} {
		for from, loopback := range map[string]bool{
			"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true,
			"10.244.1.7:1": false, "192.0.2.1:1": false, "[fd00::7]:1": false, "[::ffff:10.0.0.1]:1": false, "0.0.0.0:1": false,
		} {
			conn, client := net.Pipe()
			q := &queue{conns: make(chan net.Conn, 1)}
			q.conns <- &remote{conn, from}
			close(q.conns)
			accepted, err := newClients(q, local, testr.New(t)).Accept()
			if want := loopback || !local; (err == nil) != want || err != nil && !errors.Is(err, net.ErrClosed) {
				t.Errorf("without TLS %t, from %s: %v, %v", local, from, accepted, err)
				continue
			}
			if err == nil {
				_ = accepted.Close()
			} else if _, err := client.Read(make([]byte, 1)); err == nil {
				t.Errorf("from %s: it is not closed", from)
			}
		}
	}
}

// stalled is a client that asks for flows by many calls, and takes nothing.
func stalled(t *testing.T, address string, calls int, reads, whole bool) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if reads { // the connection, but gives no window to any call
		go func() {
			buffer := make([]byte, 512)
			for {
				if _, err := conn.Read(buffer); err != nil {
					return
				}
			}
		}()
	}
	_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, nil)
	_ = framer.WriteSettings() // to a buffer
	_ = framer.WriteSettingsAck()
	_ = framer.WriteWindowUpdate(0, 1<<30) // the connection's
	request, err := proto.Marshal(&observerpb.GetFlowsRequest{Follow: true, Since: at(0)})
	if err != nil {
		t.Fatal(err)
	}
	if !whole { // most of the largest request that is taken
		request = make([]byte, maxRequest)
	}
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...)
	for call := range calls {
		var header bytes.Buffer
		encoder := hpack.NewEncoder(&header)
		for _, field := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":path", "/observer.Observer/GetFlows"}, {":authority", "localhost"},
			{"content-type", "application/grpc"}, {"te", "trailers"},
		} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		id := uint32(2*call + 1)
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: header.Bytes(), EndHeaders: true})
		data := message
		if !whole {
			data = message[:len(message)-1]
		}
		for len(data) > 0 {
			part := data[:min(len(data), 16<<10)]
			data = data[len(part):]
			_ = framer.WriteData(id, whole && len(data) == 0, part)
		}
		if !whole { // the server gives room for more when it has read this
			_, _ = out.WriteTo(conn)
			time.Sleep(5 * time.Millisecond)
		}
	}
	_, _ = out.WriteTo(conn) // who is not served waits in the kernel's queue
}

// taken is what the process has taken of memory that is in use.
func taken() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the first may leave what pools had
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// TestClientsAreBounded: however many clients ask for everything and take nothing, or ask and do not finish, they
// take less than 4 MB together, with what the kernel keeps for them.
func TestClientsAreBounded(t *testing.T) {
	store := observer.NewStore(4096, nil)
	for second := range 4096 {
		store.Add(denied(second))
	}
	for name, whole := range map[string]bool{"requests that are whole": true, "requests that are not": false} {
		t.Run(name, func(t *testing.T) {
			server, err := New(Options{Address: "127.0.0.1:4244", Node: "node-1", Version: "v1", Store: store, Log: logr.Discard(), Peers: func() []Peer { return nil }})
			if err != nil {
				t.Fatal(err)
			}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() {
				ended <- server.serve(ctx, netutil.LimitListener(newClients(listener, true, logr.Discard()), maxConnections), nil)
			}()
			t.Cleanup(func() { cancel(); <-ended })
			before := taken()
			calls := callsOfConnection
			if !whole { // more are refused
				calls = 4
			}
			for n := range 64 {
				stalled(t, listener.Addr().String(), calls, n%2 == 0, whole)
			}
			waitFor(t, "call for each that may go on", func() bool { return len(server.streams) == maxStreams })
			held := math.MaxInt // without what is on its way to be freed
			for range 20 {
				held = min(held, taken()-before)
				time.Sleep(50 * time.Millisecond)
			}
			kernel := maxConnections * 2 * sendBuffer
			t.Logf("%d clients take %d kB, and up to %d kB of the kernel's", 64, held>>10, kernel>>10)
			if held+kernel > 4<<20 {
				t.Errorf("%d clients take %d kB, and up to %d kB of the kernel's", 64, held>>10, kernel>>10)
			}
		})
	}
}

// TestManyCalls: so many calls may be made at once, and the next one is told so.
func TestManyCalls(t *testing.T) {
	s := serve(t, observer.NewStore(4, nil))
	for range cap(s.server.calls) {
		s.server.calls <- struct{}{}
	}
	_, err := s.client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
	if want := fmt.Sprintf("code = ResourceExhausted desc = %d calls", maxCalls); err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
		t.Errorf("%v", err)
	}
	<-s.server.calls
	if _, err := s.client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{}); err != nil {
		t.Error(err)
	}
}

// TestIdleCallsStay: a client that takes what there is may wait for the next flow for as long as it likes.
func TestIdleCallsStay(t *testing.T) {
	s := serve(t, stored(4, denied(0)), func(s *Server) { s.sendTimeout = 100 * time.Millisecond })
	stream, err := s.client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Follow: true, Number: 1, Whitelist: drops()})
	if err != nil {
		t.Fatal(err)
	}
	for second := range 3 {
		if m, err := stream.Recv(); err != nil || told(m) != fmt.Sprint(second) {
			t.Fatalf("%v, %v, want %d", m, err, second)
		}
		time.Sleep(400 * time.Millisecond)
		s.store.Add(denied(second + 1))
	}
}
