package policy

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// protocolOf reads an API protocol; the empty one is TCP, as the API server
// defaults it.
func protocolOf(p corev1.Protocol) (Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	case corev1.ProtocolSCTP:
		return SCTP, true
	}
	return 0, false
}

// PortRange is the destination ports First to Last, both included, of one
// protocol.
type PortRange struct {
	Protocol    Protocol
	First, Last uint16
}

// SinglePorts reports whether each of these is a single port. They all go into one
// set.
func SinglePorts(ranges []PortRange) bool {
	return !slices.ContainsFunc(ranges, func(r PortRange) bool { return r.First != r.Last })
}

// mergePorts returns the same ports in disjoint, non-adjacent ranges, in
// order: nftables refuses a set whose intervals overlap.
func mergePorts(ranges []PortRange) []PortRange {
	slices.SortFunc(ranges, func(a, b PortRange) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First))
	})
	var merged []PortRange
	for _, r := range ranges {
		if n := len(merged) - 1; n >= 0 && merged[n].Protocol == r.Protocol && int(r.First) <= int(merged[n].Last)+1 {
			merged[n].Last = max(merged[n].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// Scope says whose named ports a NamedPort stands for.
type Scope uint8

const (
	// Local is the pods of this node: an ingress rule's named port is resolved
	// on its subject, which is one of them.
	Local Scope = iota
	// Cluster is every pod: an egress rule's named port is resolved on the
	// destination, which may be anywhere.
	Cluster
)

func (s Scope) String() string {
	if s == Local {
		return "this node's pods"
	}
	return "all pods"
}

// NamedPort is a port name with its protocol. Its members are Endpoints, an address each with
// its own port number: where the name has different numbers on different pods, each number
// holds only for its own pod.
type NamedPort struct {
	// Protocol is zero where the name is meant with whatever protocol a pod has for it.
	Protocol Protocol
	Name     string
	Scope    Scope
}

func (n NamedPort) String() string {
	if n.Protocol == 0 {
		return fmt.Sprintf("port %s of %s", n.Name, n.Scope)
	}
	return fmt.Sprintf("port %s/%s of %s", n.Name, n.Protocol, n.Scope)
}

func compareNamedPort(a, b NamedPort) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Scope, b.Scope))
}
