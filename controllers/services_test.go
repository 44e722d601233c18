package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/recorder"
)

// servicesRead is an API server that has these Services, whatever it is asked.
type servicesRead struct {
	client.Reader
	items []corev1.Service
}

func (r servicesRead) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*corev1.ServiceList).Items = r.items
	return nil
}

// TestWhereServicesAreReached: of each type of Service, all addresses and ports are read by which it is reached.
func TestWhereServicesAreReached(t *testing.T) {
	port := func(protocol corev1.Protocol, port, nodePort int32) corev1.ServicePort {
		return corev1.ServicePort{Protocol: protocol, Port: port, NodePort: nodePort}
	}
	item := func(name string, spec corev1.ServiceSpec, ingress ...corev1.LoadBalancerIngress) corev1.Service {
		return corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: spec, Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: ingress}}}
	}
	addrs := func(texts ...string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	reader := servicesRead{items: []corev1.Service{
		item("both-families", corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd00::1"}, Ports: []corev1.ServicePort{port("TCP", 80, 0), port("UDP", 53, 0)}}),
		item("old", corev1.ServiceSpec{ClusterIP: "10.96.0.2", Ports: []corev1.ServicePort{port("SCTP", 80, 0)}}),
		item("headless", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, ClusterIPs: []string{corev1.ClusterIPNone}, Ports: []corev1.ServicePort{port("TCP", 80, 0)}}),
		item("external-name", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}),
		item("external", corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.3"}, ExternalIPs: []string{"203.0.113.1", "::ffff:203.0.113.2"}}),
		item("balanced", corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.4"}, Ports: []corev1.ServicePort{port("TCP", 443, 30443)}},
			corev1.LoadBalancerIngress{IP: "198.51.100.1"}, corev1.LoadBalancerIngress{Hostname: "lb.example.org"}),
	}}
	service := func(name string, addresses []netip.Addr, ports ...observer.ServicePort) observer.Service {
		return observer.Service{Key: policy.Key{Namespace: "shop", Name: name}, Addresses: addresses, Ports: ports}
	}
	want := []observer.Service{
		service("both-families", addrs("10.96.0.1", "10.96.0.1", "fd00::1"), observer.ServicePort{Protocol: "TCP", Port: 80}, observer.ServicePort{Protocol: "UDP", Port: 53}),
		service("old", addrs("10.96.0.2"), observer.ServicePort{Protocol: "SCTP", Port: 80}),
		service("external", addrs("10.96.0.3", "203.0.113.1", "203.0.113.2")),
		service("balanced", addrs("10.96.0.4", "198.51.100.1"), observer.ServicePort{Protocol: "TCP", Port: 443, NodePort: 30443}),
	}
	got, _, err := controllers.NewServices(reader).InNamespace(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

// deniedPackets are packets that a kernel has denied, as a spec sends them.
type deniedPackets struct {
	packets chan nft.Logged
	closed  chan struct{}
	once    sync.Once
}

func (d *deniedPackets) Receive(do func(nft.Logged)) (int, error) {
	select {
	case <-d.closed:
		return 0, errors.New("closed")
	case l := <-d.packets:
		do(l)
		return 0, nil
	}
}

func (d *deniedPackets) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// service makes a Service of a namespace, with a port of TCP unless changed.
func (c *cluster) service(namespace, name string, change func(*corev1.Service)) *corev1.Service {
	GinkgoHelper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.name(namespace), Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 5432}}},
	}
	if change != nil {
		change(s)
	}
	return create(s)
}

var _ = Describe("The Service that a flow has asked for", func() {
	var (
		c                 *cluster
		denied            *deniedPackets
		db, web, balanced *corev1.Service
	)
	// start starts an agent, whose node denies what a spec says.
	start := func(o agent.Options) *running {
		denied = &deniedPackets{packets: make(chan nft.Logged), closed: make(chan struct{})}
		o.Node, o.Denials = c.node, func() (observer.Log, error) { return denied, nil }
		started := run(&recorder.Kernel{}, o)
		started.awaitReady()
		return started
	}
	// deny has the node deny a packet to an address, for which another was asked, and returns what is told of that.
	number := uint16(0)
	deny := func(started *running, to netip.Addr, asked string, port uint16) *flows.Asked {
		GinkgoHelper()
		number++
		l := nft.Logged{Time: time.Now(), Packet: nft.TracePacket{SrcPort: number}, Asked: netip.AddrPortFrom(netip.MustParseAddr(asked), port)}
		l.Packet.Packet = packet.Packet{Src: netip.MustParseAddr("192.0.2.99"), Dst: to, Protocol: packet.TCP, DstPort: 80, HopLimit: 64}
		denied.packets <- l
		begun := time.Now()
		var told *flows.Flow
		Eventually(func() bool {
			for f, at := started.Flows.Get(0); f != nil; f, at = started.Flows.Get(at + 1) {
				if f.Source.Port == number {
					told = f
				}
			}
			return told != nil
		}, soon, often).Should(BeTrue())
		GinkgoWriter.Println("told after", time.Since(begun))
		return told.Asked
	}
	named := func(s *corev1.Service) OmegaMatcher {
		return HaveValue(And(HaveField("Namespace", s.Namespace), HaveField("Service", s.Name)))
	}
	unnamed := HaveValue(And(HaveField("Namespace", ""), HaveField("Service", "")))

	BeforeEach(func(ctx SpecContext) {
		c = newCluster()
		c.namespace("shop", nil)
		c.namespace("other", nil)
		runsAt(c.pod("shop", "db-0", nil), c.ips(1)...)
		db = c.service("shop", "db", nil)
		web = c.service("shop", "web", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].Port, s.Spec.ExternalIPs = corev1.ServiceTypeNodePort, 80, []string{fmt.Sprintf("203.0.113.%d", c.number)}
		})
		balanced = c.service("shop", "balanced", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
		balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("198.51.100.%d", c.number)}}
		Expect(admin.Status().Update(ctx, balanced)).To(Succeed())
	})

	It("is named, whichever address it was, by the permissions that are deployed", func(ctx SpecContext) {
		manual := c.service("other", "manual", nil)
		query := freeAddress()
		started := start(agent.Options{API: agentUser, QueryAddress: query})
		node := &corev1.Node{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: c.node}, node)).To(Succeed())
		nodeIP := fmt.Sprintf("192.0.2.%d", c.number)
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}}
		Expect(admin.Status().Update(ctx, node)).To(Succeed())
		Eventually(func() string { _, node := started.Enforcer.HolderOf(netip.MustParseAddr(nodeIP)); return node }, soon, often).Should(Equal(c.node))
		Eventually(func() *policy.Pod { pod, _ := started.Enforcer.HolderOf(c.ips(1)[0]); return pod }, soon, often).ShouldNot(BeNil())

		pod, outside := c.ips(1)[0], netip.MustParseAddr("192.0.2.250")
		Expect(started.metric("podfence_service_lookups_total")).To(BeZero(), "nobody has asked for anything")
		Expect(deny(started, pod, db.Spec.ClusterIP, 5432)).To(named(db))
		Expect(deny(started, pod, web.Spec.ExternalIPs[0], 80)).To(named(web))
		Expect(deny(started, pod, nodeIP, uint16(web.Spec.Ports[0].NodePort))).To(named(web))
		Expect(deny(started, pod, balanced.Status.LoadBalancer.Ingress[0].IP, 5432)).To(named(balanced))
		Expect(started.metric("podfence_service_lookups_total")).To(BeEquivalentTo(1), "one list has them all")
		Expect(deny(started, pod, manual.Spec.ClusterIP, 5432)).To(named(manual))
		kubernetes := &corev1.Service{}
		Expect(admin.Get(ctx, client.ObjectKey{Namespace: "default", Name: "kubernetes"}, kubernetes)).To(Succeed())
		Expect(deny(started, outside, kubernetes.Spec.ClusterIP, 443)).To(named(kubernetes))
		Expect(started.metric("podfence_service_lookups_total")).To(BeEquivalentTo(3))
		Expect(deny(started, pod, db.Spec.ClusterIP, 5433)).To(unnamed)
		Expect(started.metric("podfence_service_lookups_failed_total")).To(BeZero())

		service, err := flows.ParseEnd("Service/" + db.Namespace + "/" + db.Name)
		Expect(err).NotTo(HaveOccurred())
		asked := flows.Query{Filter: flows.Filter{To: []flows.End{service}}, Last: flows.All}
		response, err := http.Get("http://" + query + flows.Path + "?" + asked.Values().Encode())
		Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		Expect(err).NotTo(HaveOccurred())
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		Expect(lines).To(HaveLen(1), "who asks for flows to the Service is told of it, and of no other")
		Expect(lines[0]).To(ContainSubstring(db.Spec.ClusterIP))
	})

	It("is found by its cluster IP in a namespace of more than are listed", func(ctx SpecContext) {
		for i := range 500 {
			c.service("other", fmt.Sprintf("a-%03d", i), func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
		}
		last := c.service("other", "last", nil)
		agents, err := client.New(agentUser, client.Options{})
		Expect(err).NotTo(HaveOccurred())
		services, more, err := controllers.NewServices(agents).InNamespace(ctx, last.Namespace)
		Expect(err).NotTo(HaveOccurred())
		Expect(services).To(BeEmpty())
		Expect(more).To(BeTrue())
		Expect(controllers.NewServices(agents).WithClusterIP(ctx, netip.MustParseAddr(last.Spec.ClusterIP))).To(ConsistOf(HaveField("Key", client.ObjectKeyFromObject(last))))
		Expect(controllers.NewServices(agents).WithClusterIP(ctx, netip.MustParseAddr("192.0.2.7"))).To(BeEmpty())
		_, more, err = controllers.NewServices(agents).InNamespace(ctx, db.Namespace)
		Expect(err).NotTo(HaveOccurred())
		Expect(more).To(BeFalse())
	})

	It("has no name where the agent may not read Services, and the denial is told", func(ctx SpecContext) {
		role := &rbacv1.ClusterRole{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: "podfence-agent"}, role)).To(Succeed())
		rules := role.Rules
		mayRead := func(ctx context.Context) error {
			agents, err := client.New(agentUser, client.Options{})
			if err != nil {
				return err
			}
			return agents.List(ctx, &corev1.ServiceList{})
		}
		restore := func(ctx context.Context) {
			role.Rules = rules
			Expect(admin.Update(ctx, role)).To(Succeed())
			Eventually(mayRead, soon, often).WithContext(ctx).Should(Succeed())
		}
		role.Rules = nil
		for _, rule := range rules {
			if len(rule.Resources) != 1 || rule.Resources[0] != "services" {
				role.Rules = append(role.Rules, rule)
			}
		}
		Expect(role.Rules).To(HaveLen(len(rules) - 1))
		Expect(admin.Update(ctx, role)).To(Succeed())
		DeferCleanup(restore)
		Eventually(mayRead, soon, often).WithContext(ctx).ShouldNot(Succeed())
		started := start(agent.Options{API: agentUser})
		Expect(deny(started, c.ips(1)[0], db.Spec.ClusterIP, 5432)).To(unnamed)
		Eventually(started.log.With, soon, often).WithArguments("Cannot read Services").Should(ConsistOf(ContainSubstring("forbidden")))
		Expect(started.metric("podfence_service_lookups_failed_total")).To(BeEquivalentTo(1))
		Expect(started.readyz()).To(Equal(200), "what is enforced does not depend on that")
	})

	It("has no name where a folder is the source", func() {
		started := start(agent.Options{Manifests: GinkgoT().TempDir()})
		Expect(deny(started, c.ips(1)[0], db.Spec.ClusterIP, 5432)).To(unnamed)
	})
})
