//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

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
	for _, node := range bothNodes {
		expectShadowed(t, node)
	}
	for _, node := range bothNodes {
		rows = append(rows, replaceNetwork(t, page, node)...)
	}
	page.run(t, "gone", "")
	expectNothingOn(t, `ip -o link | grep kube-bridge; ip route show proto 17; ip rule | grep -w 77; ipset list -n | grep kube-router; iptables-save | grep -E 'kube-bridge|kube-router'; ls /etc/cni/net.d/10-kuberouter.conflist /var/lib/cni/networks/mynet`)
	last := startPassage(t, page, true, bothNodes...)
	time.Sleep(5 * time.Second)
	last.expectClosed(t, "podfence as the network", last.row(t, "podfence as the network"))
	publish(t, page, time.Since(began), "", append(rows, last.rows[1:]...)...)
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
	if node == bothNodes[0] { // the other one still has kube-router
		expectRoutesKept(t, otherNode(node), p.pods.friends[0], server[0])
	}
	p.expectClosed(t, "a new pod", p.row(t, "a pod on "+node+" is reached from "+otherNode(node)))
	p.end()
	deletePods(t, p.namespace)
	deletePods(t, p.control.Namespace)
	return p.rows[1:] // without the measure of before
}

func otherNode(node string) string {
	return bothNodes[1-slices.Index(bothNodes, node)]
}

// expectShadowed waits until the agent of a node is not ready because kube-router's configuration comes first.
func expectShadowed(t *testing.T, node string) {
	t.Helper()
	check.Eventually(t, 2*time.Minute, "the agent of "+node+" to find kube-router's configuration", func() error {
		status, text, err := readyz(node)
		if err == nil && (status == http.StatusOK || !strings.Contains(text, "ConflistShadowed")) {
			err = fmt.Errorf("it says %d: %s", status, text)
		}
		return err
	})
}

// expectRoutesKept waits until a node's kube-router has taken its routes to nodes away that it has left, while a
// pod of the node talks with one of such a node: podfence's routes come in their place.
func expectRoutesKept(t *testing.T, node string, from, to *corev1.Pod) {
	t.Helper()
	talk := keepTalking(t, from, podIPs(to)[0])
	check.Eventually(t, 6*time.Minute, "kube-router of "+node+" to take its routes away", func() error {
		if routes := run(t, node, "ip", "route", "show", "proto", "17"); routes != "" {
			return errors.New(routes)
		}
		return nil
	})
	time.Sleep(5 * time.Second)
	talk.check(t, "from a node with kube-router to one without, until its routes are gone")
}
