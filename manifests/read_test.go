package manifests

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

const chart = "testdata/chart"

// TestReadChart reads what Helm writes: workloads stand for pods, Services are there, all else is counted.
func TestReadChart(t *testing.T) {
	o, err := Read([]string{chart}, ReadOptions{Node: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	if got := o.SkippedText(); got != "3 objects that podfence does not read: 1 ConfigMap, 1 HorizontalPodAutoscaler, 1 ServiceAccount" {
		t.Errorf("passed over %s", got)
	}
	var pods []string
	for _, pod := range o.Pods {
		if pod.Spec.NodeName != "node-1" || pod.Annotations[v1alpha1.StandInAnnotation] != "true" || len(pod.OwnerReferences) != 1 {
			t.Errorf("pod %s: %+v", pod.Name, pod.ObjectMeta)
		}
		text := fmt.Sprintf("%s/%s app=%s of %s", pod.Namespace, pod.Name, pod.Labels["app"], pod.OwnerReferences[0].Kind)
		if seen, live := policy.PodOf(pod); live {
			text += fmt.Sprintf(" %v%d", seen.IPs, len(seen.Ports))
		}
		pods = append(pods, text)
	}
	want := []string{
		"default/backup-0 app=backup of CronJob [240.0.0.2]0", "default/db-0 app=db of StatefulSet [240.0.0.3]1",
		"default/logs-0 app=logs of DaemonSet", "default/logs-1 app=logs of DaemonSet",
		"default/web-0 app=web of Deployment [240.0.0.4]1", "default/web-1 app=web of Deployment [240.0.0.5]1",
	}
	if !slices.Equal(pods, want) {
		t.Errorf("the pods are\n%s\nwant\n%s", strings.Join(pods, "\n"), strings.Join(want, "\n"))
	}
	if len(o.Services) != 1 || o.Services[0].Spec.Ports[0].TargetPort.StrVal != "postgres" || len(o.Workloads) != 4 || len(o.Policies) != 1 {
		t.Errorf("%d Services, %d workloads, %d policies", len(o.Services), len(o.Workloads), len(o.Policies))
	}
	// Where the label of the second peer is written.
	if file, line, known := o.Place("NetworkPolicy", "default", "db", "spec.ingress[0].from[1].podSelector.matchLabels[app]"); !known || file != chart+"/all.yaml" || line != 34 {
		t.Errorf("the place is %s:%d, %t", file, line, known)
	}
	if _, line, _ := o.Place("NetworkPolicy", "default", "db", "spec.ingress[0].from[7]"); line != 27 {
		t.Errorf("the nearest place is line %d", line)
	}
	if _, _, known := o.Place("NetworkPolicy", "default", "none", "spec"); known {
		t.Error("a policy that is not there has a place")
	}
}

func TestReadPaths(t *testing.T) {
	names := func(o *Objects) (all []string) {
		for _, pod := range o.Pods {
			all = append(all, pod.Name)
		}
		return all
	}
	o, err := Read([]string{chart}, ReadOptions{Recursive: true})
	if err != nil || !slices.Contains(names(o), "migrate-0") {
		t.Errorf("with the folders in it: %v", err)
	}
	stdin, err := os.ReadFile(chart + "/all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	o, err = Read([]string{"-", chart + "/extra"}, ReadOptions{Stdin: bytes.NewReader(stdin)})
	if err != nil || len(o.Pods) != 7 {
		t.Errorf("standard input: %v", err)
	}
	if file, line, _ := o.Place("NetworkPolicy", "default", "db", "spec.podSelector"); file != "standard input" || line != 24 {
		t.Errorf("the place is %s:%d", file, line)
	}
	for _, test := range []struct {
		paths []string
		o     ReadOptions
		want  string
	}{
		{[]string{chart, chart + "/all.yaml"}, ReadOptions{}, "the same object is at testdata/chart/all.yaml:21"},
		{[]string{"nowhere"}, ReadOptions{}, "nowhere: no such file or directory"},
		{[]string{chart}, ReadOptions{Strict: true}, `all.yaml:4: ServiceAccount: kind: podfence does not read kind`},
		{[]string{t.TempDir()}, ReadOptions{}, "there are no objects that podfence reads"},
	} {
		if _, err := Read(test.paths, test.o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v; want %q", test.paths, err, test.want)
		}
	}
}

// TestStandInsYield: a workload whose pods are there needs none to stand for them, whether it controls them
// itself or by another; and pods keep their addresses.
func TestStandInsYield(t *testing.T) {
	const text = `
apiVersion: v1
kind: List
items:
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {metadata: {labels: {app: web}}}}}
- {apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: web-5d, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: a, controller: true}]}, spec: {template: {metadata: {labels: {app: web}}}}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: api, namespace: shop}, spec: {replicas: 0, template: {metadata: {labels: {app: api}}, spec: {nodeName: node-1}}}}
- {apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: api-7f, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: api, uid: b, controller: true}]}, spec: {replicas: 0, template: {metadata: {labels: {app: api}}}}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-5d-x, namespace: shop, labels: {app: web}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d, uid: c, controller: true}]}
  spec: {nodeName: node-1, containers: [{name: a, image: a}]}
  status: {podIPs: [{ip: 10.244.1.2}]}
- {apiVersion: v1, kind: Pod, metadata: {name: alone, namespace: shop}, spec: {nodeName: node-1, containers: [{name: a, image: a}]}}
- {apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, "fd00:1::/64"]}}
`
	o, err := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(text)})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, pod := range o.Pods {
		got[pod.Name] = fmt.Sprint(addrsOf(pod), pod.Annotations[v1alpha1.StandInAnnotation])
	}
	want := map[string]string{
		"web-5d-x": "[10.244.1.2]", "api-0": "[10.244.1.3 fd00:1::2]true", "alone": "[10.244.1.4 fd00:1::3]true",
	}
	want["alone"], want["api-0"] = "[10.244.1.3 fd00:1::2]true", "[10.244.1.4 fd00:1::3]true" // in the order of names
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the pods are %v, want %v", got, want)
	}
	if !slices.Equal(o.StandIns, []string{"Deployment shop/api", "Pod shop/alone"}) {
		t.Errorf("stand-ins for %v", o.StandIns)
	}
	if !slices.Equal(o.Implied, []string{"shop"}) {
		t.Errorf("implied are the namespaces %v", o.Implied)
	}
}

func addrsOf(pod *corev1.Pod) (texts []string) {
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	return texts
}

// TestEnforcedKinds: what is enforced from a folder passes over workloads too, and makes no pods of them.
func TestEnforcedKinds(t *testing.T) {
	o, err := Load(filepath.Join(chart, "all.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Pods)+len(o.Services)+len(o.Workloads) > 0 || len(o.Policies) != 1 || o.Skipped["Deployment"] != 1 || o.Skipped["Service"] != 1 {
		t.Errorf("%d pods, %d policies, passed over %s", len(o.Pods), len(o.Policies), o.SkippedText())
	}
}

// TestNotPassedOver: what may be meant for a policy is refused, and not passed over.
func TestNotPassedOver(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		// Two objects without a line --- between them: the second is a policy.
		{"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n", "4: ConfigMap: apiVersion: it comes twice"},
		{"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicies\n", "NetworkPolicies"},
		{"apiVersion: networking.k8s/v1\nkind: NetworkPolicyy\n", "NetworkPolicyy"},
		{"apiVersion: networking.k8s.oi/v1\nkind: NetworkPolicie\n", "NetworkPolicie"},
		{"apiVersion: v1\nkind: NamespaceS\n", "NamespaceS"},
		{"apiVersion: networking.k8s.io/v1\nkind: networkpolicylist\n", "networkpolicylist"},
		{"apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\n", "BaselineAdminNetworkPolicy"},
	} {
		if _, err := Parse("f", []byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s\nis read as %v, want an error with %q", test.text, err, test.want)
		}
	}
	for _, text := range []string{
		"apiVersion: batch/v1\nkind: Job\n", "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n", "apiVersion: networking.k8s.io/v1\nkind: Ingress\n",
		"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n", "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy\n", "apiVersion: v1\nkind: Secret\n",
		"apiVersion: policy/v1\nkind: PodDisruptionBudget\n", "apiVersion: metrics.k8s.io/v1beta1\nkind: NodeMetrics\n", "apiVersion: v1\nkind: Event\n",
	} {
		if _, err := Parse("f", []byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestSkippedOnce: what is passed over is counted once, also in a list that is read again as a whole because
// its items cannot be read by themselves.
func TestSkippedOnce(t *testing.T) {
	const list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n" +
		"- {apiVersion: v1, kind: Pod, metadata: &m {name: a}}\n- {apiVersion: v1, kind: Secret, metadata: *m}\n"
	dir := folder(t, map[string]string{"list.yaml": list})
	o, err := Load(dir)
	if err != nil || o.Skipped["Secret"] != 2 || len(o.Pods) != 1 {
		t.Errorf("passed over %v, %d pods, %v", o, len(o.Pods), err)
	}
}

// TestOtherVersions: for questions, what runs or serves is passed over in versions that are nobody's any more,
// or another API group's; a version that nobody has is a slip, and what is enforced is never passed over.
func TestOtherVersions(t *testing.T) {
	const pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
	for _, test := range []struct{ version, kind, skipped, refused string }{
		{"apps/v1beta1", "Deployment", "1 Deployment of apps/v1beta1", ""},
		{"extensions/v1beta1", "DaemonSet", "1 DaemonSet of extensions/v1beta1", ""},
		{"batch/v1beta1", "CronJob", "1 CronJob of batch/v1beta1", ""},
		{"serving.knative.dev/v1", "Service", "1 Service of serving.knative.dev/v1", ""},
		{"batch.volcano.sh/v1alpha1", "JobList", "1 JobList of batch.volcano.sh/v1alpha1", ""},
		{"app/v1", "Deployment", "", `no kind "Deployment" in version "app/v1": podfence reads Pod, Namespace, Node, Service and `},
		{"apps/v2", "Deployment", "", `no kind "Deployment" in version "apps/v2"`},
		{"extensions/v1beta1", "NetworkPolicy", "", `no kind "NetworkPolicy" in version "extensions/v1beta1"`},
		{"crd.projectcalico.org/v1", "NetworkPolicy", "", `no kind "NetworkPolicy" in version "crd.projectcalico.org/v1"`},
		{"v1beta3", "Pod", "", `no kind "Pod" in version "v1beta3"`},
	} {
		text := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: a}\n", test.version, test.kind) + pod
		o, err := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(text)})
		switch {
		case test.refused != "":
			if err == nil || !strings.Contains(err.Error(), test.refused) {
				t.Errorf("%s of %s: %v, want %q", test.kind, test.version, err, test.refused)
			}
			continue
		case err != nil:
			t.Errorf("%s of %s: %v", test.kind, test.version, err)
			continue
		}
		if got := o.SkippedText(); !strings.HasSuffix(got, test.skipped) || len(o.Pods) != 1 {
			t.Errorf("%s of %s: passed over %q, %d pods", test.kind, test.version, got, len(o.Pods))
		}
		if _, err := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(text), Strict: true}); err == nil {
			t.Errorf("%s of %s is read strictly, without an error", test.kind, test.version)
		}
	}
}

// TestRefusalsNameKinds: who asks is told all that is read.
func TestRefusalsNameKinds(t *testing.T) {
	of := maps.Clone(versions)
	maps.Copy(of, questionVersions)
	for kind, all := range of {
		group, version, _ := strings.Cut(all[0], "/")
		if !regexp.MustCompile(`\b`+kind+`\b`).MatchString(readsAsked) || !strings.Contains(readsAsked, group) || !strings.Contains(readsAsked, version) {
			t.Errorf("%s of %s is not in %q", kind, all[0], readsAsked)
		}
	}
}

// TestGenerateName: what runs may leave its name to the API server, and each such object has another; a policy
// may not.
func TestGenerateName(t *testing.T) {
	const job = "---\napiVersion: batch/v1\nkind: Job\nmetadata: {generateName: hook-, namespace: w}\nspec: {template: {metadata: {labels: {app: h}}}}\n"
	const np = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {generateName: a-}\nspec: {podSelector: {}}\n"
	o, err := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(job + "---\napiVersion: v1\nkind: Pod\nmetadata: {generateName: p-}\n" + job)})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range o.Workloads {
		got = append(got, w.Namespace+"/"+w.Name)
	}
	for _, pod := range o.Pods {
		got = append(got, pod.Namespace+"/"+pod.Name)
	}
	if want := []string{"w/hook-generated-1", "w/hook-generated-2", "default/p-generated-1", "w/hook-generated-1-0", "w/hook-generated-2-0"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, text := range []string{np, strings.ReplaceAll(np, "NetworkPolicy", "Namespace")} {
		if _, err := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(text)}); err == nil {
			t.Errorf("read without a name:\n%s", text)
		}
	}
	if _, err := Parse("f", []byte(job+"---\napiVersion: v1\nkind: Pod\nmetadata: {generateName: p-}\n")); err == nil {
		t.Error("a Pod without a name is read to be enforced")
	}
}

// TestStandInsOfIPv6Services: where a Service is of IPv6, what stands for its pods has addresses of IPv6, so
// that the Service has endpoints.
func TestStandInsOfIPv6Services(t *testing.T) {
	for spec, want := range map[string]int{
		"ipFamilies: [IPv4]": 1, "ipFamilies: [IPv6]": 2, `clusterIP: "fd00::1"`: 2, `clusterIPs: [10.96.0.1, "fd00::1"]`: 2, "clusterIP: None": 1,
	} {
		o, err := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {" + spec + ", ports: [{port: 80}]}\n" +
			"---\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n")})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(o.Pods[0].Status.PodIPs); got != want {
			t.Errorf("%s: the pod has %d addresses, want %d", spec, got, want)
		}
	}
}

// TestReadService: all of a Service is read that answers go by, whether pods are ready or not included.
func TestReadService(t *testing.T) {
	o, err := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(`apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, externalIPs: [192.0.2.1], publishNotReadyAddresses: true, ports: [{port: 80, nodePort: 30080}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2, ipMode: Proxy, ports: [{port: 80, protocol: TCP}]}]}}
`)})
	if err != nil {
		t.Fatal(err)
	}
	s := o.Services[0]
	got := fmt.Sprintln(s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.IPFamilies, *s.Spec.IPFamilyPolicy, s.Spec.ExternalIPs, s.Spec.PublishNotReadyAddresses, s.Spec.Ports[0].NodePort)
	if want := "LoadBalancer 10.96.0.1 [10.96.0.1] [IPv4] SingleStack [192.0.2.1] true 30080\n"; got != want {
		t.Errorf("read is %s, want %s", got, want)
	}
	at := s.Status.LoadBalancer.Ingress
	if len(at) != 1 || at[0].IP != "192.0.2.2" || at[0].IPMode == nil || *at[0].IPMode != corev1.LoadBalancerIPModeProxy {
		t.Errorf("its load balancer has %v", at)
	}
}
