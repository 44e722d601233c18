package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/lab"
)

// authors is the namespace of the author who attacks.
const authors = "author"

// attack is what an author writes in a namespace of their own, over and over.
type attack struct {
	name     string
	policies int
	// spec is the round-th version of the nth policy.
	spec func(n, round int) networkingv1.NetworkPolicySpec
}

// selectors is a policy that lets in by so many selectors.
func selectors(count int, selector func(i int) networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicySpec {
	spec := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
	rule := networkingv1.NetworkPolicyIngressRule{}
	for i := range count {
		rule.From = append(rule.From, selector(i))
	}
	spec.Ingress = append(spec.Ingress, rule)
	return spec
}

// labelled are the pods of all namespaces by a requirement.
func labelled(key string, operator metav1.LabelSelectorOperator, values ...string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{},
		PodSelector:       &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}},
	}
}

// equalRules is a policy of many rules that say the same.
func equalRules(n, round int) networkingv1.NetworkPolicySpec {
	spec := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
	port := intstr.FromInt32(int32(1 + n + round%2*1000))
	for range 3990 {
		spec.Ingress = append(spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}})
	}
	return spec
}

// distinctRules is a policy of rules of which no two can be merged.
func distinctRules(n, round int) networkingv1.NetworkPolicySpec {
	spec := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
	for i := range mostRules {
		spec.Ingress = append(spec.Ingress, ownRule(i+round%2*10000, networkingv1.NetworkPolicyPeer{
			PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rule": fmt.Sprint(n, "-", i)}},
		}))
	}
	return spec
}

// mostRules and mostSelectors are as many rules with a port and a selector of their own, and
// selectors of one rule, as a policy may have.
const mostRules, mostSelectors = 350, 1300

// ownRule is a rule with a port of its own: no other can be merged with it.
func ownRule(i int, peer networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicyIngressRule {
	port := intstr.FromInt32(int32(1 + i))
	return networkingv1.NetworkPolicyIngressRule{
		Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}, From: []networkingv1.NetworkPolicyPeer{peer},
	}
}

// following is a policy of as many sets as it may have, of all of which each change of the
// victim's label is one.
func following(n, round int) networkingv1.NetworkPolicySpec {
	spec := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
	for i := range mostRules {
		peer := labelled("other", metav1.LabelSelectorOpNotIn, fmt.Sprintf("%d-%d-%d", n, i, round/100))
		peer.PodSelector.MatchLabels = map[string]string{"friend": "yes"}
		spec.Ingress = append(spec.Ingress, ownRule(i, peer))
	}
	return spec
}

// joining is the nth of policies of which the last comes to select all pods of the author's
// and goes again: each of their chains is another then.
func joining(n, round int) networkingv1.NetworkPolicySpec {
	spec := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
	spec.Ingress = append(spec.Ingress, ownRule(n, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}))
	if n%10 == 9 && round%2 == 1 {
		spec.PodSelector.MatchLabels = map[string]string{"no": "pod"}
	}
	return spec
}

// manyBlocks is a policy of so many addresses that no two are one range.
func manyBlocks(count int) func(n, round int) networkingv1.NetworkPolicySpec {
	return func(n, round int) networkingv1.NetworkPolicySpec {
		spec := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
		rule := networkingv1.NetworkPolicyIngressRule{}
		for i := range count {
			cidr := fmt.Sprintf("%d.%d.%d.%d/32", 11+n, round%200, i>>7, i&127*2)
			rule.From = append(rule.From, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr}})
		}
		spec.Ingress = append(spec.Ingress, rule)
		return spec
	}
}

var attacks = []attack{
	{name: "none"},
	{name: "narrow", policies: 4, spec: func(n, round int) networkingv1.NetworkPolicySpec {
		return selectors(1333, func(i int) networkingv1.NetworkPolicyPeer {
			return labelled("app", metav1.LabelSelectorOpIn, fmt.Sprintf("%d-%d-%d", n, i, round))
		})
	}},
	{name: "narrow", policies: 8, spec: func(n, round int) networkingv1.NetworkPolicySpec {
		return selectors(1333, func(i int) networkingv1.NetworkPolicyPeer {
			return labelled("app", metav1.LabelSelectorOpIn, fmt.Sprintf("%d-%d-%d", n, i, round))
		})
	}},
	{name: "negative", policies: 1, spec: func(n, round int) networkingv1.NetworkPolicySpec {
		return selectors(1333, func(i int) networkingv1.NetworkPolicyPeer {
			return labelled("app", metav1.LabelSelectorOpNotIn, fmt.Sprintf("%d-%d-%d", n, i, round))
		})
	}},
	{name: "within-budget", policies: 8, spec: func(n, round int) networkingv1.NetworkPolicySpec {
		return selectors(2, func(i int) networkingv1.NetworkPolicyPeer {
			return labelled("app", metav1.LabelSelectorOpNotIn, fmt.Sprintf("%d-%d-%d", n, i, round))
		})
	}},
	// As much as a policy may have.
	{name: "fitting", policies: 2, spec: func(n, round int) networkingv1.NetworkPolicySpec {
		return selectors(mostSelectors, func(i int) networkingv1.NetworkPolicyPeer {
			return labelled("app", metav1.LabelSelectorOpIn, fmt.Sprintf("%d-%d-%d", n, i, round))
		})
	}},
	{name: "following", policies: 1, spec: following},
	{name: "following", policies: 8, spec: following},
	{name: "joining", policies: 50, spec: joining},
	{name: "equal", policies: 1, spec: equalRules},
	{name: "equal", policies: 20, spec: equalRules},
	{name: "distinct", policies: 4, spec: distinctRules},
	{name: "blocks", policies: 4, spec: manyBlocks(20_000)},
	{name: "bytes", policies: 150, spec: manyBlocks(20_000)},
	{name: "empty", policies: 3000, spec: func(int, int) networkingv1.NetworkPolicySpec {
		return networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
	}},
}

// author is who attacks, with a pod on the node.
type author struct {
	cluster *cluster
	attack
	round int
	// unseen: the policies are written where no agent reads them, as ConfigMaps, and the API
	// server reads them as policies that it does not keep. What that costs is the API server's,
	// which shares the machine, and not the agent's.
	unseen bool
}

func (a *author) policy(n int) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: authors, Name: fmt.Sprint("p-", n)}, Spec: a.spec(n, a.round)}
}

// write writes a policy.
func (a *author) write(ctx context.Context, n int) error {
	if a.unseen {
		return a.writeUnseen(ctx, n)
	}
	policies := a.cluster.NetworkingV1().NetworkPolicies(authors)
	_, err := policies.Update(ctx, a.policy(n), metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = policies.Create(ctx, a.policy(n), metav1.CreateOptions{})
	}
	return err
}

func (a *author) writeUnseen(ctx context.Context, n int) error {
	policy := a.policy(n)
	text, err := json.Marshal(policy)
	if err != nil {
		return err
	}
	_, err = a.cluster.NetworkingV1().NetworkPolicies(authors).Create(ctx, policy, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	maps := a.cluster.CoreV1().ConfigMaps(authors)
	stored := &corev1.ConfigMap{ObjectMeta: policy.ObjectMeta, Data: map[string]string{"policy": string(text)}}
	_, err = maps.Update(ctx, stored, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, stored, metav1.CreateOptions{})
	}
	return err
}

// writeAll writes all policies once.
func (a *author) writeAll(b *testing.B) {
	b.Helper()
	each(b, a.policies, func(n int) error { return a.write(context.Background(), n) })
}

// keepWriting writes one policy after another, ten a second, until ctx is done.
func (a *author) keepWriting(ctx context.Context) error {
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
		if a.policies == 0 {
			continue
		}
		if n%a.policies == 0 {
			a.round++
		}
		if err := a.write(ctx, n%a.policies); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// beside does something while the author keeps writing.
func (a *author) beside(b *testing.B, do func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	written := make(chan error, 1)
	go func() { written <- a.keepWriting(ctx) }()
	do()
	cancel()
	must(b, <-written)
}

// stop takes all policies away.
func (a *author) stop(b *testing.B) {
	b.Helper()
	must(b, a.cluster.NetworkingV1().NetworkPolicies(authors).DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}))
}

// deniedCost is what a packet costs that the author's policies deny, until it is dropped:
// a pod's packet is judged before the system call that sends it returns.
func deniedCost(from *lab.Host, to netip.Addr) (each time.Duration, err error) {
	const packets = 5000
	err = from.Do(func() error {
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: to.AsSlice(), Port: 9})
		if err != nil {
			return err
		}
		began := time.Now()
		for range packets {
			if _, err := conn.Write([]byte("denied")); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return errors.Join(err, conn.Close())
			}
		}
		each = time.Since(began) / packets
		return conn.Close()
	})
	return each, err
}

// BenchmarkAuthor is what the author of one namespace's policies can do to another's: how
// long changes of a label take until packets meet them while that author rewrites policies
// without end, what the agent and the kernel take, what a packet costs that these policies
// deny, how long an agent takes to start that finds them there, and how long changes take as
// soon as that is ready.
func BenchmarkAuthor(b *testing.B) {
	const changes = 300
	authorIP, proberIP := netip.MustParseAddr("10.250.0.8"), netip.MustParseAddr("10.250.0.9")
	for _, size := range sizes[1:] {
		b.Run(sizeName(size), func(b *testing.B) {
			c := newCluster(b, size)
			node := newNode(b)
			w := newWay(b, c, node)
			_, err := c.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: authors}}, metav1.CreateOptions{})
			must(b, err)
			var prober *lab.Host
			for name, ip := range map[string]netip.Addr{"author": authorIP, "prober": proberIP} {
				pod := podOfWay(name, ip)
				pod.Namespace = authors
				delete(pod.Labels, "friend")
				must(b, c.createPod(pod))
				host, err := node.AddPod(name, lab.PodOptions{IPs: []netip.Addr{ip}})
				must(b, err)
				if name == "prober" {
					prober = host
				}
			}
			for i := range 100 { // that the author's policies select, and nobody connects
				pod := podOfWay(fmt.Sprint("more-", i), netip.AddrFrom4([4]byte{10, 250, 1, byte(i)}))
				pod.Namespace = authors
				delete(pod.Labels, "friend")
				must(b, c.createPod(pod))
			}
			admitted := false
			for _, attack := range attacks {
				b.Run(fmt.Sprintf("attack=%s/policies=%d", attack.name, attack.policies), func(b *testing.B) {
					for range b.N {
						author := &author{cluster: c, attack: attack}
						author.writeAll(b)
						start := time.Now()
						a := c.startAgent(b, node)
						b.ReportMetric(time.Since(start).Seconds(), "s-ready")
						if !admitted {
							c.admitFriends(b, w, c.label("no"), c.label("yes"))
							admitted = true
						}
						profiled := profileCPU(b, a, "author-cpu")
						measure := func(prefix string) {
							var d delays
							told := c.watchClient(b)
							author.beside(b, func() {
								for range changes {
									must(b, w.measure(&d, c.label("no"), c.label("yes")))
								}
							})
							d.report(b, prefix)
							must(b, told.report(b, d, prefix))
						}
						author.unseen = true
						measure("unseen-")
						author.unseen = false
						measure("")
						must(b, <-profiled)
						cost, err := deniedCost(prober, authorIP)
						must(b, err)
						b.ReportMetric(float64(cost.Nanoseconds())/1000, "us/denied")
						reportTaken(b, a)
						// The first moments of an agent that finds the author at it.
						must(b, a.Stop())
						author.beside(b, func() { c.startAgent(b, node) })
						measure("started-")
						author.stop(b)
					}
				})
			}
		})
	}
}

// reportTaken reports what the agent and its table take.
func reportTaken(b *testing.B, a *agent.Agent) {
	b.Helper()
	usage, err := a.Usage()
	must(b, err)
	metrics, err := a.Metrics(context.Background())
	must(b, err)
	b.ReportMetric(float64(usage.Peak)/1e6, "MB-peak")
	b.ReportMetric(metrics["podfence_table_elements"], "elements")
	b.ReportMetric(1000*metrics["podfence_commit_duration_seconds_sum"]/metrics["podfence_commit_duration_seconds_count"], "ms/commit")
	b.ReportMetric(metrics["podfence_table_objects"], "objects")
	b.ReportMetric(metrics["podfence_policies_over_budget"], "over-budget")
	b.ReportMetric(0, "ns/op")
}
