package cluster_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kubernetesscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/cluster"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/apiserver"
)

// world is an API server with a small cluster.
type world struct {
	config *rest.Config
	admin  client.Client
}

// newWorld starts an API server that knows no custom resources yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	_, config, _ := apiserver.Start(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{kubernetesscheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	config.ContentType = runtime.ContentTypeJSON
	admin, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{config, admin}
	for _, name := range []string{"shop", "other"} {
		w.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": name}}})
		w.create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}})
		for i := range 2 {
			pod := podOf(name, fmt.Sprintf("web-%d", i))
			w.create(t, pod)
			pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.1.0.%d", i+1)}
			if err := w.admin.Status().Update(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		}
		w.create(t, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "closed"}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress"}}})
		w.create(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}})
		w.create(t, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "web"}, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{}})
		w.create(t, deploymentOf(name))
	}
	w.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Spec: corev1.NodeSpec{PodCIDR: "10.1.0.0/24"}})
	return w
}

func podOf(namespace, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "web", Image: "web"}}},
	}
}

func deploymentOf(namespace string) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}},
	}}
}

func (w *world) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := w.admin.Create(t.Context(), o); err != nil {
		t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
	}
}

// user is somebody with these rules in all namespaces, if namespace is empty, or in one.
func (w *world) user(t *testing.T, name, namespace string, rules ...rbacv1.PolicyRule) *rest.Config {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name, Namespace: namespace}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}
	if namespace == "" {
		w.create(t, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules})
		w.create(t, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}})
	} else {
		w.create(t, &rbacv1.Role{ObjectMeta: meta, Rules: rules})
		w.create(t, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}})
	}
	w.await(t, name, namespace, rules[0])
	as := rest.CopyConfig(w.config)
	as.Impersonate.UserName, as.Impersonate.Groups = name, []string{"system:authenticated"}
	return as
}

// await waits until the API server knows what a user may.
func (w *world) await(t *testing.T, user, namespace string, rule rbacv1.PolicyRule) {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: rule.Verbs[0], Group: rule.APIGroups[0], Resource: rule.Resources[0],
		}}}
		if w.create(t, review); review.Status.Allowed {
			return
		}
	}
	t.Fatalf("%s still may not %s %s", user, rule.Verbs[0], rule.Resources[0])
}

// may is a rule that lets list and get resources.
func may(group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: []string{"list", "get"}}
}

func read(t *testing.T, config *rest.Config, namespaces ...string) *cluster.Result {
	t.Helper()
	r, err := cluster.Read(t.Context(), config, namespaces)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// names are the names of objects, with their namespaces.
func names[T metav1.Object](all []T) (names []string) {
	for _, o := range all {
		names = append(names, strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/"))
	}
	slices.Sort(names)
	return names
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestRead(t *testing.T) {
	w := newWorld(t)
	t.Run("everything", func(t *testing.T) { everything(t, w) })
	t.Run("rights", func(t *testing.T) { rights(t, w) })
	t.Run("custom resources", func(t *testing.T) { customResources(t, w) })
	t.Run("documented rights", func(t *testing.T) { documented(t, w) })
	t.Run("pages", func(t *testing.T) { pages(t, w) })
	t.Run("CronJobs", func(t *testing.T) { betweenRuns(t, w) })
}

// everything: who may list all kinds gets all objects, and nothing is missing.
func everything(t *testing.T, w *world) {
	r := read(t, w.config)
	if !r.Cluster.Running || len(r.Missing) > 0 || r.Cluster.ClusterPolicies != nil || r.Cluster.PodAddresses != nil {
		t.Errorf("running: %t, missing: %q, %d ClusterNetworkPolicies", r.Cluster.Running, r.Missing, len(r.Cluster.ClusterPolicies))
	}
	expect(t, "pods", names(r.Cluster.Pods), []string{"other/web-0", "other/web-1", "shop/web-0", "shop/web-1"})
	expect(t, "policies", names(r.Cluster.Policies), []string{"other/closed", "shop/closed"})
	expect(t, "nodes", names(r.Cluster.Nodes), []string{"node-1"})
	expect(t, "services", names(r.Cluster.Services), []string{"default/kubernetes", "other/web", "shop/web"})
	expect(t, "endpoint slices", names(r.Cluster.EndpointSlices), []string{"default/kubernetes", "other/web", "shop/web"})
	for _, pod := range r.Cluster.Pods {
		if len(pod.ManagedFields) > 0 || pod.Status.PodIP == "" {
			t.Errorf("pod %s: managed fields %v, address %q", pod.Name, pod.ManagedFields, pod.Status.PodIP)
		}
	}
	for _, of := range r.Cluster.Workloads {
		expect(t, "type of a workload", of.TypeMeta, metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"})
	}
	expect(t, "workloads", names(r.Cluster.Workloads), []string{"other/web", "shop/web"})
	if !slices.ContainsFunc(r.Cluster.Namespaces, func(ns *corev1.Namespace) bool { return ns.Labels["team"] == "shop" }) {
		t.Errorf("namespaces: %v", names(r.Cluster.Namespaces))
	}
}

// rights: what a user may not read is an error if there is no answer without it, and else is said.
func rights(t *testing.T, w *world) {
	few := []rbacv1.PolicyRule{may("", "pods", "namespaces"), may("networking.k8s.io", "networkpolicies")}
	r := read(t, w.user(t, "few", "", few...))
	expect(t, "pods", len(r.Cluster.Pods), 4)
	for _, resource := range []string{
		"nodes", "services", "endpointslices.discovery.k8s.io", "deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "cronjobs.batch",
	} {
		if !slices.ContainsFunc(r.Missing, func(m string) bool { return strings.HasPrefix(m, "You may not list "+resource+": ") }) {
			t.Errorf("nothing says that %s are missing: %q", resource, r.Missing)
		}
	}
	// Neither custom resource is there, so that nothing is missing of them.
	expect(t, "what is missing", len(r.Missing), 9)

	for _, without := range []string{"pods", "networkpolicies", "namespaces"} {
		var rules []rbacv1.PolicyRule
		for _, rule := range few {
			rule.Resources = slices.DeleteFunc(slices.Clone(rule.Resources), func(r string) bool { return r == without })
			if len(rule.Resources) > 0 {
				rules = append(rules, rule)
			}
		}
		_, err := cluster.Read(t.Context(), w.user(t, "without-"+without, "", rules...), nil)
		if err == nil || !strings.Contains(err.Error(), "there is no answer without "+without) || !strings.Contains(err.Error(), "ClusterRole") {
			t.Errorf("without %s: %v", without, err)
		}
	}

	in := w.user(t, "in-shop", "shop", may("", "pods", "namespaces", "services"), may("networking.k8s.io", "networkpolicies"))
	r = read(t, in, "shop")
	expect(t, "pods of a namespace", names(r.Cluster.Pods), []string{"shop/web-0", "shop/web-1"})
	expect(t, "policies of a namespace", names(r.Cluster.Policies), []string{"shop/closed"})
	expect(t, "the namespace", names(r.Cluster.Namespaces), []string{"shop"})
	expect(t, "services of a namespace", names(r.Cluster.Services), []string{"shop/web"})
	if r.Cluster.Running {
		t.Error("nobody can tell where agents are, and the cluster counts as running")
	}
	for _, objects := range []string{"Pods", "NetworkPolicies", "Namespaces", "Services"} {
		if !slices.ContainsFunc(r.Missing, func(m string) bool { return strings.HasPrefix(m, objects+" were read of namespace shop only") }) {
			t.Errorf("nothing says that %s are missing: %q", objects, r.Missing)
		}
	}
	if _, err := cluster.Read(t.Context(), in, []string{"shop", "other"}); err == nil || !strings.Contains(err.Error(), `cannot list resource "pods" in API group "" in the namespace "other"`) {
		t.Errorf("two namespaces, of which one may not be read: %v", err)
	}
}

// documented: with the ClusterRole of docs/KUBECTL.md nothing is missing.
func documented(t *testing.T, w *world) {
	text, err := os.ReadFile("../../docs/KUBECTL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, behind, has := strings.Cut(string(text), "```yaml\n")
	written, _, ends := strings.Cut(behind, "```")
	role := &rbacv1.ClusterRole{}
	if err := yaml.UnmarshalStrict([]byte(written), role); err != nil || !has || !ends || role.Kind != "ClusterRole" {
		t.Fatalf("docs/KUBECTL.md has no ClusterRole: %v", err)
	}
	if r := read(t, w.user(t, "documented", "", role.Rules...)); len(r.Missing) > 0 || len(r.Cluster.Pods) != 4 {
		t.Errorf("%d pods; missing: %q", len(r.Cluster.Pods), r.Missing)
	}
}

// customResources: ClusterNetworkPolicies are read in the version that there is, and who may not list
// them gets no answer as soon as there are any.
func customResources(t *testing.T, w *world) {
	few := []rbacv1.PolicyRule{may("", "pods", "namespaces"), may("networking.k8s.io", "networkpolicies")}
	crd, err := apiserver.ClusterNetworkPolicies("v1alpha2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envtest.InstallCRDs(w.config, envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{crd}, Paths: []string{"../../config/crd"}}); err != nil {
		t.Fatal(err)
	}
	w.createRaw(t, `{"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicy","metadata":{"name":"guard"},"spec":{
		"tier":"Admin","priority":7,"subject":{"namespaces":{}},"ingress":[{"action":"Deny","from":[{"namespaces":{"matchLabels":{"team":"other"}}}]}]}}`)
	w.createRaw(t, `{"apiVersion":"podfence.io/v1alpha1","kind":"PodAddresses","metadata":{"name":"node-1"},"pods":[{"namespace":"shop","name":"web-0","uid":"1","ips":["10.1.0.1"],"since":"2026-01-02T03:04:05Z"}]}`)
	r := read(t, w.config)
	if len(r.Cluster.ClusterPolicies) != 1 || r.Cluster.ClusterPolicies[0].Spec.Priority != 7 || len(r.Cluster.ClusterPolicies[0].Spec.Ingress) != 1 {
		t.Errorf("ClusterNetworkPolicies: %v", r.Cluster.ClusterPolicies)
	}
	if len(r.Cluster.PodAddresses) != 1 || r.Cluster.PodAddresses[0].Pods[0].IPs[0] != "10.1.0.1" {
		t.Errorf("PodAddresses: %v", r.Cluster.PodAddresses)
	}
	has := &apiextensionsv1.CustomResourceDefinition{}
	if err := w.admin.Get(t.Context(), client.ObjectKeyFromObject(crd), has); err != nil {
		t.Fatal(err)
	}
	apiserver.ServeVersions(has, "v1alpha2", "v1beta1")
	if err := w.admin.Update(t.Context(), has); err != nil {
		t.Fatal(err)
	}
	config, asked := w.asked("v1alpha2/clusternetworkpolicies")
	for last := int32(-1); asked.Load() > last; { // until the API server has v1beta1
		last = asked.Load()
		if r := read(t, config); len(r.Cluster.ClusterPolicies) != 1 {
			t.Fatalf("with two versions: %v", r.Cluster.ClusterPolicies)
		}
	}
	_, err = cluster.Read(t.Context(), w.user(t, "no-cluster-policies", "", few...), nil)
	if err == nil || !strings.Contains(err.Error(), "there is no answer without clusternetworkpolicies.policy.networking.k8s.io") {
		t.Errorf("without the right to list ClusterNetworkPolicies: %v", err)
	}
}

// createRaw creates an object from JSON.
func (w *world) createRaw(t *testing.T, text string) {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	w.create(t, o)
}

// pages: more objects than one page has come in several, each object once.
func pages(t *testing.T, w *world) {
	for i := range 501 {
		w.create(t, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: fmt.Sprintf("many-%d", i)}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress"}}})
	}
	config, asked := w.asked("/networkpolicies")
	r := read(t, config)
	all := names(r.Cluster.Policies)
	expect(t, "policies", len(slices.Compact(all)), 503)
	expect(t, "pages", asked.Load(), int32(2))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cluster.Read(ctx, w.config, nil); err == nil {
		t.Error("a call that was cancelled has an answer")
	}
}

// betweenRuns: a CronJob stands for its next pod, beside one that has ended; one that runs does not, and neither does
// one of a namespace whose pods the user may not read.
func betweenRuns(t *testing.T, w *world) {
	controlled := func(by, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: by, Name: name, UID: "1", Controller: new(true)}}
	}
	template := batchv1.JobSpec{Template: corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "nightly"}},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}}
	for _, in := range []struct {
		namespace, name string
		phase           corev1.PodPhase
	}{{"shop", "rests", corev1.PodSucceeded}, {"shop", "runs", corev1.PodRunning}, {"other", "rests", corev1.PodSucceeded}} {
		meta := metav1.ObjectMeta{Namespace: in.namespace, Name: in.name}
		w.create(t, &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{Schedule: "0 0 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: template}}})
		meta.Name, meta.OwnerReferences = in.name+"-1", controlled("CronJob", in.name)
		w.create(t, &batchv1.Job{ObjectMeta: meta, Spec: template})
		pod := podOf(in.namespace, in.name+"-1-x")
		pod.OwnerReferences = controlled("Job", in.name+"-1")
		w.create(t, pod)
		pod.Status = corev1.PodStatus{Phase: in.phase, PodIP: "10.1.0.77"}
		if err := w.admin.Status().Update(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	next := func(r *cluster.Result) (all []*corev1.Pod) {
		return slices.DeleteFunc(slices.Clone(r.Cluster.Pods), func(pod *corev1.Pod) bool { return pod.Annotations[v1alpha1.StandInAnnotation] != "true" })
	}
	r := read(t, w.config)
	expect(t, "pods that stand in", names(next(r)), []string{"other/rests-0", "shop/rests-0"})
	for _, pod := range next(r) {
		if pod.Labels["app"] != "nightly" || len(pod.Status.PodIPs) != 1 || pod.OwnerReferences[0].Kind != "CronJob" {
			t.Errorf("%+v", pod)
		}
	}
	if all := names(r.Cluster.Workloads); !slices.Contains(all, "shop/rests") || !slices.Contains(all, "shop/rests-1") {
		t.Errorf("workloads: %v", all)
	}
	x := explain.New(r.Cluster, policy.JudgeOptions{})
	e, err := x.Explain(explain.Question{From: explain.Target{Kind: "CronJob", Namespace: "shop", Name: "rests"}, To: explain.Target{Kind: explain.KindPod, Namespace: "other", Name: "web-0"}, Port: explain.Port{Protocol: policy.TCP, Number: 80}})
	if err != nil || e.Verdict != explain.Denied || slices.ContainsFunc(e.Notes, func(n explain.Note) bool { return n.Reason == "PodNotReady" }) {
		t.Errorf("%v, %+v", err, e)
	}
	few := w.user(t, "cron", "shop", may("", "pods", "namespaces"), may("networking.k8s.io", "networkpolicies"))
	w.create(t, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "batch"}, Rules: []rbacv1.PolicyRule{may("batch", "jobs", "cronjobs"), may("policy.networking.k8s.io", "clusternetworkpolicies")}})
	w.create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "batch"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "batch"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "cron"}},
	})
	w.await(t, "cron", "", may("batch", "cronjobs"))
	w.await(t, "cron", "", may("policy.networking.k8s.io", "clusternetworkpolicies"))
	expect(t, "pods that stand in, of one namespace", names(next(read(t, few, "shop"))), []string{"shop/rests-0"})
}

// asked is a config that counts the requests for a path that ends so.
func (w *world) asked(path string) (*rest.Config, *atomic.Int32) {
	config, asked := rest.CopyConfig(w.config), &atomic.Int32{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if strings.HasSuffix(request.URL.Path, path) {
				asked.Add(1)
			}
			return next.RoundTrip(request)
		})
	})
	return config, asked
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }
