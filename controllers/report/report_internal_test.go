package report

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestEachOutcomeIsReported: each kind of outcome has its line in the log, its metric, or its part
// in readiness, and none is unknown.
func TestEachOutcomeIsReported(t *testing.T) {
	broken := errors.New("the kernel said no")
	key, cluster := policy.Key{Namespace: "shop", Name: "deny"}, policy.Key{Name: "fence"}
	intent := policy.NewModel("node").Intent()
	reported := map[string]bool{}
	for _, c := range []struct {
		outcome enforcer.Outcome
		says    string // in the log
		counts  string // a metric that is 1
	}{
		{enforcer.Started{}, "", ""},
		{enforcer.Transacted{Operations: 1}, "", `podfence_commits_total{"success"}`},
		{enforcer.Transacted{Err: broken}, "", `podfence_commits_total{"error"}`},
		{enforcer.Committed{Intent: &intent, Replaced: true, Operations: 9}, "Replaced the table", ""},
		{enforcer.Settled{Size: ruleset.Size{Sets: 1}, Quarantined: 1}, "A condition is over", `podfence_policies_refused{}`},
		{enforcer.Failed{Err: broken, RetryAfter: time.Second}, "Cannot commit", `podfence_unhealthy{"CommitFailed"}`},
		{enforcer.Mismatched{Err: broken}, "not as podfence had left it", `podfence_mismatches_total{}`},
		{enforcer.Quarantined{Refused: []policy.Key{key}, Err: broken}, "shop/deny", ""},
		{enforcer.Quarantined{Refused: []policy.Key{cluster, key}, Err: broken}, `"networkPolicies"="shop/deny" "clusterNetworkPolicies"="fence"`, ""},
		{enforcer.Quarantined{Untried: []policy.Key{cluster}, Err: broken}, `"networkPolicies"=""`, ""},
		{enforcer.OverBudget{Quarantined: []policy.Key{key}}, "shop/deny", ""},
		{enforcer.OverBudget{Released: []policy.Key{cluster}}, `changed" "clusterNetworkPolicies"="fence"`, ""},
		{enforcer.Tampered{Tampering: nft.Tampering{Process: "nft", Changes: []string{"flush"}}, InARow: 1}, "Somebody else has changed the table", ""},
		{enforcer.Repaired{After: time.Second}, "Repaired the table", `podfence_repairs_total{}`},
		{enforcer.Revoked{Revoked: 1, Denied: []enforcer.Denial{{By: "egress of shop/web, by shop/deny", Flows: 1}}}, "by shop/deny (1)", `podfence_flows_total{"revoked"}`},
		{enforcer.Rehearsed{Policies: 1, Pods: 2}, "staged policies would do", `podfence_staged_policies{}`},
		{enforcer.Rehearsed{Policies: 2, Pods: 1}, `"pods"=1`, `podfence_staged_pods{}`},
		{enforcer.WouldRevoke{Flows: 3}, `"flows"=3`, ""},
		{enforcer.Troubled{What: "Cannot judge", Err: broken, RetryAfter: time.Second}, "Cannot judge", ""},
	} {
		var lines []string
		registry := prometheus.NewRegistry()
		r := New(Options{Node: "node", Registry: registry, Log: funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})})
		r.Of(enforcer.New(nil, enforcer.Options{Node: "node"}))
		lines = nil
		r.Report(c.outcome)
		if said := strings.Join(lines, "\n"); !strings.Contains(said, c.says) {
			t.Errorf("%T: the log says %q, not %q", c.outcome, said, c.says)
		}
		if c.counts != "" && !ones(t, registry)[c.counts] {
			t.Errorf("%T: %s is not 1", c.outcome, c.counts)
		}
		reported[fmt.Sprintf("%T", c.outcome)] = true
	}
	text, err := os.ReadFile("../enforcer/outcome.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`(?m)^func \((\w+)\) outcome\(\)`).FindAllStringSubmatch(string(text), -1)
	if len(kinds) < 10 {
		t.Errorf("only %d kinds of outcomes seen", len(kinds))
	}
	for _, kind := range kinds {
		if !reported["enforcer."+kind[1]] {
			t.Errorf("no test reports %s", kind[1])
		}
	}
}

// ones are the metrics that are 1, with their labels' values.
func ones(t *testing.T, registry *prometheus.Registry) map[string]bool {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if metric.GetCounter().GetValue()+metric.GetGauge().GetValue() != 1 {
				continue
			}
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, fmt.Sprintf("%q", label.GetValue()))
			}
			found[fmt.Sprintf("%s{%s}", family.GetName(), strings.Join(labels, ","))] = true
		}
	}
	return found
}
