package semantics_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

func TestA25_HostNetworkPodsAreNodeTraffic(t *testing.T) {
	pods := base + `
		pod shop/agent app=web http:80 !hostNetwork
		pod ops/agent app=web http:80 !hostNetwork @node-2
	`
	// Not subjects: policies for them leave the node alone.
	c := cluster(t, pods+`
		policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress]}
		policy ops/p {podSelector: {}, policyTypes: [Ingress, Egress]}`)
	c.expect(`
		allow world -> node tcp 80
		allow node -> world tcp 80
		allow node-2 -> node tcp 80
		deny  world -> shop/web tcp 80
	`)
	// Not peers of selectors, but addresses in blocks.
	c.becomes(pods + `policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}],
		egress: [{to: [{namespaceSelector: {}}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80
		deny  node-2 -> db/pg tcp 80
		deny  db/pg -> node-2 tcp 80
		deny  db/pg -> node tcp 80
	`)
	c.becomes(pods + `policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 192.0.2.2/32}}]}], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}`)
	c.expect(`
		allow node-2 -> db/pg tcp 80 family 4
		allow db/pg -> node-2 tcp 80 family 4
		allow db/pg -> node tcp 80 family 4
		deny  db/pg -> node tcp 80 family 6
	`)
	// No named ports.
	c.becomes(pods + `policy db/p {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}`)
	c.expect(`
		allow db/pg -> shop/web tcp 80
		deny  db/pg -> node tcp 80
		deny  db/pg -> node-2 tcp 80
	`)
}

func TestA26_FinishedAndTerminating(t *testing.T) {
	policies := `
		policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}]}]}
		policy shop/p {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}`
	pods := func(web string) string {
		return `
			ns shop team=store
			pod shop/web app=web ` + web + `
			pod db/pg
			pod ops/cron` + policies
	}
	c := cluster(t, pods(``))
	live := `
		allow shop/web -> db/pg tcp 80
		allow ops/cron -> shop/web tcp 80
		deny  ops/cron -> shop/web tcp 81
	`
	c.expect(live)
	// Terminating: its containers may still be talking.
	c.becomes(pods(`!terminating`))
	c.expect(live)
	for _, phase := range []string{`!phase=Succeeded`, `!phase=Failed`, `!terminating !phase=Succeeded`} {
		c.becomes(pods(phase))
		c.expect(`
			deny shop/web -> db/pg tcp 80
			deny ops/cron -> shop/web tcp 80     # nobody's address now
		`)
	}
	// On another node, whose addresses are not this node's to close, a finished
	// pod is no peer either.
	far := func(odd string) string {
		return `
			ns shop team=store
			pod shop/far @node-2 ` + odd + `
			pod db/pg` + policies
	}
	c.becomes(far(``))
	c.expect(`allow shop/far -> db/pg tcp 80`)
	c.becomes(far(`!terminating`))
	c.expect(`allow shop/far -> db/pg tcp 80`)
	c.becomes(far(`!phase=Failed`))
	c.expect(`deny shop/far -> db/pg tcp 80`)
}

func TestA27_ReusedAddresses(t *testing.T) {
	policies := `
		policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]}
		policy ops/p {podSelector: {matchLabels: {app: job}}, ingress: []}`
	pods := func(lines string) string {
		return "pod ops/job app=job\n" + lines + "\npod db/pg\npod ops/cron" + policies
	}
	c := cluster(t, pods(``))
	c.expect(`
		deny ops/job -> db/pg tcp 80
		deny ops/cron -> ops/job tcp 80
	`)
	isWeb := `
		allow ops/job -> db/pg tcp 80        # the host is the old pod's, the address the new one's
		allow ops/cron -> ops/job tcp 80
	`
	both := func(job string) string {
		return "pod ops/job app=job " + job + "\npod shop/new app=web !at=ops/job !started=9\npod db/pg\npod ops/cron" + policies
	}
	// The job finishes, its address is another pod's; then late news of the job.
	c.becomes(both(`!phase=Succeeded`))
	c.expect(isWeb)
	c.becomes(both(`!phase=Succeeded !terminating`))
	c.expect(isWeb)
	c.becomes(both(`!terminating`)) // as if it still ran: the one that stays has it
	c.expect(isWeb)
	// As if it ran, and stayed: nobody can tell which of the two has the address. The
	// policies of both must let a packet pass, and it is the peer of those that mean both.
	c.becomes(both(``))
	c.expect(`
		deny ops/job -> db/pg tcp 80
		deny ops/cron -> ops/job tcp 80
	`)
	c.becomes(both(``) + `
		policy ops/q {podSelector: {}, ingress: [{ports: [{port: 80}]}]}
		policy shop/r {podSelector: {}, ingress: [{ports: [{port: 80}, {port: 81}]}]}
		policy db/s {podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}]}]}`)
	c.expect(`
		allow ops/cron -> ops/job tcp 80     # both let it pass
		deny  ops/cron -> ops/job tcp 81     # one does
		allow ops/job -> db/pg tcp 80        # both are meant
	`)
	last := "pod shop/new app=web !at=ops/job !started=9\npod db/pg\npod ops/cron" + policies
	c.set(snapshot(t, last)) // the job's deletion takes nothing from the new pod
	c.expect(`
		allow shop/new -> db/pg tcp 80
		allow ops/cron -> shop/new tcp 80
	`)
}

// TestA27_AddressesOfNodes: what the API shows of a pod and a Node alike is the pod's, unless it
// is this node's own address and the pod another node's: no Node takes a pod its policies, and
// no other node's pod is taken for this node.
func TestA27_AddressesOfNodes(t *testing.T) {
	text := base + `
		pod ops/here app=web @node-3 !of=node-1
		pod ops/there app=web @node-3 !of=node-2
		policy shop/p {podSelector: {matchLabels: {app: web}}, ingress: []}
		policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}],
			egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]}`
	s := snapshot(t, text)
	s.Node = random.Node
	web := s.Pods[slices.IndexFunc(s.Pods, func(p *corev1.Pod) bool { return p.Name == "web" })]
	for _, ip := range web.Status.PodIPs {
		s.Nodes[1].Status.Addresses = append(s.Nodes[1].Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.IP})
	}
	c := cluster(t, text)
	c.set(s)
	c.expect(`
		deny  db/pg -> node tcp 80     # ops/here is another node's pod
		allow db/pg -> node-2 tcp 80   # as ops/there
		allow node-2 -> db/pg tcp 80
		deny  ops/cron -> shop/web tcp 80
		allow shop/web -> db/pg tcp 80
	`)
}

func TestA28_AllAddresses(t *testing.T) {
	c := cluster(t, base+`
		policy db/p {podSelector: {}, policyTypes: [Ingress, Egress],
			ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}]}], egress: [{to: [{namespaceSelector: {matchLabels: {team: store}}}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 80 family 4
		allow shop/web -> db/pg tcp 80 family 6
		deny  ops/cron -> db/pg tcp 80 family 4
		deny  ops/cron -> db/pg tcp 80 family 6
		deny  db/pg -> ops/cron tcp 80 family 4
		deny  db/pg -> ops/cron tcp 80 family 6
	`)
	// The second address comes later.
	one := `
		ns shop team=store
		pod shop/single %
		pod db/pg
		policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}]}]}`
	c.becomes(replace(one, `%`, ``))
	c.becomes(replace(one, `%`, `!v4only`))
	c.expect(`allow shop/single -> db/pg tcp 80 family 4`)
	c.becomes(replace(one, `%`, ``))
	c.expect(`allow shop/single -> db/pg tcp 80`)
}

func TestA29_ClosedUntilKnown(t *testing.T) {
	c := cluster(t, base+`pod shop/new app=web`) // the lab makes its host
	policies := `policy shop/p {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}], egress: [{ports: [{port: 80}]}]}`
	closed := `
		deny shop/new -> db/pg tcp 80
		deny shop/new -> world tcp 80
		deny shop/new -> node tcp 80
		deny shop/new -> 224.0.0.1 udp 5353 at input
		deny db/pg -> shop/new tcp 80
		deny world -> shop/new tcp 80
		deny shop/new -> db/pg ping
	`
	c.becomes(base + policies) // the API has never heard of it
	c.expect(closed)
	c.becomes(base + "pod shop/new app=web !noip\n" + policies) // or not of its address
	c.expect(closed)
	// What it may be told without an address is no peer of anybody.
	c.becomes(base + "pod shop/new app=web\n" + policies)
	c.expect(`
		allow shop/new -> db/pg tcp 80
		deny  shop/new -> db/pg tcp 81     # isolated with the first packet that may pass
		allow db/pg -> shop/new tcp 80
		deny  db/pg -> shop/new tcp 81
	`)
	// The order of what the kernel is told does not matter: it is one
	// transaction. In the plan, too, isolation comes before the address.
	c.becomes(base + policies)
	plan := c.set(snapshot(t, base+"pod shop/new app=web\n"+policies))
	rules, entries := -1, -1
	for i, op := range plan.Ops {
		switch op.(type) {
		case nft.SetRules:
			rules = i
		case nft.AddVerdicts:
			if entries < 0 {
				entries = i
			}
		}
	}
	if rules < 0 || entries < rules {
		t.Errorf("the plan lets the address in before its rules:\n%s", plan.Text())
	}
	// A Node that loses its ranges, or that is deleted, had them.
	lost := snapshot(t, base+policies)
	lost.Node, lost.LastPodCIDRs = lost.Nodes[0].Name, policy.NodeOf(lost.Nodes[0]).PodCIDRs
	lost.Nodes[0].Spec.PodCIDR, lost.Nodes[0].Spec.PodCIDRs = "", nil
	c.set(lost)
	c.expect(`
		deny shop/new -> db/pg tcp 80
		deny db/pg -> shop/new tcp 80
	`)
	deleted := lost
	deleted.Nodes = lost.Nodes[1:]
	c.set(deleted)
	c.expect(`
		deny shop/new -> db/pg tcp 80
		deny db/pg -> shop/new tcp 80
	`)
	// One whose ranges have never been known closes nothing.
	never := lost
	never.LastPodCIDRs = nil
	c.s = never
	if err := c.Replace(never, ruleset.Options{}); err != nil {
		t.Fatal(err)
	}
	c.expect(`allow shop/new -> db/pg tcp 80`)
	if in, _ := policy.Compile(never, never.Node); len(in.PodCIDRs) > 0 {
		t.Errorf("ranges %v", in.PodCIDRs)
	}
}
