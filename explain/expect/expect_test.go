package expect_test

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/expect"
	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
)

// run runs tests that are given as text, on a cluster with a policy.
func run(t *testing.T, policyFile, text string) []expect.Result {
	t.Helper()
	all, err := expect.Parse("tests.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o, err := manifests.Read([]string{"../testdata/mistakes/cluster.yaml", policyFile}, manifests.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x := explain.New(&explain.Cluster{Snapshot: o.Snapshot, Services: o.Services, Workloads: o.Workloads}, policy.JudgeOptions{})
	return expect.Run(x, all, "default")
}

func shop(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAsExpected(t *testing.T) {
	results := run(t, "testdata/policy.yaml", shop(t))
	if len(results) != 6 || expect.Failed(results) != 0 {
		t.Errorf("%d of %d failed: %+v", expect.Failed(results), len(results), results)
	}
}

// TestStaged: a staged policy counts as not there, but in a test that is about what will be with it.
func TestStaged(t *testing.T) {
	results := run(t, "../testdata/mistakes/staged.yaml", `apiVersion: explain.podfence.io/v1
kind: PolicyTest
tests:
- {from: shop/client-0, to: shop/web-0, ports: 8080, expect: allow}
- {from: shop/client-0, to: shop/web-0, ports: 8080, expect: deny, by: shop/web, staged: true}
`)
	if len(results) != 2 || expect.Failed(results) != 0 {
		t.Errorf("%d of %d failed: %+v", expect.Failed(results), len(results), results)
	}
}

// TestNotAsExpected: a policy with a mistake fails its tests, which say why.
func TestNotAsExpected(t *testing.T) {
	results := run(t, "../testdata/mistakes/label-typo.yaml", shop(t))
	var text, junit strings.Builder
	if err := expect.WriteText(&text, results, explain.Plain); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"FAIL  clients reach the web: shop/client-0 to svc/shop/web:80\n", "tests.yaml:5: expected otherwise: shop/client-0 to shop/web-0 is denied\n",
		"label app=cleint: the pod has app=client", "ok    nobody else does: 203.0.113.7 to shop/web-0:443\n", "5 of 6 as expected\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text has no %q:\n%s", want, &text)
		}
	}
	if err := expect.WriteJUnit(&junit, results); err != nil {
		t.Fatal(err)
	}
	var read struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Suites   []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
					Text    string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal([]byte(junit.String()), &read); err != nil {
		t.Fatal(err)
	}
	if read.Tests != 6 || read.Failures != 1 || len(read.Suites) != 1 || read.Suites[0].Name != "shop" || len(read.Suites[0].Cases) != 6 ||
		read.Suites[0].Cases[0].Failure == nil || !strings.Contains(read.Suites[0].Cases[0].Failure.Text, "app=cleint") || read.Suites[0].Cases[1].Failure != nil {
		t.Errorf("%s", &junit)
	}
}

// TestWhatFails: each way in which an answer is not as expected.
func TestWhatFails(t *testing.T) {
	const head = "apiVersion: explain.podfence.io/v1\nkind: PolicyTest\ntests:\n- "
	for _, test := range []struct{ text, why string }{
		{"{from: prod/batch-0, to: shop/web-0, ports: 8080, expect: allow}", "is denied"},
		{"{from: shop/client-0, to: shop/web-0, ports: http, expect: deny}", "is allowed"},
		{"{from: shop/client-0, to: shop/web-0, expect: allow}", "some ports or protocols are open"},
		{"{from: shop/client-0, to: shop/web-0, expect: deny}", "some ports or protocols are open"},
		{"{from: prod/batch-0, to: shop/web-0, expect: deny}", ""},
		{"{from: shop/web-0, to: prod/batch-0, expect: allow}", ""},
		{"{from: prod/batch-0, to: shop/web-0:8080, expect: deny, by: [shop/web, shop/other]}", ""},
		{"{from: prod/batch-0, to: shop/web-0:8080, expect: deny, by: shop/other}", "by shop/web, and not by shop/other"},
		{"{from: shop/web-0, to: prod/batch-0:80, expect: allow, by: shop/web}", "by no policy, and not by shop/web"},
		{"{from: shop/client-0, to: svc/shop/web:http, expect: allow, by: shop/web}", ""},
		{"{from: shop/nobody, to: shop/web-0:80, expect: deny}", "there is no Pod shop/nobody"},
		{"{from: shop/client-0, to: shop/web-0:none, expect: deny}", "there is no answer: shop/web-0 has no container port named"},
		{"{from: prod/batch-0, to: ns/shop, ports: http, expect: deny}", "there is no answer for some of them: shop/client-0 has no container port named"},
		{"{from: ns/prod, to: shop/web-0:8080, expect: deny}", ""},
		{`{from: "2001:db8::1", to: "2001:db8::2", ports: [80], expect: allow}`, ""},
	} {
		results := run(t, "testdata/policy.yaml", head+test.text)
		if len(results) != 1 || results[0].Passed != (test.why == "") || !strings.Contains(results[0].Why, test.why) {
			t.Errorf("%s: %+v, want %q", test.text, results, test.why)
		}
	}
}

// TestNobodyKnowsAPort: where of some port nobody knows, a test without a port is not as expected, whichever way
// it is meant.
func TestNobodyKnowsAPort(t *testing.T) {
	const (
		head     = "apiVersion: explain.podfence.io/v1\nkind: PolicyTest\ntests:\n- {from: shop/client-0, to: deploy/shop/new, expect: "
		workload = `
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: shop, name: new}
spec: {selector: {matchLabels: {app: new}}, template: {metadata: {labels: {app: new}}, spec: {containers: [{name: m, image: i}]}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - {to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 1}]}
`
	)
	for _, test := range []struct{ more, why string }{
		{"", "shop/client-0 to shop/new-0 is unknown"},
		{"  - {to: [{podSelector: {}}], ports: [{port: 80}]}\n", "some ports are open, and of others nobody knows before the pods have addresses"},
	} {
		file := filepath.Join(t.TempDir(), "new.yaml")
		if err := os.WriteFile(file, []byte(workload+test.more), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, way := range []string{"deny}", "allow}"} {
			if r := run(t, file, head+way); len(r) != 1 || r[0].Passed || !strings.Contains(r[0].Why, test.why) {
				t.Errorf("%s: %+v, want %q", way, r, test.why)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const head = "apiVersion: explain.podfence.io/v1\nkind: PolicyTest\ntests:\n"
	for _, test := range []struct{ text, want string }{
		{"", "there are no tests"},
		{"kind: PolicyTest\n", "tests are of apiVersion"},
		{"apiVersion: explain.podfence.io/v1\nkind: Test\n", "tests are of apiVersion"},
		{head, "there are no tests"},
		{head + "- {from: a, to: b}\n", `tests.yaml:4: expect is ""`},
		{head + "- {from: a, to: b, expect: maybe}\n", `expect is "maybe"`},
		{head + "- {to: b, expect: deny}\n", "from is missing"},
		{head + "- {from: a, expect: deny}\n", "to is missing"},
		{head + "- {from: a, too: b, expect: deny}\n", `line 4: unknown field "too"`},
		{head + "- {from: a, to: b, expect: deny, ports: 0}\n", "no port"},
		{head + "- {from: a, to: b, expect: deny, ports: [\"7000-7100\"]}\n", "one port is asked about at a time"},
		{head + "- {from: a, to: b, expect: deny, ports: [80/]}\n", "no protocol"},
		{head + "- {from: a, to: \"b:\", expect: deny}\n", "no port"},
		{head + "- {from: a, to: \"b:\", expect: deny, ports: [80]}\n", "no port"},
		{head + "- {from: a, to: b:80, expect: deny, ports: 443}\n", "there are ports as well"},
		{head + "- {from: a, to: {b: c}, expect: deny}\n", "must be a text"},
		{head + "- a\n", "a test must be an object"},
		{head + "- {from: svc/a/b, to: b, expect: deny}\n", "nothing comes from a Service"},
		{"apiVersion: explain.podfence.io/v1\nkind: PolicyTest\ntest: []\n", "field test not found"},
	} {
		if all, err := expect.Parse("tests.yaml", []byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "tests.yaml:") {
			t.Errorf("%q: %v, %v; want %q", test.text, all, err, test.want)
		}
	}
}
