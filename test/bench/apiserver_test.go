package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/apiserver"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
	"github.com/podfence/podfence/test/scale"
)

var must = check.NoError

// cluster is an API server with what a size of cluster has.
type cluster struct {
	*kubernetes.Clientset
	config     *rest.Config
	kubeconfig []byte // of the agents
}

// newCluster starts an API server for the benchmark, and fills it.
func newCluster(b testing.TB, size scale.Size) *cluster {
	b.Helper()
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	c := &cluster{}
	c.Clientset, c.config, c.kubeconfig = apiserver.Start(b)
	c.fill(b, size)
	return c
}

// fill creates what the size has, node by node and pod by pod.
func (c *cluster) fill(b testing.TB, size scale.Size) {
	b.Helper()
	ctx := context.Background()
	nodes := size.Nodes()
	each(b, len(nodes), func(n int) error { return c.createNode(nodes[n]) })
	each(b, size.Namespaces, func(n int) error {
		_, err := c.CoreV1().Namespaces().Create(ctx, scale.Namespace(n), metav1.CreateOptions{})
		return err
	})
	each(b, size.Policies, func(n int) error {
		np := size.Policy(n)
		_, err := c.NetworkingV1().NetworkPolicies(np.Namespace).Create(ctx, np, metav1.CreateOptions{})
		return err
	})
	each(b, size.Pods, func(n int) error { return c.createPod(size.Pod(n)) })
}

// createClusterPolicies installs the kind ClusterNetworkPolicy, if there are to be any, and creates them.
func (c *cluster) createClusterPolicies(b testing.TB, n int) {
	b.Helper()
	if n == 0 {
		return
	}
	folder, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	must(b, err)
	definition, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(folder)), "config/crd/standard/policy.networking.k8s.io_clusternetworkpolicies.yaml"))
	must(b, err)
	body, err := yaml.YAMLToJSON(definition)
	must(b, err)
	create := func(path string, body []byte) error {
		return c.RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(context.Background()).Error()
	}
	must(b, create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body))
	each(b, n, func(i int) error {
		cnp := scale.ClusterPolicy(i)
		cnp.APIVersion, cnp.Kind = clusterv1beta1.GroupVersion.String(), "ClusterNetworkPolicy"
		body, err := json.Marshal(cnp)
		if err != nil {
			return err
		}
		for until := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // the kind is served some moments later
			err := create("/apis/"+clusterv1beta1.GroupVersion.String()+"/clusternetworkpolicies", body)
			if !apierrors.IsNotFound(err) || time.Now().After(until) {
				return err
			}
		}
	})
}

// createNode creates a node with its status.
func (c *cluster) createNode(node *corev1.Node) error {
	ctx := context.Background()
	created, err := c.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	created.Status = node.Status
	_, err = c.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{})
	return err
}

// createPod does what scheduler and kubelet do too: the pod has a node and
// addresses from two writes.
func (c *cluster) createPod(pod *corev1.Pod) error {
	ctx := context.Background()
	pod.UID = ""
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].Image = "image"
	}
	no, none := false, int64(0)
	pod.Spec.AutomountServiceAccountToken, pod.Spec.TerminationGracePeriodSeconds = &no, &none
	status := pod.Status
	created, err := c.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	created.Status = status
	_, err = c.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, created, metav1.UpdateOptions{})
	return err
}

// each calls do for 0 to n-1, some at once.
func each(b testing.TB, n int, do func(int) error) {
	b.Helper()
	var wg sync.WaitGroup
	next, errs := make(chan int), make(chan error, 1)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	select {
	case err := <-errs:
		b.Fatal(err)
	default:
	}
}

// podfence is where the program is built, for the agents.
var (
	podfence string
	build    = sync.OnceValue(func() error { return prebuilt.Podfence(podfence) })
)

func TestMain(m *testing.M) {
	if to := os.Getenv(senderVariable); to != "" {
		fmt.Fprintln(os.Stderr, "sender:", send(to))
		os.Exit(1)
	}
	folder, err := os.MkdirTemp("", "podfence-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	podfence = filepath.Join(folder, "podfence")
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// startAgent runs an agent on a node until the benchmark ends, and waits until
// it enforces.
func (c *cluster) startAgent(b testing.TB, node *lab.Node) *agent.Agent {
	b.Helper()
	must(b, build())
	a, err := agent.Start(agent.Options{Binary: podfence, Node: node, Kubeconfig: c.kubeconfig, Args: []string{"--pprof-address", "127.0.0.1:9480"}})
	must(b, err)
	b.Cleanup(func() { must(b, a.Stop()) })
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	must(b, a.AwaitReady(ctx))
	return a
}
