//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/test/check"
)

// What is common to the tests of ClusterNetworkPolicies: their kind, which each test installs and
// removes, and policies of it.

const (
	// policyAPI is the module that defines the kind, clusterKind the name of the definition, and
	// clusterPolicyKind that of the kind.
	policyAPI         = "sigs.k8s.io/network-policy-api"
	clusterKind       = "clusternetworkpolicies." + clusterv1beta1.GroupName
	clusterPolicyKind = "ClusterNetworkPolicy"
)

// channel is the folder that defines the kind as a channel does, by the version that README names.
func channel(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", policyAPI).Output()
	if err != nil {
		t.Fatalf("finding the definitions of ClusterNetworkPolicy: %v", err)
	}
	version, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`kubectl apply -k "https://github\.com/kubernetes-sigs/network-policy-api/(config/crd/` + name + `)\?ref=(\S+)"`).FindSubmatch(readme)
	if command == nil {
		t.Fatalf("README does not say how to install the channel %s", name)
	}
	if got := string(command[2]); got != version {
		t.Errorf("README installs %s of the API, and podfence is built with %s", got, version)
	}
	return filepath.Join(dir, string(command[1]))
}

// withoutKind removes the kind, should a test of before have left it, and again at the end of the test.
func withoutKind(t *testing.T) {
	t.Helper()
	removeKind(t)
	t.Cleanup(func() { removeKind(t) })
}

// installKind has the API server know the kind as a folder defines it, as README says, and waits until
// it takes policies of a version.
func installKind(t *testing.T, folder, version string) {
	t.Helper()
	kubectl(t, "apply", "-k", folder)
	awaitServed(t, version)
}

// awaitServed waits until the API server takes policies of a version, and tells clients that it does,
// which comes some time later.
func awaitServed(t *testing.T, version string) {
	t.Helper()
	api := clusterAPI(t, version)
	check.Eventually(t, seenWithin, "the API server to have ClusterNetworkPolicies "+version, func() error {
		if err := api.List(context.Background(), &clusterv1beta1.ClusterNetworkPolicyList{}); err != nil {
			return err
		}
		_, all, err := client.Discovery().ServerGroupsAndResources()
		for _, list := range all {
			if list.GroupVersion == clusterv1beta1.GroupName+"/"+version {
				return nil
			}
		}
		return fmt.Errorf("discovery does not show them: %w", cmp.Or(err, errors.New("nothing has failed")))
	})
}

// removeKind has the API server forget the kind, if it knows it, with all policies that there are.
func removeKind(t *testing.T) {
	t.Helper()
	kubectl(t, "delete", "crd", clusterKind, "--ignore-not-found", "--timeout=1m")
	awaitUnknown(t)
}

// awaitUnknown waits until the API server does not know the kind.
func awaitUnknown(t *testing.T) {
	t.Helper()
	for _, version := range []string{"v1beta1", "v1alpha2"} {
		api := clusterAPI(t, version)
		check.Eventually(t, seenWithin, "the API server to have no ClusterNetworkPolicies "+version, func() error {
			if err := api.List(context.Background(), &clusterv1beta1.ClusterNetworkPolicyList{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it lists them: %v", err)
			}
			return nil
		})
	}
}

// clusterAPI is a client for ClusterNetworkPolicies of one version. All versions have the same schema.
func clusterAPI(t *testing.T, version string) ctrlclient.Client {
	t.Helper()
	group := schema.GroupVersion{Group: clusterv1beta1.GroupName, Version: version}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(group, &clusterv1beta1.ClusterNetworkPolicy{}, &clusterv1beta1.ClusterNetworkPolicyList{})
	metav1.AddToGroupVersion(scheme, group)
	mapper := meta.NewDefaultRESTMapper(nil)
	policies := group.WithResource("clusternetworkpolicies")
	mapper.AddSpecific(group.WithKind(clusterPolicyKind), policies, policies, meta.RESTScopeRoot)
	fast := rest.CopyConfig(config)
	fast.QPS, fast.Burst = 1000, 1000
	fast.ContentType = runtime.ContentTypeJSON // the kind has no other form
	api, err := ctrlclient.New(fast, ctrlclient.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// clusterPolicy is a ClusterNetworkPolicy with a spec in YAML.
func clusterPolicy(t *testing.T, name, spec string) *clusterv1beta1.ClusterNetworkPolicy {
	t.Helper()
	cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &cnp.Spec); err != nil {
		t.Fatalf("%s: %v: %s", name, err, spec)
	}
	return cnp
}

// named is a selector, in YAML, of the namespaces that have these names.
func named(namespaces ...string) string {
	return "{matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [" + strings.Join(namespaces, ", ") + "]}]}"
}

// createPolicies creates policies. They end with their kind.
func createPolicies(t *testing.T, api ctrlclient.Client, policies ...*clusterv1beta1.ClusterNetworkPolicy) {
	t.Helper()
	for _, cnp := range policies {
		if err := api.Create(context.Background(), cnp); err != nil {
			t.Fatalf("creating %s: %v", cnp.Name, err)
		}
	}
}

// deletePolicies deletes policies.
func deletePolicies(t *testing.T, api ctrlclient.Client, policies ...*clusterv1beta1.ClusterNetworkPolicy) {
	t.Helper()
	for _, cnp := range policies {
		if err := api.Delete(context.Background(), cnp); err != nil {
			t.Fatalf("deleting %s: %v", cnp.Name, err)
		}
	}
}

// changePolicy changes the spec of a policy to one in YAML.
func changePolicy(t *testing.T, api ctrlclient.Client, name, spec string) {
	t.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		cnp := &clusterv1beta1.ClusterNetworkPolicy{}
		if err := api.Get(context.Background(), ctrlclient.ObjectKey{Name: name}, cnp); err != nil {
			return err
		}
		cnp.Spec = clusterPolicy(t, name, spec).Spec
		return api.Update(context.Background(), cnp) // a conflict, if its status was written meanwhile
	})
	if err != nil {
		t.Fatalf("changing %s: %v", name, err)
	}
}

// expectWatched waits until the agents of both nodes have said, since then, that they watch the kind in
// a version.
func expectWatched(t *testing.T, version string, since time.Time) {
	t.Helper()
	for node, pod := range agentPods(t) {
		check.Eventually(t, seenWithin, "the agent of "+node+" to watch ClusterNetworkPolicies "+version, func() error {
			from := metav1.NewTime(since)
			log, err := client.CoreV1().Pods(agentNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{SinceTime: &from}).DoRaw(context.Background())
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(log)) {
				if strings.Contains(line, "Watching ClusterNetworkPolicies") && strings.Contains(line, version) {
					return nil
				}
			}
			return errors.New("its log does not say so")
		})
	}
}

// replaceAgents deletes the agents' pods of all nodes at once, and waits until others are ready in
// their place.
func replaceAgents(t *testing.T) {
	t.Helper()
	before := agents(t)
	kubectl(t, "--namespace", agentNamespace, "delete", "pods", "--selector=app.kubernetes.io/component=agent", "--wait=false")
	expectAgents(t, "others to be ready in the agents' place", func(pod *corev1.Pod) bool { return !before[string(pod.UID)] })
}

// crashAgents kills the agents of all nodes at once, and waits until they are ready again.
func crashAgents(t *testing.T) {
	t.Helper()
	restarts := map[string]int32{}
	for node, pod := range agentPods(t) {
		restarts[node] = pod.Status.ContainerStatuses[0].RestartCount
	}
	for node, text := range agentProcesses(t) {
		pid, err := strconv.Atoi(text)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			t.Fatalf("killing the agent of %s: %v", node, err)
		}
	}
	expectAgents(t, "the agents to be ready again", func(pod *corev1.Pod) bool {
		return pod.Status.ContainerStatuses[0].RestartCount > restarts[pod.Spec.NodeName]
	})
}

// expectAgents waits until each node has an agent that is ready, and of which something else is true.
func expectAgents(t *testing.T, what string, is func(*corev1.Pod) bool) {
	t.Helper()
	check.Eventually(t, 2*time.Minute, what, func() error {
		pods := agentPods(t)
		for _, node := range bothNodes {
			pod := pods[node]
			if pod == nil || !isReady(pod) || !is(pod) {
				return fmt.Errorf("that of %s is not", node)
			}
			if status, text, err := readyz(node); err != nil || status != http.StatusOK {
				return fmt.Errorf("that of %s says %d, %s: %v", node, status, text, err)
			}
		}
		return nil
	})
}

// readiness is what the agents have said of theirs meanwhile.
type readiness struct {
	end func()

	mu    sync.Mutex
	asked int
	not   []error
}

// watchReadiness asks the agents of all nodes whether they are ready, over and over until check, or the
// end of the test.
func watchReadiness(t *testing.T) *readiness {
	t.Helper()
	r := &readiness{}
	stop, stopped := make(chan struct{}), make(chan struct{})
	r.end = sync.OnceFunc(func() { close(stop); <-stopped })
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(250 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			for _, node := range bothNodes {
				r.ask(node)
			}
		}
	}()
	t.Cleanup(r.end)
	return r
}

func (r *readiness) ask(node string) {
	status, text, err := readyz(node)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if err != nil || status != http.StatusOK {
		r.not = append(r.not, fmt.Errorf("%s: the agent of %s says %d, %s: %v", time.Now().Format("15:04:05"), node, status, text, err))
	}
}

// check ends the watch. All agents must have been ready all the time.
func (r *readiness) check(t *testing.T) {
	t.Helper()
	r.end()
	if len(r.not) > 0 {
		t.Errorf("of %d times the agents were not ready %d times, at first: %v", r.asked, len(r.not), r.not[0])
	}
	if r.asked < 2*len(bothNodes) {
		t.Errorf("the agents were hardly asked: %d times", r.asked)
	}
}
