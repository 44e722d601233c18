package controllers_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// brokenExcept would open 10.0.0.0/8 whole if what can't be read were skipped;
// brokenPeer has a second rule that is sound, for port 80.
const (
	brokenExcept = `
podSelector: {matchLabels: {app: web}}
policyTypes: [Ingress]
ingress:
- from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.0.0/99]}}, {ipBlock: {cidr: "::/0", except: [everyone]}}]
`
	brokenPeer = `
podSelector: {matchLabels: {app: web}}
policyTypes: [Ingress]
ingress:
- from: [{podSelector: {matchExpressions: [{key: app, operator: Roughly, values: [client]}]}}]
- from: [{podSelector: {matchLabels: {app: client}}}]
  ports: [{protocol: TCP, port: 80}]
`
)

var _ = Describe("A policy that can't be compiled", func() {
	It("denies, is reported once for the whole cluster, and leaves the others alone", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		w.namespace("other", set{"friend": "yes"})
		web, webPod := w.pod("shop", "web", set{"app": "web"})
		client, _ := w.pod("shop", "client", set{"app": "client"})
		second, _ := w.pod("other", "web", set{"app": "web"})
		started := w.watchCluster()
		elsewhere := run(&recorder.Kernel{}, agent.Options{Node: w.node + "-b", API: agentUser})
		elsewhere.awaitReady()
		w.eventually(ctx, arrive(client, web, 80))

		w.store("shop", "broken", brokenExcept)
		w.eventually(ctx, lost(client, web, 80), lost(second, web, 80), arrive(web, client, 80))
		Expect(w.table()).To(chain("ingress", webPod))
		for _, a := range []*running{started, elsewhere} {
			Eventually(a.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(2))
			Eventually(a.log.With, soon, often).WithArguments("cannot be enforced as written").Should(HaveLen(1))
			Expect(a.readyz()).To(Equal(http.StatusOK), "one policy is no reason to be down")
		}
		Eventually(w.events, soon, often).WithArguments(ctx, "shop").Should(HaveLen(1))
		Consistently(w.events, while, often).WithArguments(ctx, "shop").Should(HaveLen(1))
		event := w.events(ctx, "shop")[0]
		Expect(event.Type).To(Equal(corev1.EventTypeWarning))
		Expect(event.Reason).To(Equal(report.ReasonNotEnforceable))
		Expect(event.InvolvedObject.Kind).To(Equal("NetworkPolicy"))
		Expect(event.InvolvedObject.Name).To(Equal("broken"))
		Expect(event.Message).To(And(ContainSubstring("spec.ingress[0].from[0].ipBlock"), ContainSubstring("10.244.0.0/99"), ContainSubstring("everyone")))

		// All other policies go on, new ones too.
		w.policy("other", "web", onlyFriends)
		w.eventually(ctx, lost(client, second, 80), lost(client, web, 80), arrive(second, client, 80))

		// Broken otherwise is another problem, with another Event; what is
		// sound of it holds.
		w.store("shop", "broken", brokenPeer)
		w.eventually(ctx, arrive(client, web, 80), lost(client, web, 81), lost(second, web, 80))
		Eventually(w.events, soon, often).WithArguments(ctx, "shop").Should(HaveLen(2))
		for _, a := range []*running{started, elsewhere} {
			Eventually(a.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(1))
		}

		// Put right, through the API as usual.
		fixed := w.policy("shop", "broken", onlyClients)
		w.eventually(ctx, arrive(client, web, 81), lost(second, web, 80))
		for _, a := range []*running{started, elsewhere} {
			Eventually(a.metricOf("podfence_policy_problems"), soon, often).Should(BeZero())
		}
		Expect(w.events(ctx, "shop")).To(HaveLen(2))

		// One that goes away broken is no problem any more either.
		w.store("shop", "broken", brokenExcept)
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(2))
		remove(fixed)
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeZero())
		w.eventually(ctx, arrive(client, web, 80), arrive(second, web, 80))
	})

	It("denies from the first commit on, and is reported by an agent that finds it", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		client, _ := w.pod("shop", "client", set{"app": "client"})
		w.store("shop", "broken", brokenExcept)
		started := w.watchCluster()
		Expect(w.otherwise(ctx, lost(client, web, 80), arrive(web, client, 80))()).To(BeEmpty())
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(2))
		Eventually(w.events, soon, often).WithArguments(ctx, "shop").Should(HaveLen(1))

		// A restart finds the Event there, and repeats the rest.
		started.stop()
		again := w.watchCluster()
		Eventually(again.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(2))
		Eventually(again.log.With, soon, often).WithArguments("cannot be enforced as written").Should(HaveLen(1))
		Consistently(w.events, while, often).WithArguments(ctx, "shop").Should(HaveLen(1))
		Expect(again.log.With("Reconciler error")).To(BeEmpty())
	})
})

// events are the Events of a namespace that say what cannot be enforced.
func (c *cluster) events(ctx context.Context, namespace string) (found []corev1.Event) {
	GinkgoHelper()
	var all corev1.EventList
	Expect(admin.List(ctx, &all, client.InNamespace(c.name(namespace)))).To(Succeed())
	for _, event := range all.Items {
		if event.Reason == report.ReasonNotEnforceable {
			found = append(found, event)
		}
	}
	return found
}

// store writes a policy where the API server keeps it: that refuses what is not
// valid, but serves what older versions of it, which checked less, have stored.
func (c *cluster) store(namespace, name, spec string) {
	GinkgoHelper()
	ctx := context.Background()
	np := &networkingv1.NetworkPolicy{}
	key := types.NamespacedName{Namespace: c.name(namespace), Name: name}
	switch err := admin.Get(ctx, key, np); {
	case apierrors.IsNotFound(err):
		np.UID, np.CreationTimestamp = uuid.NewUUID(), metav1.NewTime(time.Now())
		np.Namespace, np.Name = key.Namespace, key.Name
		DeferCleanup(func() {
			remove(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})
		})
	default:
		Expect(err).NotTo(HaveOccurred())
	}
	np.TypeMeta = metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}
	np.ResourceVersion = "" // etcd's to give
	np.Generation++
	np.Spec = networkingv1.NetworkPolicySpec{}
	Expect(yaml.UnmarshalStrict([]byte(spec), &np.Spec)).To(Succeed())
	object, err := json.Marshal(np)
	Expect(err).NotTo(HaveOccurred())

	put, err := json.Marshal(map[string]string{
		"key":   base64.StdEncoding.EncodeToString([]byte("/registry/networkpolicies/" + key.String())),
		"value": base64.StdEncoding.EncodeToString(object),
	})
	Expect(err).NotTo(HaveOccurred())
	response, err := http.Post(environment.ControlPlane.Etcd.URL.String()+"/v3/kv/put", "application/json", bytes.NewReader(put))
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	Expect(response.StatusCode).To(Equal(http.StatusOK))
	Eventually(func() (int64, error) {
		err := admin.Get(ctx, key, np)
		return np.Generation, err
	}, soon, often).Should(BeNumerically(">", 0), "the API server must serve what is stored")
}
