package random

import (
	"fmt"
	"math/rand"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

type (
	clusterAction   = clusterv1beta1.ClusterNetworkPolicyRuleAction
	clusterPeer     = clusterv1beta1.ClusterNetworkPolicyEgressPeer
	clusterProtocol = clusterv1beta1.ClusterNetworkPolicyProtocol
)

var (
	tiers = []clusterv1beta1.Tier{clusterv1beta1.AdminTier, clusterv1beta1.BaselineTier}
	// priorities are so few that many policies have the same.
	priorities = []int32{0, 7, 7, 1000}
	actions    = []clusterAction{
		clusterv1beta1.ClusterNetworkPolicyRuleActionAccept, clusterv1beta1.ClusterNetworkPolicyRuleActionDeny, clusterv1beta1.ClusterNetworkPolicyRuleActionPass,
	}
	domains = []clusterv1beta1.DomainName{"example.com", "*.example.com", "API.Example.net.", "*.B.example.com", "www.example.com"}
	// badDomains are none.
	badDomains = []clusterv1beta1.DomainName{"", "*", "example", "*.com", "a b.example.com", "a..example.com", "-a.example.com", "www.*.com"}
)

// clusterPolicies are how many ClusterNetworkPolicies a cluster has at most.
const clusterPolicies = 6

// ClusterPolicy is the i-th ClusterNetworkPolicy.
func ClusterPolicy(r *rand.Rand, i int) *clusterv1beta1.ClusterNetworkPolicy {
	a := author{Rand: r, bad: maybe(r, 4), old: maybe(r, 3), accepts: maybe(r, 4)}
	cnp := &clusterv1beta1.ClusterNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cluster-policy-%d", i), Annotations: enforcement(r)},
		Spec:       clusterv1beta1.ClusterNetworkPolicySpec{Tier: a.tier(), Priority: pick(r, priorities), Subject: a.subject()},
	}
	for range r.Intn(4) {
		cnp.Spec.Ingress = append(cnp.Spec.Ingress, a.clusterIngress())
	}
	for range r.Intn(4) {
		cnp.Spec.Egress = append(cnp.Spec.Egress, a.clusterEgress())
	}
	if i == clusterPolicies-1 { // rules that have to be split
		rule := a.clusterEgress()
		rule.To = append(rule.To, a.manyClusterPeers()...)
		cnp.Spec.Egress = append([]clusterv1beta1.ClusterNetworkPolicyEgressRule{rule}, cnp.Spec.Egress...)
	}
	return cnp
}

// someClusterPolicies are up to as many as a cluster may have.
func someClusterPolicies(r *rand.Rand) (all []*clusterv1beta1.ClusterNetworkPolicy) {
	for _, i := range r.Perm(clusterPolicies)[:pick(r, []int{0, 1, 2, 3, 4, clusterPolicies})] {
		all = append(all, ClusterPolicy(r, i))
	}
	return all
}

func (a author) tier() clusterv1beta1.Tier {
	if a.spoils() {
		return pick(a.Rand, []clusterv1beta1.Tier{"", "admin", "Middle"})
	}
	return pick(a.Rand, tiers)
}

func (a author) action() clusterAction {
	if a.spoils() && maybe(a.Rand, 2) {
		return pick(a.Rand, []clusterAction{"", "accept", "Log"})
	}
	if a.accepts {
		return clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
	}
	return pick(a.Rand, actions)
}

// ruleName is a rule's: mostly it has none.
func (a author) ruleName() string {
	return pick(a.Rand, []string{"", "", "", "allow-dns", `odd "name"`})
}

func (a author) subject() (subject clusterv1beta1.ClusterNetworkPolicySubject) {
	if subject.Namespaces = a.broadly(a.namespaceSelector); !maybe(a.Rand, 3) {
		subject = clusterv1beta1.ClusterNetworkPolicySubject{Pods: a.namespacedPod()}
	}
	if a.spoils() && maybe(a.Rand, 2) {
		subject = pick(a.Rand, []clusterv1beta1.ClusterNetworkPolicySubject{{}, {Namespaces: a.namespaceSelector(), Pods: a.namespacedPod()}})
	}
	return subject
}

func (a author) namespacedPod() *clusterv1beta1.NamespacedPod {
	return &clusterv1beta1.NamespacedPod{NamespaceSelector: *a.broadly(a.namespaceSelector), PodSelector: *a.broadly(a.selector)}
}

// broadly is a selector, or as often one that selects all: the first rule that means a packet decides,
// so that what hardly means any is hardly ever asked.
func (a author) broadly(selector func() *metav1.LabelSelector) *metav1.LabelSelector {
	if maybe(a.Rand, 2) {
		return &metav1.LabelSelector{}
	}
	return selector()
}

func (a author) clusterIngress() clusterv1beta1.ClusterNetworkPolicyIngressRule {
	rule := clusterv1beta1.ClusterNetworkPolicyIngressRule{Name: a.ruleName(), Action: a.action(), Protocols: a.clusterProtocols()}
	for range 1 + a.Intn(3) {
		peer := a.clusterPeer(2)
		rule.From = append(rule.From, clusterv1beta1.ClusterNetworkPolicyIngressPeer{Namespaces: peer.Namespaces, Pods: peer.Pods})
	}
	if a.spoils() && maybe(a.Rand, 2) {
		rule.From = nil
	}
	return rule
}

func (a author) clusterEgress() clusterv1beta1.ClusterNetworkPolicyEgressRule {
	rule := clusterv1beta1.ClusterNetworkPolicyEgressRule{Name: a.ruleName(), Action: a.action(), Protocols: a.clusterProtocols()}
	kinds := 6
	if rule.Action == clusterv1beta1.ClusterNetworkPolicyRuleActionAccept {
		kinds = 8
	}
	if maybe(a.Rand, 3) { // networks alone: such a rule does not ask who has an address
		kinds = 0
	}
	for range 1 + a.Intn(3) {
		rule.To = append(rule.To, a.clusterPeer(kinds))
	}
	if a.spoils() && maybe(a.Rand, 2) {
		rule.To = nil
	}
	return rule
}

// clusterPeer is a peer of the first so many kinds: namespaces, pods, nodes, networks, domain names, which only a rule that
// accepts may have. If they are none, it is networks.
func (a author) clusterPeer(kinds int) (peer clusterPeer) {
	kind := 5
	if kinds > 0 {
		kind = a.Intn(kinds)
	}
	switch kind {
	case 0:
		peer.Namespaces = a.broadly(a.namespaceSelector)
	case 1:
		peer.Pods = a.namespacedPod()
	case 2:
		peer.Nodes = a.broadly(a.selector)
	case 6, 7:
		peer.DomainNames = domains[:1+a.Intn(len(domains))]
		if maybe(a.Rand, 2) {
			peer.DomainNames = []clusterv1beta1.DomainName{pick(a.Rand, domains)}
		}
	default:
		peer.Networks = a.networks()
	}
	if a.spoils() {
		a.spoilPeer(&peer)
	}
	return peer
}

// spoilPeer mostly makes a peer one that cannot be read.
func (a author) spoilPeer(peer *clusterPeer) {
	switch a.Intn(5) {
	case 0:
		*peer = clusterPeer{}
	case 1:
		*peer = clusterPeer{DomainNames: []clusterv1beta1.DomainName{pick(a.Rand, domains), pick(a.Rand, badDomains)}}
	case 2:
		peer.Namespaces = a.namespaceSelector()
	case 3:
		peer.Pods = a.namespacedPod()
	case 4:
		peer.Networks = append(peer.Networks, clusterv1beta1.CIDR(pick(a.Rand, badBlocks)))
	}
}

// networks are up to three CIDRs.
func (a author) networks() (networks []clusterv1beta1.CIDR) {
	for range 1 + a.Intn(3) {
		text := pick(a.Rand, append(blocks4, blocks6...))
		if a.old && maybe(a.Rand, 3) {
			text = pick(a.Rand, spelledBlocks)
		}
		networks = append(networks, clusterv1beta1.CIDR(text))
	}
	if a.spoils() {
		networks = append(networks, clusterv1beta1.CIDR(pick(a.Rand, badBlocks)))
	}
	return networks
}

// manyClusterPeers are more selectors than a rule has a set for each of.
func (a author) manyClusterPeers() (peers []clusterPeer) {
	for range 18 + a.Intn(5) {
		peers = append(peers, a.clusterPeer(3))
	}
	return peers
}

// clusterProtocols are up to two. Half of the rules have none, so that they mean all protocols.
func (a author) clusterProtocols() (protocols []clusterProtocol) {
	if maybe(a.Rand, 2) {
		return nil
	}
	for range 1 + a.Intn(2) {
		entry := a.clusterProtocol()
		if a.spoils() {
			a.spoilProtocol(&entry)
		}
		protocols = append(protocols, entry)
	}
	return protocols
}

func (a author) clusterProtocol() (entry clusterProtocol) {
	var port *clusterv1beta1.Port
	switch a.Intn(6) {
	case 0: // all ports
	case 1, 2:
		first := pick(a.Rand, append(numbers, 1))
		last := min(first+int32(a.Intn(40)), 65535)
		if maybe(a.Rand, 4) {
			last = 65535
		}
		port = &clusterv1beta1.Port{Range: &clusterv1beta1.PortRange{Start: first, End: last}}
	case 3, 4:
		port = &clusterv1beta1.Port{Number: pick(a.Rand, numbers)}
	case 5:
		return clusterProtocol{DestinationNamedPort: pick(a.Rand, portNames)}
	}
	switch a.Intn(3) {
	case 0:
		entry.TCP = &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
	case 1:
		entry.UDP = &clusterv1beta1.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
	case 2:
		entry.SCTP = &clusterv1beta1.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
	}
	return entry
}

// spoilProtocol makes an entry of protocols one that cannot be read.
func (a author) spoilProtocol(entry *clusterProtocol) {
	of := func(port clusterv1beta1.Port) clusterProtocol {
		return clusterProtocol{TCP: &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: &port}}
	}
	switch a.Intn(6) {
	case 0:
		*entry = clusterProtocol{}
	case 1:
		entry.DestinationNamedPort = pick(a.Rand, portNames)
		entry.TCP, entry.UDP = &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{}, nil
	case 2:
		*entry = of(clusterv1beta1.Port{})
	case 3:
		*entry = of(clusterv1beta1.Port{Number: 80, Range: &clusterv1beta1.PortRange{Start: 80, End: 81}})
	case 4:
		*entry = of(clusterv1beta1.Port{Number: pick(a.Rand, []int32{-1, 65536, 65536 + 80})})
	case 5:
		*entry = of(clusterv1beta1.Port{Range: &pick(a.Rand, [][]clusterv1beta1.PortRange{{{Start: 80, End: 79}}, {{End: 80}}, {{Start: 80, End: 65536}}, {{Start: -80, End: 80}}})[0]})
	}
}

// changeClusterPolicy changes one field of a ClusterNetworkPolicy, or of a rule of it.
func changeClusterPolicy(r *rand.Rand, spec *clusterv1beta1.ClusterNetworkPolicySpec) {
	a := author{Rand: r, bad: maybe(r, 4)}
	switch r.Intn(7) {
	case 0:
		spec.Tier = a.tier()
	case 1:
		spec.Priority = pick(r, priorities)
	case 2:
		spec.Subject = a.subject()
	case 3: // another order
		r.Shuffle(len(spec.Ingress), func(i, j int) { spec.Ingress[i], spec.Ingress[j] = spec.Ingress[j], spec.Ingress[i] })
		r.Shuffle(len(spec.Egress), func(i, j int) { spec.Egress[i], spec.Egress[j] = spec.Egress[j], spec.Egress[i] })
	case 4:
		if n := len(spec.Egress); n > 0 {
			spec.Egress[r.Intn(n)].Action = a.action()
		}
	case 5:
		if n := len(spec.Egress); n > 0 {
			spec.Egress[r.Intn(n)].To = []clusterPeer{a.clusterPeer(6)}
		}
	case 6:
		if n := len(spec.Ingress); n > 0 {
			spec.Ingress[r.Intn(n)].Protocols = a.clusterProtocols()
		}
	}
}
