package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const marks = "a\n<!-- conformance-cnp: written by make conformance-cnp -->\n%s<!-- /conformance-cnp -->\nb\n"

// results has two runs of each cluster with each channel, of which one has failed.
func results(t *testing.T) (folder, docs string) {
	t.Helper()
	folder, docs = t.TempDir(), t.TempDir()
	for _, k := range keys() {
		for n := 1; n <= 2; n++ {
			passed, failed, experimental := 20, "", ""
			if k == (key{"standard", "dual", "nftables"}) && n == 2 {
				passed, failed = 18, `, "failedTests": ["B", "A"]`
			}
			if k.channel == "experimental" {
				experimental = `, "experimental": {"statistics": {"Passed": 6, "Skipped": 0, "Failed": 0}}`
			}
			run := filepath.Join(folder, k.String(), fmt.Sprint(n))
			write(t, filepath.Join(run, "outcome.json"), fmt.Sprintf(`{
				"report": {
					"implementation": {"version": "v1"}, "networkPolicyBundleVersion": "v0.3.0",
					"profiles": [{"standard": {"statistics": {"Passed": %d, "Skipped": 4, "Failed": %d}%s}%s}]
				},
				"seconds": 100, "leftOut": ["four tests"]
			}`, passed, 20-passed, failed, experimental))
			write(t, filepath.Join(run, "report.yaml"), run+"\n")
		}
	}
	write(t, filepath.Join(docs, "CONFORMANCE.md"), fmt.Sprintf(marks, "old\n"))
	return folder, docs
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPublish(t *testing.T) {
	folder, docs := results(t)
	if err := run([]string{folder, docs}); err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(text(t, filepath.Join(docs, "CONFORMANCE.md")), ", in 26m40s.\n\n")
	got, _, _ = strings.Cut(got, "<!--")
	const want = `| channel | family | kube-proxy | run 1 | run 2 | left out |
| --- | --- | --- | --- | --- | --- |
| standard | ipv4 | nftables | 20 of 20, 100 s | 20 of 20, 100 s | 4 |
| standard | ipv4 | iptables | 20 of 20, 100 s | 20 of 20, 100 s | 4 |
| standard | dual | nftables | 20 of 20, 100 s | 18 of 20, 100 s | 4 |
| standard | dual | iptables | 20 of 20, 100 s | 20 of 20, 100 s | 4 |
| experimental | ipv4 | nftables | 26 of 26, 100 s | 26 of 26, 100 s | 4 |
| experimental | ipv4 | iptables | 26 of 26, 100 s | 26 of 26, 100 s | 4 |
| experimental | dual | nftables | 26 of 26, 100 s | 26 of 26, 100 s | 4 |
| experimental | dual | iptables | 26 of 26, 100 s | 26 of 26, 100 s | 4 |

The suite of v0.3.0, podfence v1.

Failed:

- standard/dual-nftables, run 2: ` + "`A`, `B`" + `

- four tests
`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	for channel, of := range map[string]string{"standard": "standard/dual-nftables/2", "experimental": "experimental/ipv4-nftables/1"} {
		if got, want := text(t, filepath.Join(docs, "conformance", "v0.3.0-"+channel+".yaml")), filepath.Join(folder, of)+"\n"; got != want {
			t.Errorf("%s: the report of %q, want %q", channel, got, want)
		}
	}
}

// TestIncomplete: what was not run, or came to no report, is said; without any result of a channel the
// documents stay as they are.
func TestIncomplete(t *testing.T) {
	for name, c := range map[string]struct{ path, row string }{
		"a cluster": {"standard/ipv4-iptables", "| standard | ipv4 | iptables | not run | | |\n"},
		"a report":  {"experimental/dual-iptables/2/outcome.json", "| experimental | dual | iptables | 26 of 26, 100 s | | 4 |\n"},
	} {
		folder, docs := results(t)
		if err := os.RemoveAll(filepath.Join(folder, c.path)); err != nil {
			t.Fatal(err)
		}
		if err := run([]string{folder, docs}); err != nil {
			t.Fatal(err)
		}
		if got := text(t, filepath.Join(docs, "CONFORMANCE.md")); !strings.Contains(got, c.row) {
			t.Errorf("without %s: %s", name, got)
		}
	}
	folder, docs := results(t)
	if err := os.RemoveAll(filepath.Join(folder, "experimental")); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{folder, docs}); err != nil {
		t.Fatal(err)
	}
	if got, want := text(t, filepath.Join(docs, "CONFORMANCE.md")), fmt.Sprintf(marks, "old\n"); got != want {
		t.Errorf("without a channel: %q", got)
	}
	if _, err := os.Stat(filepath.Join(docs, "conformance")); err == nil {
		t.Error("without a channel: reports were published")
	}
}
