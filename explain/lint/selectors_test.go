package lint_test

import "testing"

func TestSelectsNothing(t *testing.T) {
	run(t, []lintCase{
		{name: "selects", policies: np("p", `{podSelector: {matchLabels: {app: web}}}`)},
		{name: "selects all", policies: np("p", `{podSelector: {}}`)},
		{name: "selects what has ended", policies: np("p", `{podSelector: {matchLabels: {app: nightly}}}`)},
		{name: "a letter too many", policies: np("p", `{podSelector: {matchLabels: {app: webb}}}`), want: []string{
			"Warning shop/p spec.podSelector: the policy selects nothing: there are no pods with app=webb of namespace shop: 2 pods have app=web; did you mean that? [selects-nothing]"}},
		{name: "the key", policies: np("p", `{podSelector: {matchLabels: {teir: middle}}}`), want: []string{
			"Warning shop/p spec.podSelector: the policy selects nothing: there are no pods with teir=middle of namespace shop: 1 pod has tier=middle; did you mean that? [selects-nothing]"}},
		{name: "another key for names", policies: np("p", `{podSelector: {matchLabels: {app.kubernetes.io/name: web}}}`), want: []string{
			"Warning shop/p spec.podSelector: the policy selects nothing: there are no pods with app.kubernetes.io/name=web of namespace shop: 2 pods have app=web; did you mean that? [selects-nothing]"}},
		{name: "one of two labels", policies: np("p", `{podSelector: {matchLabels: {app: cart, tier: mitdle}}}`), want: []string{
			"Warning shop/p spec.podSelector: the policy selects nothing: there are no pods with app=cart and tier=mitdle of namespace shop: 1 pod has tier=middle; did you mean that? [selects-nothing]"}},
		{name: "by Exists", policies: np("p", `{podSelector: {matchExpressions: [{key: teir, operator: Exists}]}}`), want: []string{
			"Warning shop/p spec.podSelector: the policy selects nothing: there are no pods with teir of namespace shop: 2 pods have tier=front; did you mean that? [selects-nothing]"}},
		{name: "labels that are each there, but not together", policies: np("p", `{podSelector: {matchLabels: {app: cart, tier: front}}}`), want: []string{
			"Info shop/p spec.podSelector: the policy selects nothing: there are no pods with app=cart and tier=front of namespace shop [selects-nothing]"}},
		{name: "a letter, but nobody has the other label too", policies: np("p", `{podSelector: {matchLabels: {app: webb, tier: middle}}}`), want: []string{
			"Info shop/p spec.podSelector: the policy selects nothing: there are no pods with app=webb and tier=middle of namespace shop [selects-nothing]"}},
		{name: "nobody near", policies: np("p", `{podSelector: {matchLabels: {app: later}}}`), want: []string{
			"Info shop/p spec.podSelector: the policy selects nothing: there are no pods with app=later of namespace shop [selects-nothing]"}},
		{name: "a sibling by its number", policies: np("p", `{podSelector: {matchLabels: {app: cart2}}}`), want: []string{
			"Info shop/p spec.podSelector: the policy selects nothing: there are no pods with app=cart2 of namespace shop [selects-nothing]"}},
		{name: "another word of three letters", policies: np("p", `{podSelector: {matchLabels: {app: wep}}}`), want: []string{
			"Info shop/p spec.podSelector: the policy selects nothing: there are no pods with app=wep of namespace shop [selects-nothing]"}},
		{name: "the wrong namespace", policies: np("p", `{podSelector: {matchLabels: {app: prometheus}}}`), want: []string{
			"Warning shop/p spec.podSelector: the policy selects nothing: there are no pods with app=prometheus of namespace shop, but 1 pod in namespace monitoring; is the policy in the wrong namespace? [selects-nothing]"}},
		{name: "one of several stages", policies: np("p", `{podSelector: {matchLabels: {app: prometheus}}}`) + "\n---\n" +
			"kind: NetworkPolicy\nmetadata: {namespace: monitoring, name: p}\nspec: {podSelector: {matchLabels: {app: prometheus}}}", want: []string{
			"Info shop/p spec.podSelector: the policy selects nothing: there are no pods with app=prometheus of namespace shop, but 1 pod in namespace monitoring; is the policy in the wrong namespace? [selects-nothing]"}},
		{name: "an empty namespace", policies: "kind: NetworkPolicy\nmetadata: {namespace: empty, name: p}\nspec: {podSelector: {}}", want: []string{
			"Info empty/p spec.podSelector: the policy selects nothing: there are no pods of namespace empty [selects-nothing]"}},
		{name: "a node's network", policies: "kind: NetworkPolicy\nmetadata: {namespace: monitoring, name: p}\nspec: {podSelector: {matchLabels: {app: node-exporter}}}", want: []string{
			"Warning monitoring/p spec.podSelector: the policy selects nothing: 1 pod with app=node-exporter, but on the node's own network: to policies its packets are the node's [selects-nothing]"}},
		{name: "a subject of namespaces", policies: cnp("p", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: shpo}}}}`), want: []string{
			"Warning ClusterNetworkPolicy p spec.subject.namespaces: the policy selects nothing: no namespace has team=shpo: 1 namespace has team=shop; did you mean that? [selects-nothing]"}},
		{name: "a subject of pods", policies: cnp("p", `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {team: shop}}, podSelector: {matchLabels: {app: webb}}}}}`), want: []string{
			"Warning ClusterNetworkPolicy p spec.subject.pods.podSelector: the policy selects nothing: there are no pods with app=webb of namespaces with team=shop: 2 pods have app=web; did you mean that? [selects-nothing]"}},
		{name: "a subject that is there", policies: cnp("p", `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}}`)},
	})
}

func TestPeerMatchesNothing(t *testing.T) {
	from := func(peers string) string { return np("p", `{podSelector: {}, ingress: [{from: [`+peers+`]}]}`) }
	const someone = `{podSelector: {}}, `
	run(t, []lintCase{
		{name: "means somebody", policies: from(`{podSelector: {matchLabels: {app: web}}}, {namespaceSelector: {}}, {ipBlock: {cidr: 203.0.113.0/24}}`)},
		{name: "a letter", policies: from(someone + `{podSelector: {matchLabels: {app: crat}}}`), want: []string{
			"Warning shop/p spec.ingress[0].from[1].podSelector: the peer means nobody: there are no pods with app=crat of namespace shop: 1 pod has app=cart; did you mean that? [peer-matches-nothing]"}},
		{name: "the name of a namespace", policies: from(someone + `{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitorng}}}`), want: []string{
			"Warning shop/p spec.ingress[0].from[1].namespaceSelector: the peer means nobody: no namespace has kubernetes.io/metadata.name=monitorng: 1 namespace has kubernetes.io/metadata.name=monitoring; did you mean that? [peer-matches-nothing]"}},
		{name: "the key of a namespace's name", policies: from(someone + `{namespaceSelector: {matchLabels: {name: monitoring}}}`), want: []string{
			"Warning shop/p spec.ingress[0].from[1].namespaceSelector: the peer means nobody: no namespace has name=monitoring: 1 namespace has kubernetes.io/metadata.name=monitoring; did you mean that? [peer-matches-nothing]"}},
		{name: "pods of another namespace", policies: from(someone + `{podSelector: {matchLabels: {app: prometheus}}}`), want: []string{
			"Warning shop/p spec.ingress[0].from[1].podSelector: the peer means nobody: there are no pods with app=prometheus of namespace shop, but 1 pod in namespace monitoring; to mean them, give the same list item a namespaceSelector too [peer-matches-nothing]"}},
		{name: "a selector of namespaces that leaves them out", policies: from(someone + `{podSelector: {matchLabels: {app: prometheus}}, namespaceSelector: {matchLabels: {team: storage}}}`), want: []string{
			"Warning shop/p spec.ingress[0].from[1].podSelector: the peer means nobody: there are no pods with app=prometheus of namespaces with team=storage, but 1 pod in namespace monitoring; does the selector of namespaces leave them out? [peer-matches-nothing]"}},
		{name: "two items that would be one", policies: from(`{podSelector: {matchLabels: {app: prometheus}}}, {namespaceSelector: {matchLabels: {team: operations}}}`), want: []string{
			"Warning shop/p spec.ingress[0].from[0].podSelector: there are no pods with app=prometheus of namespace shop; written as one list item with the namespaceSelector of spec.ingress[0].from[1], without a dash between the two, it would mean 1 pod of namespaces with team=operations [split-peer]"}},
		{name: "two items that are two", policies: from(`{podSelector: {matchLabels: {app: cart}}}, {namespaceSelector: {matchLabels: {team: operations}}}`)},
		{name: "two items that would be nobody as one", policies: from(`{podSelector: {matchLabels: {app: later}}}, {namespaceSelector: {matchLabels: {team: operations}}}`), want: []string{
			"Info shop/p spec.ingress[0].from[0].podSelector: the peer means nobody: there are no pods with app=later of namespace shop [peer-matches-nothing]"}},
		{name: "all peers", policies: from(`{podSelector: {matchLabels: {app: crat}}}`), want: []string{
			"Warning shop/p spec.ingress: no rule here means anybody, so that the policy's pods get nothing in this direction from it [allows-nothing]",
			"Warning shop/p spec.ingress[0].from[0].podSelector: the peer means nobody: there are no pods with app=crat of namespace shop: 1 pod has app=cart; did you mean that? [peer-matches-nothing]"}},
		{name: "nodes", policies: cnp("p", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{nodes: {matchLabels: {zone: alhpa}}}, {nodes: {matchLabels: {zone: beta}}}]}]}`), want: []string{
			"Warning ClusterNetworkPolicy p spec.egress[0].to[0].nodes: the peer means nobody: no node has zone=alhpa: 1 node has zone=alpha; did you mean that? [peer-matches-nothing]"}},
		{name: "a ClusterNetworkPolicy's pods", policies: cnp("p", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: prometeus}}}}]}]}`), want: []string{
			"Warning ClusterNetworkPolicy p spec.ingress[0].from[0].pods.podSelector: the peer means nobody: there are no pods with app=prometeus: 1 pod has app=prometheus; did you mean that? [peer-matches-nothing]"}},
	})
}

// TestFiles: what files leave out is not missed, and a letter that is wrong is wrong in files too.
func TestFiles(t *testing.T) {
	for _, c := range []lintCase{
		{name: "pods that are nowhere", policies: np("p", `{podSelector: {matchLabels: {app: later}}, ingress: [{from: [{podSelector: {matchLabels: {app: other}}}]}]}`)},
		{name: "a namespace that is nowhere", policies: "kind: NetworkPolicy\nmetadata: {namespace: elsewhere, name: p}\nspec: {podSelector: {}}"},
		{name: "a letter", policies: np("p", `{podSelector: {matchLabels: {app: webb}}}`), want: []string{
			"Warning shop/p spec.podSelector: the policy selects nothing: there are no pods with app=webb of namespace shop: 2 pods have app=web; did you mean that? [selects-nothing]"}},
		{name: "a namespace's letter", policies: "kind: NetworkPolicy\nmetadata: {namespace: monitorig, name: p}\nspec: {podSelector: {}}", want: []string{
			"Warning monitorig/p metadata.namespace: there are no pods of namespace monitorig; did you mean namespace monitoring? [selects-nothing]"}},
		{name: "a letter beside a namespace without pods", policies: "kind: NetworkPolicy\nmetadata: {namespace: emptyy, name: p}\nspec: {podSelector: {}}"},
		{name: "a named port of all pods", policies: np("p", `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: amqp}, {port: 53, protocol: UDP}]}]}`)},
		{name: "a named port of pods of any namespace", policies: np("p", `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}, {to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}], ports: [{port: amqp}]}]}`)},
		{name: "a letter in a named port of pods of any namespace", policies: np("p", `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}, {to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}], ports: [{port: htpp}]}]}`), want: []string{
			`Warning shop/p spec.egress[1].ports[0].port: none of the pods that the peers mean has a port named "htpp" of protocol TCP; did you mean "http"? [named-port]`}},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, clusterOf(t, false, world, c.policies), c.want) })
	}
}
