package lab_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

func TestRealConnections(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			l := open(t, lab.Options{})
			n, a, b, ext := pair(t, l, attach)
			for _, to := range []*lab.Host{b, &n.Host} {
				for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
					if _, err := to.Serve(protocol, 80); err != nil {
						t.Fatal(err)
					}
					for _, from := range []*lab.Host{a, ext, &n.Host} {
						for _, addr := range to.IPs {
							if err := from.Exchange(protocol, netip.AddrPortFrom(addr, 80), time.Second); err != nil {
								t.Errorf("%s to %s: %v", from, to, err)
							}
						}
					}
				}
			}
		})
	}
}

func TestFragments(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			l := open(t, lab.Options{})
			n, a, b, _ := pair(t, l, attach)
			load(t, n, `table inet t { chain c { type filter hook forward priority 0; ct state established accept; udp dport 54 drop; }; }`)
			for _, port := range []uint16{53, 54} {
				if _, err := b.Serve(policy.UDP, port); err != nil {
					t.Fatal(err)
				}
				for _, addr := range b.IPs {
					conn, err := a.Dial(context.Background(), policy.UDP, netip.AddrPortFrom(addr, port))
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					err = lab.Echo(conn, bytes.Repeat([]byte("x"), 4000), 300*time.Millisecond)
					if (err == nil) != (port == 53) {
						t.Errorf("port %d: %v", port, err)
					}
				}
			}
		})
	}
}

// A connection stays open, and can be talked on, until the rules cut it.
func TestEstablishedConnection(t *testing.T) {
	l := open(t, lab.Options{})
	n, a, b, _ := pair(t, l, lab.Routed)
	// Without a rule that asks for it, nothing is tracked.
	load(t, n, `table inet t { chain c { type filter hook forward priority 0; ct state established accept; }; }`)
	server, err := b.Serve(policy.TCP, 80)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(b.IPs[0], 80)
	conn, err := a.DialFrom(context.Background(), netip.AddrPortFrom(a.IPs[0], 4711), policy.TCP, to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.LocalAddr().String(); got != "10.9.1.2:4711" {
		t.Errorf("dialled from %s", got)
	}
	if err := lab.Echo(conn, []byte("hello"), time.Second); err != nil {
		t.Error(err)
	}
	load(t, n, `table inet t { chain c { tcp dport 80 drop; }; }`)
	if err := lab.Echo(conn, []byte("again"), time.Second); err != nil {
		t.Error(err)
	}
	if err := a.Exchange(policy.TCP, to, 200*time.Millisecond); err == nil {
		t.Error("new connection passed")
	}
	load(t, n, `table inet t { chain first { type filter hook forward priority -1; drop; }; }`)
	if err := lab.Echo(conn, []byte("cut"), 300*time.Millisecond); err == nil {
		t.Error("cut connection passed")
	}
	if server.Accepts() != 1 {
		t.Errorf("%d connections accepted", server.Accepts())
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Exchange(policy.TCP, to, time.Second); err == nil {
		t.Error("closed server answered")
	}
}

func TestAssociations(t *testing.T) {
	if err := lab.CheckSCTP(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			l := open(t, lab.Options{})
			n, a, b, _ := pair(t, l, attach)
			load(t, n, `table inet t { chain c { type filter hook forward priority 0; ct state established accept; sctp dport 81 drop; }; }`)
			for _, port := range []uint16{80, 81} {
				server, err := b.Serve(policy.SCTP, port)
				if err != nil {
					t.Fatal(err)
				}
				for _, addr := range b.IPs {
					timeout := 3 * time.Second
					if port == 81 {
						timeout = 300 * time.Millisecond
					}
					if err := a.Exchange(policy.SCTP, netip.AddrPortFrom(addr, port), timeout); (err == nil) != (port == 80) {
						t.Errorf("to %s port %d: %v", addr, port, err)
					}
				}
				if want := map[uint16]int{80: len(b.IPs)}[port]; server.Accepts() != want {
					t.Errorf("port %d: %d associations accepted, want %d", port, server.Accepts(), want)
				}
			}
			// Nobody listens: an ABORT comes back, at once.
			if err := a.Exchange(policy.SCTP, netip.AddrPortFrom(b.IPs[0], 82), 3*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("to a port without server: %v", err)
			}
		})
	}
}
