package controllers

import (
	"testing"
	"time"
)

func TestRepairsArePaused(t *testing.T) {
	var r repairs
	now := time.Now()
	for round := range 2 {
		var pauses []time.Duration
		for range atOnce + 12 {
			pause := r.next(now)
			pauses = append(pauses, pause)
			now = now.Add(pause + time.Millisecond)
		}
		for i, pause := range pauses {
			switch {
			case i < atOnce && pause != 0:
				t.Errorf("round %d: repair %d waits %s", round, i+1, pause)
			case i == atOnce && pause != 50*time.Millisecond:
				t.Errorf("round %d: the first in a fight waits %s", round, pause)
			case i > atOnce && pause < pauses[i-1], pause > 5*time.Second:
				t.Errorf("round %d: the pauses are %v", round, pauses)
			}
		}
		if last := pauses[len(pauses)-1]; last != 5*time.Second {
			t.Errorf("round %d: the longest pause is %s", round, last)
		}
		if pause := r.next(r.last.Add(quiet - time.Second)); pause == 0 {
			t.Errorf("round %d: the fight is over before it has been quiet", round)
		}
		now = now.Add(2*quiet + time.Second)
	}
}
