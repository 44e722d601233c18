package controllers_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// annotate gives an object the annotation that stages it, or takes that away.
func annotate(ctx context.Context, object client.Object, staged bool) {
	GinkgoHelper()
	value := "null"
	if staged {
		value = `"` + policy.Staged + `"`
	}
	patch := `{"metadata": {"annotations": {"` + policy.EnforcementAnnotation + `": ` + value + `}}}`
	Expect(admin.Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(patch)))).To(Succeed())
}

// watchRehearsing starts an agent that works out what staged policies would do, and tells of it at an address.
func (w *world) watchRehearsing(query string) *running {
	GinkgoHelper()
	const group = 28774
	conn, err := kernel.Open(kernel.Options{NetNS: w.where.NetNS(), Table: nft.StagedTableName})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(conn.Close)
	started := run(w.kernel, agent.Options{
		Node: w.node, API: agentUser, Watch: w.watch, QueryAddress: query, Ruleset: ruleset.Options{LogGroup: group},
		Staged:  &enforcer.Staged{Kernel: conn, Uninstall: conn.Uninstall},
		Denials: func() (observer.Log, error) { return kernel.OpenLog(kernel.Options{NetNS: w.where.NetNS()}, group) },
	})
	started.awaitReady()
	return started
}

// told are the flows of a verdict that an agent has told of, by their policies and the pods that they are about.
func told(query string, verdict flows.Verdict) func() ([]string, error) {
	return func() (all []string, err error) {
		response, err := http.Get("http://" + query + flows.Path + "?verdict=" + string(verdict))
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		for lines := json.NewDecoder(response.Body); lines.More(); {
			var f flows.Flow
			if err := lines.Decode(&f); err != nil {
				return nil, err
			}
			for _, p := range f.Policies {
				text := string(f.Direction) + " of " + f.Destination.Pod + " by " + p.Name
				if p.Staged {
					text += " (staged)"
				}
				all = append(all, text)
			}
		}
		return all, nil
	}
}

// stagedEvents are the Events of a namespace that say that something is staged.
func stagedEvents(ctx context.Context, namespace string, about client.Object) func() ([]corev1.Event, error) {
	return func() (found []corev1.Event, err error) {
		var all corev1.EventList
		err = admin.List(ctx, &all, client.InNamespace(namespace))
		for _, event := range all.Items {
			if event.Reason == report.ReasonStaged && event.InvolvedObject.UID == about.GetUID() {
				found = append(found, event)
			}
		}
		return found, err
	}
}

var _ = Describe("A staged policy", func() {
	It("changes no verdict and is told of, and comes into force in one transaction", func(ctx SpecContext) {
		query := freeAddress()
		w := newWorld()
		w.namespace("shop", nil)
		web, webPod := w.pod("shop", "web", set{"app": "web"})
		friend, _ := w.pod("shop", "client", set{"app": "client"})
		stranger, _ := w.pod("shop", "stranger", set{"app": "stranger"})
		np := w.policy("shop", "web", onlyClients)
		annotate(ctx, np, true)
		started := w.watchRehearsing(query)

		Eventually(started.metricOf("podfence_staged_policies"), soon, often).Should(BeEquivalentTo(1))
		Eventually(started.metricOf("podfence_staged_pods"), soon, often).Should(BeEquivalentTo(1))
		Expect(w.table()).NotTo(chain("ingress", webPod))
		w.eventually(ctx, arrive(friend, web, 80), arrive(stranger, web, 80))
		Eventually(told(query, flows.WouldDeny), soon, often).Should(ContainElement("ingress of web by web (staged)"))
		Expect(told(query, flows.Denied)()).To(BeEmpty())
		Eventually(stagedEvents(ctx, np.Namespace, np), soon, often).Should(HaveLen(1))

		before := len(w.kernel.Plans())
		annotate(ctx, np, false)
		w.eventually(ctx, arrive(friend, web, 80), lost(stranger, web, 80))
		Expect(w.table()).To(chain("ingress", webPod))
		Expect(w.kernel.Plans()).To(HaveLen(before+1), "not in one transaction")
		Eventually(started.metricOf("podfence_staged_policies"), soon, often).Should(BeZero())
		Eventually(told(query, flows.Denied), soon, often).Should(ContainElement("ingress of web by web"))

		// Staged by its Namespace, it is out of force again.
		ns := &corev1.Namespace{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: np.Namespace}, ns)).To(Succeed())
		annotate(ctx, ns, true)
		w.eventually(ctx, arrive(stranger, web, 80))
		Eventually(stagedEvents(ctx, corev1.NamespaceDefault, ns), soon, often).Should(HaveLen(1))

		// What staged policies would allow on top of others is told as well.
		closing := w.policy("shop", "closed", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}`)
		annotate(ctx, np, true)
		annotate(ctx, ns, false)
		w.eventually(ctx, lost(friend, web, 80), lost(stranger, web, 80))
		Eventually(func() ([]string, error) {
			if _, err := w.otherwise(ctx, lost(friend, web, 81))(); err != nil {
				return nil, err
			}
			return told(query, flows.WouldAllow)()
		}, soon, often).Should(ContainElement(HavePrefix("ingress of web by web")))
		remove(closing)
	})

	It("is in force if the annotation says anything else, and that is a problem", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		stranger, _ := w.pod("shop", "stranger", set{"app": "stranger"})
		np := w.policy("shop", "web", onlyClients)
		Expect(admin.Patch(ctx, np, client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"annotations": {"`+policy.EnforcementAnnotation+`": "`+strings.Repeat("Staged", 100)+`"}}}`)))).To(Succeed())
		w.watchCluster()
		w.eventually(ctx, lost(stranger, web, 80))
		Eventually(w.events, soon, often).WithArguments(ctx, "shop").Should(HaveLen(1))
		Expect(w.events(ctx, "shop")[0].Message).To(ContainSubstring(policy.EnforcementAnnotation))
	})
})
