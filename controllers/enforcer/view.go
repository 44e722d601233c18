package enforcer

import (
	"net/netip"
	"slices"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// What others may ask of the model. Nothing here changes it.

// Knows reports whether the model has taken in this very change (see policy.Model.Knows).
func (e *Enforcer) Knows(c policy.Change) bool {
	return ask(e.inbox, func(m *policy.Model) bool { return m.Knows(c) })
}

// Rules are the chains of the policies' table as the kernel held it at one time, by name. Nobody changes
// them.
type Rules struct {
	Chains  map[string]*nft.Chain
	version uint64
}

// Rules returns the rules that are in the kernel; held is false while a commit is under way, or somebody
// else has changed the table.
func (e *Enforcer) Rules() (rules Rules, held bool) {
	rules.Chains, rules.version, held = e.policies.rules()
	return rules, held
}

// Held reports whether the rules are still those in the kernel, and have been all the time since Rules
// returned them.
func (e *Enforcer) Held(rules Rules) bool { return e.policies.holds(rules.version) }

// StagedRules and HeldStaged are Rules and Held of the staged table. There are no rules while no policy is staged.
func (e *Enforcer) StagedRules() (rules Rules, held bool) {
	rules.Chains, rules.version, held = e.rehearsal.table().rules()
	return rules, held
}

// HeldStaged reports whether the staged table's rules are still those in the kernel.
func (e *Enforcer) HeldStaged(rules Rules) bool { return e.rehearsal.table().holds(rules.version) }

// HasSynced reports whether all that there was at the start has been fed.
func (e *Enforcer) HasSynced() bool { return e.inbox.hasSynced() }

// Attachments are what the CNI plugin has made, as the model knows it.
func (e *Enforcer) Attachments() []policy.Attachment {
	return ask(e.inbox, (*policy.Model).Attachments)
}

// Attached reports whether the pod of an attachment is known.
func (e *Enforcer) Attached(a policy.Attachment) bool {
	return ask(e.inbox, func(m *policy.Model) bool { _, known := m.Attached(a); return known })
}

// Contested are those of an attachment's addresses that another container of this node may have
// as well.
func (e *Enforcer) Contested(a policy.Attachment) []netip.Addr {
	return ask(e.inbox, func(m *policy.Model) []netip.Addr { return m.Contested(a) })
}

// NotBehind are the addresses of this node's pods that are not at an interface of which attached
// says that the CNI plugin has connected it, and those that another container may have as well.
// They are in order.
func (e *Enforcer) NotBehind(attached func(policy.Attachment) bool) []netip.Addr {
	return ask(e.inbox, func(m *policy.Model) []netip.Addr { return m.NotBehind(attached) })
}

// Nodes are all nodes that are known, in no order.
func (e *Enforcer) Nodes() []policy.Node { return ask(e.inbox, (*policy.Model).Nodes) }

// HolderOf is who has an address: a pod, or else a node. Of a pod, neither labels nor ports are there if they
// were not kept.
func (e *Enforcer) HolderOf(addr netip.Addr) (pod *policy.Pod, node string) {
	type holder struct {
		pod  *policy.Pod
		node string
	}
	h := ask(e.inbox, func(m *policy.Model) (h holder) {
		if h.pod = m.PodAt(addr); h.pod == nil {
			h.node = m.NodeAt(addr)
		}
		return h
	})
	return h.pod, h.node
}

// GatewayAt is the node whose pods' gateway an address is, where podfence connects the pods; empty if none is.
func (e *Enforcer) GatewayAt(addr netip.Addr) string {
	return ask(e.inbox, func(m *policy.Model) string { return m.GatewayAt(addr) })
}

// EndsOf is what is known of the two ends of a packet (see policy.Model.EndsOf).
func (e *Enforcer) EndsOf(src, dst netip.Addr) policy.Ends {
	return ask(e.inbox, func(m *policy.Model) policy.Ends { return m.EndsOf(src, dst) })
}

// StagedEndsOf is the same with the staged policies in force: which ClusterNetworkPolicies select the ends.
func (e *Enforcer) StagedEndsOf(src, dst netip.Addr) policy.Ends {
	ends := e.EndsOf(src, dst) // asked first: what changes meanwhile makes it older than it is, and not newer
	if staged, is := e.rehearsal.endsOf(src, dst); is {
		ends.Src.ClusterPolicies, ends.Dst.ClusterPolicies = staged.Src.ClusterPolicies, staged.Dst.ClusterPolicies
	}
	return ends
}

// DenialOf says why a packet that the kernel has told of was denied, or would be denied with the staged policies in
// force (see ruleset.Table.DenialOf).
func (e *Enforcer) DenialOf(l nft.Logged) ruleset.Denial {
	denial := ruleset.Denial{}
	if ruleset.IsStaged(l) {
		denial = e.rehearsal.table().denialOf(l)
	} else {
		denial = e.policies.denialOf(l)
	}
	for i, p := range denial.Policies {
		denial.Policies[i].Staged = e.IsStaged(policy.Key{Namespace: p.Namespace, Name: p.Name})
	}
	return denial
}

// WouldBe is what would become of a packet that was denied in a direction, with the staged policies in force. It does
// not say so while what denies it may be no policy that is to decide: one that is not whole yet, or that of another pod
// which may have the same address and is in no staged table.
func (e *Enforcer) WouldBe(l nft.Logged, d policy.Direction) ruleset.Staged {
	at := l.Packet.Dst
	if d == policy.Egress {
		at = l.Packet.Src
	}
	if !e.rehearsal.rehearses(at) || ask(e.inbox, func(m *policy.Model) bool { return m.PendingAt(at) }) {
		return ruleset.Staged{}
	}
	s := e.rehearsal.table().wouldBe(l, d)
	for i, p := range s.By {
		s.By[i].Staged = e.IsStaged(policy.Key{Namespace: p.Namespace, Name: p.Name})
	}
	return s
}

// IsStaged reports whether a policy is staged, and StagedPolicies are all that are, in order.
func (e *Enforcer) IsStaged(key policy.Key) bool {
	return ask(e.inbox, func(m *policy.Model) bool { return m.IsStaged(key) })
}

// StagedPolicies are all policies that are staged, in order.
func (e *Enforcer) StagedPolicies() []policy.Key {
	return ask(e.inbox, (*policy.Model).StagedPolicies)
}

// Problems say why a policy is quarantined; there are none if it is not.
func (e *Enforcer) Problems(key policy.Key) []policy.Problem {
	return ask(e.inbox, func(m *policy.Model) []policy.Problem { return m.Problems(key) })
}

// Counts counts what the node enforces.
func (e *Enforcer) Counts() policy.Counts { return ask(e.inbox, (*policy.Model).Counts) }

// Most are the n namespaces whose policies take most of the node, the one that takes most first.
func (e *Enforcer) Most(n int) []policy.Taken {
	return ask(e.inbox, func(m *policy.Model) []policy.Taken { return m.Most(n) })
}

// Namers are the addresses of this node's pods that policies with domain names are about, staged ones included, with these
// names.
func (e *Enforcer) Namers() map[netip.Addr][]policy.DomainName {
	namers := ask(e.inbox, (*policy.Model).Namers)
	for addr, names := range e.rehearsal.namers() {
		names = append(names, namers[addr]...)
		slices.Sort(names)
		namers[addr] = slices.Compact(names)
	}
	return namers
}

// Resolutions are what domain names are resolved to, as far as it counts, and NextElapsed is when the next of them expires;
// zero: there is none.
func (e *Enforcer) Resolutions() []policy.Resolution {
	counting, _ := e.KnownNames()
	return counting
}

// KnownNames are the Resolutions, and the last ones whose time is over, both in order.
func (e *Enforcer) KnownNames() (counting, lapsed []policy.Resolution) {
	type known struct{ counting, lapsed []policy.Resolution }
	k := ask(e.inbox, func(m *policy.Model) (k known) { k.counting, k.lapsed = m.KnownNames(); return k })
	slices.SortFunc(k.counting, policy.CompareResolutions) // not under the mutex
	slices.SortFunc(k.lapsed, policy.CompareResolutions)
	return k.counting, k.lapsed
}

// ResolutionsTo are those of KnownNames by which a pod, by the address that it sends from, or the agent was told of an address.
func (e *Enforcer) ResolutionsTo(pod, addr netip.Addr) (counting, lapsed []policy.Resolution) {
	type known struct{ counting, lapsed []policy.Resolution }
	k := ask(e.inbox, func(m *policy.Model) (k known) { k.counting, k.lapsed = m.ResolutionsTo(pod, addr); return k })
	return k.counting, k.lapsed
}

// NextElapsed is when the next resolution expires; zero: there is none.
func (e *Enforcer) NextElapsed() time.Time { return ask(e.inbox, (*policy.Model).NextElapsed) }

// Resolved is how many names are resolved, and to how many addresses (see policy.Model.Resolved).
func (e *Enforcer) Resolved() (names, addresses int) {
	type counts struct{ names, addresses int }
	c := ask(e.inbox, func(m *policy.Model) (c counts) { c.names, c.addresses = m.Resolved(); return c })
	return c.names, c.addresses
}

// Evicted is how many resolutions there was no room for so far.
func (e *Enforcer) Evicted() int { return ask(e.inbox, (*policy.Model).Evicted) }
