package dns_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/podfence/podfence/names/dns"
)

const fin, syn, rst, ack = 1, 2, 4, 16

// segment is a packet of a connection, by either side.
type segment struct {
	reply    bool
	sequence uint32
	flags    uint8
	data     []byte
}

// Where both sides' sequence numbers begin: that of replies wraps around soon.
const podISN, resolverISN uint32 = 1000, 1<<32 - 10

var handshake = []segment{{flags: syn, sequence: podISN}, {reply: true, flags: syn | ack, sequence: resolverISN}}

// asks are a pod's octets from an offset on, and says the resolver's.
func asks(offset int, data []byte) segment {
	return segment{sequence: podISN + 1 + uint32(offset), flags: ack, data: data}
}

func says(offset int, data []byte) segment {
	return segment{reply: true, sequence: resolverISN + 1 + uint32(offset), flags: ack, data: data}
}

// carry hands segments to a tracker, and returns what was learned, and all that was ignored.
func carry(tracker *dns.Tracker, segments ...segment) (answers []dns.Answer, ignored []dns.Reason) {
	for _, s := range segments {
		p := dns.Packet{Flow: flow, Sequence: s.sequence, Flags: s.flags, Payload: bytes.Clone(s.data)}
		p.TCP = true
		if !s.reply {
			ignored = append(ignored, tracker.Query(p, now)...)
			continue
		}
		got, why := tracker.Reply(p, now)
		answers, ignored = append(answers, got...), append(ignored, why...)
		// The kernel's buffer is used again.
		for i := range p.Payload {
			p.Payload[i] = 0xff
		}
	}
	return answers, ignored
}

func TestStreams(t *testing.T) {
	query4, query6 := query(1, api, a).pack(t), query(2, api, aaaa).pack(t)
	reply4, reply6 := reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t), reply(2, api, aaaa, at(api, 60, "2001:db8::1")).pack(t)
	queries, replies := framed(query4, query6), framed(reply4, reply6)
	first := len(reply4) + 2
	both := []dns.Answer{answer4, answer6}
	for _, c := range []struct {
		what     string
		segments []segment
		want     []dns.Answer
		ignored  []dns.Reason
	}{
		{"one after another", []segment{asks(0, queries[:len(query4)+2]), says(0, replies[:first]), asks(len(query4)+2, queries[len(query4)+2:]), says(first, replies[first:])}, both, nil},
		{"both in one", []segment{asks(0, queries), says(0, replies)}, both, nil},
		{"in the other order", []segment{asks(0, queries), says(0, framed(reply6, reply4))}, []dns.Answer{answer6, answer4}, nil},
		{"cut in the length", []segment{asks(0, queries[:1]), asks(1, queries[1:]), says(0, replies[:1]), says(1, replies[1:first+1]), says(first+1, replies[first+1:])}, both, nil},
		{"reordered", []segment{asks(5, queries[5:]), asks(0, queries[:5]), says(first+3, replies[first+3:]), says(20, replies[20:first+3]), says(0, replies[:20])}, both, nil},
		{"repeated", []segment{asks(0, queries), asks(0, queries), says(0, replies[:20]), says(0, replies[:20]), says(20, replies[20:]), says(20, replies[20:]), says(0, replies)}, both, nil},
		{"overlapping", []segment{asks(0, queries), says(0, replies[:20]), says(10, replies[10:30]), says(40, replies[40:]), says(35, replies[35:45]), says(40, replies[40:50]), says(25, replies[25:])}, both, nil},
		{"longer when sent again ahead", []segment{asks(0, queries), says(20, replies[20:30]), says(20, replies[20:]), says(0, replies[:20])}, both, nil},
		{"shorter when sent again ahead", []segment{asks(0, queries), says(20, replies[20:]), says(20, replies[20:30]), says(0, replies[:20])}, both, nil},
		{"the handshake again", []segment{asks(0, queries), handshake[0], says(0, replies[:20]), handshake[1], says(20, replies[20:])}, both, nil},
		{"the last with FIN", []segment{asks(0, queries), {flags: fin | ack, sequence: podISN + 1 + uint32(len(queries))}, says(0, replies[:first]), {reply: true, flags: fin | ack, sequence: resolverISN + 1 + uint32(first), data: replies[first:]}}, both, nil},
		{"FIN before the data", []segment{asks(0, queries), {reply: true, flags: fin | ack, sequence: resolverISN + 1 + uint32(len(replies))}, says(0, replies)}, both, nil},
		{"after the end", []segment{asks(0, framed(query4)), {flags: rst, sequence: podISN + 50}, says(0, framed(reply4)), asks(len(query4)+2, framed(query6))}, []dns.Answer{answer4}, nil},
		{"an end with nothing open", []segment{{reply: true, flags: rst}, asks(0, queries), says(0, replies)}, nil, []dns.Reason{dns.NotFollowed, dns.NotFollowed}},
		{"another connection on the same ports", []segment{asks(0, queries), says(0, replies[:20]), {flags: syn, sequence: 7}, {reply: true, flags: syn | ack, sequence: 9}, {sequence: 8, data: framed(query4)}, {reply: true, sequence: 10, data: framed(reply4)}}, []dns.Answer{answer4}, nil},
		{"which has asked nothing", []segment{asks(0, queries), {flags: syn, sequence: 7}, {reply: true, flags: syn | ack, sequence: 9}, {reply: true, sequence: 10, data: framed(reply4)}}, nil, []dns.Reason{dns.NotAsked}},
		{"data with the SYN", []segment{{flags: syn, sequence: 7, data: framed(query4)}, {reply: true, flags: syn | ack, sequence: 9, data: framed(reply4)}}, []dns.Answer{answer4}, nil},
		{"an empty message", []segment{asks(0, queries), says(0, slices.Concat(framed(nil, reply4)))}, []dns.Answer{answer4}, []dns.Reason{dns.Malformed}},
		{"keep-alives, window updates", []segment{asks(0, nil), asks(0, queries), asks(len(queries)-1, queries[len(queries)-1:]), asks(len(queries)-1, nil), says(-1, []byte{0}), says(0, replies)}, both, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, ignored := carry(dns.NewTracker(), append(slices.Clone(handshake), c.segments...)...)
			expect(t, got, ignored, c.want, c.ignored...)
		})
	}
	t.Run("the beginning was not seen", func(t *testing.T) {
		got, ignored := carry(dns.NewTracker(), asks(0, nil), asks(0, queries), says(0, nil), says(0, replies))
		expect(t, got, ignored, nil, dns.NotFollowed, dns.NotFollowed)
	})
	t.Run("the resolver's beginning was not seen", func(t *testing.T) {
		got, ignored := carry(dns.NewTracker(), handshake[0], asks(0, queries), says(0, replies))
		expect(t, got, ignored, nil, dns.NotFollowed)
	})
	t.Run("a connection that is idle", func(t *testing.T) {
		for after, want := range map[time.Duration]int{10*time.Minute - 1: 0, 10 * time.Minute: 1} {
			tracker := dns.NewTracker()
			carry(tracker, handshake...)
			p := dns.Packet{Flow: flow, Sequence: podISN + 1, Flags: ack, Payload: queries}
			p.TCP = true
			if ignored := tracker.Query(p, now.Add(after)); len(ignored) != want {
				t.Errorf("after %v: ignored %v", after, ignored)
			}
		}
	})
}

// TestStreamOfTheLongestMessages: 64 kB, in segments of all sizes.
func TestStreamOfTheLongestMessages(t *testing.T) {
	long := reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t)
	long = append(long, make([]byte, 1<<16-1-len(long))...)
	stream := framed(long, long)
	for _, size := range []int{1, 536, 1448, 65160, len(stream)} {
		tracker := dns.NewTracker()
		carry(tracker, append(slices.Clone(handshake), asks(0, framed(query(1, api, a).pack(t))))...)
		answers, before := 0, allocated()
		for from := 0; from < len(stream); from += size {
			got, ignored := carry(tracker, says(from, stream[from:min(from+size, len(stream))]))
			if answers += len(got); len(ignored) > 0 {
				t.Fatalf("segments of %d: ignored %v", size, ignored)
			}
		}
		if answers != 2 {
			t.Errorf("segments of %d: %d answers", size, answers)
		}
		// By far most of it is the test's own, of segments of one octet.
		if took := allocated() - before; took > 100<<20 {
			t.Errorf("segments of %d: %d octets were allocated", size, took)
		}
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestStreamWithAGap: what is missing for too long ends what can be followed, until the next connection.
func TestStreamWithAGap(t *testing.T) {
	queries, replies := framed(query(1, api, a).pack(t)), framed(reply(1, api, a, at(api, 60, "192.0.2.1")).pack(t))
	for _, c := range []struct {
		segments, size int
		lost           bool
	}{{64, 1, false}, {65, 1, true}, {64, 1024, false}, {45, 1460, true}, {1, 1 << 16, false}} {
		tracker := dns.NewTracker()
		carry(tracker, append(slices.Clone(handshake), asks(0, queries))...)
		var why []dns.Reason
		for i := range c.segments {
			_, ignored := carry(tracker, says(len(replies)+i*c.size, make([]byte, c.size)))
			why = append(why, ignored...)
		}
		if got, _ := carry(tracker, says(0, replies)); (len(got) == 0) != c.lost || (len(why) > 0) != c.lost {
			t.Errorf("%d segments of %d: %v, ignored %v", c.segments, c.size, got, why)
		}
		next := []segment{{flags: syn, sequence: 7}, {reply: true, flags: syn | ack, sequence: 9}, {sequence: 8, data: queries}, {reply: true, sequence: 10, data: replies}}
		if got, ignored := carry(tracker, next...); len(got) != 1 || len(ignored) > 0 {
			t.Errorf("the next connection: %v, ignored %v", got, ignored)
		}
	}
}

// FuzzStream: cut, sent again and reordered in any way, a connection says the same as in one piece.
func FuzzStream(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed, uint8(seed), uint16(seed*7))
	}
	f.Fuzz(func(t *testing.T, seed uint64, messages uint8, size uint16) {
		random := rand.New(rand.NewPCG(seed, 1))
		var queries, replies [][]byte
		for i := range 1 + messages%40 {
			name := fmt.Sprintf("n%d.example.com.", random.IntN(20))
			queries = append(queries, query(uint16(i), name, a).pack(t))
			r := reply(uint16(i), name, a)
			for n := range random.IntN(20) {
				r.Answers = append(r.Answers, at(name, uint32(random.IntN(100)), fmt.Sprintf("192.0.2.%d", n)))
			}
			replies = append(replies, r.pack(t))
		}
		random.Shuffle(len(replies), func(i, j int) { replies[i], replies[j] = replies[j], replies[i] })
		want, _ := carry(dns.NewTracker(), append(slices.Clone(handshake), asks(0, framed(queries...)), says(0, framed(replies...)))...)

		tracker := dns.NewTracker()
		carry(tracker, handshake...)
		largest := 1 + int(size)%2000
		_, ignored := carry(tracker, disturbed(random, framed(queries...), largest, asks)...)
		got, more := carry(tracker, disturbed(random, framed(replies...), largest, says)...)
		if slices.Contains(append(ignored, more...), dns.NotFollowed) {
			t.Fatal("it was not followed")
		}
		if !sameAnswers(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

// disturbed cuts a stream, sends some of it again, and changes the order of what is near.
func disturbed(random *rand.Rand, stream []byte, largest int, segmentOf func(int, []byte) segment) (segments []segment) {
	for from := 0; from < len(stream); {
		to := min(len(stream), from+1+random.IntN(largest))
		segments = append(segments, segmentOf(from, stream[from:to]))
		if random.IntN(4) == 0 {
			again := random.IntN(from + 1)
			segments = append(segments, segmentOf(again, stream[again:min(len(stream), again+largest)]))
		}
		from = to
	}
	const near = 16
	for from := 0; from < len(segments); from += near {
		part := segments[from:min(from+near, len(segments))]
		random.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
	}
	return segments
}
