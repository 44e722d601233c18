package lint_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain/lint"
)

// TestServicesInAnyOrder: which Service is named does not depend on their order.
func TestServicesInAnyOrder(t *testing.T) {
	c := clusterOf(t, true, world, np("p", `{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}, {from: [{ipBlock: {cidr: 10.96.0.0/12}}]}]}`), `kind: Service
metadata: {namespace: shop, name: also-web}
spec: {clusterIP: 10.96.7.9, selector: {app: web}, ports: [{port: 80, targetPort: 8082}]}`)
	before := lint.Lint(c)
	slices.Reverse(c.Services)
	if after := lint.Lint(c); len(before) != 2 || !reflect.DeepEqual(before, after) {
		t.Errorf("found %v, and with Services in another order %v", before, after)
	}
}

func TestServicePort(t *testing.T) {
	in := func(ports string) string {
		return np("p", `{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [`+ports+`]}]}`)
	}
	run(t, []lintCase{
		{name: "the pods' port", policies: in(`{port: 8080}`)},
		{name: "the Service's port, by a name", policies: in(`{port: 80}`), want: []string{
			"Warning shop/p spec.ingress[0].ports[0].port: 80 is the port of Service shop/web, and its pods get what is sent there on port 8080, which is what policies see; name that [service-port]"}},
		{name: "the Service's port, by a number", policies: in(`{port: 81}`), want: []string{
			"Warning shop/p spec.ingress[0].ports[0].port: 81 is the port of Service shop/web, and its pods get what is sent there on port 8081, which is what policies see; name that [service-port]"}},
		{name: "both", policies: in(`{port: 80}, {port: 8080}`)},
		{name: "both, by name", policies: in(`{port: 80}, {port: http}`)},
		{name: "another protocol", policies: in(`{port: 80, protocol: UDP}`)},
		{name: "a range", policies: in(`{port: 80, endPort: 90}`)},
		{name: "a container has it", policies: in(`{port: 80}`), more: `kind: Pod
metadata: {namespace: shop, name: web-3, labels: {app: web, tier: front}}
spec: {nodeName: node-2, containers: [{ports: [{containerPort: 80}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.2.12}]}`},
		{name: "another Service sends there", policies: in(`{port: 80}`), more: `kind: Service
metadata: {namespace: shop, name: internal}
spec: {clusterIP: 10.96.7.9, selector: {app: web}, ports: [{port: 8888, targetPort: 80}]}`},
		{name: "a headless Service, whose ports nothing translates", policies: in(`{port: 5432}`), more: `kind: Service
metadata: {namespace: shop, name: internal}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 5432, targetPort: 15432}]}`},
		{name: "a headless Service beside one that is not", policies: in(`{port: 80}`), more: `kind: Service
metadata: {namespace: shop, name: internal}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}`, want: []string{
			"Warning shop/p spec.ingress[0].ports[0].port: 80 is the port of Service shop/web, and its pods get what is sent there on port 8080, which is what policies see; name that [service-port]"}},
		{name: "a headless Service that says that the pods have the port", policies: in(`{port: 80}`), more: `kind: Service
metadata: {namespace: shop, name: internal}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}`},
		{name: "a Service before other pods", policies: np("p", `{podSelector: {matchLabels: {app: cart}}, ingress: [{ports: [{port: 80}]}]}`)},
		{name: "a Service without another port", policies: "kind: NetworkPolicy\nmetadata: {namespace: data, name: p}\nspec: {podSelector: {}, ingress: [{ports: [{port: 5432}]}]}"},
		{name: "egress to the pods behind it", policies: np("p", `{podSelector: {matchLabels: {app: cart}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}, {ports: [{port: 53, protocol: UDP}]}]}`), want: []string{
			"Warning shop/p spec.egress[0].ports[0].port: 80 is the port of Service shop/web, and its pods get what is sent there on port 8080, which is what policies see; name that [service-port]"}},
		{name: "egress to everybody", policies: np("p", `{podSelector: {matchLabels: {app: cart}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}, {ports: [{port: 53, protocol: UDP}]}]}`)},
		{name: "a ClusterNetworkPolicy that accepts", policies: cnp("p", `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`), want: []string{
			"Warning ClusterNetworkPolicy p spec.ingress[0].protocols[0].tcp.destinationPort.number: 80 is the port of Service shop/web, and its pods get what is sent there on port 8080, which is what policies see; name that [service-port]"}},
		{name: "a ClusterNetworkPolicy that denies", policies: cnp("p", `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`)},
	})
}

func TestNoDNS(t *testing.T) {
	const cart = `podSelector: {matchLabels: {app: cart}}, policyTypes: [Egress]`
	const toWeb = `{to: [{podSelector: {matchLabels: {app: web}}}]}`
	missing := []string{"Warning shop/p spec.egress: pods that this policy isolates may reach others, but not the cluster's DNS, so that they find nobody by name (shop/cart is one); allow egress to pods with k8s-app=kube-dns of namespace kube-system, port 53 of UDP and TCP [no-dns]"}
	run(t, []lintCase{
		{name: "without", policies: np("p", `{`+cart+`, egress: [`+toWeb+`]}`), want: missing},
		{name: "with the DNS pods", policies: np("p", `{`+cart+`, egress: [`+toWeb+`, {to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}]}]}`)},
		{name: "with a port that is named", policies: np("p", `{`+cart+`, egress: [`+toWeb+`, {to: [{namespaceSelector: {}}], ports: [{port: dns, protocol: UDP}]}]}`)},
		{name: "with TCP alone", policies: np("p", `{`+cart+`, egress: [`+toWeb+`, {to: [{namespaceSelector: {}}], ports: [{port: 53}]}]}`), want: missing},
		{name: "with port 53 everywhere", policies: np("p", `{`+cart+`, egress: [`+toWeb+`, {ports: [{port: 53, protocol: UDP}]}]}`)},
		{name: "with all addresses", policies: np("p", `{`+cart+`, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`)},
		{name: "with all addresses, but by HTTPS alone", policies: np("p", `{`+cart+`, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 443}]}]}`), want: missing},
		{name: "with NodeLocal DNSCache", policies: np("p", `{`+cart+`, egress: [`+toWeb+`, {to: [{ipBlock: {cidr: 169.254.20.10/32}}], ports: [{port: 53, protocol: UDP}]}]}`)},
		{name: "another policy allows it", policies: np("p", `{`+cart+`, egress: [`+toWeb+`]}`) + "\n---\n" + np("q", `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}]}`)},
		{name: "another policy isolates too", policies: np("a", `{podSelector: {}, policyTypes: [Egress]}`) + "\n---\n" + np("p", `{`+cart+`, egress: [`+toWeb+`]}`), want: missing},
		{name: "default deny", policies: np("p", `{podSelector: {}, policyTypes: [Egress]}`)},
		{name: "one address alone", policies: np("p", `{`+cart+`, egress: [{to: [{ipBlock: {cidr: 203.0.113.7/32}}]}]}`)},
		{name: "a ClusterNetworkPolicy accepts it", policies: np("p", `{`+cart+`, egress: [`+toWeb+`]}`) + "\n---\n" +
			cnp("dns", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}], protocols: [{udp: {destinationPort: {number: 53}}}]}]}`)},
		{name: "a ClusterNetworkPolicy accepts it for some of the pods", policies: np("p", `{podSelector: {}, policyTypes: [Egress], egress: [`+toWeb+`]}`) + "\n---\n" +
			cnp("dns", `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: cart}}}}, egress: [{action: Accept, to: [{namespaces: {}}]}]}`), want: []string{
			strings.Replace(missing[0], "shop/cart is one", "shop/web-1 is one", 1)}},
		{name: "a ClusterNetworkPolicy denies it in so many words", policies: np("p", `{`+cart+`, egress: [`+toWeb+`]}`) + "\n---\n" +
			cnp("dns", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}]}`)},
		{name: "pods that ask others", policies: np("p", `{podSelector: {matchLabels: {app: own}}, policyTypes: [Egress], egress: [`+toWeb+`]}`), more: `kind: Pod
metadata: {namespace: shop, name: own, labels: {app: own}}
spec: {nodeName: node-2, dnsPolicy: None, dnsConfig: {nameservers: [203.0.113.53]}, containers: [{}]}
status: {phase: Running, podIPs: [{ip: 10.244.2.14}]}`},
	})
}

// TestNoDNSInFiles: where nobody knows which pods answer names, a rule that may be about them is, and
// something must show that names are used.
func TestNoDNSInFiles(t *testing.T) {
	const namespaceAndPod = `kind: Namespace
metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}
---
kind: Pod
metadata: {namespace: shop, name: cart, labels: {app: cart}}
spec: {containers: [{}]}`
	const service = "kind: Service\nmetadata: {namespace: shop, name: cart}\nspec: {selector: {app: cart}, ports: [{port: 80}]}"
	const others = "kind: NetworkPolicy\nmetadata: {namespace: data, name: p}\nspec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}]}"
	const own = `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}`
	missing := []string{"Info shop/p spec.egress: pods that this policy isolates may reach others, but not the cluster's DNS, so that they find nobody by name (shop/cart is one); allow egress to pods with k8s-app=kube-dns of namespace kube-system, port 53 of UDP and TCP [no-dns]"}
	for _, c := range []lintCase{
		{name: "own pods alone, behind a Service", policies: own, more: service, want: missing},
		{name: "own pods alone, where others ask the DNS", policies: own, more: others, want: missing},
		{name: "own pods alone, and nothing that shows that they have names", policies: own, more: strings.Replace(others, "port: 53", "port: 54", 1)},
		{name: "HTTPS alone", policies: `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: 443}]}]}`, more: service, want: missing},
		{name: "port 53", policies: `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: 443}]}, {to: [{podSelector: {}}], ports: [{protocol: UDP, port: 53}]}]}`, more: service},
		{name: "any pods", policies: `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}`, more: service},
	} {
		t.Run(c.name, func(t *testing.T) {
			check(t, clusterOf(t, false, namespaceAndPod, np("p", c.policies), c.more), c.want)
		})
	}
}
