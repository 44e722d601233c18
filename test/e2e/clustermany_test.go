//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/test/check"
)

const (
	// manyPolicies is how many policies TestClusterPoliciesOfOnePriority creates.
	manyPolicies = 1000
	// actsWithin is how long a change of a label may take among them until packets show it.
	actsWithin = 2 * time.Second
)

// TestClusterPoliciesOfOnePriority: a thousand policies of one tier and one priority are created at once,
// those last by name first. They are enforced in the order of their names. Agents stay ready, from
// the first of them to the deletion of all, and a pod's new label acts in less than two seconds.
func TestClusterPoliciesOfOnePriority(t *testing.T) {
	withoutKind(t)
	installKind(t, channel(t, "standard"), "v1beta1")
	api := clusterAPI(t, "v1beta1")
	m := newMany(t)
	before := map[string]float64{}
	for _, node := range bothNodes {
		noneEnding(t, node) // whose policies would end as well
		n, err := policiesOf(node)
		if err != nil {
			t.Fatal(err)
		}
		before[node] = n
	}
	m.logMemory(t, "before")
	ready := watchReadiness(t)

	policies := ofOnePriority(t, m.servers, m.clients)
	first := policies[0]
	began := time.Now()
	createAll(t, api, policies)
	created := time.Now()
	check.Eventually(t, 2*time.Minute, "the agents to enforce all policies", func() error {
		for _, node := range bothNodes {
			n, err := policiesOf(node)
			if err != nil {
				return err
			}
			if more := n - before[node]; more < manyPolicies {
				return fmt.Errorf("that of %s enforces %v more than before", node, more)
			}
		}
		return nil
	})
	t.Logf("%d policies were created in %s, and in force on both nodes %s later", len(policies), created.Sub(began).Round(time.Millisecond), time.Since(created).Round(time.Millisecond))
	// The first by name accepts and denies the favourite, the last one everybody, the other way round.
	expectWays(t, "the first by name to decide before the last", slices.Concat(m.tcp(t, m.favourite), m.udp(t, m.other)), slices.Concat(m.udp(t, m.favourite), m.tcp(t, m.other)))
	m.logMemory(t, "with them")

	for range 2 {
		m.expectLabelActs(t, "favourite", true)
		m.expectLabelActs(t, "other", false)
	}

	deletePolicies(t, api, first)
	expectWays(t, "the last by name to decide alone", slices.Concat(m.udp(t, m.favourite), m.udp(t, m.other)), slices.Concat(m.tcp(t, m.favourite), m.tcp(t, m.other)))
	createPolicies(t, api, ofOnePriority(t, m.servers, m.clients)[0])
	expectWays(t, "the first by name to decide again", slices.Concat(m.tcp(t, m.favourite), m.udp(t, m.other)), slices.Concat(m.udp(t, m.favourite), m.tcp(t, m.other)))

	deleted := time.Now()
	if err := api.DeleteAllOf(context.Background(), &clusterv1beta1.ClusterNetworkPolicy{}); err != nil {
		t.Fatal(err)
	}
	all := slices.Concat(m.tcp(t, m.favourite), m.udp(t, m.favourite), m.tcp(t, m.other), m.udp(t, m.other))
	expectWays(t, "everything to be open without them", all, nil)
	t.Logf("all were deleted, and what they denied was open, within %s", time.Since(deleted).Round(time.Millisecond))
	m.logMemory(t, "after them")
	ready.check(t)
}

// many is the pods that a thousand policies are about: servers on both nodes, and two clients, of
// which the first policy by name means one.
type many struct {
	servers, clients string // the namespaces
	serverPods       []*corev1.Pod
	favourite, other *corev1.Pod
}

func newMany(t *testing.T) *many {
	t.Helper()
	m := &many{servers: newNamespace(t), clients: newNamespace(t)}
	pods := start(t,
		newPod(m.servers, "server-node1", on("node1")), newPod(m.servers, "server-node2", on("node2")),
		newPod(m.clients, "favourite", on("node1"), labelled("role", "favourite"), labelled("team", "team-1")),
		newPod(m.clients, "other", on("node2"), labelled("role", "other"), labelled("team", "team-2")),
	)
	m.serverPods, m.favourite, m.other = pods[:2], pods[2], pods[3]
	return m
}

// tcp are the ways of a client to the servers by TCP, and udp those by UDP.
func (m *many) tcp(t *testing.T, from *corev1.Pod) (all []way) {
	t.Helper()
	for _, server := range m.serverPods {
		all = append(all, ways(from.Name+" to "+server.Name, netnsOf(t, from), podIPs(server), 8080, 0)...)
	}
	return all
}

func (m *many) udp(t *testing.T, from *corev1.Pod) (all []way) {
	t.Helper()
	for _, server := range m.serverPods {
		all = append(all, ways(from.Name+" to "+server.Name, netnsOf(t, from), podIPs(server), 0, 8081)...)
	}
	return all
}

// ofOnePriority makes the policies, in the order of their names. All are about the servers but for each
// tenth, which is about the clients. The first one accepts TCP of the favourite and denies its UDP;
// the last one denies TCP of everybody and accepts UDP. Those between accept, deny and pass other
// ports, by labels that some pods have, and most none.
func ofOnePriority(t *testing.T, servers, clients string) (all []*clusterv1beta1.ClusterNetworkPolicy) {
	t.Helper()
	const (
		tcp = "protocols: [{tcp: {destinationPort: {number: 8080}}}]"
		udp = "protocols: [{udp: {destinationPort: {number: 8081}}}]"
	)
	for i := range manyPolicies {
		subject := servers
		action := []string{"Accept", "Deny", "Pass"}[i%3]
		rules := fmt.Sprintf("{action: %s, from: [{pods: {podSelector: {matchLabels: {team: team-%d}}}}], protocols: [{tcp: {destinationPort: {number: %d}}}]}", action, i, 20000+i)
		switch favourite := "from: [{pods: {podSelector: {matchLabels: {role: favourite}}}}]"; {
		case i == 0:
			rules = fmt.Sprintf("{action: Accept, %s, %s}, {action: Deny, %s, %s}", favourite, tcp, favourite, udp)
		case i == manyPolicies-1:
			rules = fmt.Sprintf("{action: Deny, from: [{namespaces: {}}], %s}, {action: Accept, from: [{namespaces: {}}], %s}", tcp, udp)
		case i%10 == 9:
			subject = clients
		}
		all = append(all, clusterPolicy(t, fmt.Sprintf("e2e-same-%04d", i), fmt.Sprintf("{tier: Admin, priority: 500, subject: {namespaces: %s}, ingress: [%s]}", named(subject), rules)))
	}
	return all
}

// createAll creates policies, the last ones first, several at a time.
func createAll(t *testing.T, api ctrlclient.Client, policies []*clusterv1beta1.ClusterNetworkPolicy) {
	t.Helper()
	next := make(chan *clusterv1beta1.ClusterNetworkPolicy)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for cnp := range next {
				if err := api.Create(context.Background(), cnp); err != nil {
					t.Errorf("creating %s: %v", cnp.Name, err)
				}
			}
		})
	}
	for _, cnp := range slices.Backward(policies) {
		next <- cnp
	}
	close(next)
	workers.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// expectLabelActs labels the other client with a role, by which its TCP must be open or closed in time,
// on both nodes.
func (m *many) expectLabelActs(t *testing.T, role string, open bool) {
	t.Helper()
	label(t, "role", role, m.other)
	labelled := time.Now()
	var took sync.Map // by way
	var all sync.WaitGroup
	for _, w := range m.tcp(t, m.other) {
		all.Go(func() {
			for time.Since(labelled) < seenWithin {
				if _, err := w.ask("hostname", 200*time.Millisecond); (err == nil) == open {
					took.Store(w, time.Since(labelled))
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	all.Wait()
	for _, w := range m.tcp(t, m.other) {
		after, acts := took.Load(w)
		switch {
		case !acts:
			t.Fatalf("%s does not become open=%t by the label role=%s", w, open, role)
		case after.(time.Duration) > actsWithin:
			t.Errorf("%s becomes open=%t %s after the label role=%s", w, open, after, role)
		default:
			t.Logf("%s: open=%t %s after the label role=%s", w, open, after.(time.Duration).Round(time.Millisecond), role)
		}
	}
	if open { // It stays so.
		expectWays(t, "the label role="+role+" to act", m.tcp(t, m.other), nil)
	} else {
		expectWays(t, "the label role="+role+" to act", nil, m.tcp(t, m.other))
	}
}

// policiesOf is how many policies the agent of a node enforces, whether they select pods of it or not.
func policiesOf(node string) (total float64, err error) {
	for _, active := range []string{"true", "false"} {
		n, err := metric(node, `podfence_policies{active="`+active+`"}`)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// logMemory says how much memory the agents take.
func (m *many) logMemory(t *testing.T, when string) {
	t.Helper()
	for node, pid := range agentProcesses(t) {
		elements, err := metric(node, "podfence_table_elements")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s, the agent of %s takes %s, and its table has %v elements", when, node, processStatus(t, pid)["VmRSS"], elements)
	}
}
