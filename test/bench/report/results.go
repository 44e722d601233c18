package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// results are what a folder's files say, all rounds of a benchmark together.
type results struct {
	// values by the benchmark's name and by unit, both as in the template.
	values map[string]map[string][]float64
	// config are the "key: value" lines: each key's distinct values, as they come.
	config map[string][]string
	// asked are the names that the template has asked for.
	asked map[string]bool
}

// cpus is what go test appends to a benchmark's name.
var cpus = regexp.MustCompile(`-[0-9]+$`)

func read(folder string) (*results, error) {
	names, err := fs.Glob(os.DirFS(folder), "*.txt")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no *.txt in %s", folder)
	}
	var files benchfmt.Files
	for _, name := range names {
		files.Paths = append(files.Paths, filepath.Join(folder, name))
	}
	r := &results{values: map[string]map[string][]float64{}, config: map[string][]string{}, asked: map[string]bool{}}
	for files.Scan() {
		switch record := files.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, record
		case *benchfmt.Result:
			r.add(record)
		}
	}
	return r, files.Err()
}

func (r *results) add(result *benchfmt.Result) {
	name := cpus.ReplaceAllString(result.Name.String(), "")
	if r.values[name] == nil {
		r.values[name] = map[string][]float64{}
	}
	for _, v := range result.Values {
		// As it was printed: benchfmt makes sec/op of ns/op, and B-rss of MB-rss.
		value, unit := v.Value, v.Unit
		if v.OrigUnit != "" {
			value, unit = v.OrigValue, v.OrigUnit
		}
		r.values[name][unit] = append(r.values[name][unit], value)
	}
	for _, c := range result.Config {
		if value := string(c.Value); c.File && !slices.Contains(r.config[c.Key], value) {
			r.config[c.Key] = append(r.config[c.Key], value)
		}
	}
}

// find returns a figure; nil if the benchmark did not run.
func (r *results) find(name, unit string) (*figure, error) {
	r.asked[name] = true
	units, ran := r.values[name]
	if !ran {
		return nil, nil
	}
	if units[unit] == nil {
		return nil, fmt.Errorf("%s has no %s; it has %s", name, unit, strings.Join(slices.Sorted(maps.Keys(units)), ", "))
	}
	return newFigure(unit, units[unit], units[unit+"-lo"], units[unit+"-hi"]), nil
}

// unasked are the benchmarks that ran and that nothing asked for.
func (r *results) unasked() (names []string) {
	for name := range r.values {
		if !r.asked[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// joined is what the files say of the machine; "" if nothing.
func (r *results) joined(key string) string { return strings.Join(r.config[key], ", ") }

// measured reports whether a benchmark, or one of its sub-benchmarks, ran.
func (r *results) measured(name string) bool { return r.runs(name) != "0" }

// runs is how often a benchmark and its sub-benchmarks ran: "5", or "3 to 5".
func (r *results) runs(name string) string {
	var counts []int
	for n, units := range r.values {
		if n != name && !strings.HasPrefix(n, name+"/") {
			continue
		}
		for _, values := range units {
			counts = append(counts, len(values))
		}
	}
	if len(counts) == 0 {
		return "0"
	}
	if least, most := slices.Min(counts), slices.Max(counts); least < most {
		return fmt.Sprintf("%d to %d", least, most)
	}
	return fmt.Sprint(counts[0])
}

// cells are figures of one benchmark, as cells of a table's row.
func (r *results) cells(name string, units ...string) (string, error) {
	var row []string
	for _, unit := range units {
		f, err := r.find(name, unit)
		if err != nil {
			return "", err
		}
		row = append(row, f.String())
	}
	return strings.Join(row, " | "), nil
}

// relative are a benchmark's figures as percentages of another's median.
func (r *results) relative(name, base string, units ...string) (string, error) {
	var row []string
	for _, unit := range units {
		f, err := r.percent(name, base, unit)
		if err != nil {
			return "", err
		}
		row = append(row, f.String())
	}
	return strings.Join(row, " | "), nil
}

// percent returns a figure as a percentage of another's median; nil if either did
// not run.
func (r *results) percent(name, base, unit string) (*figure, error) {
	f, err := r.find(name, unit)
	if err != nil {
		return nil, err
	}
	whole, err := r.find(base, unit)
	if err != nil || f == nil || whole == nil {
		return nil, err
	}
	return f.times("%", 100/whole.median()), nil
}

// atMost and atLeast are a bar that a figure is held to, in the figure's unit, and what came
// of it.
func (r *results) atMost(name, unit string, bar float64) (string, error) {
	return r.held(name, unit, bar, func(f *figure) (met, missed bool) { return f.high <= bar, f.low > bar })
}

func (r *results) atLeast(name, unit string, bar float64) (string, error) {
	return r.held(name, unit, bar, func(f *figure) (met, missed bool) { return f.low >= bar, f.high < bar })
}

// held says whether a bar is met or missed, or chance may have decided.
func (r *results) held(name, unit string, bar float64, to func(*figure) (met, missed bool)) (string, error) {
	f, err := r.find(name, unit)
	if err != nil {
		return "", err
	}
	text := newFigure(unit, []float64{bar}, nil, nil).String()
	if f == nil {
		return text, nil
	}
	switch met, missed := to(f); {
	case met:
		return text + ": met", nil
	case missed:
		return text + ": **missed**", nil
	default:
		return text + ": within the noise", nil
	}
}

// each is what one of count things costs, by which two benchmarks differ.
func (r *results) each(name, without, unit string, count float64) (string, error) {
	f, err := r.find(name, unit)
	if err != nil {
		return "", err
	}
	g, err := r.find(without, unit)
	if err != nil {
		return "", err
	}
	if f == nil || g == nil {
		return (*figure)(nil).String(), nil
	}
	return f.minus(g).times(unit, 1/count).String(), nil
}

// greatest is the greatest median of one benchmark's units, for prose.
func (r *results) greatest(name string, units ...string) (string, error) {
	var most *figure
	for _, unit := range units {
		f, err := r.find(name, unit)
		if err != nil || f == nil {
			return (*figure)(nil).String(), err
		}
		if most == nil || f.median() > most.median() {
			most = f
		}
	}
	return newFigure(most.unit, []float64{most.median()}, nil, nil).String(), nil
}
