package bench

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/scale"
)

// sizes are the loads: pods elsewhere in the cluster, and policies of theirs.
var sizes = []scale.Size{
	{Namespaces: 1},
	{Pods: 5_000, Namespaces: 50, Policies: 500},
	{Pods: 20_000, Namespaces: 200, Policies: 2_000},
}

func sizeName(s scale.Size) string { return fmt.Sprintf("pods=%d/policies=%d", s.Pods, s.Policies) }

// BenchmarkLatency is the time from the API server's answer to a change until
// the first packet gets the verdict that the change means.
func BenchmarkLatency(b *testing.B) {
	for _, size := range sizes {
		b.Run(sizeName(size), func(b *testing.B) {
			c := newCluster(b, size)
			node := newNode(b)
			w := newWay(b, c, node)
			c.startAgent(b, node)
			policies := c.NetworkingV1().NetworkPolicies(namespace)
			deny := friendsOnly("deny")
			deny.Spec.Ingress = nil
			measure(b, w, "change=policy", func() error {
				_, err := policies.Create(context.Background(), deny, metav1.CreateOptions{})
				return err
			}, func() error {
				return policies.Delete(context.Background(), "deny", metav1.DeleteOptions{})
			})
			c.admitFriends(b, w, c.label("no"), c.label("yes"))
			measure(b, w, "change=label", c.label("no"), c.label("yes"))
		})
	}
}

func measure(b *testing.B, w *way, name string, shut, open func() error) {
	b.Run(name, func(b *testing.B) {
		var d delays
		for range b.N {
			must(b, w.measure(&d, shut, open))
		}
		d.report(b, "")
	})
}
