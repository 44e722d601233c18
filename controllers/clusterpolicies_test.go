package controllers_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/test/apiserver"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
)

const (
	clusterPolicies = "clusternetworkpolicies"
	clusterGroup    = "policy.networking.k8s.io"

	// denyToAll is a ClusterNetworkPolicy of all pods.
	denyToAll = `{tier: Admin, priority: 10, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`
	// fromClients lets clients in at web servers, and no other pod.
	fromClients = `
tier: Admin
priority: 10
subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
ingress:
- {action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}]}
- {action: Deny, from: [{namespaces: {}}]}
`
	// notToNames has a peer that only the experimental channel knows, and that cannot be enforced in a rule that denies.
	notToNames = `{tier: Admin, priority: 10, subject: {namespaces: {}}, egress: [{action: Deny, to: [{domainNames: [example.com]}]}]}`
	// toNodes has a peer that only the experimental channel knows. Without it, it cannot be enforced.
	toNodes = `{tier: Admin, priority: 10, subject: {namespaces: {}}, egress: [{action: Accept, to: [{nodes: {}}]}]}`
)

var _ = Describe("ClusterNetworkPolicies", func() {
	It("are of a kind that may be missing, come, change and go while an agent runs", func(ctx SpecContext) {
		c := newCluster()
		c.namespace("shop", nil)
		np := c.policy("shop", "deny", "podSelector: {}\n")
		pod := c.pod("shop", "web", nil)
		runsAt(pod, c.ips(2)...)
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: c.node, API: agentUser})
		started.awaitReady()
		Expect(kernel.Plans()[0].Text()).To(ContainSubstring(np.Namespace+"/deny"), "NetworkPolicies are enforced all the same")
		Expect(started.log.With("does not have ClusterNetworkPolicies")).To(HaveLen(1))
		before := started.policies()

		definition := define("standard")
		Eventually(started.log.With, soon, often).WithArguments("Watching ClusterNetworkPolicies").Should(ConsistOf(ContainSubstring(`"version"="v1beta1"`)))
		first, second := clusterPolicy("v1beta1", "first", denyToAll), clusterPolicy("v1beta1", "second", denyToAll)
		Eventually(started.policies, soon, often).Should(Equal(before + 2))
		remove(first)
		Eventually(started.policies, soon, often).Should(Equal(before + 1))

		undefine(definition) // and with it what there is of the kind
		Eventually(started.policies, soon, often).Should(Equal(before))
		Eventually(started.log.With, soon, often).WithArguments("does not have ClusterNetworkPolicies").Should(HaveLen(2))
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(second), second)).To(MatchError(apierrors.IsNotFound, "not found"))

		define("experimental")
		clusterPolicy("v1beta1", "third", denyToAll)
		Eventually(started.policies, soon, often).Should(Equal(before + 1))
		Expect(started.log.With("Watching ClusterNetworkPolicies")).To(HaveLen(2))
		Expect(started.log.With("Cannot read")).To(BeEmpty())
		Expect(started.readyz()).To(Equal(http.StatusOK))
	})

	It("are read of the version that is served, without a gap when that changes", func() {
		definition := define("standard", serves("v1alpha2"))
		clusterPolicy("v1alpha2", "first", denyToAll)
		clusterPolicy("v1alpha2", "second", denyToAll)
		started := run(&recorder.Kernel{}, agent.Options{Node: newCluster().node, API: agentUser})
		started.awaitReady()
		has := started.policies()
		Expect(has).To(BeNumerically(">=", 2), "the first load has them")
		Expect(started.log.With("Watching ClusterNetworkPolicies")).To(ConsistOf(ContainSubstring(`"version"="v1alpha2"`)))
		least := started.fewest(has)

		redefine(definition, serves("v1alpha2", "v1beta1"))
		Eventually(started.log.With, 2*soon, often).WithArguments(`"version"="v1beta1"`).Should(HaveLen(1))
		third := clusterPolicy("v1beta1", "third", denyToAll)
		Eventually(started.policies, soon, often).Should(Equal(has + 1))

		redefine(definition, serves("v1alpha2"))
		Eventually(started.log.With, 2*soon, often).WithArguments(`"version"="v1alpha2"`).Should(HaveLen(2))
		Expect(least()).To(Equal(has), "some were not enforced for a while")
		third.SetAPIVersion(clusterGroup + "/v1alpha2")
		remove(third)
		Eventually(started.policies, soon, often).Should(Equal(has))
		Expect(least()).To(Equal(has))
	})

	It("are read as they are by their new definition, also those that were written while the API server took that up", func() {
		definition := define("standard")
		clusterPolicy("v1beta1", "first", denyToAll) // which takes two seconds, as the definition is new
		started := run(&recorder.Kernel{}, agent.Options{Node: newCluster().node, API: agentUser})
		started.awaitReady()
		has := started.policies()
		least := started.fewest(has)

		created := make(chan int)
		go func() {
			defer GinkgoRecover()
			n := 0
			defer func() { created <- n }()
			for began, i := time.Now(), 0; time.Since(began) < 5*time.Second; i++ {
				// The API server refuses it as long as it goes by the old definition, which makes a peer of it
				// that has no field.
				if tryClusterPolicy("v1beta1", fmt.Sprint("nodes-", i), toNodes) == nil {
					n++
				}
				time.Sleep(often)
			}
		}()
		redefine(definition, ofChannel("experimental"))
		n := <-created
		Expect(n).To(BeNumerically(">", 10))
		Eventually(started.policies, soon, often).Should(Equal(has + n))
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeZero())
		Consistently(started.metricOf("podfence_policy_problems"), while, often).Should(BeZero())

		// Nobody writes them from now on, and what the API server says of them changes.
		redefine(definition, ofChannel("standard"))
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(n))
		redefine(definition, ofChannel("experimental"))
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeZero())
		Expect(least()).To(Equal(has))
		Expect(started.log.With("Watching ClusterNetworkPolicies")).To(HaveLen(1))
		Expect(started.log.With("Cannot read")).To(BeEmpty())
	})

	It("deny packets while the agent starts again, while their version changes, and until they are gone", func(ctx SpecContext) {
		definition := define("standard")
		w := newWorld()
		w.giveRange(w.nodeObject())
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		allowed, _ := w.pod("shop", "client", set{"app": "client"})
		denied, _ := w.pod("shop", "other", nil)
		clusterPolicy("v1beta1", "web", fromClients)
		first := w.watchCluster()
		Expect(w.otherwise(ctx, arrive(allowed, web, 80), lost(denied, web, 80))()).To(BeEmpty(), "the first commit has it")
		streams := newStreams(web, allowed, denied)
		streams.advance()
		first.stop()
		streams.advance()
		second := w.watchCluster()
		streams.advance()
		redefine(definition, serves("v1alpha2"))
		Eventually(second.log.With, soon, often).WithArguments(`"version"="v1alpha2"`).Should(HaveLen(1))
		streams.advance()
		streams.expectNoGap()
		undefine(definition)
		w.eventually(ctx, arrive(allowed, web, 80), arrive(denied, web, 80))
	})

	It("are taken back if nobody has said that they are gone, but their kind is", func() {
		definition := define("standard")
		clusterPolicy("v1beta1", "first", denyToAll)
		clusterPolicy("v1beta1", "second", denyToAll)
		requests := &answers{resource: clusterPolicies}
		started := run(&recorder.Kernel{}, agent.Options{Node: newCluster().node, API: requests.guard(agentUser)})
		started.awaitReady()
		has := started.policies()
		least := started.fewest(has)

		// No other answer takes them back, and neither does a server that is away.
		requests.answer(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF })
		requests.awaitAsked(1)
		requests.answer(status(http.StatusServiceUnavailable, "ServiceUnavailable"))
		requests.awaitAsked(1)
		Expect(started.metric("podfence_unhealthy", "condition=ClusterPoliciesUnread")).To(BeZero())
		requests.answer(status(http.StatusForbidden, "Forbidden"))
		Eventually(started.why, soon, often).Should(And(HavePrefix("ClusterPoliciesUnread: "), ContainSubstring("for the test")))
		Eventually(started.log.With, soon, often).WithArguments("Cannot read ClusterNetworkPolicies").Should(ContainElement(ContainSubstring("Forbidden, for the test")))
		requests.answer(status(http.StatusServiceUnavailable, "ServiceUnavailable"))
		undefine(definition)
		requests.awaitAsked(1)
		Expect(least()).To(Equal(has))

		requests.answer(nil)
		Eventually(started.policies, 3*soon, often).Should(Equal(has - 2)) // it is tried less and less often
		Eventually(started.readyz, soon, often).Should(Equal(http.StatusOK))
		Expect(started.log.With("does not have ClusterNetworkPolicies")).To(HaveLen(1))

		// If the kind is there again by then, what it has is the truth.
		define("standard")
		clusterPolicy("v1beta1", "first", denyToAll)
		Eventually(started.policies, soon, often).Should(Equal(has - 1))
	})

	DescribeTable("are not taken back for a moment in which the kind is not found", func(shown bool) {
		define("standard")
		clusterPolicy("v1beta1", "first", denyToAll)
		requests := &answers{resource: clusterPolicies, discovery: true}
		started := run(&recorder.Kernel{}, agent.Options{Node: newCluster().node, API: requests.guard(agentUser)})
		started.awaitReady()
		has := started.policies()
		least := started.fewest(has)
		// The moment ends when the agent has asked discovery, after it has asked for each version.
		requests.answer(func(request *http.Request) (*http.Response, error) {
			if strings.HasSuffix(request.URL.Path, "/"+clusterGroup) {
				requests.answer(nil)
				if shown {
					return nil, nil
				}
			}
			return status(http.StatusNotFound, "NotFound")(request)
		})
		requests.awaitAsked(4)
		clusterPolicy("v1beta1", "second", denyToAll)
		Eventually(started.policies, soon, often).Should(Equal(has + 1))
		Expect(least()).To(Equal(has))
		Expect(started.log.With("does not have ClusterNetworkPolicies")).To(BeEmpty())
		Expect(started.log.With("Cannot read")).To(BeEmpty())
	},
		Entry("and discovery shows it", true),
		Entry("and discovery does not show it", false),
	)

	DescribeTable("are what an agent waits for that starts, as long as it cannot tell whether there are any",
		func(answer func(*http.Request) (*http.Response, error), condition bool) {
			define("standard")
			clusterPolicy("v1beta1", "first", denyToAll)
			requests := &answers{resource: clusterPolicies}
			requests.answer(answer)
			kernel := &recorder.Kernel{}
			started := run(kernel, agent.Options{Node: newCluster().node, API: requests.guard(agentUser)})
			requests.awaitAsked(2)
			if condition {
				Eventually(started.why, soon, often).Should(ContainSubstring("ClusterPoliciesUnread: "))
			}
			Consistently(kernel.Attempts, while, often).Should(BeZero())
			Expect(started.why()).To(ContainSubstring("NotStarted: "))

			requests.answer(nil)
			started.awaitReady()
			Expect(started.policies()).To(BeNumerically(">=", 1), "the first commit must have what a policy denies")
		},
		Entry("which fails", status(http.StatusInternalServerError, "InternalError"), false),
		Entry("which starts", status(http.StatusServiceUnavailable, "ServiceUnavailable"), false),
		Entry("which has too much to do", status(http.StatusTooManyRequests, "TooManyRequests"), false),
		Entry("which refuses", status(http.StatusForbidden, "Forbidden"), true),
		Entry("which has another kind of that name", list(`{"spec": {"priority": "high"}}`), true),
	)

	It("are enforced by an agent that starts again, before it says that it is ready", func() {
		define("standard")
		clusterPolicy("v1beta1", "first", denyToAll)
		c := newCluster()
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: c.node, API: agentUser})
		started.awaitReady()
		has := started.policies()
		started.stop()
		clusterPolicy("v1beta1", "second", denyToAll)
		again := run(kernel, agent.Options{Node: c.node, API: agentUser})
		again.awaitReady()
		Expect(again.policies()).To(Equal(has + 1))
	})

	It("are no reason to wait for an agent without permission, if there are none", func(ctx SpecContext) {
		user := unprivileged(ctx)
		c := newCluster()
		started := run(&recorder.Kernel{}, agent.Options{Node: c.node, API: user})
		started.awaitReady()
		Expect(started.log.With("does not have ClusterNetworkPolicies")).To(HaveLen(1))
		Expect(started.log.With("Cannot read")).To(BeEmpty())

		definition := define("standard")
		Eventually(started.why, soon, often).Should(And(
			HavePrefix("ClusterPoliciesUnread: "), ContainSubstring("apply the ClusterRole"), ContainSubstring("is forbidden")))
		undefine(definition)
		started.awaitReady()
	})

	It("are reported if they cannot be enforced as written", func(ctx SpecContext) {
		definition := define("experimental")
		started := run(&recorder.Kernel{}, agent.Options{Node: newCluster().node, API: agentUser})
		elsewhere := run(&recorder.Kernel{}, agent.Options{Node: newCluster().node, API: agentUser})
		started.awaitReady()
		elsewhere.awaitReady()
		cnp := clusterPolicy("v1beta1", "names", notToNames)
		for _, a := range []*running{started, elsewhere} {
			Eventually(a.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(1))
			Eventually(a.log.With, soon, often).WithArguments("ClusterNetworkPolicy cannot be enforced as written").
				Should(ConsistOf(ContainSubstring(`"clusterNetworkPolicy"="` + cnp.GetName() + `"`)))
		}
		Eventually(eventsAbout, soon, often).WithArguments(ctx, cnp).Should(HaveLen(1))
		Consistently(eventsAbout, while, often).WithArguments(ctx, cnp).Should(HaveLen(1))
		event := eventsAbout(ctx, cnp)[0]
		Expect(event.Namespace).To(Equal("default"))
		Expect(event.Reason).To(Equal(report.ReasonNotEnforceable))
		Expect(event.InvolvedObject.APIVersion).To(Equal(clusterGroup + "/v1beta1"))
		Expect(event.InvolvedObject.Kind).To(Equal("ClusterNetworkPolicy"))
		Expect(event.Message).To(ContainSubstring("spec.egress[0].to[0].domainNames"))

		respecify(cnp, denyToAll)
		for _, a := range []*running{started, elsewhere} {
			Eventually(a.metricOf("podfence_policy_problems"), soon, often).Should(BeZero())
		}
		respecify(cnp, notToNames)
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(1))
		undefine(definition)
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeZero())
		Expect(started.log.With("Reconciler error")).To(BeEmpty())
	})
})

// policies is how many policies an agent enforces, of the whole cluster.
func (r *running) policies() int { return r.Enforcer.Counts().Policies }

// fewest watches how many policies an agent enforces, and returns what says how many were the fewest.
func (r *running) fewest(now int) func() int {
	var fewest atomic.Int64
	fewest.Store(int64(now))
	end := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
				fewest.Store(min(fewest.Load(), int64(r.policies())))
			}
		}
	})
	DeferCleanup(func() {
		close(end)
		ended.Wait()
	})
	return func() int { return int(fewest.Load()) }
}

// define has the API server know ClusterNetworkPolicies, until the spec ends: as a channel of
// network-policy-api defines them, but for what is changed.
func define(channel string, change ...func(*apiextensionsv1.CustomResourceDefinition)) *apiextensionsv1.CustomResourceDefinition {
	GinkgoHelper()
	definition, err := apiserver.ClusterNetworkPoliciesOf(channel)
	Expect(err).NotTo(HaveOccurred())
	for _, f := range change {
		f(definition)
	}
	Expect(admin.Create(context.Background(), definition)).To(Succeed())
	DeferCleanup(func() { undefine(definition) })
	awaitServed(definition)
	return definition
}

// undefine has the API server forget the kind, with all that there is of it.
func undefine(definition *apiextensionsv1.CustomResourceDefinition) {
	GinkgoHelper()
	ctx := context.Background()
	Expect(client.IgnoreNotFound(admin.Delete(ctx, definition))).To(Succeed())
	for _, version := range []string{"v1alpha2", "v1beta1"} {
		Eventually(func() error { return admin.List(ctx, clusterPolicyList(version)) }, soon, often).Should(MatchError(apierrors.IsNotFound, "not found"))
	}
	Eventually(func() error { return admin.Get(ctx, client.ObjectKeyFromObject(definition), definition.DeepCopy()) }, soon, often).
		Should(MatchError(apierrors.IsNotFound, "not found"))
}

// redefine changes the definition.
func redefine(definition *apiextensionsv1.CustomResourceDefinition, change func(*apiextensionsv1.CustomResourceDefinition)) {
	GinkgoHelper()
	ctx := context.Background()
	Expect(admin.Get(ctx, client.ObjectKeyFromObject(definition), definition)).To(Succeed())
	change(definition)
	Expect(admin.Update(ctx, definition)).To(Succeed())
	awaitServed(definition)
}

// serves has a definition serve these versions and no other, and store the last of them.
func serves(versions ...string) func(*apiextensionsv1.CustomResourceDefinition) {
	return func(definition *apiextensionsv1.CustomResourceDefinition) {
		apiserver.ServeVersions(definition, versions...)
		for i := range definition.Spec.Versions {
			version := &definition.Spec.Versions[i]
			version.Storage = version.Name == versions[len(versions)-1]
		}
	}
}

// ofChannel has a definition be that of a channel.
func ofChannel(channel string) func(*apiextensionsv1.CustomResourceDefinition) {
	GinkgoHelper()
	published, err := apiserver.ClusterNetworkPoliciesOf(channel)
	Expect(err).NotTo(HaveOccurred())
	return func(definition *apiextensionsv1.CustomResourceDefinition) {
		definition.Annotations, definition.Spec.Versions = published.Annotations, published.Spec.Versions
	}
}

// awaitServed waits until the API server serves what is defined, and nothing else.
func awaitServed(definition *apiextensionsv1.CustomResourceDefinition) {
	GinkgoHelper()
	for _, version := range definition.Spec.Versions {
		Eventually(func() bool {
			return admin.List(context.Background(), clusterPolicyList(version.Name)) == nil
		}, soon, often).Should(Equal(version.Served))
	}
}

func clusterPolicyList(version string) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: clusterGroup, Version: version, Kind: "ClusterNetworkPolicyList"})
	return list
}

// clusterPolicy makes a ClusterNetworkPolicy, which goes with its definition.
func clusterPolicy(version, name, spec string) *unstructured.Unstructured {
	GinkgoHelper()
	cnp := newClusterPolicy(version, name, spec)
	Expect(admin.Create(context.Background(), cnp)).To(Succeed())
	return cnp
}

// tryClusterPolicy makes one, if the API server takes it.
func tryClusterPolicy(version, name, spec string) error {
	GinkgoHelper()
	return admin.Create(context.Background(), newClusterPolicy(version, name, spec))
}

func newClusterPolicy(version, name, spec string) *unstructured.Unstructured {
	GinkgoHelper()
	cnp := &unstructured.Unstructured{}
	cnp.SetGroupVersionKind(schema.GroupVersionKind{Group: clusterGroup, Version: version, Kind: "ClusterNetworkPolicy"})
	cnp.SetName(name)
	cnp.Object["spec"] = parsedSpec(spec)
	return cnp
}

// respecify changes a ClusterNetworkPolicy to have this spec.
func respecify(cnp *unstructured.Unstructured, spec string) {
	GinkgoHelper()
	cnp.Object["spec"] = parsedSpec(spec)
	Expect(admin.Update(context.Background(), cnp)).To(Succeed())
}

func parsedSpec(text string) (spec map[string]any) {
	GinkgoHelper()
	Expect(yaml.Unmarshal([]byte(text), &spec)).To(Succeed())
	return spec
}

// eventsAbout are the Events about an object, in any namespace.
func eventsAbout(ctx context.Context, object client.Object) (found []corev1.Event) {
	GinkgoHelper()
	var all corev1.EventList
	Expect(admin.List(ctx, &all)).To(Succeed())
	for _, event := range all.Items {
		if event.InvolvedObject.UID == object.GetUID() {
			found = append(found, event)
		}
	}
	return found
}

// unprivileged is an agent's user who has the deployed role but for ClusterNetworkPolicies.
func unprivileged(ctx context.Context) *rest.Config {
	GinkgoHelper()
	const name = "podfence-agent-before"
	role, err := agentRole()
	Expect(err).NotTo(HaveOccurred())
	role.Name = name
	var rules []rbacv1.PolicyRule
	for _, rule := range role.Rules {
		if rule.APIGroups[0] != clusterGroup {
			rules = append(rules, rule)
		}
	}
	Expect(rules).To(HaveLen(len(role.Rules) - 1))
	role.Rules = rules
	create(role)
	binding := &rbacv1.ClusterRoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}
	binding.Name = name
	create(binding)
	user, err := environment.AddUser(envtest.User{Name: name}, nil)
	Expect(err).NotTo(HaveOccurred())
	return user.Config()
}

// answers gives an agent other answers than the API server's to its requests for one resource, and if
// discovery is set, for the document that shows its group too.
type answers struct {
	resource  string
	discovery bool

	mu    sync.Mutex
	given func(*http.Request) (*http.Response, error) // nil, or if it returns nil: the API server's own
	asked int
	open  []io.Closer
}

// answer has requests answered so from now on, and breaks the watches that there are.
func (a *answers) answer(given func(*http.Request) (*http.Response, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.given = given; given != nil {
		a.asked = 0
	}
	for _, body := range a.open {
		_ = body.Close() // most have ended before
	}
	a.open = nil
}

// awaitAsked waits until so many requests were answered so.
func (a *answers) awaitAsked(n int) {
	GinkgoHelper()
	Eventually(func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.asked
	}, 2*soon, often).Should(BeNumerically(">=", n))
}

// guard returns a configuration whose requests are answered so.
func (a *answers) guard(config *rest.Config) *rest.Config {
	guarded := rest.CopyConfig(config)
	guarded.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if path := request.URL.Path; !strings.HasSuffix(path, "/"+a.resource) && (!a.discovery || path != "/apis/"+clusterGroup) {
				return next.RoundTrip(request)
			}
			if given := a.next(); given != nil {
				if response, err := given(request); response != nil || err != nil {
					return response, err
				}
			}
			response, err := next.RoundTrip(request)
			if err == nil {
				a.mu.Lock()
				a.open = append(a.open, response.Body)
				a.mu.Unlock()
			}
			return response, err
		})
	})
	return guarded
}

func (a *answers) next() func(*http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.given != nil {
		a.asked++
	}
	return a.given
}

// status is an API server's answer that something has failed.
func status(code int, reason string) func(*http.Request) (*http.Response, error) {
	return body(code, fmt.Sprintf(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": %q, "code": %d, "message": "%s, for the test"}`, reason, code, reason))
}

// list is an API server's answer to a list of one object of the kind.
func list(object string) func(*http.Request) (*http.Response, error) {
	return func(request *http.Request) (*http.Response, error) {
		if request.URL.Query().Get("watch") != "" {
			return status(http.StatusInternalServerError, "InternalError")(request)
		}
		return body(http.StatusOK, fmt.Sprintf(`{"kind": "ClusterNetworkPolicyList", "apiVersion": "%s/v1beta1", "metadata": {"resourceVersion": "1"}, "items": [%s]}`, clusterGroup, object))(request)
	}
}

func body(code int, text string) func(*http.Request) (*http.Response, error) {
	return func(request *http.Request) (*http.Response, error) {
		return &http.Response{
			Status: http.StatusText(code), StatusCode: code, Request: request,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text)),
		}, nil
	}
}
