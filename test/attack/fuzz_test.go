package attack_test

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/podfence/podfence/test/stage"
)

// sender is one of those who send random frames.
type sender struct {
	key, name string
	from      stage.ActorID
	count     int
}

var senders = []sender{
	{"isolated", "random frames from an isolated pod", stage.Isolated, 310_000},
	{"pod", "random frames from an open pod", stage.Neighbour, 155_000},
	{"outside", "random frames from outside", stage.Outside, 155_000},
}

// part is how many random frames there are to one that is sent without -attack.
const part = 100

// fuzzer makes the frames of a sender. The same seed, sender and number make the same frame
// of the same actors' addresses.
type fuzzer struct {
	*scene
	sender
	stream uint64
	// first is the first number.
	first int
}

// fuzzers are those who are to send.
func (s *scene) fuzzers() (all []*fuzzer) {
	s.T.Helper()
	key, number, one := strings.Cut(*only, ":")
	for i, of := range senders {
		f := &fuzzer{scene: s, sender: of, stream: uint64(i)}
		if !*full {
			f.count /= part
		}
		if one {
			var err error
			f.first, err = strconv.Atoi(number)
			s.Must(err)
			f.count = 1
		}
		if !one || key == of.key {
			all = append(all, f)
		}
	}
	return all
}

// flushEvery is after how many frames the node's connection tracking is emptied: a full table
// would drop what should be judged.
const flushEvery = 20_000

// run sends the frames and judges what arrives.
func (f *fuzzer) run() *outcome {
	f.T.Helper()
	base := f.next
	f.next += f.count
	// A frame is made twice, to be sent and to be judged, but not kept.
	whole := func(i int) []byte {
		b, _ := f.make(f.first+i, stage.Mark(base+i))
		return b
	}
	got := f.Round(base, f.count, func(i int) bool { return read(whole(i)).untyped() }, func(i int) stage.Shot {
		if i%flushEvery == 0 {
			f.Must(f.Node.FlushConntrack())
		}
		b, frames := f.make(f.first+i, stage.Mark(base+i))
		if *only != "" {
			f.T.Logf("%s:%d from the %s\n%s", f.key, f.first+i, f.sends(f.first+i), hex.Dump(b))
		}
		return stage.Shot{From: f.sends(f.first + i), Frames: frames}
	})
	o := &outcome{sent: f.count, by: map[string]int{}}
	for i := range f.count {
		if got[i] != 0 {
			o.land(f.scene, f.sends(f.first+i), whole(i), got, i, fmt.Sprintf("-seed %d -only %s:%d: ", *seed, f.key, f.first+i))
		}
	}
	return o
}

// sends is who sends a frame: from outside, also by the bridge's wire, if there is one.
func (f *fuzzer) sends(number int) stage.ActorID {
	if f.from == stage.Outside && number%2 == 1 && f.Actors[stage.Wire] != nil {
		return stage.Wire
	}
	return f.from
}

// make is frame number of the sender, as a whole and as it is sent.
func (f *fuzzer) make(number int, mark []byte) (whole []byte, frames [][]byte) {
	d := &dice{Rand: rand.New(rand.NewPCG(*seed, f.stream<<48|uint64(number))), scene: f.scene, from: f.sends(number), mark: mark}
	return d.frame()
}
