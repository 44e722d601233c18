package ruleset

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// The names that do not depend on the cluster.
const (
	chainEgressForward  = "egress-forward"
	chainEgressInput    = "egress-input"
	chainIngressForward = "ingress-forward"
	chainMasquerade     = "postrouting-masquerade"
	chainTunnelInput    = "tunnel-input"
	chainIntoTunnel     = "into-tunnel"
	chainTowardsTunnel  = "towards-tunnel"
	chainSources        = "sources-prerouting"
	chainBeginnings     = "beginnings"
	chainDiscovery      = "discovery"
	chainListeners      = "discovery-listeners"
	chainOrphansOutput  = "orphans-output"
	chainErrorsSent     = "errors-sent"
	chainErrorsReceived = "errors-received"
	chainDenied         = "denied"
	chainRejected       = "rejected"
	chainDeniedInvalid  = "denied-invalid"
	chainDeniedRevoked  = "denied-revoked"
	chainDeniedMidway   = "denied-midway"

	setSolicited         = "discovery-solicited"
	setAdvertised        = "discovery-advertised"
	setAllRouters        = "discovery-routers"
	setSenders6          = "discovery-senders"
	setMulticast6        = "discovery-multicast"
	setLinkLocal6        = "discovery-link-local"
	setMulticastListener = "discovery-messages"
	setPorted            = "ported"
	setTunnel            = "tunnel"
	setGuarded           = "guarded-links"
	setErrors            = "icmp-errors"
	setLoopback4         = "loopback-4"
	setLoopback6         = "loopback-6"
)

// A generated name is at most 127 characters: the kernel has 256, but not
// every tool does. It begins with a letter, as nft demands, and holds only what
// Kubernetes allows in names ([a-z0-9.-], with one "/"), which nft reads as
// they are:
//
//	policy-ingress-HASH-NAMESPACE/NAME         15 + 16 + 1 + 63 + 1 + 31 of 253
//	cluster-policy-ingress-HASH-NAME           23 + 16 + 1 + 87 of 253
//	admin-ingress-HASH, policies-ingress-HASH  17 + 16
//	section-ingress-HASH-HASH-NAMESPACE/NAME   16 + 16 + 1 + 16 + 1 + 63 + 1 + 13 of 253
//	peers-4-HASH                                8 + 16
//
// HASH is 80 bits of a SHA-256, in base32. It makes a name that had to be cut
// differ from others that begin alike; the namespace is never cut, so that
// nobody can make a name that collides with another namespace's. A set is
// named by the hash of its content's key alone, which its comment spells out.
//
// It is for others to see to it that names are what Kubernetes allows. A key that is not still
// gets a valid name, and one that no other key has.
const (
	maxName = 127
	maxHash = 16
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567")

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32Lower.EncodeToString(sum[:maxHash*5/8])
}

func objectName(prefix string, key policy.Key) string {
	text := key.String()
	id := text
	if key.Namespace == "" {
		text = key.Name
	}
	if strings.Count(text, "/") != 1 { // "c" in "a/b" is not "b/c" in "a"
		id = fmt.Sprintf("%q %q", key.Namespace, key.Name)
	}
	name := prefix + "-" + hash(id) + "-" + strings.Map(readable, text)
	return name[:min(len(name), maxName)]
}

// readable keeps what may be in a name.
func readable(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("/.-_", r):
		return r
	}
	return '_'
}

// podChain is the chain of an isolated pod.
func podChain(d policy.Direction, key policy.Key) string { return objectName(d.String(), key) }

// policyChain is the chain of a policy's rules. A ClusterNetworkPolicy has no namespace.
func policyChain(d policy.Direction, key policy.Key) string {
	if key.Namespace == "" {
		return objectName("cluster-policy-"+d.String(), key)
	}
	return objectName("policy-"+d.String(), key)
}

// sectionChain is the chain of a part of a policy's rules.
func sectionChain(key policy.SectionKey) string {
	return objectName(fmt.Sprintf("section-%s-%s", key.Direction, key.Name), key.Policy)
}

// stackChain is the chain of the policies of a tier, in order.
func stackChain(tier policy.Tier, d policy.Direction, stack []policy.Key) string {
	var keys strings.Builder
	for _, key := range stack {
		fmt.Fprintf(&keys, "%q %q ", key.Namespace, key.Name)
	}
	return fmt.Sprintf("%s-%s-%s", tier, d, hash(keys.String()))
}

// family is 4 or 6, for what the kernel keeps separately for IPv4 and IPv6.
type family int

var families = [...]family{4, 6}

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return 4
	}
	return 6
}

// podMap is the map from a pod's address to its chain.
func podMap(d policy.Direction, f family) string { return fmt.Sprintf("%s-pods-%d", d, f) }

// podRangeSet holds the node's pod ranges.
func podRangeSet(f family) string { return fmt.Sprintf("pod-ranges-%d", f) }

// PodRangeSets are the sets of the node's pod ranges.
var PodRangeSets = [...]string{podRangeSet(4), podRangeSet(6)}

// DropChains are the chains of family inet with rules that drop, whatever policies say; the
// comments of those rules say what.
var DropChains = [...]string{
	chainEgressForward, chainEgressInput, chainIngressForward, chainOrphansOutput, chainErrorsSent, chainErrorsReceived,
	chainFirstFragments, fragmentsChain(4), fragmentsChain(6), chainOthersNames, chainConnections,
}

// orphansSet holds addresses that containers have, but no known pod.
func orphansSet(f family) string { return fmt.Sprintf("orphans-%d", f) }

// doubtfulSet holds addresses of pods of which nobody can tell what is denied to them.
func doubtfulSet(f family) string { return fmt.Sprintf("doubtful-%d", f) }

// samePodSet holds the addresses of the node's pods, each twice, as a pair. If two fields of a
// packet are in it as a pair, they have the same address, and that is a pod's. If one field,
// looked up twice, is in it, it has a pod's address.
func samePodSet(f family) string { return fmt.Sprintf("same-pod-%d", f) }

// errorRatesSet holds how fast ICMP errors come to each pod.
func errorRatesSet(f family) string { return fmt.Sprintf("errors-%d", f) }

// clusterSet holds the addresses that pods reach with their own address.
func clusterSet(f family) string { return fmt.Sprintf("cluster-%d", f) }

// sourcesSet holds the pod ranges of all nodes.
func sourcesSet(f family) string { return fmt.Sprintf("all-pod-ranges-%d", f) }

// nodesSet holds the nodes' addresses.
func nodesSet(f family) string { return fmt.Sprintf("nodes-%d", f) }

// peersSet holds the addresses that a selector means. The lengths keep two
// selectors whose parts concatenate alike apart.
func peersSet(f family, s policy.Selector) string {
	id := fmt.Sprintf("%q %q %q", s.Namespace, s.Namespaces, s.Pods)
	if s.Or != "" {
		id += fmt.Sprintf(" %q", s.Or)
	}
	if s.OfNodes {
		id = fmt.Sprintf("nodes %q", s.Nodes)
	}
	return fmt.Sprintf("peers-%d-%s", f, hash(id))
}

// namedSet holds the endpoints that a port name means.
func namedSet(f family, n policy.NamedPort) string {
	return fmt.Sprintf("named-%d-%s", f, hash(fmt.Sprintf("%d %q %d", n.Protocol, n.Name, n.Scope)))
}

// blockSet and portsSet are sets whose content never changes under their names: the hash in the
// name is that of the elements, in order.
func blockSet(f family, elements []nft.Element) string {
	return fmt.Sprintf("block-%d-%s", f, contentHash(elements))
}

func portsSet(elements []nft.Element) string {
	return fmt.Sprintf("ports-%s", contentHash(elements))
}

// contentHash is the hash of the elements as text. The text is not made by fmt, which would take
// as long for it as the kernel takes for the elements.
func contentHash(elements []nft.Element) string {
	var text []byte
	for _, e := range elements {
		text = append(hex.AppendEncode(text, e.Addr[:]), '-')
		text = append(hex.AppendEncode(text, e.LastAddr[:]), ' ')
		text = append(strconv.AppendUint(text, uint64(e.Protocol), 10), ' ')
		text = append(strconv.AppendUint(text, uint64(e.First), 10), '-')
		text = append(strconv.AppendUint(text, uint64(e.Last), 10), '\n')
	}
	return hash(string(text))
}
