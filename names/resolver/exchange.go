package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
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

// largestDatagram is what is read of a datagram. Without EDNS a resolver sends 512 octets (RFC 1035 section 4.2.1).
const largestDatagram = 4096

// dialer opens connections as net.Dialer's DialContext does: one for each question, so that each has a port of its own to
// be guessed by who wants to answer in the resolver's name (RFC 5452).
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// exchange asks a resolver a question over UDP, and over TCP if the answer is too long for that. overTCP reports whether
// that was so.
func (dial dialer) exchange(ctx context.Context, server netip.AddrPort, q question) (a answer, overTCP bool, failed Failure) {
	var random [2]byte
	rand.Read(random[:]) // never fails
	id := binary.BigEndian.Uint16(random[:])
	message, err := q.pack(id)
	if err != nil {
		return answer{}, false, Malformed
	}
	a, failed = dial.over(ctx, "udp", server, func(c net.Conn) (answer, error) { return q.overUDP(c, message, id) })
	if failed != "" || !a.truncated {
		return a, false, failed
	}
	a, failed = dial.over(ctx, "tcp", server, func(c net.Conn) (answer, error) { return q.overTCP(c, message, id) })
	return a, true, failed
}

// over has do ask over a connection of its own, in time.
func (dial dialer) over(ctx context.Context, network string, server netip.AddrPort, do func(net.Conn) (answer, error)) (answer, Failure) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, err := dial(ctx, network, server.String())
	if err != nil {
		return answer{}, failureOf(ctx, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	a, err := do(conn)
	if err != nil {
		return answer{}, failureOf(ctx, err)
	}
	return a, ""
}

// failureOf is an error as a Failure.
func failureOf(ctx context.Context, err error) Failure {
	var f Failure
	switch {
	case errors.As(err, &f):
		return f
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	}
	return Network
}

// overUDP asks by a datagram. Datagrams that are not the answer are passed over, as whoever guesses could end the wait
// otherwise.
func (q question) overUDP(conn net.Conn, message []byte, id uint16) (answer, error) {
	if _, err := conn.Write(message); err != nil {
		return answer{}, err
	}
	datagram := make([]byte, largestDatagram)
	for {
		n, err := conn.Read(datagram)
		if err != nil {
			return answer{}, err
		}
		if a, err := q.unpack(datagram[:n], id); !errors.Is(err, errOther) {
			return a, err
		}
	}
}

// overTCP asks by a stream, in which each message's length comes before it (RFC 1035 section 4.2.2).
func (q question) overTCP(conn net.Conn, message []byte, id uint16) (answer, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)); err != nil {
		return answer{}, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return answer{}, err
	}
	reply := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return answer{}, err
	}
	a, err := q.unpack(reply, id)
	if errors.Is(err, errOther) || a.truncated {
		return answer{}, Malformed
	}
	return a, err
}
