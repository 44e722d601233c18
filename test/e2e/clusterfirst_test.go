//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/test/check"
)

// firstLabel is the label of namespaces, or of pods, by which the policies of TestClusterPoliciesFirstPacket
// mean them: with noWayOut they send to nobody, and with notWelcome the servers do not let them in.
const firstLabel, noWayOut, notWelcome = "first", "no-way-out", "not-welcome"

// TestClusterPoliciesFirstPacket: pods connect with their first instructions to a pod of their own node and
// to one of the other node, while ClusterNetworkPolicies deny it, at their end or at the other, by the label of
// their namespace or by their own. No packet of them arrives, by what a packet socket sees in the
// receivers' namespaces: neither if the namespace has had its label for long, nor if it was labelled
// a moment before, nor if it was created with its label a moment before. Others, whom nobody denies, lose no packet.
func TestClusterPoliciesFirstPacket(t *testing.T) {
	expectAnnouncing(t)
	withoutKind(t)
	installKind(t, channel(t, "standard"), "v1beta1")
	open, serving := newNamespace(t), newNamespace(t)
	servers := start(t, newPod(serving, "server-node1", on("node1")), newPod(serving, "server-node2", on("node2")))
	createPolicies(t, clusterAPI(t, "v1beta1"),
		clusterPolicy(t, "e2e-no-way-out", fmt.Sprintf(`{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {%s: %s}}}, egress: [{action: Deny, to: [{namespaces: {}}]}]}`, firstLabel, noWayOut)),
		clusterPolicy(t, "e2e-no-way-out-of-pods", fmt.Sprintf(`{tier: Baseline, priority: 1, subject: {pods: {podSelector: {matchLabels: {%s: %s}}}}, egress: [{action: Deny, to: [{networks: ["0.0.0.0/0", "::/0"]}]}]}`, firstLabel, noWayOut)),
		clusterPolicy(t, "e2e-not-welcome", fmt.Sprintf(`{tier: Admin, priority: 2, subject: {namespaces: %s}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {%s: %s}}}]}]}`, named(serving), firstLabel, notWelcome)),
	)
	// Once what has long been there is denied, the policies are in force.
	long := map[string]string{}
	for _, value := range []string{noWayOut, notWelcome} {
		long[value] = newNamespace(t, namespaceLabelled(value))
		early := start(t, newPod(long[value], "early-node1", on("node1")), newPod(long[value], "early-node2", on("node2")))
		expectWays(t, "a namespace that is "+value+" to be denied", nil, waysBetween(t, early, servers))
	}

	folder := firstPacketFolder(t)
	var all []*firsts
	next := 0 // of all pods, each of which has a name and a port of its own; those with even numbers are let in
	for _, server := range servers {
		f := &firsts{folder: folder, server: server, arrived: sniff(t, netnsOf(t, server))}
		all = append(all, f)
		pod := func(letIn bool, namespace string, change ...func(*corev1.Pod)) {
			t.Helper()
			if even := next%2 == 0; even != letIn {
				next++
			}
			p := newFirstPod(namespace, next, server)
			next++
			for _, c := range change {
				c(p.Pod)
			}
			created, err := client.CoreV1().Pods(namespace).Create(context.Background(), p.Pod, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p.Pod = created
			f.pods = append(f.pods, p)
		}
		for range 2 {
			pod(true, open)
			for _, value := range []string{noWayOut, notWelcome} {
				pod(false, long[value])
				before := newNamespace(t)
				labelNamespace(t, before, value)
				pod(false, before)
				pod(false, newNamespace(t, namespaceLabelled(value)))
			}
			pod(false, newNamespace(t), labelled(firstLabel, noWayOut))
			pod(true, open)
		}
	}
	for _, f := range all {
		for _, p := range f.pods {
			check.Eventually(t, 3*time.Minute, p.Name+" to have sent its packets", func() error {
				if _, err := os.Stat(filepath.Join(folder, p.Name)); !errors.Is(err, os.ErrNotExist) {
					return err
				}
				return errors.New("it has said nothing")
			})
			f.count(t, p)
		}
		f.arrived.missedNone(t)
		f.judge(t)
		t.Logf("to %s: let in, %d connections, %d SYNs sent twice, %d of %d datagrams lost; kept out, %d SYNs and %d datagrams sent, %d packets arrived",
			f.server.Name, f.connections, f.synsTwice, f.datagramsLost, f.datagrams, f.deniedSYNs, f.deniedDatagrams, f.leaked)
		if families := len(podIPs(f.server)); f.deniedSYNs < 14*families || f.connections != 4*families {
			t.Errorf("to %s: those kept out have sent %d SYNs, and those let in have %d connections", f.server.Name, f.deniedSYNs, f.connections)
		}
	}
}

// namespaceLabelled gives a namespace the label by which policies mean it, from the beginning.
func namespaceLabelled(value string) func(*corev1.Namespace) {
	return func(ns *corev1.Namespace) { ns.Labels[firstLabel] = value }
}

// labelNamespace gives a namespace that label.
func labelNamespace(t *testing.T, namespace, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, firstLabel, value)
	if _, err := client.CoreV1().Namespaces().Patch(context.Background(), namespace, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
