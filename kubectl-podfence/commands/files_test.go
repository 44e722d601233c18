package commands_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/commands"
)

const (
	mistakes     = "../../explain/testdata/mistakes/"
	expectations = "../../explain/expect/testdata/"
)

// TestExplainFiles asks files, as people call the plugin: what it prints, and how it ends.
func TestExplainFiles(t *testing.T) {
	web, err := os.ReadFile("../../manifests/testdata/chart/all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		args      []string
		code      int
		out, said string
	}{
		{"denied, with the line", []string{"explain", "-f", mistakes + "cluster.yaml", "-f", mistakes + "label-typo.yaml", "shop/client-0", "svc/shop/web:80"}, 1,
			"spec.ingress[0] (" + mistakes + "label-typo.yaml:8)", ""},
		{"allowed", []string{"explain", "-f", mistakes + "cluster.yaml", "shop/client-0", "svc/shop/web:80"}, 0, "ALLOWED  shop/client-0", ""},
		{"a chart, from standard input", []string{"explain", "-f", "-", "deploy/web", "sts/db", "-n", "default"}, 0, "open are TCP 5432", "passed over 3 objects"},
		{"closed", []string{"explain", "-f", "-", "cronjob/backup", "sts/db:5432", "-n", "default"}, 1, "DENIED  default/backup-0", "passed over"},
		{"the samples", []string{"explain", "-f", "../../config/samples", "deploy/shop/frontend", "svc/shop/backend:80"}, 0, "config/samples/backend.yaml:15", ""},
		{"nobody", []string{"explain", "-f", mistakes + "cluster.yaml", "shop/nobody", "shop/web-0:80"}, 2, "", "there is no Pod shop/nobody"},
		{"no file", []string{"explain", "-f", "nowhere.yaml", "shop/nobody", "shop/web-0:80"}, 2, "", "nowhere.yaml: no such file"},
		{"strict", []string{"explain", "--strict", "-f", "-", "deploy/web", "sts/db", "-n", "default"}, 2, "", `does not read kind "ServiceAccount"`},
		{"tests, as expected", []string{"test", "-f", mistakes + "cluster.yaml", "-f", expectations + "policy.yaml", expectations + "shop.yaml"}, 0, "6 of 6 as expected", ""},
		{"tests that fail", []string{"test", "-f", mistakes + "cluster.yaml", "-f", mistakes + "label-typo.yaml", expectations + "shop.yaml"}, 1, "nearest miss: NetworkPolicy shop/web spec.ingress[0] (" + mistakes + "label-typo.yaml:8)", ""},
		{"tests, for a CI server", []string{"test", "-o", "junit", "-f", mistakes + "cluster.yaml", "-f", mistakes + "label-typo.yaml", expectations + "shop.yaml"}, 1, `<testsuites name="podfence" tests="6" failures="1">`, ""},
		{"tests, as JSON", []string{"test", "-o", "json", "-f", mistakes + "cluster.yaml", "-f", expectations + "policy.yaml", expectations + "shop.yaml"}, 0, `"kind": "PolicyTestResults"`, ""},
		{"tests that are none", []string{"test", "-f", mistakes + "cluster.yaml", mistakes + "cluster.yaml"}, 2, "", "tests are of apiVersion"},
		{"no TO", []string{"explain", "-f", "-", "deploy/web"}, 2, "", "accepts 2 arg"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, said bytes.Buffer
			code := commands.Main(t.Context(), "test", genericiooptions.IOStreams{In: bytes.NewReader(web), Out: &out, ErrOut: &said}, test.args)
			if code != test.code || !strings.Contains(out.String(), test.out) || !strings.Contains(said.String(), test.said) {
				t.Errorf("exit code %d, want %d; it prints\n%s\nand says\n%s\nwant %q and %q", code, test.code, &out, &said, test.out, test.said)
			}
			if test.code == 2 && out.Len() > 0 {
				t.Errorf("it prints %s", &out)
			}
		})
	}
}

// TestExplainJSON: what programs read has the place of each rule.
func TestExplainJSON(t *testing.T) {
	var out, said bytes.Buffer
	streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &said}
	args := []string{"explain", "-o", "json", "-f", mistakes + "cluster.yaml", "-f", mistakes + "service-port.yaml", "shop/client-0", "svc/shop/web:80"}
	if code := commands.Main(t.Context(), "test", streams, args); code != 1 {
		t.Fatalf("exit code %d: %s", code, &said)
	}
	var e explain.Explanation
	if err := json.Unmarshal(out.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	miss := e.Answers[0].Ingress.NearestMisses[0]
	if e.APIVersion != explain.APIVersion || e.Kind != "Explanation" || miss.Rule.Source == nil || miss.Rule.Source.Line != 8 {
		t.Errorf("%+v", e)
	}
}
