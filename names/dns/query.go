package dns

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"golang.org/x/net/dns/dnsmessage"
)

// udpSize is how long a reply over UDP may be that we ask for: what goes through most networks without fragments (RFC 9715
// section 3.2).
const udpSize = 1232

// Query is what the agent asks a resolver itself.
type Query struct {
	question question
	message  []byte
}

// NewQuery returns a query for the addresses of a name, of type A or AAAA, with an ID that cannot be guessed (RFC 5452
// section 9.2). It fails if there can be no such name.
func NewQuery(name string, kind dnsmessage.Type) (Query, error) {
	if kind != dnsmessage.TypeA && kind != dnsmessage.TypeAAAA {
		return Query{}, fmt.Errorf("%v is not a type of addresses", kind)
	}
	asked, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return Query{}, fmt.Errorf("name %q: %w", name, err)
	}
	var id [2]byte
	_, _ = rand.Read(id[:]) // it never fails
	header := dnsmessage.Header{ID: binary.BigEndian.Uint16(id[:]), RecursionDesired: true}
	var edns dnsmessage.Resource
	edns.Body = &dnsmessage.OPTResource{}
	if err := edns.Header.SetEDNS0(udpSize, dnsmessage.RCodeSuccess, false); err != nil {
		return Query{}, err
	}
	m := dnsmessage.Message{
		Header:      header,
		Questions:   []dnsmessage.Question{{Name: asked, Type: kind, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{edns},
	}
	packed, err := m.Pack()
	if err != nil {
		return Query{}, fmt.Errorf("name %q: %w", name, err)
	}
	q, _, _, why := read(packed, false)
	if why != 0 {
		return Query{}, fmt.Errorf("name %q: %v", name, why)
	}
	return Query{question: q, message: packed}, nil
}

// Message is what to send; over TCP, behind its length in two octets. It must not be changed.
func (q Query) Message() []byte { return q.message }

// Reply reads what came back. ok is false if nothing was learned. If ignored has Truncated, ask again over TCP; if it has
// WrongID or WrongQuestion, it was no reply to this query, and one may still come.
func (q Query) Reply(message []byte) (a Answer, ok bool, ignored []Reason) {
	asked, header, p, why := read(message, true)
	switch {
	case why != 0:
		return a, false, []Reason{why}
	case asked.id != q.question.id:
		return a, false, []Reason{WrongID}
	case asked != q.question:
		return a, false, []Reason{WrongQuestion}
	}
	if header.Truncated && header.RCode == dnsmessage.RCodeSuccess {
		return a, false, []Reason{Truncated} // the agent does ask over TCP
	}
	return answer(asked, header, p)
}
