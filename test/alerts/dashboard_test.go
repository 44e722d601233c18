package alerts_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/alerts"
	"github.com/podfence/podfence/test/recorder"
)

// dashboard is what the test reads of one.
type dashboard struct {
	UID           string `json:"uid"`
	Title         string `json:"title"`
	SchemaVersion int    `json:"schemaVersion"`
	Panels        []struct {
		ID          int    `json:"id"`
		Type        string `json:"type"`
		Title       string `json:"title"`
		Description string `json:"description"`
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct {
			Expr         string `json:"expr"`
			LegendFormat string `json:"legendFormat"`
		} `json:"targets"`
		FieldConfig struct {
			Defaults struct {
				Unit string `json:"unit"`
			} `json:"defaults"`
		} `json:"fieldConfig"`
	} `json:"panels"`
}

// metric is a metric of the agent's, as it is served.
type metric struct {
	kind   dto.MetricType
	labels []string
	// values are the labels' values that there are at least; nil: the labels have any.
	values []map[string]string
}

// registry keeps what it is given, and gathers it too.
type registry struct {
	*prometheus.Registry
	all []prometheus.Collector
}

func (r *registry) MustRegister(collectors ...prometheus.Collector) {
	r.all = append(r.all, collectors...)
	r.Registry.MustRegister(collectors...)
}

var (
	nameOf   = regexp.MustCompile(`fqName: "([^"]+)"`)
	labelsOf = regexp.MustCompile(`variableLabels: \{([^}]*)\}`)
)

// metrics are all that an agent has.
func metrics(t *testing.T) map[string]metric {
	t.Helper()
	r := &registry{Registry: prometheus.NewRegistry()}
	r.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	_, err := agent.New(&recorder.Kernel{}, agent.Options{
		Node: "node", Manifests: t.TempDir(), MetricsAddress: "0", HealthAddress: "0", Registry: r, Log: logr.Discard(),
		Counters: func() (nft.Counters, bool, error) { return nft.Counters{}, false, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]metric{}
	for _, collector := range r.all {
		to := make(chan *prometheus.Desc, 100)
		collector.Describe(to)
		close(to)
		for description := range to {
			m := metric{kind: dto.MetricType_GAUGE}
			for _, label := range strings.Split(labelsOf.FindStringSubmatch(description.String())[1], ",") {
				if label != "" {
					m.labels = append(m.labels, label)
				}
			}
			all[nameOf.FindStringSubmatch(description.String())[1]] = m
		}
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		m := metric{kind: family.GetType()}
		for _, one := range family.GetMetric() {
			values := map[string]string{}
			for _, label := range one.GetLabel() {
				values[label.GetName()] = label.GetValue()
				if !slices.Contains(m.labels, label.GetName()) {
					m.labels = append(m.labels, label.GetName())
				}
			}
			m.values = append(m.values, values)
		}
		all[family.GetName()] = m
	}
	return all
}

// valuesOf are the values of labels of metrics that have none before something has happened.
var valuesOf = map[string][]string{"verdict": {"allowed", "denied"}}

// series are input series of promtool for all metrics, of one target, each going up by one in a minute.
func series(all map[string]metric) (lines []string) {
	add := func(name string, labels map[string]string) {
		texts := []string{`instance="10.0.0.1:9478"`, `pod="podfence-agent-x"`}
		for label, value := range labels {
			texts = append(texts, fmt.Sprintf("%s=%q", label, value))
		}
		slices.Sort(texts)
		lines = append(lines, fmt.Sprintf("- {series: '%s{%s}', values: '1+1x120'}", name, strings.Join(texts, ",")))
	}
	for name, m := range all {
		values := m.values
		if values == nil {
			values = []map[string]string{{}}
			for _, label := range m.labels {
				var more []map[string]string
				for _, value := range append(slices.Clone(valuesOf[label]), "x")[:max(1, len(valuesOf[label]))] {
					for _, before := range values {
						one := map[string]string{label: value}
						for k, v := range before {
							one[k] = v
						}
						more = append(more, one)
					}
				}
				values = more
			}
		}
		for _, labels := range values {
			if m.kind != dto.MetricType_HISTOGRAM {
				add(name, labels)
				continue
			}
			add(name+"_sum", labels)
			add(name+"_count", labels)
			for _, le := range []string{"1", "+Inf"} {
				one := map[string]string{"le": le}
				for k, v := range labels {
					one[k] = v
				}
				add(name+"_bucket", one)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// variables are what Grafana replaces.
var variables = strings.NewReplacer("$instance", ".*", "$__rate_interval", "5m", "$__range", "1h")

var (
	metricIn    = regexp.MustCompile(`\b(podfence_\w+|process_\w+)\b`)
	groupingsIn = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
	matchersIn  = regexp.MustCompile(`[{,]\s*(\w+)\s*(?:=~|!=|!~|=)`)
	legendsIn   = regexp.MustCompile(`\{\{(\w+)\}\}`)
	suffix      = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// expectKnown: the metrics that an expression, and its legend, name are the agent's, with these labels.
func expectKnown(t *testing.T, what, expr, legend string, all map[string]metric) {
	t.Helper()
	labels := []string{"instance", "pod"} // the target's
	named := metricIn.FindAllString(expr, -1)
	if len(named) == 0 {
		t.Errorf("%s names no metric: %s", what, expr)
	}
	for _, name := range named {
		m, known := all[name]
		if !known {
			m, known = all[suffix.ReplaceAllString(name, "")]
			known = known && m.kind == dto.MetricType_HISTOGRAM
			labels = append(labels, "le")
		}
		if !known {
			t.Errorf("%s: the agent has no metric %s", what, name)
		}
		labels = append(labels, m.labels...)
	}
	var used []string
	for _, grouping := range groupingsIn.FindAllStringSubmatch(expr, -1) {
		used = append(used, strings.Split(strings.ReplaceAll(grouping[1], " ", ""), ",")...)
	}
	for _, found := range append(matchersIn.FindAllStringSubmatch(expr, -1), legendsIn.FindAllStringSubmatch(legend, -1)...) {
		used = append(used, found[1])
	}
	for _, label := range used {
		if !slices.Contains(labels, label) {
			t.Errorf("%s: %v have no label %s: %s", what, named, label, expr)
		}
	}
}

// expectResults: each expression has a result where there are all of the agent's metrics.
func expectResults(t *testing.T, exprs []string, all map[string]metric) {
	t.Helper()
	var tests strings.Builder
	fmt.Fprintf(&tests, "rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n  %s\n  promql_expr_test:\n", strings.Join(series(all), "\n  "))
	for _, expr := range exprs {
		text, _ := json.Marshal("count(" + expr + ") > bool 0") // a string of JSON is one of YAML
		fmt.Fprintf(&tests, "  - {expr: %s, eval_time: 90m, exp_samples: [{labels: '{}', value: 1}]}\n", text)
	}
	if _, err := alerts.Promtool(nil, []byte(tests.String()), "test", "rules", "tests.yaml"); err != nil {
		t.Error(err)
	}
}

// TestDashboard: what the panels ask for is there, under these names and labels, and they say what they
// show, in what unit.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../config/prometheus/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 39 {
		t.Errorf("the dashboard has the UID %q, the title %q and the schema %d", d.UID, d.Title, d.SchemaVersion)
	}
	all, ids := metrics(t), map[int]bool{}
	var exprs []string
	for i, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d (%q) has no title, or the ID of another", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, other := range d.Panels[:i] {
			a, b := p.GridPos, other.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panel %q covers %q", p.Title, other.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q has no description, no unit or no expression", p.Title)
		}
		for _, target := range p.Targets {
			expr := variables.Replace(target.Expr)
			expectKnown(t, "panel "+p.Title, expr, target.LegendFormat, all)
			exprs = append(exprs, expr)
		}
	}
	if len(exprs) < 20 {
		t.Errorf("there are %d expressions", len(exprs))
	}
	expectResults(t, exprs, all)
}

// TestRulesAreOfMetrics: so is what the alerts ask for.
func TestRulesAreOfMetrics(t *testing.T) {
	_, rules := rules(t)
	all := metrics(t)
	for _, rule := range rules {
		legend := regexp.MustCompile(`\$labels\.(\w+)`).ReplaceAllString(rule.Annotations["summary"]+rule.Annotations["description"], "{{$1}}")
		expectKnown(t, rule.Alert, rule.Expr, legend, all)
	}
}
