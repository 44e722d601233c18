package explain

import (
	"net/netip"
	"strings"

	"github.com/podfence/podfence/api/answers"
)

// Probe is a packet that stands for an answer, and what the kernel of one node should do to it. A packet
// between pods of two nodes has two probes: each node's kernel decides about its own pods.
type Probe struct {
	// Node is the node whose kernel is meant.
	Node string
	// From and To are the ends, with the addresses that the packet has.
	From, To End
	Question answers.TraceQuestion
	// Expected is what the policies of the ends say that are pods of the node: Allowed, Denied or Unknown.
	Expected Verdict
}

// pair is one of the pairs of ends that an answer is for.
type pair struct {
	from end
	to   way
}

// cover takes so many pairs out of two classes of ends that are alike, that each node with a pod of them is
// among the pairs.
func cover(sources []end, targets []way) (pairs []pair) {
	from := onePerNode(sources, func(e end) string { return e.Node })
	to := onePerNode(targets, func(w way) string { return w.to.Node })
	for i := range max(len(from), len(to)) {
		p := pair{from[i%len(from)], to[i%len(to)]}
		if sameEnd(p.from, p.to.to) {
			// A pod and itself: another one takes its place, of the same node if there is one there.
			var is bool
			if p.to, is = besides(p.from, p.to, targets); !is {
				continue
			}
		}
		pairs = append(pairs, p)
	}
	return pairs
}

// besides is a target that is not the end itself, of the target's node if there is one.
func besides(e end, w way, targets []way) (other way, is bool) {
	for _, t := range targets {
		switch {
		case sameEnd(e, t.to):
		case t.to.Node == w.to.Node:
			return t, true
		case !is:
			other, is = t, true
		}
	}
	return other, is
}

// onePerNode is the first of each node.
func onePerNode[T any](all []T, node func(T) string) (first []T) {
	seen := map[string]bool{}
	for _, one := range all {
		if !seen[node(one)] {
			seen[node(one)] = true
			first = append(first, one)
		}
	}
	return first
}

// probes are the packets by which kernels can be asked whether they do as an answer says, for these pairs of
// ends. An answer about no port in particular has none, and neither has one about pods that do not run, or
// about a pod that reaches itself by a Service, whose packet does not pass as it was sent.
func probes(a Answer, pairs []pair) (all []Probe) {
	if a.Protocol == "" || a.From.StandIn || a.To.StandIn {
		return nil
	}
	for _, p := range pairs {
		src, dst := likeFamily(p.from.addrs, a.From.Address), likeFamily(p.to.to.addrs, a.From.Address)
		if !src.IsValid() || !dst.IsValid() || src == dst {
			continue
		}
		one := Probe{From: p.from.End, To: p.to.to.End, Question: answers.TraceQuestion{
			Src: src, Dst: dst, Protocol: strings.ToLower(a.Protocol), Port: a.Port,
		}}
		one.From.Address, one.To.Address = src, dst
		byNode := map[string]Verdict{}
		if p.from.pod != nil {
			byNode[p.from.Node] = a.Egress.Verdict
		}
		if p.to.to.pod != nil {
			byNode[p.to.to.Node] = both(byNode[p.to.to.Node], a.Ingress.Verdict)
		}
		for _, node := range []string{p.from.Node, p.to.to.Node} {
			verdict, asked := byNode[node]
			if node == "" || !asked {
				continue
			}
			delete(byNode, node)
			one.Node, one.Expected = node, verdict
			all = append(all, one)
		}
	}
	return all
}

// both is the verdict of a node that decides at both ends; empty stands for an end that is not its own.
func both(a, b Verdict) Verdict {
	switch {
	case a == Denied || b == Denied:
		return Denied
	case a == Unknown || b == Unknown:
		return Unknown
	}
	return b
}

// likeFamily is the address that is of the same family as another; invalid: there is none.
func likeFamily(addrs []netip.Addr, like netip.Addr) netip.Addr {
	for _, addr := range addrs {
		if addr.Is4() == like.Is4() {
			return addr
		}
	}
	return netip.Addr{}
}
