package agreement_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// longest is how long the first commit of a big object may take, and taking it back,
// on a machine that is busy with other tests, under the race detector. Alone, none
// takes a second.
const longest = 20 * time.Second

// TestBig: policies as large as an API server takes them are enforced, soon and
// rightly: packets at the edges of what they allow get the verdict that they
// should, by all three.
func TestBig(t *testing.T) {
	t.Parallel()
	c := open(t, lab.Routed, lab.Options{})
	for _, big := range []struct {
		name string
		make func() (policy.Snapshot, []edge)
	}{
		{"10,000 CIDRs", manyBlocks},
		{"1,000 excepts", func() (policy.Snapshot, []edge) { return manyExcepts(1_000) }},
		{"30,000 excepts", func() (policy.Snapshot, []edge) { return manyExcepts(30_000) }},
		{"10,000 port ranges", manyRanges},
		{"450 policies of a pod", manyPolicies},
		{"1,000 rules", manyRules},
		{"10,000 labels", manyLabels},
		{"1,300 selectors", manySelectors},
	} {
		t.Run(big.name, func(t *testing.T) {
			if err := c.Replace(webAllowed(), ruleset.Options{}); err != nil {
				t.Fatal(err)
			}
			s, edges := big.make()
			size := 0
			for _, np := range s.Policies {
				size = max(size, np.Size())
			}
			if size > 1_500_000 {
				t.Fatalf("%d bytes are more than etcd takes", size)
			}
			began := time.Now()
			if _, err := c.Set(s); err != nil {
				t.Fatal(err)
			}
			added := time.Since(began)
			var cases []agreement.Case
			for _, e := range edges {
				cases = append(cases, agreement.Case{Packet: e.packet})
				verdict := policy.Judge(s, e.packet, policy.JudgeOptions{})
				trace := c.Table().Trace(nft.Forward, nft.TracePacket{Packet: e.packet, State: nft.New})
				if verdict.Allowed() != e.allowed || (trace.Verdict == nft.Accept) != e.allowed {
					t.Errorf("%s: judged %s, traced\n%s\nwant %v", e.packet, verdict, trace, e.allowed)
				}
			}
			report, err := c.Check(context.Background(), s, cases)
			if err != nil {
				t.Fatal(err)
			}
			if allowed, denied := report.Count(); allowed == 0 || denied == 0 {
				t.Errorf("%d allowed and %d denied packets of %d tell nothing", allowed, denied, len(edges))
			}
			if wrong := report.Disagreements(); len(wrong) > 0 {
				t.Errorf("%d disagree, the first: %s", len(wrong), wrong[0])
			}
			began = time.Now()
			if _, err := c.Set(webAllowed()); err != nil {
				t.Fatal(err)
			}
			removed := time.Since(began)
			t.Logf("largest object %d bytes; committed in %v, taken back in %v; %d packets", size, added.Round(time.Millisecond), removed.Round(time.Millisecond), len(report))
			if added > longest || removed > longest {
				t.Errorf("committed in %v, taken back in %v: longer than %v", added, removed, longest)
			}
		})
	}
}

// edge is a packet at the edge of what is allowed.
type edge struct {
	packet  policy.Packet
	allowed bool
}

// The pod that big policies select; those of webAllowed have one address each.
var big = netip.MustParseAddr("10.244.1.12")

// deny is webAllowed with the database's egress denied but for these rules.
func deny(rules ...networkingv1.NetworkPolicyEgressRule) policy.Snapshot {
	s := webAllowed()
	for i, pod := range s.Pods {
		if pod.Name == "pg" {
			pod = pod.DeepCopy()
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: big6.String()})
			s.Pods[i] = pod
		}
	}
	s.Policies = append(s.Policies, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "big"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "pg"}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress:      rules,
		},
	})
	return s
}

var big6 = netip.MustParseAddr("fd00:244:0:1::12")

func to(dst netip.Addr, port uint16, allowed bool) edge {
	src := big
	if !dst.Is4() {
		src = big6
	}
	return edge{policy.Packet{Src: src, Dst: dst, Protocol: policy.TCP, DstPort: port, HopLimit: 64}, allowed}
}

// manyBlocks allows 10,000 CIDRs, among them the one that 203.0.113.7 is the last
// of, and not the one that 203.0.113.200 is the first of.
func manyBlocks() (policy.Snapshot, []edge) {
	var rule networkingv1.NetworkPolicyEgressRule
	add := func(cidr string) {
		rule.To = append(rule.To, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr}})
	}
	for i := range 9_996 {
		add(fmt.Sprintf("%d.%d.%d.0/28", 100+i/5000, i/100%50, 2*(i%100)))
	}
	add("203.0.113.0/29")
	add("203.0.113.192/29")
	add("203.0.113.208/28")
	add("2001:db8::8/125")
	return deny(rule), []edge{
		to(random.Outside[0], 80, true), to(random.Outside[1], 80, false),
		to(random.Outside[2], 80, false), to(random.Outside[3], 80, true),
	}
}

// manyExcepts allows all but so many addresses of each family, among them one of
// the two that are there to be reached.
func manyExcepts(n int) (policy.Snapshot, []edge) {
	v4, v6 := &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}, &networkingv1.IPBlock{CIDR: "::/0"}
	for i := range n/2 - 1 {
		v4.Except = append(v4.Except, fmt.Sprintf("20.%d.%d.1/32", i>>8, i&255))
		v6.Except = append(v6.Except, fmt.Sprintf("2001:db8:1:%x::1/128", i))
	}
	v4.Except = append(v4.Except, "203.0.113.200/32", "203.0.113.6/32", "203.0.113.8/32")
	v6.Except = append(v6.Except, "2001:db8::2/128", "2001:db8::8/128", "2001:db8::a/128")
	return deny(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{IPBlock: v4}, {IPBlock: v6}}}), []edge{
		to(random.Outside[0], 80, true), to(random.Outside[1], 80, false),
		to(random.Outside[2], 80, false), to(random.Outside[3], 80, true),
	}
}

// manyRanges allows the first three of every six ports.
func manyRanges() (policy.Snapshot, []edge) {
	var rule networkingv1.NetworkPolicyEgressRule
	for i := range int32(10_000) {
		first, last := intstr.FromInt32(1+6*i), 3+6*i
		rule.Ports = append(rule.Ports, networkingv1.NetworkPolicyPort{Port: &first, EndPort: &last})
	}
	var edges []edge
	for _, i := range []uint16{0, 1, 999, 1000, 1001, 5000, 9999} {
		for at, allowed := range []bool{0: true, 2: true, 3: false, 5: false} {
			if at != 1 && at != 4 {
				edges = append(edges, to(random.Outside[0], 1+6*i+uint16(at), allowed))
			}
		}
	}
	return deny(rule), edges
}

// manyPolicies has 450 policies select a pod; each allows one port.
func manyPolicies() (policy.Snapshot, []edge) {
	s := deny()
	for i := range int32(450) {
		np := s.Policies[1].DeepCopy()
		port := intstr.FromInt32(1000 + i)
		np.Name, np.Spec.Egress = fmt.Sprintf("big-%d", i), []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}}}
		s.Policies = append(s.Policies, np)
	}
	return s, []edge{
		to(random.Outside[0], 999, false), to(random.Outside[0], 1000, true),
		to(random.Outside[0], 1449, true), to(random.Outside[0], 1450, false),
	}
}

// manyRules has a policy of 1,000 rules.
func manyRules() (policy.Snapshot, []edge) {
	var rules []networkingv1.NetworkPolicyEgressRule
	for i := range int32(1_000) {
		port := intstr.FromInt32(1000 + i)
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{
			To:    []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "203.0.113.0/29"}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
		})
	}
	return deny(rules...), []edge{
		to(random.Outside[0], 999, false), to(random.Outside[0], 1000, true), to(random.Outside[1], 1000, false),
		to(random.Outside[0], 1999, true), to(random.Outside[0], 2000, false),
	}
}

// manyLabels gives namespace and pods 10,000 labels, one of which counts.
func manyLabels() (policy.Snapshot, []edge) {
	s := deny(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"label-9999": "x"}},
		PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "label-5000", Operator: metav1.LabelSelectorOpIn, Values: []string{"x", "y"}}, {Key: "label-10000", Operator: metav1.LabelSelectorOpDoesNotExist},
		}},
	}}})
	labels := map[string]string{}
	for i := range 10_000 {
		labels[fmt.Sprintf("label-%d", i)] = "x"
	}
	s.Namespaces[0] = s.Namespaces[0].DeepCopy()
	s.Namespaces[0].Labels = labels
	for i, pod := range s.Pods {
		if pod.Name == "cron" {
			pod = pod.DeepCopy()
			pod.Labels = labels
			s.Pods[i] = pod
		}
	}
	return s, []edge{to(netip.MustParseAddr("10.244.1.11"), 80, true), to(netip.MustParseAddr("10.244.1.10"), 80, false)}
}

// manySelectors allows pods by 140 selectors, the last of which means one.
func manySelectors() (policy.Snapshot, []edge) {
	var rule networkingv1.NetworkPolicyEgressRule
	for i := range 1_299 {
		rule.To = append(rule.To, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{fmt.Sprintf("l%d", i): "x"}}})
	}
	rule.To = append(rule.To, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cron"}}})
	return deny(rule), []edge{to(netip.MustParseAddr("10.244.1.11"), 80, true), to(netip.MustParseAddr("10.244.1.10"), 80, false)}
}
