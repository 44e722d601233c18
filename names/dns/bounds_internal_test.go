package dns

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var start = time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)

// socket is a socket of a pod.
func socket(pod, port int) Flow {
	return Flow{
		Pod:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(pod >> 8), byte(pod)}), uint16(port)),
		Resolver: netip.MustParseAddrPort("10.96.0.10:53"),
	}
}

func queryFor(t testing.TB, id uint16, name string) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// consistent counts all again.
func (b *bounds) consistent(t *testing.T) {
	t.Helper()
	all, conversations := 0, 0
	for addr, p := range b.pods {
		octets := 0
		for i, c := range p.soonest {
			octets += c.octets
			if c.at != i || b.conversations[c.flow] != c || c.flow.Pod.Addr() != addr || c.expires.Before(p.soonest[0].expires) {
				t.Fatalf("conversation %d of %v is %+v", i, addr, c)
			}
		}
		if octets != p.octets || len(p.soonest) == 0 || octets > b.mostOfPod {
			t.Fatalf("%v has %d octets of %d conversations, by its own count %d", addr, octets, len(p.soonest), p.octets)
		}
		all, conversations = all+octets, conversations+len(p.soonest)
	}
	if all != b.octets || conversations != len(b.conversations) || b.octets > b.most {
		t.Fatalf("%d octets of %d conversations; by its own count %d of %d", all, conversations, b.octets, len(b.conversations))
	}
}

// TestFloodOfOnePod: it takes what there is for a pod, its own oldest go, and nobody else's.
func TestFloodOfOnePod(t *testing.T) {
	tracker := NewTracker()
	tracker.most = 3 * tracker.mostOfPod / 2
	asked := queryFor(t, 1, "api.example.com.")
	const others = 100
	for pod := 1; pod <= others; pod++ {
		tracker.Query(Packet{Flow: socket(pod, 1), Payload: asked}, start)
	}
	evicted := 0
	for pod, sockets := range map[int]int{0: 60_000, others + 1: 60_000} {
		for port := range sockets {
			evicted += len(tracker.Query(Packet{Flow: socket(pod, port), Payload: asked}, start.Add(time.Duration(port)*time.Microsecond)))
		}
		tracker.consistent(t)
	}
	if want := 2*60_000 + others - len(tracker.conversations); evicted != want {
		t.Errorf("%d had to go, and %d were told", want, evicted)
	}
	at := start.Add(time.Second)
	for pod := 1; pod <= others; pod++ {
		if tracker.find(socket(pod, 1), at) == nil {
			t.Errorf("pod %d is forgotten", pod)
		}
	}
	for _, pod := range []int{0, others + 1} {
		if tracker.find(socket(pod, 59_999), at) == nil || tracker.find(socket(pod, 0), at) != nil {
			t.Errorf("of pod %d others went than the oldest", pod)
		}
	}
	if got := tracker.octets; got < tracker.most*9/10 {
		t.Errorf("only %d octets of %d are used", got, tracker.most)
	}
}

// TestMemory: what it takes is about what it counts, of datagrams, of connections and of the middle of messages.
func TestMemory(t *testing.T) {
	asked := queryFor(t, 1, "a-name-of-usual-length.example.com.")
	for what, fill := range map[string]func(*Tracker, int){
		"datagrams": func(tracker *Tracker, i int) {
			tracker.Query(Packet{Flow: socket(i%30, i), Payload: asked}, start)
		},
		"one flow": func(tracker *Tracker, i int) {
			asked[0], asked[1] = byte(i>>8), byte(i)
			tracker.Query(Packet{Flow: socket(i%30, 1), Payload: asked}, start)
		},
		"connections": func(tracker *Tracker, i int) {
			p := Packet{Flow: socket(i%30, i), Flags: tcpSYN}
			p.TCP = true
			tracker.Query(p, start)
		},
		"the middle of messages": func(tracker *Tracker, i int) {
			p := Packet{Flow: socket(i%30, i/40), Flags: tcpSYN}
			p.TCP = true
			tracker.Query(p, start)
			p.Flags, p.Sequence, p.Payload = 0, 1+1000*uint32(i%40), append([]byte{0xff, 0xff}, make([]byte, 998)...)
			tracker.Query(p, start)
		},
		"segments ahead": func(tracker *Tracker, i int) {
			p := Packet{Flow: socket(i%30, i/40), Flags: tcpSYN}
			p.TCP = true
			tracker.Query(p, start)
			p.Flags, p.Sequence, p.Payload = 0, 2+1000*uint32(i%40), make([]byte, 998)
			tracker.Query(p, start)
		},
	} {
		before := heapOctets(t)
		tracker := NewTracker()
		for i := range 60_000 {
			fill(tracker, i)
		}
		took := int(heapOctets(t) - before)
		if counted := tracker.octets; took > counted*5/4 || took < counted/3 {
			t.Errorf("%s: it takes %d octets, and counts %d", what, took, counted)
		}
		tracker.consistent(t)
	}
}

func heapOctets(t testing.TB) int64 {
	t.Helper()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestNothingStays: what has expired goes when anybody asks.
func TestNothingStays(t *testing.T) {
	tracker := NewTracker()
	asked := queryFor(t, 1, "api.example.com.")
	for i := range 10_000 {
		tracker.Query(Packet{Flow: socket(i%300, i), Payload: asked}, start)
		p := Packet{Flow: socket(i%300, i), Flags: tcpSYN}
		p.TCP = true
		tracker.Query(p, start)
	}
	tracker.Query(Packet{Flow: socket(1, 1), Payload: asked}, start.Add(questionTime))
	tracker.consistent(t)
	if len(tracker.conversations) != 1 || len(tracker.pods) != 1 {
		t.Errorf("%d conversations of %d pods stay", len(tracker.conversations), len(tracker.pods))
	}
	// Nor does anything begin to stay that says nothing.
	tracker.Query(Packet{Flow: socket(2, 1), Payload: []byte("GET / HTTP/1.1")}, start.Add(questionTime))
	if len(tracker.conversations) != 1 {
		t.Error("what is no query stays")
	}
}

// TestBoundsAreKept: with any packets of any pods, the counts are right and the bounds hold.
func TestBoundsAreKept(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	tracker := NewTracker()
	tracker.most, tracker.mostOfPod = 60_000, 20_000
	asked, now := queryFor(t, 1, "api.example.com."), start
	evicted := 0
	for range 20_000 {
		now = now.Add(time.Duration(random.IntN(int(10 * time.Millisecond))))
		p := Packet{
			Flow: socket(random.IntN(8), random.IntN(40)), Sequence: uint32(random.IntN(3000)), Flags: uint8(1 << random.IntN(6)),
			Payload: make([]byte, random.IntN(1400)),
		}
		p.TCP = random.IntN(2) == 0
		if !p.TCP {
			asked[1] = byte(random.IntN(256))
			p.Payload = asked
		}
		switch kind := random.IntN(1000); {
		case kind == 0:
			tracker.Forget(p.Pod.Addr())
		case kind < 250:
			tracker.Reply(p, now)
		default:
			for _, why := range tracker.Query(p, now) {
				if why == TooMany {
					evicted++
				}
			}
		}
		tracker.consistent(t)
	}
	if evicted < 1000 {
		t.Errorf("the bounds were met %d times only", evicted)
	}
}
