package main

import (
	"fmt"
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"
)

// plots are what the template can show, by name.
var plots = map[string]func(*results) (*chart, error){
	"change":    changePlot,
	"latency":   latencyPlot,
	"memory":    memoryPlot,
	"dataplane": dataPlanePlot,
}

// changePlot is what a change costs, by the pods in the cluster.
func changePlot(r *results) (*chart, error) {
	sizes := []float64{1_000, 10_000, 100_000}
	c := newChart(1, 1)
	p := c.panels[0][0]
	p.X.Label.Text, p.Y.Label.Text = "pods in the cluster", "median time of one change, µs"
	logarithmic(&p.X)
	logarithmic(&p.Y)
	for _, kind := range []struct {
		name  string
		style line
	}{
		{"wide-policy-created", line{green, solid, draw.BoxGlyph{}}},
		{"wide-policy-deleted", line{green, dotted, draw.BoxGlyph{}}},
		{"policy-created", line{orange, solid, draw.PyramidGlyph{}}},
		{"policy-deleted", line{orange, dotted, draw.PyramidGlyph{}}},
		{"pod-created", line{blue, solid, draw.CircleGlyph{}}},
		{"pod-relabelled", line{blue, dashed, draw.CircleGlyph{}}},
		{"pod-deleted", line{blue, dotted, draw.CircleGlyph{}}},
	} {
		var points plotter.XYs
		for _, pods := range sizes {
			if pods < 10_000 && strings.HasPrefix(kind.name, "wide") {
				continue // there are not that many
			}
			f, err := r.find(fmt.Sprintf("Change/%s/pods=%.0f", kind.name, pods), "p50-us")
			if err != nil {
				return nil, err
			}
			if f != nil {
				points = append(points, plotter.XY{X: math.Log10(pods), Y: math.Log10(f.median())})
			}
		}
		if err := c.line(p, strings.ReplaceAll(kind.name, "-", " "), kind.style, points); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// latencyPlot is the share of changes that were in force by some time, a panel for
// each kind of change.
func latencyPlot(r *results) (*chart, error) {
	c := newChart(2, 2)
	for _, k := range []struct {
		panel               *plot.Plot
		title, change, kind string
	}{
		{c.panels[0][0], "a label shuts a pod out", "label", "close"},
		{c.panels[0][1], "a label lets a pod in", "label", "open"},
		{c.panels[1][0], "a policy is created that shuts it out", "policy", "close"},
		{c.panels[1][1], "it is deleted, which lets the pod in", "policy", "open"},
	} {
		p := k.panel
		p.Title.Text, p.X.Label.Text, p.Y.Label.Text = k.title, "ms after the API server's answer", "% of changes"
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = math.Log10(leastLatency), 1, 0, 100
		p.Y.Tick.Marker = evenly(25)
		logarithmic(&p.X)
		for _, size := range []struct {
			label, name string
			style       line
		}{
			{"no load", "pods=0/policies=0", line{blue, solid, draw.CircleGlyph{}}},
			{"5,000 pods, 500 policies", "pods=5000/policies=500", line{green, dashed, draw.PyramidGlyph{}}},
			{"20,000 pods, 2,000 policies", "pods=20000/policies=2000", line{orange, dotted, draw.BoxGlyph{}}},
		} {
			points, err := distribution(r, fmt.Sprintf("Latency/%s/change=%s", size.name, k.change), k.kind)
			if err != nil {
				return nil, err
			}
			if err := c.line(p, size.label, size.style, points); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// leastLatency, in ms, stands for all that is less than the time between two
// packets, 0 among it, which a logarithmic axis has no place for.
const leastLatency = 0.1

// distribution are the quantiles that a benchmark reports: how many % were in force
// by then.
func distribution(r *results, name, kind string) (points plotter.XYs, err error) {
	for _, q := range []struct {
		unit  string
		share float64
	}{{"p10", 10}, {"p25", 25}, {"p50", 50}, {"p75", 75}, {"p90", 90}, {"p95", 95}, {"p99", 99}, {"max", 100}} {
		f, err := r.find(name, kind+"-"+q.unit+"-ms")
		if err != nil {
			return nil, err
		}
		if f != nil {
			points = append(points, plotter.XY{X: math.Log10(max(leastLatency, f.median())), Y: q.share})
		}
	}
	return points, nil
}

// memoryPlot is an agent's memory, by the pods in the cluster.
func memoryPlot(r *results) (*chart, error) {
	sizes := []struct{ pods, policies float64 }{{0, 0}, {5_000, 500}, {20_000, 2_000}, {100_000, 10_000}}
	c := newChart(1, 1)
	p := c.panels[0][0]
	p.X.Label.Text, p.Y.Label.Text = "pods in the cluster, and a tenth as many policies", "MB"
	p.X.Min, p.Y.Min = 0, 0
	p.X.Tick.Marker = evenly(20_000)
	for _, kind := range []struct {
		label, unit string
		style       line
	}{
		{"peak", "MB-peak", line{orange, dashed, draw.PyramidGlyph{}}},
		{"resident", "MB-rss", line{blue, solid, draw.CircleGlyph{}}},
	} {
		var points plotter.XYs
		for _, s := range sizes {
			f, err := r.find(fmt.Sprintf("Agent/pods=%.0f/policies=%.0f", s.pods, s.policies), kind.unit)
			if err != nil {
				return nil, err
			}
			if f != nil {
				points = append(points, plotter.XY{X: s.pods, Y: f.median()})
			}
		}
		if err := c.line(p, kind.label, kind.style, points); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// dataPlanePlot is what passes with rules, of what passes with none.
func dataPlanePlot(r *results) (*chart, error) {
	rules := []struct{ label, name string }{
		{"no rules", "DataPlane/rules=empty"},
		{"10\npolicies", "DataPlane/rules=podfence/policies=10"},
		{"100\npolicies", "DataPlane/rules=podfence/policies=100"},
		{"1,000\npolicies", "DataPlane/rules=podfence/policies=1000"},
		{"100 of\none pod", "DataPlane/rules=podfence/policies-of-one-pod=100"},
		{"a jump for\neach pod", "DataPlane/rules=jump-per-pod"},
		{"installed:\nbridge", "DataPlane/installed/bridge"},
		{"installed:\nVXLAN", "DataPlane/installed/vxlan"},
		{"installed:\noutside", "DataPlane/installed/masquerade"},
	}
	c := newChart(1, 1)
	p := c.panels[0][0]
	p.Y.Label.Text, p.Y.Min, p.Y.Max, p.Y.Tick.Marker = "% of what passes with no rules", 0, 110, evenly(20)
	var labels []string
	for _, rule := range rules {
		labels = append(labels, rule.label)
	}
	p.NominalX(labels...)
	p.X.Min, p.X.Max = -0.4, float64(len(rules))-0.6
	for i, kind := range []struct {
		label, unit string
		style       line
	}{
		{"throughput", "%Gbit/s", line{blue, nil, draw.CircleGlyph{}}},
		{"packets", "%Mpkt/s", line{green, nil, draw.PyramidGlyph{}}},
		{"connections", "%conn/s", line{orange, nil, draw.BoxGlyph{}}},
	} {
		var bars errorBars
		for at, rule := range rules {
			f, err := r.find(rule.name, kind.unit)
			if err != nil {
				return nil, err
			}
			if f != nil {
				// Side by side.
				bars.XYs = append(bars.XYs, plotter.XY{X: float64(at) + 0.2*float64(i-1), Y: f.median()})
				bars.YErrors = append(bars.YErrors, struct{ Low, High float64 }{f.median() - f.low, f.high - f.median()})
			}
		}
		if err := c.bars(p, kind.label, kind.style, bars); err != nil {
			return nil, err
		}
	}
	return c, nil
}
