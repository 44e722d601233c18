package explain

import (
	"fmt"
	"net/netip"

	"github.com/podfence/podfence/policy"
)

// Of files, pods may have placeholders as addresses. Selectors mean such pods as they will mean the real
// ones, but whether a network holds the real address nobody knows yet.

// uncertain is the rule by which a side could decide otherwise once the peer has its real address; false:
// there is none. j is what is decided with the placeholder.
func (x *Explainer) uncertain(j policy.Judgement, p packet) (r rule, is bool) {
	if !p.peerEnd.StandIn || !j.Fenced() {
		return rule{}, false
	}
	bySelector := false // a rule of a NetworkPolicy allows it, whatever the address is
	for _, ref := range j.By {
		bySelector = bySelector || ref.Policy.Namespace != "" && !x.byAddress(ref)
	}
	for _, ref := range x.asked(j) {
		if ref.Kind == "NetworkPolicy" && bySelector {
			continue
		}
		for _, r := range x.rulesOf(policy.Key{Namespace: ref.Namespace, Name: ref.Name}, p.d) {
			if len(j.DeniedBy) > 0 && r.ref.Policy == j.DeniedBy[0].Policy && r.ref.Rule > j.DeniedBy[0].Rule {
				break
			}
			if r.namesAddresses() && (len(r.ports) == 0 || len(missedPorts(r, p)) == 0) {
				return r, true
			}
		}
	}
	return rule{}, false
}

// byAddress reports whether the peer that a rule has decided by is a network that is not all addresses.
func (x *Explainer) byAddress(ref policy.RuleRef) bool {
	for _, r := range x.rulesOf(ref.Policy, ref.Direction) {
		if r.ref.Rule == ref.Rule && ref.Peer >= 0 && ref.Peer < len(r.peers) {
			return r.peers[ref.Peer].namesAddresses()
		}
	}
	return false
}

// namesAddresses reports whether a peer of the rule is a network that is not all addresses.
func (r rule) namesAddresses() bool {
	for _, p := range r.peers {
		if p.namesAddresses() {
			return true
		}
	}
	return false
}

func (p peer) namesAddresses() bool {
	for _, b := range p.blocks {
		cidr, err := netip.ParsePrefix(b.cidr)
		if err != nil || cidr.Bits() > 0 || len(b.except) > 0 {
			return true
		}
	}
	return false
}

// placeholderNote says why an answer is not known.
func placeholderNote(r rule, peer End) Note {
	return Note{"PlaceholderAddress", fmt.Sprintf(
		"%s %s names addresses, and %s has none yet: whether that means it will be known when it runs. Name pods by selectors.", r.policy, r.path, peer)}
}
