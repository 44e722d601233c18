package paths_test

import (
	"testing"

	"github.com/podfence/podfence/test/stage"
)

// scene is a stage, with what frames are to it.
type scene struct{ *stage.Stage }

// newScene makes a scene of which the host outside has the place of the other node.
func newScene(t *testing.T, m stage.Mode, f stage.Families) *scene {
	t.Helper()
	return &scene{stage.New(t, stage.Options{Mode: m, Families: f, Outside: stage.OtherNode})}
}

// watch begins to receive frames.
func (s *scene) watch(frames []frame) *stage.Watch {
	s.T.Helper()
	return s.Watch(0, len(frames), func(number int) bool { return frames[number].untyped() })
}

// round sends frames and returns what has arrived.
func (s *scene) round(frames []frame) stage.Arrivals {
	s.T.Helper()
	untyped := func(number int) bool { return frames[number].untyped() }
	return s.Round(0, len(frames), untyped, func(number int) stage.Shot {
		f := frames[number]
		b, err := s.octets(f, number)
		s.Must(err)
		return stage.Shot{From: f.from, Link: s.link(f), Frames: [][]byte{b}}
	})
}

// link is the index of the link that a frame leaves by.
func (s *scene) link(f frame) int {
	if f.from == stage.TheNode {
		return s.Actors[f.otherEnd()].Device.Attrs().Index
	}
	return s.Actors[f.from].Eth0
}
