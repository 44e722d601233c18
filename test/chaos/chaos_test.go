package chaos

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/test/lab"
)

var (
	full  = flag.Bool("chaos", false, "make each fault happen as often as docs/RELIABILITY.md says")
	table = flag.String("table", "", "write the table of faults to this file")
)

// times is how often a fault happens: often with -chaos, else a few times.
func times(often int) int {
	if *full {
		return often
	}
	return min(often, 3)
}

// outcome is what one fault has led to.
type outcome struct {
	// times is how often it was made to happen.
	times int
	// denied packets were sent, and leaked of them arrived.
	denied, leaked int64
	// allowed flows, or exchanges, were under way or tried, and broken of them
	// were cut, or did not come about.
	allowed, broken int64
	// repair is the longest time until what should be in force was so again; 0
	// where nothing has to be repaired.
	repair time.Duration
}

// repaired is repair in words.
func (o outcome) repaired() string {
	if o.repair == 0 {
		return "-"
	}
	return o.repair.Round(100 * time.Microsecond).String()
}

func (o outcome) String() string {
	return fmt.Sprintf("%d times: %d of %d denied packets leaked, %d of %d allowed flows broken, repaired in %s",
		o.times, o.leaked, o.denied, o.broken, o.allowed, o.repaired())
}

// recorded are the faults in the order in which they ended.
var recorded struct {
	sync.Mutex
	faults   []string
	outcomes []outcome
}

// record prints a fault's line, and fails the test if anything leaked or broke, or
// if nothing was there to leak.
func record(t *testing.T, fault string, o outcome) {
	t.Helper()
	fmt.Printf("chaos: %s: %s\n", fault, o)
	recorded.Lock()
	recorded.faults, recorded.outcomes = append(recorded.faults, fault), append(recorded.outcomes, o)
	recorded.Unlock()
	if o.leaked > 0 || o.broken > 0 {
		t.Errorf("%s: leaked or broken", fault)
	}
	if o.times == 0 || o.denied == 0 {
		t.Errorf("%s: shows nothing", fault)
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := lab.Check(); err != nil {
		fmt.Fprintln(os.Stderr, "the faults need network namespaces:", err)
		os.Exit(1)
	}
	code := m.Run()
	if *table != "" && code == 0 {
		if err := os.WriteFile(*table, []byte(rows()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// rows is the table in Markdown.
func rows() string {
	var b strings.Builder
	b.WriteString("| fault | times | denied packets | leaked | allowed flows | broken | repaired in |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for i, o := range recorded.outcomes {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %s |\n", recorded.faults[i], o.times, o.denied, o.leaked, o.allowed, o.broken, o.repaired())
	}
	return b.String()
}
