package controllers_test

import (
	"context"
	"net/netip"
	"sync"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/controllers/resolvers"
	"github.com/podfence/podfence/policy"
)

// tellings are what a Watcher has told, in order.
type tellings struct {
	mu  sync.Mutex
	all [][]netip.AddrPort
}

func (t *tellings) add(now []netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, now)
}

// last is what was told last, as text.
func (t *tellings) last() (texts []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) > 0 {
		for _, resolver := range t.all[len(t.all)-1] {
			texts = append(texts, resolver.String())
		}
	}
	return texts
}

func (t *tellings) number() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

var _ = Describe("The resolvers of a cluster", func() {
	const cache = "169.254.20.10:53"
	var (
		c       *cluster
		service *corev1.Service
		told    *tellings
	)
	// watch starts a Watcher of the Service, which watches nothing yet.
	watch := func(api *rest.Config) *resolvers.Watcher {
		told = &tellings{}
		w := resolvers.New(resolvers.Options{
			API: api, Service: policy.Key{Namespace: c.name("dns"), Name: "kube-dns"}, Others: []netip.AddrPort{netip.MustParseAddrPort(cache)},
			Sink: told.add, Log: logr.Discard(),
		})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer GinkgoRecover()
			defer close(ended)
			Expect(w.Start(ctx)).To(Succeed())
		}()
		DeferCleanup(func() {
			cancel()
			Eventually(ended, soon).Should(BeClosed())
		})
		return w
	}
	// slice makes an EndpointSlice of a Service.
	slice := func(name, of string, ready bool, addresses ...string) *discoveryv1.EndpointSlice {
		GinkgoHelper()
		return create(&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: c.name("dns"), Name: name, Labels: labels.Set{discoveryv1.LabelServiceName: of}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: new("dns"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(5353))}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: addresses, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		})
	}

	BeforeEach(func() {
		c = newCluster()
		c.namespace("dns", nil)
		service = c.service("dns", "kube-dns", func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53}}
		})
		c.service("dns", "other", nil)
		slice("kube-dns-a", "kube-dns", true, "10.244.0.3", "10.244.0.2")
		slice("other-a", "other", true, "10.244.0.9")
	})

	It("are those of its Service and no other's, as they are now, by the permissions that are deployed", func(ctx SpecContext) {
		w := watch(agentUser)
		Consistently(told.number, while, often).Should(BeZero(), "nobody wants to know")
		w.Want()
		w.Want()
		front := service.Spec.ClusterIP + ":53"
		Eventually(told.last, soon, often).Should(Equal([]string{front, "10.244.0.2:5353", "10.244.0.3:5353", cache}))
		Expect(told.all[0]).To(ConsistOf(netip.MustParseAddrPort(cache)), "the API server need not have answered for those")

		more := slice("kube-dns-b", "kube-dns", true, "10.244.1.2")
		Eventually(told.last, soon, often).Should(Equal([]string{front, "10.244.0.2:5353", "10.244.0.3:5353", "10.244.1.2:5353", cache}))
		before := told.number()
		more.Annotations = map[string]string{"means": "nothing"}
		Expect(admin.Update(ctx, more)).To(Succeed())
		Consistently(told.number, while, often).Should(Equal(before), "nothing has changed")
		more.Endpoints[0].Conditions.Ready = new(false)
		Expect(admin.Update(ctx, more)).To(Succeed())
		Eventually(told.last, soon, often).Should(Equal([]string{front, "10.244.0.2:5353", "10.244.0.3:5353", cache}))
		remove(service)
		Eventually(told.last, soon, often).Should(Equal([]string{cache}))
		again := c.service("dns", "kube-dns", func(s *corev1.Service) { s.Spec.Ports = service.Spec.Ports })
		Eventually(told.last, soon, often).Should(Equal([]string{again.Spec.ClusterIP + ":53", "10.244.0.2:5353", "10.244.0.3:5353", cache}))
	})

	It("are read when they may be", func(ctx SpecContext) {
		role := &rbacv1.ClusterRole{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: "podfence-agent"}, role)).To(Succeed())
		rules := role.Rules
		update := func(ctx context.Context, to []rbacv1.PolicyRule, may bool) {
			GinkgoHelper()
			role.Rules = to
			Expect(admin.Update(ctx, role)).To(Succeed())
			agents, err := client.New(agentUser, client.Options{})
			Expect(err).NotTo(HaveOccurred())
			Eventually(func() bool { return agents.List(ctx, &discoveryv1.EndpointSliceList{}) == nil }, soon, often).Should(Equal(may))
		}
		var without []rbacv1.PolicyRule
		for _, rule := range rules {
			if rule.Resources[0] != "endpointslices" {
				without = append(without, rule)
			}
		}
		Expect(without).To(HaveLen(len(rules) - 1))
		update(ctx, without, false)
		DeferCleanup(func(ctx context.Context) { update(ctx, rules, true) })
		watch(agentUser).Want()
		Eventually(told.last, soon, often).Should(Equal([]string{cache}))
		Consistently(told.last, while, often).Should(Equal([]string{cache}), "half of it is not told")
		update(ctx, rules, true)
		Eventually(told.last, soon, often).Should(Equal([]string{service.Spec.ClusterIP + ":53", "10.244.0.2:5353", "10.244.0.3:5353", cache}))
	})

	It("are those that the agent is told where there is no API server", func() {
		watch(nil).Want()
		Eventually(told.last, soon, often).Should(Equal([]string{cache}))
	})
})
