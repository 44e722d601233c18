package resolver

import (
	"cmp"
	"errors"
	"math"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/names/dns"
	"github.com/podfence/podfence/policy"
)

// question is what is asked for: a name in lower case, without a dot at its end, and A or AAAA.
type question struct {
	name string
	kind dnsmessage.Type
}

// answer is what a resolver says. Without addresses it is negative: there is no such name, or none with addresses of
// that kind that a peer can have.
type answer struct {
	dns.Answer
	// ttl is for how long that may be used: the least of the addresses' TTLs, or that of there being none.
	ttl time.Duration
}

// positive reports whether a name has addresses.
func (a answer) positive() bool { return len(a.Addresses) > 0 }

// resolutions are the addresses, for all pods, as long as they count from now on.
func (a answer) resolutions(now time.Time, t timing) []policy.Resolution {
	return a.Resolutions(netip.Addr{}, now.Add(grace), t.counts(0), t.counts(math.MaxInt64))
}

var (
	// errOther is of a message that does not answer the question: of whatever else, or of somebody who guesses.
	errOther = errors.New("not the answer to this question")
	// errTruncated is of an answer that is to be had over TCP.
	errTruncated = errors.New("truncated")
)

// read reads the answer to a query. It fails with errOther, errTruncated, Malformed, or with Refused for a response code that
// says nothing about the name.
func read(query dns.Query, message []byte) (answer, error) {
	a, ok, ignored := query.Reply(message)
	if ok {
		ttl := slices.MinFunc(a.Addresses, func(a, b dns.Address) int { return cmp.Compare(a.TTL, b.TTL) }).TTL
		return answer{a, ttl}, nil
	}
	switch ignored[len(ignored)-1] {
	case dns.NoAddresses, dns.ErrorCode:
		ttl, err := negativeTTL(message)
		return answer{ttl: ttl}, err
	case dns.Truncated:
		return answer{}, errTruncated
	case dns.LongChain:
		return answer{}, Malformed
	}
	return answer{}, errOther
}

// negativeTTL is for how long a reply without addresses counts: as its SOA record says (RFC 2308 section 5), or noSOA.
func negativeTTL(reply []byte) (time.Duration, error) {
	var p dnsmessage.Parser
	header, err := p.Start(reply)
	if err != nil {
		return 0, Malformed
	}
	if header.RCode != dnsmessage.RCodeSuccess && header.RCode != dnsmessage.RCodeNameError {
		return 0, Refused
	}
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil {
		return 0, Malformed
	}
	for {
		header, err := p.AuthorityHeader()
		switch {
		case errors.Is(err, dnsmessage.ErrSectionDone):
			return noSOA, nil
		case err != nil:
			return 0, Malformed
		case header.Type != dnsmessage.TypeSOA:
			if p.SkipAuthority() != nil {
				return 0, Malformed
			}
			continue
		}
		soa, err := p.SOAResource()
		if err != nil {
			return 0, Malformed
		}
		seconds := min(header.TTL, soa.MinTTL)
		if seconds > math.MaxInt32 { // which counts as zero (RFC 2181 section 8)
			seconds = 0
		}
		return time.Duration(seconds) * time.Second, nil
	}
}
