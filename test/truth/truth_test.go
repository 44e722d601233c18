package truth

import (
	"flag"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	histories = flag.Int("histories", 500, "histories that the model and the table go through")
	seed      = flag.Int64("seed", 1, "seed of the first history; the others follow")
	duration  = flag.Duration("duration", 0, "go on for so long instead of a number of histories")
	shrinking = flag.Duration("shrink", 2*time.Minute, "how long it may take to shrink a history in which something is wrong")
)

// length is how many steps a history has.
const length = 80

// history is what a seed stands for.
type history struct {
	setting
	steps []step
}

// outcome is what came of a history: what happened, in words, and what is wrong.
type outcome struct {
	taken []step
	texts []string
	wrong error
	came  map[string]int
}

// draw goes through a new history.
func draw(seed int64, length int, with func(setting) keeper) (history, outcome) {
	r := rand.New(rand.NewSource(seed))
	h := history{setting: newSetting(r)}
	o := h.run(with(h.setting), func(taken int) (step, bool) { return newStep(r), taken < length })
	h.steps = o.taken
	return h, o
}

// again goes through a history that there was.
func (h history) again(with func(setting) keeper) outcome {
	i := 0
	return h.run(with(h.setting), func(int) (step, bool) {
		if i++; i > len(h.steps) {
			return step{}, false
		}
		return h.steps[i-1], true
	})
}

// run takes steps and checks after each, until there are no more or something is wrong.
func (h history) run(a keeper, next func(taken int) (step, bool)) (o outcome) {
	w, err := newWorld(h.setting, a)
	defer func() {
		o.came = w.came
		if err := a.close(); o.wrong == nil {
			o.wrong = err
		}
	}()
	if o.wrong = err; err != nil {
		return o
	}
	for {
		s, more := next(len(o.taken))
		if !more {
			return o
		}
		text, ok, err := w.take(s)
		if !ok {
			continue
		}
		o.taken, o.texts = append(o.taken, s), append(o.texts, text)
		if err == nil {
			err = a.check(w)
		}
		if o.wrong = err; err != nil {
			return o
		}
	}
}

// shrink leaves out the steps that what is wrong does not need, first many at once. It
// stops after a while, whatever is left.
func (h history) shrink(with func(setting) keeper) (history, outcome) {
	began := time.Now()
	wrong := func(steps []step) bool {
		return time.Since(began) < *shrinking && history{h.setting, steps}.again(with).wrong != nil
	}
	for size := len(h.steps) / 2; size > 0; size /= 2 {
		for at := len(h.steps) - size; at >= 0; at = min(at-1, len(h.steps)-size) {
			if left := slices.Delete(slices.Clone(h.steps), at, at+size); wrong(left) {
				h.steps = left
			}
		}
	}
	o := h.again(with)
	h.steps = o.taken
	return h, o
}

func (o outcome) String() string {
	return fmt.Sprintf("%s\nthen: %v", strings.Join(o.texts, "\n"), o.wrong)
}

func onPaper(s setting) keeper { return newPaper(s.ruleset) }

// TestTruth goes through random histories with the model and the table alone.
func TestTruth(t *testing.T) { explore(t, *histories, length, onPaper, true) }

// explore goes through random histories, and shrinks the first one in which something is
// wrong.
func explore(t *testing.T, number, length int, with func(setting) keeper, all bool) {
	t.Helper()
	began, steps, n := time.Now(), 0, 0
	came := map[string]int{}
	for ; *duration == 0 && n < number || time.Since(began) < *duration; n++ {
		at := *seed + int64(n)
		h, o := draw(at, length, with)
		steps += len(o.taken)
		for situation, times := range o.came {
			came[situation] += times
		}
		if o.wrong != nil {
			least, why := h.shrink(with)
			if why.wrong == nil { // it does not happen each time
				why = o
			}
			t.Fatalf("seed %d, history %d, after %d steps, of which %d do:\n%+v\n%s", at, n+1, len(o.taken), len(least.steps), h.setting, why)
		}
	}
	took := time.Since(began)
	t.Logf("%d histories, %d steps in %v: %.0f steps a second", n, steps, took.Round(time.Millisecond), float64(steps)/took.Seconds())
	report(t, came, all && n >= 500)
}

// report says how often each kind of step and each situation came up. All must have.
func report(t *testing.T, came map[string]int, all bool) {
	t.Helper()
	for _, k := range kinds {
		came[k.name] += 0
	}
	for _, situation := range slices.Sorted(maps.Keys(came)) {
		t.Logf("%8d  %s", came[situation], situation)
		if came[situation] == 0 && all {
			t.Errorf("never came up: %s", situation)
		}
	}
}
