package connectivity_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podfence/podfence/cli/connectivity"
)

var (
	one = netip.MustParseAddr("10.244.1.7")
	two = netip.MustParseAddr("fd00:10:244:1::7")
)

// network answers dials: those of the ports in open by a server, all others with an error.
type network struct {
	open  map[uint16]bool
	other error // nil: no answer
	after int   // dials before anything is open
	asked int
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.asked++
	early := n.asked <= n.after
	switch {
	case !early && n.open[netip.MustParseAddrPort(address).Port()]:
		client, server := net.Pipe()
		go func() {
			fmt.Fprintln(server, "server-0 on node node1")
			_ = server.Close()
		}()
		return client, nil
	case n.other != nil:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", n.other)}
	}
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
}

// run answers a check of port 8080 and not 8081 at addresses, and what it has printed.
func run(t *testing.T, n *network, own []netip.Addr, addresses ...netip.Addr) (said string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		out := &bytes.Buffer{}
		check := connectivity.Check{
			Server: "server", Own: own, Allowed: 8080, Denied: 8081, Timeout: time.Minute, Patience: 3 * time.Second, Out: out, Dial: n.dial,
			Lookup: func(context.Context, string, string) ([]netip.Addr, error) {
				if len(addresses) == 0 {
					return nil, errors.New("no such host")
				}
				return addresses, nil
			},
		}
		err = check.Run(t.Context())
		said = out.String()
	})
	return said, err
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name      string
		network   network
		own       []netip.Addr
		addresses []netip.Addr
		want      string // of the error; empty: none
	}{
		{"dropped", network{open: map[uint16]bool{8080: true}}, []netip.Addr{one}, []netip.Addr{one}, ""},
		{"dropped, in both families", network{open: map[uint16]bool{8080: true}}, []netip.Addr{two, one}, []netip.Addr{one, two}, ""},
		{"the server comes late", network{open: map[uint16]bool{8080: true}, after: 3}, nil, []netip.Addr{one}, ""},
		{"rejected", network{open: map[uint16]bool{8080: true}, other: syscall.EHOSTUNREACH}, nil, []netip.Addr{one}, ""},
		{"rejected, by IPv6", network{open: map[uint16]bool{8080: true}, other: syscall.EACCES}, nil, []netip.Addr{two}, ""},
		{"not enforced", network{open: map[uint16]bool{8080: true, 8081: true}}, nil, []netip.Addr{one}, "THE DENIED CONNECTION PASSED"},
		{"not enforced, and the server has no such port", network{open: map[uint16]bool{8080: true}, other: syscall.ECONNREFUSED}, nil, []netip.Addr{one}, "THE DENIED CONNECTION PASSED"},
		{"nothing passes", network{}, nil, []netip.Addr{one}, "the allowed connection to 10.244.1.7:8080 does not pass in 1m0s"},
		{"the wrong one passes", network{open: map[uint16]bool{8081: true}}, nil, []netip.Addr{one}, "the allowed connection to 10.244.1.7:8080 does not pass"},
		{"something else", network{open: map[uint16]bool{8080: true}, other: syscall.EMFILE}, nil, []netip.Addr{one}, "cannot be told"},
		{"no address", network{open: map[uint16]bool{8080: true}}, nil, nil, "no such host"},
		{"no address of the second family", network{open: map[uint16]bool{8080: true}}, []netip.Addr{one, two}, []netip.Addr{one}, "in each family"},
	} {
		t.Run(c.name, func(t *testing.T) {
			said, err := run(t, &c.network, c.own, c.addresses...)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%v\n%s", err, said)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("the error is %v, and not about %q\n%s", err, c.want, said)
			}
			for _, address := range c.addresses {
				if got := strings.Contains(said, fmt.Sprintf("denied: %s gives no answer", netip.AddrPortFrom(address, 8081))); got != (c.want == "") {
					t.Errorf("it says: %s", said)
				}
			}
		})
	}
}

// TestCheckNames: the error says at which address, and which server is there.
func TestCheckNames(t *testing.T) {
	_, err := run(t, &network{open: map[uint16]bool{8080: true, 8081: true}}, nil, two, one)
	for _, want := range []string{"10.244.1.7:8081 answers", "[fd00:10:244:1::7]:8081 answers", "on server-0 on node node1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
}

// TestServe: a check of real servers. Nothing denies anything here, so that it must fail for that alone.
func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	lines := &lineWriter{lines: make(chan string, 2)}
	ended := make(chan error, 1)
	go func() {
		ended <- connectivity.Serve(ctx, []string{"127.0.0.1:0", "127.0.0.1:0"}, "server-0 on node node1", lines)
	}()
	var ports []uint16
	for range 2 {
		line := <-lines.lines
		ports = append(ports, netip.MustParseAddrPort(strings.TrimSpace(strings.TrimPrefix(line, "listening on "))).Port())
	}
	out := &bytes.Buffer{}
	check := connectivity.Check{
		Server: "localhost", Allowed: ports[0], Denied: ports[1], Timeout: 10 * time.Second, Patience: 3 * time.Second, Out: out, Dial: (&net.Dialer{}).DialContext,
		Lookup: func(context.Context, string, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("127.0.0.1")}, nil
		},
	}
	err := check.Run(ctx)
	if err == nil || strings.Count(err.Error(), "THE DENIED CONNECTION PASSED") != 1 {
		t.Errorf("the error is %v", err)
	}
	if want := "answers, it is server-0 on node node1\n"; !strings.Contains(out.String(), want) {
		t.Errorf("it says %q, without %q", out, want)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestServeRefuses: it says where it cannot listen, and which name no client would read whole.
func TestServeRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = connectivity.Serve(t.Context(), []string{"127.0.0.1:0", taken.Addr().String()}, "server", &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("the error is %v", err)
	}
	if err := connectivity.Serve(t.Context(), nil, strings.Repeat("a", 257), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "257 octets") {
		t.Errorf("the error is %v", err)
	}
}

// lineWriter hands over what is written, one write at a time.
type lineWriter struct{ lines chan string }

func (w *lineWriter) Write(p []byte) (int, error) {
	w.lines <- string(p)
	return len(p), nil
}
