package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

var _ = Describe("The start", Ordered, func() {
	var c *cluster
	BeforeAll(func(ctx SpecContext) { c = bigCluster(ctx) })

	// What a first commit of half a cluster would do: without a policy, what is
	// denied passes; without a peer, what is allowed is cut.
	DescribeTable("writes nothing before it has read all", func(ctx SpecContext, late string) {
		if late == clusterPolicies {
			define("standard")
			clusterPolicy("v1beta1", "big", denyToAll)
		}
		gate := newGate(late)
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: c.node, API: gate.guard(agentUser)})
		Eventually(started.healthz, soon, often).Should(Equal(http.StatusOK))
		Eventually(gate.waiting, soon, often).Should(BeTrue(), "the agent must ask for "+late)

		// What happens meanwhile is no reason to begin, either.
		c.policy("big", "meanwhile", nothing)
		runsAt(c.pod("big", "meanwhile", nil), c.ips(253)...)
		Consistently(kernel.Attempts, while, often).Should(BeZero())
		Expect(started.readyz()).To(Equal(http.StatusInternalServerError))
		Expect(started.healthz()).To(Equal(http.StatusOK))

		gate.open()
		started.awaitReady()
		first := kernel.Plans()[0]
		Expect(first.Replace).To(BeTrue())
		Expect(first).To(Equal(wholePlan(ctx, c.node)))
		Consistently(kernel.Attempts, while, often).Should(Equal(1), "there is nothing more to say")
	},
		Entry("of pods", "pods"),
		Entry("of namespaces", "namespaces"),
		Entry("of policies", "networkpolicies"),
		Entry("of nodes", "nodes"),
		Entry("of ClusterNetworkPolicies, if there are any", clusterPolicies),
	)

	It("commits the empty cluster too", func() {
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: newCluster().node, API: agentUser})
		started.awaitReady()
		Expect(kernel.Plans()).To(HaveLen(1))
		Expect(kernel.Plans()[0].Replace).To(BeTrue())
		Expect(started.metric("podfence_commits_total", "result=success")).To(BeEquivalentTo(1))
	})

	// One that ended would be started again less and less often.
	It("waits for an API server that is away", func() {
		away := rest.CopyConfig(agentUser)
		away.Host = "https://" + freeAddress()
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: newCluster().node, API: away})
		Eventually(started.healthz, soon, often).Should(Equal(http.StatusOK))
		Consistently(started.done, while, often).ShouldNot(BeClosed())
		Expect(started.readyz()).To(Equal(http.StatusInternalServerError))
		Expect(kernel.Attempts()).To(BeZero())
	})

	It("needs a node name", func() {
		_, err := agent.New(&recorder.Kernel{}, agent.Options{API: agentUser})
		Expect(err).To(MatchError(ContainSubstring("no node name")))
	})
})

// bigCluster is one of 200 objects: a node, its namespaces, pods and policies.
func bigCluster(ctx context.Context) *cluster {
	GinkgoHelper()
	c := newCluster()
	c.giveRange(c.nodeObject())
	namespaces := []string{"big", "small"}
	c.namespace("big", set{"friend": "yes"})
	c.namespace("small", nil)
	DeferCleanup(func(ctx SpecContext) {
		for _, name := range namespaces {
			Expect(admin.DeleteAllOf(ctx, &networkingv1.NetworkPolicy{}, client.InNamespace(c.name(name)))).To(Succeed())
			Expect(admin.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(c.name(name)), client.GracePeriodSeconds(0))).To(Succeed())
		}
	})
	for i := range 146 {
		app := set{"app": fmt.Sprintf("app-%d", i%50)}
		pod := c.podObject(namespaces[i%2], fmt.Sprintf("pod-%d", i), app)
		Expect(admin.Create(ctx, pod)).To(Succeed())
		runsAt(pod, c.ips(i+2)...)
	}
	for i := range 50 {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: c.name(namespaces[i%2]), Name: fmt.Sprintf("policy-%d", i)}}
		spec := strings.ReplaceAll(onlyFriends, "web", fmt.Sprintf("app-%d", i))
		Expect(yaml.UnmarshalStrict([]byte(spec), &np.Spec)).To(Succeed())
		Expect(admin.Create(ctx, np)).To(Succeed())
	}
	return c
}

// wholePlan is the plan that makes the table for what the API server has.
func wholePlan(ctx context.Context, node string) nft.Plan {
	GinkgoHelper()
	var (
		nodes      corev1.NodeList
		namespaces corev1.NamespaceList
		pods       corev1.PodList
		policies   networkingv1.NetworkPolicyList
		cluster    clusterv1beta1.ClusterNetworkPolicyList
		all        policy.Snapshot
	)
	Expect(admin.List(ctx, &nodes)).To(Succeed())
	Expect(admin.List(ctx, &namespaces)).To(Succeed())
	Expect(admin.List(ctx, &pods)).To(Succeed())
	Expect(admin.List(ctx, &policies)).To(Succeed())
	all.Nodes, all.Namespaces = pointers(nodes.Items), pointers(namespaces.Items)
	all.Pods, all.Policies = pointers(pods.Items), pointers(policies.Items)
	if err := admin.List(ctx, &cluster); !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
		Expect(err).NotTo(HaveOccurred())
		all.ClusterPolicies = pointers(cluster.Items)
	}
	intent, problems := policy.Compile(all, node)
	Expect(problems).To(BeEmpty())
	Expect(len(intent.Subjects)).To(BeNumerically(">=", 146))
	return ruleset.Build(intent, ruleset.Options{}).Replacement()
}

func pointers[T any](items []T) (all []*T) {
	for i := range items {
		all = append(all, &items[i])
	}
	return all
}

// gate keeps the answers to all requests for one resource back.
type gate struct {
	resource string
	opened   chan struct{}
	asked    chan struct{}
	once     sync.Once
}

func newGate(resource string) *gate {
	g := &gate{resource: resource, opened: make(chan struct{}), asked: make(chan struct{}, 1000)}
	DeferCleanup(g.open)
	return g
}

func (g *gate) open()         { g.once.Do(func() { close(g.opened) }) }
func (g *gate) waiting() bool { return len(g.asked) > 0 }

// guard returns a configuration whose requests go through the gate.
func (g *gate) guard(config *rest.Config) *rest.Config {
	guarded := rest.CopyConfig(config)
	guarded.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if strings.HasSuffix(request.URL.Path, "/"+g.resource) {
				select {
				case g.asked <- struct{}{}:
				default:
				}
				select {
				case <-g.opened:
				case <-request.Context().Done():
					return nil, request.Context().Err()
				}
			}
			return next.RoundTrip(request)
		})
	})
	return guarded
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }
