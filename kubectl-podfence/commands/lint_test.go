package commands_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/kubectl-podfence/commands"
)

// lintFiles lints as JSON, and returns what is found.
func lintFiles(t *testing.T, args ...string) (code int, list lint.List) {
	t.Helper()
	code, out, errOut := call(t, append([]string{"lint", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("lint %v: exit code %d, %v: %s%s", args, code, err, out, errOut)
	}
	if list.APIVersion != explain.APIVersion || list.Kind != lint.ListKind {
		t.Errorf("it is a %s of %s", list.Kind, list.APIVersion)
	}
	return code, list
}

// TestLintMistakes: of the mistakes that people make most often, those that a policy and a cluster show by
// themselves are found, each at its place, and nothing else is.
func TestLintMistakes(t *testing.T) {
	for file, want := range map[string][]string{
		"label-typo": {
			"7 allows-nothing spec.ingress",
			"8 peer-matches-nothing spec.ingress[0].from[0].podSelector",
		},
		"selector-typo": {"5 selects-nothing spec.podSelector"},
		"staged": {
			"10 allows-nothing spec.ingress",
			"12 peer-matches-nothing spec.ingress[0].from[0].podSelector",
		},
		"enforcement-value": {"7 enforcement-value metadata.annotations[podfence.io/enforcement]"},
		"no-dns":            {"7 no-dns spec.egress"},
		"service-port":      {"9 service-port spec.ingress[0].ports[0].port"},
		"policy-types":      {"8 policy-types spec.egress"},
		"service-block": { // its pods do not reach the DNS either
			"7 no-dns spec.egress",
			"8 service-addresses spec.egress[0].to[0].ipBlock",
		},
		"named-port":      {"9 named-port spec.ingress[0].ports[0].port"},
		"wrong-namespace": {"12 selects-nothing spec.podSelector"},
		"two-peers":       nil, // each of the two means somebody, which may well be meant
		"host-network":    nil, // the selector means a pod that is not on its node's network too
		"probes":          nil, // there is no mistake: probes need no rule
	} {
		t.Run(file, func(t *testing.T) {
			path := mistakes + file + ".yaml"
			code, list := lintFiles(t, "-f", mistakes+"cluster.yaml", "-f", path)
			var got []string
			for _, f := range list.Items {
				if f.Source == nil || f.Source.File != path || f.Severity != lint.Warning {
					t.Errorf("%s: at %v", f, f.Source)
					continue
				}
				got = append(got, fmt.Sprintf("%d %s %s", f.Source.Line, f.Rule, f.Path))
			}
			if !slices.Equal(got, want) || code != min(len(want), 1) {
				t.Errorf("exit code %d, found %q, want %q", code, got, want)
			}
		})
	}
}

// TestLintNoFalseAlarm: nothing is found in policies that are right.
func TestLintNoFalseAlarm(t *testing.T) {
	for _, args := range []string{
		"-R -f ../../config/samples",
		"-f ../../test/demo/shop",
		"-f ../../manifests/testdata/chart",
		"-f " + mistakes + "cluster.yaml -f " + expectations + "policy.yaml",
		"-f ../../ruleset/testdata/web.yaml",
		"-f ../../ruleset/testdata/every-kind.yaml",
		"-f ../../ruleset/testdata/cluster-policies.yaml",
	} {
		if code, list := lintFiles(t, strings.Fields(args)...); code != 0 || len(list.Items) > 0 {
			t.Errorf("lint %s: exit code %d, %v", args, code, list.Items)
		}
	}
}

// twoNamespaces have a policy with a slip each, and a ClusterNetworkPolicy with another.
const twoNamespaces = `apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: website}}
spec: {containers: [{name: web, image: web}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec: {podSelector: {matchLabels: {app: webiste}}, policyTypes: [Egress], ingress: [{}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: data, name: db}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]
  egress: [{}]
---
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress:
  - {name: one, action: Deny, from: [{namespaces: {}}]}
  - {name: two, action: Accept, from: [{namespaces: {}}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: Service
metadata: {namespace: services, name: web}
spec: {type: ExternalName, externalName: web.example}
`

// TestLintFiles: the formats, whose policies are looked at, and what ends with which exit code.
func TestLintFiles(t *testing.T) {
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	const (
		web   = "standard input:9: Warning shop/web spec.ingress: the rule is without effect, as spec.policyTypes does not have Ingress; add it there, or leave the rules out [policy-types]\n"
		slip  = "standard input:9: Warning shop/web spec.podSelector: the policy selects nothing: there are no pods with app=webiste of namespace shop: 1 pod has app=website; did you mean that? [selects-nothing]\n"
		db    = "standard input:18: Warning data/db spec.egress: the rule is without effect, as spec.policyTypes does not have Egress; add it there, or leave the rules out [policy-types]\n"
		guard = "standard input:29: Warning ClusterNetworkPolicy guard spec.ingress[1]: the rule never decides, as spec.ingress[0], which comes first, has all its peers and ports; put it before that one, or leave it out [shadowed-rule]\n"
		names = "clusternetworkpolicy.policy.networking.k8s.io/guard\nnetworkpolicy.networking.k8s.io/db\nnetworkpolicy.networking.k8s.io/web\n"
	)
	for _, test := range []struct {
		args      string
		code      int
		out, said string // all that is printed; the beginning of what is said
	}{
		{"", 1, guard + db + web + slip, ""},
		{"-A", 1, guard + db + web + slip, ""},
		{"-A -n data", 1, guard + db + web + slip, ""},
		{"-n shop", 1, web + slip, ""},
		{"-n data --severity warning", 1, db, ""},
		{"-n web", 0, "", "kubectl podfence: nothing found in 0 NetworkPolicies of namespace web\n"},
		{"-n web -o wide", 0, "", "kubectl podfence: nothing found in 0 NetworkPolicies of namespace web\n"},
		{"-n web -o name", 0, "", ""},
		{"-n services", 0, "", "kubectl podfence: nothing found in 0 NetworkPolicies of namespace services\n"},
		{"-n other", 2, "", "kubectl podfence: there is no namespace other, and nothing that would be in it: is --namespace right?\n"},
		{"-n other -o json", 2, "", "kubectl podfence: there is no namespace other"},
		{"-n web -o json", 0, "{\n  \"apiVersion\": \"explain.podfence.io/v1\",\n  \"kind\": \"FindingList\",\n  \"items\": []\n}\n", ""},
		{"-o name", 1, names, ""},
		{"-n data -o wide", 1, "SOURCE              SEVERITY   NAMESPACE   KIND            NAME   FIELD         RULE           MESSAGE\n" +
			"standard input:18   Warning    data        NetworkPolicy   db     spec.egress   policy-types   the rule is without effect, as spec.policyTypes does not have Egress; add it there, or leave the rules out\n", ""},
		{"-n data -o wide --no-headers", 1, "standard input:18   Warning   data   NetworkPolicy   db    spec.egress   policy-types   the rule is without effect, as spec.policyTypes does not have Egress; add it there, or leave the rules out\n", ""},
		{"--no-headers", 2, "", "kubectl podfence: --no-headers is about a table"},
		{"-o table", 2, "", `kubectl podfence: --output is "table": it must be one of json, yaml, wide, name`},
		{"--severity error", 2, "", `kubectl podfence: --severity is "error": it must be info or warning`},
		{"shop", 2, "", "kubectl podfence: unknown command"},
		{"-f nowhere.yaml", 2, "", "kubectl podfence: nowhere.yaml: no such file"},
	} {
		var out, said bytes.Buffer
		streams := genericiooptions.IOStreams{In: strings.NewReader(twoNamespaces), Out: &out, ErrOut: &said}
		code := commands.Main(t.Context(), "test", streams, append([]string{"lint", "-f", "-"}, strings.Fields(test.args)...))
		if code != test.code || out.String() != test.out || !strings.HasPrefix(said.String(), test.said) || test.said == "" && said.Len() > 0 {
			t.Errorf("lint -f - %s: exit code %d, want %d; it prints\n%s\nand says\n%s\nwant\n%s\nand\n%s", test.args, code, test.code, &out, &said, test.out, test.said)
		}
	}
}

// lints: of a cluster, the policies of one namespace are looked at, or all are.
func lints(t *testing.T, api *kubernetes.Clientset, call func(...string) (int, string, string)) {
	slip := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "later", Namespace: "shop"},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "later"}}},
	}
	if _, err := api.NetworkingV1().NetworkPolicies("shop").Create(t.Context(), slip, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const (
		later  = "Info shop/later spec.podSelector: the policy selects nothing: there are no pods with app=later of namespace shop [selects-nothing]\n"
		nobody = "kubectl podfence: nothing found in 0 NetworkPolicies of namespace default\n"
		enough = "kubectl podfence: nothing found in 2 NetworkPolicies of namespace shop\n"
	)
	for _, c := range []struct {
		args      string
		code      int
		out, said string
	}{
		{"-n shop", 1, later, ""},
		{"-A", 1, later, ""},
		{"", 0, "", nobody},
		{"-n shopp", 2, "", "kubectl podfence: there is no namespace shopp, and nothing that would be in it: is --namespace right?\n"},
		{"-n shop --severity warning", 0, "", enough},
		{"-n shop -o name", 1, "networkpolicy.networking.k8s.io/later\n", ""},
	} {
		code, out, errOut := call(append([]string{"lint"}, strings.Fields(c.args)...)...)
		if code != c.code || out != c.out || errOut != c.said {
			t.Errorf("lint %s: exit code %d, want %d; it prints\n%sand says\n%swant\n%sand\n%s", c.args, code, c.code, out, errOut, c.out, c.said)
		}
	}
	code, out, errOut := call("lint", "-n", "shop", "-o", "yaml")
	var list lint.List
	if err := yaml.UnmarshalStrict([]byte(out), &list); err != nil || code != 1 || len(list.Items) != 1 || list.Items[0].Rule != lint.SelectsNothing || len(list.Notes) > 0 {
		t.Errorf("-o yaml: exit code %d, %v, %s%s", code, err, out, errOut)
	}
}

// lintsWithFewRights: who may read one namespace alone is told what that leaves out, in every format, and
// is not told that somebody is missing who may be elsewhere.
func lintsWithFewRights(t *testing.T, api *kubernetes.Clientset, call func(...string) (int, string, string)) {
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods", "namespaces", "services"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}, Verbs: []string{"get", "list"}},
	}
	meta := metav1.ObjectMeta{Name: "shopper", Namespace: "shop"}
	if _, err := api.RbacV1().Roles("shop").Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.RbacV1().RoleBindings("shop").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "shopper"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "shopper"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const said = "Pods were read of namespace shop only"
	code, out, errOut := call("lint", "-n", "shop", "--as", "shopper")
	if code != 0 || out != "" || !strings.Contains(errOut, "kubectl podfence: "+said) || !strings.HasSuffix(errOut, "nothing found in 2 NetworkPolicies of namespace shop\n") {
		t.Errorf("exit code %d, it prints\n%sand says\n%s", code, out, errOut)
	}
	code, out, errOut = call("lint", "-n", "shop", "--as", "shopper", "-o", "json")
	var list lint.List
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || errOut != "" || len(list.Items) > 0 ||
		!slices.ContainsFunc(list.Notes, func(n explain.Note) bool { return n.Reason == "NotListed" && strings.HasPrefix(n.Message, said) }) {
		t.Errorf("as JSON: exit code %d, %v, %s%s", code, err, out, errOut)
	}
	if code, out, errOut = call("lint", "-A", "--as", "shopper"); code != 2 || out != "" || !strings.Contains(errOut, "there is no answer without") {
		t.Errorf("all namespaces: exit code %d, %s%s", code, out, errOut)
	}
}

// TestLintRules: all rules are in the table of docs/LINT.md, whose examples TestDocuments runs.
func TestLintRules(t *testing.T) {
	document, err := os.ReadFile("../../docs/LINT.md")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("../../explain/lint/finding.go")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile(`(?m)^\t\w+ Rule = "(.*)"$`).FindAllStringSubmatch(string(code), -1)
	if len(rules) < 13 {
		t.Errorf("there are %d rules", len(rules))
	}
	for _, rule := range rules {
		if !strings.Contains(string(document), "\n| `"+rule[1]+"` |") {
			t.Errorf("docs/LINT.md does not say what %s is", rule[1])
		}
	}
}
