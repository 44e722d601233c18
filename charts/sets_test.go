package charts

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSetsEqualOverlays: each set of values of which the chart's README says that it is the same as a
// part of config is so: an overlay, and a component in each of the overlays. Lists that Kubernetes reads by name
// may be in another order.
func TestSetsEqualOverlays(t *testing.T) {
	overlays, components := documentedSets(t)
	if len(overlays) != 3 || len(components) < 3 {
		t.Fatalf("the README has the overlays %v and the components %v", overlays, components)
	}
	for overlay, values := range overlays {
		for component, more := range components {
			t.Run(overlay+" with "+component, func(t *testing.T) {
				sets := append(slices.Concat(values, more), `namespace.create=true`)
				for i, set := range sets { // what --set takes, as JSON
					if name, value, _ := strings.Cut(set, "="); name == "cni.mode" {
						sets[i] = name + `="` + value + `"`
					}
				}
				got, want := render(t, sets...), withComponent(t, overlay, component)
				byName(got)
				byName(want)
				compare(t, got, want)
			})
		}
	}
}

// documentedSets are the sets of values in the README's table, by the overlay or the component that they equal. No
// component is one, too.
func documentedSets(t *testing.T) (overlays, components map[string][]string) {
	t.Helper()
	readme, err := os.ReadFile("podfence/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## The same by kustomize\n")
	section, _, _ = strings.Cut(section, "\n## ")
	overlays, components = map[string][]string{}, map[string][]string{"no component": nil}
	code := regexp.MustCompile("`([^`]+)`")
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*`) \\| (component )?`([a-z/-]+)` \\|$").FindAllStringSubmatch(section, -1) {
		var sets []string
		for _, set := range code.FindAllStringSubmatch(row[1], -1) {
			sets = append(sets, set[1])
		}
		if row[2] == "" {
			overlays[row[3]] = sets
		} else {
			components[row[3]] = sets
		}
	}
	if rows := strings.Count(section, "\n| `"); rows != len(overlays)+len(components)-1 {
		t.Fatalf("of %d rows, only %d overlays and %d components can be read", rows, len(overlays), len(components)-1)
	}
	return overlays, components
}

// withComponent is the objects of an overlay in config with a component more.
func withComponent(t *testing.T, name, component string) map[string]any {
	t.Helper()
	if component == "no component" {
		return overlay(t, name, false)
	}
	config := t.TempDir()
	if err := os.CopyFS(config, os.DirFS("../config")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(config, name, "kustomization.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if before, after, found := strings.Cut(string(text), "\ncomponents:\n"); found {
		text = []byte(before + "\ncomponents:\n- ../" + component + "\n" + after)
	} else {
		text = append(text, "\ncomponents:\n- ../"+component+"\n"...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := tool(t, "kustomize", "build", filepath.Join(config, name))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, out)
}

// byName puts lists of objects that have names into the order of the names, everywhere in a value.
func byName(value any) {
	switch value := value.(type) {
	case map[string]any:
		for _, part := range value {
			byName(part)
		}
	case []any:
		for _, part := range value {
			byName(part)
		}
		name := func(part any) string {
			object, _ := part.(map[string]any)
			text, _ := object["name"].(string)
			return text
		}
		slices.SortStableFunc(value, func(a, b any) int { return cmp.Compare(name(a), name(b)) })
	}
}
