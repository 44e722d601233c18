package semantics_test

import "testing"

func TestA6_SelectorScopes(t *testing.T) {
	// spec.podSelector: absent and {} are all pods of the policy's namespace.
	c := cluster(t, base)
	for _, subject := range []string{``, `podSelector: {}, `} {
		c.becomes(base + `policy shop/p {` + subject + `ingress: []}`)
		c.expect(`
			deny  ops/cron -> shop/web tcp 80
			deny  ops/cron -> shop/api tcp 80
			allow ops/cron -> db/pg tcp 80
		`)
	}
	// A peer's podSelector alone looks in the policy's namespace.
	c.becomes(base + `policy shop/p {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`)
	c.expect(`
		allow shop/web -> shop/api tcp 80
		deny  ops/far -> shop/api tcp 80     # the same label, elsewhere
		deny  shop/api -> shop/web tcp 80
	`)
	// {} there: all of them.
	c.becomes(base + `policy shop/p {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`)
	c.expect(`
		allow shop/api -> shop/web tcp 80
		deny  db/pg -> shop/web tcp 80
		deny  world -> shop/web tcp 80
	`)
	// namespaceSelector alone: all pods there.
	c.becomes(base + `policy shop/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: data}}}]}]}`)
	c.expect(`
		allow db/pg -> shop/web tcp 80
		deny  shop/api -> shop/web tcp 80
		deny  ops/cron -> shop/web tcp 80
	`)
	// Both: AND. As two peers they would be OR.
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}, podSelector: {matchLabels: {app: web}}}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80
		deny  shop/api -> db/pg tcp 80
		deny  ops/far -> db/pg tcp 80
	`)
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}, {podSelector: {matchLabels: {app: web}}}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80
		allow shop/api -> db/pg tcp 80
		deny  ops/far -> db/pg tcp 80
	`)
	// namespaceSelector {}: all pods of all namespaces, but no other address.
	c.becomes(base + `policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress],
		ingress: [{from: [{namespaceSelector: {}}]}], egress: [{to: [{namespaceSelector: {}}]}]}`)
	c.expect(`
		allow ops/far -> shop/web tcp 80
		allow shop/web -> db/pg tcp 80
		deny  world -> shop/web tcp 80
		deny  shop/web -> world tcp 80
		deny  node-2 -> shop/web tcp 80
		deny  shop/web -> node-2 tcp 80
		deny  shop/web -> node tcp 80
	`)
}

func TestA7_NotInAndEmptyValues(t *testing.T) {
	c := cluster(t, base+`
		pod shop/bare
		pod shop/blank app=
		policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow shop/api -> db/pg tcp 80
		allow shop/bare -> db/pg tcp 80     # without the key it has no such value
		allow shop/blank -> db/pg tcp 80
	`)
	c.becomes(base + `
		pod shop/bare
		pod shop/blank app=
		policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: ""}}}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		deny  shop/bare -> db/pg tcp 80     # an empty value is not no value
		allow shop/blank -> db/pg tcp 80
	`)
	c.becomes(base + `
		pod shop/bare
		pod shop/blank app=
		policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: Exists}, {key: app, operator: In, values: [api, ""]}]}}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow shop/api -> db/pg tcp 80
		deny  shop/bare -> db/pg tcp 80
		allow shop/blank -> db/pg tcp 80
	`)
	c.becomes(base + `
		pod shop/bare
		pod shop/blank app=
		policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}]}]}`)
	c.expect(`
		allow shop/bare -> db/pg tcp 80
		deny  shop/blank -> db/pg tcp 80
	`)
}

func TestA8_MetadataNameIsAnOrdinaryLabel(t *testing.T) {
	policy := `policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}]}`
	c := cluster(t, base+policy)
	c.expect(`
		allow shop/web -> db/pg tcp 80
		deny  ops/cron -> db/pg tcp 80
	`)
	// It is the label that counts, not the name.
	c.becomes(`
		ns shop team=store
		ns ops kubernetes.io/metadata.name=shop
		pod shop/web
		pod ops/cron
		pod db/pg
	` + policy)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		allow ops/cron -> db/pg tcp 80
	`)
}

func TestA9_LabelChanges(t *testing.T) {
	policies := `
		policy db/p {podSelector: {matchLabels: {app: pg}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}, podSelector: {matchLabels: {app: web}}}]}]}`
	shop, pods := `
		ns shop team=store`, `
		pod shop/web app=web
		pod db/pg app=pg`
	allowed := `allow shop/web -> db/pg tcp 80`
	denied := `deny shop/web -> db/pg tcp 80`
	c := cluster(t, shop+pods+policies)
	c.expect(allowed)
	c.becomes(shop + `
		pod shop/web app=other
		pod db/pg app=pg` + policies)
	c.expect(denied) // the peer's label
	c.becomes(shop + pods + policies)
	c.expect(allowed)
	c.becomes(`
		ns shop team=other` + pods + policies)
	c.expect(denied) // the namespace's label
	c.becomes(`
		ns shop team=other
		pod shop/web app=web
		pod db/pg app=other` + policies)
	c.expect(allowed) // the subject's label: not selected any more
	c.becomes(shop + pods + policies)
	c.expect(allowed)
	// The namespace goes; its pods may be seen a little longer.
	gone := snapshot(t, shop+pods+policies)
	gone.Namespaces = gone.Namespaces[1:]
	c.set(gone)
	c.expect(denied)
	c.becomes(`pod db/pg app=pg` + policies)
	c.becomes(shop + pods + policies)
	c.expect(allowed)
}

func TestA10_UnparsableSelectors(t *testing.T) {
	bad := `matchExpressions: [{key: app, operator: Resembles, values: [web]}]`
	c := cluster(t, base+`policy db/p {podSelector: {}, ingress: [
		{from: [{namespaceSelector: {}, podSelector: {`+bad+`}}]},
		{from: [{namespaceSelector: {`+bad+`}}]},
		{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: api}}}]}]}`)
	c.expect(`
		deny  shop/web -> db/pg tcp 80
		deny  ops/cron -> db/pg tcp 80
		allow shop/api -> db/pg tcp 80     # the other rules hold
	`)
	c.found(`db/p spec.ingress[0].from[0].podSelector`, `db/p spec.ingress[1].from[0].namespaceSelector`)
	// As subject it selects nothing; other policies hold.
	c.becomes(base + `
		policy shop/bad {podSelector: {` + bad + `}, ingress: []}
		policy shop/good {podSelector: {matchLabels: {app: api}}, ingress: []}`)
	c.expect(`
		allow db/pg -> shop/web tcp 80
		deny  db/pg -> shop/api tcp 80
	`)
	c.found(`shop/bad spec.podSelector`)
	for _, selector := range []string{
		`matchExpressions: [{key: app, operator: In, values: []}]`,
		`matchExpressions: [{key: app, operator: Exists, values: [web]}]`,
		`matchLabels: {"not a key": web}`,
		`matchLabels: {app: "not a value"}`,
	} {
		c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {` + selector + `}}]}]}`)
		c.expect(`deny shop/web -> db/pg tcp 80`)
		c.found(`db/p spec.ingress[0].from[0].podSelector`)
	}
}
