package paths_test

import (
	"slices"
	"testing"

	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// TestEveryPath sends everything by every path, and accepts nothing but the list.
func TestEveryPath(t *testing.T) {
	for _, m := range stage.Modes {
		all := []stage.Families{stage.Dual}
		if *full {
			all = append(all, stage.Single...)
		}
		for _, f := range all {
			t.Run(m.Name+"/"+f.Name, func(t *testing.T) {
				s := newScene(t, m, f)
				s.flows()
				frames := s.matrix(*full)
				fenced := s.round(frames)
				s.Open()
				s.compare(frames, fenced, s.round(frames))
			})
		}
	}
}

// compare holds what has arrived against the list, and the list against it.
func (s *scene) compare(frames []frame, fenced, open stage.Arrivals) {
	s.T.Helper()
	leaks, seen := tally{}, map[sighting]int{}
	for i, f := range frames {
		for _, at := range s.Present() {
			if at == f.from || !fenced.At(i, at) {
				continue
			}
			row := s.rowOf(f, at)
			switch {
			case forbidden(f), concerned(f, at) && row < 0:
				leaks.add(f, at)
			case row >= 0:
				seen[sighting{row, pair{f.from, at}}]++
			}
		}
	}
	for _, line := range leaks.lines() {
		s.T.Error(line)
	}
	s.expectRows(seen)
	s.control(frames, fenced, open)
}

// sighting is a row of the list, seen between two.
type sighting struct {
	row int
	pair
}

// rowOf is the number of the row that lets a frame pass, or -1. The node's rules see a
// frame when its tags are off; a bridge passes it on with them, but that one which filters
// VLANs takes off a tag that names none, or the pods'.
func (s *scene) rowOf(f frame, at stage.ActorID) int {
	switch {
	case at == stage.TheNode:
		f = f.tagless()
	case s.Mode.VLAN > 0 && (f.wrap == lab.Tag0 || f.wrap == lab.Tag5):
		f.wrap = lab.Plain
	}
	for i, r := range list {
		if r.by(s) && slices.Contains(r.pairs, pair{f.from, at}) && r.is(f) {
			return i
		}
	}
	return -1
}

func (s *scene) expectRows(seen map[sighting]int) {
	s.T.Helper()
	for i, r := range list {
		for _, p := range r.pairs {
			if r.by(s) && seen[sighting{i, p}] == 0 {
				s.T.Errorf("%s -> %s: never seen, though on the list: %s (%s)", p.from, p.at, r.what, r.why)
			}
		}
	}
}

// control tells what would arrive without podfence, and fails where nothing would.
func (s *scene) control(frames []frame, fenced, open stage.Arrivals) {
	s.T.Helper()
	s.T.Logf("%d frames", len(frames))
	for _, from := range s.Present() {
		for _, at := range s.Present() {
			if from == at || from != stage.Isolated && at != stage.Isolated {
				continue
			}
			var sent, arrived, passed int
			for i, f := range frames {
				if f.from != from {
					continue
				}
				sent++
				arrived += count(open.At(i, at))
				passed += count(fenced.At(i, at))
			}
			s.T.Logf("%s -> %s: of %d frames sent, %d arrive without podfence, %d with it", from, at, sent, arrived, passed)
			if arrived == 0 {
				s.T.Errorf("%s -> %s: nothing arrives without podfence either, so that nothing does with it says nothing", from, at)
			}
		}
	}
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
