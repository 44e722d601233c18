//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
)

const samples = "../../config/samples"

// neighbourhood is the shop of config/samples, and pods of others around it.
type neighbourhood struct {
	// outsiders are of a namespace that no policy is about but those for all, one on each node; quiet
	// are of one that has the label of the sample default-deny; voiced is of another one with that
	// label, whose own policy lets everybody in; mute is of one whose own policies deny everything.
	outsiders, quiet []*corev1.Pod
	voiced, mute     *corev1.Pod
	// visitor is a pod in the shop's namespace that may send to everybody.
	visitor *corev1.Pod
	// outside is the outsiders' namespace.
	outside string
}

// TestClusterPolicies does what README and config/samples say: it installs the kind as one channel has it,
// applies the samples, and sees what each of their rules does, and what their status says. Then come
// the other channel, and policies that cannot be enforced as they are written.
func TestClusterPolicies(t *testing.T) {
	withoutKind(t)
	kubectl(t, "apply", "-k", samples)
	t.Cleanup(func() { kubectl(t, "delete", "-k", samples, "--timeout=2m") })
	n := newNeighbourhood(t)
	api := clusterAPI(t, "v1beta1")
	if !t.Run("samples", func(t *testing.T) { n.testSamples(t, api) }) {
		return // what follows builds on them
	}
	t.Run("another channel", func(t *testing.T) { testAnotherChannel(t, api) })
	t.Run("domain names", func(t *testing.T) { n.testDomainNames(t, api) })
	t.Run("a selector that is none", func(t *testing.T) { n.testSelector(t, api) })
	for _, name := range sampleNames {
		expectAccepted(t, api, name, metav1.ConditionTrue)
	}
}

// sampleNames are the names of the policies of config/samples/cluster.
var sampleNames = []string{"allow-dns", "deny-metadata", "guard-shop-db", "default-deny"}

func newNeighbourhood(t *testing.T) *neighbourhood {
	t.Helper()
	byDefault := func(ns *corev1.Namespace) { ns.Labels["default-deny"] = "true" }
	outside, quiet, voiced, mute := newNamespace(t), newNamespace(t, byDefault), newNamespace(t, byDefault), newNamespace(t)
	everybody := networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}}
	apply(t, ingressFrom(voiced, "voiced", everybody))
	apply(t, denyAll(mute))
	enforce(t, egressTo("shop", "app", "visitor", everybody))
	pods := start(t,
		newPod(outside, "outsider-node1", on("node1")), newPod(outside, "outsider-node2", on("node2")),
		newPod(quiet, "quiet-node1", on("node1")), newPod(quiet, "quiet-node2", on("node2")),
		newPod(voiced, "voiced", on("node1")), newPod(mute, "mute", on("node2")), newPod("shop", "visitor", on("node1")),
	)
	t.Cleanup(func() { deleteByForce(t, pods[6]) })
	for _, namespace := range []string{"shop", "shop-db"} {
		kubectl(t, "--namespace", namespace, "wait", "--for=condition=Available", "deployments", "--all", "--timeout=2m")
	}
	return &neighbourhood{outsiders: pods[:2], quiet: pods[2:4], voiced: pods[4], mute: pods[5], visitor: pods[6], outside: outside}
}

// testSamples applies config/samples/cluster.
func (n *neighbourhood) testSamples(t *testing.T, api ctrlclient.Client) {
	backends, db := podsOf(t, "shop", "backend"), podsOf(t, "shop-db", "db")[0]
	toDB := func(from ...*corev1.Pod) []way {
		return fromPods(t, from, func(name, podNetNS string) []way { return ways(name+" to the database", podNetNS, podIPs(db), 5432, 0) })
	}
	metadata := serveMetadata(t)
	toMetadata := func(from ...*corev1.Pod) (all []way) {
		return fromPods(t, from, func(name, podNetNS string) []way {
			return foreign(ways(name+" to the metadata", podNetNS, metadata, 80, 0))
		})
	}
	resolvers := podsWhere(t, "kube-system", "k8s-app=kube-dns")
	frontend, err := client.CoreV1().Services("shop").Get(context.Background(), "frontend", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const name = "frontend.shop.svc.cluster.local"

	// What the samples let pass, or leave to NetworkPolicies, and what they close.
	fromQuiet, toQuiet := waysBetween(t, n.quiet, n.outsiders), waysBetween(t, n.outsiders, n.quiet)
	amongQuiet := waysBetween(t, n.quiet, n.quiet)
	toVoiced := waysBetween(t, n.outsiders, []*corev1.Pod{n.voiced})
	fromVoiced := waysBetween(t, []*corev1.Pod{n.voiced}, n.outsiders)
	amongOutsiders := waysBetween(t, n.outsiders, n.outsiders)
	fromMute := waysBetween(t, []*corev1.Pod{n.mute}, n.outsiders)

	byNobody := slices.Concat(fromMute, toDB(n.outsiders...), toDB(n.visitor))
	expectWays(t, "the cluster before the samples", slices.Concat(fromQuiet, toQuiet, amongQuiet, toVoiced, fromVoiced, amongOutsiders,
		toDB(backends...), toMetadata(n.outsiders...), toMetadata(resolvers...)), byNobody)
	check.Eventually(t, seenWithin, "names not to resolve where policies deny everything", func() error { return resolvesNothing(t, []*corev1.Pod{n.mute}, "udp", name) })

	applied := time.Now()
	installKind(t, channel(t, "standard"), "v1beta1")
	kubectl(t, "apply", "-k", samples+"/cluster")
	open := slices.Concat(toVoiced, amongOutsiders, toDB(backends...), toMetadata(resolvers...))
	closed := slices.Concat(fromQuiet, toQuiet, amongQuiet, fromVoiced, toMetadata(n.outsiders...))
	expectWays(t, "the cluster with the samples", open, slices.Concat(closed, byNobody))
	t.Logf("the samples are enforced, and have been so for some seconds, %s after the kind was installed", time.Since(applied).Round(time.Millisecond))
	for _, network := range []string{"udp", "tcp"} {
		for _, pods := range [][]*corev1.Pod{{n.mute}, n.quiet, n.outsiders} {
			check.Eventually(t, seenWithin, "names to resolve everywhere by "+network, func() error { return resolves(t, pods, network, name, frontend.Spec.ClusterIPs) })
		}
	}

	// Whoever writes policies in shop-db lets everybody in. It counts where the administrator has
	// passed it on to them.
	enforce(t, ingressFrom("shop-db", "db", networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}}))
	expectWays(t, "a NetworkPolicy within its frame", slices.Concat(toDB(n.visitor), open), slices.Concat(toDB(n.outsiders...), toDB(n.quiet...), closed))

	for _, name := range sampleNames {
		expectAccepted(t, api, name, metav1.ConditionTrue)
	}
}

// testAnotherChannel applies the other channel over the first one, and at once policies with a field that
// this one alone has, as who applies both together does. Nobody may read them as the first channel
// had them, without the field, and leave it at that. They are about no pod.
func testAnotherChannel(t *testing.T, api ctrlclient.Client) {
	kubectl(t, "apply", "-k", channel(t, "experimental"))
	var policies []*clusterv1beta1.ClusterNetworkPolicy
	for i := range 10 {
		cnp := clusterPolicy(t, fmt.Sprintf("e2e-at-once-%d", i), `{tier: Admin, priority: 999, subject: {namespaces: {matchLabels: {e2e: nobody}}}, egress: [{action: Deny, to: [{domainNames: [example.com]}]}]}`)
		check.Eventually(t, seenWithin, "the API server to take domain names", func() error {
			return api.Create(context.Background(), cnp, ctrlclient.FieldValidation(metav1.FieldValidationStrict))
		})
		policies = append(policies, cnp)
		time.Sleep(200 * time.Millisecond) // together, longer than the API server goes on by the other definition
	}
	for _, cnp := range policies {
		expectAccepted(t, api, cnp.Name, metav1.ConditionFalse, "spec.egress[0].to[0].domainNames")
		expectEvent(t, cnp, "spec.egress[0].to[0].domainNames")
	}
	deletePolicies(t, api, policies...)
}

// testDomainNames: names of domains that nobody has resolved accept nothing, and close nothing. A rule that denies cannot
// have any: it denies everything, and the status says so, and an Event.
func (n *neighbourhood) testDomainNames(t *testing.T, api ctrlclient.Client) {
	among := waysBetween(t, n.outsiders, n.outsiders)
	denies := clusterPolicy(t, "e2e-denies-names", fmt.Sprintf(`{tier: Admin, priority: 31, subject: {namespaces: %s}, egress: [{action: Deny, to: [{domainNames: [example.com]}]}]}`, named(n.outside)))
	// If it meant any of the pods, it would open what the other one closes.
	accepts := clusterPolicy(t, "e2e-accepts-names", fmt.Sprintf(`{tier: Admin, priority: 30, subject: {namespaces: %s}, egress: [{action: Accept, to: [{domainNames: ["*.example.com", example.com]}]}]}`, named(n.outside)))
	createPolicies(t, api, accepts, denies)
	expectWays(t, "a denial of names to deny everything", nil, among)
	expectAccepted(t, api, accepts.Name, metav1.ConditionTrue)
	expectAccepted(t, api, denies.Name, metav1.ConditionFalse, "spec.egress[0].to[0].domainNames")
	expectEvent(t, denies, "spec.egress[0].to[0].domainNames")

	// Once it is written otherwise, it can be enforced.
	changePolicy(t, api, denies.Name, fmt.Sprintf(`{tier: Admin, priority: 31, subject: {namespaces: %s}, egress: [{action: Deny, to: [{namespaces: {}}]}]}`, named(n.outside)))
	expectAccepted(t, api, denies.Name, metav1.ConditionTrue)
	deletePolicies(t, api, denies)
	expectWays(t, "a policy that accepts names to close nothing", among, nil)
	deletePolicies(t, api, accepts)
}

// testSelector: the API server takes a selector with an operator that does not exist. A denial of peers
// that are selected so denies everything. A policy whose subject is selected so is about no pod.
func (n *neighbourhood) testSelector(t *testing.T, api ctrlclient.Client) {
	among := waysBetween(t, n.outsiders, n.outsiders)
	expectWays(t, "pods to reach each other", among, nil)
	denies := clusterPolicy(t, "e2e-denies-unread", fmt.Sprintf(`{tier: Admin, priority: 30, subject: {namespaces: %s}, ingress: [
		{action: Deny, from: [{namespaces: {matchExpressions: [{key: team, operator: Like, values: [a]}]}}]}]}`, named(n.outside)))
	nobody := clusterPolicy(t, "e2e-unread-subject", `{tier: Admin, priority: 0, subject: {namespaces: {matchExpressions: [{key: team, operator: Like, values: [a]}]}},
		ingress: [{action: Deny, from: [{namespaces: {}}]}]}`)
	createPolicies(t, api, nobody, denies)
	expectWays(t, "a denial of peers that cannot be read to deny everything", nil, among)
	expectAccepted(t, api, denies.Name, metav1.ConditionFalse, "spec.ingress[0].from[0].namespaces")
	expectEvent(t, denies, "spec.ingress[0].from[0].namespaces")
	expectAccepted(t, api, nobody.Name, metav1.ConditionFalse, "spec.subject.namespaces")
	expectEvent(t, nobody, "spec.subject.namespaces")
	deletePolicies(t, api, denies)
	expectWays(t, "a policy whose subject cannot be read to close nothing", among, nil)
	deletePolicies(t, api, nobody)
}

// expectAccepted waits until the status of a policy, as it is now, says whether podfence can enforce all
// of it, and names a field if it cannot.
func expectAccepted(t *testing.T, api ctrlclient.Client, name string, want metav1.ConditionStatus, fields ...string) {
	t.Helper()
	check.Eventually(t, seenWithin, "the status of "+name+" to say that it is accepted: "+string(want), func() error {
		cnp := &clusterv1beta1.ClusterNetworkPolicy{}
		if err := api.Get(context.Background(), ctrlclient.ObjectKey{Name: name}, cnp); err != nil {
			return err
		}
		c := meta.FindStatusCondition(cnp.Status.Conditions, "Accepted")
		switch {
		case c == nil:
			return fmt.Errorf("it says nothing: is the writer of statuses there? Its conditions: %+v", cnp.Status.Conditions)
		case c.Status != want || c.ObservedGeneration != cnp.Generation:
			return fmt.Errorf("of generation %d it says %+v", cnp.Generation, *c)
		}
		for _, field := range fields {
			if !strings.Contains(c.Message, field) {
				return fmt.Errorf("it does not name %s: %+v", field, *c)
			}
		}
		return nil
	})
}

// expectEvent waits until an Event on a policy names a field.
func expectEvent(t *testing.T, cnp *clusterv1beta1.ClusterNetworkPolicy, field string) {
	t.Helper()
	check.Eventually(t, seenWithin, "an Event on "+cnp.Name, func() error {
		// Events about what is in no namespace are in this one.
		events, err := client.CoreV1().Events(metav1.NamespaceDefault).List(context.Background(), metav1.ListOptions{FieldSelector: "reason=NotEnforceable,involvedObject.uid=" + string(cnp.UID)})
		if err != nil {
			return err
		}
		for _, event := range events.Items {
			if event.Type == corev1.EventTypeWarning && event.InvolvedObject.Kind == clusterPolicyKind && strings.Contains(event.Message, field) {
				return nil
			}
		}
		return fmt.Errorf("none of %d names %s", len(events.Items), field)
	})
}

// serveMetadata has the control plane's host, to which nodes send what they have no other route for,
// answer at the addresses at which clouds serve their metadata, in the families of the cluster.
func serveMetadata(t *testing.T) (ips []string) {
	t.Helper()
	ips = []string{"169.254.169.254"}
	if theCluster.IPFamily == cluster.Dual {
		ips = append(ips, "fd00:ec2::254")
	}
	for _, ip := range ips {
		add := []string{"ip", "address", "add", ip, "dev", "lo"}
		if strings.Contains(ip, ":") {
			add = append(add, "nodad") // else it cannot be used at once
		}
		run(t, "cp", add...)
		t.Cleanup(func() { run(t, "cp", "ip", "address", "del", ip, "dev", "lo") })
		var listener net.Listener
		err := netns.InsidePath(theCluster.HostNetNS("cp"), func() (err error) {
			listener, err = net.Listen("tcp", hostPort(ip, 80))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := listener.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					conn.Close()
				}
			}
		}()
		t.Cleanup(func() {
			listener.Close()
			<-done
		})
	}
	return ips
}

// foreign makes ways such that lead to others than newPod's pods.
func foreign(ways []way) []way {
	for i := range ways {
		ways[i].foreign = true
	}
	return ways
}

// podsOf are the pods labelled app=APP of a namespace, podsWhere those with some other label.
func podsOf(t *testing.T, namespace, app string) []*corev1.Pod {
	t.Helper()
	return podsWhere(t, namespace, "app="+app)
}

func podsWhere(t *testing.T, namespace, label string) (pods []*corev1.Pod) {
	t.Helper()
	list, err := client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: label})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil && isReady(&pod) {
			pods = append(pods, &pod)
		}
	}
	if len(pods) == 0 {
		t.Fatalf("no pod of %s with %s is ready", namespace, label)
	}
	return pods
}
