package dns

import (
	"encoding/binary"

	"golang.org/x/net/dns/dnsmessage"
)

// question is what a query asks, with its ID.
type question struct {
	id   uint16
	kind dnsmessage.Type
	// name is in lower case, without a dot at its end.
	name string
}

// read reads a message up to its answers, where the parser is then. The reason is 0 for a message that asks one question for
// the addresses of a name, or replies to one.
func read(message []byte, response bool) (q question, header dnsmessage.Header, p dnsmessage.Parser, why Reason) {
	header, err := p.Start(message)
	switch {
	case err != nil:
		return q, header, p, Malformed
	case header.Response != response:
		return q, header, p, WrongDirection
	case header.OpCode != 0:
		return q, header, p, OtherOperation
	// QDCOUNT (RFC 1035 section 4.1.1), which Start has found to be there.
	case binary.BigEndian.Uint16(message[4:]) != 1:
		return q, header, p, QuestionCount
	}
	asked, err := p.Question()
	if err != nil {
		return q, header, p, Malformed
	}
	if asked.Class != dnsmessage.ClassINET || asked.Type != dnsmessage.TypeA && asked.Type != dnsmessage.TypeAAAA {
		return q, header, p, OtherQuestion
	}
	name := canonical(&asked.Name)
	if !ofHost(name) {
		return q, header, p, OddName
	}
	if err := p.SkipAllQuestions(); err != nil {
		return q, header, p, Malformed
	}
	return question{id: header.ID, kind: asked.Type, name: string(name)}, header, p, 0
}

// canonical is a name in the form in which names are compared, as policy.Resolution has them: ASCII's letters in lower case
// (RFC 4343), which resolvers return in the case in which they were asked, and no dot at the end. It changes n, and is
// part of it. That a dot separates labels dnsmessage has made sure of.
func canonical(n *dnsmessage.Name) []byte {
	name := n.Data[:n.Length]
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			name[i] = c - 'A' + 'a'
		}
	}
	return name[:len(name)-1]
}

// ofHost reports whether a canonical name may be one of a host. Others mean nothing to a policy, and what logs and metrics
// would make of their octets is not known.
func ofHost(name []byte) bool {
	for _, c := range name {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return len(name) > 0
}
