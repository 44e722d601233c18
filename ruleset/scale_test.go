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

// sizes are those that a change must cost the same at.
var sizes = []scale.Size{
	{Pods: 1_000, Namespaces: 10, Policies: 100, Local: 250},
	{Pods: 10_000, Namespaces: 100, Policies: 1_000, Local: 250},
	scale.Big,
}

// objects are all of a cluster's, as the API server has them.
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
		m.SetNode(policy.NodeOf(n))
	}
	for _, n := range o.namespaces {
		m.SetNamespace(policy.NamespaceOf(n))
	}
	for _, p := range o.policies {
		parsed, _ := policy.Parse(p)
		m.SetPolicy(parsed)
	}
	for _, p := range o.pods {
		setPod(m, p)
	}
	return m
}

func setPod(m *policy.Model, object *corev1.Pod) {
	if pod, ok := policy.PodOf(object); ok {
		m.SetPod(pod)
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
		o = objects{}
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		b.ReportMetric(float64(stats.HeapAlloc)/1e6, "MB-live")
		runtime.KeepAlive(m)
		b.StartTimer()
	}
}

// BenchmarkChange is one event, from the API's object to the plan for the
// kernel, in clusters of two sizes.
func BenchmarkChange(b *testing.B) {
	for _, s := range sizes {
		m := load(objectsOf(s))
		table := ruleset.Build(m.Intent(), ruleset.Options{})
		settle := func() {
			for first := true; first || m.Staging(); first = false {
				table.Update(m.Take())
			}
		}
		// Another node's pod, of an application that policies of local pods name.
		pod := s.Pod(3*s.Namespaces + 7)
		relabelled := pod.DeepCopy()
		relabelled.Labels["app"] = "app-5"
		run := func(name string, do, undo func()) {
			b.Run(fmt.Sprintf("%s/pods=%d", name, s.Pods), func(b *testing.B) {
				b.ReportAllocs()
				var took []time.Duration
				for b.Loop() {
					began := time.Now()
					do()
					settle()
					took = append(took, time.Since(began))
					undo()
					settle()
				}
				quantiles.Report(b, "", time.Microsecond, took, 50, 99)
			})
		}
		key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
		run("pod-relabelled", func() { setPod(m, relabelled) }, func() { setPod(m, pod) })
		run("pod-deleted", func() { m.DeletePod(key) }, func() { setPod(m, pod) })
		m.DeletePod(key)
		settle()
		run("pod-created", func() { setPod(m, pod) }, func() { m.DeletePod(key) })
		setPod(m, pod)
		settle()

		// A policy like one that is there, and one with a new selector that means
		// 5,000 pods, or as many as there are.
		known := s.Policy(2 * s.Namespaces)
		known.Name = "another"
		wide := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns-0000", Name: "wide"}, Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
				NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpIn, Values: []string{"team-01", "team-02", "team-03", "team-04", "team-05"}}}},
				PodSelector:       &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"app-0", "app-1", "app-2", "app-3", "app-4"}}}},
			}}}},
		}}
		for name, object := range map[string]*networkingv1.NetworkPolicy{"policy-created": known, "wide-policy-created": wide} {
			set := func() {
				parsed, problems := policy.Parse(object)
				if len(problems) > 0 {
					b.Fatal(problems)
				}
				m.SetPolicy(parsed)
			}
			remove := func() { m.DeletePolicy(types.NamespacedName{Namespace: object.Namespace, Name: object.Name}) }
			run(name, set, remove)
			set()
			settle()
			run(name[:len(name)-len("created")]+"deleted", remove, set)
			remove()
			settle()
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
