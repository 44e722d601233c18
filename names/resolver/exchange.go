package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/podfence/podfence/names/dns"
)

// Failure is why a question was not answered, in one word; empty: it was. It is an error.
type Failure string

// The failures that there are.
const (
	Timeout   Failure = "timeout"   // nothing came in time
	Network   Failure = "network"   // the resolver cannot be reached, or has ended the connection
	Refused   Failure = "refused"   // the resolver says that it failed, or does not want to: SERVFAIL, REFUSED and the like
	Malformed Failure = "malformed" // what came cannot be read, or the name is none that DNS can have
)

func (f Failure) Error() string { return "resolver: " + string(f) }

// answerWithin is how long a resolver may take for an answer, over UDP and then over TCP again.
const answerWithin = 2 * time.Second

// largestDatagram is what is read of a datagram: more than a query asks for.
const largestDatagram = 4096

// dialer opens connections as net.Dialer's DialContext does: one for each question, so that each has a port of its own to
// be guessed by who wants to answer in the resolver's name (RFC 5452).
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// exchange asks a resolver a question over UDP, and over TCP if the answer is too long for that. overTCP reports whether
// that was so.
func (dial dialer) exchange(ctx context.Context, server netip.AddrPort, q question) (a answer, overTCP bool, failure Failure) {
	query, err := dns.NewQuery(q.name, q.kind)
	if err != nil {
		return answer{}, false, Malformed
	}
	a, err = dial.over(ctx, "udp", server, query, askUDP)
	if overTCP = errors.Is(err, errTruncated); overTCP {
		a, err = dial.over(ctx, "tcp", server, query, askTCP)
	}
	return a, overTCP, failureOf(err)
}

// over has ask send a query and read the answer over a connection of its own, in time.
func (dial dialer) over(ctx context.Context, network string, server netip.AddrPort, query dns.Query, ask func(net.Conn, dns.Query) (answer, error)) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, err := dial(ctx, network, server.String())
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	return ask(conn, query)
}

// failureOf is an error as a Failure.
func failureOf(err error) Failure {
	var f Failure
	var n net.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f
	case errors.As(err, &n) && n.Timeout():
		return Timeout
	}
	return Network
}

// askUDP asks by a datagram. Datagrams that are not the answer are passed over, as whoever guesses could end the wait
// otherwise.
func askUDP(conn net.Conn, query dns.Query) (answer, error) {
	if _, err := conn.Write(query.Message()); err != nil {
		return answer{}, err
	}
	datagram := make([]byte, largestDatagram)
	for {
		n, err := conn.Read(datagram)
		if err != nil {
			return answer{}, err
		}
		if a, err := read(query, datagram[:n]); !errors.Is(err, errOther) {
			return a, err
		}
	}
}

// askTCP asks by a stream, in which each message's length comes before it (RFC 1035 section 4.2.2).
func askTCP(conn net.Conn, query dns.Query) (answer, error) {
	length := binary.BigEndian.AppendUint16(nil, uint16(len(query.Message())))
	if _, err := conn.Write(append(length, query.Message()...)); err != nil {
		return answer{}, err
	}
	if _, err := io.ReadFull(conn, length); err != nil {
		return answer{}, err
	}
	reply := make([]byte, binary.BigEndian.Uint16(length))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return answer{}, err
	}
	a, err := read(query, reply)
	if errors.Is(err, errOther) || errors.Is(err, errTruncated) {
		return answer{}, Malformed
	}
	return a, err
}
