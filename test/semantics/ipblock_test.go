package semantics_test

import "testing"

func TestA11_ExceptBelongsToItsPeer(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}, ingress: [{from: [
		{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.128/25]}},
		{ipBlock: {cidr: "2001:db8::/64", except: ["2001:db8::8/125", "2001:db8::4/126"]}}]}]}`)
	c.expect(`
		allow 203.0.113.7 -> db/pg tcp 80
		deny  203.0.113.200 -> db/pg tcp 80
		allow 2001:db8::2 -> db/pg tcp 80
		deny  2001:db8::9 -> db/pg tcp 80
		deny  192.0.2.2 -> db/pg tcp 80
	`)
	// What one peer excepts, another peer, rule or policy may still allow.
	blocks := `{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.200/32]}}, {ipBlock: {cidr: "2001:db8::/64", except: ["2001:db8::9/128"]}}`
	allow := `{ipBlock: {cidr: 203.0.113.192/26}}, {ipBlock: {cidr: "2001:db8::8/125"}}`
	for _, policies := range []string{
		`policy db/p {podSelector: {}, ingress: [{from: [` + blocks + `, ` + allow + `]}]}`,
		`policy db/p {podSelector: {}, ingress: [{from: [` + blocks + `]}, {from: [` + allow + `]}]}`,
		`policy db/p {podSelector: {}, ingress: [{from: [` + blocks + `]}]}
		 policy db/q {podSelector: {}, ingress: [{from: [` + allow + `]}]}`,
	} {
		c.becomes(base + policies)
		c.expect(`
			allow world -> db/pg tcp 80
			allow elsewhere -> db/pg tcp 80
			deny  node-2 -> db/pg tcp 80
		`)
	}
	c.becomes(base + `policy db/p {podSelector: {}, policyTypes: [Egress], egress: [{to: [` + blocks + `]}]}`)
	c.expect(`
		allow db/pg -> world tcp 80
		deny  db/pg -> elsewhere tcp 80
	`)
}

func TestA12_BlocksMeanEveryAddress(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}, policyTypes: [Ingress, Egress],
		ingress: [{from: [{ipBlock: {cidr: 10.244.1.0/24}}, {ipBlock: {cidr: 192.0.2.2/32}}, {ipBlock: {cidr: "fd00:244::/32"}}, {ipBlock: {cidr: "2001:db8:1::2/128"}}]}],
		egress: [{to: [{ipBlock: {cidr: 10.244.0.0/16}}, {ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: "fd00:244:0:2::/64"}}, {ipBlock: {cidr: "2001:db8::/32"}}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80              # pods
		deny  ops/far -> db/pg tcp 80 family 4
		allow ops/far -> db/pg tcp 80 family 6
		allow node-2 -> db/pg tcp 80                # other nodes
		deny  world -> db/pg tcp 80
		allow db/pg -> shop/web tcp 80 family 4
		deny  db/pg -> shop/web tcp 80 family 6
		allow db/pg -> ops/far tcp 80
		allow db/pg -> node tcp 80                  # its own
		allow db/pg -> node-2 tcp 80
		deny  db/pg -> world tcp 80 family 4
		allow db/pg -> world tcp 80 family 6        # what is outside
	`)
}

func TestA13_AllOfOneFamily(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}], egress: [{to: [{ipBlock: {cidr: "::/0"}}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80 family 4
		allow world -> db/pg tcp 80 family 4
		deny  shop/web -> db/pg tcp 80 family 6
		deny  world -> db/pg tcp 80 family 6
		deny  db/pg -> world tcp 80 family 4
		allow db/pg -> world tcp 80 family 6
		allow db/pg -> shop/web tcp 80 family 6
	`)
}

func TestA14_OldSpellingsOfBlocks(t *testing.T) {
	// Host bits, leading zeros and IPv4-mapped addresses: refused in new
	// objects, kept in old ones.
	c := cluster(t, base)
	for _, cidr := range []string{`203.0.113.7/24`, `203.000.113.007/25`, `"::ffff:203.0.113.0/120"`} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: ` + cidr + `}}]}]}`)
		c.expect(`
			allow 203.0.113.7 -> db/pg tcp 80
			deny  192.0.2.2 -> db/pg tcp 80
			deny  2001:db8::2 -> db/pg tcp 80
		`)
		c.found()
	}
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: ["203.0.113.201/25", "::ffff:203.0.113.0/126"]}}]}]}`)
	c.expect(`
		allow 203.0.113.7 -> db/pg tcp 80
		deny  203.0.113.200 -> db/pg tcp 80
	`)
	// An except as wide as its block, or wider, leaves nothing.
	for _, except := range []string{`203.0.113.0/24`, `203.0.0.0/16`, `0.0.0.0/0`} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [` + except + `]}}]}]}`)
		c.expect(`deny 203.0.113.7 -> db/pg tcp 80`)
	}
	// What can't be read allows nothing: an except less would open what it
	// closes. The rest of the rule holds.
	for field, block := range map[string]string{
		`cidr`:      `{cidr: 203.0.113.0}`,
		`except[1]`: `{cidr: 203.0.113.0/24, except: [203.0.113.128/25, anything]}`,
	} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{ipBlock: ` + block + `}, {ipBlock: {cidr: 192.0.2.2/32}}]}]}`)
		c.expect(`
			deny  203.0.113.7 -> db/pg tcp 80
			allow 192.0.2.2 -> db/pg tcp 80
		`)
		c.found(`db/p spec.ingress[0].from[0].ipBlock.` + field)
	}
}
