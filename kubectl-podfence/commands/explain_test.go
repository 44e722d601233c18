package commands_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/commands"
	"github.com/podfence/podfence/test/apiserver"
)

// call calls the plugin.
func call(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	streams, _, stdout, stderr := genericiooptions.NewTestIOStreams()
	code = commands.Main(t.Context(), "v1.2.3", streams, args)
	return code, stdout.String(), stderr.String()
}

// newCluster starts an API server with two pods, one of which lets in the other on port 80 alone, and
// returns a function that calls the plugin with its kubeconfig.
func newCluster(t *testing.T) (*kubernetes.Clientset, func(args ...string) (code int, out, errOut string)) {
	t.Helper()
	api, _, kubeconfig := apiserver.Start(t)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	create := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	create(api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}))
	create(api.CoreV1().ServiceAccounts("shop").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	create(api.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, metav1.CreateOptions{}))
	for name, ip := range map[string]string{"web": "10.1.0.1", "db": "10.1.0.2"} {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "sql", ContainerPort: 5432}}}}},
		}
		pod, err := api.CoreV1().Pods("shop").Create(ctx, pod, metav1.CreateOptions{})
		create(pod, err)
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}
		create(api.CoreV1().Pods("shop").UpdateStatus(ctx, pod, metav1.UpdateOptions{}))
	}
	create(api.CoreV1().Services("shop").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "db"}, Ports: []corev1.ServicePort{{Name: "sql", Port: 5432}, {Name: "http", Port: 80}},
	}}, metav1.CreateOptions{}))
	port := intstr.FromInt32(80)
	create(api.NetworkingV1().NetworkPolicies("shop").Create(ctx, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}},
				Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
			}},
		},
	}, metav1.CreateOptions{}))
	return api, func(args ...string) (int, string, string) {
		t.Helper()
		return call(t, append([]string{"--kubeconfig", file, "--cache-dir", t.TempDir()}, args...)...)
	}
}

func TestCluster(t *testing.T) {
	api, call := newCluster(t)
	t.Run("explain", func(t *testing.T) { explains(t, call) })
	t.Run("lint", func(t *testing.T) { lints(t, api, call) })
	t.Run("lint with few rights", func(t *testing.T) { lintsWithFewRights(t, api, call) })
	t.Run("reach", func(t *testing.T) { reaches(t, call) })
	t.Run("diff", func(t *testing.T) { differs(t, api, call) })
	t.Run("complete", func(t *testing.T) { completes(t, api, call) })
	t.Run("observe", func(t *testing.T) { observes(t, api, call) })
	t.Run("status", func(t *testing.T) { statuses(t, api, call) })
}

// explains: each answer has its exit code, and the same answer is there as text, JSON and YAML.
func explains(t *testing.T, call func(...string) (int, string, string)) {
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"shop/web shop/db:80", 0, "ALLOWED  shop/web -> shop/db port 80/TCP"},
		{"shop/web shop/db:81", 1, "DENIED  shop/web -> shop/db port 81/TCP"},
		{"-n shop web db:80/UDP", 1, "DENIED  shop/web -> shop/db port 80/UDP"},
		{"-n shop web db", 0, "open are TCP 80"},
		{"node/node-1 shop/db:81", 2, "UNKNOWN  node/node-1 to shop/db:81"}, // the node shows no address
		{"10.9.9.9 shop/db", 1, "DENIED"},
		{"10.9.9.9 shop/web:1", 0, "ALLOWED"},
	} {
		code, out, errOut := call(append([]string{"explain"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(out, c.says) || (errOut != "") != (c.code == 2) || strings.Contains(out, "\x1b") {
			t.Errorf("explain %s: exit code %d instead of %d, or not %q:\n%s%s", c.args, code, c.code, c.says, out, errOut)
		}
	}
	for format, unmarshal := range map[string]func([]byte, any) error{
		"json": json.Unmarshal, "yaml": func(text []byte, into any) error { return yaml.UnmarshalStrict(text, into) },
	} {
		code, out, errOut := call("explain", "shop/web", "shop/db:81", "-o", format)
		var e explain.Explanation
		if err := unmarshal([]byte(out), &e); err != nil || code != 1 || e.Verdict != explain.Denied || e.APIVersion != explain.APIVersion || len(e.Answers) != 1 {
			t.Errorf("-o %s: exit code %d, %v, %s%s", format, code, err, out, errOut)
		}
	}
}

// TestWrongCalls: what cannot be answered ends with exit code 2, says why on standard error, and nothing else.
func TestWrongCalls(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	for args, says := range map[string]string{
		"explain shop/web":                                     "accepts 2 arg(s)",
		"explain shop/web shop/db:http:80 -o json":             `"shop/db:http" is no target`,
		"explain shop/web shop/db:":                            `shop/db:: "" is no port`,
		"explain shop/web shop/db:80-90":                       "one port is asked about at a time",
		"explain shop/web shop/db:80/":                         `"" is no protocol that policies know`,
		"explain svc/shop/web shop/db":                         "nothing comes from a Service",
		"explain shop/web shop/db -o table":                    `--output is "table": it must be one of json, yaml, wide, name`,
		"explain shop/web shop/db --pod-to-node no":            `--pod-to-node is "no": it must be police or allow`,
		"explain shop/web shop/db -R":                          "--recursive is about folders",
		"explain shop/web shop/db --strict":                    "--strict is about files",
		"explain shop/web shop/db --server http://127.0.0.1:1": "listing pods:",
		"explain shop/web shop/db --context none":              "specified context: none",
		"reach":                             "say whom it is about",
		"reach shop/web shop/db":            "accepts at most 1 arg",
		"reach shop/web -A":                 "--all-namespaces is about --matrix",
		"reach ns/shop -A --matrix":         "ns/shop is one namespace",
		"reach shop/web --matrix":           "--matrix is about the workloads of a namespace",
		"reach shop/web -o table":           `--output is "table": it must be one of wide, name, json, yaml, dot, svg`,
		"reach shop/we_b":                   `"shop/we_b" is no target`,
		"diff":                              "say what is new by --filename",
		"diff --against x.yaml":             "say what is new by --filename",
		"diff x.yaml":                       "unknown command",
		"diff -f - --against -":             "cannot both be standard input",
		"diff -f - -o wide":                 `--output is "wide": it must be one of json, yaml`,
		"diff -f - --pod-to-node sometimes": "it must be police or allow",
		"explian shop/web shop/db":          "unknown command",
		"explain shop/web shop/db --kubeconfig /does/not/exist.yml": "/does/not/exist.yml",
	} {
		code, out, errOut := call(t, strings.Fields(args)...)
		if code != 2 || out != "" || !strings.HasPrefix(errOut, "kubectl podfence: ") || !strings.Contains(errOut, says) {
			t.Errorf("%s: exit code %d, or not %q:\n%s%s", args, code, says, out, errOut)
		}
	}
}

// TestExplainFormats: wide shows addresses and all policies that are asked, and name the policies that decide.
func TestExplainFormats(t *testing.T) {
	for _, test := range []struct{ args, says string }{
		{"-o wide shop/client-0 shop/web-0:81", "(10.244.2.10 -> 10.244.1.10)"},
		{"-o wide shop/client-0 shop/web-0:81", "    policies, in the order in which they are asked: NetworkPolicy shop/web\n"},
		{"-o name shop/client-0 shop/web-0:81", "networkpolicy.networking.k8s.io/web\n"},
		{"-o name shop/client-0 shop/web-0:80", "networkpolicy.networking.k8s.io/web\n"},
		{"-o name shop/web-0 shop/client-0:80", ""},
	} {
		code, out, errOut := call(t, append([]string{"explain", "-f", mistakes + "cluster.yaml", "-f", mistakes + "service-port.yaml"}, strings.Fields(test.args)...)...)
		if code == 2 || errOut != "" || !strings.Contains(out, test.says) || strings.Contains(test.args, "name") && out != test.says {
			t.Errorf("%s: exit code %d, not %q:\n%s%s", test.args, code, test.says, out, errOut)
		}
	}
}

// TestNoAnswer: where nobody knows, what is known is printed, and the exit code is neither yes nor no.
func TestNoAnswer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "some.yaml")
	// One of three pods is on a node that the files do not have; one lets in addresses alone, one nobody.
	const objects = `{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: host, labels: {app: host}}, spec: {hostNetwork: true, containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: some, labels: {app: some}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web, labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: some}, spec: {podSelector: {matchLabels: {app: some}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: none}, spec: {podSelector: {matchLabels: {app: none}}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: none}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: none, name: closed}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: none, name: host}, spec: {hostNetwork: true, containers: [{name: c, image: i}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: none, name: none}, spec: {podSelector: {}}}
`
	if err := os.WriteFile(file, []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		code int
		out  string
		said string
	}{
		{"shop/web shop/some:80", 2, "UNKNOWN  shop/web -> shop/some", "there is no answer: the notes say why\n"},
		{"shop/web shop/host:80", 2, "UNKNOWN  shop/web to shop/host", "there is no answer: the notes say why\n"},
		{"shop/web shop/some:80 -o json", 2, `"verdict": "Unknown"`, "there is no answer: the notes say why\n"},
		{"shop/web shop/some:80 -o name", 2, "", "there is no answer: the notes say why, which are shown without --output name\n"},
		{"none/closed ns/shop:80", 2, "ALLOWED  none/closed -> shop/web", "there is no answer for some of what was asked: "},
		{"shop/web ns/none:80", 1, "DENIED  shop/web -> none/closed", ""},
		{"shop/web ns/none", 2, "DENIED  shop/web -> none/closed", "there is no answer for some of what was asked: "},
		{"none/closed ns/shop", 0, "ALLOWED  none/closed -> shop/web", ""},
	} {
		code, out, errOut := call(t, append([]string{"explain", "-f", file}, strings.Fields(test.args)...)...)
		if code != test.code || !strings.Contains(out, test.out) || test.said == "" && errOut != "" || !strings.Contains(errOut, test.said) {
			t.Errorf("%s: exit code %d, want %d, %q and %q:\n%s%s", test.args, code, test.code, test.out, test.said, out, errOut)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	if code, out, _ := call(t, "--version"); code != 0 || out != "kubectl podfence version v1.2.3\n" {
		t.Errorf("--version: exit code %d, %q", code, out)
	}
	if code, out, _ := call(t, "explain", "--help"); code != 0 || !bytes.Contains([]byte(out), []byte("kubectl podfence explain FROM TO[:PORT[/PROTOCOL]] [flags]")) {
		t.Errorf("help: exit code %d\n%s", code, out)
	}
}
