package resolver

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestPick: the first that is not suspect is asked, or that whose silence is noted for the longest time; and two in a row
// only if there is no other.
func TestPick(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	third := netip.MustParseAddrPort("10.244.2.2:53")
	all := []netip.AddrPort{first, second, third}
	for _, c := range []struct {
		name         string
		silent       map[netip.AddrPort]time.Duration // for how long it is noted
		failed, want netip.AddrPort
	}{
		{"all are well", nil, netip.AddrPort{}, first},
		{"the first has just failed for this question", nil, first, second},
		{"another has", nil, third, first},
		{"the first is silent", map[netip.AddrPort]time.Duration{first: time.Second}, netip.AddrPort{}, second},
		{"the first was silent", map[netip.AddrPort]time.Duration{first: suspectFor}, netip.AddrPort{}, first},
		{"two are silent, and the third has just failed", map[netip.AddrPort]time.Duration{first: time.Second, second: 2 * time.Second}, third, second},
		{"all are silent", map[netip.AddrPort]time.Duration{first: time.Second, second: 3 * time.Second, third: 2 * time.Second}, netip.AddrPort{}, second},
		{"it is gone", nil, netip.MustParseAddrPort("10.244.3.2:53"), first},
	} {
		s := newServers()
		s.replace(all)
		for server, since := range c.silent {
			s.note(server, false, now.Add(-since))
		}
		if got := s.pick(now, c.failed); got != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	s := newServers()
	s.replace(all[:1])
	s.note(first, false, now)
	if s.pick(now, first) != first {
		t.Error("the only one is not asked")
	}
	s.replace(all[1:])
	s.note(first, false, now) // what was under way
	if len(s.silent) != 0 {
		t.Error("one that is not asked any more is remembered")
	}
	s.note(second, false, now)
	s.note(second, true, now)
	if s.pick(now, netip.AddrPort{}) != second {
		t.Error("one that has answered is still suspect")
	}
}

// TestHurry: what has failed is due before all else, in whatever order it was.
func TestHurry(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := newSchedule()
	wanted := map[string]struct{}{}
	for _, n := range names(50) {
		wanted[string(n)] = struct{}{}
	}
	s.want(wanted, now)
	var all []*entry
	for !s.next().IsZero() {
		all = append(all, s.take(now))
	}
	for i, e := range all {
		e.failed = i % 3
		s.put(e, now.Add(time.Duration(1+i)*time.Minute))
	}
	s.hurry(now)
	var due []time.Duration
	for !s.next().IsZero() {
		due = append(due, s.take(s.next()).due.Sub(now))
	}
	if late := slices.IndexFunc(due, func(d time.Duration) bool { return d > 0 }); len(due) != 100 || late != 66 || !slices.IsSorted(due) {
		t.Errorf("due after %v", due)
	}
}
