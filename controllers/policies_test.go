package controllers_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

const (
	// onlyClients lets pods with app=client, of the same namespace, reach web.
	onlyClients = `
podSelector: {matchLabels: {app: web}}
policyTypes: [Ingress]
ingress:
- from: [{podSelector: {matchLabels: {app: client}}}]
`
	// onlyFriends lets the pods of friendly namespaces reach web.
	onlyFriends = `
podSelector: {matchLabels: {app: web}}
policyTypes: [Ingress]
ingress:
- from: [{namespaceSelector: {matchLabels: {friend: "yes"}}}]
`
	// nothing isolates every pod of the namespace, in both directions.
	nothing = `
podSelector: {}
policyTypes: [Ingress, Egress]
`
)

type set = map[string]string

var _ = Describe("Policies and labels", func() {
	It("enforces a policy when it is made, changed and deleted", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		web, webPod := w.pod("shop", "web", set{"app": "web"})
		client, _ := w.pod("shop", "client", set{"app": "client"})
		other, _ := w.pod("shop", "other", nil)
		w.watchCluster()
		w.eventually(ctx, arrive(client, web, 80), arrive(other, web, 80))
		Expect(w.table()).NotTo(chain("ingress", webPod))

		np := w.policy("shop", "web", onlyClients)
		w.eventually(ctx, arrive(client, web, 80), lost(other, web, 80), arrive(web, other, 80))
		Expect(w.table()).To(And(chain("ingress", webPod), chain("policy-ingress", np), Not(chain("egress", webPod))))

		w.policy("shop", "web", onlyClients+"  ports: [{port: 80}, {port: 8000, endPort: 8010}]\n")
		w.eventually(ctx, arrive(client, web, 80), arrive(client, web, 8005), lost(client, web, 81), lost(other, web, 80))
		Expect(w.table()).To(ContainSubstring("8000-8010"))

		w.policy("shop", "web", onlyClients+"  ports: [{port: http}]\n")
		w.eventually(ctx, arrive(client, web, 80), lost(client, web, 8005), lost(other, web, 80))

		// The other direction, of another policy, comes on top.
		deny := w.policy("shop", "deny", nothing)
		w.eventually(ctx, lost(client, web, 80), lost(web, other, 80), lost(other, client, 80), arrive(client, client, 80))
		remove(deny)
		w.eventually(ctx, arrive(client, web, 80), lost(other, web, 80), arrive(web, other, 80))

		remove(np)
		w.eventually(ctx, arrive(client, web, 81), arrive(other, web, 80))
		Expect(w.table()).NotTo(Or(chain("ingress", webPod), chain("policy-ingress", np)))
	})

	It("follows the labels of pods", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		web, webPod := w.pod("shop", "web", set{"app": "web"})
		client, clientPod := w.pod("shop", "client", set{"app": "client"})
		other, otherPod := w.pod("shop", "other", nil)
		w.policy("shop", "web", onlyClients)
		w.watchCluster()
		w.eventually(ctx, arrive(client, web, 80), lost(other, web, 80), arrive(client, other, 80))

		// As a peer: one pod loses its access, another gets it.
		relabel(clientPod, set{"app": "retired"})
		relabel(otherPod, set{"app": "client"})
		w.eventually(ctx, lost(client, web, 80), arrive(other, web, 80))
		Expect(w.table()).NotTo(ContainSubstring("elements = { " + client.IPs[0].String() + " }"))
		Expect(w.table()).To(ContainSubstring("elements = { " + other.IPs[0].String() + " }"))

		// As a subject: one pod is isolated no more, another is from now on.
		relabel(webPod, set{"app": "retired"})
		relabel(clientPod, set{"app": "web"})
		w.eventually(ctx, arrive(client, web, 80), arrive(other, client, 80), lost(web, client, 80))
		Expect(w.table()).To(And(chain("ingress", clientPod), Not(chain("ingress", webPod))))
	})

	It("follows the labels of namespaces, and their deletion", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		guests := w.namespace("guests", set{"friend": "no"})
		web, _ := w.pod("shop", "web", set{"app": "web"})
		guest, guestPod := w.pod("guests", "guest", nil)
		w.policy("shop", "web", onlyFriends)
		w.watchCluster()
		w.eventually(ctx, lost(guest, web, 80), arrive(web, guest, 80))

		relabel(guests, set{"friend": "yes"})
		w.eventually(ctx, arrive(guest, web, 80))
		relabel(guests, set{"friend": "yes", "other": "label"})
		w.always(ctx, arrive(guest, web, 80))
		relabel(guests, nil)
		w.eventually(ctx, lost(guest, web, 80), arrive(web, guest, 80))
		relabel(guests, set{"friend": "yes"})
		w.eventually(ctx, arrive(guest, web, 80))

		// Gone, the namespace means nothing; its pod is still there, and still
		// known to be this node's.
		remove(guests)
		w.eventually(ctx, lost(guest, web, 80), arrive(web, guest, 80))
		Expect(w.table()).To(ContainSubstring(guest.IPs[0].String() + " : accept"))

		// Another of the same name is another.
		remove(guestPod)
		w.namespace("guests", set{"friend": "yes"})
		again := w.cluster.pod("guests", "guest", nil)
		runsAt(again, guest.IPs...)
		w.eventually(ctx, arrive(guest, web, 80))
	})

	It("closes the node's pod range, once it is known, but for known pods", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", nil)
		stranger := w.host("stranger")
		w.watchCluster()
		w.eventually(ctx, arrive(stranger, web, 80), arrive(web, stranger, 80))

		node := w.nodeObject()
		w.always(ctx, arrive(stranger, web, 80), arrive(web, stranger, 80))
		w.giveRange(node)
		w.eventually(ctx, lost(stranger, web, 80), lost(web, stranger, 80), arrive(web, web, 80))
		for _, cidr := range w.podCIDRs() {
			Expect(w.table()).To(ContainSubstring(cidr))
		}

		pod := w.cluster.pod("shop", "stranger", nil)
		runsAt(pod, stranger.IPs...)
		w.eventually(ctx, arrive(stranger, web, 80), arrive(web, stranger, 80))
		remove(pod)
		w.eventually(ctx, lost(stranger, web, 80), lost(web, stranger, 80))

		// A Node that is deleted had its ranges, and its containers still have addresses in them.
		remove(node)
		w.always(ctx, lost(stranger, web, 80), lost(web, stranger, 80), arrive(web, web, 80))
	})
})
