package kernel_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

func (n *namespace) counters(t testing.TB) *kernel.Counters {
	t.Helper()
	counters, err := n.open().OpenCounters(kernel.Options{NetNS: n.fd})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = counters.Close() })
	return counters
}

// numbered gives each counter of a table's text a number of its own, and returns these by chain, in order.
func numbered(text string) (string, map[string][]uint64) {
	chain, n := "", uint64(0)
	numbers := map[string][]uint64{}
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		if begins := regexp.MustCompile(`^\tchain "?([^" ]+)"? \{`).FindStringSubmatch(line); begins != nil {
			chain = begins[1]
		}
		if strings.HasPrefix(line, "\t\t") && regexp.MustCompile(`\bcounter (drop|accept|reject|return|masquerade|jump)`).MatchString(line) {
			n++
			numbers[chain] = append(numbers[chain], n)
			line = strings.Replace(line, "counter ", fmt.Sprintf("counter packets %d bytes 1 ", n), 1)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n"), numbers
}

// TestCounters: what each rule has counted is read at the rule's place in its chain, from a table that nft has
// loaded with a number at each rule.
func TestCounters(t *testing.T) {
	paths, err := filepath.Glob("../testdata/*.nft")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens in ../testdata: %v", err)
	}
	for _, name := range paths {
		table := tableOf(t, strings.TrimSuffix(name, ".nft"))
		if table.Family != nft.Inet {
			continue
		}
		n := newNamespace(t)
		counters := n.counters(t)
		if none, whole, err := counters.Read(); err != nil || !whole || none.Table != 0 || len(none.Chains) != 0 {
			t.Fatalf("without a table: %v, whole %t, %v", none, whole, err)
		}
		text, want := numbered(table.Text())
		n.load(text)
		have, whole, err := counters.Read()
		if err != nil || !whole || have.Table == 0 {
			t.Fatalf("%s: table %d, whole %t, %v", name, have.Table, whole, err)
		}
		packets, handles, rules := map[string][]uint64{}, map[uint64]bool{}, 0
		for _, chain := range slices.Sorted(maps.Keys(table.Chains)) {
			if len(have.Chains[chain]) != len(table.Chains[chain].Rules) {
				t.Fatalf("%s: chain %s has %d rules, and %d were read", name, chain, len(table.Chains[chain].Rules), len(have.Chains[chain]))
			}
			for i, counted := range have.Chains[chain] {
				handles[counted.Handle] = true
				rules++
				if counted.Counter != table.Chains[chain].Rules[i].Counter {
					t.Errorf("%s: chain %s, rule %d: counts: %t", name, chain, i, counted.Counter)
				}
				if counted.Counter {
					packets[chain] = append(packets[chain], counted.Packets)
				}
			}
		}
		if diff := cmp.Diff(want, packets); diff != "" || len(handles) != rules || len(want) < 3 {
			t.Errorf("%s: %d handles of %d rules (-want +have):\n%s", name, len(handles), rules, diff)
		}
	}
}

// TestCountersOfAnotherTable: a table that is made anew has another number, and one whose rules are
// replaced in place has rules of other numbers, so that nobody takes their counts for the old ones'.
func TestCountersOfAnotherTable(t *testing.T) {
	n := newNamespace(t)
	conn, counters := n.open(), n.counters(t)
	plan := ruleset.Build(policy.Intent{}, ruleset.Options{}).Replacement()
	read := func() nft.Counters {
		t.Helper()
		if err := conn.Apply(plan); err != nil {
			t.Fatal(err)
		}
		read, whole, err := counters.Read()
		if err != nil || !whole || read.Table == 0 {
			t.Fatalf("%v, whole %t, %v", read, whole, err)
		}
		return read
	}
	first := read()
	for what, remake := range map[string]func(){"in place": func() {}, "anew": func() {
		if err := conn.Uninstall(); err != nil {
			t.Fatal(err)
		}
	}} {
		remake()
		again := read()
		if again.Table == first.Table {
			for chain, rules := range again.Chains {
				for i, rule := range rules {
					if rule.Handle == first.Chains[chain][i].Handle {
						t.Errorf("%s: rule %d of chain %s is the same as before", what, i, chain)
					}
				}
			}
		} else if what == "in place" {
			t.Error("replaced in place, the table is another one")
		}
		if what == "anew" && again.Table == first.Table {
			t.Error("made anew, the table is the same as before")
		}
		first = again
	}
	if err := counters.Close(); err != nil {
		t.Error(err)
	}
}
