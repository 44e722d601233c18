//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/test/check"
)

// What is common to the tests of a node's life: what happens to a node and its agent while
// pods run, who must notice nothing.

// goesOn is pods on both nodes that must go on as they are: servers and friends, under
// deny by default, who talk without end, and strangers, who are denied without end.
type goesOn struct {
	namespace                    string
	servers, friends, strangers  []*corev1.Pod
	control                      *corev1.Pod
	talks                        []*steady
	service                      *corev1.Service
	nodes                        map[string]metav1.Time // since when each is Ready
	mu                           sync.Mutex
	endpoints                    []error
	stopEndpoints, endpointsDone func()
}

var bothNodes = []string{"node1", "node2"}

// keepGoing starts them. check, at the end, fails the test for what they noticed.
func keepGoing(t *testing.T) *goesOn {
	t.Helper()
	g := &goesOn{namespace: newNamespace(t), nodes: map[string]metav1.Time{}}
	friendsAndServers(t, g.namespace)
	open := newNamespace(t)
	var pods []*corev1.Pod
	for _, node := range bothNodes {
		pods = append(pods, newPod(g.namespace, "server-"+node, on(node), labelled("app", "server")),
			newPod(g.namespace, "friend-"+node, on(node), labelled("app", "friend")), newPod(open, "stranger-"+node, on(node)))
	}
	pods = start(t, append(pods, newPod(open, "control", on("node1")))...)
	g.servers, g.friends, g.strangers = []*corev1.Pod{pods[0], pods[3]}, []*corev1.Pod{pods[1], pods[4]}, []*corev1.Pod{pods[2], pods[5]}
	g.control = pods[6]
	g.service = newService(t, g.namespace, "server", "server")
	for _, friend := range g.friends {
		for _, server := range g.servers {
			// By TCP alone: the servers' counts are of UDP.
			expectWays(t, friend.Name+" to reach "+server.Name, ways(friend.Name, netnsOf(t, friend), podIPs(server), 8080, 0), nil)
			for _, ip := range podIPs(server) {
				g.talks = append(g.talks, keepTalking(t, friend, ip))
			}
		}
	}
	for _, stranger := range g.strangers {
		knock(t, stranger, append([]*corev1.Pod{g.control}, g.servers...)...)
	}
	for _, node := range bothNodes {
		g.nodes[node] = nodeReadySince(t, node)
	}
	g.watchEndpoints(t)
	return g
}

// watchEndpoints takes down whenever one of the servers is no endpoint of the Service that
// is ready.
func (g *goesOn) watchEndpoints(t *testing.T) {
	t.Helper()
	servers := map[string]bool{}
	for _, server := range g.servers {
		servers[server.Name] = true
	}
	ready := func() (n int, err error) {
		slices, err := client.DiscoveryV1().EndpointSlices(g.namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + g.service.Name})
		if err != nil {
			return 0, err
		}
		for _, slice := range slices.Items {
			for _, e := range slice.Endpoints {
				if e.TargetRef != nil && servers[e.TargetRef.Name] && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					n++
				}
			}
		}
		return n, nil
	}
	want := 0
	for _, server := range g.servers {
		want += len(server.Status.PodIPs)
	}
	check.Eventually(t, time.Minute, "the servers to be endpoints", func() error {
		n, err := ready()
		if err == nil && n != want {
			err = fmt.Errorf("%d of %d are", n, want)
		}
		return err
	})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(250 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			if n, err := ready(); err == nil && n != want {
				g.mu.Lock()
				g.endpoints = append(g.endpoints, fmt.Errorf("%s: %d of %d endpoints are ready", time.Now().Format("15:04:05"), n, want))
				g.mu.Unlock()
			}
		}
	}()
	g.stopEndpoints = sync.OnceFunc(func() { close(stop) })
	g.endpointsDone = func() { <-done }
	t.Cleanup(func() { g.stopEndpoints(); <-done })
}

// check ends what goes on, and fails the test for each packet that was lost or that passed
// and should not, and for each node and endpoint that was not Ready meanwhile.
func (g *goesOn) check(t *testing.T) {
	t.Helper()
	g.stopEndpoints()
	g.endpointsDone()
	for i, talk := range g.talks {
		talk.check(t, fmt.Sprintf("talk %d", i))
	}
	g.checkClosed(t)
	for node, since := range g.nodes {
		if now := nodeReadySince(t, node); !now.Equal(&since) {
			t.Errorf("%s is Ready since %s, and was so since %s: it has turned NotReady", node, now, since)
		}
	}
	if n := len(g.endpoints); n > 0 {
		t.Errorf("endpoints left the Service, seen %d times, at first: %v", n, g.endpoints[0])
	}
}

// checkClosed fails the test for what strangers have got through.
func (g *goesOn) checkClosed(t *testing.T) {
	t.Helper()
	for _, server := range g.servers {
		if n := received(t, server); n != 0 {
			t.Errorf("%s has received %d denied packets", server.Name, n)
		}
	}
	if n := received(t, g.control); n < 100 {
		t.Errorf("the control has received only %d packets", n)
	}
}

// nodeReadySince is since when a node is Ready; the zero time if it is not.
func nodeReadySince(t *testing.T, name string) metav1.Time {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime
		}
	}
	return metav1.Time{}
}

// changeAgents changes the agents' DaemonSet, and has all agents replaced at once. At the
// end of the test it is again what it was, and all agents are ready.
func changeAgents(t *testing.T, change func(*corev1.PodSpec)) {
	t.Helper()
	before := agentDaemonSet(t)
	t.Cleanup(func() {
		updateAgents(t, func(ds *appsv1.DaemonSet) { ds.Spec = before.Spec })
		agentsReady(t)
	})
	updateAgents(t, func(ds *appsv1.DaemonSet) {
		all := intstr.FromString("100%")
		ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{
			Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &all},
		}
		change(&ds.Spec.Template.Spec)
	})
}

func updateAgents(t *testing.T, change func(*appsv1.DaemonSet)) {
	t.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		ds, err := client.AppsV1().DaemonSets(agentNamespace).Get(context.Background(), agentName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(ds)
		_, err = client.AppsV1().DaemonSets(agentNamespace).Update(context.Background(), ds, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// agentPods are the agents' pods, by node, that are not on their way out.
func agentPods(t *testing.T) map[string]*corev1.Pod {
	t.Helper()
	pods, err := client.CoreV1().Pods(agentNamespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=agent"})
	if err != nil {
		t.Fatal(err)
	}
	byNode := map[string]*corev1.Pod{}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil {
			byNode[pod.Spec.NodeName] = &pod
		}
	}
	return byNode
}

// expectNoAgent waits until no agent runs on a node, by what answers there: those that
// update in a hurry have their pods shown longer than they live, or shorter.
func expectNoAgent(t *testing.T, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		check.Eventually(t, time.Minute, "the agent of "+node+" to end", func() error {
			if status, _, err := readyz(node); err == nil {
				return fmt.Errorf("it answers with %d", status)
			}
			return nil
		})
	}
}

// readyz is what a node's agent says of its readiness.
func readyz(node string) (status int, text string, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netns.InsidePath(theCluster.HostNetNS(node), func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}
	response, err := (&http.Client{Timeout: 10 * time.Second, Transport: transport}).Get("http://127.0.0.1:9479/readyz")
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// crash kills the program of a pod's container.
func crash(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	path := netnsOf(t, pod)
	target, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, process := range processesIn(target.Sys().(*syscall.Stat_t).Ino) {
		command, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil || !strings.Contains(string(command), "netexec") {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed++
	}
	if killed == 0 {
		t.Fatalf("nothing of %s runs", pod.Name)
	}
}

// expectRestarted waits until the container of a pod that has crashed runs again.
func expectRestarted(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	check.Eventually(t, 90*time.Second, "the crashed container of "+pod.Name+" to run again", func() error {
		now, err := client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := now.Status.ContainerStatuses[0]; c.RestartCount == 0 || c.State.Running == nil {
			return fmt.Errorf("it has restarted %d times, and is %+v", c.RestartCount, c.State)
		}
		return nil
	})
}

// expectUnready waits until the agent of a node is not ready, and has said so, with a
// word, to all who may ask: on /readyz, in its log, and by an Event on the Node.
func expectUnready(t *testing.T, node, word string) {
	t.Helper()
	check.Eventually(t, 2*time.Minute, "the agent of "+node+" to be not ready because of "+word, func() error {
		status, text, err := readyz(node)
		if err != nil {
			return err
		}
		if status == http.StatusOK || !strings.Contains(text, word) {
			return fmt.Errorf("it says %d: %s", status, text)
		}
		if log := kubectl(t, "--namespace", agentNamespace, "logs", agentOf(t, node)); !strings.Contains(log, word) {
			return errors.New("its log says nothing of it")
		}
		events, err := client.CoreV1().Events("").List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=" + node})
		if err != nil {
			return err
		}
		for _, event := range events.Items {
			if strings.Contains(event.Message, word) {
				return nil
			}
		}
		return fmt.Errorf("no Event on the Node says it; there are %d", len(events.Items))
	})
}

// writeOn writes a file on a host, whole, and removes it at the end of the test.
func writeOn(t *testing.T, host, path, text string) {
	t.Helper()
	replaceOn(t, host, path, text)
	t.Cleanup(func() { run(t, host, "rm", "-f", path) })
}

// replaceOn writes a file on a host, whole.
func replaceOn(t *testing.T, host, path, text string) {
	t.Helper()
	cmd, err := theCluster.Exec(context.Background(), host, "sh", "-c", `mkdir -p "$(dirname "$0")" && cat >"$0.new" && mv "$0.new" "$0"`, path)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("write %s on %s: %v: %s", path, host, err, out)
	}
}

// openWays are the ways between friends and servers, which are allowed.
func (g *goesOn) openWays(t *testing.T) (all []way) {
	t.Helper()
	for _, friend := range g.friends {
		for _, server := range g.servers {
			all = append(all, ways(friend.Name, netnsOf(t, friend), podIPs(server), 8080, 0)...)
		}
	}
	return all
}
