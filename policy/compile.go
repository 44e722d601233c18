package policy

import (
	"net/netip"
	"slices"
)

// Compile works out what a node must enforce, from scratch, and the problems
// of all policies. It goes over everything for everything: it is the
// specification of Model, which does the same by what has changed.
func Compile(s Snapshot, node string) (Intent, []Problem) {
	c := compiler{owners: map[netip.Addr]*Pod{}, namespaces: map[string]*Namespace{}}
	in := newIntent()
	var nodes []Node
	for _, n := range s.Nodes {
		read := NodeOf(n)
		nodes = append(nodes, read)
		if n.Name == node {
			in.PodCIDRs = read.PodCIDRs
		}
	}
	in.Cluster, in.Nodes = clusterOf(slices.Values(nodes)), addrsOf(slices.Values(nodes))
	for _, ns := range s.Namespaces {
		read := NamespaceOf(ns)
		c.namespaces[ns.Name] = &read
	}
	for _, p := range s.Pods {
		if pod, live := PodOf(p); live {
			pod = pod.attach(s.Attachments)
			c.pods = append(c.pods, pod)
			for _, ip := range pod.IPs {
				if owner, taken := c.owners[ip]; !taken || pod.ownsBefore(owner) < 0 {
					c.owners[ip] = pod
				}
			}
		}
	}
	var problems []Problem
	for _, np := range s.Policies {
		policy, found := Parse(np)
		problems = append(problems, found...)
		c.policies = append(c.policies, policy)
	}
	slices.SortFunc(c.policies, func(a, b Policy) int { return compareKey(a.Key, b.Key) })

	for _, pod := range c.pods {
		ips := addrsHere(pod, c.owned(pod), node, in.PodCIDRs)
		switch {
		case len(ips) == 0:
		case pod.Node == node:
			in.Subjects[pod.Key] = c.subject(pod, ips, &in)
		default:
			in.Subjects[pod.Key] = Subject{Key: pod.Key, IPs: ips}
		}
	}
	for _, policy := range in.Policies {
		for _, d := range Directions {
			for _, rule := range policy.Rules[d] {
				c.members(rule, node, &in)
			}
		}
	}
	return in, problems
}

func newIntent() Intent {
	return Intent{
		Subjects:   map[Key]Subject{},
		Policies:   map[Key]Policy{},
		Peers:      map[Selector]map[netip.Addr]struct{}{},
		NamedPorts: map[NamedPort]map[Endpoint]struct{}{},
	}
}

type compiler struct {
	pods       []*Pod
	owners     map[netip.Addr]*Pod
	namespaces map[string]*Namespace
	policies   []Policy
}

// owned are the addresses of a pod that are no other pod's.
func (c *compiler) owned(pod *Pod) (ips []netip.Addr) {
	for _, ip := range pod.IPs {
		if owner := c.owners[ip]; owner != nil && owner.Key == pod.Key {
			ips = append(ips, ip)
		}
	}
	return ips
}

func (c *compiler) subject(pod *Pod, ips []netip.Addr, in *Intent) Subject {
	subject := Subject{Key: pod.Key, IPs: ips}
	for _, policy := range c.policies {
		if policy.Subject == nil {
			continue
		}
		if m := matcherOf(*policy.Subject); !m.matches(pod, nil) {
			continue
		}
		in.Policies[policy.Key] = policy
		for _, d := range Directions {
			if policy.Isolates[d] {
				subject.Isolating[d] = append(subject.Isolating[d], policy.Key)
			}
		}
	}
	return subject
}

// members fills in whom and what a rule means.
func (c *compiler) members(rule Rule, node string, in *Intent) {
	for _, s := range rule.Peers {
		m := matcherOf(s)
		in.Peers[s] = map[netip.Addr]struct{}{}
		for ip, pod := range c.owners {
			if m.matches(pod, c.namespaces[pod.Namespace]) {
				in.Peers[s][ip] = struct{}{}
			}
		}
	}
	for _, name := range rule.NamedPorts {
		in.NamedPorts[name] = map[Endpoint]struct{}{}
		for ip, pod := range c.owners {
			for _, port := range pod.Ports {
				if name.means(pod, port, node) {
					in.NamedPorts[name][Endpoint{Addr: ip, Protocol: port.Protocol, Port: port.Number}] = struct{}{}
				}
			}
		}
	}
}

// means reports whether a port of a pod goes by this name.
func (n NamedPort) means(pod *Pod, port ContainerPort, node string) bool {
	return n.Name == port.Name && n.Protocol == port.Protocol && (n.Scope == Cluster || pod.Node == node)
}
