package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Direction is the side of a connection that a policy speaks of.
type Direction uint8

// The two directions, as seen from the subject.
const (
	Ingress Direction = iota
	Egress
)

// Directions are both, in the order of their names in the API.
var Directions = [...]Direction{Ingress, Egress}

// Opposite is the other direction.
func (d Direction) Opposite() Direction { return Egress - d }

func (d Direction) String() string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}

// Intent is what one node must enforce: its subjects, the policies that select
// them, and the members of every peer and named port that those policies use.
// Nothing that no local pod needs is in it.
type Intent struct {
	// PodCIDRs are the node's pod ranges, as last known. An address in them that no
	// subject has is dropped: closed until known.
	PodCIDRs []netip.Prefix
	// Cluster are the ranges that pods reach with their own address: all
	// nodes' pod ranges and node addresses, disjoint and in order.
	Cluster []netip.Prefix
	// NodeAddrs are the addresses of all nodes, in order.
	NodeAddrs []netip.Addr
	// Nodes are all nodes of the cluster, by name.
	Nodes map[string]Node
	// Attachments are what the CNI plugin has made on this node and not removed.
	Attachments map[AttachmentKey]Attachment
	// Orphans are addresses that containers of this node have, by their
	// attachments, and no known pod of it: nothing passes to or from them.
	Orphans map[netip.Addr]struct{}
	// Doubtful are addresses of pods of which nobody can tell what denies to them (see doubt.go).
	Doubtful map[netip.Addr]struct{}
	// Subjects are the node's live pods, isolated or not.
	Subjects map[Key]Subject
	// Policies are those that select a subject.
	Policies map[Key]Policy
	// Peers are the selectors of those policies' rules, with the addresses
	// they mean.
	Peers map[Selector]map[netip.Addr]struct{}
	// NamedPorts are the port names of those policies' rules.
	NamedPorts map[NamedPort]map[Endpoint]struct{}
	// Sections are those policies' sections.
	Sections map[SectionKey][]Rule
	// Resolutions are what domain names are resolved to, each without its time, and until when it counts.
	Resolutions map[Resolution]time.Time
}

// Endpoint is a port of one address.
type Endpoint struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
}

// Tier is where a policy stands in the order in which a pod's policies are asked (ClusterNetworkPolicy
// spec.tier).
type Tier uint8

// The tiers. A packet meets AdminTier first, then NetworkPolicyTier, then BaselineTier.
const (
	// NetworkPolicyTier has the NetworkPolicies. They are all asked at once: what one of them allows
	// is allowed.
	NetworkPolicyTier Tier = iota
	// AdminTier and BaselineTier have ClusterNetworkPolicies, which are asked one after the other, by
	// priority. The first rule that matches decides.
	AdminTier
	BaselineTier
)

// Tiers are all, in the order in which a packet meets them, and ClusterTiers those of
// ClusterNetworkPolicies.
var (
	Tiers        = [...]Tier{AdminTier, NetworkPolicyTier, BaselineTier}
	ClusterTiers = [...]Tier{AdminTier, BaselineTier}
)

func (t Tier) String() string {
	switch t {
	case AdminTier:
		return "admin"
	case BaselineTier:
		return "baseline"
	}
	return "policies"
}

// Action is what a rule does with what it matches.
type Action uint8

// The actions. A rule of a NetworkPolicy accepts.
const (
	Accept Action = iota
	Deny
	// Pass leaves the decision to the tiers behind the rule's own.
	Pass
)

func (a Action) String() string { return [...]string{"accept", "deny", "pass"}[a] }

// Policy is a NetworkPolicy or a ClusterNetworkPolicy, read.
type Policy struct {
	// Key has no namespace if the policy is a ClusterNetworkPolicy.
	Key
	// Tier and Priority say when a packet meets the policy. In a tier of ClusterNetworkPolicies, the
	// lower priority comes first, and of equal ones the name that comes first. NetworkPolicies
	// have no priority.
	Tier     Tier
	Priority int32
	// Staged: the policy is not in force (see staged.go). A NetworkPolicy may be staged by its Namespace
	// as well.
	Staged bool
	// Subject selects the pods that the policy is about. That of a NetworkPolicy is in the policy's
	// own namespace. Nil if the selector does not parse: it then selects none.
	Subject *Selector
	// Isolates says for which directions a NetworkPolicy isolates its pods (policyTypes,
	// defaulted). A ClusterNetworkPolicy isolates none.
	Isolates [len(Directions)]bool
	// Rules are what is allowed, per Direction; a direction that a NetworkPolicy does not isolate
	// has none. Those of a ClusterNetworkPolicy are in the order in which they are asked.
	Rules [len(Directions)][]Rule
	// Sections are the same Rules, divided, where there are very many of them; else there are
	// no sections.
	Sections [len(Directions)][]Section
}

// Rule is one rule of a policy: it is about traffic that is with its peers AND
// on its ports.
type Rule struct {
	// Index is the rule's place in the API object's list.
	Index int
	// Merged are the places of rules that allow the same traffic and were made one with this, in order.
	Merged []int
	// Name is what the API object calls it. Rules of NetworkPolicies have none.
	Name string
	// Action is what becomes of the traffic.
	Action Action
	// AnyPeer: every address of both families. Else only Peers, Blocks and Domains; a
	// rule with none of them allows nothing.
	AnyPeer bool
	Peers   []Selector
	// Domains are the rule's domain names, in order, each once. It means the addresses that the pod was told they
	// have (see Resolution). Only rules for egress that accept have some.
	Domains []DomainName
	// Blocks are the rule's ipBlocks, each less its own excepts, together as
	// disjoint ranges, in order.
	Blocks []AddrRange
	// AnyPort: every port of every protocol, and protocols without ports. Else
	// only Ports and NamedPorts; a rule with neither allows nothing.
	AnyPort    bool
	Ports      []PortRange
	NamedPorts []NamedPort
}

// equal reports whether two policies say the same. Sections need no comparison, as they
// follow from the rules.
func (p *Policy) equal(other *Policy) bool {
	return p.Key == other.Key && p.Tier == other.Tier && p.Priority == other.Priority && p.Staged == other.Staged && p.Isolates == other.Isolates &&
		(p.Subject == nil) == (other.Subject == nil) && (p.Subject == nil || *p.Subject == *other.Subject) &&
		slices.EqualFunc(p.Rules[Ingress], other.Rules[Ingress], Rule.Equal) &&
		slices.EqualFunc(p.Rules[Egress], other.Rules[Egress], Rule.Equal)
}

// Equal reports whether two rules say the same.
func (r Rule) Equal(other Rule) bool {
	return r.Index == other.Index && slices.Equal(r.Merged, other.Merged) && r.Name == other.Name && r.Action == other.Action && r.AnyPeer == other.AnyPeer && r.AnyPort == other.AnyPort &&
		slices.Equal(r.Peers, other.Peers) && slices.Equal(r.Domains, other.Domains) && slices.Equal(r.Blocks, other.Blocks) &&
		slices.Equal(r.Ports, other.Ports) && slices.Equal(r.NamedPorts, other.NamedPorts)
}

// Problem is a part of a policy that cannot be enforced as written. What it
// touches allows nothing; the pods that the policy selects stay isolated and
// its other rules hold.
type Problem struct {
	Policy Key
	// Field is the path in the object, like "spec.ingress[0].from[1].ipBlock".
	Field string
	// Reason says what is wrong and what follows.
	Reason string
}

func (p Problem) String() string {
	return fmt.Sprintf("%s: %s: %s", PolicyName(p.Policy), p.Field, p.Reason)
}

// Delta is what has changed in an Intent. Applying deltas in order to the
// Intent that they follow gives the newer Intent.
type Delta struct {
	// PodCIDRs and Cluster replace the ranges, and NodeAddrs the addresses, when they
	// are not nil. Cluster and NodeAddrs come together.
	PodCIDRs, Cluster *[]netip.Prefix
	NodeAddrs         *[]netip.Addr
	// Nodes and Attachments replace by name and by key; nil means that it was removed (or was
	// never there).
	Nodes       map[string]*Node
	Attachments map[AttachmentKey]*Attachment
	// Orphans says for each address that has changed whether it is an orphan now, and Doubtful
	// whether it is in doubt now.
	Orphans, Doubtful map[netip.Addr]bool
	// Subjects and Policies replace by key; nil means that it was removed (or was never there).
	Subjects map[Key]*Subject
	Policies map[Key]*Policy
	// Peers and NamedPorts change members.
	Peers      map[Selector]Members[netip.Addr]
	NamedPorts map[NamedPort]Members[Endpoint]
	// Sections come before the policies that have them, and never change; nil means that the
	// section was removed.
	Sections map[SectionKey][]Rule
	// Resolutions are until when what is new of them counts; zero: it is gone. Elapsed are those of them that
	// are gone because their time is over: connections that are open go on.
	Resolutions map[Resolution]time.Time
	Elapsed     map[Resolution]struct{}
	// Unfinished are policies that are not yet handed out as they are: not at all, or in a form in which
	// they wait. Later deltas have them.
	Unfinished map[Key]struct{}
}

// Members is a change to a set of members.
type Members[T comparable] struct {
	// Gone: no policy uses the set any more; the other fields are empty.
	Gone bool
	// New: the set was not there before, and Add is all that it holds.
	New         bool
	Add, Remove []T
}

// Empty reports whether the delta changes nothing.
func (d *Delta) Empty() bool {
	return d.PodCIDRs == nil && d.Cluster == nil && d.NodeAddrs == nil && len(d.Nodes)+len(d.Attachments)+len(d.Orphans)+len(d.Doubtful) == 0 &&
		len(d.Subjects)+len(d.Policies)+len(d.Peers)+len(d.NamedPorts)+len(d.Sections)+len(d.Resolutions) == 0
}

// Delta is the change from an empty Intent to this one.
func (in *Intent) Delta() Delta {
	d := Delta{
		PodCIDRs:    &in.PodCIDRs,
		Cluster:     &in.Cluster,
		NodeAddrs:   &in.NodeAddrs,
		Nodes:       pointersTo(in.Nodes),
		Attachments: pointersTo(in.Attachments),
		Orphans:     allTrue(in.Orphans),
		Doubtful:    allTrue(in.Doubtful),
		Subjects:    pointersTo(in.Subjects),
		Policies:    pointersTo(in.Policies),
		Peers:       map[Selector]Members[netip.Addr]{},
		NamedPorts:  map[NamedPort]Members[Endpoint]{},
		Sections:    in.Sections,
		Resolutions: in.Resolutions,
	}
	for s, members := range in.Peers {
		d.Peers[s] = Members[netip.Addr]{New: true, Add: slices.Collect(maps.Keys(members))}
	}
	for n, members := range in.NamedPorts {
		d.NamedPorts[n] = Members[Endpoint]{New: true, Add: slices.Collect(maps.Keys(members))}
	}
	return d
}

// allTrue says true of each member.
func allTrue[K comparable](set map[K]struct{}) map[K]bool {
	all := make(map[K]bool, len(set))
	for member := range set {
		all[member] = true
	}
	return all
}

// pointersTo has a pointer to a copy of each value.
func pointersTo[K comparable, V any](values map[K]V) map[K]*V {
	pointers := make(map[K]*V, len(values))
	for key, value := range values {
		pointers[key] = &value
	}
	return pointers
}

// Replace puts into values what a delta replaces by key, and takes out what it says is gone.
func Replace[K comparable, V any](values map[K]V, by map[K]*V) {
	for key, value := range by {
		if delete(values, key); value != nil {
			values[key] = *value
		}
	}
}
