package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/test/quantiles"
)

// outcome is what one fault has led to.
type outcome struct {
	// times is how often it was made to happen, refused how often the kernel did
	// not let it.
	times, refused int
	// denied packets were sent, and leaked of them arrived, but for those that
	// were sent until what the fault had undone was repaired.
	denied, leaked int64
	// allowed flows, or exchanges, were under way or tried, and broken of them
	// were cut, or did not come about, but for those that were begun until the
	// repair.
	allowed, broken int64
	// late are new flows whose first packet was lost, and sent again.
	late int64
	// leakedBefore and brokenBefore are those that happened until the repair.
	leakedBefore, brokenBefore int64
	// repair is the longest time until what should be in force was so again, and
	// typical its median; 0 where nothing has to be repaired.
	repair, typical time.Duration
}

// repairedIn sets repair and typical.
func (o *outcome) repairedIn(times []time.Duration) {
	if len(times) > 0 {
		o.repair, o.typical = slices.Max(times), median(times)
	}
}

func median(times []time.Duration) time.Duration {
	return quantiles.Median(times, func(d time.Duration) time.Duration { return d })
}

// repaired is repair in words.
func (o outcome) repaired() string {
	switch {
	case o.times > 0 && o.refused == o.times:
		return "refused"
	case o.repair == 0:
		return "-"
	case o.typical == 0:
		return rounded(o.repair)
	}
	return rounded(o.typical) + ", " + rounded(o.repair)
}

func rounded(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

// before is what happened until the repair, in words.
func (o outcome) before() string {
	if o.leakedBefore+o.brokenBefore == 0 {
		return "-"
	}
	return fmt.Sprintf("%d leaked, %d broken", o.leakedBefore, o.brokenBefore)
}

func (o outcome) String() string {
	s := fmt.Sprintf("%d times: %d of %d denied packets leaked, %d of %d allowed flows broken, %d late, repaired in %s",
		o.times, o.leaked, o.denied, o.broken, o.allowed, o.late, o.repaired())
	if o.leakedBefore+o.brokenBefore > 0 {
		s += "; until then " + o.before()
	}
	return s
}

// recorded are the faults in the order in which they ended.
var recorded struct {
	sync.Mutex
	faults   []string
	outcomes []outcome
}

// record prints a fault's line, and fails the test if anything leaked or broke that
// should not have, or if nothing was there to leak.
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

// rows is the table in Markdown.
func rows() string {
	var b strings.Builder
	b.WriteString("| fault | times | denied packets | leaked | allowed exchanges | broken | late | repaired in (median, longest) | until then |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for i, o := range recorded.outcomes {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %s | %s |\n",
			recorded.faults[i], o.times, o.denied, o.leaked, o.allowed, o.broken, o.late, o.repaired(), o.before())
	}
	return b.String()
}
