package paths_test

import "github.com/podfence/podfence/test/stage"

// flows sends what may begin a flow, by all hardware addresses, then its answer, then more
// of it: whether the isolated pod begins it or somebody else. Where the first is dropped,
// there is no flow that the others could belong to. The kernel knows it otherwise on a
// bridge with br_netfilter: a broadcast frame's flow is in connection tracking before the
// hooks input and forward have seen it.
func (s *scene) flows() {
	s.T.Helper()
	for _, other := range []stage.ActorID{stage.Neighbour, stage.Outside} {
		for _, p := range []pair{{stage.Isolated, other}, {other, stage.Isolated}} {
			for _, classes := range [][2]class{{udp4, answer4}, {udp6, answer6}} {
				s.flow(p, classes[0], classes[1])
			}
		}
	}
	s.Must(s.Node.FlushConntrack())
}

func (s *scene) flow(p pair, first, answer class) {
	s.T.Helper()
	if !s.Actors[p.from].Addr[first.is6()].IsValid() {
		return
	}
	to := func(c class, number uint16, p pair, mac station) frame {
		return frame{from: p.from, to: p.at, class: c, number: number, hop: 64, src: global, dst: global, mac: mac}
	}
	var frames []frame
	for _, mac := range []station{router, theirs, everybody, group, reserved} {
		frames = append(frames, to(first, serverPort, p, mac))
	}
	begun := len(frames)
	frames = append(frames, to(answer, clientPort, pair{p.at, p.from}, router), to(first, serverPort, p, router))
	got := s.round(frames)
	for i, what := range []string{"the answer to what was dropped arrives", "what was dropped goes on"} {
		f := frames[begun+i]
		if at := f.to; got.At(begun+i, at) {
			s.T.Errorf("%s -> %s: %s: %s %d", f.from, at, what, f.class, f.number)
		}
	}
}
