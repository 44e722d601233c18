package lint_test

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/scale"
)

// big is a cluster of 20,000 pods. In half of its policies the podSelector has a letter too many, if wrong
// is true.
func big(policies int, wrong bool) *explain.Cluster {
	size := scale.Size{Pods: 20_000, Namespaces: 200, Policies: policies, Local: 100}
	c := &explain.Cluster{Running: true}
	c.Nodes = size.Nodes()
	for n := range size.Namespaces {
		c.Namespaces = append(c.Namespaces, scale.Namespace(n))
	}
	for n := range size.Pods {
		c.Pods = append(c.Pods, size.Pod(n))
	}
	for n := range size.Policies {
		np := size.Policy(n)
		if wrong && n%2 == 0 {
			np.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"ap": fmt.Sprintf("app-%d", n%10)}}
		}
		c.Policies = append(c.Policies, np)
	}
	return c
}

func seenOf(c *explain.Cluster) (s lint.Seen) {
	for _, ns := range c.Namespaces {
		s.Namespaces = append(s.Namespaces, policy.NamespaceOf(ns))
	}
	for _, object := range c.Pods {
		if pod, is := policy.PodOf(object); is {
			s.Pods = append(s.Pods, pod)
		}
	}
	s.Policies, s.ClusterPolicies = c.Policies, c.ClusterPolicies
	return s
}

func BenchmarkLint(b *testing.B) {
	for _, wrong := range []bool{false, true} {
		c := big(1_000, wrong)
		b.Run(fmt.Sprintf("wrong=%t", wrong), func(b *testing.B) {
			for b.Loop() {
				lint.Lint(c)
			}
		})
	}
}

func BenchmarkOfSeen(b *testing.B) {
	for _, wrong := range []bool{false, true} {
		s := seenOf(big(2_000, wrong))
		b.Run(fmt.Sprintf("wrong=%t", wrong), func(b *testing.B) {
			for b.Loop() {
				lint.OfSeen(s)
			}
		})
	}
}
