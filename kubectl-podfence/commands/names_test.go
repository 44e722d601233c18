package commands_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/kubectl-podfence/commands"
)

// namesAgent plays an agent that knows some names, and returns the flag that has it asked.
func namesAgent(t *testing.T, node string, names, lapsed []answers.Name) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != answers.NamesPath {
			t.Errorf("asked for %s %s", r.Method, r.URL.Path)
		}
		if err := json.NewEncoder(w).Encode(answers.Names{Node: node, Names: names, Lapsed: lapsed}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return "--agent=" + strings.TrimPrefix(server.URL, "http://")
}

// someNames are names that a node knows: of a pod, of another, and of the agent; and one that is over.
func someNames() (names, lapsed []answers.Name) {
	addr, now := netip.MustParseAddr, time.Now()
	return []answers.Name{
			{Name: "api.example.com", Address: addr("203.0.113.7"), PodAddress: addr("10.1.0.1"), Namespace: "shop", Pod: "web", Expires: now.Add(42500 * time.Millisecond)},
			{Name: "api.example.com", Address: addr("203.0.113.8"), PodAddress: addr("10.1.0.3"), Namespace: "other", Pod: "job", Expires: now.Add(time.Hour + 2*time.Second)},
			{Name: "www.example.com", Address: addr("2001:db8::7"), Expires: now.Add(5*time.Minute + 900*time.Millisecond)},
		}, []answers.Name{
			{Name: "old.example.com", Address: addr("203.0.113.9"), PodAddress: addr("10.1.0.1"), Namespace: "shop", Pod: "web", Expires: now.Add(-3 * time.Minute)},
		}
}

// TestNames: a row for each address that a pod or an agent was told, of all or of some pods.
func TestNames(t *testing.T) {
	names, lapsed := someNames()
	agent := namesAgent(t, "node-1", names, lapsed)
	web := []string{"api.example.com", "203.0.113.7", "shop/web", "in", "42s"}
	job := []string{"api.example.com", "203.0.113.8", "other/job", "in", "60m"}
	own := []string{"www.example.com", "2001:db8::7", "agent", "of", "node-1", "in", "5m"}
	old := []string{"old.example.com", "203.0.113.9", "shop/web", "3m", "ago"}
	for args, want := range map[string][][]string{
		"":                      {web, job, own},
		"--lapsed -A":           {web, job, own, old},
		"-n shop":               {web, own},
		"-n shop --lapsed":      {web, own, old},
		"other/job":             {job, own},
		"web -n shop":           {web, own},
		"other/job --lapsed":    {job, own},
		"--no-headers shop/web": {web, own},
	} {
		code, out, errOut := call(t, append(strings.Fields("names "+args), agent)...)
		lines := strings.Count(out, "\n")
		if strings.Contains(out, "NAME") {
			lines--
		}
		if code != 0 || errOut != "" || lines != len(want) {
			t.Errorf("names %s: exit code %d, %s\n%s", args, code, errOut, out)
		}
		for _, row := range want {
			if !hasRow(out, row) {
				t.Errorf("names %s: no row %q:\n%s", args, row, out)
			}
		}
	}
	code, out, _ := call(t, "names", "-o", "json", "-n", "shop", agent)
	var list commands.NameList
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || list.Kind != "NameList" || list.APIVersion != commands.NamesAPIVersion || len(list.Nodes) != 1 || len(list.Nodes[0].Names) != 2 || list.Nodes[0].Node != "node-1" {
		t.Errorf("exit code %d, %v:\n%s", code, err, out)
	}
	if code, out, errOut := call(t, "names", "shop/web", namesAgent(t, "node-2", nil, lapsed)); code != 1 || out != "" || errOut != "" {
		t.Errorf("no name: exit code %d\n%s%s", code, out, errOut)
	}
	if code, out, errOut := call(t, "names", agent, "--agent=127.0.0.1:1"); code != 2 || !strings.Contains(errOut, "not all is known") || !hasRow(out, own) {
		t.Errorf("an agent that does not answer: exit code %d\n%s%s", code, out, errOut)
	}
	if code, _, errOut := call(t, "names", "deploy/shop/web", agent); code != 2 || !strings.Contains(errOut, "is no pod") {
		t.Errorf("a workload: exit code %d, %s", code, errOut)
	}
}

const namesFile = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web}
spec: {containers: [{name: web, image: web}]}
---
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: outside}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{domainNames: ["*.example.com"]}], protocols: [{tcp: {destinationPort: {number: 443}}}]}
  - {action: Deny, to: [{networks: ["0.0.0.0/0", "::/0"]}]}
`

// TestResolve: of files nobody knows what names are resolved to, but by --resolve, and a file of tests.
func TestResolve(t *testing.T) {
	dir := t.TempDir()
	file, tests := filepath.Join(dir, "policies.yaml"), filepath.Join(dir, "tests.yaml")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, namesFile)
	write(filepath.Join(dir, "new.yaml"), strings.Replace(namesFile, "number: 443", "number: 444", 1))
	write(tests, `apiVersion: explain.podfence.io/v1
kind: PolicyTest
resolutions:
- {name: api.example.com, addresses: [203.0.113.7, "2001:db8::7"]}
- {name: other.example.net, addresses: 203.0.113.8}
tests:
- {from: shop/web, to: domain/api.example.com, ports: 443, expect: allow, by: outside}
- {from: shop/web, to: [domain/other.example.net, 203.0.113.9], ports: 443, expect: deny}
---
apiVersion: explain.podfence.io/v1
kind: PolicyTest
tests:
- {from: shop/web, to: 203.0.113.7, ports: 443, expect: deny}
`)
	resolve := "--resolve=api.example.com=203.0.113.7,2001:db8::7"
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"explain", "shop/web", "203.0.113.7:443"}, 1, "which addresses *.example.com has is not known here"},
		{[]string{"explain", "shop/web", "203.0.113.7:443", resolve}, 0, "by api.example.com, which the pod was told has this address"},
		{[]string{"explain", "shop/web", "domain/api.example.com:443", resolve}, 0, "ALLOWED  shop/web -> 203.0.113.7 port 443/TCP"},
		{[]string{"explain", "shop/web", "domain/api.example.com:443"}, 2, "Which addresses api.example.com has is not known here."},
		{[]string{"explain", "shop/web", "203.0.113.7:443", "--resolve=*.example.com=203.0.113.7"}, 2, "it must be a domain name and its addresses"},
		{[]string{"explain", "shop/web", "203.0.113.7:443", "--resolve=api.example.com=here"}, 2, `"here" is no address`},
		{[]string{"reach", "shop/web", resolve}, 0, "domain/api.example.com"},
		{[]string{"reach", "--matrix", "-A", resolve}, 0, "domain/api.example.com"},
		{[]string{"test", tests}, 0, "4 of 4 as expected"},
	} {
		code, out, errOut := call(t, append(test.args, "-f", file)...)
		if code != test.code || !strings.Contains(out+errOut, test.want) {
			t.Errorf("%v: exit code %d, want %d and %q:\n%s%s", test.args, code, test.code, test.want, out, errOut)
		}
	}
	code, out, errOut := call(t, "diff", "-f", filepath.Join(dir, "new.yaml"), "--against", file, resolve)
	if code != 1 || !strings.Contains(out, "shop/web -> domain/api.example.com") {
		t.Errorf("diff: exit code %d\n%s%s", code, out, errOut)
	}
	for text, want := range map[string]string{
		"- {name: '*.example.com', addresses: [203.0.113.7]}": "without *", "- {name: api.example.com}": "addresses are missing",
		"- {name: api.example.com, addresses: [x]}": "is no address", "- {name: api.example.com, address: 203.0.113.7}": "unknown field", "- api.example.com": "must be an object",
	} {
		write(tests, "apiVersion: explain.podfence.io/v1\nkind: PolicyTest\nresolutions:\n"+text+"\ntests: [{from: shop/web, to: 203.0.113.7, expect: deny}]\n")
		if code, _, errOut := call(t, "test", tests, "-f", file); code != 2 || !strings.Contains(errOut, want) || !strings.Contains(errOut, "line 4") {
			t.Errorf("%s: exit code %d, %s", text, code, errOut)
		}
	}
}
