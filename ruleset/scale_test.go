package ruleset_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/quantiles"
	"github.com/podfence/podfence/test/scale"
)

// sizes are those that a change must cost the same at. Twenty more of the node's pods are
// affected.
var sizes = []scale.Size{
	{Pods: 1_000, Namespaces: 10, Policies: 100, Local: 230},
	{Pods: 10_000, Namespaces: 100, Policies: 1_000, Local: 230},
	{Pods: 100_000, Namespaces: 1_000, Policies: 10_000, Local: 230},
}

// objects are all objects of a cluster, as the API server has them.
type objects struct {
	nodes      []*corev1.Node
	namespaces []*corev1.Namespace
	policies   []*networkingv1.NetworkPolicy
	pods       []*corev1.Pod
}

func objectsOf(s scale.Size) (o objects) {
	o.nodes = s.Nodes()
	for n := range s.Namespaces {
		o.namespaces = append(o.namespaces, scale.Namespace(n))
	}
	for n := range s.Policies {
		o.policies = append(o.policies, s.Policy(n))
	}
	for n := range s.Pods {
		o.pods = append(o.pods, s.Pod(n))
	}
	return o
}

// load reads objects into a model.
func load(o objects) *policy.Model {
	m := policy.NewModel(scale.Node)
	for _, n := range o.nodes {
		m.Apply(policy.SetNode(policy.NodeOf(n)))
	}
	for _, n := range o.namespaces {
		m.Apply(policy.SetNamespace(policy.NamespaceOf(n)))
	}
	for _, p := range o.policies {
		parsed, _ := policy.Parse(p)
		m.Apply(policy.SetPolicy(parsed))
	}
	for _, p := range o.pods {
		setPod(m, p)
	}
	return m
}

func setPod(m *policy.Model, object *corev1.Pod) {
	if pod, ok := policy.PodOf(object); ok {
		m.Apply(policy.SetPod(pod))
	}
}

// BenchmarkModelLoad reads a cluster's objects into a model, from scratch, and
// reports what lives on of both.
func BenchmarkModelLoad(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		o := objectsOf(scale.Big)
		runtime.GC()
		b.StartTimer()
		m := load(o)
		b.StopTimer()
		o = objects{} //nolint:ineffassign // the objects go, so that the model alone is measured
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		b.ReportMetric(float64(stats.HeapAlloc)/1e6, "MB-live")
		runtime.KeepAlive(m)
		b.StartTimer()
	}
}

// BenchmarkStageFirst is what it takes that a first policy is staged, for all pods of the node: a second model of the
// cluster, and the staged table; and what lives on of both.
func BenchmarkStageFirst(b *testing.B) {
	o := objectsOf(scale.Big)
	for n := range scale.Big.Namespaces {
		o.policies = append(o.policies, &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: scale.Namespace(n).Name, Name: "staged", Annotations: map[string]string{policy.EnforcementAnnotation: policy.Staged}},
		})
	}
	m := load(o)
	m.Intent()
	live := func() float64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return float64(stats.HeapAlloc) / 1e6
	}
	before := live()
	for b.Loop() {
		s := m.NewStaged()
		table := ruleset.Build(s.Intent(), ruleset.Options{LogGroup: 1}.ForStaged())
		b.StopTimer()
		b.ReportMetric(live()-before, "MB-live")
		b.ReportMetric(float64(s.Rehearsed()), "pods")
		runtime.KeepAlive(table)
		b.StartTimer()
	}
}

// affected is a namespace that clusters of all sizes have in addition, with the same pods and
// policies, so that changes in it affect as much in all: ten pods of each application, every
// fifth of them the node's, and a policy of each kind. No other namespace's policies name it.
const affected = "affected"

func (o *objects) addAffected(s scale.Size) {
	ns := scale.Namespace(0)
	ns.Name, ns.Labels = affected, map[string]string{corev1.LabelMetadataName: affected}
	o.namespaces = append(o.namespaces, ns)
	for n := range 100 {
		pod := s.Pod(n * s.Namespaces) // of application n modulo 10
		pod.Namespace, pod.Name, pod.UID = affected, fmt.Sprint("pod-", n), types.UID(fmt.Sprint("affected-", n))
		pod.Spec.NodeName, pod.Status.PodIP = "node-1", fmt.Sprintf("10.0.1.%d", 150+n)
		if n/10%5 == 0 {
			pod.Spec.NodeName, pod.Status.PodIP = scale.Node, fmt.Sprintf("10.0.0.%d", 232+n%10+n/50*10)
		}
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
		o.pods = append(o.pods, pod)
	}
	for kind := range 10 {
		np := s.Policy(kind * s.Namespaces)
		np.Namespace = affected
		o.policies = append(o.policies, np)
	}
}

// underCluster is the cluster of 20,000 pods whose changes are measured with so many
// ClusterNetworkPolicies as well.
var underCluster = scale.Size{Pods: 20_000, Namespaces: 1_000, Policies: 2_000, Local: 230}

// loadCluster reads so many ClusterNetworkPolicies into a model.
func loadCluster(tb testing.TB, m *policy.Model, n int) {
	for i := range n {
		parsed, problems := policy.ParseCluster(scale.ClusterPolicy(i))
		if len(problems) > 0 {
			tb.Fatal(problems)
		}
		m.Apply(policy.SetPolicy(parsed))
	}
}

// BenchmarkClusterPolicies is what 100 ClusterNetworkPolicies of 25 rules cost a node: how long a change
// of one pod takes from the API's object to the plan, without them and with them, and what the model
// and the table take of memory.
func BenchmarkClusterPolicies(b *testing.B) {
	all := objectsOf(underCluster)
	all.addAffected(underCluster)
	for _, n := range []int{0, 100} {
		heap := func() float64 {
			var stats runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&stats)
			return float64(stats.HeapAlloc) / 1e6
		}
		before := heap()
		m := load(all)
		loadCluster(b, m, n)
		table := ruleset.Build(m.Intent(), ruleset.Options{RevokedMark: 1})
		live, size := heap()-before, table.Size()
		settle := func() {
			for first := true; first || m.Pending(); first = false {
				table.Update(m.Take())
			}
		}
		pod := podOf(all, affected, "pod-13")
		relabelled := pod.DeepCopy()
		relabelled.Labels["app"] = "app-5"
		namespace := scale.Namespace(1)
		renamed := namespace.DeepCopy()
		renamed.Labels["team"] = "team-07"
		key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
		setNamespace := func(ns *corev1.Namespace) func() {
			return func() { m.Apply(policy.SetNamespace(policy.NamespaceOf(ns))) }
		}
		for _, c := range []struct {
			name     string
			do, undo func()
		}{
			{"pod-relabelled", func() { setPod(m, relabelled) }, func() { setPod(m, pod) }},
			{"pod-deleted", func() { m.Apply(policy.DeletePod(key)) }, func() { setPod(m, pod) }},
			{"namespace-of-20-relabelled", setNamespace(renamed), setNamespace(namespace)},
		} {
			b.Run(fmt.Sprintf("%s/cluster-policies=%d", c.name, n), func(b *testing.B) {
				var took []time.Duration
				for b.Loop() {
					began := time.Now()
					c.do()
					settle()
					took = append(took, time.Since(began))
					c.undo()
					settle()
				}
				quantiles.Report(b, "", time.Microsecond, took, 50, 99)
				b.ReportMetric(live, "MB-live")
				b.ReportMetric(float64(size.Elements), "elements")
				b.ReportMetric(float64(size.Rules), "rules")
				b.ReportMetric(float64(size.Chains), "chains")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkChange is one event, from the API's object to the plan for the
// kernel, in clusters of several sizes. What it affects is as much in all.
func BenchmarkChange(b *testing.B) {
	for _, s := range sizes {
		all := objectsOf(s)
		all.addAffected(s)
		m := load(all)
		table := ruleset.Build(m.Intent(), ruleset.Options{})
		operations := 0
		settle := func() {
			for first := true; first || m.Pending(); first = false {
				operations += len(table.Update(m.Take()).Ops)
			}
		}
		run := func(name string, do, undo func()) {
			b.Run(fmt.Sprintf("%s/pods=%d", name, s.Pods), func(b *testing.B) {
				b.ReportAllocs()
				var took []time.Duration
				for b.Loop() {
					operations = 0
					began := time.Now()
					do()
					settle()
					took = append(took, time.Since(began))
					b.ReportMetric(float64(operations), "operations")
					undo()
					settle()
				}
				quantiles.Report(b, "", time.Microsecond, took, 50, 99)
			})
		}
		// Another node's pod, of an application that the local pods' policies name.
		pod := podOf(all, affected, "pod-13")
		relabelled := pod.DeepCopy()
		relabelled.Labels["app"] = "app-5"
		key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
		run("pod-relabelled", func() { setPod(m, relabelled) }, func() { setPod(m, pod) })
		run("pod-deleted", func() { m.Apply(policy.DeletePod(key)) }, func() { setPod(m, pod) })
		m.Apply(policy.DeletePod(key))
		settle()
		run("pod-created", func() { setPod(m, pod) }, func() { m.Apply(policy.DeletePod(key)) })
		setPod(m, pod)
		settle()

		for _, np := range changedPolicies(s) {
			set := func() {
				parsed, problems := policy.Parse(np)
				if len(problems) > 0 {
					b.Fatal(problems)
				}
				m.Apply(policy.SetPolicy(parsed))
			}
			remove := func() { m.Apply(policy.DeletePolicy(types.NamespacedName{Namespace: np.Namespace, Name: np.Name})) }
			run(np.Name+"-created", set, remove)
			set()
			settle()
			run(np.Name+"-deleted", remove, set)
			remove()
			settle()
		}
	}
}

func podOf(o objects, namespace, name string) *corev1.Pod {
	for _, pod := range o.pods {
		if pod.Namespace == namespace && pod.Name == name {
			return pod
		}
	}
	return nil
}

// wideNamespaces are those whose pods the wide policy means, 50 of each.
const wideNamespaces = 100

// changedPolicies are a policy like an existing one and, in clusters with so many pods, one with a new
// selector that means 5,000 pods. In clusters of all sizes, both select the same pods of the node.
func changedPolicies(s scale.Size) []*networkingv1.NetworkPolicy {
	known := s.Policy(2 * s.Namespaces)
	known.Namespace, known.Name = affected, "policy"
	if s.Namespaces < wideNamespaces {
		return []*networkingv1.NetworkPolicy{known}
	}
	var names, apps []string
	for n := range wideNamespaces {
		names = append(names, scale.Namespace(n).Name)
	}
	for n := range 5 {
		apps = append(apps, fmt.Sprint("app-", n))
	}
	in := func(key string, values []string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpIn, Values: values}}}
	}
	wide := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: affected, Name: "wide-policy"}, Spec: networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
			NamespaceSelector: in(corev1.LabelMetadataName, names), PodSelector: in("app", apps),
		}}}},
	}}
	return []*networkingv1.NetworkPolicy{known, wide}
}

// TestChangesAffectTheSame: what BenchmarkChange changes is as much in the kernel, and not
// nothing, whatever the size of the cluster.
func TestChangesAffectTheSame(t *testing.T) {
	var want map[string]int
	for _, s := range sizes[:2] {
		all := objectsOf(s)
		all.addAffected(s)
		m := load(all)
		table := ruleset.Build(m.Intent(), ruleset.Options{})
		have := map[string]int{}
		count := func(name string, change func()) {
			change()
			for first := true; first || m.Pending(); first = false {
				have[name] += len(table.Update(m.Take()).Ops)
			}
		}
		pod := podOf(all, affected, "pod-13")
		count("pod deleted", func() { m.Apply(policy.DeletePod(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})) })
		count("pod created", func() { setPod(m, pod) })
		for _, np := range changedPolicies(s)[:1] {
			parsed, _ := policy.Parse(np)
			count("policy created", func() { m.Apply(policy.SetPolicy(parsed)) })
		}
		if want == nil {
			want = have
		}
		for name, operations := range have {
			if operations == 0 || operations != want[name] {
				t.Errorf("%d pods: %s: %d operations, with %d pods %d", s.Pods, name, operations, sizes[0].Pods, want[name])
			}
		}
	}
}

// TestUsualLoads: what clusters of usual policies take of a node is far from its budgets,
// however large they are, also where each of the policies is active on the node.
func TestUsualLoads(t *testing.T) {
	for _, s := range []scale.Size{
		{Pods: 20_000, Namespaces: 200, Policies: 2_000, Local: 250},
		{Pods: 20_000, Namespaces: 20, Policies: 2_000, Local: 250},
		{Pods: 20_000, Namespaces: 100, Policies: 8_000, Local: 250},
	} {
		m := load(objectsOf(s))
		in := m.Intent()
		most := m.Most(1)[0]
		t.Logf("%+v: %d policies are active; most takes %s", s, len(in.Policies), most)
		if m.OverBudget() > 0 {
			t.Errorf("%+v: %d policies are over budget", s, m.OverBudget())
		}
		if cost := most.Elements + 250*most.Objects; cost > policy.DefaultBudget/2 {
			t.Errorf("%+v: %s takes %d of %d", s, most, cost, policy.DefaultBudget)
		}
	}
}
