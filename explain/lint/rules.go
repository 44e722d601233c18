package lint

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/podfence/podfence/policy"
)

// directions are those of policies, with the field that has their rules.
var directions = [...]struct {
	direction policy.Direction
	of        networkingv1.PolicyType
	path      string
}{
	{policy.Ingress, networkingv1.PolicyTypeIngress, "spec.ingress"},
	{policy.Egress, networkingv1.PolicyTypeEgress, "spec.egress"},
}

// policyTypes finds rules of a direction that the policy's own policyTypes leave out.
func (l *linter) policyTypes(w *written) {
	if w.np == nil {
		return
	}
	for _, side := range directions {
		rules := len(w.np.Spec.Ingress)
		if side.direction == policy.Egress {
			rules = len(w.np.Spec.Egress)
		}
		if rules > 0 && !covers(w.np, side.of) {
			l.add(w, PolicyTypes, Warning, side.path, "%s without effect, as spec.policyTypes does not have %s; add it there, or leave the rules out",
				plural(rules, "the rule is", "the rules are"), side.of)
		}
	}
}

// plural is one of two texts, by how many there are.
func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// shadowed finds rules of a ClusterNetworkPolicy that never decide, as an earlier rule of it decides all
// that they would: it has the same peers and ports, or wider ones.
func (l *linter) shadowed(w *written) {
	if w.cnp == nil {
		return
	}
	for i, r := range w.rules {
		for _, earlier := range w.rules[:i] {
			if earlier.direction == r.direction && coversPeers(earlier.peers, r.peers) && coversPorts(earlier.ports, r.ports) {
				l.add(w, ShadowedRule, Warning, r.path, "the rule never decides, as %s, which comes first, has all its peers and ports; put it before that one, or leave it out", earlier.path)
				break
			}
		}
	}
}

// coversPeers reports whether some peers certainly mean all that others mean.
func coversPeers(wide, narrow []peer) bool {
	var blocks []netip.Prefix
	for _, p := range wide {
		for _, b := range p.blocks {
			if cidr, _, ok := readBlock(b); ok {
				blocks = append(blocks, cidr)
			}
		}
	}
	blocks = policy.Union(blocks)
	for _, n := range narrow {
		covered := n.pods != nil || n.nodes != nil
		if covered {
			covered = false
			for _, w := range wide {
				covered = covered || n.pods != nil && w.pods != nil && w.pods.covers(n.pods) || n.nodes != nil && w.nodes != nil && w.nodes.covers(*n.nodes)
			}
		} else {
			covered = len(n.blocks) > 0 && coversBlocks(blocks, n.blocks) || len(n.domains) > 0 && coversBlocks(blocks, everywhere)
		}
		if !covered {
			return false
		}
	}
	return len(narrow) > 0
}

// everywhere are all addresses: a domain name may have any.
var everywhere = []block{{cidr: "0.0.0.0/0"}, {cidr: "::/0"}}

// covers reports whether some pods of a ClusterNetworkPolicy are certainly all that others are.
func (p *pods) covers(other *pods) bool {
	return p.namespaces.covers(other.namespaces) && p.selected.covers(other.selected)
}

// coversBlocks reports whether ranges, which are disjoint, have all addresses of some blocks.
func coversBlocks(wide []netip.Prefix, narrow []block) bool {
	for _, b := range narrow {
		cidr, _, ok := readBlock(b)
		covered := false
		for _, w := range wide {
			covered = covered || ok && contains(w, cidr)
		}
		if !covered {
			return false
		}
	}
	return true
}

// coversPorts reports whether some ports are certainly all that others are. None stands for all.
func coversPorts(wide, narrow []port) bool {
	if len(wide) == 0 {
		return true
	}
	for _, n := range narrow {
		covered := false
		for _, w := range wide {
			covered = covered || w.covers(n)
		}
		if !covered {
			return false
		}
	}
	return len(narrow) > 0
}

// covers reports whether a port is certainly all that another is.
func (p port) covers(other port) bool {
	if p.protocol != other.protocol || p.name != other.name {
		return false
	}
	return p.name != "" || p.first <= other.first && other.last <= p.last
}
