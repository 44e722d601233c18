package names

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// resolver answers DNS in a host: each time with another of the world's addresses, but for fixed.example.com.
type resolver struct {
	answers atomic.Uint32
	// forged says how to change what it replies; nil: nothing is changed.
	forged atomic.Pointer[forged]
	mu     sync.Mutex
	ttl    uint32
}

// forged is a reply that was changed, with an address in it.
type forged struct {
	change func(*dnsmessage.Message)
	addr   netip.Addr
}

func newResolver(t *testing.T, h *lab.Host) *resolver {
	t.Helper()
	r := &resolver{ttl: 1}
	for _, addr := range h.IPs {
		var socket net.PacketConn
		check.NoError(t, h.Do(func() (err error) {
			socket, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 53).String())
			return err
		}))
		t.Cleanup(func() { socket.Close() })
		go r.serve(socket)
	}
	return r
}

func (r *resolver) setTTL(seconds uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ttl = seconds
}

func (r *resolver) serve(socket net.PacketConn) {
	buffer := make([]byte, 4096)
	for {
		n, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return
		}
		if reply, ok := r.reply(buffer[:n]); ok {
			_, _ = socket.WriteTo(reply, from)
		}
	}
}

// fixedAddrs are what fixed.example.com always is.
var fixedAddrs = addrs("198.18.255.1", "2001:db8:f:1::ffff:1")

// next is another address of the world.
func (r *resolver) next(kind dnsmessage.Type) netip.Addr {
	n := r.answers.Add(1) % 60_000
	if kind == dnsmessage.TypeA {
		return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)})
	}
	addr := netip.MustParseAddr("2001:db8:f:1::").As16()
	binary.BigEndian.PutUint32(addr[12:], n)
	return netip.AddrFrom16(addr)
}

func (r *resolver) reply(query []byte) ([]byte, bool) {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil, false
	}
	q := m.Questions[0]
	r.mu.Lock()
	ttl := r.ttl
	r.mu.Unlock()
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	fixed := strings.EqualFold(q.Name.String(), "fixed.example.com.")
	add := func(body dnsmessage.ResourceBody) {
		reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}, Body: body})
	}
	switch q.Type {
	case dnsmessage.TypeA:
		addr := r.next(q.Type)
		if fixed {
			addr = fixedAddrs[0]
		}
		add(&dnsmessage.AResource{A: addr.As4()})
	case dnsmessage.TypeAAAA:
		addr := r.next(q.Type)
		if fixed {
			addr = fixedAddrs[1]
		}
		add(&dnsmessage.AAAAResource{AAAA: addr.As16()})
	}
	if f := r.forged.Load(); f != nil {
		reply.Answers = reply.Answers[:0]
		add(&dnsmessage.AResource{A: f.addr.As4()})
		f.change(&reply)
	}
	packed, err := reply.Pack()
	return packed, err == nil
}
