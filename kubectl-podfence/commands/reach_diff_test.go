package commands_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/podfence/podfence/explain"
)

// reaches: of a cluster, who reaches whom.
func reaches(t *testing.T, call func(...string) (int, string, string)) {
	for _, c := range []struct{ args, says string }{
		{"shop/db", "  shop/web   shop/db   TCP 80\n"},
		{"-n shop web", "  shop/web   shop/db"},
		{"ns/shop --no-headers", "shop/web                           shop/db"},
		{"--matrix -A", "1 shop/db "},
	} {
		code, out, errOut := call(append([]string{"reach"}, strings.Fields(c.args)...)...)
		if code != 0 || !strings.Contains(out, c.says) || strings.Contains(out, "\x1b") {
			t.Errorf("reach %s: exit code %d, or not %q:\n%s%s", c.args, code, c.says, out, errOut)
		}
	}
	code, out, errOut := call("reach", "--matrix", "-n", "shop", "-o", "json")
	var m explain.ReachMatrix
	if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 || m.APIVersion != explain.APIVersion || m.Kind != explain.ReachMatrixKind || m.Namespace != "shop" || len(m.Parties) < 3 {
		t.Errorf("exit code %d, %v, %s%s", code, err, out, errOut)
	}
}

// differs: what files would change in a cluster if they were applied.
func differs(t *testing.T, api *kubernetes.Clientset, call func(...string) (int, string, string)) {
	// A label that kubectl would take away if a file had the namespace without it.
	label := `{"metadata": {"labels": {"team": "shop"}, "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"metadata\":{\"labels\":{\"team\":\"shop\"}}}"}}}`
	if _, err := api.CoreV1().Namespaces().Patch(t.Context(), "shop", types.MergePatchType, []byte(label), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const policy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [db]}]}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}, namespaceSelector: NAMESPACE}]
    ports: [{protocol: TCP, port: PORT}]
`
	for _, c := range []struct {
		name, text string
		code       int
		says       string
	}{
		{"the same in other words", strings.NewReplacer("NAMESPACE", "{}", "PORT", "80").Replace(policy), 0, ""},
		{"by a label of the namespace that no file has", strings.NewReplacer("NAMESPACE", "{matchLabels: {team: shop}}", "PORT", "80").Replace(policy), 0, ""},
		{"without that label", strings.NewReplacer("NAMESPACE", "{matchLabels: {team: shop}}", "PORT", "80").Replace(policy) +
			"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n", 1, "CLOSED  shop/web -> shop/db  TCP 80\n"},
		{"another port", strings.NewReplacer("NAMESPACE", "{}", "PORT", "81").Replace(policy), 1, "OPENED  shop/web -> shop/db  TCP 81\n"},
		{"another namespace", strings.NewReplacer("NAMESPACE", "{matchLabels: {a: b}}", "PORT", "80").Replace(policy), 1, "CLOSED  shop/web -> shop/db  TCP 80\n"},
		{"the namespace with its label", strings.NewReplacer("NAMESPACE", "{matchLabels: {a: b}}", "PORT", "80").Replace(policy) +
			"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: b}}\n", 0, ""},
		{"a workload more", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {namespace: shop, name: api}\nspec: {selector: {matchLabels: {app: api}}, template: {metadata: {labels: {app: api}}, spec: {containers: [{name: c, image: i}]}}}\n", 1, "ADDED   deploy/shop/api"},
	} {
		file := filepath.Join(dir, "new.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errOut := call("diff", "-f", file)
		if code != c.code || !strings.Contains(out, c.says) || c.says == "" && out != "" || errOut != "" {
			t.Errorf("%s: exit code %d instead of %d, or not %q:\n%s%s", c.name, code, c.code, c.says, out, errOut)
		}
		if code == 1 && strings.Contains(out, "by NetworkPolicy shop/db") && !strings.Contains(out, file+":") {
			t.Errorf("%s: it does not say where the rule is written:\n%s", c.name, out)
		}
	}
}
