package resolver

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// question is what is asked for: a name in lower case, without a dot at its end, and A or AAAA.
type question struct {
	name string
	kind dnsmessage.Type
}

// answer is what a resolver says. Without addresses it is negative: there is no such name, or none with addresses of
// that kind.
type answer struct {
	addrs []netip.Addr
	// ttl is how long that counts, as the records say: the least of those on the way to the addresses. Of a negative
	// answer it is that of the SOA record (RFC 2308 section 5), or noSOA.
	ttl time.Duration
	// truncated: the rest is to be had over TCP.
	truncated bool
}

// longestChain is how many CNAME records are followed at most, as by BIND's default (max-query-restarts).
const longestChain = 11

// errOther is of a message that does not answer the question: of whatever else, or of somebody who guesses.
var errOther = errors.New("not the answer to this question")

// pack is a question as a message. It fails for a name that DNS cannot have.
func (q question) pack(id uint16) ([]byte, error) {
	name, err := dnsmessage.NewName(q.name + ".")
	if err != nil {
		return nil, err
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: q.kind, Class: dnsmessage.ClassINET}},
	}
	return message.Pack()
}

// unpack reads the answer to a question. It fails with errOther, with Refused for a response code that says nothing about
// the name, and with Malformed.
func (q question) unpack(message []byte, id uint16) (answer, error) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || !header.Response || header.ID != id {
		return answer{}, errOther
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 || canonical(questions[0].Name) != q.name || questions[0].Type != q.kind || questions[0].Class != dnsmessage.ClassINET {
		return answer{}, errOther
	}
	switch {
	case header.RCode != dnsmessage.RCodeSuccess && header.RCode != dnsmessage.RCodeNameError:
		return answer{}, Refused
	case header.Truncated:
		return answer{truncated: true}, nil
	}
	rs, err := readRecords(&p, q.kind)
	if err != nil {
		return answer{}, Malformed
	}
	if a := rs.follow(q.name); len(a.addrs) > 0 {
		return a, nil
	}
	ttl, err := negativeTTL(&p)
	if err != nil {
		return answer{}, Malformed
	}
	return answer{ttl: ttl}, nil
}

// records are those of an answer that lead from a name to addresses.
type records struct {
	aliases map[string]alias
	addrs   map[string]answer
}

// alias is a CNAME record.
type alias struct {
	to  string
	ttl time.Duration
}

// readRecords reads the answer section, as far as it has aliases, and addresses of a kind.
func readRecords(p *dnsmessage.Parser, kind dnsmessage.Type) (records, error) {
	rs := records{aliases: map[string]alias{}, addrs: map[string]answer{}}
	for {
		header, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return rs, nil
		}
		if err != nil {
			return records{}, err
		}
		owner, ttl := canonical(header.Name), lifetime(header.TTL)
		var addr netip.Addr
		switch {
		case header.Class != dnsmessage.ClassINET:
			err = p.SkipAnswer()
		case header.Type == dnsmessage.TypeCNAME:
			var r dnsmessage.CNAMEResource
			r, err = p.CNAMEResource()
			rs.aliases[owner] = alias{canonical(r.CNAME), ttl}
		case header.Type == dnsmessage.TypeA && kind == header.Type:
			var r dnsmessage.AResource
			r, err = p.AResource()
			addr = netip.AddrFrom4(r.A)
		case header.Type == dnsmessage.TypeAAAA && kind == header.Type:
			var r dnsmessage.AAAAResource
			r, err = p.AAAAResource()
			addr = netip.AddrFrom16(r.AAAA).Unmap() // who connects to a mapped address sends IPv4
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			return records{}, err
		}
		if addr.IsValid() {
			a, more := rs.addrs[owner]
			if !more || ttl < a.ttl {
				a.ttl = ttl
			}
			a.addrs = append(a.addrs, addr)
			rs.addrs[owner] = a
		}
	}
}

// follow is what a name's aliases lead to.
func (rs records) follow(name string) answer {
	least := time.Duration(math.MaxInt64)
	for range longestChain + 1 {
		if a, is := rs.addrs[name]; is {
			a.ttl = min(a.ttl, least)
			return a
		}
		next, is := rs.aliases[name]
		if !is {
			break
		}
		name, least = next.to, min(least, next.ttl)
	}
	return answer{}
}

// negativeTTL reads of the authority section how long it counts that there is nothing.
func negativeTTL(p *dnsmessage.Parser) (time.Duration, error) {
	for {
		header, err := p.AuthorityHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return noSOA, nil
		}
		if err != nil {
			return 0, err
		}
		if header.Type != dnsmessage.TypeSOA {
			if err := p.SkipAuthority(); err != nil {
				return 0, err
			}
			continue
		}
		soa, err := p.SOAResource()
		if err != nil {
			return 0, err
		}
		return min(lifetime(header.TTL), lifetime(soa.MinTTL)), nil
	}
}

// lifetime is a TTL; one with the uppermost bit counts as zero (RFC 2181 section 8).
func lifetime(seconds uint32) time.Duration {
	if seconds > math.MaxInt32 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// canonical is a name in the form in which names are compared (RFC 4343).
func canonical(name dnsmessage.Name) string {
	return strings.ToLower(strings.TrimSuffix(name.String(), "."))
}
