package policy

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Compile works out from scratch what a node must enforce, and the problems of all
// policies. For each question it goes over all objects. It is the specification of Model,
// which comes to the same result by looking only at what has changed.
func Compile(s Snapshot, node string) (Intent, []Problem) { return compile(s, node, false) }

// CompileStaged is what a node would have to enforce with the staged policies in force, for the pods
// that they are about. It is the specification of Model.NewStaged.
func CompileStaged(s Snapshot, node string) (Intent, []Problem) { return compile(s, node, true) }

func compile(s Snapshot, node string, inForce bool) (Intent, []Problem) {
	c := compiler{node: node, inForce: inForce, holders: map[netip.Addr][]*Pod{}, namespaces: map[string]*Namespace{}}
	announced := map[string][]announcement{}
	for _, o := range s.PodAddresses {
		announced[o.Name] = announcementsOf(o)
	}
	in := newIntent()
	var own []netip.Addr
	c.nodes = in.Nodes
	for _, n := range s.Nodes {
		read := NodeOf(n)
		in.Nodes[read.Name] = read
		if n.Name == node {
			in.PodCIDRs, own = read.PodCIDRs, read.Addrs
		}
	}
	in.PodCIDRs = keepRanges(in.PodCIDRs, s.LastPodCIDRs)
	in.Cluster, in.NodeAddrs = clusterOf(maps.Values(in.Nodes), in.PodCIDRs), addrsOf(maps.Values(in.Nodes))
	for _, a := range s.Attachments {
		in.Attachments[a.Key()] = a
	}
	for _, ns := range s.Namespaces {
		read := NamespaceOf(ns)
		c.namespaces[ns.Name] = &read
	}
	for _, p := range s.Pods {
		if pod, live := PodOf(p); live {
			if pod.Node == node {
				pod = pod.attach(s.Attachments, node)
			} else if home, known := in.Nodes[pod.Node]; known {
				pod = pod.announce(announced[pod.Node], &home, false)
			}
			c.pods = append(c.pods, pod)
		}
	}
	c.own(s.Attachments, own, &in)
	var problems []Problem
	for _, np := range s.Policies {
		policy, found := Parse(np)
		problems = append(problems, found...)
		c.policies = append(c.policies, policy)
	}
	for _, cnp := range s.ClusterPolicies {
		policy, found := ParseCluster(cnp)
		problems = append(problems, found...)
		c.policies = append(c.policies, policy)
	}
	slices.SortFunc(c.policies, func(a, b Policy) int { return compareKey(a.Key, b.Key) })

	for _, pod := range c.pods {
		if ips := c.held(pod); pod.Node == node && len(ips) > 0 {
			in.Subjects[pod.Key] = c.subject(pod, ips, &in)
		}
	}
	for ip, pods := range c.holders {
		if doubtful(pods, len(c.listing(ip)) > 0, func(pod *Pod) *Namespace { return c.namespaces[pod.Namespace] }) {
			in.Doubtful[ip] = struct{}{}
		}
	}
	for _, policy := range in.Policies {
		for key, section := range policy.sectionKeys() {
			in.Sections[key] = section.Rules
		}
		for _, d := range Directions {
			for _, rule := range policy.Rules[d] {
				c.members(rule, &in)
			}
		}
	}
	for _, r := range s.Resolutions {
		of := func(subject Subject) bool { return slices.Contains(subject.IPs, r.Pod) }
		if !r.Pod.IsValid() || slices.ContainsFunc(slices.Collect(maps.Values(in.Subjects)), of) {
			in.Resolutions[r.untimed()] = r.Expires
		}
	}
	return in, problems
}

// own works out which pod each address belongs to (see owners.go).
func (c *compiler) own(attachments []Attachment, nodes []netip.Addr, in *Intent) {
	claims := map[netip.Addr][]*Pod{}
	for _, pod := range c.pods {
		for _, ip := range pod.IPs {
			claims[ip] = append(claims[ip], pod)
		}
	}
	for ip, pods := range claims {
		c.holders[ip] = best(pods, c.node, contains(in.PodCIDRs, ip) || slices.Contains(nodes, ip))
	}
	made := map[netip.Addr][]Attachment{}
	for _, a := range attachments {
		for _, ip := range a.IPs {
			made[ip] = append(made[ip], a)
		}
	}
	for ip, attachments := range made {
		c.holders[ip] = nil
		for _, pod := range c.pods {
			if !slices.ContainsFunc(attachments, func(a Attachment) bool { return !a.madeFor(pod, c.node) }) {
				c.holders[ip] = []*Pod{pod}
			}
		}
		if len(c.holders[ip]) == 0 {
			in.Orphans[ip] = struct{}{}
		}
	}
}

func newIntent() Intent {
	return Intent{
		Nodes:       map[string]Node{},
		Attachments: map[AttachmentKey]Attachment{},
		Orphans:     map[netip.Addr]struct{}{},
		Doubtful:    map[netip.Addr]struct{}{},
		Subjects:    map[Key]Subject{},
		Policies:    map[Key]Policy{},
		Peers:       map[Selector]map[netip.Addr]struct{}{},
		NamedPorts:  map[NamedPort]map[Endpoint]struct{}{},
		Sections:    map[SectionKey][]Rule{},
		Resolutions: map[Resolution]time.Time{},
	}
}

type compiler struct {
	node       string
	inForce    bool // the staged policies are
	pods       []*Pod
	holders    map[netip.Addr][]*Pod
	namespaces map[string]*Namespace
	policies   []Policy
	nodes      map[string]Node
}

// held are those of a pod's addresses that belong to it; other pods may hold them as well.
func (c *compiler) held(pod *Pod) (ips []netip.Addr) {
	for _, ip := range pod.IPs {
		if slices.Contains(c.holders[ip], pod) {
			ips = append(ips, ip)
		}
	}
	return ips
}

func (c *compiler) subject(pod *Pod, ips []netip.Addr, in *Intent) Subject {
	subject := Subject{Key: pod.Key, IPs: ips}
	var isolators []isolator
	var stacked, undecided []*Policy
	ns := c.namespaces[pod.Namespace]
	about := c.stagedAbout(pod, ns)
	for _, policy := range c.policies {
		if policy.Subject == nil || c.inForce && !about || !c.inForce && policy.stagedIn(c.namespaces[policy.Namespace]) {
			continue
		}
		m := matcherOf(*policy.Subject)
		if policy.Tier != NetworkPolicyTier && m.mayMatch(pod, ns) {
			undecided = append(undecided, &policy)
		}
		if !m.matches(pod, ns) {
			continue
		}
		in.Policies[policy.Key] = policy
		if policy.Tier == NetworkPolicyTier {
			isolators = append(isolators, isolator{&policy, policy.walks()})
		} else {
			stacked = append(stacked, &policy)
		}
	}
	subject.isolate(isolators)
	subject.stack(stacked)
	if pod.undecided(ns) {
		subject.closeUndecided(undecided)
	}
	return subject
}

// stagedAbout reports whether a staged policy is about a pod, or may be.
func (c *compiler) stagedAbout(pod *Pod, ns *Namespace) bool {
	return slices.ContainsFunc(c.policies, func(p Policy) bool {
		if p.Subject == nil || !p.stagedIn(c.namespaces[p.Namespace]) {
			return false
		}
		m := matcherOf(*p.Subject)
		return m.matches(pod, ns) || p.Tier != NetworkPolicyTier && pod.undecided(ns) && m.mayMatch(pod, ns)
	})
}

// members fills in the addresses and endpoints that a rule means. Where several pods may
// have an address, the rule means the address only if it means each of these pods.
func (c *compiler) members(rule Rule, in *Intent) {
	for _, s := range rule.Peers {
		matchers := matchersOf(s)
		in.Peers[s] = map[netip.Addr]struct{}{}
		if s.OfNodes {
			c.nodesMembers(s, in)
			continue
		}
		for ip, pods := range c.holders {
			if len(pods) > 0 && meansAll(matchers, pods, func(pod *Pod) *Namespace { return c.namespaces[pod.Namespace] }) {
				in.Peers[s][ip] = struct{}{}
			}
		}
	}
	for _, name := range rule.NamedPorts {
		in.NamedPorts[name] = map[Endpoint]struct{}{}
		for ip, pods := range c.holders {
			if len(pods) == 0 {
				continue
			}
			for _, port := range pods[0].Ports {
				if name.meansAll(pods, port, c.node) {
					in.NamedPorts[name][Endpoint{Addr: ip, Protocol: port.Protocol, Port: port.Number}] = struct{}{}
				}
			}
		}
	}
}

// nodesMembers fills in the addresses that a selector of nodes means.
func (c *compiler) nodesMembers(s Selector, in *Intent) {
	selector := parseCanonical(s.Nodes)
	for _, node := range c.nodes {
		for _, ip := range node.listed() {
			if len(c.holders[ip]) == 0 && selector.Matches(node.Labels) {
				in.Peers[s][ip] = struct{}{}
			}
		}
	}
}

// listing are the nodes that show an address as their own.
func (c *compiler) listing(ip netip.Addr) (names []string) {
	for name, node := range c.nodes {
		if slices.Contains(node.listed(), ip) {
			names = append(names, name)
		}
	}
	return names
}
