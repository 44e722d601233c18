package bench

import (
	"bufio"
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
	"syscall"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/test/apiserver"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/quantiles"
)

// statusMetrics is where the writer of the benchmark serves its metrics.
const statusMetrics = "127.0.0.1:19478"

// BenchmarkStatusWriter is what the writer of ClusterNetworkPolicies' status takes: the time from a
// change of a policy until its condition is about it, requests and memory.
func BenchmarkStatusWriter(b *testing.B) {
	s, err := apiserver.New()
	must(b, err)
	b.Cleanup(func() { must(b, s.Close()) })
	crd, err := apiserver.ClusterNetworkPolicies("v1beta1")
	must(b, err)
	_, err = envtest.InstallCRDs(s.Config, envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{crd}})
	must(b, err)
	types := runtime.NewScheme()
	must(b, clusterv1beta1.Install(types))
	config := rest.CopyConfig(s.Config)
	config.ContentType = ""
	api, err := client.New(config, client.Options{Scheme: types})
	must(b, err)
	w := startStatusWriter(b, s.Kubeconfig)
	for _, policies := range []int{1, 1000} {
		b.Run(fmt.Sprint("policies=", policies), func(b *testing.B) { w.measure(b, api, policies) })
	}
}

// statusWriter is a writer that runs.
type statusWriter struct{ pid int }

func startStatusWriter(b *testing.B, kubeconfig []byte) *statusWriter {
	b.Helper()
	must(b, build())
	path := filepath.Join(b.TempDir(), "kubeconfig")
	must(b, os.WriteFile(path, kubeconfig, 0o600))
	cmd := exec.Command(podfence, "status-writer", "--kubeconfig", path, "--leader-elect-namespace", "default",
		"--metrics-bind-address", statusMetrics, "--health-probe-bind-address", "0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(b, cmd.Start())
	b.Cleanup(func() { must(b, errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())) })
	return &statusWriter{cmd.Process.Pid}
}

// measure fills the API server up to so many policies, and changes one of them again and again.
func (w *statusWriter) measure(b *testing.B, api client.Client, policies int) {
	var some *clusterv1beta1.ClusterNetworkPolicy
	there := &clusterv1beta1.ClusterNetworkPolicyList{}
	must(b, api.List(context.Background(), there))
	for range policies - len(there.Items) {
		some = shopPolicy()
		must(b, api.Create(context.Background(), some))
	}
	if some == nil {
		some = &there.Items[0]
	}
	check.Eventually(b, 5*time.Minute, "all policies to have their condition", func() error {
		must(b, api.List(context.Background(), there))
		for i := range there.Items {
			if !isAccepted(&there.Items[i]) {
				return fmt.Errorf("%s has none", there.Items[i].Name)
			}
		}
		return nil
	})
	time.Sleep(15 * time.Second) // some collections later
	before, err := w.requests()
	must(b, err)
	var took []time.Duration
	for range b.N {
		took = append(took, changed(b, api, some))
	}
	after, err := w.requests()
	must(b, err)
	quantiles.Report(b, "", time.Millisecond, took, 50, 100)
	b.ReportMetric((after-before)/float64(b.N), "writes/change")
	for name, unit := range map[string]string{"VmRSS": "MB-rss", "RssAnon": "MB-anonymous"} {
		kilobytes, err := w.memory(name)
		must(b, err)
		b.ReportMetric(kilobytes/1e3, unit)
	}
}

// changed changes a policy, and returns how long after the API server's answer its condition is about
// that.
func changed(b *testing.B, api client.Client, cnp *clusterv1beta1.ClusterNetworkPolicy) time.Duration {
	b.Helper()
	must(b, api.Get(context.Background(), client.ObjectKeyFromObject(cnp), cnp))
	cnp.Spec.Priority = (cnp.Spec.Priority + 1) % 1000
	must(b, api.Update(context.Background(), cnp))
	began := time.Now()
	for !isAccepted(cnp) {
		time.Sleep(time.Millisecond)
		must(b, api.Get(context.Background(), client.ObjectKeyFromObject(cnp), cnp))
	}
	return time.Since(began)
}

// isAccepted reports whether the condition of a policy is about it as it is now.
func isAccepted(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
	c := meta.FindStatusCondition(cnp.Status.Conditions, "Accepted")
	return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == cnp.Generation
}

// shopPolicy has ten rules of five peers.
func shopPolicy() *clusterv1beta1.ClusterNetworkPolicy {
	cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{GenerateName: "shop-"}}
	cnp.Spec.Tier, cnp.Spec.Subject.Namespaces = clusterv1beta1.AdminTier, &metav1.LabelSelector{}
	for i := range 10 {
		rule := clusterv1beta1.ClusterNetworkPolicyEgressRule{Name: fmt.Sprint("rule ", i), Action: clusterv1beta1.ClusterNetworkPolicyRuleActionAccept}
		for j := range 5 {
			rule.To = append(rule.To, clusterv1beta1.ClusterNetworkPolicyEgressPeer{Pods: &clusterv1beta1.NamespacedPod{
				NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint("shop-", i)}},
				PodSelector:       metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint("web-", j)}},
			}})
		}
		cnp.Spec.Egress = append(cnp.Spec.Egress, rule)
	}
	return cnp
}

// requests is how many patches the writer has sent, by its metrics.
func (w *statusWriter) requests() (n float64, err error) {
	response, err := http.Get("http://" + statusMetrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "rest_client_requests_total{") && strings.Contains(line, `method="PATCH"`) {
			count, err := strconv.ParseFloat(line[strings.LastIndex(line, " ")+1:], 64)
			if err != nil {
				return 0, err
			}
			n += count
		}
	}
	return n, nil
}

// memory is what the writer takes now, in kilobytes, by its name in proc_pid_status(5).
func (w *statusWriter) memory(name string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("/proc/%d/status has no %s", w.pid, name)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}
