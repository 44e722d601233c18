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
	shop         = "../../explain/testdata/shop/"
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
		{"who reaches it", []string{"reach", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml", "deploy/shop/api"}, 0, "  deploy/shop/web   deploy/shop/api   TCP 8080\n", ""},
		{"nobody reaches it", []string{"reach", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml", "sts/shop/db", "-o", "json"}, 0, `"egress": []`, ""},
		{"its names", []string{"reach", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml", "deploy/shop/api", "-o", "name"}, 0, "sts/shop/db\ndeploy/shop/web\n203.0.113.0/24\nnodes\n", ""},
		{"with more columns", []string{"reach", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml", "deploy/shop/api", "-o", "wide"}, 0, "deploy/shop/api   203.0.113.0/24   2/-    1/2     TCP 443\n", ""},
		{"rows only", []string{"reach", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml", "sts/shop/db", "--no-headers"}, 0, "deploy/shop/api   sts/shop/db   TCP 5432\nnodes", "podfence: A node always reaches"},
		{"as YAML", []string{"reach", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml", "ns/shop", "-o", "yaml"}, 0, "kind: Reach\n", ""},
		{"as an image", []string{"reach", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml", "ns/shop", "-o", "svg"}, 0, "<svg ", ""},
		{"a matrix", []string{"reach", "--matrix", "-n", "shop", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml"}, 0, "3 deploy/shop/web                   8080  -  ", ""},
		{"of all namespaces", []string{"reach", "--matrix", "-A", "-o", "name", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml"}, 0, "job/batch/report\ndeploy/shop/api\n", ""},
		{"as a graph", []string{"reach", "--matrix", "ns/shop", "-o", "dot", "-f", shop + "cluster.yaml", "-f", shop + "policies.yaml"}, 0, "digraph {", ""},
		{"not known", []string{"reach", "-f", "-", "deploy/web", "-n", "default"}, 0, "sts/default/db", "passed over"},
		{"nobody to reach", []string{"reach", "-f", shop + "cluster.yaml", "shop/none"}, 2, "", "there is no Pod shop/none"},
		{"a namespace for a pod", []string{"reach", "-f", shop + "cluster.yaml", "batch"}, 2, "", "there is no Pod default/batch; namespace batch is ns/batch"},
		{"a matrix of nothing", []string{"reach", "--matrix", "-n", "none", "-f", shop + "cluster.yaml"}, 2, "", "there is no Namespace none"},
		{"what changes", []string{"diff", "-f", shop + "cluster.yaml", "-f", shop + "policies-new.yaml", "--against", shop + "cluster.yaml", "--against", shop + "policies.yaml"}, 1,
			"            " + shop + "policies.yaml:52: NetworkPolicy shop/db spec.ingress[0].from[0]", ""},
		{"nothing changes", []string{"diff", "-f", shop + "cluster.yaml," + shop + "policies.yaml", "--against", shop + "policies.yaml," + shop + "cluster.yaml"}, 0, "", ""},
		{"nothing changes, as JSON", []string{"diff", "-o", "json", "-f", shop + "cluster.yaml", "--against", shop + "cluster.yaml"}, 0, "{\n  \"apiVersion\": \"explain.podfence.io/v1\",\n  \"kind\": \"Diff\",\n  \"opened\": [],\n  \"closed\": []\n}\n", ""},
		{"what is gone", []string{"diff", "-f", "-", "--against", shop + "cluster.yaml"}, 1, "REMOVED deploy/shop/web\n", "passed over"},
		{"old without workloads", []string{"diff", "-f", shop + "cluster.yaml", "--against", shop + "policies.yaml"}, 2, "", "--against has no workload or pod"},
		{"new without workloads", []string{"diff", "-f", shop + "policies.yaml", "--against", shop + "cluster.yaml"}, 2, "", "--filename has no workload or pod"},
		{"no old file", []string{"diff", "-f", shop + "cluster.yaml", "--against", "nowhere.yaml"}, 2, "", "nowhere.yaml: no such file"},
		{"no TO", []string{"explain", "-f", "-", "deploy/web"}, 2, "", "accepts 2 arg"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, said bytes.Buffer
			code := commands.Main(t.Context(), "test", genericiooptions.IOStreams{In: bytes.NewReader(web), Out: &out, ErrOut: &said}, test.args)
			if code != test.code || !strings.Contains(out.String(), test.out) || !strings.Contains(said.String(), test.said) {
				t.Errorf("exit code %d, want %d; it prints\n%s\nand says\n%s\nwant %q and %q", code, test.code, &out, &said, test.out, test.said)
			}
			if (test.code == 2 || test.name == "nothing changes") && out.Len() > 0 {
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
