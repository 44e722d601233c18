package observer_test

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/scale"
)

// bigAgent is what the agent of a node knows of a cluster of 20,000 pods and 2,000 policies.
type bigAgent struct {
	*policy.Model
	policies map[policy.Key]*networkingv1.NetworkPolicy
}

// StagedEndsOf is EndsOf: nothing is staged there.
func (a *bigAgent) StagedEndsOf(src, dst netip.Addr) policy.Ends { return a.EndsOf(src, dst) }

func (a *bigAgent) NetworkPolicy(key policy.Key) *networkingv1.NetworkPolicy { return a.policies[key] }

func (*bigAgent) ClusterNetworkPolicy(string) *clusterv1beta1.ClusterNetworkPolicy { return nil }

// bigDenials are an agent and denials of packets from all over the cluster to the node's pods, each of another
// kind. The policies are those that isolate the pod.
func bigDenials(b *testing.B, n int) (*bigAgent, []*flows.Flow) {
	b.Helper()
	size := scale.Size{Pods: 20_000, Namespaces: 200, Policies: 2000, Local: 100}
	a := &bigAgent{Model: policy.NewModel(scale.Node), policies: map[policy.Key]*networkingv1.NetworkPolicy{}}
	for _, node := range size.Nodes() {
		a.Apply(policy.ChangeOf(node))
	}
	for i := range size.Namespaces {
		a.Apply(policy.ChangeOf(scale.Namespace(i)))
	}
	for i := range size.Policies {
		np := size.Policy(i)
		a.policies[policy.Key{Namespace: np.Namespace, Name: np.Name}] = np
		a.Apply(policy.ChangeOf(np))
	}
	var addrs []netip.Addr
	for i := range size.Pods {
		pod := size.Pod(i)
		addrs = append(addrs, netip.MustParseAddr(pod.Status.PodIP))
		a.Apply(policy.ChangeOf(pod))
	}
	var isolated []policy.Subject
	for _, s := range a.Intent().Subjects {
		if len(s.Isolating[policy.Ingress]) > 1 {
			isolated = append(isolated, s)
		}
	}
	if len(isolated) < 10 {
		b.Fatalf("%d pods are isolated", len(isolated))
	}
	var all []*flows.Flow
	for i := range n {
		to := isolated[i%len(isolated)]
		f := &flows.Flow{
			Verdict: flows.Denied, Direction: flows.Ingress, Protocol: "TCP", Reason: flows.DefaultDeny,
			Source: flows.Endpoint{IP: addrs[i*7%len(addrs)]}, Destination: flows.Endpoint{IP: to.IPs[0], Port: uint16(1000 + i%8000)},
		}
		for _, key := range to.Isolating[policy.Ingress] {
			f.Policies = append(f.Policies, flows.Policy{Kind: "NetworkPolicy", Namespace: key.Namespace, Name: key.Name})
		}
		all = append(all, f)
	}
	return a, all
}

// BenchmarkNearMiss is what the near miss of one denial costs: of packets of which each is the first of its kind,
// and of one that is denied again and again.
func BenchmarkNearMiss(b *testing.B) {
	a, all := bigDenials(b, 20_000)
	for kinds, of := range map[string][]*flows.Flow{"new": all, "again": all[:1]} {
		b.Run("kind="+kinds, func(b *testing.B) {
			nearest := observer.NewNearest(a, a, nil)
			b.ReportAllocs()
			found, i := 0, 0
			for b.Loop() {
				if nearest.Of(of[i%len(of)]) != "" {
					found++
				}
				i++
			}
			b.ReportMetric(100*float64(found)/float64(i), "%found")
		})
	}
}

// BenchmarkNearMissFlood is what the process takes of a processor for 200 denials a second, each of another kind,
// with their near misses and without them.
func BenchmarkNearMissFlood(b *testing.B) {
	a, all := bigDenials(b, 20_000)
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("near-misses=%t", with), func(b *testing.B) {
			store := observer.NewStore(4096, nil)
			tell := func(f *flows.Flow) { store.Add(f) }
			misses := observer.NewMisses(observer.NewNearest(a, a, nil).Of, tell)
			if with {
				tell = misses.Tell
			}
			go func() { _ = misses.Start(b.Context()) }()
			began, before, i := time.Now(), processorTime(b), 0
			for b.Loop() {
				f := *all[i%len(all)]
				tell(&f)
				i++
				time.Sleep(time.Until(began.Add(time.Duration(i) * 5 * time.Millisecond)))
			}
			b.ReportMetric(100*float64(processorTime(b)-before)/float64(time.Since(began)), "%cpu")
			b.ReportMetric(float64(misses.Without()), "without")
		})
	}
}

// processorTime is how long the process has had a processor.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
