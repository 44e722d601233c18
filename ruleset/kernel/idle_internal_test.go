package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/podfence/podfence/policy/packet"
)

// TestIdle: for how long no packet of a flow has passed follows from the time that it has left, where that is
// certain.
func TestIdle(t *testing.T) {
	proc := t.TempDir()
	if err := os.MkdirAll(filepath.Join(proc, "net/netfilter"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, seconds := range map[string]int{
		"tcp_timeout_established": 432000, "tcp_timeout_unacknowledged": 300, "tcp_timeout_max_retrans": 200, "tcp_timeout_fin_wait": 120,
		"udp_timeout": 30, "udp_timeout_stream": 120, "icmp_timeout": 30,
	} {
		if err := os.WriteFile(filepath.Join(proc, "net/netfilter/nf_conntrack_"+name), fmt.Appendln(nil, seconds), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const unknown = -1
	for _, c := range []struct {
		name     string
		protocol packet.Protocol
		state    uint8
		status   uint32
		left     uint32
		idle     int // seconds
	}{
		{"an established connection", packet.TCP, tcpEstablished, 0, 431990, 10},
		{"one with a packet right now", packet.TCP, tcpEstablished, 0, 432000, 0},
		{"one that is nearly forgotten, or waits for an acknowledgement", packet.TCP, tcpEstablished, 0, 300, unknown},
		{"one that was idle for days", packet.TCP, tcpEstablished, 0, 301, 431699},
		{"one that has more left than there is", packet.TCP, tcpEstablished, 0, 432001, unknown},
		{"one that closes", packet.TCP, 4, 0, 100, 20},
		{"one in a state whose setting cannot be read", packet.TCP, 5, 0, 10, unknown},
		{"one in an unknown state", packet.TCP, 200, 0, 10, unknown},
		{"a datagram", packet.UDP, 0, 0, 20, 10},
		{"a stream of datagrams", packet.UDP, 0, statusAssured, 20, 100},
		{"an echo request", packet.ICMP, 0, 0, 29, 1},
		{"another protocol", packet.SCTP, 0, 0, 20, unknown},
	} {
		timeouts := flowTimeouts{settings: settings{proc: proc}, seconds: map[string]uint32{}}
		want := time.Duration(c.idle) * time.Second
		if c.idle < 0 {
			want = -1
		}
		if got := timeouts.idle(flow{packet: packet.Packet{Protocol: c.protocol}, state: c.state, status: c.status, timeout: c.left}); got != want {
			t.Errorf("%s: idle for %s, want %s", c.name, got, want)
		}
	}
}
