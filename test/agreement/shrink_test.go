package agreement_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/random"
)

// shrink takes away of a cluster what a disagreement does not need, putting each
// try in place from scratch, and returns what is left as manifests. If the three
// agree once the cluster is put in place so, it was the way there that has made
// them differ.
func shrink(t *testing.T, c *agreement.Cluster, s policy.Snapshot, o ruleset.Options, one agreement.Case) string {
	t.Helper()
	differ := func(s policy.Snapshot) bool {
		if err := c.Replace(s, o); err != nil {
			t.Logf("shrinking: %v", err)
			return false
		}
		report, err := c.Check(context.Background(), s, []agreement.Case{one})
		return err == nil && len(report.Disagreements()) > 0
	}
	if !differ(s) {
		return "put in place from scratch, they agree: it is the way there that matters"
	}
	s.Policies = least(s.Policies, func(left []*networkingv1.NetworkPolicy) bool {
		try := s
		try.Policies = left
		return differ(try)
	})
	s.ClusterPolicies = least(s.ClusterPolicies, func(left []*clusterv1beta1.ClusterNetworkPolicy) bool {
		try := s
		try.ClusterPolicies = left
		return differ(try)
	})
	s.Pods = least(s.Pods, func(left []*corev1.Pod) bool {
		try := s
		try.Pods = left
		return differ(try)
	})
	s.Namespaces = least(s.Namespaces, func(left []*corev1.Namespace) bool {
		try := s
		try.Namespaces = left
		return differ(try)
	})
	s.PodAddresses = least(s.PodAddresses, func(left []*v1alpha1.PodAddresses) bool {
		try := s
		try.PodAddresses = left
		return differ(try)
	})
	var text strings.Builder
	for _, event := range random.Events(s) {
		manifest, err := yaml.Marshal(event.Object)
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("---\n" + string(manifest))
	}
	return text.String()
}

// least leaves out what can be left out while something still holds.
func least[T any](all []T, holds func([]T) bool) []T {
	for i := len(all) - 1; i >= 0; i-- {
		if left := slices.Delete(slices.Clone(all), i, i+1); holds(left) {
			all = left
		}
	}
	return all
}

// TestLeast: what is needed stays, and nothing else.
func TestLeast(t *testing.T) {
	left := least([]int{1, 2, 3, 4, 5, 6}, func(left []int) bool { return slices.Contains(left, 2) && slices.Contains(left, 5) })
	if !slices.Equal(left, []int{2, 5}) {
		t.Errorf("%v", left)
	}
}
