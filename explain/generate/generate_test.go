package generate_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/generate"
	"github.com/podfence/podfence/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden holds a text against a file of testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s is not what is generated (-update writes it):\n%s", file, text)
	}
}

// shop is a shop whose traffic has one of each kind.
func shop() (*town, []*flows.Flow) {
	c := newTown("shop", "data", "kube-system")
	labels := func(name, version string) map[string]string {
		return map[string]string{"app": name, "pod-template-hash": version, "app.kubernetes.io/version": version}
	}
	web := c.pod("shop/web-1", "ReplicaSet/web-5d", "node-1", labels("web", "5d"), "http 8080/TCP")
	web2 := c.pod("shop/web-2", "ReplicaSet/web-6e", "node-2", labels("web", "6e"), "http 8080/TCP")
	db := c.pod("data/db-0", "StatefulSet/db", "node-2", map[string]string{"app": "db", "statefulset.kubernetes.io/pod-name": "db-0"}, "sql 5432/TCP", "metrics 9187/TCP")
	c.pod("data/db-1", "StatefulSet/db", "node-2", map[string]string{"app": "db", "statefulset.kubernetes.io/pod-name": "db-1"}, "sql 5432/TCP")
	c.pod("shop/idle-0", "StatefulSet/idle", "node-1", app("idle"))
	dns := c.pod("kube-system/coredns-1", "ReplicaSet/coredns-77", "node-2", map[string]string{"k8s-app": "kube-dns"}, "dns 5353/UDP", "dns-tcp 5353/TCP")
	c.Services = append(c.Services, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, Selector: map[string]string{"k8s-app": "kube-dns"}, Ports: []corev1.ServicePort{
			{Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromString("dns")}, {Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(5353)},
		}},
	})
	yes := true
	for _, w := range []struct{ kind, namespace, name, owner string }{
		{"Deployment", "shop", "web", ""}, {"ReplicaSet", "shop", "web-5d", "Deployment/web"}, {"ReplicaSet", "shop", "web-6e", "Deployment/web"}, {"StatefulSet", "data", "db", ""}, {"CronJob", "data", "backup", ""},
	} {
		o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: w.kind}, ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: w.name}}
		if kind, name, has := strings.Cut(w.owner, "/"); has {
			o.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
		}
		c.Workloads = append(c.Workloads, o)
	}
	// A pod of a Job that is gone by now, as flows tell of it.
	backup := flows.Endpoint{
		IP: netip.MustParseAddr("10.244.1.77"), Namespace: "data", Pod: "backup-29000001-abcde", Workload: &flows.Workload{Kind: "Job", Name: "backup-29000001"},
		Labels: map[string]string{"job": "backup", "batch.kubernetes.io/job-name": "backup-29000001"},
	}
	seen := []*flows.Flow{
		flow(at(web), at(db), "TCP/5432", asked("data", "db")), flow(at(web2), at(db), "TCP/5432"), flow(at(web2, true), at(db, true), "TCP/5432"),
		flow(at(web), at(db), "TCP/9187"),
		flow(outside("203.0.113.7"), at(web), "TCP/8080"), flow(outside("203.0.113.9"), at(web), "TCP/8080"), flow(outside("203.0.113.9"), at(web2), "TCP/8080"),
		flow(outside("198.51.100.4"), at(web), "TCP/8080"),
		flow(at(web, true), outside("2001:db8:7::1"), "TCP/443"), flow(at(web, true), outside("2001:db8:7::ff"), "TCP/443"), flow(at(web, true), outside("2001:db8:7::ff"), "UDP/443"),
		flow(at(web), node("node-2", "192.0.2.2"), "TCP/6443", asked("default", "kubernetes")),
		flow(backup, at(db), "TCP/5432"), flow(backup, at(dns), "UDP/5353"), flow(at(web), outside("169.254.20.10"), "UDP/53"),
		// What needs no rule, and what is not understood.
		flow(node("node-1", "10.244.1.1"), at(web), "TCP/8080"), flow(at(web), at(web), "TCP/1"),
		flow(at(dns), outside("192.0.2.77"), "UDP/53"),
		flow(at(web), at(db), "TCP/1", func(f *flows.Flow) { f.Verdict = flows.Denied }),
		flow(at(web), outside("10.96.0.10"), "UDP/53"), flow(at(web), outside("10.244.1.200"), "TCP/80"), flow(at(web), at(db), "what/80"),
		flow(at(web), at(db), "TCP/80", func(f *flows.Flow) { f.Verdict = "perhaps" }),
	}
	return c, seen
}

var ofShop = generate.Options{Namespaces: []string{"shop", "data"}, ShortestIPv4: 24, ShortestIPv6: 64, Rare: 2}

// TestShop: the policies of a shop, and the report, as they are written.
func TestShop(t *testing.T) {
	c, seen := shop()
	c.Selectors = map[explain.Object]*metav1.LabelSelector{
		{Kind: "Deployment", Namespace: "shop", Name: "web"}: {MatchLabels: app("web")},
	}
	text, r := c.generated(t, ofShop, seen...)
	golden(t, "shop.yaml", text)
	golden(t, "shop.txt", reportOf(t, r))
	if !r.Report.Complete() || r.Report.Covered != 15 {
		t.Errorf("%+v", r.Report)
	}
}

// TestStaged: the policies are marked, and the report is as if they were in force.
func TestStaged(t *testing.T) {
	c, seen := shop()
	o := ofShop
	_, plain := c.generated(t, o, seen...)
	o.Staged = true
	_, r := c.generated(t, o, seen...)
	for _, p := range r.Policies {
		if p.Annotations["podfence.io/enforcement"] != "staged" {
			t.Errorf("%s: %v", p.Name, p.Annotations)
		}
	}
	if got, want := reportOf(t, r), reportOf(t, plain); got != want {
		t.Errorf("the report is\n%s\ninstead of\n%s", got, want)
	}
}

// TestUnseen: workloads of which nothing was seen get a policy if that is asked for, and are named if not.
func TestUnseen(t *testing.T) {
	c, seen := shop()
	_, r := c.generated(t, ofShop, seen...)
	if fmt.Sprint(r.Report.Unseen) != "[sts/shop/idle]" {
		t.Errorf("unseen: %v", r.Report.Unseen)
	}
	o := ofShop
	o.IsolateUnseen = true
	_, r = c.generated(t, o, seen...)
	var names []string
	for _, p := range r.Policies {
		names = append(names, p.Namespace+"/"+p.Name)
		if p.Name == "idle" && (len(p.Spec.Ingress) > 0 || len(p.Spec.Egress) != 2) { // the DNS, and that of the node
			t.Errorf("%+v", p.Spec)
		}
	}
	if strings.Join(names, " ") != "data/backup data/db shop/idle shop/web" || len(r.Report.Unseen) > 0 {
		t.Errorf("%v, unseen %v", names, r.Report.Unseen)
	}
}

// TestSelectors: which labels select a workload.
func TestSelectors(t *testing.T) {
	hash := func(labels map[string]string) map[string]string {
		labels["controller-revision-hash"], labels["apps.kubernetes.io/pod-index"] = "x", "0"
		return labels
	}
	deployment := explain.Object{Kind: "Deployment", Namespace: "shop", Name: "a"}
	for name, test := range map[string]struct {
		// a, b are the labels of pods of two workloads, of a with another pod's behind "|".
		a, other, b map[string]string
		own         *metav1.LabelSelector
		want, wantB string
	}{
		"all labels that stay":               {a: hash(map[string]string{"app": "a", "team": "x"}), b: app("b"), want: "app=a,team=x", wantB: "app=b"},
		"the workload's own":                 {a: map[string]string{"app": "a", "team": "x"}, b: app("b"), own: &metav1.LabelSelector{MatchLabels: app("a")}, want: "app=a", wantB: "app=b"},
		"own that is not enough":             {a: map[string]string{"app": "a", "team": "x"}, b: map[string]string{"app": "a", "team": "y"}, own: &metav1.LabelSelector{MatchLabels: app("a")}, want: "app=a,team=x", wantB: "app=a,team=y"},
		"own that passes":                    {a: hash(app("a")), b: app("b"), own: &metav1.LabelSelector{MatchLabels: map[string]string{"controller-revision-hash": "x"}}, want: "app=a", wantB: "app=b"},
		"own that means others":              {a: app("a"), b: app("b"), own: &metav1.LabelSelector{MatchLabels: app("c")}, want: "app=a", wantB: "app=b"},
		"without what only others have":      {a: app("a"), b: map[string]string{"app": "a", "canary": "yes"}, want: "app=a,!canary", wantB: "app=a,canary=yes"},
		"labels in common":                   {a: map[string]string{"app": "a", "n": "1"}, other: map[string]string{"app": "a", "n": "2"}, b: app("b"), want: "app=a", wantB: "app=b"},
		"not the version, unless it must be": {a: map[string]string{"app": "a", "helm.sh/chart": "1"}, b: map[string]string{"app": "b", "helm.sh/chart": "1"}, want: "app=a", wantB: "app=b"},
		"alike":                              {a: app("a"), b: app("a"), want: "app=a", wantB: "app=a"},
		"none in common":                     {a: app("a"), other: app("x"), b: app("b"), want: "", wantB: "app=b"},
		"none":                               {a: hash(map[string]string{}), b: app("b"), want: "", wantB: "app=b"},
	} {
		c := newTown("shop")
		a := c.pod("shop/a-1", "Deployment/a", "node-1", test.a)
		if test.other != nil {
			c.pod("shop/a-2", "Deployment/a", "node-1", test.other)
		}
		b := c.pod("shop/b-1", "Deployment/b", "node-1", test.b)
		if test.own != nil {
			c.Selectors = map[explain.Object]*metav1.LabelSelector{deployment: test.own}
		}
		_, r := c.generated(t, options, flow(at(a), at(b), "TCP/80"))
		got := map[string]string{}
		for _, p := range r.Policies {
			for _, o := range p.Of {
				got[o.Name] = metav1.FormatLabelSelector(&p.Spec.PodSelector)
			}
		}
		if got["a"] != test.want || got["b"] != test.wantB {
			t.Errorf("%s: %q and %q instead of %q and %q", name, got["a"], got["b"], test.want, test.wantB)
		}
		if complete := test.want != ""; r.Report.Complete() != complete || !complete && len(r.Report.Unselectable) != 1 {
			t.Errorf("%s: %s", name, reportOf(t, r))
		}
	}
}

// TestAlike: one policy is about workloads that no labels tell apart, and the report says so, and what that opens.
func TestAlike(t *testing.T) {
	c := newTown("shop")
	a := c.pod("shop/a-1", "Deployment/a", "node-1", app("a"))
	c.pod("shop/b-1", "CronJob/b", "node-1", app("a"))
	d := c.pod("shop/d-1", "Deployment/d", "node-1", app("d"))
	_, r := c.generated(t, options, flow(at(a), at(d), "TCP/80"))
	if len(r.Policies) != 2 || r.Policies[0].Name != "a-and-b" || len(r.Report.Alike) != 1 || fmt.Sprint(r.Report.Open) != "[cronjob/shop/b -> deploy/shop/d  80/TCP]" {
		t.Errorf("%s", reportOf(t, r))
	}
}

// TestDeniedAfterwards: what no rule can let pass is reported, with the reason.
func TestDeniedAfterwards(t *testing.T) {
	c := newTown("shop")
	a, b := c.pod("shop/a-1", "Deployment/a", "node-1", app("a")), c.pod("shop/b-1", "Deployment/b", "node-2", app("b"))
	nobody := c.pod("shop/nobody", "", "node-1", nil)
	echo := uint8(8)
	ping := func(f *flows.Flow) { f.ICMPType = &echo }
	_, r := c.generated(t, options, flow(at(a), at(b), "ICMP", ping), flow(at(a), at(b), "ICMP", ping), flow(at(a), at(b), "47"), flow(at(nobody), at(b), "TCP/80"),
		flow(node("node-1", "192.0.2.1"), at(a), "ICMP", ping))
	want := []generate.Uncovered{
		{From: "deploy/shop/a", To: "deploy/shop/b", Port: "ICMP", Flows: 2, Reason: "NetworkPolicies name ports of TCP, UDP and SCTP, and nothing of this protocol"},
		{From: "deploy/shop/a", To: "deploy/shop/b", Port: "protocol 47", Flows: 1, Reason: "NetworkPolicies name ports of TCP, UDP and SCTP, and nothing of this protocol"},
		{From: "shop/nobody", To: "deploy/shop/b", Port: "80/TCP", Flows: 1, Reason: "shop/nobody has no label that stays and that all of its pods have, so that no rule can mean it"},
	}
	if fmt.Sprint(r.Report.Denied) != fmt.Sprint(want) || r.Report.Complete() {
		t.Errorf("%v\n%s", r.Report.Denied, reportOf(t, r))
	}
}

// TestOthersPolicies: policies that are there keep their names, what they open is told, and one that was generated
// before is replaced.
func TestOthersPolicies(t *testing.T) {
	c := newTown("shop")
	a, b := c.pod("shop/a-1", "Deployment/a", "node-1", app("a")), c.pod("shop/b-1", "Deployment/b", "node-2", app("b"))
	open := func(name string, annotations map[string]string) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: annotations},
			Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress"}, Ingress: []networkingv1.NetworkPolicyIngressRule{{}}},
		}
	}
	c.Policies = []*networkingv1.NetworkPolicy{open("a", nil), open("b", map[string]string{generate.GeneratedAnnotation: "true"})}
	_, r := c.generated(t, options, flow(at(a), at(b), "TCP/80"))
	if len(r.Policies) != 2 || r.Policies[0].Name != "a-generated" || r.Policies[1].Name != "b" {
		t.Errorf("%+v", r.Policies)
	}
	if !strings.Contains(fmt.Sprint(r.Report.Open), "outside (any other IPv4 address) -> deploy/shop/b  all/TCP") {
		t.Errorf("%s", reportOf(t, r))
	}
	c.Policies = c.Policies[1:]
	if _, r := c.generated(t, options, flow(at(a), at(b), "TCP/80")); len(r.Report.Open) > 0 {
		t.Errorf("%s", reportOf(t, r))
	}
}

// TestNames: two workloads of one name have policies of two names.
func TestNames(t *testing.T) {
	c := newTown("shop")
	a, b := c.pod("shop/a-1", "Deployment/a", "node-1", app("a")), c.pod("shop/a-2", "StatefulSet/a", "node-1", app("b"))
	long := c.pod("shop/x", "Rollout/"+strings.Repeat("x", 260), "node-1", app("x"))
	odd := c.pod("shop/y", "Rollout/Y_Y", "node-1", app("y"))
	_, r := c.generated(t, options, flow(at(a), at(b), "TCP/80"), flow(at(long), at(odd), "TCP/80"))
	var names []string
	for _, p := range r.Policies {
		names = append(names, p.Name)
	}
	if len(names) != 4 || names[0] != "a-deployment" || names[1] != "a-statefulset" || !strings.HasPrefix(names[2], "workload-") || len(names[3]) != 253 {
		t.Errorf("%q", names)
	}
}

// TestOwnNode: what pods send to their own node needs a rule unless agents let it pass.
func TestOwnNode(t *testing.T) {
	c := newTown("shop")
	a := c.pod("shop/a-1", "Deployment/a", "node-1", app("a"))
	seen := []*flows.Flow{flow(at(a), node("node-1", "192.0.2.1"), "TCP/10250"), flow(at(a), node("node-2", "192.0.2.2"), "TCP/10250")}
	for allow, want := range map[bool]int{false: 2, true: 1} {
		o := options
		o.Judge = policy.JudgeOptions{AllowToNode: allow}
		_, r := c.generated(t, o, seen...)
		if got := len(r.Policies[0].Spec.Egress[1].To); got != want || r.Report.Covered != want {
			t.Errorf("allowed %v: %d blocks instead of %d", allow, got, want)
		}
	}
}

// TestStagedFlows: what staged policies would deny has passed, and what they would allow has not.
func TestStagedFlows(t *testing.T) {
	c := newTown("shop")
	a, b := c.pod("shop/a-1", "Deployment/a", "node-1", app("a")), c.pod("shop/b-1", "Deployment/b", "node-1", app("b"))
	is := func(v flows.Verdict) func(*flows.Flow) { return func(f *flows.Flow) { f.Verdict = v } }
	_, r := c.generated(t, options, flow(at(a), at(b), "TCP/80", is(flows.WouldDeny)), flow(at(a), at(b), "TCP/81", is(flows.WouldAllow)))
	if r.Report.Covered != 1 || r.Report.Left[generate.Denied] != 1 || len(r.Policies) != 2 || len(r.Policies[1].Spec.Ingress[0].Ports) != 1 {
		t.Errorf("%s", reportOf(t, r))
	}
}

// TestSample: that agents have told of a sample alone is said, and each flow stands for several connections.
func TestSample(t *testing.T) {
	c := newTown("shop")
	a := c.pod("shop/a-1", "Deployment/a", "node-1", app("a"))
	o := options
	o.Rare = 3
	for of, rare := range map[uint32]bool{0: true, 10: false} {
		text, r := c.generated(t, o, flow(at(a), outside("203.0.113.7"), "TCP/443", func(f *flows.Flow) { f.SampledOf = of }))
		if strings.Contains(text, "rare") != rare || r.Report.Complete() != rare {
			t.Errorf("one of %d:\n%s%s", of, text, reportOf(t, r))
		}
	}
}

// TestCommentsAreOneLine: what flows tell cannot end a comment.
func TestCommentsAreOneLine(t *testing.T) {
	c := newTown("shop")
	a := c.pod("shop/a-1", "Deployment/a", "node-1", app("a"))
	text, _ := c.generated(t, options, flow(at(a), outside("203.0.113.7"), "TCP/443", asked("shop", "x\nspec: {}\u2028\x1b")))
	if !strings.Contains(text, "# Service shop/x?spec: {}??\n") {
		t.Error(text)
	}
}
