package explain_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain"
)

// TestServiceAddresses: whoever asks about an address of a Service, or about a port of a node that leads to one,
// is told that it is translated.
func TestServiceAddresses(t *testing.T) {
	c := parseCluster(t, aStack+`---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: "2001:db8::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: host}
spec: {nodeName: n1, hostNetwork: true, containers: [{name: main, ports: [{name: met, containerPort: 30080}]}]}
status: {phase: Running, podIPs: [{ip: 192.168.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: a, name: lb}
spec: {type: LoadBalancer, clusterIP: 10.96.3.3, selector: {app: web}, externalIPs: [198.51.100.5, 192.168.0.1], ports: [{port: 80, nodePort: 30080, targetPort: 8080}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.77}, {hostname: lb.example}, {ip: 198.51.100.78, ipMode: Proxy}, {ip: 198.51.100.79, ipMode: VIP}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: a, name: six}
spec: {clusterIP: "fd00:ffff:0::1", ipFamilies: [IPv6], selector: {app: web}, ports: [{port: 53, nodePort: 30053, protocol: UDP}]}
`)
	for _, test := range []struct{ to, want string }{
		{"10.96.3.3:80", "10.96.3.3 is the address of a Service, a/lb. It is translated before policies are asked: ask about the Service instead (svc/a/lb:PORT)."},
		{"[fd00:ffff::1]:53/UDP", "fd00:ffff::1 is the address of a Service, a/six."},
		{"198.51.100.77:80", "198.51.100.77 is the address of a Service, a/lb."},
		{"198.51.100.77", "198.51.100.77 is the address of a Service, a/lb."},
		{"198.51.100.79:80", "198.51.100.79 is the address of a Service, a/lb."},
		{"198.51.100.5:80", "198.51.100.5 is the address of a Service, a/lb."},
		{"198.51.100.78:80", ""}, // the load balancer asks to get it
		{"198.51.100.6:80", ""},
		{"node/n1:30080", "30080/TCP of node n1 is the nodePort of Service a/lb: the node translates it to a port of the pods behind it, and their policies are asked about that. Ask about the Service as well (svc/a/lb:80)."},
		{"192.168.0.1:30080", "30080/TCP of node n1 is the nodePort of Service a/lb:"},
		{"a/host:30080", "30080/TCP of node n1 is the nodePort of Service a/lb:"},
		{"a/host:met", "30080/TCP of node n1 is the nodePort of Service a/lb:"},
		{"node/n1:80", "80/TCP of node n1 is the port of Service a/lb:"}, // by an externalIP
		{"node/n1:30080/UDP", ""},
		{"node/n1:30053/UDP", "30053/UDP of node n1 is the nodePort of Service a/six: the node translates it to a port of the pods behind it, and their policies are asked about that. Ask about the Service as well (svc/a/six:53/UDP)."},
		{"192.168.0.1:30053/UDP", ""}, // that Service is of the other family
		{"[2001:db8::1]:30080", ""},
		{"node/n1:22", ""},
		{"node/n1", ""},
		{"a/web-0:30080", ""},
	} {
		var said []string
		for _, a := range ask(t, c, "a/client", test.to).Answers {
			for _, n := range a.Notes {
				if n.Reason == "ServiceAddress" {
					said = append(said, n.Message)
				}
			}
		}
		if got := strings.Join(slices.Compact(said), " "); !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%s: %q, want %q", test.to, got, test.want)
		}
	}
	// Who is asked about by a Service is not told to.
	if e := ask(t, c, "a/client", "svc/a/lb:80"); e.Verdict != explain.Allowed || strings.Contains(textOf(t, e), "translate") {
		t.Error(textOf(t, e))
	}
}
