package explain_test

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// livePod is a pod of a Deployment, which a ReplicaSet owns.
func livePod(namespace, app string) *corev1.Pod {
	controls := true
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: app + "-0", Labels: map[string]string{"app": app, "pod-template-hash": "1"},
		OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: app + "-rs", Controller: &controls}},
	}}
}

func liveEnd(namespace, app string) answers.LiveEnd {
	return answers.LiveEnd{Kind: "Pod", Namespace: namespace, Name: app + "-0", Pod: app + "-0", Labels: map[string]string{"app": "as-it-was"}, Address: netip.MustParseAddr("10.0.0.1")}
}

// TestLiveRules: each rule belongs to the policy that is about the workload alone, or to a new one, or before the
// rule of a ClusterNetworkPolicy that denies; it has the labels that pods would have, without those of a
// single generation. Where no rule can say it, that is said.
func TestLiveRules(t *testing.T) {
	selecting := func(name string, apps ...string) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: apps}}},
		}}
	}
	after := explain.New(&explain.Cluster{
		Snapshot: policy.Snapshot{
			Pods: []*corev1.Pod{livePod("shop", "web"), livePod("shop", "db"), livePod("other", "batch")}, Policies: []*networkingv1.NetworkPolicy{selecting("both", "web", "db"), selecting("db", "db")},
			Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}}},
		},
		Workloads: []*metav1.PartialObjectMetadata{{TypeMeta: metav1.TypeMeta{Kind: "Deployment"}, ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}},
	}, policy.JudgeOptions{})
	zero := 0
	both := []answers.CutPolicy{{Kind: "NetworkPolicy", Namespace: "shop", Name: "both"}, {Kind: "NetworkPolicy", Namespace: "shop", Name: "db"}}
	cluster := []answers.CutPolicy{{Kind: "ClusterNetworkPolicy", Name: "keep", Rule: &zero}}
	node, outside := answers.LiveEnd{Kind: "Node", Name: "node-1", Address: netip.MustParseAddr("10.9.9.1")}, answers.LiveEnd{Kind: "Address", Address: netip.MustParseAddr("2001:db8::1")}
	for _, c := range []struct {
		name       string
		cut        answers.Cut
		policy     string
		has, hasNo []string
	}{
		{
			"the one about it alone", answers.Cut{Source: liveEnd("shop", "web"), Destination: liveEnd("shop", "db"), Direction: "ingress", Protocol: "UDP", Port: 53, Policies: both},
			"NetworkPolicy shop/db spec.ingress", []string{"app: web", "port: 53", "protocol: UDP", "from:"}, []string{"namespaceSelector", "pod-template-hash", "as-it-was"},
		},
		{
			"a new one", answers.Cut{Source: liveEnd("other", "batch"), Destination: liveEnd("shop", "web"), Direction: "ingress", Protocol: "TCP", Port: 80, Policies: both[:1]},
			"NetworkPolicy shop/allow-ingress-web-rs", []string{"kubernetes.io/metadata.name: other", "app: web", "- Ingress"}, []string{"- Egress"},
		},
		{
			"without ports", answers.Cut{Source: liveEnd("shop", "db"), Destination: node, Direction: "egress", Protocol: "ICMP", Policies: both},
			"NetworkPolicy shop/db spec.egress", []string{"cidr: 192.0.2.1/32", "cidr: 10.9.9.1/32"}, []string{"ports"},
		},
		{
			"of a cluster", answers.Cut{Source: liveEnd("shop", "web"), Destination: outside, Direction: "egress", Protocol: "TCP", Port: 443, Policies: cluster},
			"ClusterNetworkPolicy keep spec.egress before 0", []string{"action: Accept", "2001:db8::1/128", "number: 443", "tcp:"}, []string{"podSelector"},
		},
		{
			"of a cluster, by pods", answers.Cut{Source: liveEnd("shop", "web"), Destination: liveEnd("other", "batch"), Direction: "ingress", Protocol: "SCTP", Port: 9, Policies: cluster},
			"ClusterNetworkPolicy keep spec.ingress before 0", []string{"sctp:", "app: web", "kubernetes.io/metadata.name: shop"}, nil,
		},
		{
			"that nobody can write", answers.Cut{Source: outside, Destination: liveEnd("shop", "web"), Direction: "ingress", Protocol: "TCP", Port: 443, Policies: cluster},
			"ClusterNetworkPolicy keep spec.ingress before 0", []string{"cannot name 2001:db8::1"}, nil,
		},
	} {
		d := explain.Live(after, []*answers.LiveCuts{{Node: "node-1", Cuts: []answers.Cut{c.cut}, Done: true}})
		if len(d.Rules) != 1 {
			t.Errorf("%s: %+v", c.name, d.Rules)
			continue
		}
		r := d.Rules[0]
		where := r.Policy.Kind + " " + r.Policy.Name
		if r.Policy.Namespace != "" {
			where = r.Policy.Kind + " " + r.Policy.Namespace + "/" + r.Policy.Name
		}
		if where = strings.TrimSpace(where + " " + r.Field); r.Before != nil {
			where += " before 0"
		}
		if where != c.policy || r.New != (r.Field == "") {
			t.Errorf("%s: it belongs to %s, want %s", c.name, where, c.policy)
		}
		for _, text := range c.has {
			if !strings.Contains(r.YAML+r.Message, text) {
				t.Errorf("%s: %q is not in\n%s%s", c.name, text, r.YAML, r.Message)
			}
		}
		for _, text := range c.hasNo {
			if strings.Contains(r.YAML, text) {
				t.Errorf("%s: %q is in\n%s", c.name, text, r.YAML)
			}
		}
	}
	if d := explain.Live(after, []*answers.LiveCuts{{Node: "node-1", Done: true, Cuts: []answers.Cut{{Source: outside, Destination: liveEnd("shop", "web"), Reason: "unknown-pod", Text: "no pod known by this address"}}}}); len(d.Rules) > 0 || d.Pairs != 1 {
		t.Errorf("what no policy denies has rules: %+v", d.Rules)
	}
}

// TestChanges: what is sent of two clusters is what differs to policies, and nothing else.
func TestChanges(t *testing.T) {
	same := func(labels, annotations map[string]string) *explain.Cluster {
		pod := livePod("shop", "web")
		pod.Labels["extra"] = labels["pod"]
		return &explain.Cluster{Snapshot: policy.Snapshot{
			Pods: []*corev1.Pod{pod}, Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": labels["ns"]}}}},
			Policies: []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Annotations: annotations, ResourceVersion: annotations["other"]}}},
		}}
	}
	names := func(before, after *explain.Cluster) (all []string) {
		changed, removed := explain.Changes(before, after)
		for _, o := range changed {
			all = append(all, o.GetNamespace()+"/"+o.GetName())
		}
		for _, o := range removed {
			all = append(all, "-"+o.Kind+" "+o.Namespace+"/"+o.Name)
		}
		return all
	}
	old := same(nil, nil)
	for _, c := range []struct {
		name  string
		after *explain.Cluster
		want  string
	}{
		{"the same", same(nil, map[string]string{"other": "1"}), ""},
		{"an annotation of podfence's", same(nil, map[string]string{"podfence.io/enforcement": "staged"}), "shop/web"},
		{"labels of a Namespace", same(map[string]string{"ns": "x"}, nil), "/shop"},
		{"labels of a pod", same(map[string]string{"pod": "x"}, nil), "shop/web-0"},
		{"nothing left", &explain.Cluster{}, "-NetworkPolicy shop/web"},
	} {
		if got := strings.Join(names(old, c.after), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := strings.Join(names(&explain.Cluster{}, old), " "); got != "shop/web /shop" {
		t.Errorf("all is new: %q", got)
	}
}
