package explain_test

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/explain"
)

func TestParseQuestion(t *testing.T) {
	for _, test := range []struct{ from, to, want string }{
		{"web-0", "prod/db-0:5432", "default/web-0 to prod/db-0:5432"},
		{"deploy/web", "sts/prod/db:5432/udp", "deploy/default/web to sts/prod/db:5432/UDP"},
		{"DEPLOYMENTS/shop/web", "svc/web:http", "deploy/shop/web to svc/default/web:http"},
		{"node/n1", "10.0.0.1:53/UDP", "node/n1 to 10.0.0.1:53/UDP"},
		{"fd00::1", "[fd00::2]:80", "fd00::1 to [fd00::2]:80"},
		{"::ffff:10.0.0.1", "fd00::2", "10.0.0.1 to fd00::2"},
		{"pod/a", "no/n1:22", "default/a to node/n1:22"},
		{"shop/a", "shop/b", "shop/a to shop/b"},
		{"fd00::1", "[fd00::2]", "fd00::1 to fd00::2"},
		{"a", "svc/b:a-name-longer-than-fifteen", "default/a to svc/default/b:a-name-longer-than-fifteen"},
		{"job/shop/a", "cj/shop/b:1/SCTP", "job/shop/a to cronjob/shop/b:1/SCTP"},
	} {
		if q, err := explain.ParseQuestion(test.from, test.to, "default"); err != nil || q.String() != test.want {
			t.Errorf("%s %s: %s, %v; want %s", test.from, test.to, q, err, test.want)
		}
	}
	for _, test := range []struct{ from, to, want string }{
		{"", "b", "a target is"}, {"a/b/c/d", "b", "a target is"}, {"node/a/b", "b", "a target is"}, {"x/y/z", "b", "a target is"},
		{"svc/a/b", "b", "nothing comes from a Service"}, {"a", "b:0", "no port"}, {"a", "b:70000", "no port"},
		{"a", "b:", "no port"}, {"a", "b:80/", "TCP, UDP or SCTP"}, {"a", "b:/", "TCP, UDP or SCTP"}, {"a", "b:80-90", "one port is asked about at a time"},
		{"a", "b:80,443", "one port is asked about at a time"}, {"a", "b:+80", "no port"}, {"a", "b:-1/UDP", "no port"}, {"a", "b:ht_tp", "no port"},
		{"a", "[fd00::2]:", "no port"}, {"a", "b:HTTP", "no port"}, {"a", "b:80/icmp", "TCP, UDP or SCTP"}, {"a", "b:/TCP", "no port"}, {"a", "fe80::1%eth0", "a target is"}, {"a//b", "c", "a target is"},
	} {
		if q, err := explain.ParseQuestion(test.from, test.to, "default"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %s: %s, %v; want an error with %q", test.from, test.to, q, err, test.want)
		}
	}
}

// TestWorkloads asks between workloads: alike pods share one answer, others have their own.
func TestWorkloads(t *testing.T) {
	c := load(t, "cluster.yaml", "service-port.yaml")
	c.Pods = nil
	replicas := func(name, app string, ips ...string) {
		c.Workloads = append(c.Workloads,
			&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "Deployment"}, ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}},
			&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "ReplicaSet"}, ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name + "-5d", OwnerReferences: owner("Deployment", name)}})
		for i, ip := range ips {
			c.Pods = append(c.Pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name + "-5d-" + string(rune('a'+i)), Labels: map[string]string{"app": app}, OwnerReferences: owner("ReplicaSet", name+"-5d")},
				Spec:       corev1.PodSpec{NodeName: "node-1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}},
			})
		}
	}
	replicas("web", "web", "10.244.1.10", "10.244.1.11")
	replicas("client", "client", "10.244.1.20", "10.244.1.21", "10.244.1.22")
	c.Pods[3].Labels["track"] = "stable" // which no policy asks for
	c.Pods[4].Labels["app"] = "cliend"   // a canary with a typo

	e := ask(t, c, "deploy/shop/client", "deploy/shop/web:80")
	if e.Verdict != explain.Mixed || len(e.Answers) != 2 || e.Answers[0].Pairs != 4 || e.Answers[1].Pairs != 2 {
		t.Errorf("%s with %d answers:\n%s", e.Verdict, len(e.Answers), textOf(t, e))
	}
	if w := e.Answers[0].From.Workload; w == nil || *w != (explain.Object{Kind: "Deployment", Namespace: "shop", Name: "client"}) {
		t.Errorf("the workload is %v", w)
	}
	if text := textOf(t, e); !strings.Contains(text, "label app=client: the pod has app=cliend") || !strings.Contains(text, "(and 3 more like this)") {
		t.Error(text)
	}
	if e := ask(t, c, "rs/shop/client-5d", "deploy/shop/web:80"); len(e.Answers) != 2 {
		t.Errorf("by ReplicaSet: %s", textOf(t, e))
	}
	// Pods of one workload are asked about among each other, but not of themselves.
	if e := ask(t, c, "deploy/shop/web", "deploy/shop/web:80"); e.Verdict != explain.Denied || e.Answers[0].Pairs != 2 {
		t.Errorf("among each other: %s", textOf(t, e))
	}
	if e := ask(t, c, "shop/web-5d-a", "shop/web-5d-a:80"); e.Verdict != explain.Allowed || !strings.Contains(textOf(t, e), "reaches itself") {
		t.Errorf("itself: %s", textOf(t, e))
	}
	// Without a port: which are open.
	if e := ask(t, c, "shop/client-5d-a", "shop/web-5d-a"); e.Verdict != explain.Mixed || !strings.Contains(textOf(t, e), "open are TCP 80") {
		t.Errorf("without a port: %s", textOf(t, e))
	}
	if e := ask(t, c, "shop/client-5d-c", "shop/web-5d-a"); e.Verdict != explain.Denied {
		t.Errorf("without a port, closed: %s", textOf(t, e))
	}
	if e := ask(t, c, "shop/web-5d-a", "shop/client-5d-a"); e.Verdict != explain.Allowed || len(e.Answers[0].Open) != 4 {
		t.Errorf("without a port, open: %s", textOf(t, e))
	}
}

func owner(kind, name string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
}

// TestServices asks about Services: each endpoint, by the ports of its EndpointSlices.
func TestServices(t *testing.T) {
	c := load(t, "cluster.yaml")
	slice := func(ready bool, port int32, name string, ips ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}}}
		for _, ip := range ips {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
		}
		return s
	}
	c.EndpointSlices = []*discoveryv1.EndpointSlice{slice(true, 8081, "http", "10.244.1.10", "192.168.0.2")}
	e := ask(t, c, "prod/batch-0", "svc/shop/web:http")
	if len(e.Answers) != 2 || e.Answers[0].Port != 8081 || e.Answers[0].Service.TargetPort != 8081 || e.Answers[1].To.Kind != explain.KindNode {
		t.Errorf("by EndpointSlices: %s", textOf(t, e))
	}
	c.EndpointSlices = []*discoveryv1.EndpointSlice{slice(false, 8081, "http", "10.244.1.10")}
	if e := ask(t, c, "prod/batch-0", "svc/shop/web:80"); e.Verdict != explain.Unknown || e.Notes[0].Reason != "NoEndpoints" {
		t.Errorf("none is ready: %s", textOf(t, e))
	}
	c.EndpointSlices = nil
	c.Services[0].Spec.Ports[0].TargetPort = intstr.FromString("http")
	if e := ask(t, c, "prod/batch-0", "svc/shop/web"); len(e.Answers) != 1 || e.Answers[0].Port != 8080 {
		t.Errorf("by selector: %s", textOf(t, e))
	}
	c.Services[0].Spec.Ports[0].TargetPort = intstr.FromString("nothing")
	if e := ask(t, c, "prod/batch-0", "svc/shop/web"); e.Verdict != explain.Unknown || e.Notes[0].Reason != "NoSuchPort" {
		t.Errorf("no such name: %s", textOf(t, e))
	}
	c.Services[0].Spec.Type = corev1.ServiceTypeNodePort
	c.Services[0].Spec.Ports[0].TargetPort = intstr.FromInt32(8080)
	if e := ask(t, c, "203.0.113.9", "svc/shop/web:80"); !strings.Contains(textOf(t, e), "externalTrafficPolicy Cluster") {
		t.Errorf("from outside: %s", textOf(t, e))
	}
	if e := ask(t, c, "prod/batch-0", "10.96.4.4:80"); !strings.Contains(textOf(t, e), "the address of a Service") {
		t.Errorf("by its address: %s", textOf(t, e))
	}
	// A pod that reaches itself by a Service is judged.
	c.Policies = append(c.Policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "deny"}})
	if e := ask(t, c, "shop/web-0", "svc/shop/web:80"); e.Verdict != explain.Denied {
		t.Errorf("hairpin: %s", textOf(t, e))
	}
}

// TestWhatPoliciesDoNotDecide is said, and not guessed.
func TestWhatPoliciesDoNotDecide(t *testing.T) {
	c := load(t, "cluster.yaml", "probes.yaml")
	c.Running = true
	c.Pods[0].Status.Conditions = nil
	for i, change := range []func(*corev1.Pod){
		func(p *corev1.Pod) { p.Status.PodIPs = nil },
		func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
	} {
		pod := c.Pods[1].DeepCopy()
		pod.Name = []string{"pending", "ended"}[i]
		change(pod)
		c.Pods = append(c.Pods, pod)
	}
	agent := c.Pods[0].DeepCopy()
	agent.Namespace, agent.Name, agent.Spec.HostNetwork, agent.Spec.NodeName = "podfence-system", "agent", true, "node-2"
	agent.Labels = map[string]string{"app.kubernetes.io/name": "podfence", "app.kubernetes.io/component": "agent"}
	agent.Spec.HostNetwork = true
	c.Pods = append(c.Pods, agent)
	for _, test := range []struct {
		from, to, reason string
		verdict          explain.Verdict
	}{
		{"shop/pending", "shop/web-0:80", "NoAddress", explain.Unknown},
		{"shop/web-0", "shop/ended:80", "PodEnded", explain.Unknown},
		{"prod/batch-0", "shop/web-0:80", "PodNotReady", explain.Denied},
		{"prod/batch-0", "shop/web-0:80", "AgentMissing", explain.Denied},
		{"shop/client-0", "prod/batch-0:80", "AgentNotReady", explain.Denied},
		{"kube-system/node-exporter-0", "shop/web-0:80", "HostNetwork", explain.Denied},
		{"10.244.1.99", "prod/batch-0:80", "UnknownPod", explain.Denied},
	} {
		e := ask(t, c, test.from, test.to)
		notes := e.Notes
		for _, a := range e.Answers {
			notes = append(notes, a.Notes...)
		}
		has := false
		for _, n := range notes {
			has = has || n.Reason == test.reason
		}
		if e.Verdict != test.verdict || !has {
			t.Errorf("%s to %s: %s, want %s with %s:\n%s", test.from, test.to, e.Verdict, test.verdict, test.reason, textOf(t, e))
		}
	}
	for _, missing := range []string{"shop/nobody", "deploy/shop/nobody", "svc/shop/nobody", "node/nobody"} {
		q, err := explain.ParseQuestion("shop/web-0", missing, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := explain.New(c, noOptions).Explain(q); err == nil || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("%s: %v", missing, err)
		}
	}
}

// TestSomeWithoutAnswer: that the pods which can be asked about are all allowed is not said of those that
// cannot be. Each note is said once, and pods that have ended take no part.
func TestSomeWithoutAnswer(t *testing.T) {
	with := func(change func(*corev1.Pod)) *explain.Cluster {
		c := load(t, "cluster.yaml")
		pod := c.Pods[0].DeepCopy()
		pod.Name, pod.Spec.Containers = "web-9", nil
		change(pod)
		c.Pods = append(c.Pods, pod)
		return c
	}
	nowhere := func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.NodeName = true, "gone" }
	pending := func(p *corev1.Pod) { p.Status.PodIPs = nil }
	for _, test := range []struct {
		name, from, to string
		change         func(*corev1.Pod)
		want           explain.Verdict
		notes, without int
	}{
		{"on a node that is not known", "ns/shop", "ns/shop:80", nowhere, explain.Mixed, 1, 1},
		{"without a port", "prod/batch-0", "ns/shop", nowhere, explain.Mixed, 1, 1},
		{"without an address", "prod/batch-0", "ns/shop:80", pending, explain.Mixed, 1, 1},
		{"no endpoint, but a source", "ns/shop", "svc/shop/web:80", pending, explain.Mixed, 1, 1},
		{"no endpoint", "prod/batch-0", "svc/shop/web:80", pending, explain.Allowed, 1, 0},
		{"ended", "ns/shop", "ns/shop:80", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, explain.Allowed, 1, 0},
		{"of another family", "prod/batch-0", "ns/shop:80", func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "fd00:1::9"}} }, explain.Mixed, 1, 1},
	} {
		e := ask(t, with(test.change), test.from, test.to)
		if e.Verdict != test.want || len(e.Notes) != test.notes || len(e.Unanswered) != test.without {
			t.Errorf("%s: %s with notes %v, of which %v are about ends without an answer; want %s, %d and %d:\n%s",
				test.name, e.Verdict, e.Notes, e.Unanswered, test.want, test.notes, test.without, textOf(t, e))
		}
	}
}

// TestFamiliesThatDiffer: two answers where IPv4 and IPv6 differ, and they say which is which.
func TestFamiliesThatDiffer(t *testing.T) {
	c := load(t, "cluster.yaml")
	c.Pods[0].Status.PodIPs = append(c.Pods[0].Status.PodIPs, corev1.PodIP{IP: "fd00:1::10"})
	c.Pods[1].Status.PodIPs = append(c.Pods[1].Status.PodIPs, corev1.PodIP{IP: "fd00:2::10"})
	if e := ask(t, c, "shop/client-0", "shop/web-0:80"); len(e.Answers) != 1 {
		t.Errorf("where they agree: %s", textOf(t, e))
	}
	c.Policies = append(c.Policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "four"}, Spec: networkingv1.NetworkPolicySpec{
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}}}}},
	}})
	e := ask(t, c, "shop/client-0", "shop/web-0:80")
	if text := textOf(t, e); e.Verdict != explain.Mixed || len(e.Answers) != 2 || !strings.Contains(text, "(fd00:2::10 -> fd00:1::10)") {
		t.Error(text)
	}
}

// TestAnnounced: of a pod whose status shows no address yet, the one counts that its node's agent has
// announced, also where the Node shows no pod ranges.
func TestAnnounced(t *testing.T) {
	c := load(t, "cluster.yaml", "label-typo.yaml")
	c.Nodes[1].Spec.PodCIDR, c.Nodes[1].Spec.PodCIDRs = "", nil
	c.Pods[1].UID, c.Pods[1].Status.PodIPs = "u", nil
	c.PodAddresses = []*v1alpha1.PodAddresses{{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}, Pods: []v1alpha1.PodAddress{
		{Namespace: "shop", Name: "client-0", UID: "u", IPs: []string{"10.244.2.77"}},
	}}}
	e := ask(t, c, "shop/client-0", "shop/web-0:8080")
	if e.Verdict != explain.Denied || e.Answers[0].From.Address.String() != "10.244.2.77" || e.Answers[0].From.Name != "client-0" {
		t.Error(textOf(t, e))
	}
}

// TestJSON holds the names of the fields, which programs go by.
func TestJSON(t *testing.T) {
	data, err := json.MarshalIndent(ask(t, load(t, "cluster.yaml", "label-typo.yaml"), "shop/client-0", "svc/shop/web:80"), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/explanation.json", string(data)+"\n")
}
