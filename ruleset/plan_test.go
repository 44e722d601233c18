package ruleset_test

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// TestPlans: the cost of a change is the change. Each step changes one thing in
// the cluster of testdata/web.yaml and has just these operations.
func TestPlans(t *testing.T) {
	objects, err := manifests.Load("testdata/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	snapshot := objects.Snapshot
	m := policy.NewModel("node-1")
	feed := func(objects ...random.Event) {
		for _, event := range objects {
			m.Apply(event.Change())
		}
	}
	feed(random.Events(snapshot)...)
	pods := map[string]*corev1.Pod{}
	for _, p := range snapshot.Pods {
		pods[p.Name] = p
	}
	table := ruleset.Build(m.Intent(), ruleset.Options{})

	elsewhere := pods["db-0"].DeepCopy()
	elsewhere.Name, elsewhere.Status.PodIPs, elsewhere.Status.PodIP = "db-1", []corev1.PodIP{{IP: "10.244.2.4"}}, "10.244.2.4"
	relabelled := elsewhere.DeepCopy()
	relabelled.Labels = map[string]string{"app": "cache"} // the selector means both
	retired := elsewhere.DeepCopy()
	retired.Labels = map[string]string{"app": "other"}
	moved := pods["client"].DeepCopy()
	moved.Status.PodIPs, moved.Status.PodIP = []corev1.PodIP{{IP: "10.244.1.10"}}, "10.244.1.10"
	unrelated := pods["db-0"].DeepCopy()
	unrelated.Name, unrelated.Labels, unrelated.Status.PodIPs, unrelated.Status.PodIP = "batch", nil, []corev1.PodIP{{IP: "10.244.2.5"}}, "10.244.2.5"
	noted := pods["web-0"].DeepCopy()
	noted.Annotations = map[string]string{"a": "b"}
	noted.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady}}

	peers, clients := "peers-4-264rnmzdcgfjjcbn", "peers-4-s22h7iqewmxlj6r7"
	for _, step := range []struct {
		what  string
		event random.Event
		want  []string
	}{
		{"a pod elsewhere gets an address", random.Event{Object: elsewhere}, []string{"add element " + peers + " { 10.244.2.4 }"}},
		{"its label changes to another that is meant", random.Event{Object: relabelled}, nil},
		{"its label changes to one that is not", random.Event{Object: retired}, []string{"delete element " + peers + " { 10.244.2.4 }"}},
		{"a pod that nobody here means", random.Event{Object: unrelated}, nil},
		{"news that is none of policy's business", random.Event{Object: noted}, nil},
		{"a pod here moves to another address", random.Event{Object: moved}, []string{
			"add element " + clients + " { 10.244.1.10 }", "add element same-pod-4 { 10.244.1.10 . 10.244.1.10 }",
			"delete element egress-pods-4 { 10.244.1.9 }", "add element egress-pods-4 { 10.244.1.10 : accept }",
			"delete element ingress-pods-4 { 10.244.1.9 }", "add element ingress-pods-4 { 10.244.1.10 : accept }",
			"delete element " + clients + " { 10.244.1.9 }", "delete element same-pod-4 { 10.244.1.9 . 10.244.1.9 }",
		}},
		{"it goes", random.Event{Object: moved, Delete: true}, []string{
			"delete element egress-pods-4 { 10.244.1.10 }", "delete element ingress-pods-4 { 10.244.1.10 }",
			"delete element " + clients + " { 10.244.1.10 }", "delete element same-pod-4 { 10.244.1.10 . 10.244.1.10 }",
		}},
		{"the only policy goes, and all that only it used", random.Event{Object: snapshot.Policies[0], Delete: true}, []string{
			"delete element egress-pods-4 { 10.244.1.7 }", "add element egress-pods-4 { 10.244.1.7 : accept }",
			"delete element ingress-pods-4 { 10.244.1.7 }", "add element ingress-pods-4 { 10.244.1.7 : accept }",
			"delete chain ingress-vuhuyjrpza4dvmex-shop/web-0", "delete chain egress-vuhuyjrpza4dvmex-shop/web-0",
			"delete chain policy-ingress-s43vmrvr32z5fvoe-shop/web", "delete chain policy-egress-s43vmrvr32z5fvoe-shop/web",
			"delete set " + clients, "delete set peers-6-s22h7iqewmxlj6r7", "delete set " + peers, "delete set peers-6-264rnmzdcgfjjcbn",
			"delete set named-4-bekuzxiffmq674z6", "delete set named-6-bekuzxiffmq674z6",
			"delete set block-4-q4qrritczm55lqkz", "delete set ports-o3c6phydhxj3kevv", "delete set ports-cakrq5tgvf5vvczr",
		}},
	} {
		m.Apply(step.event.Change())
		plan := table.Update(m.Take())
		var have []string
		for _, line := range strings.Split(strings.TrimSpace(strings.ReplaceAll(plan.Text(), "inet podfence ", "")), "\n") {
			if line != "" {
				have = append(have, line)
			}
		}
		if plan.Empty() != (len(step.want) == 0) || !sameLines(have, step.want) {
			t.Errorf("%s takes\n  %s\nwant\n  %s", step.what, strings.Join(have, "\n  "), strings.Join(step.want, "\n  "))
		}
	}
}

// sameLines compares lists without regard to order: that the order is one that
// the kernel takes is tested with the fake.
func sameLines(a, b []string) bool {
	count := map[string]int{}
	for _, line := range a {
		count[line]++
	}
	for _, line := range b {
		count[line]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// TestTraceSteps: a trace names the rules met, in order.
func TestTraceSteps(t *testing.T) {
	objects, err := manifests.Load("testdata/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	intent, _ := policy.Compile(objects.Snapshot, "node-1")
	trace := ruleset.Build(intent, ruleset.Options{}).Trace(nft.Forward, nft.TracePacket{
		Packet: policy.Packet{Src: netip.MustParseAddr("203.0.113.1"), Dst: netip.MustParseAddr("10.244.1.7"), Protocol: policy.TCP, DstPort: 8444},
		State:  nft.New,
	})
	want := `ingress-forward: ip daddr vmap @ingress-pods-4
ingress-vuhuyjrpza4dvmex-shop/web-0: jump policy-ingress-s43vmrvr32z5fvoe-shop/web
policy-ingress-s43vmrvr32z5fvoe-shop/web: ip saddr @block-4-q4qrritczm55lqkz meta l4proto . th dport @ports-o3c6phydhxj3kevv counter accept comment "ingress[1]"
accept`
	if trace.String() != want {
		t.Errorf("have\n%s\nwant\n%s", trace, want)
	}
}
