package semantics_test

import (
	"cmp"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// out is a ClusterNetworkPolicy with the name a: the pods of shop do not get to the peers, by the protocols.
func out(peers, protocols string) string {
	return `cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: store}}}, egress: [{action: Deny, to: [` + peers + `]` + protocols + `}]}` + "\n"
}

func TestB5_Protocols(t *testing.T) {
	c := cluster(t, base+out(anywhere, ``))
	c.expect(`
		deny shop/web -> db/pg tcp 80
		deny shop/web -> db/pg sctp 80
		deny shop/web -> db/pg ping
		deny shop/web -> world proto 47
	`)
	c.becomes(base + out(anywhere, `, protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 53, end: 55}}}}, {sctp: {destinationPort: {range: {start: 9, end: 9}}}}]`))
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow shop/web -> db/pg tcp 81
		allow shop/web -> db/pg tcp 53
		allow shop/web -> db/pg udp 52
		deny  shop/web -> db/pg udp 53
		deny  shop/web -> db/pg udp 55
		allow shop/web -> db/pg udp 56
		deny  shop/web -> db/pg sctp 9
		allow shop/web -> db/pg sctp 10
		allow shop/web -> db/pg ping         # with protocols a rule never means ICMP
		allow shop/web -> db/pg proto 47
	`)
	// Without a port: all ports of the protocol.
	c.becomes(base + out(anywhere, `, protocols: [{udp: {}}]`))
	c.expect(`
		deny  shop/web -> db/pg udp 1
		deny  shop/web -> db/pg udp 65535
		allow shop/web -> db/pg tcp 1
		allow shop/web -> db/pg ping
	`)
}

// TestB5_NamedPorts: a name means the number and the protocol that the destination pod gives it.
func TestB5_NamedPorts(t *testing.T) {
	const named = `
		ns shop team=store
		pod shop/client app=client
		pod db/a app=a data:1000 data:1001/udp
		pod db/b app=b data:2000/sctp
		pod db/none app=none
		pod ops/c app=c data:3000 @node-2
		pod ops/agent app=agent data:4000 !hostNetwork @node-2
	`
	const names = `, protocols: [{destinationNamedPort: data}]`
	c := cluster(t, named)
	for _, peers := range []string{`{namespaces: {}}`, anywhere} {
		c.becomes(named + out(peers, names))
		c.expect(`
			deny  shop/client -> db/a tcp 1000
			deny  shop/client -> db/a udp 1001
			allow shop/client -> db/a udp 1000
			allow shop/client -> db/a sctp 2000
			deny  shop/client -> db/b sctp 2000
			allow shop/client -> db/b tcp 2000
			allow shop/client -> db/none tcp 1000
			deny  shop/client -> ops/c tcp 3000
			allow shop/client -> node-2 tcp 4000     # its pod is on the host's network
			allow shop/client -> world tcp 1000
			allow shop/client -> db/a ping
		`)
	}
	// Ingress: of each subject.
	c.becomes(named + `
		policy db/p {podSelector: {}, ingress: []}
		cnp a {tier: Admin, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: db}}}, ingress: [{action: Accept, from: [{namespaces: {}}]` + names + `}]}`)
	c.expect(`
		allow shop/client -> db/a tcp 1000
		allow shop/client -> db/a udp 1001
		deny  shop/client -> db/a tcp 2000
		allow shop/client -> db/b sctp 2000
		deny  shop/client -> db/none tcp 1000
	`)
	// A pod's port changes.
	c.becomes(replace(named, "data:2000/sctp", "data:2001/sctp") + out(`{namespaces: {}}`, names))
	c.expect(`
		allow shop/client -> db/b sctp 2000
		deny  shop/client -> db/b sctp 2001
	`)
}

func TestB6_Peers(t *testing.T) {
	c := cluster(t, base+out(`{namespaces: {matchLabels: {team: data}}}`, ``))
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow shop/web -> shop/api tcp 80
		allow shop/web -> world tcp 80
		allow shop/web -> node-2 tcp 80
	`)
	c.becomes(base + out(`{namespaces: {}}`, ``))
	c.expect(`
		deny  shop/web -> shop/api tcp 80
		deny  shop/web -> ops/far tcp 80
		allow shop/web -> world tcp 80
		allow shop/web -> node tcp 80
	`)
	// One of several peers is enough; namespaceSelector and podSelector must both match.
	c.becomes(base + out(`{pods: {namespaceSelector: {matchLabels: {team: store}}, podSelector: {matchLabels: {app: api}}}}, {pods: {podSelector: {matchLabels: {app: web}}}}`, ``))
	c.expect(`
		deny  shop/web -> shop/api tcp 80
		deny  shop/web -> ops/far tcp 80
		allow shop/web -> ops/cron tcp 80
		allow shop/web -> db/pg tcp 80
	`)
	const ingress = `cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: web}}}}, {namespaces: {matchLabels: {team: data}}}]}]}`
	c.becomes(base + ingress)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		deny  ops/far -> db/pg tcp 80
		deny  db/pg -> ops/cron tcp 80
		allow ops/cron -> db/pg tcp 80
		allow world -> db/pg tcp 80
		allow node-2 -> db/pg tcp 80
	`)
	c.becomes(replace(base, "team=data", "") + replace(ingress, "app: web", "app: cron"))
	c.expect(`
		allow shop/web -> db/pg tcp 80
		deny  ops/cron -> shop/web tcp 80
		allow db/pg -> ops/cron tcp 80
	`)
	// Networks mean every address in them, pods' and nodes' too. Host bits are cut off.
	c.becomes(base + out(`{networks: [10.244.1.77/24, 203.0.113.0/24]}, {networks: ["2001:db8::/31"]}`, ``))
	c.expect(`
		deny  shop/web -> db/pg tcp 80 family 4
		allow shop/web -> db/pg tcp 80 family 6
		deny  shop/web -> world tcp 80
		allow shop/web -> node-2 tcp 80 family 4
		deny  shop/web -> node-2 tcp 80 family 6
		allow shop/web -> ops/far tcp 80 family 4
	`)
}

func TestB6_NodesArePeersByTheirAddresses(t *testing.T) {
	const nodes = `
		node node-1 zone=a
		node node-2 zone=b ExternalIP:198.51.100.2 Hostname:node-2 InternalIP:169.254.169.254
	`
	c := cluster(t, base+nodes+out(`{nodes: {matchLabels: {zone: b}}}`, ``))
	c.expect(`
		deny  shop/web -> node-2 tcp 80
		deny  shop/web -> 198.51.100.2 tcp 80
		deny  shop/web -> node-2 ping
		allow shop/web -> node tcp 80
		allow shop/web -> ops/far tcp 80
		allow shop/web -> world tcp 80
		allow db/pg -> node-2 tcp 80
		allow shop/web -> 169.254.169.254 tcp 80     # such an address is no single node's
	`)
	c.becomes(base + nodes + out(`{nodes: {}}`, `, protocols: [{tcp: {destinationPort: {number: 10250}}}]`))
	c.expect(`
		deny  shop/web -> node tcp 10250
		deny  shop/web -> node-2 tcp 10250
		allow shop/web -> node-2 tcp 80
	`)
	// Labels and addresses of nodes change.
	c.becomes(base + replace(nodes, "zone=a", "zone=b") + out(`{nodes: {matchLabels: {zone: b}}}`, ``))
	c.expect(`deny shop/web -> node tcp 80`)
	c.becomes(base + replace(nodes, "ExternalIP:198.51.100.2", "") + out(`{nodes: {matchLabels: {zone: b}}}`, ``))
	c.expect(`
		deny  shop/web -> node-2 tcp 80
		allow shop/web -> 198.51.100.2 tcp 80
	`)
	s := snapshot(t, base+nodes+out(`{nodes: {}}`, ``))
	s.Nodes = s.Nodes[:1]
	c.set(s)
	c.expect(`
		deny  shop/web -> node tcp 80
		allow shop/web -> node-2 tcp 80
	`)
	// What a node shows, but a pod has, is no node's.
	text := base + nodes + `
		policy shop/p {podSelector: {}, policyTypes: [Egress]}
		cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: store}}}, egress: [{action: Accept, to: [{nodes: {}}]}]}`
	s = snapshot(t, text)
	for _, ip := range s.Pods[slices.IndexFunc(s.Pods, func(p *corev1.Pod) bool { return p.Name == "cron" })].Status.PodIPs {
		s.Nodes[1].Status.Addresses = append(s.Nodes[1].Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: ip.IP})
	}
	c.set(s)
	c.expect(`
		allow shop/web -> node-2 tcp 80
		deny  shop/web -> ops/cron tcp 80
	`)
}

func TestB7_HostNetworkPodsAreNodeTraffic(t *testing.T) {
	pods := base + `
		pod shop/agent app=web http:80 !hostNetwork
		pod ops/agent app=web http:80 !hostNetwork @node-2
	`
	c := cluster(t, pods+denyOut(`{pods: {podSelector: {matchLabels: {app: web}}}}`))
	c.expect(`
		allow node -> world tcp 80
		allow node-2 -> shop/api tcp 80
		deny  shop/web -> world tcp 80
	`)
	c.becomes(pods + `cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{pods: {podSelector: {}}}]}]}`)
	c.expect(`
		allow node-2 -> shop/web tcp 80
		allow shop/web -> node-2 tcp 80
		allow shop/web -> node tcp 80
		deny  shop/web -> db/pg tcp 80
	`)
	// Pods that have ended are neither.
	c.becomes(replace(pods, "pod ops/far app=web http:80", "pod ops/far app=web http:80 !phase=Succeeded") + `cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Deny, to: [{pods: {podSelector: {}}}]}]}`)
	c.expect(`
		allow shop/web -> ops/far tcp 80
		deny  shop/web -> db/pg tcp 80
	`)
}

// unreadables are peers and protocols that cannot be read, with the field of each, and that in a rule that denies or passes
// where it is another.
var unreadables = []struct{ peer, protocol, field, denying string }{
	{peer: `{}`, field: `to[1]`},
	{peer: `{namespaces: {}, nodes: {}}`, field: `to[1]`},
	{peer: `{namespaces: {matchExpressions: [{key: team, operator: In}]}}`, field: `to[1].namespaces`},
	{peer: `{pods: {podSelector: {matchLabels: {app: "a b"}}}}`, field: `to[1].pods.podSelector`},
	{peer: `{nodes: {matchExpressions: [{key: zone, operator: Gt, values: ["1"]}]}}`, field: `to[1].nodes`},
	{peer: `{networks: [203.0.113.0/33]}`, field: `to[1].networks[0]`},
	{peer: `{domainNames: [example..com]}`, field: `to[1].domainNames[0]`, denying: `to[1].domainNames`},
	{protocol: `{}`, field: `protocols[1]`},
	{protocol: `{tcp: {}, udp: {}}`, field: `protocols[1]`},
	{protocol: `{tcp: {}, destinationNamedPort: http}`, field: `protocols[1]`},
	{protocol: `{tcp: {destinationPort: {}}}`, field: `protocols[1].tcp.destinationPort`},
	{protocol: `{tcp: {destinationPort: {number: 80, range: {start: 80, end: 81}}}}`, field: `protocols[1].tcp.destinationPort`},
	{protocol: `{udp: {destinationPort: {number: 65536}}}`, field: `protocols[1].udp.destinationPort`},
	{protocol: `{sctp: {destinationPort: {range: {start: 90, end: 80}}}}`, field: `protocols[1].sctp.destinationPort`},
}

// TestB8_UnreadableCloses: a rule that accepts does not mean what cannot be read in it, but all else in
// it. One that denies or passes denies everything, at its place.
func TestB8_UnreadableCloses(t *testing.T) {
	c := cluster(t, base)
	for _, x := range unreadables {
		peers, protocols := `{networks: [203.0.113.0/24, "2001:db8::/32"]}`, ``
		if x.peer != "" {
			peers += `, ` + x.peer
		} else {
			protocols = `, protocols: [{tcp: {destinationPort: {number: 81}}}, ` + x.protocol + `]`
		}
		rules := func(action string) string {
			return base + `
				cnp a {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: store}}}, egress: [{action: Accept, to: [{pods: {podSelector: {matchLabels: {app: api}}}}]}, {action: ` + action + `, to: [` + peers + `]` + protocols + `}]}
				cnp b {tier: Admin, priority: 2, subject: {namespaces: {matchLabels: {team: store}}}, egress: [{action: Deny, to: [` + anywhere + `]}]}`
		}
		c.becomes(rules("Accept"))
		c.expect(`
			allow shop/web -> world tcp 81
			deny  shop/web -> db/pg tcp 81
			deny  shop/web -> ops/cron tcp 80
		`)
		c.found(`/a spec.egress[1].` + x.field)
		for _, action := range []string{"Deny", "Pass"} {
			c.becomes(rules(action))
			c.expect(`
				allow shop/web -> shop/api tcp 80     # the rule before it
				deny  shop/web -> world tcp 80
				deny  shop/web -> db/pg ping
				allow db/pg -> shop/web tcp 80
			`)
			c.found(`/a spec.egress[1].` + cmp.Or(x.denying, x.field))
		}
		if t.Failed() {
			t.Fatalf("%+v", x)
		}
	}
	// No peers at all.
	c.becomes(base + `cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: []}, {action: Deny, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}], egress: [{action: Pass}]}`)
	c.expect(`
		allow world -> shop/web tcp 80
		deny  ops/far -> shop/web tcp 80
		deny  shop/web -> world tcp 80
	`)
	// An unknown action, and an unknown tier.
	c.becomes(base + `cnp a {tier: Baseline, subject: {namespaces: {}}, egress: [{action: Log, to: [{namespaces: {}}]}]}
		policy shop/p {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{}]}`)
	c.expect(`
		allow shop/web -> world tcp 80     # of the tier behind NetworkPolicies
		deny  shop/api -> world tcp 80
	`)
	c.found(`/a spec.egress[0].action`)
	c.becomes(base + `
		cnp a {tier: Middle, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{namespaces: {}}]}, {action: Deny, to: [{nodes: {}}]}], ingress: [{action: Accept, from: [{namespaces: {}}]}]}
		cnp b {tier: Admin, priority: 0, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [203.0.113.0/24]}]}]}
		cnp c {tier: Admin, priority: 2, subject: {namespaces: {}}, egress: [{action: Accept, to: [` + anywhere + `]}]}
		policy shop/p {podSelector: {}, policyTypes: [Ingress]}`)
	c.expect(`
		allow shop/web -> world tcp 80 family 4
		deny  shop/web -> world tcp 80 family 6
		deny  db/pg -> node-2 tcp 80
		allow world -> db/pg tcp 80
		deny  world -> shop/web tcp 80     # it accepts nothing
	`)
	c.found(`/a spec.tier`)
}

// TestB10_DoubtCloses: where nobody can tell who somebody is, whoever is asked that before it is denied
// or passed is denied.
func TestB10_DoubtCloses(t *testing.T) {
	text := base + `pod shop/twin app=api !at=ops/cron` + "\n"
	node := replace(base, "pod ops/far", "node node-2 zone=b\npod ops/far")
	unknown := func(s *policy.Snapshot) {
		s.Namespaces = slices.DeleteFunc(s.Namespaces, func(ns *corev1.Namespace) bool { return ns.Name == "ops" })
	}
	listed := func(s *policy.Snapshot) {
		for _, ip := range s.Pods[slices.IndexFunc(s.Pods, func(p *corev1.Pod) bool { return p.Name == "cron" })].Status.PodIPs {
			s.Nodes[1].Status.Addresses = append(s.Nodes[1].Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: ip.IP})
		}
	}
	c := cluster(t, base)
	// Whether cron's address is cron's: two pods show it; its Namespace is not known; a Node shows it.
	for _, x := range []struct {
		name, text string
		change     func(*policy.Snapshot)
	}{{"two pods", text, func(*policy.Snapshot) {}}, {"no Namespace", base, unknown}, {"a Node", node, listed}} {
		becomes := func(policies string) {
			s := snapshot(t, x.text+policies)
			x.change(&s)
			c.set(s)
		}
		for _, rule := range []string{
			`action: Deny, to: [{pods: {podSelector: {matchLabels: {app: none}}}}]`,
			`action: Pass, to: [{namespaces: {matchLabels: {team: none}}}]`,
			`action: Pass, to: [{nodes: {matchLabels: {zone: none}}}]`,
			`action: Deny, to: [{networks: [203.0.113.9/32]}], protocols: [{destinationNamedPort: none}]`,
		} {
			becomes(`cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: data}}}, egress: [{action: Accept, to: [` + anywhere + `]}, {` + rule + `}]}`)
			c.expect(`
				deny  db/pg -> ops/cron tcp 80
				deny  db/pg -> ops/cron ping
				allow db/pg -> shop/web tcp 80
				allow db/pg -> world tcp 80
				allow db/pg -> node-2 tcp 80
			`)
		}
		for _, rule := range []string{
			`action: Deny, from: [{pods: {podSelector: {matchLabels: {app: none}}}}]`,
			`action: Pass, from: [{namespaces: {matchLabels: {team: none}}}], protocols: [{tcp: {destinationPort: {number: 9}}}]`,
		} {
			becomes(`cnp a {tier: Baseline, subject: {namespaces: {matchLabels: {team: data}}}, ingress: [{` + rule + `}]}`)
			c.expect(`
				deny  ops/cron -> db/pg tcp 80
				allow shop/web -> db/pg tcp 80
				allow world -> db/pg tcp 80
			`)
		}
		// Who is not asked for is let through: networks, and numbers of ports, are what they are.
		becomes(`cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: data}}}, egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Accept, to: [{namespaces: {}}]}]}`)
		c.expect(`
			allow db/pg -> ops/cron tcp 80
			deny  db/pg -> world tcp 80 family 4
		`)
		// A policy that has decided before does not ask.
		becomes(`
			cnp a {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: data}}}, egress: [{action: Accept, to: [` + anywhere + `]}]}
			cnp b {tier: Admin, priority: 2, subject: {namespaces: {matchLabels: {team: data}}}, egress: [{action: Deny, to: [{namespaces: {}}]}]}`)
		c.expect(`allow db/pg -> ops/cron tcp 80`)
		if t.Failed() {
			t.Fatal(x.name)
		}
	}
	// Accept means an address if it means all pods that show it, and a name if all of them give it.
	c.becomes(text + `
		policy db/p {podSelector: {}, policyTypes: [Egress]}
		cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: data}}}, egress: [{action: Accept, to: [{pods: {podSelector: {matchLabels: {app: cron}}}}], protocols: [{tcp: {destinationPort: {number: 1}}}]},
			{action: Accept, to: [{pods: {podSelector: {matchExpressions: [{key: app, operator: In, values: [cron, api]}]}}}], protocols: [{tcp: {destinationPort: {number: 2}}}]}]}`)
	c.expect(`
		deny  db/pg -> ops/cron tcp 1
		allow db/pg -> ops/cron tcp 2
	`)
	// For ingress by a name of the subject's: who the subject is.
	c.becomes(text + `cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: none}}}}], protocols: [{destinationNamedPort: none}]}]}`)
	c.expect(`
		deny  db/pg -> ops/cron tcp 80
		deny  world -> ops/cron tcp 80
		allow db/pg -> shop/web tcp 80
	`)
}

// TestB11_ClosedUntilTheNamespaceIsKnown: until then nobody can tell which policies select a pod.
func TestB11_ClosedUntilTheNamespaceIsKnown(t *testing.T) {
	c := cluster(t, base)
	for _, x := range []struct{ policies, out, in string }{
		{`cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Accept, to: [` + anywhere + `]}]}`, "allow", "allow"},
		{denyOut(`{namespaces: {}}`), "deny", "allow"},
		{denyOut(`{namespaces: {matchLabels: {team: none}}}`), "deny", "allow"},
		{denyOut(`{pods: {namespaceSelector: {matchLabels: {team: none}}, podSelector: {matchLabels: {app: pg}}}}`), "deny", "allow"},
		{denyOut(`{pods: {namespaceSelector: {matchLabels: {team: none}}, podSelector: {matchLabels: {app: web}}}}`), "allow", "allow"},
		{denyOut(`{namespaces: {}, pods: {podSelector: {}}}`), "allow", "allow"},
		{`cnp a {tier: Baseline, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {podSelector: {matchLabels: {app: none}}}}]}]}
			cnp b {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}
			policy db/p {podSelector: {}, ingress: [{}]}`, "allow", "deny"},
		{`cnp a {tier: Middle, subject: {namespaces: {}}, egress: [{action: Accept, to: [{namespaces: {}}]}], ingress: [{action: Log, from: [{namespaces: {}}]}]}`, "allow", "deny"},
	} {
		s := snapshot(t, base+x.policies)
		s.Namespaces = slices.DeleteFunc(s.Namespaces, func(ns *corev1.Namespace) bool { return ns.Name == "db" })
		c.set(s)
		c.expect(x.out + ` db/pg -> world tcp 80
			` + x.out + ` db/pg -> node-2 ping
			` + x.in + ` world -> db/pg tcp 80`)
		if t.Failed() {
			t.Fatal(x.policies)
		}
	}
	c.becomes(base + denyOut(`{namespaces: {matchLabels: {team: none}}}`))
	c.expect(`allow db/pg -> world tcp 80`)
}
