//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/test/check"
)

// remadeNode is node2 with pods, some of which nothing may reach or come from, under
// watch.
func remadeNode(t *testing.T) *watch {
	t.Helper()
	closed, open := newNamespace(t), newNamespace(t)
	apply(t, denyAll(closed))
	rewindLeases(t, "node2")
	var pods []*corev1.Pod
	const each = 5
	for i := range each {
		pods = append(pods, newPod(closed, fmt.Sprintf("denied-%d", i), on("node2")))
	}
	for i := range each {
		pods = append(pods, newPod(open, fmt.Sprintf("open-%d", i), on("node2")))
	}
	pods = start(t, append(pods, newPod(open, "far", on("node1")))...)
	return watchNode(t, "node2", pods[:each], pods[each:2*each], pods[2*each:])
}

// TestSandboxesRemade: while containerd is away all sandboxes of a node end. The pods
// stay, and get sandboxes with each other's addresses, before the API shows those.
// Whatever it shows, nothing passes to or from those that are denied, and all else does
// again.
func TestSandboxesRemade(t *testing.T) {
	// Each with pods of its own: kubelet waits twice as long each time before it starts
	// a pod's containers again, and minutes after five times.
	t.Run("agent stays", func(t *testing.T) {
		w := remadeNode(t)
		w.expectSwaps(t, func() { w.remakeSandboxes(t) })
	})
	t.Run("agent starts anew", func(t *testing.T) {
		w := remadeNode(t)
		w.expectSwaps(t, func() {
			w.remakeSandboxes(t)
			pid, err := strconv.Atoi(agentProcesses(t)[w.node])
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		})
	})
	agentsReady(t)
}

// TestRebootedWithOtherAddresses: a node loses its power and comes back. The API shows
// the addresses of before, and the pods get each other's. No
// attachment is left that says otherwise until they are connected.
func TestRebootedWithOtherAddresses(t *testing.T) {
	w := remadeNode(t)
	w.expectSwaps(t, func() {
		if err := theCluster.RestartNode(context.Background(), 2, nil); err != nil {
			t.Fatal(err)
		}
		// As where they are kept in memory; containerd is not up yet.
		run(t, w.node, "rm", "-rf", "/var/lib/cni/podfence")
	})
	agentsReady(t)
}

// expectSwaps has the pods' sandboxes made anew while the API goes on to show the
// addresses of before, up to a few times, until one that is denied has the address that
// an open one had, and an open one that of one denied.
func (w *watch) expectSwaps(t *testing.T, remake func()) {
	t.Helper()
	before := w.expectOpen(t)
	toOpen, toDenied := 0, 0
	for round := 0; round < 5 && (toOpen == 0 || toDenied == 0); round++ {
		release := holdStatus(t, w.node)
		remake()
		w.expectRemade(t, before)
		after := w.expectOpen(t)
		if err := w.shownAt(before); err != nil {
			t.Errorf("the API must show the addresses of before, or nothing is seen: %v", err)
		}
		w.expectNoLeaks(t)
		release()
		check.Eventually(t, time.Minute, "the API to show the addresses of now", func() error { return w.shownAt(after) })
		w.expectOpen(t)
		w.expectNoLeaks(t)
		o, d := w.swapped(before, after)
		toOpen, toDenied = toOpen+o, toDenied+d
		t.Logf("round %d: %d open pods have an address that a denied one had, and %d the other way", round, o, d)
		before = after
	}
	if toOpen == 0 || toDenied == 0 {
		t.Error("no address went both ways: nothing is shown")
	}
}

// swapped counts the open pods that have an address which a denied one had before, and
// the denied ones that have an open one's.
func (w *watch) swapped(before, after map[string]*witness) (toOpen, toDenied int) {
	had := map[netip.Addr]string{}
	for uid, one := range before {
		for _, ip := range one.addresses() {
			had[ip] = uid
		}
	}
	for uid, one := range after {
		for _, ip := range one.addresses() {
			earlier, known := had[ip]
			switch {
			case !known || w.denied[uid] == w.denied[earlier]:
			case w.denied[uid]:
				toDenied++
			default:
				toOpen++
			}
		}
	}
	return toOpen, toDenied
}

// shownAt fails unless the API shows the pods at the addresses of these sandboxes.
func (w *watch) shownAt(sandboxes map[string]*witness) error {
	var errs []error
	for uid, pod := range w.pods {
		now, err := client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, ip := range sandboxes[uid].addresses() {
			if !slices.Contains(podIPs(now), ip.String()) {
				errs = append(errs, fmt.Errorf("%s is at %s, and not at %s", pod.Name, podIPs(now), ip))
			}
		}
	}
	return errors.Join(errs...)
}

// holdStatus has the API server refuse what a node's kubelet says of its pods, so that
// it goes on to show what it does, until it is released, or the test ends.
func holdStatus(t *testing.T, node string) (release func()) {
	t.Helper()
	ctx := context.Background()
	name := "hold-status-of-" + node
	api := client.AdmissionregistrationV1()
	release = sync.OnceFunc(func() {
		err := errors.Join(api.ValidatingAdmissionPolicyBindings().Delete(ctx, name, metav1.DeleteOptions{}),
			api.ValidatingAdmissionPolicies().Delete(ctx, name, metav1.DeleteOptions{}))
		if err != nil {
			t.Error(err)
		}
	})
	_, err := api.ValidatingAdmissionPolicies().Create(ctx, &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Update},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/status"}},
				},
			}}},
			Validations: []admissionv1.Validation{{Expression: "request.userInfo.username != 'system:node:" + node + "'"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	_, err = api.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The API server takes its time to heed it.
	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + node, Groups: []string{"system:nodes"}}
	kubelet, err := kubernetes.NewForConfig(as)
	if err != nil {
		t.Fatal(err)
	}
	agent := agentOf(t, node)
	check.Eventually(t, time.Minute, "the API server to refuse the kubelet of "+node, func() error {
		_, err := kubelet.CoreV1().Pods(agentNamespace).Patch(ctx, agent, types.StrategicMergePatchType, []byte(`{"status":{"message":""}}`),
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}, "status")
		if err == nil || !strings.Contains(err.Error(), name) {
			return fmt.Errorf("it says: %v", err)
		}
		return nil
	})
	return release
}

// agentOf is the name of a node's agent's pod.
func agentOf(t *testing.T, node string) string {
	t.Helper()
	pods, err := client.CoreV1().Pods(agentNamespace).List(context.Background(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=agent", FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d agents on %s: %v", len(pods.Items), node, err)
	}
	return pods.Items[0].Name
}

// expectRemade waits until each pod has another sandbox than before, and its program
// runs in it.
func (w *watch) expectRemade(t *testing.T, before map[string]*witness) {
	t.Helper()
	check.Eventually(t, 4*time.Minute, "the sandboxes of "+w.node+" to be made anew", func() error {
		now := w.now()
		var errs []error
		for uid, pod := range w.pods {
			if now[uid] == nil || now[uid] == before[uid] || len(now[uid].addresses()) == 0 {
				errs = append(errs, fmt.Errorf("%s has no new one", pod.Name))
			}
		}
		return errors.Join(errs...)
	})
}

// remakeSandboxes ends all that runs in the node's sandboxes while containerd stands
// still, and then containerd, which the node starts again.
func (w *watch) remakeSandboxes(t *testing.T) {
	t.Helper()
	signal := func(s syscall.Signal) {
		if err := theCluster.Signal(w.node, "containerd", s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	rewindLeases(t, w.node)
	for _, path := range w.sandboxPaths() {
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			t.Fatal(err)
		}
		for _, process := range processesIn(stat.Ino) {
			pid, err := strconv.Atoi(filepath.Base(process))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	signal(syscall.SIGKILL)
}

// rewindLeases has a node's plugin give out the lowest addresses that are free, as after
// the last of its range, instead of those that nobody has had.
func rewindLeases(t *testing.T, node string) {
	t.Helper()
	run(t, node, "sh", "-c", "rm -f /var/lib/cni/podfence/podfence/last_reserved_ip.*")
}

// run runs a command on a host, and returns what it prints.
func run(t *testing.T, host string, command ...string) string {
	t.Helper()
	cmd, err := theCluster.Exec(context.Background(), host, command...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s on %s: %v: %s", command, host, err, out)
	}
	return string(out)
}

// agentsReady waits until nodes and agents are.
func agentsReady(t *testing.T) {
	t.Helper()
	if err := theCluster.WaitReady(context.Background(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "--namespace", agentNamespace, "rollout", "status", "--timeout=3m", "daemonset/"+agentName)
}
