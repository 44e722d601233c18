package dns

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/policy"
)

const (
	// maxAliases is how many aliases (CNAME) an answer may have. Resolvers that follow them give up at about as many.
	maxAliases = 16
	// maxAddresses is how many addresses of an answer count.
	maxAddresses = 1000
)

// Answer is what somebody was told who has asked for the addresses of a name. It has one at least.
type Answer struct {
	// Name is the name that was asked for, in lower case, without a dot at its end.
	Name string
	// Addresses are all of the family that was asked for, in the order of the message.
	Addresses []Address
}

// Address is an address of a name.
type Address struct {
	Addr netip.Addr
	// TTL is for how long it may be used, at the least of what the address and the aliases that lead to it say. It may be
	// 0, which means for what is under way (RFC 1035 section 3.2.1).
	TTL time.Duration
}

// Resolutions are the answer's addresses for a pod; the zero Addr is the agent itself. They count from now for as long as
// the TTL says, but not less than least and not more than most.
func (a Answer) Resolutions(pod netip.Addr, now time.Time, least, most time.Duration) []policy.Resolution {
	resolutions := make([]policy.Resolution, 0, len(a.Addresses))
	for _, address := range a.Addresses {
		resolutions = append(resolutions, policy.Resolution{
			Name: a.Name, Addr: address.Addr, Pod: pod, Expires: now.Add(min(max(address.TTL, least), most)),
		})
	}
	return resolutions
}

// record is a name that the answer section says something of, for so many seconds.
type record struct {
	name string
	ttl  uint32
}

// alias is a record CNAME.
type alias struct {
	record
	of string
}

// answer reads the answer section of a reply, of which read has said that it is one to q. ok is false if there is nothing
// to be learned.
func answer(q question, header dnsmessage.Header, p dnsmessage.Parser) (a Answer, ok bool, ignored []Reason) {
	if header.RCode != dnsmessage.RCodeSuccess {
		return a, false, []Reason{ErrorCode}
	}
	if header.Truncated {
		// A stub resolver should ask again over TCP (RFC 2181 section 9). One that does not, as musl's before 1.2.4, uses
		// what is there.
		ignored = append(ignored, Truncated)
	}
	aliases, addresses, why := count(q.kind, p)
	if why != 0 {
		return a, false, append(ignored, why)
	}
	names := follow(q.name, aliases)
	if addresses > maxAddresses {
		ignored = append(ignored, TooManyAddresses)
		addresses = maxAddresses
	}
	a = Answer{Name: q.name, Addresses: make([]Address, 0, addresses)}
	for len(a.Addresses) < addresses {
		h, addr, err := nextAddress(q.kind, &p)
		if err != nil {
			break // the section's end: count has read all of it
		}
		owner := find(names, canonical(&h.Name))
		if owner == nil {
			continue
		}
		if why := refused(addr); why != 0 {
			ignored = append(ignored, why)
			continue
		}
		a.Addresses = append(a.Addresses, Address{Addr: addr, TTL: time.Duration(min(owner.ttl, seconds(h.TTL))) * time.Second})
	}
	if len(a.Addresses) == 0 {
		return Answer{}, false, append(ignored, NoAddresses)
	}
	return a, true, ignored
}

// count returns the section's aliases, and how many addresses of a type it has, whosever they are.
func count(kind dnsmessage.Type, p dnsmessage.Parser) (aliases []alias, addresses int, why Reason) {
	for {
		h, err := p.AnswerHeader()
		switch {
		case errors.Is(err, dnsmessage.ErrSectionDone):
			return aliases, addresses, 0
		case err != nil:
			return nil, 0, Malformed
		case isAddress(kind, h):
			addresses++
		case h.Class == dnsmessage.ClassINET && h.Type == dnsmessage.TypeCNAME:
			target, err := p.CNAMEResource()
			if err != nil {
				return nil, 0, Malformed
			}
			if len(aliases) == maxAliases {
				return nil, 0, LongChain
			}
			aliases = append(aliases, alias{of: string(canonical(&h.Name)), record: record{name: string(canonical(&target.CNAME)), ttl: seconds(h.TTL)}})
			continue
		}
		if err := p.SkipAnswer(); err != nil {
			return nil, 0, Malformed
		}
	}
}

// follow returns the names that a name leads to, itself first: each once, so that loops end. Records may be in any order
// (RFC 1034 section 3.6.2 has the usual one).
func follow(name string, aliases []alias) []record {
	names := append(make([]record, 0, 1+len(aliases)), record{name: name, ttl: maxTTL})
	for i := 0; i < len(names); i++ {
		for _, a := range aliases {
			if a.of == names[i].name && find(names, []byte(a.name)) == nil {
				names = append(names, record{name: a.name, ttl: min(a.ttl, names[i].ttl)})
			}
		}
	}
	return names
}

func find(names []record, name []byte) *record {
	for i := range names {
		if names[i].name == string(name) {
			return &names[i]
		}
	}
	return nil
}

// nextAddress skips to the next address of a type.
func nextAddress(kind dnsmessage.Type, p *dnsmessage.Parser) (h dnsmessage.ResourceHeader, addr netip.Addr, err error) {
	for {
		if h, err = p.AnswerHeader(); err != nil {
			return h, addr, err
		}
		if !isAddress(kind, h) {
			if err = p.SkipAnswer(); err != nil {
				return h, addr, err
			}
			continue
		}
		if kind == dnsmessage.TypeA {
			a, err := p.AResource()
			return h, netip.AddrFrom4(a.A), err
		}
		aaaa, err := p.AAAAResource()
		return h, netip.AddrFrom16(aaaa.AAAA), err
	}
}

// isAddress reports whether a record is an address of a type. Its length matters, as dnsmessage would read on behind the
// end of one that is too short.
func isAddress(kind dnsmessage.Type, h dnsmessage.ResourceHeader) bool {
	length := uint16(4)
	if kind == dnsmessage.TypeAAAA {
		length = 16
	}
	return h.Class == dnsmessage.ClassINET && h.Type == kind && h.Length == length
}

// maxTTL is the longest time of a record, in seconds (RFC 2181 section 8).
const maxTTL = 1<<31 - 1

// seconds is a record's TTL. One with its highest bit set is 0 (RFC 2181 section 8).
func seconds(ttl uint32) uint32 {
	if ttl > maxTTL {
		return 0
	}
	return ttl
}

// refused says why no name gets an address. These mean something else on the node than to whoever has said so, and a name
// of somebody else's must not lead there (DNS rebinding). Private addresses are the usual ones of a cluster.
func refused(addr netip.Addr) Reason {
	switch {
	case addr.Is4In6():
		return MappedAddress
	case addr.IsUnspecified(), thisNetwork.Contains(addr):
		return UnspecifiedAddress
	case addr.IsLoopback():
		return LoopbackAddress
	case addr.IsMulticast():
		return MulticastAddress
	case addr == broadcast:
		return BroadcastAddress
	case addr.IsLinkLocalUnicast():
		return LinkLocalAddress
	}
	return 0
}

var (
	// thisNetwork is of hosts that do not know their address yet (RFC 1122 section 3.2.1.3).
	thisNetwork = netip.PrefixFrom(netip.IPv4Unspecified(), 8)
	broadcast   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)
