//go:build e2e

package e2e

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
)

// chartRelease is the chart as it is installed by Helm, in place of what kustomize has installed.
type chartRelease struct{ helm string }

// newChart builds the helm that test/tools pins.
func newChart(t *testing.T) chartRelease {
	t.Helper()
	helm := filepath.Join(t.TempDir(), "helm")
	if out, err := exec.Command("go", "-C", "../../test/tools", "build", "-o", helm, "helm.sh/helm/v4/cmd/helm").CombinedOutput(); err != nil {
		t.Fatalf("building helm: %v: %s", err, out)
	}
	return chartRelease{helm}
}

// call runs helm as cluster admin, and returns all that it prints.
func (c chartRelease) call(args ...string) (string, error) {
	cmd := theCluster.BesideKubectl(context.Background(), c.helm, append(args, "--namespace", agentNamespace)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+theCluster.AdminConfig())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// upgrade installs the chart, or changes its values.
func (c chartRelease) upgrade(t *testing.T, values ...string) {
	t.Helper()
	args := []string{"upgrade", "--install", "podfence", "../../charts/podfence", "--create-namespace"}
	at := strings.LastIndex(theImage, ":")
	// All at once, as agents of another mode wait for all pods to be made anew.
	for _, value := range append(values, "updateStrategy.rollingUpdate.maxUnavailable=100%", "image.repository="+theImage[:at], "image.tag="+theImage[at+1:]) {
		args = append(args, "--set", value)
	}
	if out, err := c.call(args...); err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// test runs helm test.
func (c chartRelease) test() (string, error) { return c.call("test", "podfence", "--timeout", "5m") }

// expectPassed expects helm test to pass, at an address of each IP family that pods have, and to leave nothing.
func (c chartRelease) expectPassed(t *testing.T, when string) {
	t.Helper()
	out, err := c.test()
	if err != nil {
		t.Fatalf("%s: helm test: %v\n%s%s", when, err, out, c.logs(t))
	}
	node, err := client.CoreV1().Nodes().Get(context.Background(), bothNodes[0], metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	families := len(node.Spec.PodCIDRs)
	if n := strings.Count(out, "gives no answer, as it should be"); n != families || !strings.Contains(out, "passed: the NetworkPolicy is enforced") {
		t.Errorf("%s: helm test has tried %d denied connections, with %d families: %s", when, n, families, out)
	}
	check.Eventually(t, time.Minute, "what helm test has started to end", func() error {
		if left := kubectl(t, "--namespace", agentNamespace, "get", "pods,deployments,services,networkpolicies", "-o", "name"); strings.Contains(left, "podfence-test") {
			return errors.New(left)
		}
		return nil
	})
}

// expectFailed expects helm test to say that what should be denied has passed.
func (c chartRelease) expectFailed(t *testing.T, when string) {
	t.Helper()
	out, err := c.test()
	if logs := c.logs(t); err == nil || !strings.Contains(out, "THE DENIED CONNECTION PASSED") || !strings.Contains(logs, "THE DENIED CONNECTION PASSED") {
		t.Errorf("%s: helm test: %v\n%s\nThe client's log is: %s", when, err, out, logs)
	}
}

// logs is what the client has said that is left after a failure.
func (c chartRelease) logs(t *testing.T) string {
	t.Helper()
	out, err := theCluster.Kubectl(context.Background(), "--namespace", agentNamespace, "logs", "podfence-test")
	if err != nil {
		return err.Error()
	}
	return out
}

// expectScraped expects metrics at each pod of podfence, where its annotations say they are, for a Prometheus on another
// host.
func expectScraped(t *testing.T) {
	t.Helper()
	pods, err := client.CoreV1().Pods(agentNamespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) < 4 {
		t.Errorf("there are only %d pods", len(pods.Items))
	}
	for _, pod := range pods.Items {
		said := pod.Annotations
		if said["prometheus.io/scrape"] != "true" {
			t.Errorf("%s is not to be scraped: %v", pod.Name, said)
			continue
		}
		from := bothNodes[0]
		if pod.Spec.NodeName == from {
			from = bothNodes[1]
		}
		url := "http://" + net.JoinHostPort(pod.Status.PodIP, said["prometheus.io/port"]) + said["prometheus.io/path"]
		if metrics := run(t, from, "curl", "--silent", "--show-error", "--fail", "--max-time", "10", url); !strings.Contains(metrics, "\ngo_goroutines ") {
			t.Errorf("%s of %s, on %s, has no metrics: %.200s", url, pod.Name, from, metrics)
		}
	}
}

// TestChart: the chart is installed in place of config/default, and helm test passes, also while the agent of one
// node is that of a pool. podfence is taken off the nodes by the release, and another network plugin connects the
// pods: helm test fails, as nothing is denied. With podfence as policy alone on top of that plugin, and then behind
// it in its chain, helm test passes again.
func TestChart(t *testing.T) {
	c, other := newChart(t), newOtherPlugin(t)
	ns := newNamespace(t) // for showNodes
	kubectl(t, "delete", "-k", "../../config/default", "--ignore-not-found")
	t.Cleanup(func() {
		showNodes(t, ns)
		if out, err := c.call("uninstall", "podfence", "--wait", "--timeout", "3m", "--ignore-not-found"); err != nil {
			t.Errorf("helm uninstall: %v\n%s", err, out)
		}
		kubectl(t, "--namespace", agentNamespace, "delete", "pod", "podfence-test", "--ignore-not-found", "--grace-period=1")
		other.remove(t)
		reinstall(t)
	})

	c.upgrade(t, "cni.mode=bridge")
	agentsReady(t)
	c.expectPassed(t, "bridge")
	c.upgrade(t, "cni.mode=bridge", "deny=reject")
	agentsReady(t)
	c.expectPassed(t, "bridge, with denied packets rejected")

	const pool = "podfence.io/pool"
	kubectl(t, "label", "node", "node2", pool+"=large", "--overwrite")
	t.Cleanup(func() { kubectl(t, "label", "node", "node2", pool+"-") })
	c.upgrade(t, "cni.mode=bridge", "metrics.prometheus.annotations=true", "pools.byName.large.extraArgs={--observe-flows=8192}")
	for _, of := range []string{"daemonset/" + agentName, "daemonset/" + agentName + "-large", "deployment/podfence-status-writer"} {
		kubectl(t, "--namespace", agentNamespace, "rollout", "status", "--timeout=3m", of)
	}
	for node, owner := range map[string]string{"node1": agentName, "node2": agentName + "-large"} {
		if pod := agentPods(t)[node]; pod == nil || pod.OwnerReferences[0].Name != owner {
			t.Errorf("the agent of %s is not of the DaemonSet %s: %+v", node, owner, pod)
		}
	}
	c.expectPassed(t, "with a pool")
	expectScraped(t)

	c.upgrade(t, "cni.mode=bridge", "uninstall=true")
	kubectl(t, "label", "nodes", "--all", uninstallKey+"=true", "--overwrite")
	kubectl(t, "--namespace", agentNamespace, "rollout", "status", "daemonset/podfence-uninstall", "--timeout=3m")
	for _, node := range bothNodes {
		expectCleared(t, node)
	}
	other.install(t)
	if err := theCluster.WaitReady(context.Background(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	remake(t)
	c.expectFailed(t, "no agents")

	c.upgrade(t, "cni.mode=none") // on no node, as long as these have the label
	kubectl(t, "label", "nodes", "--all", uninstallKey+"-")
	agentsReady(t)
	c.expectPassed(t, "policy alone")

	for _, node := range bothNodes {
		other.configure(t, node, map[string]any{"type": "podfence", "mode": "chained"})
	}
	c.upgrade(t, "cni.mode=chained")
	agentsReady(t)
	remake(t)
	c.expectPassed(t, "chained")
	for _, node := range bothNodes {
		other.configure(t, node)
	}
}
