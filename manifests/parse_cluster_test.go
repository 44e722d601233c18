package manifests

import (
	"fmt"
	"maps"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// clusterPolicyWith is a ClusterNetworkPolicy whose spec starts on line 4.
func clusterPolicyWith(spec string) string {
	return "apiVersion: policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: all}\n" + spec
}

// specWith is one whose rules start on line 8.
func specWith(rules string) string {
	return clusterPolicyWith("spec:\n  tier: Admin\n  priority: 10\n  subject: {namespaces: {}}\n" + rules)
}

// ingressWith and egressWith are each one with a rule, whose action is on line 9.
func ingressWith(rule string) string {
	return specWith("  ingress:\n  - action: Accept\n" + indented(rule))
}

func egressWith(rule string) string {
	return specWith("  egress:\n  - action: Accept\n" + indented(rule))
}

func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ") + "\n"
}

// with25 and with26 are lists of as many items as a list may have, and of one more.
func with25(item func(i int) string) string { return listOf(25, item) }
func with26(item func(i int) string) string { return listOf(26, item) }

func listOf(n int, item func(i int) string) string {
	var items []string
	for i := range n {
		items = append(items, item(i))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// refusedClusterPolicies are what no API server takes that has the CustomResourceDefinition's
// experimental channel, and what is said of them.
func refusedClusterPolicies() map[string]refusal {
	const all = "ClusterNetworkPolicy all: "
	const portNum = "must be between 1 and 65535, inclusive"
	const fewPeers, morePeers = "`namespaces`, `pods`", "`namespaces`, `pods`, `nodes`, `networks`, `domainNames`"
	const protocols = "`tcp`, `udp`, `sctp`, `destinationNamedPort`"
	const named = "may not be specified with `networks`, `nodes` or `domainNames` in `to`, where ports have no names"
	const domain = "must be a domain name, or one behind `*.`, such as example.com or *.example.com"
	return map[string]refusal{
		// Metadata and versions.
		"in a namespace": {strings.Replace(specWith(""), "{name: all}", "{name: all, namespace: shop}", 1), []string{
			"3: " + all + "metadata.namespace: Forbidden: not allowed on this type"}},
		"no name": {strings.Replace(specWith(""), "{name: all}", "{labels: {}}", 1), []string{
			"3: ClusterNetworkPolicy: metadata.name: Required value: nothing generates one here"}},
		"label": {strings.Replace(specWith(""), "{name: all}", "{name: all, labels: {-: a}}", 1), []string{
			"3: " + all + `metadata.labels: Invalid value: "-": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`}},
		"another version": {strings.Replace(specWith(""), "v1beta1", "v1alpha1", 1), []string{
			`1: apiVersion: no kind "ClusterNetworkPolicy" in version "policy.networking.k8s.io/v1alpha1": ` + readsEnforced}},
		"an older kind": {"apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n", []string{
			`2: kind: no kind "AdminNetworkPolicy" in version "policy.networking.k8s.io/v1alpha1": ` + readsEnforced}},

		// Fields.
		"unknown fields": {specWith("  ingres: []\n  egress:\n  - action: Deny\n    to: [{namespaces: {}, namespace: {}}]\n    ports: []\n"), []string{
			"8: " + all + "spec.ingres: unknown field",
			"11: " + all + "spec.egress[0].to[0].namespace: unknown field",
			"12: " + all + "spec.egress[0].ports: unknown field"}},
		"egress's peer in ingress": {ingressWith("from:\n- networks: [10.0.0.0/8]\n"), []string{
			"11: " + all + "spec.ingress[0].from[0].networks: unknown field",
			"11: " + all + "spec.ingress[0].from[0]: Required value: must specify one of " + fewPeers}},
		"wrong types": {clusterPolicyWith("spec:\n  tier: 1\n  priority: high\n  subject: []\n  ingress: {}\n"), []string{
			"5: " + all + "spec.tier: Invalid value: 1: must be a string, not a number",
			`6: ` + all + `spec.priority: Invalid value: "high": must be a number, not a string`,
			"7: " + all + "spec.subject: Invalid value: must be an object, not a list",
			"8: " + all + "spec.ingress: Invalid value: must be a list, not an object"}},
		"null in a list": {egressWith("to:\n- namespaces: {}\n-\n"), []string{
			"12: " + all + "spec.egress[0].to[1]: Required value: must specify one of " + morePeers,
			"12: " + all + "spec.egress[0].to[1]: Required value: the list item is empty"}},

		// The spec.
		"no spec": {clusterPolicyWith(""), []string{"1: " + all + "spec: Required value"}},
		"empty spec": {clusterPolicyWith("spec: {}\n"), []string{
			"4: " + all + "spec.priority: Required value",
			"4: " + all + "spec.subject: Required value",
			"4: " + all + "spec.tier: Required value"}},
		"null is nothing": {clusterPolicyWith("spec:\n  tier:\n  priority: null\n  subject: ~\n"), []string{
			"5: " + all + "spec.tier: Required value",
			"6: " + all + "spec.priority: Required value",
			"7: " + all + "spec.subject: Required value"}},
		"tier": {strings.Replace(specWith(""), "Admin", "NetworkPolicy", 1), []string{
			"5: " + all + `spec.tier: Unsupported value: "NetworkPolicy": supported values: "Admin", "Baseline"`}},
		"priority too high": {strings.Replace(specWith(""), "10", "1001", 1), []string{
			"6: " + all + "spec.priority: Invalid value: 1001: must be between 0 and 1000, inclusive"}},
		"priority too low": {strings.Replace(specWith(""), "10", "-1", 1), []string{
			"6: " + all + "spec.priority: Invalid value: -1: must be between 0 and 1000, inclusive"}},
		"priority of 64 bits": {strings.Replace(specWith(""), "10", "4294967306", 1), []string{
			"6: " + all + "spec.priority: Invalid value: 4294967306: must be an integer of 32 bits"}},
		"no subject": {strings.Replace(specWith(""), "{namespaces: {}}", "{}", 1), []string{
			"7: " + all + "spec.subject: Required value: must specify one of " + fewPeers}},
		"two subjects": {strings.Replace(specWith(""), "{namespaces: {}}", "{namespaces: {}, pods: {podSelector: {}}}", 1), []string{
			"7: " + all + "spec.subject: Forbidden: may not specify more than one of " + fewPeers}},
		"subject without podSelector": {strings.Replace(specWith(""), "{namespaces: {}}", "{pods: {namespaceSelector: {}}}", 1), []string{
			"7: " + all + "spec.subject.pods.podSelector: Required value"}},
		"26 rules": {specWith("  ingress: " + with26(func(int) string { return "{action: Deny, from: [{namespaces: {}}]}" }) +
			"\n  egress: " + with26(func(int) string { return "{action: Deny, to: [{namespaces: {}}]}" }) + "\n"), []string{
			"8: " + all + "spec.ingress: Too many: 26: must have at most 25 items",
			"9: " + all + "spec.egress: Too many: 26: must have at most 25 items"}},

		// Rules.
		"empty rules": {specWith("  ingress:\n  - {}\n  egress:\n  - {}\n"), []string{
			"9: " + all + "spec.ingress[0].action: Required value",
			"9: " + all + "spec.ingress[0].from: Required value",
			"11: " + all + "spec.egress[0].action: Required value",
			"11: " + all + "spec.egress[0].to: Required value"}},
		"no items": {specWith("  ingress:\n  - action: Deny\n    from: []\n    protocols: []\n  egress:\n  - action: Deny\n    to: []\n    protocols: []\n"), []string{
			"10: " + all + "spec.ingress[0].from: Required value: must have at least one item",
			"11: " + all + "spec.ingress[0].protocols: Required value: must have at least one item",
			"14: " + all + "spec.egress[0].to: Required value: must have at least one item",
			"15: " + all + "spec.egress[0].protocols: Required value: must have at least one item"}},
		"actions": {specWith("  ingress:\n  - {action: Allow, from: [{namespaces: {}}]}\n  egress:\n  - {action: deny, to: [{namespaces: {}}]}\n  - {action: '', to: [{namespaces: {}}]}\n"), []string{
			"9: " + all + `spec.ingress[0].action: Unsupported value: "Allow": supported values: "Accept", "Deny", "Pass"`,
			"11: " + all + `spec.egress[0].action: Unsupported value: "deny": supported values: "Accept", "Deny", "Pass"`,
			"12: " + all + `spec.egress[1].action: Unsupported value: "": supported values: "Accept", "Deny", "Pass"`}},
		"long name": {egressWith("to: [{namespaces: {}}]\nname: " + strings.Repeat("ä", 101) + "\n"), []string{
			"11: " + all + "spec.egress[0].name: Too long: may not be more than 100 characters"}},
		"26 of each": {egressWith("to: " + with26(func(int) string { return "{namespaces: {}}" }) + "\nprotocols: " + with26(func(i int) string { return fmt.Sprintf("{tcp: {destinationPort: {number: %d}}}", i+1) })), []string{
			"10: " + all + "spec.egress[0].to: Too many: 26: must have at most 25 items",
			"11: " + all + "spec.egress[0].protocols: Too many: 26: must have at most 25 items"}},

		// Peers.
		"peers": {egressWith("to:\n- {}\n- {namespaces: {}, nodes: {}}\n- {pods: {}}\n- {namespaces: ~}\n"), []string{
			"11: " + all + "spec.egress[0].to[0]: Required value: must specify one of " + morePeers,
			"12: " + all + "spec.egress[0].to[1]: Forbidden: may not specify more than one of " + morePeers,
			"13: " + all + "spec.egress[0].to[2].pods.podSelector: Required value",
			"14: " + all + "spec.egress[0].to[3]: Required value: must specify one of " + morePeers}},
		"peers of ingress": {ingressWith("from:\n- {}\n- {namespaces: {}, pods: {podSelector: {}}}\n- pods: {namespaceSelector: {}}\n"), []string{
			"11: " + all + "spec.ingress[0].from[0]: Required value: must specify one of " + fewPeers,
			"12: " + all + "spec.ingress[0].from[1]: Forbidden: may not specify more than one of " + fewPeers,
			"13: " + all + "spec.ingress[0].from[2].pods.podSelector: Required value"}},
		"networks": {egressWith("to:\n- networks:\n  - 10.0.0.0\n  - 10.0.0.300/24\n  - 10.0.0.1/24\n  - 010.0.0.0/8\n  - 10.0.0.0/08\n  - ::ffff:10.0.0.0/104\n  - fe80::%eth0/64\n  - 2001:0db8:0000:0000:0000:0000:192.168.100.100/128\n  - ''\n"), []string{
			"12: " + all + `spec.egress[0].to[0].networks[0]: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`,
			"13: " + all + `spec.egress[0].to[0].networks[1]: Invalid value: "10.0.0.300/24": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`,
			"14: " + all + `spec.egress[0].to[0].networks[2]: Invalid value: "10.0.0.1/24": must not have bits set beyond the prefix length`,
			"15: " + all + `spec.egress[0].to[0].networks[3]: Invalid value: "010.0.0.0/8": must not have leading 0s in IP or prefix length`,
			"16: " + all + `spec.egress[0].to[0].networks[4]: Invalid value: "10.0.0.0/08": must not have leading 0s in IP or prefix length`,
			"17: " + all + `spec.egress[0].to[0].networks[5]: Invalid value: "::ffff:10.0.0.0/104": must not have an IPv4-mapped IPv6 address`,
			"18: " + all + `spec.egress[0].to[0].networks[6]: Invalid value: "fe80::%eth0/64": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`,
			"19: " + all + "spec.egress[0].to[0].networks[7]: Too long: may not be more than 43 characters",
			"20: " + all + `spec.egress[0].to[0].networks[8]: Invalid value: "": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`}},
		"networks, none and twice": {egressWith("to:\n- networks: []\n- networks:\n  - 10.0.0.0/8\n  - fd00::/8\n  - 10.0.0.0/8\n"), []string{
			"11: " + all + "spec.egress[0].to[0].networks: Required value: must have at least one item",
			"15: " + all + `spec.egress[0].to[1].networks[2]: Duplicate value: "10.0.0.0/8"`}},
		"26 networks": {egressWith("to:\n- networks: " + with26(func(i int) string { return fmt.Sprintf("10.%d.0.0/16", i) })), []string{
			"11: " + all + "spec.egress[0].to[0].networks: Too many: 26: must have at most 25 items"}},
		"domainNames": {egressWith("to:\n- domainNames: [example]\n- domainNames:\n  - '*'\n  - a.*.example\n  - -a.example\n  - a.example\n  - a.example\n- domainNames: []\n"), []string{
			"11: " + all + `spec.egress[0].to[0].domainNames[0]: Invalid value: "example": ` + domain,
			"13: " + all + `spec.egress[0].to[1].domainNames[0]: Invalid value: "*": ` + domain,
			"14: " + all + `spec.egress[0].to[1].domainNames[1]: Invalid value: "a.*.example": ` + domain,
			"15: " + all + `spec.egress[0].to[1].domainNames[2]: Invalid value: "-a.example": ` + domain,
			"17: " + all + `spec.egress[0].to[1].domainNames[4]: Duplicate value: "a.example"`,
			"18: " + all + "spec.egress[0].to[2].domainNames: Required value: must have at least one item"}},
		"26 domainNames": {egressWith("to:\n- domainNames: " + with26(func(i int) string { return fmt.Sprintf("a%d.example", i) })), []string{
			"11: " + all + "spec.egress[0].to[0].domainNames: Too many: 26: must have at most 25 items"}},
		"operators without a key": {egressWith("to:\n- nodes: {matchExpressions: [{operator: Exists}]}\n"), []string{
			"11: " + all + "spec.egress[0].to[0].nodes.matchExpressions[0].key: Invalid value: \"\": name part must be non-empty",
			"11: " + all + "spec.egress[0].to[0].nodes.matchExpressions[0].key: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"}},

		// Protocols.
		"protocols": {egressWith("to: [{namespaces: {}}]\nprotocols:\n- {}\n- {tcp: {}}\n- {tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}\n- {udp: {destinationPort: {}}}\n- {sctp: {destinationPort: {number: 0}}}\n- {sctp: {destinationPort: {number: 65536}}}\n- {tcp: {destinationPort: {number: 80, range: {start: 1, end: 2}}}}\n- {destinationNamedPort: web, tcp: {destinationPort: {number: 1}}}\n- {udp: {destinationPort: {number: -1}}}\n"), []string{
			"12: " + all + "spec.egress[0].protocols[0]: Required value: must specify one of " + protocols,
			"13: " + all + "spec.egress[0].protocols[1].tcp.destinationPort: Required value",
			"14: " + all + "spec.egress[0].protocols[2]: Forbidden: may not specify more than one of " + protocols,
			"15: " + all + "spec.egress[0].protocols[3].udp.destinationPort: Required value: must specify one of `number`, `range`",
			"16: " + all + "spec.egress[0].protocols[4].sctp.destinationPort.number: Invalid value: 0: " + portNum,
			"17: " + all + "spec.egress[0].protocols[5].sctp.destinationPort.number: Invalid value: 65536: " + portNum,
			"18: " + all + "spec.egress[0].protocols[6].tcp.destinationPort: Forbidden: may not specify more than one of `number`, `range`",
			"19: " + all + "spec.egress[0].protocols[7]: Forbidden: may not specify more than one of " + protocols,
			"20: " + all + "spec.egress[0].protocols[8].udp.destinationPort.number: Invalid value: -1: " + portNum}},
		"ranges": {ingressWith("from: [{namespaces: {}}]\nprotocols:\n- tcp: {destinationPort: {range: {start: 80}}}\n- tcp: {destinationPort: {range: {}}}\n- udp: {destinationPort: {range: {start: 80, end: 80}}}\n- sctp:\n    destinationPort:\n      range:\n        start: 81\n        end: 80\n- tcp: {destinationPort: {range: {start: 0, end: 65536}}}\n"), []string{
			"12: " + all + "spec.ingress[0].protocols[0].tcp.destinationPort.range.end: Required value",
			"13: " + all + "spec.ingress[0].protocols[1].tcp.destinationPort.range.end: Required value",
			"13: " + all + "spec.ingress[0].protocols[1].tcp.destinationPort.range.start: Required value",
			"14: " + all + "spec.ingress[0].protocols[2].udp.destinationPort.range.end: Invalid value: 80: must be greater than `start`",
			"19: " + all + "spec.ingress[0].protocols[3].sctp.destinationPort.range.end: Invalid value: 80: must be greater than `start`",
			"20: " + all + "spec.ingress[0].protocols[4].tcp.destinationPort.range.end: Invalid value: 65536: " + portNum,
			"20: " + all + "spec.ingress[0].protocols[4].tcp.destinationPort.range.start: Invalid value: 0: " + portNum}},
		"port names of networks": {egressWith("to:\n- namespaces: {}\n- networks: [10.0.0.0/8]\nprotocols:\n- tcp: {destinationPort: {number: 1}}\n- destinationNamedPort: web\n"), []string{
			"15: " + all + "spec.egress[0].protocols[1].destinationNamedPort: Forbidden: " + named}},
		"port names of nodes": {egressWith("to:\n- nodes: {}\nprotocols:\n- destinationNamedPort: web\n"), []string{
			"13: " + all + "spec.egress[0].protocols[0].destinationNamedPort: Forbidden: " + named}},
		"port names of domains": {egressWith("to:\n- domainNames: [a.example]\nprotocols:\n- destinationNamedPort: web\n"), []string{
			"13: " + all + "spec.egress[0].protocols[0].destinationNamedPort: Forbidden: " + named}},
	}
}

// unheededClusterPolicies are what an API server takes, though it says nothing, or not what its
// author has meant.
func unheededClusterPolicies() map[string]refusal {
	const all = "ClusterNetworkPolicy all: "
	const labelValue = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
	return map[string]refusal{
		"selectors": {clusterPolicyWith("spec:\n  tier: Admin\n  priority: 0\n  subject:\n    pods:\n      namespaceSelector:\n        matchExpressions:\n        - {key: a, operator: in, values: [b]}\n      podSelector:\n        matchLabels:\n          a: b\n          c: no!\n" +
			"  ingress:\n  - action: Deny\n    from:\n    - namespaces: {matchExpressions: [{key: a, operator: In}]}\n  egress:\n  - action: Deny\n    to:\n    - nodes: {matchLabels: {a: no!}}\n"), []string{
			"11: " + all + `spec.subject.pods.namespaceSelector.matchExpressions[0].operator: Invalid value: "in": not a valid selector operator`,
			"15: " + all + `spec.subject.pods.podSelector.matchLabels: Invalid value: "no!": ` + labelValue,
			"19: " + all + "spec.ingress[0].from[0].namespaces.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
			"23: " + all + `spec.egress[0].to[0].nodes.matchLabels: Invalid value: "no!": ` + labelValue}},
		"a label that is null": {strings.Replace(specWith(""), "{namespaces: {}}", "{namespaces: {matchLabels: {tenant.example/name: , team: ''}}}", 1), []string{
			"7: " + all + `spec.subject.namespaces.matchLabels[tenant.example/name]: Required value: the API server leaves out a label that is null; an empty value is ""`}},
		"port names": {ingressWith("from: [{namespaces: {}}]\nprotocols:\n- destinationNamedPort: HTTP\n- destinationNamedPort: ''\n"), []string{
			"12: " + all + `spec.ingress[0].protocols[0].destinationNamedPort: Invalid value: "HTTP": must contain at least one letter (a-z)`,
			"12: " + all + `spec.ingress[0].protocols[0].destinationNamedPort: Invalid value: "HTTP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`,
			"13: " + all + `spec.ingress[0].protocols[1].destinationNamedPort: Invalid value: "": must contain at least one letter (a-z)`,
			"13: " + all + `spec.ingress[0].protocols[1].destinationNamedPort: Invalid value: "": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`}},
	}
}

// refusal is a manifest, and what is said of it.
type refusal struct {
	in   string
	want []string
}

func TestParseRefusesClusterPolicies(t *testing.T) {
	all := refusedClusterPolicies()
	maps.Copy(all, unheededClusterPolicies())
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			got, err := Parse("f.yaml", []byte(c.in))
			if errs := errorsOf(err); !slices.Equal(errs, c.want) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(errs, "\n"), strings.Join(c.want, "\n"))
			}
			if len(got.ClusterPolicies) > 0 {
				t.Errorf("a refused policy was handed out: %v", got)
			}
		})
	}
}

// acceptedClusterPolicies are what an API server takes, and podfence reads without a problem.
func acceptedClusterPolicies() map[string]string {
	return map[string]string{
		"no rules":          specWith(""),
		"the least":         strings.Replace(specWith("  ingress: []\n  egress: []\n"), "10", "0", 1),
		"the most":          strings.Replace(specWith(""), "10", "1000", 1),
		"Baseline":          strings.Replace(specWith(""), "Admin", "Baseline", 1),
		"the older version": strings.Replace(specWith(""), "v1beta1", "v1alpha2", 1),
		"JSON":              `{"apiVersion": "policy.networking.k8s.io/v1beta1", "kind": "ClusterNetworkPolicy", "metadata": {"name": "all"}, "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}}`,
		"a null beside":     strings.Replace(specWith(""), "{namespaces: {}}", "{namespaces: {}, pods: ~}", 1),
		"a subject of pods": strings.Replace(specWith(""), "{namespaces: {}}", "{pods: {podSelector: {matchLabels: {app: db}}}}", 1),
		"25 rules": specWith("  ingress: " + with25(func(int) string { return "{action: Deny, from: [{namespaces: {}}]}" }) +
			"\n  egress: " + with25(func(int) string { return "{action: Deny, to: [{namespaces: {}}]}" }) + "\n"),
		"25 of each": egressWith("to: " + with25(func(i int) string {
			return "{networks: " + with25(func(j int) string { return fmt.Sprintf("10.%d.%d.0/24", i, j) }) + "}"
		}) + "\nprotocols: " + with25(func(i int) string { return fmt.Sprintf("{tcp: {destinationPort: {number: %d}}}", i+1) })),
		"a long name": egressWith("to: [{namespaces: {}}]\nname: " + strings.Repeat("ä", 100)),
		"actions":     specWith("  ingress:\n  - {action: Accept, from: [{namespaces: {}}]}\n  - {action: Pass, from: [{namespaces: {}}]}\n  - {action: Deny, from: [{namespaces: {}}]}\n"),
		"peers":       egressWith("to:\n- namespaces: {matchLabels: {team: ''}}\n- pods: {podSelector: {}}\n- nodes: {}\n- networks: [10.0.0.0/24, 0.0.0.0/0, '::/0', 'FD00::/8', '2001:db8:0:0:0:0:0:0/32']\n"),
		"protocols":   ingressWith("from: [{namespaces: {}}]\nprotocols:\n- tcp: {destinationPort: {number: 65535}}\n- udp: {destinationPort: {range: {start: 1, end: 65535}}}\n- sctp: {destinationPort: {number: 1}}\n- destinationNamedPort: web\n"),
		"port names":  egressWith("to: [{namespaces: {}}, {pods: {podSelector: {}}}]\nprotocols: [{destinationNamedPort: web}]\n"),
	}
}

func TestParseAcceptsClusterPolicies(t *testing.T) {
	for name, text := range acceptedClusterPolicies() {
		t.Run(name, func(t *testing.T) { accepted(t, text) })
	}
}

// accepted is the policy of a manifest that has no other object.
func accepted(t *testing.T, text string) *clusterv1beta1.ClusterNetworkPolicy {
	t.Helper()
	s, err := Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.ClusterPolicies) != 1 || len(s.Namespaces) > 0 {
		t.Fatalf("read %v", s)
	}
	cnp := s.ClusterPolicies[0]
	if _, problems := policy.ParseCluster(cnp); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	if cnp.APIVersion != "policy.networking.k8s.io/v1beta1" || cnp.Kind != "ClusterNetworkPolicy" {
		t.Errorf("it is a %s of %s", cnp.Kind, cnp.APIVersion)
	}
	return cnp
}

// TestParseDomainNames: a rule that accepts may have domainNames. The API takes them in every rule; in another they are
// a problem of the policy, in a cluster as in a folder.
func TestParseDomainNames(t *testing.T) {
	text := egressWith("to:\n- domainNames: [A.example, '*.b.example', c.example.]\n")
	for action, want := range map[string][]string{"Accept": nil, "Deny": {"spec.egress[0].to[0].domainNames"}, "Pass": {"spec.egress[0].to[0].domainNames"}} {
		s, err := Parse("f.yaml", []byte(strings.Replace(text, "action: Accept", "action: "+action, 1)))
		if err != nil {
			t.Fatal(err)
		}
		p, problems := policy.ParseCluster(s.ClusterPolicies[0])
		var fields []string
		for _, problem := range problems {
			fields = append(fields, problem.Field)
		}
		if !slices.Equal(fields, want) {
			t.Errorf("%s: problems: %v", action, problems)
		}
		if rule := p.Rules[policy.Egress][0]; action == "Accept" && !slices.Equal(rule.Domains, []policy.DomainName{"*.b.example", "a.example", "c.example"}) {
			t.Errorf("it names %q", rule.Domains)
		}
	}
}

// TestParseClusterPolicyLists: lists of them, of either version and of several kinds, and what is
// there twice.
func TestParseClusterPolicyLists(t *testing.T) {
	item := func(name string) string {
		return "- metadata: {name: " + name + "}\n  spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n"
	}
	text := "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicyList\nitems:\n" + item("b") + item("a") +
		"---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: {}}}\n" +
		strings.Replace(item("c"), "- ", "- apiVersion: policy.networking.k8s.io/v1beta1\n  kind: ClusterNetworkPolicy\n  ", 1)
	s, err := Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, cnp := range s.ClusterPolicies {
		names = append(names, cnp.APIVersion+" "+cnp.Name)
	}
	const v = "policy.networking.k8s.io/v1beta1 "
	if want := []string{v + "a", v + "b", v + "c"}; !slices.Equal(names, want) || len(s.Policies) != 1 {
		t.Errorf("read %v, want %v", names, want)
	}
	if Empty(policy.Snapshot{ClusterPolicies: s.ClusterPolicies}) {
		t.Error("a folder of ClusterNetworkPolicies is taken for empty")
	}

	_, err = Parse("f.yaml", []byte(text+"---\n"+strings.Replace(specWith(""), "name: all", "name: a", 1)))
	want := []string{`20: ClusterNetworkPolicy a: metadata.name: Duplicate value: "a": the same object is at 6`}
	if got := errorsOf(err); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAcceptedCanBeEnforced: of what is accepted podfence can enforce all but domainNames in rules that deny or pass, and
// it is read as it was written. An annotation may have any value, and some mean nothing.
func TestAcceptedCanBeEnforced(t *testing.T) {
	taken := 0
	for seed := range random.Seeds(1, 1000) {
		drawn := random.ClusterPolicy(rand.New(rand.NewSource(seed)), int(seed)%6)
		drawn.TypeMeta = typeMeta("ClusterNetworkPolicy")
		text, err := yaml.Marshal(drawn)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Parse("f.yaml", text)
		if err != nil {
			continue
		}
		taken++
		if diff := cmp.Diff(drawn, s.ClusterPolicies[0], cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("seed %d: read otherwise than written:\n%s", seed, diff)
		}
		_, problems := policy.ParseCluster(s.ClusterPolicies[0])
		for _, p := range problems {
			if (!strings.HasSuffix(p.Field, ".domainNames") || p.Reason != "domain names are for rules that accept") && !strings.HasPrefix(p.Field, "metadata.annotations") {
				t.Errorf("seed %d: %v\n%s", seed, p, text)
			}
		}
	}
	if taken < 100 || taken == 1000 {
		t.Errorf("%d of 1000 were taken", taken)
	}
}

// upstream is the folder of the module that has the API's types, CustomResourceDefinitions and
// examples.
func upstream(t *testing.T) string {
	t.Helper()
	folder, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.TrimSpace(string(folder))
}

// files are those below a folder of the API's module, by their names.
func files(t *testing.T, path ...string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(append(append([]string{upstream(t)}, path...), "*.yaml")...))
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no files in %v: %v", path, err)
	}
	texts := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(path)] = string(text)
	}
	return texts
}

// TestUpstreamValid: all that the API's own tests call valid is, in the experimental channel's
// schema, too.
func TestUpstreamValid(t *testing.T) {
	for name, text := range files(t, "pkg", "crdtest", "testdata", "valid") {
		t.Run(name, func(t *testing.T) { accepted(t, text) })
	}
}

// TestUpstreamInvalid: all that the API's own tests call invalid is, for the reason that they have
// in mind.
func TestUpstreamInvalid(t *testing.T) {
	const at = "ClusterNetworkPolicy "
	wants := map[string][]string{
		"cidr-invalid.yaml": {
			`16: ` + at + `cidr-invalid: spec.egress[0].to[0].networks[0]: Invalid value: "10.0.0.300/24": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`},
		"egress-peer-namedport-conflict.experimental.yaml": {
			"19: " + at + "egress-peer-namedport-conflict: spec.egress[0].protocols[0].destinationNamedPort: Forbidden: may not be specified with `networks`, `nodes` or `domainNames` in `to`, where ports have no names"},
		"invalid-ingress-action.yaml": {
			`13: ` + at + `invalid-ingress-action: spec.ingress[0].action: Unsupported value: "Invalid": supported values: "Accept", "Deny", "Pass"`,
			"16: " + at + "invalid-ingress-action: spec.ingress[0].from[0].namespaces.namespaceSelector: unknown field"},
		"port-range-invalid-equal.yaml": {
			"24: " + at + "port-range-invalid-equal: spec.egress[0].protocols[0].tcp.destinationPort.range.end: Invalid value: 80: must be greater than `start`"},
		"port-range-invalid-greater.yaml": {
			"24: " + at + "port-range-invalid-greater: spec.egress[0].protocols[0].tcp.destinationPort.range.end: Invalid value: 80: must be greater than `start`"},
	}
	for name, text := range files(t, "pkg", "crdtest", "testdata", "invalid") {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(text))
			if got := errorsOf(err); !slices.Equal(got, wants[name]) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(wants[name], "\n"))
			}
		})
	}
}
