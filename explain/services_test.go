package explain_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/explain"
)

// aStack is two pods of both families, and one client.
const aStack = `apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: web-0, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.10}, {ip: "fd00:1::10"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: web-1, labels: {app: web}}
spec: {nodeName: n2, containers: [{name: main, ports: [{name: http, containerPort: 9090}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.2.10}, {ip: "fd00:2::10"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: client, labels: {app: client}}
spec: {nodeName: n2, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.2.20}, {ip: "fd00:2::20"}]}
`

// aService is a Service before the pods of aStack.
func aService(spec string) string {
	return "---\napiVersion: v1\nkind: Service\nmetadata: {namespace: a, name: s}\nspec: {selector: {app: web}, " + spec + "}\n"
}

// waysOf are the ends and ports of answers, how many more are alike, and the reasons of the notes on all.
func waysOf(e *explain.Explanation) string {
	var texts []string
	for _, a := range e.Answers {
		text := a.To.String()
		if a.Port != 0 {
			text += fmt.Sprintf(":%d", a.Port)
		}
		if a.Service != nil {
			text += fmt.Sprintf(" by %d", a.Service.Port)
		}
		if a.Pairs > 1 {
			text += fmt.Sprintf(" +%d", a.Pairs-1)
		}
		texts = append(texts, text)
	}
	for _, n := range e.Notes {
		texts = append(texts, n.Reason)
	}
	return strings.Join(texts, ", ")
}

// sliceOf is an EndpointSlice of the Service s, of pods that are ready.
func sliceOf(ports []discoveryv1.EndpointPort, ips ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s-" + ips[0], Labels: map[string]string{discoveryv1.LabelServiceName: "s"}}, Ports: ports}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return s
}

// portIn is a port of an EndpointSlice.
func portIn(name string, number int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Port: &number}
}

// TestHeadless: nothing translates the ports of a headless Service, so that those by number are the pods' own.
func TestHeadless(t *testing.T) {
	for _, test := range []struct{ spec, port, want string }{
		{`clusterIP: None, ports: [{name: h, port: 80, targetPort: http}]`, ":80", "a/web-0:80 +1, HeadlessService"},
		{`clusterIP: None, ports: [{name: h, port: 80, targetPort: http}]`, ":h", "a/web-0:8080, a/web-1:9090"},
		{`clusterIP: None, ports: [{name: h, port: 80, targetPort: http}]`, ":80/UDP", "a/web-0:80 +1"},
		{`clusterIP: None, ports: [{name: h, port: 80}]`, ":80", "a/web-0:80 +1"},
		{`clusterIP: None, ports: [{name: h, port: 80, targetPort: 80}]`, ":h", "a/web-0:80 +1"},
		{`clusterIP: None, ports: [{port: 5432, targetPort: 15432}]`, ":5432", "a/web-0:5432 +1, HeadlessService"},
		{`clusterIP: None, ports: [{port: 5432, targetPort: 15432}]`, ":15432", "a/web-0:15432 +1"},
		{`clusterIP: None, ports: [{port: 5432, targetPort: 15432}]`, "", "a/web-0 +1"},
		{`clusterIP: None`, "", "a/web-0 +1"},
		{`clusterIP: None`, ":22", "a/web-0:22 +1"},
		{`clusterIP: 10.96.0.1, ports: [{name: h, port: 80, targetPort: http}]`, ":80", "a/web-0:8080 by 80, a/web-1:9090 by 80"},
	} {
		c := parseCluster(t, aStack+aService(test.spec))
		if got := waysOf(ask(t, c, "a/client", "svc/a/s"+test.port)); got != test.want {
			t.Errorf("%s, %q: %s, want %s", test.spec, test.port, got, test.want)
		}
		// By EndpointSlices it is the same. That of a Service without ports has none.
		var ports, others []discoveryv1.EndpointPort
		for _, p := range c.Services[0].Spec.Ports {
			first, second := cmp.Or(p.TargetPort.IntVal, p.Port), cmp.Or(p.TargetPort.IntVal, p.Port)
			if p.TargetPort.StrVal == "http" {
				first, second = 8080, 9090
			}
			ports, others = append(ports, portIn(p.Name, first)), append(others, portIn(p.Name, second))
		}
		c.EndpointSlices = []*discoveryv1.EndpointSlice{sliceOf(ports, "10.244.1.10"), sliceOf(others, "10.244.2.10")}
		if got := waysOf(ask(t, c, "a/client", "svc/a/s"+test.port)); got != test.want {
			t.Errorf("%s, %q, by EndpointSlices: %s, want %s", test.spec, test.port, got, test.want)
		}
		c.EndpointSlices, c.Running = nil, true
		if e := ask(t, c, "a/client", "svc/a/s"+test.port); !slices.ContainsFunc(e.Notes, func(n explain.Note) bool {
			return n.Reason == "NoEndpoints" && strings.Contains(n.Message, "kube-proxy") != strings.Contains(test.spec, "None")
		}) {
			t.Errorf("%s, %q, without EndpointSlices: %v", test.spec, test.port, e.Notes)
		}
	}
}

// TestHeadlessIsDirect: a pod that asks a headless Service and gets its own address reaches itself, whatever
// policies say, as nothing translates its packets.
func TestHeadlessIsDirect(t *testing.T) {
	c := parseCluster(t, aStack+aService("clusterIP: None, ports: [{name: h, port: 80, targetPort: http}]")+
		"---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: a, name: none}\nspec: {podSelector: {}}\n")
	c.Pods = slices.DeleteFunc(c.Pods, func(p *corev1.Pod) bool { return p.Name == "web-1" })
	for to, want := range map[string]explain.Verdict{"svc/a/s:80": explain.Allowed, "svc/a/s:h": explain.Allowed} {
		if e := ask(t, c, "a/web-0", to); e.Verdict != want {
			t.Errorf("%s: %s", to, textOf(t, e))
		}
	}
	c.Services[0].Spec.ClusterIP = "10.96.0.1"
	if e := ask(t, c, "a/web-0", "svc/a/s:80"); e.Verdict != explain.Denied {
		t.Errorf("by a Service that has an address: %s", textOf(t, e))
	}
}

// TestNoPorts: a Service that needs ports and has none is named.
func TestNoPorts(t *testing.T) {
	c := parseCluster(t, aStack+aService("clusterIP: 10.96.0.1"))
	q, err := explain.ParseQuestion("a/client", "svc/a/s", "")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := newExplainer(c).Explain(q); err == nil || !strings.Contains(err.Error(), "no port of Service a/s") {
		t.Errorf("%v, %v", e, err)
	}
}

// TestServiceFamilies: a Service is asked about in its own address families alone, and in each of them.
func TestServiceFamilies(t *testing.T) {
	const onlyFour = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: a, name: four}\nspec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}\n"
	const four, six, both = explain.Allowed, explain.Denied, explain.Mixed // what that policy makes of each family
	for _, test := range []struct {
		spec string
		want explain.Verdict
	}{
		{`clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, ports: [{port: 80}]`, four},
		{`clusterIP: "fd00:ffff::1", clusterIPs: ["fd00:ffff::1"], ipFamilies: [IPv6], ipFamilyPolicy: SingleStack, ports: [{port: 80}]`, six},
		{`clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:ffff::1"], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]`, both},
		{`clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]`, four}, // the cluster has no more
		{`clusterIP: None, clusterIPs: [None], ipFamilies: [IPv6], ports: [{port: 80}]`, six},
		{`ipFamilies: [IPv6], ports: [{port: 80}]`, six},
		{`ipFamilies: [IPv6], ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]`, both},
		{`clusterIPs: [10.96.0.1, "fd00:ffff::1"], ports: [{port: 80}]`, both},
		{`clusterIP: "fd00:ffff::1", ports: [{port: 80}]`, six},
		{`clusterIP: None, ports: [{port: 80}]`, both},
		{`ports: [{port: 80}]`, both},
	} {
		c := parseCluster(t, aStack+onlyFour+aService(test.spec))
		if e := ask(t, c, "a/client", "svc/a/s:80"); e.Verdict != test.want {
			t.Errorf("%s: %s, want %s:\n%s", test.spec, e.Verdict, test.want, textOf(t, e))
		}
		// Of a Service of both families there are EndpointSlices of each.
		c.EndpointSlices = []*discoveryv1.EndpointSlice{
			sliceOf([]discoveryv1.EndpointPort{portIn("", 80)}, "fd00:1::10", "fd00:2::10"), sliceOf([]discoveryv1.EndpointPort{portIn("", 80)}, "10.244.1.10", "10.244.2.10"),
		}
		e := ask(t, c, "a/client", "svc/a/s:80")
		if e.Verdict != test.want {
			t.Errorf("%s, by EndpointSlices: %s, want %s:\n%s", test.spec, e.Verdict, test.want, textOf(t, e))
		}
		for _, a := range e.Answers {
			if a.Pairs != 2 {
				t.Errorf("%s, by EndpointSlices: %d pairs of %s, want 2", test.spec, a.Pairs, a.To.Address)
			}
		}
	}
	// A pod without an address of the Service's family is none of its endpoints.
	c := parseCluster(t, aStack+aService(`ipFamilies: [IPv6], ports: [{port: 80}]`))
	c.Pods[1].Status.PodIPs = c.Pods[1].Status.PodIPs[:1]
	if e := ask(t, c, "a/client", "svc/a/s:80"); waysOf(e) != "a/web-0:80 by 80, NoAddress" || !strings.Contains(textOf(t, e), "a/web-1 has no IPv6 address, and Service a/s has no other family") {
		t.Error(textOf(t, e))
	}
}

// TestServiceNotReady: by its selector, a Service has no endpoint that says of itself that it is not ready, unless
// it asks for those as well.
func TestServiceNotReady(t *testing.T) {
	for _, test := range []struct {
		ready corev1.ConditionStatus // of web-1; empty: there is no such condition
		spec  string
		want  string
	}{
		{corev1.ConditionFalse, "", "a/web-0:80 by 80, PodNotReady"},
		{corev1.ConditionUnknown, "", "a/web-0:80 by 80, PodNotReady"},
		{corev1.ConditionFalse, "clusterIP: None, ", "a/web-0:80, PodNotReady"},
		{corev1.ConditionFalse, "publishNotReadyAddresses: true, ", "a/web-0:80 by 80 +1"},
		{corev1.ConditionTrue, "", "a/web-0:80 by 80 +1"},
		{"", "", "a/web-0:80 by 80 +1"},
	} {
		c := parseCluster(t, aStack+aService(test.spec+"ports: [{port: 80}]"))
		c.Pods[1].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
		if test.ready != "" {
			c.Pods[1].Status.Conditions = append(c.Pods[1].Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: test.ready})
		}
		if e := ask(t, c, "a/client", "svc/a/s:80"); waysOf(e) != test.want {
			t.Errorf("%s, %q: %s, want %s", test.ready, test.spec, waysOf(e), test.want)
		}
		// The pod itself can be asked about, and the note says that it is not ready.
		noted := strings.Contains(textOf(t, ask(t, c, "a/client", "a/web-1:80")), "Pod a/web-1 is not ready")
		if want := test.ready != "" && test.ready != corev1.ConditionTrue; noted != want {
			t.Errorf("%s: a note of the pod itself: %t", test.ready, noted)
		}
	}
	// None is ready; and what is said of a pod is said once, whatever the number of ports.
	c := parseCluster(t, aStack+aService("ports: [{name: a, port: 80}, {name: b, port: 81}]"))
	for _, pod := range c.Pods[:2] {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	}
	if e := ask(t, c, "a/client", "svc/a/s"); e.Verdict != explain.Unknown || waysOf(e) != "PodNotReady, PodNotReady, NoEndpoints" {
		t.Error(textOf(t, e))
	}
}

// TestNamedPortOfHost: the name of a port leads to the port that a pod on its node's network declares, as
// Kubernetes resolves it for a Service; policies know of no such name there.
func TestNamedPortOfHost(t *testing.T) {
	c := parseCluster(t, aStack+aService("ports: [{port: 80, targetPort: met}]")+`---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: host, labels: {app: host}}
spec: {nodeName: n1, hostNetwork: true, containers: [{name: main, ports: [{name: met, containerPort: 9100, hostPort: 9100}, {name: met, containerPort: 53, protocol: UDP}]}]}
status: {phase: Running, podIPs: [{ip: 192.168.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: a, name: e}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{ports: [{port: 9100}]}]}
`)
	c.Services[0].Spec.Selector = map[string]string{"app": "host"}
	for to, want := range map[string]string{
		"svc/a/s:80": "a/host:9100 by 80", "a/host:met": "a/host:9100", "a/host:met/UDP": "a/host:53", "a/host:other": "NoSuchPort",
	} {
		e := ask(t, c, "a/client", to)
		if got := waysOf(e); got != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
		for _, a := range e.Answers {
			if a.To.Address.String() != "192.168.0.1" || (a.Verdict == explain.Allowed) != (a.Port == 9100) {
				t.Errorf("%s: %s", to, textOf(t, e))
			}
		}
	}
	if text := textOf(t, ask(t, c, "a/client", "a/host:other")); !strings.Contains(text, "it declares met (9100/TCP), met (53/UDP)") {
		t.Error(text)
	}
	// A rule that has the name does not mean the node.
	name := intstr.FromString("met")
	c.Policies[0].Spec.Egress[0].Ports[0].Port = &name
	if e := ask(t, c, "a/client", "a/host:met"); e.Verdict != explain.Denied {
		t.Errorf("by a rule with the name: %s", textOf(t, e))
	}
}
