package controllers_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var _ = Describe("The life of a pod", func() {
	// Every spec has web, which only app=client may reach, and an agent at work.
	shop := func() (*world, func(from string) []want, func(from string) []want) {
		GinkgoHelper()
		w := newWorld()
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		w.policy("shop", "web", onlyClients)
		w.watchCluster()
		reaches := func(from string) []want { return arrive(w.lab.Host(from), web, 80) }
		cut := func(from string) []want { return lost(w.lab.Host(from), web, 80) }
		return w, reaches, cut
	}

	It("counts from when it has an address until it is gone", func(ctx SpecContext) {
		w, reaches, cut := shop()
		w.policy("shop", "clients", "podSelector: {matchLabels: {app: client}}\npolicyTypes: [Ingress]\n")
		client, web := w.host("client"), w.lab.Host("shop/web")
		pod := w.cluster.pod("shop", "client", set{"app": "client"})
		// Without an address in the API, its packets are those of a stranger.
		w.eventually(ctx, cut("client"), arrive(web, client, 80))
		w.always(ctx, cut("client"))

		runsAt(pod, client.IPs...)
		w.eventually(ctx, reaches("client"), lost(web, client, 80))
		Expect(w.table()).To(chain("ingress", pod))

		remove(pod)
		w.eventually(ctx, cut("client"), arrive(web, client, 80))
		Expect(w.table()).NotTo(chain("ingress", pod))
	})

	It("counts at an address of the other family from when it has that", func(ctx SpecContext) {
		w, reaches, cut := shop()
		w.policy("shop", "clients", "podSelector: {matchLabels: {app: client}}\npolicyTypes: [Ingress]\n")
		client, web := w.host("client"), w.lab.Host("shop/web")
		v4, v6 := client.IPs[0], client.IPs[1]
		pod := w.cluster.pod("shop", "client", set{"app": "client"})
		runsAt(pod, v4)
		w.eventually(ctx, at(v4, reaches("client")), at(v6, cut("client")), at(v4, lost(web, client, 80)), at(v6, arrive(web, client, 80)))
		w.always(ctx, at(v6, cut("client")), at(v6, arrive(web, client, 80)))

		runsAt(pod, v4, v6)
		w.eventually(ctx, reaches("client"), lost(web, client, 80))
	})

	It("does not count on the host's network: its address is the node's", func(ctx SpecContext) {
		w, reaches, cut := shop()
		// The node that it runs on is another one, so that its packets are forwarded.
		node := w.host("node")
		onHost := w.cluster.pod("shop", "on-host", set{"app": "client"}, func(p *corev1.Pod) { p.Spec.HostNetwork = true })
		runsAt(onHost, node.IPs...)
		w.eventually(ctx, cut("node"))
		w.always(ctx, cut("node"))
		Expect(w.table()).NotTo(ContainSubstring(node.IPs[0].String()))

		// The same, but for that, counts.
		remove(onHost)
		runsAt(w.cluster.pod("shop", "in-pod", set{"app": "client"}), node.IPs...)
		w.eventually(ctx, reaches("node"))
	})

	It("ends when it has completed, and its addresses go to another", func(ctx SpecContext) {
		w, reaches, cut := shop()
		client, job := w.pod("shop", "client", set{"app": "client"})
		web := w.lab.Host("shop/web")
		w.eventually(ctx, reaches("shop/client"))

		patchStatus(job, func(s *corev1.PodStatus) { s.Phase = corev1.PodSucceeded })
		w.eventually(ctx, cut("shop/client"), arrive(web, client, 80))

		// Its successor at the addresses is another app's, and isolated.
		w.policy("shop", "db", "podSelector: {matchLabels: {app: db}}\npolicyTypes: [Ingress]\n")
		successor := w.cluster.pod("shop", "db", set{"app": "db"})
		runsAt(successor, client.IPs...)
		w.eventually(ctx, cut("shop/client"), lost(web, client, 80))
		Expect(w.table()).To(chain("ingress", successor))

		remove(job)
		w.always(ctx, cut("shop/client"), lost(web, client, 80))
	})

	It("leaves its addresses to the newer pod before the news of its end", func(ctx SpecContext) {
		w, reaches, cut := shop()
		w.policy("shop", "web", onlyClients+"  ports: [{port: 80}]\n")
		w.policy("shop", "admin", "podSelector: {matchLabels: {app: web}}\npolicyTypes: [Ingress]\n"+
			"ingress: [{from: [{podSelector: {matchLabels: {app: admin}}}], ports: [{port: 81}]}]\n")
		host := w.host("shop/old")
		old := w.cluster.pod("shop", "old", set{"app": "client"}, func(p *corev1.Pod) { p.Finalizers = []string{"podfence.example/held"} })
		DeferCleanup(func() { release(old) })
		runsAt(old, host.IPs...)
		web := w.lab.Host("shop/web")
		w.eventually(ctx, reaches("shop/old"), lost(host, web, 81))

		// While both seem to stay, nobody can tell which of them has the address: it has the
		// rights of neither.
		newer := w.cluster.pod("shop", "newer", set{"app": "admin"})
		runsAt(newer, host.IPs...)
		w.eventually(ctx, cut("shop/old"), lost(host, web, 81))
		Expect(admin.Delete(ctx, old, client.GracePeriodSeconds(0))).To(Succeed())
		w.eventually(ctx, cut("shop/old"), arrive(host, web, 81))

		// Whatever is heard of the old one: it is not its address any more.
		relabel(old, set{"app": "client", "some": "news"})
		w.always(ctx, cut("shop/old"), arrive(host, web, 81))
		release(old)
		w.always(ctx, cut("shop/old"), arrive(host, web, 81))
	})

	It("goes on while it is terminating", func(ctx SpecContext) {
		w, reaches, cut := shop()
		w.policy("shop", "clients", "podSelector: {matchLabels: {app: client}}\npolicyTypes: [Ingress]\n")
		host, pod := w.pod("shop", "client", set{"app": "client"})
		web := w.lab.Host("shop/web")
		w.eventually(ctx, reaches("shop/client"), lost(web, host, 80))

		// Nobody plays the kubelet that would remove it after the grace period.
		Expect(admin.Delete(ctx, pod, client.GracePeriodSeconds(600))).To(Succeed())
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.DeletionTimestamp).NotTo(BeNil())
		w.always(ctx, reaches("shop/client"), lost(web, host, 80))

		remove(pod)
		w.eventually(ctx, cut("shop/client"), arrive(web, host, 80))
	})

	It("goes on while a finalizer holds it", func(ctx SpecContext) {
		w, reaches, cut := shop()
		host := w.host("held")
		pod := w.cluster.pod("shop", "held", set{"app": "client"}, func(p *corev1.Pod) { p.Finalizers = []string{"podfence.example/held"} })
		DeferCleanup(func() { release(pod) })
		runsAt(pod, host.IPs...)
		w.eventually(ctx, reaches("held"))

		Expect(admin.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		w.always(ctx, reaches("held"))

		// Terminating, it yields its address to a pod that is not, however old.
		successor := w.cluster.pod("shop", "successor", nil)
		runsAt(successor, host.IPs...)
		w.eventually(ctx, cut("held"))
		remove(successor)
		w.eventually(ctx, reaches("held"))

		release(pod)
		w.eventually(ctx, cut("held"))
	})
})

// release takes a pod's finalizers away.
func release(pod *corev1.Pod) {
	GinkgoHelper()
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	Expect(client.IgnoreNotFound(admin.Patch(context.Background(), pod, patch))).To(Succeed())
}
