package attack_test

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// Without -attack, of an attack of more than enough shots one in so many is sent.
const enough, sampled = 1000, 25

// TestAttacks makes each attack, and sends random frames, with podfence and without; in
// between, with some of its rules gone, what it says of itself is not so, and the oracle knows.
func TestAttacks(t *testing.T) {
	without, ran := map[string]int{}, 0
	known := *only == "" && !*frames
	for _, m := range some() {
		t.Run(m.Name, func(t *testing.T) {
			s := newScene(t, m)
			ran++
			all, fuzzers := map[string]*outcome{}, s.fuzzers()
			if known {
				all = s.attack()
				all[floodName] = s.flood()
			}
			for _, f := range fuzzers {
				all[f.name] = f.run()
			}
			if known {
				all[heirName] = s.inherit()
				s.oracle()
			}
			s.Open()
			open := map[string]*outcome{}
			if known {
				open = s.attack()
				open[heirName], open[floodName] = s.inherited(), s.flood()
			}
			for _, f := range fuzzers {
				open[f.name] = f.run()
			}
			for _, name := range names() {
				if all[name] != nil {
					all[name].open = open[name].reached
					without[name] += open[name].reached
					all[name].report(t, name, m)
				}
			}
		})
	}
	for name, n := range without {
		if n == 0 && ran == len(some()) && known {
			t.Errorf("%s: nothing arrives without podfence either, so that nothing does with it says nothing", name)
		}
	}
}

// report prints an outcome, and fails the test if anything has arrived that must not.
func (o *outcome) report(t *testing.T, name string, m stage.Mode) {
	t.Helper()
	fmt.Printf("attack: %s: %s: %s\n", name, m.Name, o)
	results.record(name, m.Name, o)
	for _, line := range o.lines {
		t.Errorf("%s: %s", name, line)
	}
	if o.arrived > 0 {
		t.Errorf("%s: %d of %d arrive", name, o.arrived, o.sent)
	}
}

func names() (all []string) {
	for _, a := range attacks {
		all = append(all, a.name)
	}
	all = append(all, heirName, floodName)
	for _, f := range senders {
		all = append(all, f.name)
	}
	return all
}

// outcome is what an attack has led to.
type outcome struct {
	// sent are the shots, reached those of them that have come to anybody but the sender whom
	// they concern, excused those that may, and arrived those that must not.
	sent, reached, excused, arrived int
	// open are those that do without podfence.
	open int
	// by are the exceptions by which those came that may.
	by map[string]int
	// promises are how often each was broken, lines say by what.
	promises map[string]int
	lines    []string
}

func (o *outcome) String() string {
	text := fmt.Sprintf("%d sent, %d arrived; without podfence %d", o.sent, o.arrived, o.open)
	for _, what := range slices.Sorted(maps.Keys(o.by)) {
		text += fmt.Sprintf("; %d are %s", o.by[what], what)
	}
	return text
}

// maxLines is how many frames that have arrived are shown.
const maxLines = 20

// land judges where frame i of those that have been sent has come.
func (o *outcome) land(s *scene, from stage.ActorID, whole []byte, got stage.Arrivals, i int, name string) {
	v := read(whole)
	reports := v.ip.quoted() == nil // what is an error itself is in none of the node's
	var bad, good bool
	for _, at := range s.Present() {
		if !got.At(i, at) {
			continue
		}
		v.inError = v.ip != nil && reports && got.InError(i, at)
		broken, by := s.judge(from, at, v)
		if by != "" {
			good = true
			o.by[by]++
		}
		if broken == "" {
			continue
		}
		bad = true
		if len(o.lines) < maxLines {
			o.lines = append(o.lines, fmt.Sprintf("%s%s -> %s: not so: %s\n%s", name, from, at, broken, hex.Dump(whole[:min(len(whole), 256)])))
		}
		o.broken(broken)
	}
	switch {
	case bad:
		o.arrived++
	case good:
		o.excused++
	}
	if bad || good {
		o.reached++
	}
}

// attack makes all attacks, on a node that knows no flows, one after the other.
func (s *scene) attack() map[string]*outcome {
	s.T.Helper()
	s.Must(s.Node.FlushConntrack())
	v, of := &volley{scene: s}, []string(nil)
	for _, a := range attacks {
		before := len(v.shots)
		a.fill(v)
		if made := v.shots[before:]; !*full && len(made) > enough {
			v.shots = v.shots[:before]
			for i := 0; i < len(made); i += sampled {
				v.shots = append(v.shots, made[i])
			}
		}
		for len(of) < len(v.shots) {
			of = append(of, a.name)
		}
	}
	all := map[string]*outcome{}
	for _, a := range attacks {
		all[a.name] = &outcome{by: map[string]int{}}
	}
	s.send(v.shots, func(i int) *outcome { return all[of[i]] })
	return all
}

// send sends shots and holds what arrives against the promises.
func (s *scene) send(shots []shot, of func(i int) *outcome) {
	s.T.Helper()
	first := s.next
	s.next += len(shots)
	var wholes [][]byte
	for i, shot := range shots {
		wholes = append(wholes, shot.whole(stage.Mark(first+i)))
	}
	got := s.Round(first, len(shots), func(i int) bool { return read(wholes[i]).untyped() }, func(i int) stage.Shot {
		return stage.Shot{From: shots[i].from, Frames: shots[i].frames(stage.Mark(first + i))}
	})
	for i, shot := range shots {
		of(i).sent++
		of(i).land(s, shot.from, wholes[i], got, i, "")
	}
}

// heirName is the attack that begins before the pod is there that it is made on.
const heirName = "flows of an address's last pod, to an isolated pod that gets the address"

// heirFlows is how many flows the heir's address has in each family before the heir has it.
const heirFlows = 50

// inherit has an isolated pod join whose addresses are in flows that connection tracking
// takes for established: what comes from outside is a reply in those.
func (s *scene) inherit() *outcome {
	s.T.Helper()
	heir := map[bool]netip.Addr{}
	for _, six := range both {
		last := s.addr(stage.Isolated, six)
		if other := s.addr(stage.Neighbour, six); last.Less(other) {
			last = other
		}
		heir[six] = last.Next() // the plugins give addresses out in turn
		s.Must(s.Node.Do(func() error { return s.track(heir[six], six) }))
	}
	s.Join()
	for _, six := range both {
		if got := s.addr(stage.Heir, six); got != heir[six] {
			s.T.Fatalf("the pod that joins has got %s, not %s: no flow was its address's", got, heir[six])
		}
	}
	if s.Mode.CNI == "none" { // until the API shows whose the address is
		s.Eventually("the new pod's policies", func() error {
			if o := s.inherited(); o.arrived > 0 {
				return fmt.Errorf("%s", o)
			}
			return nil
		})
	}
	return s.inherited()
}

// track has connection tracking know flows from an address to outside, some of which somebody
// has translated.
func (s *scene) track(from netip.Addr, six bool) error {
	family := netlink.InetFamily(unix.AF_INET)
	if six {
		family = unix.AF_INET6
	}
	for i := range uint16(heirFlows) {
		there := netlink.IPTuple{SrcIP: from.AsSlice(), SrcPort: serverPort, DstIP: s.addr(stage.Outside, six).AsSlice(), DstPort: clientPort + i, Protocol: unix.IPPROTO_UDP}
		back := netlink.IPTuple{SrcIP: there.DstIP, SrcPort: there.DstPort, DstIP: there.SrcIP, DstPort: there.SrcPort, Protocol: there.Protocol}
		if i%2 == 1 {
			there.DstIP, there.DstPort = service[six].AsSlice(), 2000+i
		}
		flow := &netlink.ConntrackFlow{FamilyType: uint8(family), Forward: there, Reverse: back, TimeOut: 600}
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, family, flow); err != nil {
			return fmt.Errorf("flow %s: %w", flow, err)
		}
	}
	return nil
}

// inherited sends what belongs to those flows.
func (s *scene) inherited() *outcome {
	s.T.Helper()
	v, o := &volley{scene: s}, &outcome{by: map[string]int{}}
	for _, six := range both {
		for i := range uint16(heirFlows) {
			v.post(letter{from: stage.Outside, src: v.addr(stage.Outside, six), dst: v.addr(stage.Heir, six), port: serverPort, srcPort: clientPort + i})
		}
	}
	s.send(v.shots, func(int) *outcome { return o })
	return o
}

// floodName is the attack of which what counts is not what arrives, but what is lost.
const floodName = "a flood of first fragments, from an isolated pod (arrived: of others' datagrams in fragments, those that are lost)"

// flood sends more first fragments than the node has memory for, then a datagram in fragments
// between others, of each family. Those that do not arrive count as what has arrived.
func (s *scene) flood() *outcome {
	s.T.Helper()
	o := &outcome{}
	const often = 6000
	big := func(mark []byte) []byte { return append(make([]byte, 2000), mark...) }
	for _, six := range both {
		l := letter{from: stage.Isolated, src: s.addr(stage.Isolated, six), dst: s.addr(stage.Outside, six), with: big}
		packet := s.packet(l, nil)
		var firsts [][]byte
		for id := range uint32(often) {
			firsts = append(firsts, lab.Plain.Around(s.hardware(l), lab.Cut(packet, perFragment, id)[0]))
		}
		s.Send(stage.Isolated, firsts...)
		o.sent += often
		l.from, l.src = stage.Neighbour, s.addr(stage.Neighbour, six)
		var whole [][]byte
		for _, b := range lab.Cut(s.packet(l, stage.Mark(s.next)), perFragment, 7) {
			whole = append(whole, lab.Plain.Around(s.hardware(l), b))
		}
		got := s.Round(s.next, 1, func(int) bool { return false }, func(int) stage.Shot {
			return stage.Shot{From: stage.Neighbour, Frames: whole}
		})
		s.next++
		if !got.At(0, stage.Outside) {
			o.arrived++
			o.reached++
		}
	}
	return o
}

// results are the outcomes, by attack and mode.
var results resultTable

type resultTable struct {
	cells map[string]map[string]*outcome
}

func (r *resultTable) record(name, mode string, o *outcome) {
	if r.cells == nil {
		r.cells = map[string]map[string]*outcome{}
	}
	if r.cells[name] == nil {
		r.cells[name] = map[string]*outcome{}
	}
	r.cells[name][mode] = o
}

// rows is the table in Markdown.
func (r *resultTable) rows() string {
	var b strings.Builder
	b.WriteString("| attack |")
	for _, m := range modes {
		fmt.Fprintf(&b, " %s |", m.Name)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(modes)) + "\n")
	for _, name := range names() {
		fmt.Fprintf(&b, "| %s |", name)
		for _, m := range modes {
			fmt.Fprintf(&b, " %s |", r.cells[name][m.Name].cell())
		}
		b.WriteString("\n")
	}
	return b.String()
}

// cell is sent, arrived, and what does without podfence.
func (o *outcome) cell() string {
	if o == nil {
		return "not sent"
	}
	text := fmt.Sprintf("%d, %d (%d)", o.sent, o.arrived, o.open)
	if o.excused > 0 {
		text += fmt.Sprintf(" + %d", o.excused)
	}
	return text
}

func (o *outcome) broken(promise string) {
	if o.promises == nil {
		o.promises = map[string]int{}
	}
	o.promises[promise]++
}
