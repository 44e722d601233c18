package semantics_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// TestA40_RevokedFlowsStayCut: a denied connection does not come back by a packet from
// its middle when connection tracking has lost it, whichever end talks and whatever
// that end may begin itself.
func TestA40_RevokedFlowsStayCut(t *testing.T) {
	const atPort1 = "[{ports: [{port: 1}]}]"
	for name, deny := range map[string]string{
		"no ingress at the server":             `policy db/in {podSelector: {}, ingress: ` + atPort1 + `}`,
		"no ingress at the server, all egress": `policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: ` + atPort1 + `, egress: [{}]}`,
		"no egress at the client":              `policy shop/out {podSelector: {}, policyTypes: [Egress], egress: ` + atPort1 + `}`,
		"no egress at the client, all ingress": `policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress], egress: ` + atPort1 + `, ingress: [{}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, loose := range []string{"1", "0"} {
				c := revoking(t, lab.Routed, base)
				c.setLoose(loose)
				var all []*streams
				for _, addr := range c.host("db/pg").IPs {
					all = append(all, c.bothEnds("shop/web", netip.AddrPortFrom(addr, 7000)))
				}
				hear(t, "before", true, all...)
				c.becomes(base + deny)
				if revoked, _ := c.judge(); revoked != len(all) {
					t.Errorf("revoked %d flows of %d", revoked, len(all))
				}
				// As `conntrack -D` does, or as an entry ends that nothing has come by for long.
				if err := c.Node.FlushConntrack(); err != nil {
					t.Fatal(err)
				}
				for _, s := range all {
					if _, err := s.client.Write([]byte("x")); err != nil {
						t.Fatal(err)
					}
				}
				hear(t, "forgotten", false, all...)
				c.becomes(base)
				if loose == "1" { // else connection tracking knows it no more, for good
					hear(t, "allowed again", true, all...)
				}
			}
		})
	}
}

// setLoose says whether connection tracking takes a connection up in its middle.
func (c *fenced) setLoose(value string) {
	c.t.Helper()
	const name = "net/netfilter/nf_conntrack_tcp_loose"
	if err := c.Node.SetSysctl(name, value); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = c.Node.SetSysctl(name, "1") })
}

// TestA39_FromTheMiddle: what an allowed connection needs to go on when connection
// tracking has lost it. Pods that no policy isolates are left alone; to one that is
// isolated for one direction, a packet of that direction takes it up again.
func TestA39_FromTheMiddle(t *testing.T) {
	const (
		in  = `policy db/in {podSelector: {}, ingress: [{}]}` + "\n"
		out = `policy db/out {podSelector: {}, policyTypes: [Egress], egress: [{}]}` + "\n"
	)
	for _, x := range []struct {
		policies       string
		server, either bool // it goes on when the server talks, or the client before it
	}{
		{"", true, true},
		{in, false, true},
		{out, true, true},
		{in + out, false, false},
	} {
		for _, clientFirst := range []bool{false, true} {
			c := revoking(t, lab.Routed, base+x.policies)
			s := c.bothEnds("shop/web", netip.AddrPortFrom(c.ip("db/pg", "4"), 7000))
			hear(t, "before", true, s)
			if err := c.Node.FlushConntrack(); err != nil {
				t.Fatal(err)
			}
			want := x.server
			if clientFirst {
				want = x.either
				if _, err := s.client.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			hear(t, fmt.Sprintf("with %q, the client first: %t", x.policies, clientFirst), want, s)
		}
	}
}

// TestA40_HeartbeatsBeginNothing: SCTP has packets that connection tracking takes for a
// beginning too. A pod that is isolated for one direction can't begin with those in the
// other.
func TestA40_HeartbeatsBeginNothing(t *testing.T) {
	c := revoking(t, lab.Routed, base)
	for _, family := range families {
		p := policy.Packet{Src: c.ip("db/pg", family), Dst: c.ip("shop/web", family), Protocol: policy.SCTP, DstPort: 4711}
		raw := c.listen("shop/web", "ip"+family+":sctp", p.Dst.String())
		arrives := func(change func([]byte)) bool {
			if err := c.Node.FlushConntrack(); err != nil {
				t.Fatal(err)
			}
			c.send("db/pg", p, 5432, change)
			return receive(t, raw, soon, func(from net.Addr, _ []byte) bool { return from.String() == p.Src.String() })
		}
		for _, x := range []struct {
			policies string
			want     bool
		}{
			{``, true},
			{`policy db/in {podSelector: {}, ingress: []}`, false},
			{`policy shop/out {podSelector: {}, policyTypes: [Egress]}`, false},
			{`policy ops/in {podSelector: {}, ingress: []}`, true},
		} {
			c.becomes(base + x.policies)
			if !arrives(nil) {
				t.Errorf("IPv%s, %q: an INIT does not arrive", family, x.policies)
			}
			if arrives(heartbeat) != x.want {
				t.Errorf("IPv%s, %q: a HEARTBEAT arrives: %t", family, x.policies, !x.want)
			}
		}
	}
}

// heartbeat makes an SCTP INIT a HEARTBEAT.
func heartbeat(packet []byte) {
	header := 20
	if packet[0]>>4 == 6 {
		header = 40
	}
	sctp := packet[header:]
	binary.BigEndian.PutUint32(sctp[4:], 1) // a verification tag
	sctp[12] = 4
	binary.LittleEndian.PutUint32(sctp[8:], 0)
	binary.LittleEndian.PutUint32(sctp[8:], crc32.Checksum(sctp, crc32.MakeTable(crc32.Castagnoli)))
}

// streams are both ends of a TCP connection.
type streams struct {
	client, server net.Conn
	said, heard    int
}

// bothEnds opens a TCP connection from a host to another's address, and returns both ends.
func (c *fenced) bothEnds(from string, to netip.AddrPort) *streams {
	c.t.Helper()
	var listener net.Listener
	err := c.Lab.Owner(to.Addr()).Do(func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", to.String())
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	defer listener.Close()
	s := &streams{client: c.dial(from, policy.TCP, to)}
	if s.server, err = listener.Accept(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = s.server.Close() })
	return s
}

func (c *fenced) halfClosed(from string, to netip.AddrPort) *streams {
	c.t.Helper()
	s := c.bothEnds(from, to)
	if err := s.client.(*net.TCPConn).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// hear has the servers talk, and checks whether the clients hear all that they have
// said, or nothing more.
func hear(t *testing.T, when string, want bool, all ...*streams) {
	t.Helper()
	deadline := time.Now().Add(2 * soon) // the server says it twice again within that
	if want {
		deadline = time.Now().Add(10 * time.Second)
	}
	for _, s := range all {
		if _, err := s.server.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		s.said++
		if err := s.client.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range all {
		n, err := s.client.Read(make([]byte, 64))
		for s.heard += n; want && err == nil && s.heard < s.said; s.heard += n {
			n, err = s.client.Read(make([]byte, 64))
		}
		if err != nil && !isTimeout(err) {
			t.Fatal(err)
		}
		switch {
		case want && s.heard < s.said:
			t.Errorf("%s: %s hears %d of %d", when, s.client.LocalAddr(), s.heard, s.said)
		case !want && err == nil:
			t.Errorf("%s: %s hears the server", when, s.client.LocalAddr())
		}
	}
}
