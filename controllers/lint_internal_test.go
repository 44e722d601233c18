package controllers

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/policy"
)

func nodesNamed(n int) (nodes []corev1.Node) {
	for i := range n {
		nodes = append(nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)}})
	}
	return nodes
}

func policiesWithUIDs(n int) (all []client.Object) {
	for i := range n {
		all = append(all, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("p-", i), UID: types.UID(fmt.Sprintf("uid-%d", i))}})
	}
	return all
}

// lookersOf are the nodes whose agents look at each policy.
func lookersOf(nodes []corev1.Node, policies []client.Object) map[types.UID]map[string]bool {
	of := map[types.UID]map[string]bool{}
	for _, node := range nodes {
		mine := newRing(nodes).isOf(node.Name)
		for _, object := range policies {
			if mine(object) {
				if of[object.GetUID()] == nil {
					of[object.GetUID()] = map[string]bool{}
				}
				of[object.GetUID()][node.Name] = true
			}
		}
	}
	return of
}

// TestAgentsShareThePolicies: three agents look at each policy, or all where there are fewer, no agent
// has much more than its share, and a node that goes changes little.
func TestAgentsShareThePolicies(t *testing.T) {
	policies := policiesWithUIDs(300)
	for _, n := range []int{1, 2, 3, 4, 50} {
		shares := map[string]int{}
		of := lookersOf(nodesNamed(n), policies)
		for _, object := range policies {
			if got := len(of[object.GetUID()]); got != min(n, lookers) {
				t.Fatalf("of %d nodes, %d look at policy %s", n, got, object.GetName())
			}
			for node := range of[object.GetUID()] {
				shares[node]++
			}
		}
		for node, share := range shares {
			if share > 6*len(policies)*lookers/n {
				t.Errorf("of %d nodes, %s looks at %d of %d policies", n, node, share, len(policies))
			}
		}
	}
	if newRing(nil).isOf("node-0")(policies[0]) {
		t.Error("a node that is not known looks at a policy")
	}
	before, after := lookersOf(nodesNamed(50), policies), lookersOf(nodesNamed(49), policies)
	changed := 0
	for uid := range before {
		if fmt.Sprint(before[uid]) != fmt.Sprint(after[uid]) {
			changed++
		}
	}
	if changed > len(policies)/3 {
		t.Errorf("a node that goes changes who looks at %d of %d policies", changed, len(policies))
	}
}

// TestLintedIsNearlyCertain: what is not there yet is no news.
func TestLintedIsNearlyCertain(t *testing.T) {
	policies := policiesWithUIDs(2)
	objects := map[policy.Key]client.Object{}
	var findings []lint.Finding
	for _, object := range policies {
		objects[client.ObjectKeyFromObject(object)] = object
		for _, severity := range []lint.Severity{lint.Warning, lint.Info, lint.Warning} {
			f := lint.Finding{Severity: severity}
			f.Object.Namespace, f.Object.Name = object.GetNamespace(), object.GetName()
			findings = append(findings, f)
		}
	}
	all := linted(findings, objects)
	if len(all) != 2 || all[0].Object != policies[0] || all[1].Object != policies[1] || len(all[0].Findings) != 2 || len(all[1].Findings) != 2 {
		t.Errorf("reported are %v", all)
	}
}
