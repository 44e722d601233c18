package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// DomainName is a name that a rule has as a peer, as domainNames of a ClusterNetworkPolicy says it: "api.example.com",
// or "*.example.com", which means all names of one or more labels before .example.com. It is in lower case, without a
// dot at its end.
type DomainName string

// isDomainName is the schema's pattern for domainNames (ClusterNetworkPolicy, sigs.k8s.io/network-policy-api).
var isDomainName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$`)

// domainSets is how many sets of the kernel the domain names of a rule take: in each family, one for what pods were told,
// and one for what the agent was.
const domainSets = 4

// DomainNameOf is a name of the API as a DomainName.
func DomainNameOf(name string) DomainName { return DomainName(canonicalName(name)) }

// canonicalName is a domain name in the form in which names are compared: letters of ASCII in lower case (RFC 4343), and
// no dot at the end.
func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Valid reports whether it is a domain name, or one behind "*.", as the API's schema has them.
func (n DomainName) Valid() bool { return isDomainName.MatchString(string(n)) }

// Wildcard reports whether it means more than one name.
func (n DomainName) Wildcard() bool { return strings.HasPrefix(string(n), "*.") }

// Matches reports whether it means a name, which must be in lower case, without a dot at its end.
func (n DomainName) Matches(name string) bool {
	if suffix, wild := strings.CutPrefix(string(n), "*"); wild {
		return len(name) > len(suffix) && strings.HasSuffix(name, suffix)
	}
	return name == string(n)
}

// Resolution is an address that somebody was told a name has. It is a value.
type Resolution struct {
	// Name is the name that was asked for, in lower case, without a dot at its end.
	Name string
	Addr netip.Addr
	// Pod is the address of the pod that has asked, and was told, or another of its addresses; nobody else may use the
	// answer. The zero Addr is the agent itself, and its answers are for all pods of the node that a policy with this very name is about.
	Pod netip.Addr
	// Expires is when the answer does not count for new connections any more.
	Expires time.Time
}

// untimed is the resolution without its time.
func (r Resolution) untimed() Resolution {
	r.Expires = time.Time{}
	return r
}

func (r Resolution) String() string {
	who := "the agent"
	if r.Pod.IsValid() {
		who = r.Pod.String()
	}
	return fmt.Sprintf("%s is %s for %s", r.Name, r.Addr, who)
}
