package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is what a DNS server of a test answers to a question; nil: nothing.
type zone func(q dnsmessage.Question, overTCP bool) *dnsmessage.Message

// answer is the message to a message, in octets; nil: none.
func (z zone) answer(t testing.TB, query []byte, overTCP bool) []byte {
	var asked dnsmessage.Message
	if err := asked.Unpack(query); err != nil || len(asked.Questions) != 1 || !asked.RecursionDesired || asked.Response {
		t.Errorf("not a query: %v, %v", asked.GoString(), err)
		return nil
	}
	m := z(asked.Questions[0], overTCP)
	if m == nil {
		return nil
	}
	m.ID, m.Response, m.RecursionDesired, m.RecursionAvailable = asked.ID, true, true, true
	if m.Questions == nil {
		m.Questions = asked.Questions
	}
	octets, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	if len(octets) > 512 && !overTCP {
		m.Truncated, m.Answers = true, nil
		octets, _ = m.Pack()
	}
	return octets
}

// serveStream answers over TCP until there is no more.
func (z zone) serveStream(t testing.TB, c net.Conn) {
	defer c.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		if reply := z.answer(t, query, true); reply != nil {
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		}
	}
}

// serve is a DNS server on a loopback address, until the test ends. forge are datagrams that it sends before each answer.
func serve(t *testing.T, z zone, forge ...func(reply []byte) []byte) netip.AddrPort {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	for { // until a port is free for both
		var err error
		if tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if udp, err = net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			break
		}
		tcp.Close()
	}
	var running sync.WaitGroup
	running.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			reply := z.answer(t, buffer[:n], false)
			if reply == nil {
				continue
			}
			for _, f := range forge {
				udp.WriteTo(f(append([]byte(nil), reply...)), from)
			}
			udp.WriteTo(reply, from)
		}
	})
	running.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			running.Go(func() { z.serveStream(t, c) })
		}
	})
	t.Cleanup(func() {
		udp.Close()
		tcp.Close()
		running.Wait()
	})
	return netip.MustParseAddrPort(tcp.Addr().String())
}

// wire is a network whose servers answer without sockets, so that its time can be a test's own.
type wire struct {
	t     testing.TB
	zones map[string]zone // by address and port
}

func (w wire) dial(_ context.Context, network, address string) (net.Conn, error) {
	z := w.zones[address]
	if z == nil {
		return nil, errors.New("no route to host")
	}
	mine, theirs := net.Pipe()
	if network == "tcp" {
		go z.serveStream(w.t, theirs)
		return mine, nil
	}
	go func() {
		defer theirs.Close()
		buffer := make([]byte, 4096)
		for {
			n, err := theirs.Read(buffer)
			if err != nil {
				return
			}
			if reply := z.answer(w.t, buffer[:n], false); reply != nil {
				theirs.Write(reply)
			}
		}
	}()
	return mine, nil
}

func name(text string) dnsmessage.Name { return dnsmessage.MustNewName(text + ".") }

// record is a resource record of class IN.
func record(owner string, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name(owner), Class: dnsmessage.ClassINET, TTL: ttl}, Body: body}
}

// at is an A or AAAA record.
func at(owner string, ttl uint32, addr string) dnsmessage.Resource {
	if ip := netip.MustParseAddr(addr); ip.Is6() {
		return record(owner, ttl, &dnsmessage.AAAAResource{AAAA: ip.As16()})
	}
	return record(owner, ttl, &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()})
}

func cname(owner string, ttl uint32, to string) dnsmessage.Resource {
	return record(owner, ttl, &dnsmessage.CNAMEResource{CNAME: name(to)})
}

func soa(ttl, minimum uint32) dnsmessage.Resource {
	return record("example.com", ttl, &dnsmessage.SOAResource{NS: name("ns.example.com"), MBox: name("who.example.com"), MinTTL: minimum})
}

// addresses answers each question for A with these addresses, and that there is no AAAA.
func addresses(ttl uint32, addrs ...string) zone {
	return func(q dnsmessage.Question, _ bool) *dnsmessage.Message {
		m := &dnsmessage.Message{}
		if q.Type != dnsmessage.TypeA {
			m.Authorities = []dnsmessage.Resource{soa(60, 60)}
			return m
		}
		for _, addr := range addrs {
			m.Answers = append(m.Answers, at(q.Name.String()[:len(q.Name.String())-1], ttl, addr))
		}
		return m
	}
}

// silent answers nothing.
func silent(dnsmessage.Question, bool) *dnsmessage.Message { return nil }

// asks counts questions by when they come.
type asks struct {
	mu   sync.Mutex
	when []time.Time
	of   map[dnsmessage.Question][]time.Time
}

// of is a zone whose questions are counted.
func (a *asks) count(z zone) zone {
	return func(q dnsmessage.Question, overTCP bool) *dnsmessage.Message {
		a.mu.Lock()
		a.when = append(a.when, time.Now())
		if a.of == nil {
			a.of = map[dnsmessage.Question][]time.Time{}
		}
		a.of[q] = append(a.of[q], time.Now())
		a.mu.Unlock()
		return z(q, overTCP)
	}
}

// times are when a question came.
func (a *asks) times(q dnsmessage.Question) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]time.Time(nil), a.of[q]...)
}

// number is how many questions came.
func (a *asks) number() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.when)
}

func asking(kind dnsmessage.Type, text string) dnsmessage.Question {
	return dnsmessage.Question{Name: name(text), Type: kind, Class: dnsmessage.ClassINET}
}
