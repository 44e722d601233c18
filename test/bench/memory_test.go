package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/scale"
)

var fullMemory = flag.Bool("memory", false, "fill the API server with hundreds of megabytes, beside 20,000 pods and 2,000 policies")

// offence is what authors store in namespaces of their own, so that agents run out of
// memory as they read it.
type offence struct {
	name string
	// namespaces is how many authors there are, each with so many policies.
	namespaces, policies int
	spec                 func(n int) networkingv1.NetworkPolicySpec
	// pods is how many pods each has, with as many labels as a pod may have.
	pods int
	// opens: the offender's pod may be open, by a policy that lets everybody in or as none
	// selects it.
	opens bool
}

// ingressOf is a policy that lets in by rules.
func ingressOf(rules ...networkingv1.NetworkPolicyIngressRule) networkingv1.NetworkPolicySpec {
	return networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: rules}
}

// blocksOffence has policies of 32,000 addresses, of a megabyte each.
func blocksOffence(n int) networkingv1.NetworkPolicySpec { return manyBlocks(32_000)(n%100, n/100) }

// emptyOffence has policies of things that take the fewest bytes to send, and many times
// as many to keep.
func emptyOffence(n int) networkingv1.NetworkPolicySpec {
	switch port := intstr.FromInt32(int32(1 + n)); n % 3 {
	case 0:
		return ingressOf(make([]networkingv1.NetworkPolicyIngressRule, 300_000)...)
	case 1:
		rule := networkingv1.NetworkPolicyIngressRule{From: make([]networkingv1.NetworkPolicyPeer, 150_000)}
		for i := range rule.From {
			rule.From[i].PodSelector = &metav1.LabelSelector{}
		}
		return ingressOf(rule)
	default:
		rule := networkingv1.NetworkPolicyIngressRule{Ports: make([]networkingv1.NetworkPolicyPort, 50_000)}
		for i := range rule.Ports {
			rule.Ports[i].Port = &port
		}
		return ingressOf(rule)
	}
}

// selectorsOffence has policies whose selectors have many values.
func selectorsOffence(n int) networkingv1.NetworkPolicySpec {
	return selectors(100, func(i int) networkingv1.NetworkPolicyPeer {
		var values []string
		for j := range 100 {
			values = append(values, fmt.Sprint("v", n, i, j))
		}
		return labelled("app", metav1.LabelSelectorOpNotIn, values...)
	})
}

func offences() []offence {
	if !*fullMemory {
		return []offence{{name: "rules", namespaces: 1, policies: 3, spec: rulesOffence}}
	}
	return []offence{
		{name: "blocks", namespaces: 1, policies: 300, spec: blocksOffence},
		{name: "empty", namespaces: 10, policies: 9, spec: emptyOffence, opens: true},
		{name: "selectors", namespaces: 10, policies: 5, spec: selectorsOffence},
		{name: "small", namespaces: 1, policies: 40_000, spec: func(int) networkingv1.NetworkPolicySpec { return ingressOf() }},
		{name: "pods", namespaces: 2, pods: 300, opens: true},
	}
}

// rulesOffence has policies of many rules that let in nobody.
func rulesOffence(n int) networkingv1.NetworkPolicySpec {
	nobody := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"nobody": "here"}}}
	spec := ingressOf()
	for range 40_000 {
		spec.Ingress = append(spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{nobody}})
	}
	return spec
}

// labelledPod is the nth of an author's pods, on another node.
func labelledPod(n int) *corev1.Pod {
	pod := podOfWay(fmt.Sprint("p-", n), netip.AddrFrom4([4]byte{10, 251, byte(n >> 8), byte(n)}))
	pod.Spec.NodeName = "node-1"
	for i := range 5000 {
		pod.Labels[fmt.Sprintf("%058d-%d", i, n%10)] = fmt.Sprintf("%063d", n)
	}
	return pod
}

// memoryLimit is what the DaemonSet has.
func memoryLimit(t *testing.T) int64 {
	t.Helper()
	manifest, err := os.ReadFile("../../config/manager/manager.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, limits, _ := strings.Cut(string(manifest), "          limits:\n            memory: ")
	text, _, _ := strings.Cut(limits, "\n")
	limit, err := resource.ParseQuantity(text)
	if err != nil || limit.Value() == 0 {
		t.Fatalf("the agent's memory limit is %q: %v", text, err)
	}
	return limit.Value()
}

// bounded is a cluster whose one node has agents with the DaemonSet's memory limit, and
// three pods: the server lets the friend in and not the stranger, the offender's policies
// select it.
type bounded struct {
	*cluster
	*WithT
	t                                  *testing.T
	limit                              int64
	lab                                *lab.Lab
	node                               *lab.Node
	friend, stranger, server, offender *lab.Host
	// open says whether the offender's pod is; nil: it may be.
	open *bool
}

// offenderNamespace is the nth author's.
func offenderNamespace(n int) string { return fmt.Sprint(authors, "-", n) }

func newBounded(t *testing.T, size scale.Size) *bounded {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	b := &bounded{WithT: NewWithT(t), t: t, limit: memoryLimit(t)}
	probe, err := agent.NewCgroup(b.limit)
	if err != nil {
		t.Skipf("skipped: an agent's memory cannot be bounded here: %v", err)
	}
	b.Expect(probe.Close()).To(Succeed())
	b.cluster = newCluster(t, size)
	b.Expect(build()).To(Succeed())
	b.lab, err = lab.New(lab.Options{})
	b.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { b.Expect(b.lab.Close()).To(Succeed()) })
	b.node, err = b.lab.AddNode(scale.Node, netip.MustParseAddr("172.16.0.1"))
	b.Expect(err).NotTo(HaveOccurred())
	ctx := context.Background()
	for _, name := range []string{namespace, offenderNamespace(0)} {
		_, err := b.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		b.Expect(err).NotTo(HaveOccurred())
	}
	for i, pod := range []struct {
		name, namespace, friend string
		host                    **lab.Host
	}{
		{"server", namespace, "no", &b.server},
		{"client", namespace, "yes", &b.friend},
		{"stranger", namespace, "no", &b.stranger},
		{"offender", offenderNamespace(0), "yes", &b.offender},
	} {
		object := podOfWay(pod.name, netip.AddrFrom4([4]byte{10, 250, 0, byte(2 + i)}))
		object.Namespace, object.Labels["friend"] = pod.namespace, pod.friend
		b.Expect(b.createPod(object)).To(Succeed())
		*pod.host, err = b.node.AddPod(pod.name, lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr(object.Status.PodIP)}})
		b.Expect(err).NotTo(HaveOccurred())
	}
	_, err = b.NetworkingV1().NetworkPolicies(namespace).Create(ctx, friendsOnly("friends-only"), metav1.CreateOptions{})
	b.Expect(err).NotTo(HaveOccurred())
	return b
}

// holds sends packets, and expects that those and no others arrive that may.
func (b *bounded) holds(when string) {
	b.t.Helper()
	b.Eventually(func() (wrong []string) {
		probes := []lab.Probe{
			{From: b.friend, Packet: policy.Packet{Dst: b.server.IPs[0], Protocol: policy.UDP, DstPort: port}, Expect: true},
			{From: b.stranger, Packet: policy.Packet{Dst: b.server.IPs[0], Protocol: policy.UDP, DstPort: port}},
		}
		if b.open != nil {
			probes = append(probes, lab.Probe{From: b.friend, Packet: policy.Packet{Dst: b.offender.IPs[0], Protocol: policy.UDP, DstPort: port}, Expect: *b.open})
		}
		results, err := b.lab.Probe(context.Background(), probes)
		if err != nil {
			return []string{err.Error()}
		}
		for _, r := range results {
			if !r.AsExpected() {
				wrong = append(wrong, r.String())
			}
		}
		return wrong
	}, "1m", "100ms").Should(BeEmpty(), when)
}

// run starts an agent in a cgroup of its own.
func (b *bounded) run(limit int64) (a *agent.Agent, c *agent.Cgroup) {
	b.t.Helper()
	c, err := agent.NewCgroup(limit)
	b.Expect(err).NotTo(HaveOccurred())
	var args []string
	if profiles != "" {
		args = []string{"--pprof-address", "127.0.0.1:9480"}
	}
	a, err = agent.Start(agent.Options{Binary: podfence, Node: b.node, Kubeconfig: b.kubeconfig, Cgroup: c, Args: args})
	if err != nil {
		b.t.Fatal(errors.Join(err, c.Close()))
	}
	b.t.Cleanup(func() {
		if b.t.Failed() { // else it has ended
			b.t.Log(errors.Join(a.Kill(), c.Close()))
		}
	})
	return a, c
}

// enforced starts an agent and waits until it enforces.
func (b *bounded) enforced() (*agent.Agent, *agent.Cgroup) {
	b.t.Helper()
	began := time.Now()
	a, c := b.run(b.limit)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := a.AwaitReady(ctx); err != nil {
		kills, _ := c.Kills()
		b.t.Fatalf("%d processes were killed for memory: %s", kills, tail(err.Error()))
	}
	b.t.Logf("ready after %s", time.Since(began).Round(time.Millisecond))
	return a, c
}

// spared ends an agent, which must not have been killed, nor come near its limit.
func (b *bounded) spared(what string, a *agent.Agent, c *agent.Cgroup) {
	b.t.Helper()
	usage, err := a.Usage()
	b.Expect(err).NotTo(HaveOccurred())
	peak, err := c.Peak()
	b.Expect(err).NotTo(HaveOccurred())
	kills, err := c.Kills()
	b.Expect(err).NotTo(HaveOccurred())
	b.t.Logf("%s: %.0f MB at most, the kernel's part included; the process %.0f MB at most, and %.0f MB now",
		what, float64(peak)/1e6, float64(usage.Peak)/1e6, float64(usage.Resident)/1e6)
	if profiles != "" {
		heap, err := a.Profile(context.Background(), "/debug/pprof/heap")
		b.Expect(errors.Join(err, os.WriteFile(profiles+"/heap-"+strings.ReplaceAll(what, " ", "-"), heap, 0o644))).To(Succeed())
	}
	b.Expect(kills).To(BeZero(), what)
	b.Expect(peak).To(BeNumerically("<", b.limit), what)
	b.Expect(errors.Join(a.Stop(), c.Close())).To(Succeed())
}

// store has the authors write their policies.
func (b *bounded) store(o offence) {
	b.t.Helper()
	ctx := context.Background()
	for n := 1; n < o.namespaces; n++ {
		_, err := b.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: offenderNamespace(n)}}, metav1.CreateOptions{})
		b.Expect(err).NotTo(HaveOccurred())
	}
	each(b.t, o.namespaces*o.policies, func(n int) error {
		_, err := b.NetworkingV1().NetworkPolicies(offenderNamespace(n%o.namespaces)).Create(ctx,
			&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p-", n)}, Spec: o.spec(n)}, metav1.CreateOptions{})
		return err
	})
	each(b.t, o.namespaces*o.pods, func(n int) error {
		pod := labelledPod(n)
		pod.Namespace = offenderNamespace(n % o.namespaces)
		return b.createPod(pod)
	})
}

// warned waits for the Warning Event that says what became of what is past the offender's
// share.
func (b *bounded) warned(a *agent.Agent) {
	b.t.Helper()
	b.Eventually(func() (messages []string) {
		events, err := b.CoreV1().Events(offenderNamespace(0)).List(context.Background(), metav1.ListOptions{Limit: 50})
		b.Expect(err).NotTo(HaveOccurred())
		for _, e := range events.Items {
			if e.Type == corev1.EventTypeWarning {
				messages = append(messages, e.Message)
			}
		}
		return messages
	}, "1m", "200ms").Should(ContainElement(ContainSubstring("MB of the agent's memory")), func() string { return tail(a.Log()) })
}

// tail is the end of a log.
func tail(log string) string { return log[max(0, len(log)-4000):] }

// killed starts an agent that the kernel kills for memory while it reads what there is.
func (b *bounded) killed() {
	b.t.Helper()
	a, c := b.run(b.limit)
	const enough = 16 << 20 // it runs
	for {
		usage, err := c.Usage()
		b.Expect(err).NotTo(HaveOccurred())
		if usage > enough && c.SetLimit(usage+1<<20) == nil {
			break
		}
	}
	b.Eventually(a.Ended(), "2m").Should(BeClosed())
	kills, err := c.Kills()
	b.Expect(err).NotTo(HaveOccurred())
	b.Expect(kills).To(BeNumerically(">", 0), func() string { return tail(a.Log()) })
	b.Expect(errors.Join(a.Kill(), c.Close())).To(Succeed())
}

// TestMemory: an agent with the DaemonSet's memory limit stays under it, whatever authors
// have stored in their namespaces. What is past their share is closed, with an Event that
// says so; others' policies are enforced. An agent that the kernel kills as it starts leaves
// the last rules, and the next one comes up with the same closed.
func TestMemory(t *testing.T) {
	size := scale.Size{Pods: 200, Namespaces: 10, Policies: 20, Local: 20}
	if *fullMemory {
		size = scale.Size{Pods: 20_000, Namespaces: 200, Policies: 2_000, Local: 250}
	}
	for _, o := range offences() {
		t.Run(o.name, func(t *testing.T) {
			b := newBounded(t, size)
			open, closed := true, false
			b.open = &open
			a, c := b.enforced()
			metrics, err := a.Metrics(context.Background())
			b.Expect(err).NotTo(HaveOccurred())
			b.Expect(metrics["go_gc_gomemlimit_bytes"]).To(BeEquivalentTo(b.limit / 8 * 5))
			b.holds("without an offence")
			b.spared("without an offence", a, c)

			// While they are stored, an agent runs.
			a, c = b.enforced()
			b.store(o)
			if b.open = &closed; o.opens {
				b.open = nil
			}
			b.Expect(a.Ended()).NotTo(BeClosed(), func() string { return tail(a.Log()) })
			b.holds("while policies are stored")
			b.warned(a)
			b.spared(o.name+" as they come", a, c)
			a, c = b.enforced()
			b.holds("with the policies")
			b.spared(o.name+" at the start", a, c)

			for range 2 {
				b.killed()
				b.holds("when an agent was killed")
			}
			// Who is whose friend is another matter now, of which no agent has known.
			b.Expect(b.label("no")()).To(Succeed())
			b.holds("nobody enforces")
			a, c = b.enforced()
			b.Eventually(func() bool {
				results, err := b.lab.Probe(context.Background(), []lab.Probe{{From: b.friend, Packet: policy.Packet{Dst: b.server.IPs[0], Protocol: policy.UDP, DstPort: port}}})
				return err == nil && !results[0].Arrived
			}, "1m", "100ms").Should(BeTrue())
			b.Expect(b.label("yes")()).To(Succeed())
			b.holds("after those that were killed")
			b.spared(o.name+" after kills", a, c)
		})
	}
}
