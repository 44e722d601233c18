package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// packet is a packet with what its two ends are, as seen from the side whose policies are asked.
type packet struct {
	policy.Packet
	d policy.Direction
	// subject and peer are who has the addresses, destination is who has the one that it goes to.
	subject, peer, destination policy.Holder
	peerAddr                   netip.Addr
	// peerEnd is the peer as the question has it, and by the Service that has translated the packet.
	peerEnd End
	by      *Translation
}

// mismatch is a Mismatch and how far from right it is: 0 is right, 1 a letter wrong or a single field.
type mismatch struct {
	Mismatch
	distance int
}

// miss is how far a rule is from meaning a packet, with a mismatch for each part of it that does not.
func (x *Explainer) miss(r rule, p packet) (failed []mismatch) {
	if !r.anyone {
		failed = append(failed, x.missedPeers(r, p)...)
	}
	if len(r.ports) > 0 {
		failed = append(failed, missedPorts(r, p)...)
	}
	return failed
}

// missedPeers is nothing if some peer means the packet's, and else what is wrong with the nearest of them.
func (x *Explainer) missedPeers(r rule, p packet) (nearest []mismatch) {
	if len(r.peers) == 0 {
		return []mismatch{{Mismatch{r.path, "the rule has no peers, and so means nobody"}, 9}}
	}
	for i, entry := range r.peers {
		failed := x.missedPeer(entry, p)
		if len(failed) == 0 {
			return nil
		}
		if i == 0 || total(failed) < total(nearest) {
			nearest = failed
		}
	}
	return nearest
}

// missedPeer is what of a peer does not mean the packet's peer.
func (x *Explainer) missedPeer(entry peer, p packet) []mismatch {
	switch {
	case entry.unreadable != "":
		return []mismatch{{Mismatch{entry.path, entry.unreadable}, 9}}
	case entry.nodes != nil:
		return x.missedNodes(entry, p)
	case len(entry.blocks) > 0:
		return x.missedBlocks(entry, p)
	case len(entry.domains) > 0:
		return x.missedDomains(entry, p)
	case len(p.peer.Pods) == 0:
		return []mismatch{{Mismatch{entry.path, "selectors mean pods, and " + x.whatIs(p)}, 6}}
	}
	for _, pod := range p.peer.Pods {
		if failed := x.missedSelectors(entry, pod); len(failed) > 0 {
			return failed
		}
	}
	return nil
}

// missedSelectors is what of a peer's selectors does not mean a pod.
func (x *Explainer) missedSelectors(entry peer, pod *corev1.Pod) (failed []mismatch) {
	switch {
	case entry.namespaces != nil:
		ns := x.namespaces[pod.Namespace]
		if ns == nil {
			return []mismatch{{Mismatch{entry.namespacesPath, fmt.Sprintf("namespace %s is not known", pod.Namespace)}, 4}}
		}
		failed = missedLabels(entry.namespaces, entry.namespacesPath, ns.Labels, "namespace "+ns.Name)
	case entry.namespace != pod.Namespace:
		failed = []mismatch{{Mismatch{entry.podsPath, fmt.Sprintf(
			"a podSelector alone means pods of the policy's own namespace %s: the pod is in namespace %s (a namespaceSelector in the same item would mean it)", entry.namespace, pod.Namespace)}, 2}}
	}
	if entry.pods != nil {
		failed = append(failed, missedLabels(entry.pods, entry.podsPath, pod.Labels, "the pod")...)
	}
	return failed
}

// missedNodes is what of a selector of nodes does not mean the packet's peer.
func (x *Explainer) missedNodes(entry peer, p packet) (nearest []mismatch) {
	if p.peerEnd.StandIn {
		return []mismatch{{Mismatch{entry.nodesPath, fmt.Sprintf("it means nodes, and not %s", namedAddr(p))}, 6}}
	}
	if len(p.peer.Pods) > 0 {
		return []mismatch{{Mismatch{entry.nodesPath, fmt.Sprintf("it means nodes: %s is a pod's address", p.peerAddr)}, 6}}
	}
	nearest = []mismatch{{Mismatch{entry.nodesPath, fmt.Sprintf("%s is no node's address", p.peerAddr)}, 6}}
	for i, node := range x.nodes {
		if !slices.Contains(node.Listed, p.peerAddr) {
			continue
		}
		failed := missedLabels(entry.nodes, entry.nodesPath, x.cluster.Nodes[i].Labels, "node "+node.Name)
		if len(failed) == 0 {
			return nil
		}
		if total(failed) < total(nearest) {
			nearest = failed
		}
	}
	return nearest
}

// missedBlocks is what of networks does not mean the packet's peer.
func (x *Explainer) missedBlocks(entry peer, p packet) (nearest []mismatch) {
	for i, b := range entry.blocks {
		failed, in := x.missedBlock(b, p)
		if in {
			return nil
		}
		if i == 0 || failed.distance < nearest[0].distance {
			nearest = []mismatch{failed}
		}
	}
	return nearest
}

func (x *Explainer) missedBlock(b block, p packet) (mismatch, bool) {
	cidr, err := policy.ParsePrefix(b.cidr)
	if err != nil {
		return mismatch{Mismatch{b.path, fmt.Sprintf("%q cannot be read: %v", b.cidr, err)}, 9}, false
	}
	var in string
	written := b
	for i, text := range b.except {
		except, err := policy.ParsePrefix(text)
		if err != nil {
			return mismatch{Mismatch{fmt.Sprintf("%s.except[%d]", b.path, i), fmt.Sprintf("%q cannot be read, so that the block means nobody: %v", text, err)}, 9}, false
		}
		if in == "" && except.Contains(p.peerAddr) {
			in = fmt.Sprintf("%s is in the except %s", p.peerAddr, text)
			b.path = fmt.Sprintf("%s.except[%d]", b.path, i)
		}
	}
	switch {
	case cidr.Addr().Is4() != p.peerAddr.Is4():
		return mismatch{Mismatch{written.path, otherFamily(b, p)}, 6}, false
	case p.peerEnd.StandIn && (in != "" || !cidr.Contains(p.peerAddr)):
		return mismatch{Mismatch{written.path, x.notYetIn(written, p)}, 5}, false
	case !cidr.Contains(p.peerAddr):
		return mismatch{Mismatch{b.path, fmt.Sprintf("%s is not in %s%s", namedAddr(p), b.cidr, x.serviceIn(cidr, p))}, 5}, false
	case in != "":
		return mismatch{Mismatch{b.path, in}, 3}, false
	}
	return mismatch{}, true
}

// otherFamily says that a network is of another address family than the packet.
func otherFamily(b block, p packet) string {
	its, packets := "IPv6", "IPv4"
	if p.peerAddr.Is6() {
		its, packets = packets, its
	}
	if p.peerEnd.StandIn {
		return fmt.Sprintf("%s is of %s, and the %s address of %s is not in it", b.cidr, its, packets, namedAddr(p))
	}
	return fmt.Sprintf("%s is of %s, and %s of %s", b.cidr, its, namedAddr(p), packets)
}

// notYetIn says whether a network may hold the address of a pod that has none yet.
func (x *Explainer) notYetIn(b block, p packet) string {
	if x.mayDiffer(b, p.peerAddr) {
		return fmt.Sprintf("%s has no address yet: whether it will be in %s is not known", namedAddr(p), b.text())
	}
	return fmt.Sprintf("%s has no address yet, and no pod's address is in %s", namedAddr(p), b.text())
}

// text is a network with what it leaves out.
func (b block) text() string {
	if len(b.except) == 0 {
		return b.cidr
	}
	return b.cidr + " except " + strings.Join(b.except, ", ")
}

// namedAddr is the peer's address, with who has it; of a placeholder, only who has it.
func namedAddr(p packet) string {
	if len(p.peer.Pods) != 1 {
		return p.peerAddr.String()
	}
	name := fmt.Sprintf("pod %s/%s", p.peer.Pods[0].Namespace, p.peer.Pods[0].Name)
	if p.peerEnd.StandIn {
		return name
	}
	return fmt.Sprintf("%s (%s)", p.peerAddr, name)
}

// serviceIn says so if a network that does not hold a pod's address holds the address of a Service before it.
func (x *Explainer) serviceIn(cidr netip.Prefix, p packet) string {
	if p.d != policy.Egress || len(p.peer.Pods) == 0 {
		return ""
	}
	for _, service := range x.cluster.Services {
		if p.by != nil && (p.by.Namespace != service.Namespace || p.by.Name != service.Name) {
			continue
		}
		for _, text := range service.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(text); err == nil && cidr.Contains(addr.Unmap()) && x.isBehind(service, p.peer.Pods[0]) {
				return fmt.Sprintf(": that is the address %s of Service %s/%s, which is translated to a pod's before policies are asked; name the pods by a selector instead",
					text, service.Namespace, service.Name)
			}
		}
	}
	return ""
}

// whatIs says what the packet's peer is, if it is no pod.
func (x *Explainer) whatIs(p packet) string {
	switch {
	case p.peerEnd.Kind == KindPod:
		return fmt.Sprintf("pod %s/%s is on its node's network (hostNetwork): its packets have the address %s of node %s", p.peerEnd.Namespace, p.peerEnd.Name, p.peerAddr, p.peerEnd.Node)
	case p.peer.OnNode:
		return fmt.Sprintf("%s is node %s", p.peerAddr, p.peer.Node)
	}
	return fmt.Sprintf("%s is no pod's address", p.peerAddr)
}

// missedPorts is nothing if some entry of ports means the packet's, and else what is wrong with them.
func missedPorts(r rule, p packet) []mismatch {
	var numbers, protocols []string
	var names []mismatch
	for _, entry := range r.ports {
		if entry.unreadable != "" {
			names = append(names, mismatch{Mismatch{entry.path, entry.unreadable}, 9})
			continue
		}
		if entry.named != "" {
			failed, has := missedName(entry, p)
			if has {
				return nil
			}
			names = append(names, failed)
			continue
		}
		text := entry.text()
		if entry.protocol != p.Protocol {
			protocols = append(protocols, strings.TrimSpace(entry.protocol.String()+" "+text))
			continue
		}
		if entry.all || 1 <= entry.first && entry.last <= 65535 && entry.first <= int32(p.DstPort) && int32(p.DstPort) <= entry.last {
			return nil
		}
		numbers = append(numbers, text)
	}
	return []mismatch{portsMismatch(r, p, numbers, protocols, names)}
}

// portsMismatch puts into words why none of a rule's ports means the packet: of one entry its own field is
// named, and of several their list.
func portsMismatch(r rule, p packet, numbers, protocols []string, names []mismatch) mismatch {
	path := r.ports[0].path
	if at := strings.LastIndex(path, "["); len(r.ports) > 1 && at >= 0 {
		path = path[:at]
	}
	var reasons []string
	distance := 9
	switch {
	case len(numbers) > 0 && len(protocols) == 0:
		distance = 1
		reasons = []string{fmt.Sprintf("port %d is not in %s%s", p.DstPort, strings.Join(numbers, ", "), servicePortIn(numbers, p))}
	case len(numbers) > 0:
		distance = 1
		for i, number := range numbers {
			numbers[i] = p.Protocol.String() + " " + number
		}
		reasons = []string{fmt.Sprintf("%s port %d is not in %s%s", p.Protocol, p.DstPort, strings.Join(slices.Concat(numbers, protocols), ", "), servicePortIn(numbers, p))}
	case len(protocols) > 0 && p.DstPort == 0:
		distance = 2
		reasons = []string{fmt.Sprintf("%s is not in %s: only rules without ports mean it", p.Protocol, strings.Join(protocols, ", "))}
	case len(protocols) > 0:
		distance = 2
		reasons = []string{fmt.Sprintf("%s port %d is not in %s", p.Protocol, p.DstPort, strings.Join(protocols, ", "))}
	}
	slices.SortStableFunc(names, func(a, b mismatch) int { return cmp.Compare(a.distance, b.distance) })
	for _, name := range names {
		distance = min(distance, name.distance)
		reasons = append(reasons, name.Reason)
		if len(r.ports) == 1 {
			path = name.Path
		}
	}
	return mismatch{Mismatch{path, strings.Join(reasons, "; ")}, distance}
}

// servicePortIn says so if the ports of a rule have the Service's, and not the pod's own.
func servicePortIn(numbers []string, p packet) string {
	if p.by == nil || p.by.Port == p.DstPort || !slices.ContainsFunc(numbers, func(text string) bool {
		return strings.TrimPrefix(text, p.Protocol.String()+" ") == fmt.Sprint(p.by.Port)
	}) {
		return ""
	}
	return fmt.Sprintf(": %d is the port of Service %s/%s, and policies see the pod's own, its targetPort %d", p.by.Port, p.by.Namespace, p.by.Name, p.by.TargetPort)
}

// missedName says why the name of a port does not mean the packet: what the pod that it goes to declares.
func missedName(entry port, p packet) (mismatch, bool) {
	say := func(distance int, format string, args ...any) (mismatch, bool) {
		return mismatch{Mismatch{entry.path, fmt.Sprintf("named port %s: ", entry.named) + fmt.Sprintf(format, args...)}, distance}, false
	}
	if entry.protocol != 0 && entry.protocol != p.Protocol {
		return say(2, "it is of %s, and the packet of %s", entry.protocol, p.Protocol)
	}
	if len(p.destination.Pods) == 0 {
		return say(5, "names are those of pods' containers, and %s is no pod's address", p.Dst)
	}
	for _, pod := range p.destination.Pods {
		var others []string
		matched := false
		for _, declared := range declaredPorts(pod) {
			if declared.Name != entry.named {
				continue
			}
			if declared.Protocol == p.Protocol && declared.Number == p.DstPort {
				matched = true
			}
			others = append(others, Port{Protocol: declared.Protocol, Number: declared.Number}.full())
		}
		switch {
		case matched:
		case len(others) > 0:
			return say(1, "the container declares it as %s, and the packet goes to %s", strings.Join(others, ", "), Port{Protocol: p.Protocol, Number: p.DstPort}.full())
		default:
			return say(1, "no container of pod %s/%s declares it%s", pod.Namespace, pod.Name, declaredText(pod))
		}
	}
	return mismatch{}, true
}

// total is how far mismatches are from right together.
func total(failed []mismatch) (sum int) {
	for _, f := range failed {
		sum += f.distance
	}
	return sum
}

// maxMisses is how many nearest misses an explanation has.
const maxMisses = 5

// nearest are rules that nearly mean a packet, nearest first.
func (x *Explainer) nearest(rules []rule, p packet) (misses []Miss) {
	type candidate struct {
		rule   rule
		failed []mismatch
	}
	var all []candidate
	for _, r := range rules {
		if failed := x.miss(r, p); len(failed) > 0 {
			all = append(all, candidate{r, failed})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(total(a.failed), total(b.failed)) })
	for _, c := range all[:min(len(all), maxMisses)] {
		m := Miss{Rule: Rule{Policy: c.rule.policy, Action: c.rule.action, Name: c.rule.name, Path: c.rule.path}}
		for _, f := range c.failed {
			m.Failed = append(m.Failed, f.Mismatch)
		}
		misses = append(misses, m)
	}
	return misses
}
