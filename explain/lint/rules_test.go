package lint_test

import "testing"

func TestNamedPort(t *testing.T) {
	in := func(port string) string {
		return np("p", `{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [`+port+`]}]}`)
	}
	run(t, []lintCase{
		{name: "there", policies: in(`{port: http}`)},
		{name: "there with UDP", policies: in(`{port: metrics, protocol: UDP}`)},
		{name: "a letter", policies: in(`{port: 8080}, {port: htpp}`), want: []string{
			`Warning shop/p spec.ingress[0].ports[1].port: none of the policy's pods has a port named "htpp" of protocol TCP; did you mean "http"? [named-port]`}},
		{name: "another protocol", policies: in(`{port: metrics}`), want: []string{
			`Warning shop/p spec.ingress[0].ports[0].port: none of the policy's pods has a port named "metrics" of protocol TCP: it is one of UDP there; say protocol: UDP [named-port]`}},
		{name: "another pod's", policies: in(`{port: grpc}`), want: []string{
			`Warning shop/p spec.ingress[0].ports[0].port: none of the policy's pods has a port named "grpc" of protocol TCP: they have "http" [named-port]`}},
		{name: "some of the pods have it", policies: np("p", `{podSelector: {}, ingress: [{ports: [{port: grpc}]}]}`)},
		{name: "pods without names", policies: "kind: NetworkPolicy\nmetadata: {namespace: monitoring, name: p}\nspec: {podSelector: {}, ingress: [{ports: [{port: web}]}]}", want: []string{
			`Warning monitoring/p spec.ingress[0].ports[0].port: none of the policy's pods has a port named "web" of protocol TCP: they name no such ports at all; give a number [named-port]`}},
		{name: "egress asks the peers", policies: np("p", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: cart}}}], ports: [{port: http}]}, {ports: [{port: 53, protocol: UDP}]}]}`), want: []string{
			`Warning shop/p spec.egress[0].ports[0].port: none of the pods that the peers mean has a port named "http" of protocol TCP: they have "grpc" [named-port]`}},
		{name: "egress to a peer that has it", policies: np("p", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: cart}}}], ports: [{port: grpc}]}, {ports: [{port: 53, protocol: UDP}]}]}`)},
		{name: "egress to a block, whose addresses may be any pods'", policies: np("p", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: sql}]}, {ports: [{port: 53, protocol: UDP}]}]}`)},
		{name: "of nobody", policies: np("p", `{podSelector: {matchLabels: {app: nightly}}, ingress: [{ports: [{port: http}]}]}`)},
		{name: "a ClusterNetworkPolicy's", policies: cnp("p", `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{destinationNamedPort: metrics}, {destinationNamedPort: htp}]}]}`), want: []string{
			`Warning ClusterNetworkPolicy p spec.ingress[0].protocols[1].destinationNamedPort: none of the policy's pods has a port named "htp"; did you mean "http"? [named-port]`}},
	})
}

func TestBlocks(t *testing.T) {
	from := func(block string) string {
		return np("p", `{podSelector: {}, ingress: [{from: [{ipBlock: `+block+`}]}]}`)
	}
	run(t, []lintCase{
		{name: "outside", policies: from(`{cidr: 203.0.113.0/24, except: [203.0.113.0/25]}`)},
		{name: "excepts that are all of it", policies: from(`{cidr: 203.0.113.0/24, except: [203.0.113.0/25, 203.0.113.128/25]}`), want: []string{
			"Warning shop/p spec.ingress[0].from[0].ipBlock.except: the excepts are all of 203.0.113.0/24, so that the block has no address; leave out the peer, or make the excepts narrower [empty-block]"}},
		{name: "excepts that are nearly all of it", policies: from(`{cidr: 203.0.113.0/24, except: [203.0.113.0/25, 203.0.113.128/26]}`)},
		{name: "IPv6 too", policies: from(`{cidr: "2001:db8::/32", except: ["2001:db8::/33", "2001:db8:8000::/33"]}`), want: []string{
			"Warning shop/p spec.ingress[0].from[0].ipBlock.except: the excepts are all of 2001:db8::/32, so that the block has no address; leave out the peer, or make the excepts narrower [empty-block]"}},
		{name: "an except beside it", policies: from(`{cidr: 203.0.113.0/24, except: [203.0.113.0/25, 198.51.100.0/24]}`), want: []string{
			"Warning shop/p spec.ingress[0].from[0].ipBlock.except[1]: 198.51.100.0/24 has no address of 203.0.113.0/24, so that it takes nothing away from it [except-outside]"}},
		{name: "a pod's address", policies: from(`{cidr: 10.244.1.20/32}`), want: []string{
			"Warning shop/p spec.ingress[0].from[0].ipBlock: 10.244.1.20/32 has addresses of pods, such as that of data/postgres-0, and another pod gets them later; name pods by podSelector and namespaceSelector [pod-addresses]"}},
		{name: "the address of a pod outside all ranges", policies: from(`{cidr: 172.20.0.7/32}}, {ipBlock: {cidr: 172.20.0.0/24}`), more: `kind: Pod
metadata: {namespace: shop, name: far, labels: {app: far}}
spec: {nodeName: node-2, containers: [{}]}
status: {phase: Running, podIPs: [{ip: 172.20.0.7}]}`, want: []string{
			"Warning shop/p spec.ingress[0].from[0].ipBlock: 172.20.0.7/32 has addresses of pods, such as that of shop/far, and another pod gets them later; name pods by podSelector and namespaceSelector [pod-addresses]"}},
		{name: "a part of a node's pods", policies: from(`{cidr: 10.244.1.16/28}`), want: []string{
			"Warning shop/p spec.ingress[0].from[0].ipBlock: 10.244.1.16/28 has addresses of pods, such as that of data/postgres-0, and another pod gets them later; name pods by podSelector and namespaceSelector [pod-addresses]"}},
		{name: "a node's pods", policies: from(`{cidr: 10.244.1.0/24}`), want: []string{
			"Info shop/p spec.ingress[0].from[0].ipBlock: 10.244.1.0/24 has addresses of pods, such as that of shop/web-1, and another pod gets them later; name pods by podSelector and namespaceSelector (an empty one means all) [pod-addresses]"}},
		{name: "a bridge's own address", policies: from(`{cidr: 10.244.1.1/32}`)},
		{name: "all the world, and private ranges", policies: from(`{cidr: 0.0.0.0/0}}, {ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: 10.244.0.0/16}}, {ipBlock: {cidr: "::/0"}`)},
		{name: "pods' addresses are excepted", policies: from(`{cidr: 10.244.1.0/24, except: [10.244.1.0/27]}`)},
		{name: "a Service's address", policies: np("p", `{podSelector: {matchLabels: {app: cart}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.7.8/32}}]}]}`), want: []string{
			"Warning shop/p spec.egress[0].to[0].ipBlock: 10.96.7.8/32 has addresses of Services, such as that of data/postgres; they are translated to those of endpoints before policies are asked, so that this means nobody: name the pods behind it, with app.kubernetes.io/name=postgres of namespace data [service-addresses]"}},
		{name: "the API server's", policies: np("p", `{podSelector: {matchLabels: {app: cart}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.1/32}}]}]}`), want: []string{
			"Warning shop/p spec.egress[0].to[0].ipBlock: 10.96.0.1/32 has addresses of Services, such as that of default/kubernetes; they are translated to those of endpoints before policies are asked, so that this means nobody: name what is behind it, 192.0.2.1 [service-addresses]"}},
		{name: "the usual range", policies: cnp("p", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [10.96.0.0/12, 203.0.113.0/24]}]}]}`), want: []string{
			"Warning ClusterNetworkPolicy p spec.egress[0].to[0].networks[0]: 10.96.0.0/12 has addresses of Services, such as that of default/kubernetes; they are translated to those of endpoints before policies are asked, so that this means nobody: name what is behind it, 192.0.2.1 [service-addresses]"}},
		{name: "more than the usual range", policies: cnp("p", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [10.64.0.0/10]}]}]}`)},
	})
}

func TestPolicyTypes(t *testing.T) {
	const open = `egress: [{}]`
	run(t, []lintCase{
		{name: "as they should be", policies: np("p", `{podSelector: {}, policyTypes: [Ingress, Egress], `+open+`}`)},
		{name: "left out", policies: np("p", `{podSelector: {}, `+open+`}`)},
		{name: "without egress", policies: np("p", `{podSelector: {}, policyTypes: [Ingress], `+open+`}`), want: []string{
			"Warning shop/p spec.egress: the rule is without effect, as spec.policyTypes does not have Egress; add it there, or leave the rules out [policy-types]"}},
		{name: "without ingress", policies: np("p", `{podSelector: {}, policyTypes: [Egress], ingress: [{}, {}], `+open+`}`), want: []string{
			"Warning shop/p spec.ingress: the rules are without effect, as spec.policyTypes does not have Ingress; add it there, or leave the rules out [policy-types]"}},
		{name: "default deny", policies: np("p", `{podSelector: {}, policyTypes: [Ingress, Egress]}`)},
	})
}

func TestShadowedRule(t *testing.T) {
	rules := func(ingress string) string {
		return cnp("p", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [`+ingress+`]}`)
	}
	egress := func(egress string) string {
		return cnp("p", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [`+egress+`]}`)
	}
	shadowed := []string{"Warning ClusterNetworkPolicy p spec.ingress[1]: the rule never decides, as spec.ingress[0], which comes first, has all its peers and ports; put it before that one, or leave it out [shadowed-rule]"}
	shadowedEgress := []string{"Warning ClusterNetworkPolicy p spec.egress[1]: the rule never decides, as spec.egress[0], which comes first, has all its peers and ports; put it before that one, or leave it out [shadowed-rule]"}
	const shop, web = `{namespaces: {matchLabels: {team: shop}}}`, `{pods: {namespaceSelector: {matchLabels: {team: shop}}, podSelector: {matchLabels: {app: web}}}}`
	run(t, []lintCase{
		{name: "wider first", policies: rules(`{action: Deny, from: [` + shop + `]}, {action: Accept, from: [` + web + `]}`), want: shadowed},
		{name: "narrower first", policies: rules(`{action: Accept, from: [` + web + `]}, {action: Deny, from: [` + shop + `]}`)},
		{name: "everybody first", policies: rules(`{action: Pass, from: [{namespaces: {}}]}, {action: Deny, from: [` + shop + `, ` + web + `]}`), want: shadowed},
		{name: "other namespaces", policies: rules(`{action: Deny, from: [{namespaces: {matchLabels: {team: storage}}}]}, {action: Accept, from: [` + web + `]}`)},
		{name: "one peer of two", policies: rules(`{action: Deny, from: [` + shop + `]}, {action: Accept, from: [` + web + `, {namespaces: {matchLabels: {team: storage}}}]}`)},
		{name: "fewer ports first", policies: rules(`{action: Deny, from: [` + shop + `], protocols: [{tcp: {destinationPort: {number: 80}}}]}, {action: Accept, from: [` + shop + `]}`)},
		{name: "more ports first", policies: rules(`{action: Deny, from: [` + shop + `], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 100}}}}]}, {action: Accept, from: [` + shop + `], protocols: [{tcp: {destinationPort: {number: 80}}}]}`), want: shadowed},
		{name: "another protocol first", policies: rules(`{action: Deny, from: [` + shop + `], protocols: [{udp: {}}]}, {action: Accept, from: [` + shop + `], protocols: [{tcp: {}}]}`)},
		{name: "a whole protocol first", policies: rules(`{action: Deny, from: [` + shop + `], protocols: [{tcp: {}}]}, {action: Accept, from: [` + shop + `], protocols: [{tcp: {destinationPort: {number: 80}}}]}`), want: shadowed},
		{name: "a name is not a number", policies: rules(`{action: Deny, from: [` + shop + `], protocols: [{tcp: {}}]}, {action: Accept, from: [` + shop + `], protocols: [{destinationNamedPort: http}]}`)},
		{name: "the other direction", policies: cnp("p", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Accept, to: [`+shop+`]}]}`)},
		{name: "networks that together have all", policies: egress(`{action: Deny, to: [{networks: [203.0.113.0/25, 203.0.113.128/25]}]}, {action: Accept, to: [{networks: [203.0.113.64/26, 203.0.113.0/24]}]}`), want: shadowedEgress},
		{name: "networks that leave some out", policies: egress(`{action: Deny, to: [{networks: [203.0.113.0/25]}]}, {action: Accept, to: [{networks: [203.0.113.0/24]}]}`)},
		{name: "nodes", policies: egress(`{action: Deny, to: [{nodes: {}}]}, {action: Accept, to: [{nodes: {matchLabels: {zone: alpha}}}]}`), want: shadowedEgress},
		{name: "all pods are not all addresses", policies: egress(`{action: Deny, to: [{namespaces: {}}]}, {action: Accept, to: [{networks: [203.0.113.0/24]}]}`)},
	})
}
