package semantics_test

import "testing"

func TestA15_ProtocolDefaults(t *testing.T) {
	c := cluster(t, base)
	for ports, words := range map[string][5]string{
		`{port: 53}`:                {"allow", "deny ", "deny ", "deny ", "deny "},
		`{}`:                        {"allow", "allow", "deny ", "deny ", "deny "},
		`{protocol: TCP}`:           {"allow", "allow", "deny ", "deny ", "deny "},
		`{protocol: UDP}`:           {"deny ", "deny ", "allow", "allow", "deny "},
		`{protocol: UDP, port: 53}`: {"deny ", "deny ", "allow", "deny ", "deny "},
		`{protocol: SCTP}`:          {"deny ", "deny ", "deny ", "deny ", "allow"},
	} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [` + ports + `]}]}`)
		c.expect(
			words[0] + ` shop/web -> db/pg tcp 53
			` + words[1] + ` shop/web -> db/pg tcp 65535
			` + words[2] + ` shop/web -> db/pg udp 53
			` + words[3] + ` shop/web -> db/pg udp 1
			` + words[4] + ` shop/web -> db/pg sctp 53`)
	}
}

func TestA17_EndPortInclusive(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}, ingress: [{ports: [{port: 100, endPort: 200}, {protocol: UDP, port: 7, endPort: 7}, {port: 65535, endPort: 65535}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 99
		allow shop/web -> db/pg tcp 100
		allow shop/web -> db/pg tcp 150
		allow shop/web -> db/pg tcp 200
		deny  shop/web -> db/pg tcp 201
		deny  shop/web -> db/pg udp 150
		deny  shop/web -> db/pg udp 6
		allow shop/web -> db/pg udp 7
		deny  shop/web -> db/pg udp 8
		allow shop/web -> db/pg tcp 65535
	`)
	// Ranges that touch or overlap are one.
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [{port: 100, endPort: 200}, {port: 150, endPort: 300}, {port: 301}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 100
		allow shop/web -> db/pg tcp 250
		allow shop/web -> db/pg tcp 301
		deny  shop/web -> db/pg tcp 302
	`)
	// What the API server would refuse allows nothing; the others hold.
	for _, port := range []string{`{port: 200, endPort: 100}`, `{port: 70000}`, `{port: 0}`, `{port: 100, endPort: 70000}`} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [` + port + `, {port: 5}]}]}`)
		c.expect(`
			deny  shop/web -> db/pg tcp 100
			deny  shop/web -> db/pg tcp 200
			allow shop/web -> db/pg tcp 5
		`)
		c.found(`db/p spec.ingress[0].ports[0]`)
	}
	for _, port := range []string{`{port: pg, endPort: 6000}`, `{endPort: 6000}`} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [` + port + `, {port: 5}]}]}`)
		c.expect(`
			deny  shop/web -> db/pg tcp 5432
			allow shop/web -> db/pg tcp 5
		`)
		c.found(`db/p spec.ingress[0].ports[0].endPort`)
	}
}

// names are pods that use port names in different ways.
const names = `
	pod shop/client app=client
	pod db/a app=a data:1000
	pod db/b app=b data:2000
	pod db/none app=none
	pod ops/c app=c data:3000 @node-2
`

func TestA18_NamedPortsResolvePerPod(t *testing.T) {
	// Ingress: on each subject.
	c := cluster(t, names+`policy db/p {podSelector: {}, ingress: [{ports: [{port: data}]}]}`)
	c.expect(`
		allow shop/client -> db/a tcp 1000
		deny  shop/client -> db/a tcp 2000
		deny  shop/client -> db/b tcp 1000
		allow shop/client -> db/b tcp 2000
	`)
	// Egress: on each destination.
	c.becomes(names + `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: data}]}]}`)
	c.expect(`
		allow shop/client -> db/a tcp 1000
		deny  shop/client -> db/a tcp 2000
		deny  shop/client -> db/b tcp 1000
		allow shop/client -> db/b tcp 2000
		allow shop/client -> ops/c tcp 3000
		deny  shop/client -> ops/c tcp 1000
	`)
	// A pod's port changes.
	c.becomes(`
		pod shop/client
		pod db/a data:1001
		policy db/p {podSelector: {}, ingress: [{ports: [{port: data}]}]}`)
	c.expect(`
		deny  shop/client -> db/a tcp 1000
		allow shop/client -> db/a tcp 1001
	`)
	c.becomes(`
		pod shop/client
		pod db/a admin:900 data:1002 web:80
		policy db/p {podSelector: {}, ingress: [{ports: [{port: data}]}]}`)
	c.expect(`
		deny  shop/client -> db/a tcp 900
		deny  shop/client -> db/a tcp 1001
		allow shop/client -> db/a tcp 1002
	`)
}

func TestA19_NameAndProtocol(t *testing.T) {
	c := cluster(t, `
		pod shop/client
		pod db/a data:1000/udp another:data:1001/udp another:data:1002/tcp
		policy db/p {podSelector: {}, ingress: [{ports: [{protocol: UDP, port: data}]}]}`)
	c.expect(`
		allow shop/client -> db/a udp 1000
		allow shop/client -> db/a udp 1001     # the same name in another container
		deny  shop/client -> db/a udp 1002
		deny  shop/client -> db/a tcp 1000
		deny  shop/client -> db/a tcp 1002
	`)
	c.becomes(`
		pod shop/client
		pod db/a data:1000/udp
		policy db/p {podSelector: {}, ingress: [{ports: [{port: data}]}]}`)
	c.expect(`
		deny shop/client -> db/a udp 1000
		deny shop/client -> db/a tcp 1000
	`)
}

func TestA20_InitContainersCount(t *testing.T) {
	c := cluster(t, `
		pod shop/client
		pod db/a main:1000 sidecar:proxy:1001 init:setup:1002 ephemeral:debug:1003
		policy db/p {podSelector: {}, ingress: [{ports: [{port: proxy}, {port: setup}, {port: debug}]}]}`)
	c.expect(`
		deny  shop/client -> db/a tcp 1000
		allow shop/client -> db/a tcp 1001
		allow shop/client -> db/a tcp 1002
		deny  shop/client -> db/a tcp 1003
	`)
}

func TestA21_UnresolvedNamesNeverWiden(t *testing.T) {
	c := cluster(t, names)
	for _, peers := range []string{``, `from: [{namespaceSelector: {}}], `, `from: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "::/0"}}], `} {
		c.becomes(names + `policy db/p {podSelector: {}, ingress: [{` + peers + `ports: [{port: absent}]}, {` + peers + `ports: [{port: data}, {port: 7}]}]}`)
		c.expect(`
			deny  shop/client -> db/none tcp 1000     # has no such port, and stays isolated
			deny  shop/client -> db/none ping
			allow shop/client -> db/none tcp 7        # the other entries count
			allow shop/client -> db/a tcp 1000
			deny  shop/client -> db/a tcp 1001
		`)
		c.found()
	}
	// As a rule of its own it allows nothing, with or without peers.
	for _, to := range []string{``, `to: [{namespaceSelector: {}}], `} {
		c.becomes(names + `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{` + to + `ports: [{port: absent}]}]}`)
		c.expect(`
			deny shop/client -> db/a tcp 1000
			deny shop/client -> db/none tcp 80
			deny shop/client -> world tcp 80
		`)
	}
}

func TestA22_EgressNamesWithoutPeers(t *testing.T) {
	c := cluster(t, names)
	for _, to := range []string{``, `to: [], `} {
		c.becomes(names + `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{` + to + `ports: [{port: data}]}]}`)
		c.expect(`
			allow shop/client -> db/a tcp 1000
			allow shop/client -> ops/c tcp 3000     # of any namespace and node
			deny  shop/client -> db/none tcp 1000
			deny  shop/client -> world tcp 1000     # no pod
			deny  shop/client -> node-2 tcp 1000
		`)
	}
	// With ipBlock: the pods in it.
	c.becomes(names + `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.1.0/24}}, {ipBlock: {cidr: "fd00:244:0:1::/64"}}], ports: [{port: data}]}]}`)
	c.expect(`
		allow shop/client -> db/a tcp 1000
		deny  shop/client -> ops/c tcp 3000
		deny  shop/client -> db/a tcp 3000
	`)
}

// A23 here sends single INITs: the sockets of SCTP are not on every test kernel.
// TestA23_Associations has those.
func TestA23_SCTPIsNeitherTCPNorAny(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80}]}]}`)
	c.expect(`
		allow shop/web -> db/pg sctp 80
		deny  shop/web -> db/pg sctp 81
		deny  shop/web -> db/pg tcp 80
		deny  shop/web -> db/pg udp 80
		deny  shop/web -> db/pg ping
	`)
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [{protocol: TCP, port: 80}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg sctp 80
		allow shop/web -> db/pg tcp 80
	`)
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 80}]}]}`)
	c.expect(`
		deny shop/web -> db/pg sctp 80
		deny shop/web -> db/pg tcp 80
	`)
	// One that the API does not know matches nothing.
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [{protocol: DCCP, port: 80}]}]}`)
	c.expect(`
		deny shop/web -> db/pg tcp 80
		deny shop/web -> db/pg proto 33
	`)
	c.found(`db/p spec.ingress[0].ports[0].protocol`)
}

func TestA24_PortlessProtocols(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}]}]}`)
	c.expect(`
		allow shop/web -> db/pg ping
		allow shop/web -> db/pg proto 47
		allow shop/web -> db/pg proto 253
		deny  ops/cron -> db/pg ping
		deny  ops/cron -> db/pg proto 47
	`)
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg ping
		deny  shop/web -> db/pg proto 47
		deny  shop/web -> db/pg proto 136     # UDP-Lite has ports, but is none of the three
		allow shop/web -> db/pg udp 9
	`)
	c.becomes(base + `policy db/p {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}, {to: [{ipBlock: {cidr: 203.0.113.7/32}}]}]}`)
	c.expect(`
		deny  db/pg -> shop/web ping
		allow db/pg -> world ping family 4
		deny  db/pg -> world ping family 6
	`)
}
