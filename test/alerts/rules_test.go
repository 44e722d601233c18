package alerts_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/test/alerts"
)

const rulesFile, runbooks = "../../config/prometheus/rules.yaml", "../../docs/RUNBOOKS.md"

// rules are the alerts that are installed.
func rules(t *testing.T) (groups []alerts.Group, all []alerts.Rule) {
	t.Helper()
	groups, err := alerts.Groups(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range groups {
		all = append(all, group.Rules...)
	}
	return groups, all
}

// TestRules: promtool can read the rules; each alert fires at what it is for, and none when all is well.
func TestRules(t *testing.T) {
	groups, all := rules(t)
	if _, err := alerts.Promtool(groups, nil, "check", "rules", "rules.yaml"); err != nil {
		t.Error(err)
	}
	tests, err := os.ReadFile("testdata/rules.test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := alerts.Promtool(groups, tests, "test", "rules", "tests.yaml"); err != nil || !strings.Contains(out, "SUCCESS") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, rule := range all {
		name := regexp.QuoteMeta(rule.Alert)
		if !regexp.MustCompile(`- alertname: ` + name + `\n +eval_time: .+\n +exp_alerts:`).Match(tests) {
			t.Errorf("no test has %s fire", rule.Alert)
		}
		if !regexp.MustCompile(`\{alertname: ` + name + `, eval_time: \w+\}`).Match(tests) {
			t.Errorf("no test has %s stay silent", rule.Alert)
		}
	}
}

// TestAlertsHaveRunbooks: each alert says how bad it is and what to do, in a section of its own; no section
// is of another.
func TestAlertsHaveRunbooks(t *testing.T) {
	text, err := os.ReadFile(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	var sections []string
	for i, section := range strings.Split("\n"+string(text), "\n## ") {
		if i == 0 {
			continue
		}
		name, body, _ := strings.Cut(section, "\n")
		sections = append(sections, name)
		for _, part := range []string{"**What it means.**", "**How to see more.**", "**What to do.**"} {
			if strings.Count(body, part) != 1 {
				t.Errorf("the section %s does not have one part %s", name, part)
			}
		}
	}
	_, all := rules(t)
	var names []string
	for _, rule := range all {
		names = append(names, rule.Alert)
		if severity := rule.Labels["severity"]; severity != "warning" && severity != "critical" {
			t.Errorf("%s has the severity %q", rule.Alert, severity)
		}
		if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s has no summary or no description", rule.Alert)
		}
		if want := "https://github.com/podfence/podfence/blob/main/docs/RUNBOOKS.md#" + strings.ToLower(rule.Alert); rule.Annotations["runbook_url"] != want {
			t.Errorf("%s refers to %s, not to %s", rule.Alert, rule.Annotations["runbook_url"], want)
		}
	}
	if !slices.Equal(sections, names) {
		t.Errorf("the sections are of %v, the alerts %v", sections, names)
	}
}
