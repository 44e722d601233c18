package semantics_test

import "testing"

// base are the pods of most tests.
const base = `
	ns shop kubernetes.io/metadata.name=shop team=store
	ns db kubernetes.io/metadata.name=db team=data
	pod shop/web app=web http:80
	pod shop/api app=api http:8080
	pod db/pg app=pg pg:5432
	pod ops/cron app=cron
	pod ops/far app=web http:80 @node-2
`

func TestA1_IsolatedPerDirection(t *testing.T) {
	c := cluster(t, base+`policy db/in {podSelector: {}, policyTypes: [Ingress]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 5432
		deny  world -> db/pg tcp 5432
		allow db/pg -> shop/web tcp 80
		allow db/pg -> world tcp 80
		allow shop/web -> shop/api tcp 80
	`)
	c.becomes(base + `policy db/out {podSelector: {}, policyTypes: [Egress]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 5432
		deny  db/pg -> shop/web tcp 80
		deny  db/pg -> world tcp 80
	`)
	// A connection needs the source's egress and the destination's ingress.
	c.becomes(base + `
		policy db/in {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 1}, {port: 2}]}]}
		policy shop/out {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 2}, {port: 3}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 1
		allow shop/web -> db/pg tcp 2
		deny  shop/web -> db/pg tcp 3
	`)
	// A policy isolates in its own namespace only.
	c.becomes(base + `policy ops/all {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress]}`)
	c.expect(`
		allow ops/cron -> shop/web tcp 80
		allow shop/web -> ops/cron tcp 80
	`)
}

func TestA2_PolicyTypesDefaults(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow db/pg -> shop/web tcp 80
	`)
	c.becomes(base + `policy db/p {podSelector: {}, egress: [{ports: [{port: 80}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow db/pg -> shop/web tcp 80
		deny  db/pg -> shop/web tcp 81
	`)
	c.becomes(base + `policy db/p {podSelector: {}, policyTypes: [], egress: []}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow db/pg -> shop/web tcp 80
	`)
	// [Egress] ignores ingress rules, which else would isolate.
	c.becomes(base + `policy db/p {podSelector: {}, policyTypes: [Egress], ingress: [{ports: [{port: 80}]}], egress: [{ports: [{port: 80}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 81
		allow db/pg -> shop/web tcp 80
		deny  db/pg -> shop/web tcp 81
	`)
	c.becomes(base + `policy db/p {podSelector: {}, policyTypes: [Ingress], egress: [{ports: [{port: 80}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow db/pg -> shop/web tcp 81
	`)
	c.becomes(base + `policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80
		deny  db/pg -> shop/web tcp 80
	`)
}

func TestA3_UnionAndOrder(t *testing.T) {
	one := `policy db/one {podSelector: {}, ingress: [{ports: [{port: 1}]}, {ports: [{port: 2}]}]}` + "\n"
	two := `policy db/two {podSelector: {matchLabels: {app: pg}}, ingress: [{ports: [{port: 3}]}]}` + "\n"
	deny := `policy db/deny {podSelector: {}, ingress: []}` + "\n"
	all := `
		allow shop/web -> db/pg tcp 1
		allow shop/web -> db/pg tcp 2
		allow shop/web -> db/pg tcp 3
		deny  shop/web -> db/pg tcp 4
	`
	c := cluster(t, base+one+two+deny)
	c.expect(all)
	c.becomes(base + deny + two + one)
	c.expect(all)
	c.becomes(base + one + deny)
	c.expect(`
		allow shop/web -> db/pg tcp 1
		deny  shop/web -> db/pg tcp 3
	`)
	c.becomes(base + deny)
	c.expect(`deny shop/web -> db/pg tcp 1`)
	c.becomes(base)
	c.expect(`allow shop/web -> db/pg tcp 4`)
}

func TestA4_NoRulesAllowNothing(t *testing.T) {
	c := cluster(t, base)
	for rules, word := range map[string]string{``: "deny ", `, ingress: [], egress: []`: "deny ", `, ingress: [{}], egress: [{}]`: "allow "} {
		c.becomes(base + `policy db/p {podSelector: {}, policyTypes: [Ingress, Egress]` + rules + `}`)
		c.expect(word + `shop/web -> db/pg tcp 5432
			` + word + `world -> db/pg ping
			` + word + `db/pg -> world proto 47
			` + word + `db/pg -> shop/web udp 53`)
	}
}

func TestA5_EmptyListsMeanAny(t *testing.T) {
	c := cluster(t, base)
	for _, peers := range []string{``, `from: [], `} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{` + peers + `ports: [{port: 80}]}]}`)
		c.expect(`
			allow shop/web -> db/pg tcp 80
			allow world -> db/pg tcp 80
			allow node-2 -> db/pg tcp 80
			deny  shop/web -> db/pg tcp 81
		`)
	}
	for _, ports := range []string{``, `, ports: []`} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}]` + ports + `}]}`)
		c.expect(`
			allow shop/web -> db/pg tcp 1
			allow shop/web -> db/pg udp 65535
			allow shop/web -> db/pg sctp 9
			allow shop/web -> db/pg ping
			allow shop/web -> db/pg proto 47
			deny  ops/cron -> db/pg tcp 1
		`)
	}
	// A rule is peer AND port.
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}], ports: [{port: 80}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80
		deny  shop/web -> db/pg tcp 81
		deny  ops/cron -> db/pg tcp 80
	`)
	// The API server refuses an empty peer; one that is there means nobody.
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{}]}]}`)
	c.expect(`
		deny shop/web -> db/pg tcp 80
		deny world -> db/pg tcp 80
	`)
	c.found(`db/p spec.ingress[0].from[0]`)
}
