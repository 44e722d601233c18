package semantics_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
)

// anywhere is a peer of egress rules: all addresses of both families.
const anywhere = `{networks: [0.0.0.0/0, "::/0"]}`

// denyOut is a ClusterNetworkPolicy with the name a: its subject gets to nowhere.
func denyOut(subject string) string {
	return `cnp a {tier: Admin, subject: ` + subject + `, egress: [{action: Deny, to: [` + anywhere + `]}]}` + "\n"
}

func TestB1_SubjectsOfClusterPolicies(t *testing.T) {
	c := cluster(t, base+denyOut(`{namespaces: {}}`))
	c.expect(`
		deny  shop/web -> world tcp 80
		deny  db/pg -> world udp 53
		deny  ops/cron -> shop/web ping
		allow world -> shop/web tcp 80
	`)
	c.becomes(base + denyOut(`{namespaces: {matchLabels: {team: store}}}`))
	c.expect(`
		deny  shop/web -> world tcp 80
		deny  shop/api -> world tcp 80
		allow db/pg -> world tcp 80
	`)
	c.becomes(base + denyOut(`{pods: {namespaceSelector: {matchLabels: {team: store}}, podSelector: {matchLabels: {app: web}}}}`))
	c.expect(`
		deny  shop/web -> world tcp 80
		allow shop/api -> world tcp 80
	`)
	// No namespaceSelector: pods of all namespaces.
	c.becomes(base + denyOut(`{pods: {podSelector: {matchExpressions: [{key: app, operator: In, values: [web, pg]}]}}}`))
	c.expect(`
		deny  shop/web -> world tcp 80
		deny  db/pg -> world tcp 80
		allow ops/cron -> world tcp 80
	`)
	// Labels change, of a namespace and of a pod.
	c.becomes(replace(base, "team=data", "team=store") + denyOut(`{namespaces: {matchLabels: {team: store}}}`))
	c.expect(`deny db/pg -> world tcp 80`)
	c.becomes(replace(base, "app=cron", "app=web") + denyOut(`{pods: {podSelector: {matchLabels: {app: web}}}}`))
	c.expect(`deny ops/cron -> world tcp 80`)
	// Exactly one of the two, and a selector that can be read; else the policy is about no pod.
	for subject, field := range map[string]string{
		`{}`: ``, `{namespaces: {}, pods: {podSelector: {}}}`: ``,
		`{namespaces: {matchLabels: {team: "a b"}}}`:                                                                     `.namespaces`,
		`{pods: {podSelector: {matchExpressions: [{key: app, operator: In}]}}}`:                                          `.pods.podSelector`,
		`{pods: {namespaceSelector: {matchExpressions: [{key: team, operator: Exists, values: [x]}]}, podSelector: {}}}`: `.pods.namespaceSelector`,
	} {
		c.becomes(base + denyOut(subject))
		c.expect(`allow shop/web -> world tcp 80`)
		c.found(`/a spec.subject` + field)
	}
}

func TestB2_TiersInOrder(t *testing.T) {
	const (
		admin    = `cnp admin {tier: Admin, subject: {namespaces: {}}, egress: [{action: %s, to: [` + anywhere + `]}]}` + "\n"
		middle   = `policy shop/middle {podSelector: {}, policyTypes: [Egress], egress: [%s]}` + "\n"
		baseline = `cnp baseline {tier: Baseline, subject: {namespaces: {}}, egress: [{action: %s, to: [` + anywhere + `]}]}` + "\n"
	)
	c := cluster(t, base)
	for _, x := range []struct{ admin, middle, baseline, want string }{
		{"Accept", "", "Deny", "allow"},
		{"Deny", "{}", "Accept", "deny"},
		{"Pass", "{}", "Deny", "allow"},
		{"Pass", "", "Accept", "deny"},
		{"Pass", "none", "Deny", "deny"},
		{"Pass", "none", "Accept", "allow"},
		{"Pass", "none", "Pass", "allow"},
		{"none", "{}", "Deny", "allow"},
		{"none", "", "Accept", "deny"},
		{"none", "none", "Deny", "deny"},
		{"none", "none", "none", "allow"},
	} {
		text := base
		for form, what := range map[string]string{admin: x.admin, middle: x.middle, baseline: x.baseline} {
			if what != "none" {
				text += fmt.Sprintf(form, what)
			}
		}
		c.becomes(text)
		c.expect(x.want + ` shop/web -> world tcp 80
			` + x.want + ` shop/web -> db/pg ping`)
		if t.Failed() {
			t.Fatalf("%+v", x)
		}
	}
	// Within a tier: the lower priority first; equal ones by name; then a policy's rules as they stand.
	policies := func(a, b, c int) string {
		return base + fmt.Sprintf(`
			cnp a {tier: Admin, priority: %d, subject: {namespaces: {}}, egress: [
				{action: Accept, to: [{networks: [203.0.113.0/24]}], protocols: [{tcp: {destinationPort: {number: 1}}}]},
				{action: Deny, to: [{networks: [203.0.113.0/24]}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]}]}
			cnp b {tier: Admin, priority: %d, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [203.0.113.0/24]}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 3}}}}]}]}
			cnp c {tier: Admin, priority: %d, subject: {namespaces: {}}, egress: [{action: Deny, to: [`+anywhere+`]}]}`, a, b, c)
	}
	for _, x := range []struct{ a, b, c, last int }{{1, 2, 3, 4}, {7, 7, 7, 4}, {0, 1000, 1000, 4}, {2, 1, 3, 3}, {1, 3, 2, 1}, {3, 2, 1, 0}} {
		c.becomes(policies(x.a, x.b, x.c))
		allowed := map[int][]int{4: {1, 3}, 3: {1, 2, 3}, 1: {1}, 0: nil}[x.last]
		for port := range 4 {
			word := map[bool]string{true: "allow", false: "deny"}[slices.Contains(allowed, port+1)]
			c.expect(fmt.Sprintf("%s shop/web -> world tcp %d family 4", word, port+1))
		}
		if t.Failed() {
			t.Fatalf("%+v", x)
		}
	}
}

func TestB3_Actions(t *testing.T) {
	// Accept is final for its own direction: the other end's policies still count.
	c := cluster(t, base+`
		cnp a {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: store}}}, egress: [{action: Accept, to: [{namespaces: {}}]}]}
		cnp b {tier: Admin, priority: 2, subject: {namespaces: {matchLabels: {team: data}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: store}}}]}]}
		policy shop/p {podSelector: {}, policyTypes: [Egress]}
		policy ops/p {podSelector: {matchLabels: {app: cron}}, ingress: []}`)
	c.expect(`
		allow shop/web -> shop/api tcp 80
		allow shop/web -> ops/far tcp 80
		deny  shop/web -> ops/cron tcp 80    # its own NetworkPolicy
		deny  shop/web -> db/pg tcp 80       # Admin, there
		deny  shop/web -> world tcp 80       # no rule means it: its own NetworkPolicy
		allow ops/cron -> db/pg tcp 80
	`)
	// Pass skips what is left of the tier, of its own policy too.
	const passes = `
		cnp a {tier: %[1]s, priority: 1, subject: {namespaces: {}}, egress: [{action: Pass, to: [{namespaces: {matchLabels: {team: data}}}]}, {action: Deny, to: [{pods: {podSelector: {matchLabels: {app: pg}}}}]}]}
		cnp b {tier: %[1]s, priority: 2, subject: {namespaces: {}}, egress: [{action: Deny, to: [` + anywhere + `]}]}`
	for _, tier := range []string{"Admin", "Baseline"} {
		c.becomes(base + fmt.Sprintf(passes, tier))
		c.expect(`
			allow shop/web -> db/pg tcp 80
			deny  shop/web -> shop/api tcp 80
			deny  shop/web -> world tcp 80
		`)
	}
	// What no rule means is as if there were no policy: nothing is isolated.
	c.becomes(base + `cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {podSelector: {matchLabels: {app: api}}}}]}]}`)
	c.expect(`
		allow shop/api -> shop/web tcp 80
		allow shop/web -> shop/api tcp 80
		allow world -> shop/web tcp 80
	`)
	// A policy without rules for a direction says nothing there.
	c.becomes(base + `cnp a {tier: Admin, subject: {namespaces: {}}, ingress: []}`)
	c.expect(`allow shop/web -> db/pg tcp 80`)
}

// TestB3_RepliesAndErrors: replies, and ICMP errors about what is accepted, need no rule.
func TestB3_RepliesAndErrors(t *testing.T) {
	for _, tier := range []string{"Admin", "Baseline"} {
		t.Run(tier, func(t *testing.T) {
			c := cluster(t, base+`
				cnp a {tier: `+tier+`, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}, {action: Deny, from: [{namespaces: {}}]}]}
				cnp b {tier: `+tier+`, subject: {namespaces: {matchLabels: {team: data}}}, egress: [{action: Deny, to: [`+anywhere+`]}]}`)
			for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
				c.serve("db/pg", protocol, 5432)
				c.serve("ops/cron", protocol, 5432)
				c.talks(true, "shop/web", "db/pg", protocol, 5432)
				c.talks(false, "shop/api", "db/pg", protocol, 5432)
				c.talks(false, "db/pg", "ops/cron", protocol, 5432)
			}
			for _, family := range families {
				web, pg := c.flow("shop/web", netip.AddrPortFrom(c.ip("db/pg", family), 5432))
				c.arrive(append(c.reports(true, "db/pg", web, pg, "shop/web"), c.reports(true, "shop/web", pg, web, "db/pg")...)...)
			}
		})
	}
}

// TestB3_FromTheMiddle: what is from the middle of a connection that nobody knows passes a pod only in
// the direction for which a ClusterNetworkPolicy has rules for it. What is invalid does not pass it.
func TestB3_FromTheMiddle(t *testing.T) {
	c := revoking(t, lab.Routed, base+`
		cnp a {tier: Baseline, subject: {pods: {podSelector: {matchLabels: {app: web}}}}, egress: [{action: Accept, to: [`+anywhere+`]}, {action: Deny, to: [{namespaces: {}}]}]}
		cnp b {tier: Admin, subject: {pods: {podSelector: {matchLabels: {app: pg}}}}, egress: []}`)
	var cases []agreement.Case
	var want []bool
	add := func(from, to string, flags uint8, passes bool) {
		for _, family := range families {
			one := agreement.Case{From: c.host(from), To: c.host(to), Wire: lab.Wire{Flags: flags, SrcPort: uint16(4000 + len(cases))}}
			one.Packet = policy.Packet{Src: c.ip(from, family), Dst: c.ip(to, family), Protocol: policy.TCP, DstPort: 80, HopLimit: 64}
			cases, want = append(cases, one), append(want, passes)
		}
	}
	add("db/pg", "shop/web", lab.ACK, false)
	add("shop/web", "db/pg", lab.ACK, true)
	add("shop/api", "db/pg", lab.ACK, true)
	add("db/pg", "shop/web", lab.SYN|lab.FIN, false)
	add("shop/web", "db/pg", lab.SYN|lab.FIN, false)
	add("db/pg", "shop/api", lab.SYN|lab.FIN, true)
	report, err := c.Check(context.Background(), c.s, cases)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range report {
		if r.Judged != want[i] || !r.Agree() {
			t.Errorf("want %t: %s", want[i], r)
		}
	}
}

// TestB3_ChangesCutFlows: a change that no longer allows an open connection cuts it, and only that.
func TestB3_ChangesCutFlows(t *testing.T) {
	const accepts = `cnp a {tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: store}}}]}]}` + "\n"
	const closed = `policy db/p {podSelector: {}, ingress: []}` + "\n"
	before := base + accepts + closed
	c := revoking(t, lab.Routed, before)
	c.serve("db/pg", policy.TCP, 5432)
	c.serve("db/pg", policy.UDP, 5432)
	c.serve("ops/cron", policy.TCP, 5432)
	c.serve("ops/cron", policy.UDP, 5432)
	flows := c.converse("web to pg", "shop/web", 5432, c.host("db/pg").IPs...)
	others := c.converse("api to cron", "shop/api", 5432, c.host("ops/cron").IPs...)
	c.expectAll("before", true, slices.Concat(flows, others))
	for what, after := range map[string]string{
		"a policy less":                base + closed,
		"its tier":                     base + closed + replace(accepts, "Admin", "Baseline"),
		"its action":                   base + closed + replace(accepts, "Accept", "Pass"),
		"its subject":                  base + closed + replace(accepts, "subject: {namespaces: {}}", "subject: {namespaces: {matchLabels: {team: store}}}"),
		"a rule before it":             base + closed + replace(accepts, "ingress: [", "ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: web}}}}], protocols: [{tcp: {}}, {udp: {destinationPort: {number: 5432}}}]}, "),
		"a policy before it":           before + `cnp b {tier: Admin, priority: 4, subject: {namespaces: {matchLabels: {team: data}}}, ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]}`,
		"a policy of its priority":     before + `cnp Z {tier: Admin, priority: 5, subject: {namespaces: {matchLabels: {team: data}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"a policy at the other end":    before + `cnp b {tier: Admin, priority: 6, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {matchLabels: {team: data}}}]}]}`,
		"a label":                      replace(before, "team=store", "team=other"),
		"what cannot be read":          replace(before, "{namespaces: {matchLabels: {team: store}}}", "{}"),
		"what cannot be read, passing": base + `cnp a {tier: Admin, subject: {namespaces: {matchLabels: {team: data}}}, ingress: [{action: Pass, from: [{}]}]}`,
	} {
		c.becomes(after)
		if revoked, restored := c.judge(); revoked != len(flows) || restored != 0 {
			t.Errorf("%s: revoked %d, restored %d, want %d, 0", what, revoked, restored, len(flows))
		}
		c.expectAll(what, false, flows)
		c.expectAll(what, true, others)
		c.becomes(before)
		if _, restored := c.judge(); restored != len(flows) {
			t.Errorf("%s: restored %d, want %d", what, restored, len(flows))
		}
		c.expectAll("after "+what, true, flows)
	}
}

func TestB4_NetworkPoliciesAreFinalPerDirection(t *testing.T) {
	const baseline = `cnp b {tier: Baseline, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [` + anywhere + `]}]}` + "\n"
	c := cluster(t, base+baseline+`policy db/p {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}}]}]}
		policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80       # each is isolated for its direction, and allowed
		deny  shop/web -> ops/cron tcp 80    # that one is not isolated: Baseline
		deny  shop/web -> shop/api tcp 80    # isolated for the other direction only
		deny  db/pg -> shop/web tcp 80
		allow shop/web -> world tcp 80
		deny  ops/cron -> world tcp 80
		deny  world -> db/pg tcp 80          # what isolates is final, though Baseline has no such rule
	`)
	c.becomes(base + `
		cnp b {tier: Baseline, subject: {namespaces: {}}, egress: [{action: Accept, to: [` + anywhere + `]}]}
		policy shop/p {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}`)
	c.expect(`
		deny  shop/web -> world tcp 80
		allow shop/api -> world tcp 80
	`)
}

// TestB9_WhatIsExempt: as for NetworkPolicies, a pod reaches itself, and a node its pods; by way of a
// Service, or from a pod to its own node, policies count.
func TestB9_WhatIsExempt(t *testing.T) {
	const nothing = `cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{}]}], egress: [{action: Deny, to: [` + anywhere + `]}]}` + "\n"
	c := cluster(t, base+nothing)
	c.serve("shop/web", policy.TCP, 80)
	c.talks(true, "shop/web", "shop/web", policy.TCP, 80)
	c.talks(true, "node", "shop/web", policy.TCP, 80)
	c.expect(`
		allow node -> shop/web tcp 80
		allow node -> shop/web ping
		deny  shop/web -> shop/web tcp 80     # by way of a Service
		deny  shop/web -> node tcp 80
		deny  node-2 -> shop/web tcp 80
	`)
	for policies, word := range map[string]string{
		`cnp a {tier: Admin, subject: {namespaces: {}}, egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]}`:    "deny",
		`cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]}`: "deny",
		`cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: api}}}}]}]}`: "allow",
		`cnp a {tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]}
			policy shop/p {podSelector: {}, ingress: []}`: "allow",
	} {
		c.becomes(base + policies)
		c.expect(word + ` shop/web -> shop/web tcp 80`)
	}
	c = clusterWith(t, lab.Routed, ruleset.Options{AllowToNode: true}, base+nothing)
	c.expect(`
		allow shop/web -> node tcp 80
		deny  shop/web -> node-2 tcp 80
	`)
}
