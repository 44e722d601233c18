//go:build hubble

package hubble

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/controllers/hubble"
)

// TestObserve: what the CLI prints of the flows, by each of its filters.
func TestObserve(t *testing.T) {
	n := serve(t, "node-1", hubble.TLSFiles{}, func() []hubble.Peer { return nil }, ofNode("node-1")...)
	const (
		denied   = "12:00:00 POLICY_DENIED"
		rule     = "12:00:01 POLICY_DENY"
		spoofed  = "12:00:02 INVALID_SOURCE_IP"
		asked    = "12:00:03 FORWARDED"
		all      = denied + "," + denied + "," + rule + "," + rule + "," + spoofed + "," + asked + "," + asked
		denials  = denied + "," + denied + "," + rule + "," + rule + "," + spoofed
		verdicts = denied + "," + rule + "," + asked
	)
	for args, want := range map[string]string{
		"":                                       all,
		"--verdict DROPPED --print-policy-names": denials,
		"--verdict FORWARDED":                    asked + "," + asked,
		"--namespace shop":                       all,
		"--namespace kube-system":                asked + "," + asked,
		"--to-namespace shop":                    denied + "," + denied + "," + spoofed,
		"--pod shop/db":                          denied + "," + denied + "," + spoofed,
		"--pod db":                               "",
		"--from-pod shop/web --to-pod /dns":      asked + "," + asked,
		"--label app=db":                         denied + "," + denied + "," + spoofed,
		"--from-label reserved:world":            spoofed,
		"--label k8s:app=dns":                    asked + "," + asked,
		"--to-label app!=db":                     rule + "," + rule + "," + asked + "," + asked,
		"--service kube-system/kube-dns":         asked + "," + asked,
		"--port 5432":                            denied + "," + denied + "," + spoofed,
		"--from-port 41000":                      asked + "," + asked,
		"--protocol udp":                         asked + "," + asked,
		"--protocol tcp --to-port 80":            rule + "," + rule,
		"--ip 169.254.0.0/16":                    rule + "," + rule,
		"--from-ip fd00::3":                      asked + "," + asked,
		"--ipv6":                                 asked + "," + asked,
		"--drop-reason-desc POLICY_DENY":         rule + "," + rule,
		"--type policy-verdict":                  verdicts,
		"--type drop":                            denied + "," + rule + "," + spoofed,
		"--type trace:to-endpoint":               asked,
		"--traffic-direction egress":             rule + "," + rule,
		"--tcp-flags SYN --type drop":            denied + "," + rule + "," + spoofed,
		"--node-name node-*":                     all,
		"--node-name node-2":                     "",
		"--identity world --verdict DROPPED":     rule + "," + rule + "," + spoofed,
		"--workload Deployment/dns":              asked + "," + asked,
		"--cluster default --type drop":          denied + "," + rule + "," + spoofed,
		"--not --namespace shop":                 "",
		"--not --port 5432":                      rule + "," + rule + "," + asked + "," + asked,
		"--not --fqdn *.cluster.local":           all,
		"--since 2026-03-01T12:00:01Z":           rule + "," + rule + "," + spoofed + "," + asked + "," + asked,
		"--until 2026-03-01T12:00:01Z":           denied + "," + denied + "," + rule + "," + rule,
		"--last 1":                               asked,
		"--last 2 --verdict DROPPED":             rule + "," + spoofed,
		"--first 1":                              denied,
		"--reply":                                "",
	} {
		words := append(strings.Fields(args), "-o", "json")
		if !strings.Contains(args, "--last") && !strings.Contains(args, "--first") && !strings.Contains(args, "--since") && !strings.Contains(args, "--until") {
			words = append(words, "--last", "100")
		}
		var have []string
		for _, line := range observe(t, n.address, words...) {
			have = append(have, short(t, line))
		}
		if strings.Join(have, ",") != want {
			t.Errorf("hubble observe %s:\n%s, want\n%s", args, strings.Join(have, ","), want)
		}
	}
}

// printed is what is read of a line of -o json.
type printed struct {
	Flow struct {
		Time           time.Time
		Verdict        string
		DropReasonDesc string `json:"drop_reason_desc"`
		NodeName       string `json:"node_name"`
		UUID           string
	}
	NodeName string `json:"node_name"`
}

func read(t *testing.T, line string) (p printed) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &p); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return p
}

// short is the time of a flow and why it was dropped.
func short(t *testing.T, line string) string {
	t.Helper()
	f := read(t, line).Flow
	if f.DropReasonDesc != "" {
		f.Verdict = f.DropReasonDesc
	}
	return f.Time.Format(time.TimeOnly) + " " + f.Verdict
}

// TestUUID: a flow can be asked for by its UUID.
func TestUUID(t *testing.T) {
	n := serve(t, "node-1", hubble.TLSFiles{}, func() []hubble.Peer { return nil }, ofNode("node-1")...)
	first := observe(t, n.address, "--last", "3", "-o", "json")[0]
	if again := observe(t, n.address, "--uuid", read(t, first).Flow.UUID, "-o", "json"); !slices.Equal(again, []string{first}) {
		t.Errorf("%q, want %q", again, first)
	}
}

// TestDocumentedLines: the lines that docs/HUBBLE.md shows are what the CLI prints, policies' names and all.
func TestDocumentedLines(t *testing.T) {
	n := serve(t, "node-1", hubble.TLSFiles{}, func() []hubble.Peer { return nil }, ofNode("node-1")...)
	text, err := os.ReadFile("../../docs/HUBBLE.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)\\$ hubble observe (--[^\n]*)\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("there is no example")
	}
	have := observe(t, n.address, strings.Fields(string(block[1]))...)
	if want := lines(string(block[2])); !slices.Equal(have, want) {
		t.Errorf("hubble observe %s prints\n%s\nand the document has\n%s", block[1], strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// TestFollow: hubble observe --follow prints what comes.
func TestFollow(t *testing.T) {
	n := serve(t, "node-1", hubble.TLSFiles{}, func() []hubble.Peer { return nil }, ofNode("node-1")...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := program(ctx, t, "hubble", "observe", "--server", n.address, "--follow", "--last", "1", "--type", "drop", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(out)
	for second, want := range []string{"12:00:02 INVALID_SOURCE_IP", "12:01:01 POLICY_DENIED", "12:01:02 POLICY_DENIED"} {
		if second > 0 {
			n.store.Add(denial("node-1", 60+second))
		}
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if have := short(t, line); have != want {
			t.Errorf("%s, want %s", have, want)
		}
	}
	cancel()
	_ = cmd.Wait() // it was killed
}

// TestRefusals: what podfence cannot filter by, the CLI says, and so for events that it has not.
func TestRefusals(t *testing.T) {
	n := serve(t, "node-1", hubble.TLSFiles{}, func() []hubble.Peer { return nil }, ofNode("node-1")...)
	for args, want := range map[string]string{
		"observe --fqdn example.com":        "destination_fqdn, source_fqdn",
		"observe --http-status 404":         "http_status_code",
		"observe --snat-ip 10.0.0.1":        "source_ip_xlated",
		"observe --cel-expression true":     "CEL",
		"observe --from-service shop/web":   "source_service",
		"observe --verdict REDIRECTED":      "verdict",
		"observe --to-label a=b=c":          "destination_label",
		"observe agent-events --last 1":     "kubectl podfence status",
		"observe debug-events --last 1":     "kubectl podfence explain",
		"observe --last 5 --node-label a=b": "node_labels",
		"observe --interface eth0 --last 5": "interface",
		"observe --protocol http --last 5":  "protocol",
		"observe --trace-id 00 --follow":    "trace_id",
		"observe --encrypted --last 5":      "encrypted",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := program(ctx, t, "hubble", append(strings.Fields(args), "--server", n.address)...).CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("hubble %s: %v, want %q in\n%s", args, err, want, out)
		}
	}
}

// TestStatusAndLists: the CLI's other commands.
func TestStatusAndLists(t *testing.T) {
	n := serve(t, "node-1", hubble.TLSFiles{}, func() []hubble.Peer { return []hubble.Peer{{Name: "node-1", Address: "10.0.0.1:4244"}} }, ofNode("node-1")...)
	recent := denial("node-1", 0)
	recent.Time = time.Now()
	n.store.Add(recent)
	for args, want := range map[string][]string{
		"status":          {"Ok", "5/64"},
		"list nodes":      {"node-1", "5/64"},
		"list namespaces": {"shop"},
	} {
		out, err := program(t.Context(), t, "hubble", append(strings.Fields(args), "--server", n.address)...).CombinedOutput()
		for _, want := range want {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("hubble %s: %v, want %q in\n%s", args, err, want, out)
			}
		}
	}
}
