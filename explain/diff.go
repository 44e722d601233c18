package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
)

// Diff is what a change opens and closes.
type Diff struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // Diff
	// Opened are ports that are open after the change and were not before; Closed those that were and are
	// not any more.
	Opened []Change `json:"opened"`
	Closed []Change `json:"closed"`
	// Unclear are ports of which only one of the two is known: before or after the change, a rule names
	// addresses, and the pod has none yet. What is not known on both sides is no change.
	Unclear []Change `json:"unclear,omitempty"`
	// Added and Removed are parties that are there only after, or only before the change. What is open to
	// them and from them is not among Opened and Closed.
	Added   []Party `json:"added,omitempty"`
	Removed []Party `json:"removed,omitempty"`
	// Notes are about pods that are left out after the change, as they have no address, and about what is
	// unclear.
	Notes []Note `json:"notes,omitempty"`
}

// DiffKind is the kind of a Diff.
const DiffKind = "Diff"

// Empty reports whether the change makes no difference to who reaches whom.
func (d *Diff) Empty() bool {
	return len(d.Opened)+len(d.Closed)+len(d.Unclear)+len(d.Added)+len(d.Removed) == 0
}

// Change is what a change opens or closes from one party to another, for one reason.
type Change struct {
	From Party `json:"from"`
	To   Party `json:"to"`
	// Opening has the ports that are opened or closed, and for how many pairs. Its Family is empty if it
	// is so for each family that a pair has.
	Opening
	// Sides are those whose verdict changed.
	Sides []SideChange `json:"sides"`
}

// SideChange is what one end of a packet said before, and says after a change.
type SideChange struct {
	// Direction is egress or ingress: the policies of the end that sends, or of the one that gets.
	Direction string `json:"direction"`
	// Of is an end that stands for all of the change, Protocol and Port are what it was asked about. Of what
	// has no ports they are ICMP or ICMPv6, and 0.
	Of       End    `json:"of"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
	// Before and After are the answers.
	Before Side `json:"before"`
	After  Side `json:"after"`
}

// Compare says what is opened and closed between two states of a cluster. Pods of a workload are held
// against those of the same name or, where the names have changed, each against another of the workload.
//
// Pods that stand in are held to have addresses of the same families before and after: which families
// files have to do with is no change.
func Compare(before, after *Explainer) *Diff {
	s := newSurvey(before.withFamiliesOf(after), after.withFamiliesOf(before))
	d := &Diff{APIVersion: APIVersion, Kind: DiffKind, Opened: []Change{}, Closed: []Change{}}
	inside, outside := s.inBoth(d), s.networks()
	all := slices.Concat(inside, outside)
	for _, subject := range inside {
		s.compare(d, subject, all, func(peer member) (from, to member) { return subject, peer })
		s.compare(d, subject, outside, func(peer member) (from, to member) { return peer, subject })
	}
	d.Notes = append(d.Notes, after.stagedNotes(func(key policy.Key) bool { return !before.staged[key] })...)
	return d
}

// compare adds to a Diff what changes between a subject and each of its peers. Of networks and domain names only those
// are named that change otherwise than the networks around them.
func (s *survey) compare(d *Diff, subject member, peers []member, direct func(peer member) (from, to member)) {
	said, kinds := make([]string, len(peers)), make([][]string, len(peers))
	for i, peer := range peers {
		from, to := direct(peer)
		all := s.changes(from, to)
		said[i], kinds[i] = keysOf(all), kindsOfFound(all)
		if (peer.around == 0 || said[i] != said[i-peer.around]) && !isAsAround(peer, i, kinds) {
			s.report(d, from, to, all)
		}
	}
}

// found is a change between two parties, before it is put into words.
type found struct {
	// now is the verdict after the change, or Unknown if it is unclear what has changed.
	now    Verdict
	family string
	// why is turnedBy.
	why          string
	ranges       []policy.PortRange
	pairs, total int
	sample       sample
	before       crossing
}

// keysOf is the same for the same changes of other parties.
func keysOf(all []found) string {
	texts := make([]string, len(all))
	for i, f := range all {
		texts[i] = fmt.Sprint(f.now, f.family, f.why, f.ranges, f.pairs)
	}
	return strings.Join(texts, "\n")
}

// kindsOfFound are the distinct changes, in order, for however many pairs they are.
func kindsOfFound(all []found) (kinds []string) {
	for _, f := range all {
		kinds = append(kinds, fmt.Sprint(f.now, f.why, f.ranges))
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// changes are the changes from one party to another.
func (s *survey) changes(from, to member) (all []found) {
	total := 0
	at := map[string]int{}
	for _, a := range from.classes {
		for _, b := range to.classes {
			for _, pair := range samples(a, b) {
				if a.same && b.same {
					total += pair.pairs
					continue
				}
				changed, met := s.changesBetween(pair)
				if met {
					total += pair.pairs
				}
				for _, f := range changed {
					key := fmt.Sprint(f.now, f.family, f.why, f.ranges)
					place, has := at[key]
					if !has {
						place = len(all)
						at[key], all = place, append(all, f)
					}
					all[place].pairs += pair.pairs
				}
			}
		}
	}
	for i := range all {
		all[i].total = total
	}
	return all
}

// changesBetween are the changes from one unit to another, and whether they have addresses of one family
// both before and after.
func (s *survey) changesBetween(pair sample) (all []found, met bool) {
	before, after := s.crossings(0, pair.from, pair.to), s.crossings(1, pair.from, pair.to)
	var by [][]found
	for _, old := range before {
		at := slices.IndexFunc(after, func(c crossing) bool { return familyOf(c.packet) == familyOf(old.packet) })
		if at < 0 {
			continue // an address that the pod has lost, or got, is no change of policies
		}
		changed := changesOn(old, after[at])
		for i := range changed {
			changed[i].sample, changed[i].before = pair, old
		}
		by = append(by, changed)
	}
	if len(by) == 2 && keysOf(by[0]) == keysOf(by[1]) {
		by = by[:1]
	} else if len(by) == 2 {
		for i, changed := range by {
			for j := range changed {
				changed[j].family = []string{"IPv4", "IPv6"}[i]
			}
		}
	}
	return slices.Concat(by...), len(by) > 0
}

// changesOn are the changes on one way: ranges of ports that change for the same reason together.
func changesOn(before, after crossing) (all []found) {
	if before.closed && after.closed {
		return nil
	}
	for _, c := range []*crossing{&before, &after} {
		if c.whole != nil {
			*c = c.whole()
		}
	}
	first := joined(before.bounds, after.bounds)
	at := map[string]int{}
	for _, protocol := range protocols {
		for i, port := range first[protocol] {
			last := 65535
			if i+1 < len(first[protocol]) {
				last = first[protocol][i+1] - 1
			}
			old, now := before.verdict(protocol, uint16(port)), after.verdict(protocol, uint16(port))
			if old.both == now.both {
				continue
			}
			if old.both == Unknown {
				now.both = Unknown
			}
			key := string(now.both) + turnedBy(old, now)
			place, has := at[key]
			if !has {
				place = len(all)
				at[key], all = place, append(all, found{now: now.both, why: key})
			}
			all[place].ranges = appendRange(all[place].ranges, policy.PortRange{Protocol: protocol, First: uint16(port), Last: uint16(last)})
		}
	}
	return all
}

// joined are the bounds of either.
func joined(a, b map[policy.Protocol][]int) map[policy.Protocol][]int {
	all := map[policy.Protocol][]int{}
	for _, protocol := range protocols {
		all[protocol] = slices.Concat(a[protocol], b[protocol])
		slices.Sort(all[protocol])
		all[protocol] = slices.Compact(all[protocol])
	}
	return all
}

// turnedBy is which policies and rules decided before and decide after a change, on the sides whose verdict
// it changes.
func turnedBy(before, after portVerdict) string {
	var text strings.Builder
	for _, side := range []struct {
		was, is Verdict
		by      [2]policy.Judgement
	}{
		{before.egress, after.egress, [2]policy.Judgement{before.judged.Egress, after.judged.Egress}},
		{before.ingress, after.ingress, [2]policy.Judgement{before.judged.Ingress, after.judged.Ingress}},
	} {
		text.WriteString("\n")
		if side.was == side.is {
			continue
		}
		fmt.Fprint(&text, side.was, side.is)
		for _, j := range side.by {
			if j.Allowed {
				fmt.Fprint(&text, j.By, j.Reason)
			} else {
				fmt.Fprint(&text, j.DeniedBy, j.Isolating, j.Reason)
			}
		}
	}
	return text.String()
}

// report puts changes into words, and adds them to a Diff.
func (s *survey) report(d *Diff, from, to member, all []found) {
	for _, f := range all {
		change := Change{From: from.Party, To: to.Party, Opening: Opening{
			Family: f.family, Open: openPorts(f.ranges), Pairs: f.pairs, Of: f.total, Partly: f.pairs < f.total,
		}}
		var notes []Note
		change.Sides, notes = s.sideChanges(f)
		switch f.now {
		case Allowed:
			d.Opened = append(d.Opened, change)
		case Denied:
			d.Closed = append(d.Closed, change)
		default:
			d.Unclear = append(d.Unclear, change)
			for _, note := range notes {
				if !slices.Contains(d.Notes, note) {
					d.Notes = append(d.Notes, note)
				}
			}
		}
	}
}

// sideChanges explains by one port what each side says before and after, for the sides that changed, and
// by which rules that is not known.
func (s *survey) sideChanges(f found) (sides []SideChange, notes []Note) {
	var answers [2]Answer
	var asked Port
	protocol, number := representative(f.ranges, f.sample.to[1])
	for i, x := range s.clusters {
		p := policy.Packet{Src: f.before.packet.Src, Dst: f.before.packet.Dst, HopLimit: 64}
		for _, way := range s.crossings(i, f.sample.from, f.sample.to) {
			if familyOf(way.packet) == familyOf(f.before.packet) {
				p = way.packet
			}
		}
		p = toPort(p, protocol, number)
		asked = Port{Protocol: p.Protocol, Number: p.DstPort}
		answers[i] = Answer{From: f.sample.from[i].End, To: f.sample.to[i].End}
		answers[i].From.Address, answers[i].To.Address = p.Src, p.Dst
		notes = append(notes, x.decide(&answers[i], p).doubts...)
	}
	for _, side := range []struct {
		direction     string
		of            End
		before, after Side
	}{
		{"egress", answers[1].From, answers[0].Egress, answers[1].Egress},
		{"ingress", answers[1].To, answers[0].Ingress, answers[1].Ingress},
	} {
		if side.before.Verdict != side.after.Verdict {
			sides = append(sides, SideChange{side.direction, side.of, asked.Protocol.String(), asked.Number, side.before, side.after})
		}
	}
	return sides, notes
}
