package manifests

import (
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/podfence/podfence/test/random"
)

// policyWith is a NetworkPolicy whose spec starts on line 4.
func policyWith(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\n" + spec
}

// errorsOf are the findings, without the file's name.
func errorsOf(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(strings.ReplaceAll(err.Error(), "f.yaml:", ""), "\n")
}

func TestParseRefuses(t *testing.T) {
	const db = "NetworkPolicy shop/db: "
	const reads = "podfence reads Pod, Namespace and Node of v1, NetworkPolicy of networking.k8s.io/v1, ClusterNetworkPolicy of policy.networking.k8s.io/v1beta1 and v1alpha2, and lists of these"
	const labelValue = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
	const badCIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
	const portNum = "must be between 1 and 65535, inclusive"
	rule := func(ports string) string {
		return policyWith("spec:\n  podSelector: {}\n  ingress:\n  - ports:\n" + ports)
	}
	from := func(peer string) string {
		return policyWith("spec:\n  podSelector: {}\n  ingress:\n  - from:\n    - podSelector: {}\n" + peer)
	}
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		// Syntax.
		"bad indentation":         {"a:\n  b: 1\n  c: 2\n d: 3\n", []string{"4: did not find expected key"}},
		"value too many":          {"a: 1\nb: c: d\n", []string{"2: mapping values are not allowed in this context"}},
		"value too many, first":   {"b: c: d\n", []string{"1: mapping values are not allowed in this context"}},
		"open quote":              {"a: 1\nb: \"x\nc: 1\n", []string{"2: found unexpected end of stream"}},
		"open quote on line 1":    {"b: \"x\nc: 1\n", []string{"1: found unexpected end of stream"}},
		"tab":                     {"a: 1\nb:\n\t- c\n", []string{"3: found character that cannot start any token"}},
		"no colon":                {"a: 1\nb\nc: 2\n", []string{"2: could not find expected ':'"}},
		"JSON without a comma":    {"{\n \"a\": [1,\n2],\n \"b\": 1\n \"c\": 2\n}\n", []string{"5: did not find expected ',' or '}'"}},
		"JSON, wrong bracket":     {"{\n \"a\": 1,\n \"b\": [1,2}\n}\n", []string{"3: did not find expected ',' or ']'"}},
		"second document":         {policyWith("") + "---\n\n@\n", []string{"6: found character that cannot start any token"}},
		"unknown anchor":          {"a: 1\n# *x\nb: *x\nc: 1\n", []string{"3: unknown anchor 'x' referenced"}},
		"control character":       {"a: 1\nb: \x01\n", []string{"2: control character U+0001 is not allowed"}},
		"not UTF-8":               {"a: 1\n\nb: \xff\n", []string{"3: not UTF-8"}},
		"tag":                     {"a: 1\nb: !!binary eA==\n", []string{"2: tag !!binary is not allowed here"}},
		"not a number":            {"a: 1\nb: .nan\n", []string{"2: .nan is not a number that JSON has"}},
		"field name is a list":    {"a: 1\n? [b]\n: c\n", []string{"2: a field's name must be a string, not a list"}},
		"merge of a number":       {"a: 1\n<<: 3\n", []string{"2: a merge needs an object or a list of objects"}},
		"anchor in itself":        {"a: 1\nb: &x [*x]\n", []string{"2: nested deeper than 200 levels"}},
		"nesting":                 {strings.Repeat("[", 300) + strings.Repeat("]", 300), []string{"1: nested deeper than 200 levels"}},
		"the library's own bound": {"a: 1\nb: " + strings.Repeat("[", 20000), []string{"2: exceeded max depth of 10000"}},

		// Kinds.
		"not an object":   {"- a\n", []string{"1: must be an object, not a list: " + reads}},
		"no kind":         {"---\n\nmetadata: {}\n", []string{"3: kind: Required value: " + reads}},
		"no apiVersion":   {"\nkind: Pod\n", []string{"2: apiVersion: Required value: " + reads}},
		"older kind":      {"apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n", []string{`2: kind: no kind "AdminNetworkPolicy" in version "policy.networking.k8s.io/v1alpha1": ` + reads}},
		"plural":          {"apiVersion: v1\nkind: Pods\n", []string{`2: kind: no kind "Pods" in version "v1": ` + reads}},
		"another's":       {"apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n", []string{`1: apiVersion: no kind "NetworkPolicy" in version "projectcalico.org/v3": ` + reads}},
		"other version":   {"kind: NetworkPolicy\napiVersion: extensions/v1beta1\n", []string{`2: apiVersion: no kind "NetworkPolicy" in version "extensions/v1beta1": ` + reads}},
		"misspelt kind":   {"apiVersion: networking.k8s.io/v1\nkind: Networkpolicy\n", []string{`2: kind: no kind "Networkpolicy" in version "networking.k8s.io/v1": ` + reads}},
		"item of a List":  {"apiVersion: v1\nkind: List\nitems:\n- metadata: {name: a}\n", []string{"4: kind: Required value: " + reads}},
		"null item":       {"apiVersion: v1\nkind: List\nitems:\n-\n", []string{"4: List: items[0]: Required value: the list item is empty"}},
		"other item":      {"apiVersion: v1\nkind: PodList\nitems:\n- {apiVersion: v1, kind: Node}\n", []string{"4: kind: a Node in a list of Pod"}},
		"items misspelt":  {"apiVersion: v1\nkind: PodList\nitem: []\n", []string{"3: PodList: item: unknown field"}},
		"kind is a list":  {"apiVersion: v1\nkind: [Pod]\n", []string{"2: kind: Required value: " + reads}},
		"duplicate kinds": {"apiVersion: v1\nkind: Namespace\nkind: Node\nmetadata: {name: a}\n", []string{"3: Namespace a: kind: duplicate field, first on line 2"}},

		// Fields.
		"unknown field": {policyWith("spec:\n  podSelector: {}\n  ingress:\n  - form:\n    - podSelector: {}\n"), []string{
			"7: " + db + "spec.ingress[0].form: unknown field"}},
		"field in the wrong case": {policyWith("Spec:\n  podSelector: {}\n"), []string{
			"4: " + db + "Spec: unknown field"}},
		"duplicate field": {policyWith("spec:\n  podSelector: {}\n  ingress: []\n  podSelector: {}\n"), []string{
			"7: " + db + "spec.podSelector: duplicate field, first on line 5"}},
		"wrong types, all of them": {policyWith("spec:\n  podSelector:\n    matchLabels:\n      app: db\n      tier:\n        1\n      new: yes\n  ingress: {}\n  policyTypes: Ingress\n"), []string{
			"9: " + db + "spec.podSelector.matchLabels[tier]: Invalid value: 1: must be a string, not a number",
			"10: " + db + "spec.podSelector.matchLabels[new]: Invalid value: true: must be a string, not a boolean",
			"11: " + db + "spec.ingress: Invalid value: must be a list, not an object",
			`12: ` + db + `spec.policyTypes: Invalid value: "Ingress": must be a list, not a string`}},
		"null rule": {policyWith("spec:\n  podSelector: {}\n  ingress:\n  -\n"), []string{
			"7: " + db + "spec.ingress[0]: Required value: the list item is empty"}},
		"port of another type": {rule("    - port: 80.5\n    - port: 4294967376\n    - {}\n    - port: [80]\n    - endPort: 5000000000\n"), []string{
			"8: " + db + "spec.ingress[0].ports[0].port: Invalid value: 80.5: must be an integer of 32 bits or a string",
			"9: " + db + "spec.ingress[0].ports[1].port: Invalid value: 4294967376: must be an integer of 32 bits or a string",
			"11: " + db + "spec.ingress[0].ports[3].port: Invalid value: must be an integer of 32 bits or a string",
			"12: " + db + "spec.ingress[0].ports[4].endPort: Invalid value: 5000000000: must be an integer of 32 bits"}},
		"time": {"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  creationTimestamp: today\n", []string{
			`5: Namespace a: metadata.creationTimestamp: Invalid value: "today": must be a time such as 2006-01-02T15:04:05Z`}},
		"JSON, unknown and mistyped": {"{\n\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\"metadata\": {\n\t\"name\": \"a\",\n\t\"nmespace\": \"b\"},\n\"spec\": {\n\"hostNetwork\":\n\"true\"}}", []string{
			"5: Pod default/a: metadata.nmespace: unknown field",
			`8: Pod default/a: spec.hostNetwork: Invalid value: "true": must be a boolean, not a string`}},
		"through an alias": {policyWith("spec:\n  podSelector: {}\n  ingress:\n  - from: &peers\n    - ipBlock: {cidr: 10.0.0.0/33}\n  egress:\n  - to: *peers\n"), []string{
			"8: " + db + `spec.egress[0].to[0].ipBlock.cidr: Invalid value: "10.0.0.0/33": ` + badCIDR,
			"8: " + db + `spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.0/33": ` + badCIDR}},

		// Metadata.
		"no name":                    {"apiVersion: v1\nkind: Pod\nmetadata:\n  generateName: a-\n", []string{"3: Pod: metadata.name: Required value: nothing generates one here"}},
		"namespace of a node":        {"apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n  namespace: b\n", []string{"5: Node a: metadata.namespace: Forbidden: not allowed on this type"}},
		"name of a pod":              {"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a_b\n", []string{"4: Pod default/a_b: metadata.name: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"}},
		"name of a namespace":        {"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a_b\n", []string{"4: Namespace a_b: metadata.name: Invalid value: \"a_b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"}},
		"labels, each with its line": {"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels:\n    x.io/a: ok\n    x.io/b: no!\n    x.io/c: no!\n", []string{`7: Namespace a: metadata.labels: Invalid value: "no!": ` + labelValue, `8: Namespace a: metadata.labels: Invalid value: "no!": ` + labelValue}},
		"duplicate object":           {"apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: Node\nmetadata: {name: a}\n", []string{`8: Node a: metadata.name: Duplicate value: "a": the same object is at 4`}},

		// Policies.
		"selector": {policyWith("spec:\n  podSelector:\n    matchLabels:\n      a: b\n      c: no!\n    matchExpressions:\n    - {key: a, operator: in, values: [b]}\n    - {key: a, operator: In}\n    - {key: a, operator: Exists, values: [b]}\n    - key: a\n      operator: NotIn\n      values:\n      - b\n      - no!\n"), []string{
			"8: " + db + `spec.podSelector.matchLabels: Invalid value: "no!": ` + labelValue,
			"10: " + db + `spec.podSelector.matchExpressions[0].operator: Invalid value: "in": not a valid selector operator`,
			"11: " + db + "spec.podSelector.matchExpressions[1].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
			"12: " + db + "spec.podSelector.matchExpressions[2].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
			"17: " + db + `spec.podSelector.matchExpressions[3].values[1]: Invalid value: "no!": ` + labelValue}},
		"policyTypes": {policyWith("spec:\n  podSelector: {}\n  policyTypes:\n  - Ingress\n  - egress\n"), []string{
			"8: " + db + `spec.policyTypes[1]: Unsupported value: "egress": supported values: "Ingress", "Egress"`}},
		"three policyTypes": {policyWith("spec:\n  podSelector: {}\n  policyTypes: [Ingress, Egress, Ingress]\n"), []string{
			"6: " + db + `spec.policyTypes: Invalid value: ["Ingress","Egress","Ingress"]: may not specify more than two policyTypes`}},
		"ports": {rule("    - {protocol: tcp, port: 0}\n    - port: 65536\n    - port: Upper_\n    - {port: 80, endPort: 79}\n    - {port: web, endPort: 80}\n    - endPort: 80\n    - port: 80\n      endPort: 65536\n"), []string{
			"8: " + db + `spec.ingress[0].ports[0].port: Invalid value: 0: ` + portNum,
			"8: " + db + `spec.ingress[0].ports[0].protocol: Unsupported value: "tcp": supported values: "TCP", "UDP", "SCTP"`,
			"9: " + db + `spec.ingress[0].ports[1].port: Invalid value: 65536: ` + portNum,
			"10: " + db + `spec.ingress[0].ports[2].port: Invalid value: "Upper_": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`,
			"11: " + db + "spec.ingress[0].ports[3].endPort: Invalid value: 79: must be greater than or equal to `port`",
			"12: " + db + "spec.ingress[0].ports[4].endPort: Invalid value: 80: may not be specified when `port` is non-numeric",
			"13: " + db + "spec.ingress[0].ports[5].endPort: Invalid value: 80: may not be specified when `port` is not specified",
			"15: " + db + `spec.ingress[0].ports[6].endPort: Invalid value: 65536: ` + portNum}},
		"peers": {from("    - {}\n    - podSelector:\n    - podSelector: {}\n      ipBlock: {cidr: 10.0.0.0/8}\n    - ipBlock: {}\n"), []string{
			"9: " + db + "spec.ingress[0].from[1]: Required value: must specify a peer",
			"10: " + db + "spec.ingress[0].from[2]: Required value: must specify a peer",
			"11: " + db + "spec.ingress[0].from[3]: Forbidden: may not specify both ipBlock and another peer",
			"13: " + db + "spec.ingress[0].from[4].ipBlock.cidr: Required value"}},
		"ipBlock": {from("    - ipBlock:\n        cidr: 10.0.0.0/8\n        except:\n        - 10.1.0.0/16\n        - 10.0.0.0/8\n        - 11.0.0.0/16\n        - 10.0.0.0/7\n        - 2001:db8::/32\n        - 10.1.0.0\n    - ipBlock:\n        cidr:\n          300.0.0.0/8\n"), []string{
			"13: " + db + `spec.ingress[0].from[1].ipBlock.except[1]: Invalid value: "10.0.0.0/8": must be a strict subset of ` + "`cidr`",
			"14: " + db + `spec.ingress[0].from[1].ipBlock.except[2]: Invalid value: "11.0.0.0/16": must be a strict subset of ` + "`cidr`",
			"15: " + db + `spec.ingress[0].from[1].ipBlock.except[3]: Invalid value: "10.0.0.0/7": must be a strict subset of ` + "`cidr`",
			"16: " + db + `spec.ingress[0].from[1].ipBlock.except[4]: Invalid value: "2001:db8::/32": must be a strict subset of ` + "`cidr`",
			"17: " + db + `spec.ingress[0].from[1].ipBlock.except[5]: Invalid value: "10.1.0.0": ` + badCIDR,
			"20: " + db + `spec.ingress[0].from[2].ipBlock.cidr: Invalid value: "300.0.0.0/8": ` + badCIDR}},
		"egress": {policyWith("spec:\n  podSelector: {}\n  egress:\n  - ports: [{port: 0}]\n    to:\n    - {}\n"), []string{
			"7: " + db + "spec.egress[0].ports[0].port: Invalid value: 0: " + portNum,
			"9: " + db + "spec.egress[0].to[0]: Required value: must specify a peer"}},

		// Pods and nodes.
		"pod": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  initContainers:\n  - ports:\n    - {name: -, containerPort: 65616}\n  containers:\n  - ports:\n    - {name: web, protocol: HTTP}\nstatus:\n  podIP: 10.0.0.1\n  podIPs:\n  - ip: 10.0.0.2\n  - ip: 10.0.0.300\n  - ip: ::ffff:10.0.0.4\n", []string{
			"7: Pod default/a: spec.initContainers[0].ports[0].containerPort: Invalid value: 65616: " + portNum,
			`7: Pod default/a: spec.initContainers[0].ports[0].name: Invalid value: "-": must contain at least one letter (a-z)`,
			`7: Pod default/a: spec.initContainers[0].ports[0].name: Invalid value: "-": must not begin or end with a hyphen`,
			"10: Pod default/a: spec.containers[0].ports[0].containerPort: Required value",
			`10: Pod default/a: spec.containers[0].ports[0].protocol: Unsupported value: "HTTP": supported values: "TCP", "UDP", "SCTP"`,
			`13: Pod default/a: status.podIPs: Invalid value: [{"ip":"10.0.0.2"},{"ip":"10.0.0.300"},{"ip":"::ffff:10.0.0.4"}]: may specify no more than one IP for each IP family`,
			"14: Pod default/a: status.podIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `podIP`",
			`15: Pod default/a: status.podIPs[1].ip: Invalid value: "10.0.0.300": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`}},
		"pod with podIP only": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus:\n  podIP: ten\n", []string{
			`5: Pod default/a: status.podIP: Invalid value: "ten": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`}},
		"node": {"apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec:\n  podCIDR: 10.0.0.0/24\n  podCIDRs:\n  - 10.0.1.0/24\n  - 10.0.2.0/24\n  - fd00::/129\n", []string{
			`6: Node a: spec.podCIDRs: Invalid value: ["10.0.1.0/24","10.0.2.0/24","fd00::/129"]: may specify no more than one CIDR for each IP family`,
			"7: Node a: spec.podCIDRs[0]: Invalid value: \"10.0.1.0/24\": must be equal to `podCIDR`",
			`9: Node a: spec.podCIDRs[2]: Invalid value: "fd00::/129": ` + badCIDR}},
		"node with podCIDR only": {"apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDR: x}\n", []string{
			`4: Node a: spec.podCIDR: Invalid value: "x": ` + badCIDR}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse("f.yaml", []byte(c.in))
			if errs := errorsOf(err); !slices.Equal(errs, c.want) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(errs, "\n"), strings.Join(c.want, "\n"))
			}
			if len(got.Nodes)+len(got.Namespaces)+len(got.Pods)+len(got.Policies)+len(got.ClusterPolicies) > 0 {
				t.Errorf("part of a refused file was handed out: %v", got)
			}
		})
	}
}

// TestParseRefusesBombs: nine levels of nine aliases are 387 million strings.
func TestParseRefusesBombs(t *testing.T) {
	bomb := "a0: &a0 lol\n"
	for i := 1; i <= 9; i++ {
		n := string(rune('0' + i))
		p := string(rune('0' + i - 1))
		bomb += "a" + n + ": &a" + n + " [" + strings.Repeat("*a"+p+",", 9) + "]\n"
	}
	merges := strings.NewReplacer("[", "{<<: [", "]", "]}", "lol", "{k: v}").Replace(bomb)
	for name, in := range map[string]string{"lists": bomb, "merges": merges, "one long string": "a: &x " + strings.Repeat("y", 1<<20) + "\nb: [*x, *x, *x, *x, *x]\n"} {
		_, err := Parse("f.yaml", []byte(in))
		if got := errorsOf(err); len(got) != 1 || !strings.HasSuffix(got[0], ": document contains excessive aliasing") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseBoundsFindings(t *testing.T) {
	_, err := Parse("f.yaml", []byte(strings.Repeat("---\na: 1\n", maxFindings+5)))
	got := errorsOf(err)
	if len(got) != maxFindings+1 || got[maxFindings] != "and 5 more" {
		t.Errorf("%d findings, the last %q", len(got), got[len(got)-1])
	}
}

func TestParseDefaults(t *testing.T) {
	const in = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: empty}
spec: {podSelector: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: both, namespace: shop}
spec:
  podSelector: &all {}
  egress:
  - ports: [{port: 53, protocol: UDP}, {port: dns}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: none, namespace: shop}
spec: {podSelector: {}, egress: [], ingress: [{ports: [{}]}]}
---
---
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {kubernetes.io/metadata.name: other, a: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: new}
spec: {containers: [{ports: [{containerPort: 80}]}]}
`
	got, err := Parse("f.yaml", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	types := map[string][]networkingv1.PolicyType{}
	for _, p := range got.Policies {
		types[p.Namespace+"/"+p.Name] = p.Spec.PolicyTypes
	}
	for name, want := range map[string][]networkingv1.PolicyType{"default/empty": {"Ingress"}, "shop/both": {"Ingress", "Egress"}, "shop/none": {"Ingress"}} {
		if !slices.Equal(types[name], want) {
			t.Errorf("%s has policyTypes %v, want %v", name, types[name], want)
		}
	}
	both, none := got.Policies[1], got.Policies[2]
	if ports := both.Spec.Egress[0].Ports; *ports[0].Protocol != "UDP" || *ports[1].Protocol != "TCP" {
		t.Errorf("ports %v", ports)
	}
	if *none.Spec.Ingress[0].Ports[0].Protocol != "TCP" {
		t.Error("a port without anything has no protocol")
	}
	if got.Pods[0].Spec.Containers[0].Ports[0].Protocol != "TCP" {
		t.Error("a container's port has no protocol")
	}
	var namespaces []string
	for _, ns := range got.Namespaces {
		namespaces = append(namespaces, ns.Name)
		if ns.Labels["kubernetes.io/metadata.name"] != ns.Name || (ns.Name != "web" && len(ns.Labels) != 1) {
			t.Errorf("namespace %s has labels %v", ns.Name, ns.Labels)
		}
	}
	if want := []string{"default", "new", "shop", "web"}; !slices.Equal(namespaces, want) {
		t.Errorf("namespaces %v, want %v", namespaces, want)
	}
}

// TestParseReadsAsKubectl: what kubectl's YAML library makes of scalars, keys,
// merges and JSON.
func TestParseReadsAsKubectl(t *testing.T) {
	const in = `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"json","labels":{"a":"\u0062"},
"annotations":{"pair":"\ud83d\ude00","not":"\\ud83d\\ude00","slash":"\/"}}}`
	got, err := Parse("f.json", []byte("\ufeff"+in))
	if err != nil {
		t.Fatal(err)
	}
	pod := got.Namespaces[0]
	if pod.Labels["a"] != "b" || pod.Annotations["pair"] != "😀" || pod.Annotations["not"] != `\ud83d\ude00` || pod.Annotations["slash"] != "/" {
		t.Errorf("read %v %v", pod.Labels, pod.Annotations)
	}

	const merged = `
apiVersion: v1
kind: PodList
metadata: {resourceVersion: "1"}
items:
- metadata:
    name: a
    labels: &labels {app: web, 1: "yes", "on": "0x10", date: 2020-01-01}
  spec: {hostNetwork: yes}
- metadata:
    name: b
    labels: {<<: [*labels, {app: z, tier: x}], app: db}
`
	got, err = Parse("f.yaml", []byte(merged))
	if err != nil {
		t.Fatal(err)
	}
	if labels := got.Pods[0].Labels; labels["1"] != "yes" || labels["on"] != "0x10" || labels["date"] != "2020-01-01" || !got.Pods[0].Spec.HostNetwork {
		t.Errorf("read %v", got.Pods[0])
	}
	if labels := got.Pods[1].Labels; labels["app"] != "db" || labels["tier"] != "x" || labels["1"] != "yes" || len(labels) != 5 {
		t.Errorf("merged %v", labels)
	}
	if got.Pods[1].Kind != "Pod" || got.Pods[1].APIVersion != "v1" {
		t.Errorf("an item of a PodList is %v", got.Pods[1].TypeMeta)
	}
}

// TestParseEmpty: nothing is a valid nothing.
func TestParseEmpty(t *testing.T) {
	for _, in := range []string{"", "\n", "# only\n", "---\n---\n# a\n", "null\n", "--- ~\n", "apiVersion: v1\nkind: List\nitems: []\n", "apiVersion: v1\nkind: List\n"} {
		got, err := Parse("f.yaml", []byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if random.Objects(got) != nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}
