package semantics_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// soon is ample for what works, and not long to wait for what does not.
const soon = 300 * time.Millisecond

func replace(text, old, with string) string { return strings.ReplaceAll(text, old, with) }

// serve starts an echo server on a host for the test.
func (c *fenced) serve(on string, protocol policy.Protocol, port uint16) {
	c.t.Helper()
	server, err := c.host(on).Serve(protocol, port)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := server.Close(); err != nil {
			c.t.Error(err)
		}
	})
}

// dial opens a connection from a host to a server for the test.
func (c *fenced) dial(from string, protocol policy.Protocol, to netip.AddrPort) net.Conn {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	conn, err := c.host(from).Dial(ctx, protocol, to)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// talks checks that a real conversation works, or does not, over every family
// that both ends have.
func (c *fenced) talks(want bool, from, to string, protocol policy.Protocol, port uint16) {
	c.t.Helper()
	for _, addr := range c.host(to).IPs {
		c.talksTo(want, from, protocol, netip.AddrPortFrom(addr, port))
	}
}

func (c *fenced) talksTo(want bool, from string, protocol policy.Protocol, to netip.AddrPort) {
	c.t.Helper()
	patience := soon
	if want {
		patience = 3 * time.Second
	}
	if err := c.host(from).Exchange(protocol, to, patience); (err == nil) != want {
		c.t.Errorf("%s to %s over %s: %v", from, to, protocol, err)
	}
}

// listen opens a socket on a host: "udp", or "ip4:tcp" and the like for raw
// packets.
func (c *fenced) listen(on, network string, addr string) net.PacketConn {
	c.t.Helper()
	var conn net.PacketConn
	err := c.host(on).Do(func() (err error) {
		conn, err = (&net.ListenConfig{}).ListenPacket(context.Background(), network, addr)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// receive waits for what match accepts.
func receive(t *testing.T, conn net.PacketConn, wait time.Duration, match func(from net.Addr, data []byte) bool) bool {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if isTimeout(err) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if match(from, buffer[:n]) {
			return true
		}
	}
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// send crafts a packet and sends it.
func (c *fenced) send(from string, p policy.Packet, port uint16, change func([]byte)) {
	c.t.Helper()
	packet, err := lab.Craft(p, port, []byte("podfence"))
	if err != nil {
		c.t.Fatal(err)
	}
	if change != nil {
		change(packet)
	}
	if err := c.host(from).Send(packet); err != nil {
		c.t.Fatal(err)
	}
}

// ip is a host's address of a family.
func (c *fenced) ip(name, family string) netip.Addr {
	c.t.Helper()
	_, addr := c.end(name, family)
	return addr
}

var families = []string{"4", "6"}
