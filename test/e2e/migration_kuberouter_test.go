//go:build e2e

package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/test/check"
)

// TestMigrationFromKubeRouter: kube-router, as its own manifest for kubeadm deploys it, connects the pods and
// fences them. podfence takes over the policies by the commands of docs/migrations/kube-router.md; then
// kube-router takes them back, and podfence once more, and the network besides, node after node. Nothing that is
// denied passes meanwhile, and no connection breaks of pods that are not drained.
func TestMigrationFromKubeRouter(t *testing.T) {
	page := readPage(t, "kube-router")
	began := time.Now()
	installPlugins(t, "main/bridge", "main/loopback", "ipam/host-local", "meta/portmap")
	manifest, err := os.ReadFile(filepath.Join(otherModule(t, "kube-router", "github.com/cloudnativelabs/kube-router/v2"), "daemonset/kubeadm-kuberouter.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	showOther(t, "kube-system", "k8s-app=kube-router")
	deployOther(t, manifest)
	otherReady(t, "kube-system", "kube-router")

	p := startPassage(t, page, true, bothNodes...)
	takeOver := []string{"beside", "firewall-off", "rules"}
	for _, step := range takeOver {
		p.expectClosed(t, step, p.step(t, step))
	}
	expectNothingOn(t, `iptables-save | grep -E 'KUBE-(ROUTER|NWPLCY|POD-FW)'; ip6tables-save | grep -E 'KUBE-(ROUTER|NWPLCY|POD-FW)'; ipset list -n | grep -E 'KUBE-(SRC|DST)-'`)
	p.expectDenied(t, "by podfence alone")
	p.expectClosed(t, "podfence alone", p.row(t, "podfence alone"))
	for _, step := range []string{"back-firewall", "back-rules", "back-podfence"} {
		p.expectClosed(t, step, p.step(t, step))
	}
	for _, node := range bothNodes {
		expectCleared(t, node)
	}
	p.expectDenied(t, "by kube-router again")
	for _, step := range takeOver {
		p.expectClosed(t, step, p.step(t, step))
	}
	p.expectClosed(t, "network", p.step(t, "network"))
	p.end()
	deletePods(t, p.namespace) // no controller makes them again, so no node could be drained
	deletePods(t, p.control.Namespace)

	rows := p.rows
	first := unreadyNode(t)
	for _, node := range []string{first, otherNode(first)} {
		rows = append(rows, replaceNetwork(t, page, node)...)
	}
	page.run(t, "gone", "")
	expectNothingOn(t, `ip -o link | grep kube-bridge; ip route show proto 17; ip rule | grep -w 77; ipset list -n | grep kube-router; iptables-save | grep -E 'kube-bridge|kube-router'; ls /etc/cni/net.d/10-kuberouter.conflist /var/lib/cni/networks/mynet`)
	last := startPassage(t, page, true, bothNodes...)
	last.expectClosed(t, "podfence as the network", last.row(t, "podfence as the network"))
	publish(t, page, time.Since(began), "", append(rows, last.rows...)...)
}

// replaceNetwork has podfence connect a node's pods in kube-router's place, while pods of the other node must
// notice nothing, and returns what was counted of those.
func replaceNetwork(t *testing.T, page migrationPage, node string) []string {
	t.Helper()
	p := startPassage(t, page, true, otherNode(node))
	for _, step := range []string{"drain", "clean", "uncordon"} {
		p.expectClosed(t, step, p.stepOn(t, step, node))
	}
	server := start(t, newPod(p.namespace, "server-"+node, on(node), labelled("app", "server")))
	expectWays(t, "pods of "+otherNode(node)+" to reach the new pod on "+node+", and strangers not to", waysBetween(t, p.pods.friends, server), waysBetween(t, p.pods.strangers, server))
	p.expectClosed(t, "a new pod", p.row(t, "a pod on "+node+" is reached from "+otherNode(node)))
	p.end()
	deletePods(t, p.namespace)
	deletePods(t, p.control.Namespace)
	return p.rows[1:] // without the measure of before
}

func otherNode(node string) string {
	return bothNodes[1-slices.Index(bothNodes, node)]
}

// unreadyNode waits until the agent of a node is not ready because another network's configuration comes first.
func unreadyNode(t *testing.T) (found string) {
	t.Helper()
	check.Eventually(t, 2*time.Minute, "an agent to find kube-router's configuration", func() error {
		pods, err := client.CoreV1().Pods(agentNamespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=agent"})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if status, text, err := readyz(pod.Spec.NodeName); err == nil && status != http.StatusOK {
				t.Logf("%s: %s", pod.Spec.NodeName, text)
				found = pod.Spec.NodeName
				return nil
			}
		}
		return errors.New("all are ready")
	})
	return found
}

func unmarshal(t *testing.T, text string, to any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), to); err != nil {
		t.Fatal(err)
	}
}

func marshal(t *testing.T, object any) string {
	t.Helper()
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
