package alerts_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/podfence/podfence/test/alerts"
)

// film is what was scraped of agents, a frame for each minute, so that a fault of some seconds is one of
// some minutes, as alerts want.
type film []map[string]float64

// frame is one scrape of an agent: the podfence metrics by their series.
func frame(instance string, families map[string]*dto.MetricFamily) map[string]float64 {
	values := map[string]float64{}
	for name, family := range families {
		if !strings.HasPrefix(name, "podfence_") {
			continue
		}
		for _, m := range family.GetMetric() {
			labels := []string{fmt.Sprintf("instance=%q", instance)}
			for _, label := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
			}
			series := func(suffix string, more ...string) string {
				return name + suffix + "{" + strings.Join(append(slices.Clone(labels), more...), ",") + "}"
			}
			if h := m.GetHistogram(); h != nil {
				values[series("_count")], values[series("_sum")] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, bucket := range h.GetBucket() {
					values[series("_bucket", fmt.Sprintf(`le="%g"`, bucket.GetUpperBound()))] = float64(bucket.GetCumulativeCount())
				}
				values[series("_bucket", `le="+Inf"`)] = float64(h.GetSampleCount())
				continue
			}
			values[series("")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		}
	}
	return values
}

// parsed reads what an agent serves on /metrics.
func parsed(t *testing.T, exposition string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(exposition))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// of is the sum of the values of a metric in the last frame, of the series that have all of the labels.
func (f film) of(name string, labels ...string) (sum float64) {
	for series, value := range f[len(f)-1] {
		has := strings.HasPrefix(series, name+"{")
		for _, label := range labels {
			has = has && strings.Contains(series, label)
		}
		if has {
			sum += value
		}
	}
	return sum
}

// hold has the last frame stay for so many minutes.
func (f *film) hold(minutes int) {
	for range minutes {
		*f = append(*f, (*f)[len(*f)-1])
	}
}

// expectFiring: the alert, as it is installed, does not fire at the end of the quiet minutes that the film
// begins with, nor does any other, and fires at its end.
func (f film) expectFiring(t *testing.T, alert string, quiet int) {
	t.Helper()
	all := map[string]struct{}{}
	for _, frame := range f {
		for series := range frame {
			all[series] = struct{}{}
		}
	}
	var tests strings.Builder
	tests.WriteString("rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n")
	for _, series := range slices.Sorted(maps.Keys(all)) {
		var values []string
		for _, frame := range f {
			if value, has := frame[series]; has {
				values = append(values, fmt.Sprintf("%g", value))
			} else {
				values = append(values, "_")
			}
		}
		fmt.Fprintf(&tests, "  - {series: '%s', values: '%s'}\n", strings.ReplaceAll(series, "'", "''"), strings.Join(values, " "))
	}
	tests.WriteString("  promql_expr_test:\n")
	expect := func(minute int, matcher string, count int) {
		fmt.Fprintf(&tests, "  - {expr: 'count(ALERTS{alertstate=\"firing\"%s}) or vector(0)', eval_time: %dm, exp_samples: [{labels: '{}', value: %d}]}\n", matcher, minute, count)
	}
	expect(quiet-1, "", 0)
	expect(len(f)-1, fmt.Sprintf(`,alertname=%q`, alert), 1)
	groups, _ := rules(t)
	if _, err := alerts.Promtool(groups, []byte(tests.String()), "test", "rules", "tests.yaml"); err != nil {
		t.Errorf("%s: %v", alert, err)
	}
}
