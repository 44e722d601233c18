//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
)

// backWithin is how long it may take until all works again when a mistake has been taken back: TCP sends
// again what was lost after longer and longer times.
const backWithin = 30 * time.Second

// TestKubeSystemDenied: a policy denies everything to and from the pods of kube-system by mistake, and
// then another one everything to and from all pods. DNS stops, and nobody reaches the API server, but for
// those on the nodes' network: the agents, which stay ready and enforce what changes, and kubelet, which
// starts pods. When the policy is deleted all works again, and nobody had to be restarted.
func TestKubeSystemDenied(t *testing.T) {
	withoutKind(t)
	installKind(t, channel(t, "standard"), "v1beta1")
	api := clusterAPI(t, "v1beta1")
	ns := newNamespace(t)
	askers := start(t, newPod(ns, "asker-node1", on("node1")), newPod(ns, "asker-node2", on("node2")))
	resolvers := podsWhere(t, metav1.NamespaceSystem, "k8s-app=kube-dns")
	running := slices.Concat(resolvers, slices.Collect(maps.Values(agentPods(t))))
	nodes := map[string]metav1.Time{}
	for _, node := range bothNodes {
		nodes[node] = nodeReadySince(t, node)
	}
	service := newService(t, ns, "service", askers[0].Name)
	name := service.Name + "." + ns + ".svc.cluster.local"
	among := waysBetween(t, askers, askers)
	toAPI := func(name, podNetNS string) []way { return waysToAPI(t, name, podNetNS) }
	fromResolvers, fromAskers := fromPods(t, resolvers, toAPI), fromPods(t, askers, toAPI)
	expectResolved := func(within time.Duration, name string, want []string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			check.Eventually(t, within, name+" to resolve by "+network, func() error { return resolves(t, askers, network, name, want) })
		}
	}
	expectWays(t, "all ways without policy", slices.Concat(among, fromResolvers, fromAskers), nil)
	expectResolved(seenWithin, name, service.Spec.ClusterIPs)
	ready := watchReadiness(t)

	for _, mistake := range []struct {
		name, subject string
		open, closed  []way
	}{
		{"kube-system", named(metav1.NamespaceSystem), slices.Concat(among, fromAskers), fromResolvers},
		{"everybody", "{}", nil, slices.Concat(among, fromAskers, fromResolvers)},
	} {
		t.Run(mistake.name, func(t *testing.T) {
			cnp := clusterPolicy(t, "e2e-mistake", fmt.Sprintf(`{tier: Admin, priority: 0, subject: {namespaces: %s},
				ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{networks: ["0.0.0.0/0", "::/0"]}]}]}`, mistake.subject))
			createPolicies(t, api, cnp)
			expectWays(t, "a policy that denies everything of "+mistake.name, mistake.open, mistake.closed)
			for _, network := range []string{"udp", "tcp"} {
				check.Eventually(t, seenWithin, "names not to resolve by "+network, func() error { return resolvesNothing(t, askers, network, name) })
			}
			// The agents hear of what changes, and so does kubelet.
			start(t, newPod(ns, "new-node1", on("node1")), newPod(ns, "new-node2", on("node2")))
			if len(mistake.open) > 0 {
				denied := apply(t, denyAll(ns))
				expectWays(t, "a NetworkPolicy that is created meanwhile", nil, mistake.open)
				kubectl(t, "--namespace", ns, "delete", "networkpolicy", denied.Name)
				expectWays(t, "a NetworkPolicy that is deleted meanwhile", mistake.open, nil)
			}

			deletePolicies(t, api, cnp)
			back := time.Now()
			for _, w := range slices.Concat(mistake.open, mistake.closed) {
				check.Eventually(t, backWithin, "the way "+w.String()+" to be open again", w.opens)
			}
			expectResolved(backWithin, name, service.Spec.ClusterIPs)
			t.Logf("all ways are open, and names that were known resolve, %s after the policy was deleted", time.Since(back).Round(time.Millisecond))
			// Those who resolve names hear of what changes on the connections that they had, or on others.
			another := newService(t, ns, "made-after-"+mistake.name, askers[1].Name)
			expectResolved(backWithin, another.Name+"."+ns+".svc.cluster.local", another.Spec.ClusterIPs)
			t.Logf("a Service that was made since resolves %s after the policy was deleted", time.Since(back).Round(time.Millisecond))
			deleteByForce(t, podsWhere(t, ns, "app in (new-node1, new-node2)")...)
		})
	}

	ready.check(t)
	for _, pod := range running {
		now := podNow(t, pod)
		if now.UID != pod.UID || !isReady(now) || now.Status.ContainerStatuses[0].RestartCount != pod.Status.ContainerStatuses[0].RestartCount {
			t.Errorf("%s/%s had to be restarted, or is not ready: %+v", pod.Namespace, pod.Name, now.Status)
		}
	}
	for node, since := range nodes {
		if now := nodeReadySince(t, node); !now.Equal(&since) {
			t.Errorf("%s is Ready since %s, and was so since %s: it has turned NotReady", node, now, since)
		}
	}
}

// waysToAPI are those to the API server by its Service.
func waysToAPI(t *testing.T, name, podNetNS string) []way {
	t.Helper()
	service, err := client.CoreV1().Services(metav1.NamespaceDefault).Get(context.Background(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return foreign(ways(name+" to the API server", podNetNS, service.Spec.ClusterIPs, service.Spec.Ports[0].Port, 0))
}

// podNow is a pod of that name as it is now.
func podNow(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	now, err := client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return now
}
